//! Sigfox callbacks, which the Sigfox cloud publishes on a topic of its own. All values are strings.
//! <https://support.sigfox.com/docs/callbacks>

use crate::reading::Fields;

/// The default topic.
pub const TOPIC: &str = "sigfox";

/// Returns a callback's fields: `seqNumber` counts a device's messages, and `time` is when base stations received the
/// message, in seconds since the epoch.
pub fn fields() -> Fields {
    Fields::new(Some("seqNumber"), "time")
}
