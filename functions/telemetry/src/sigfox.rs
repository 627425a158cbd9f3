//! Sigfox callbacks: the Sigfox cloud publishes for its devices, on a topic of its own, all values as texts.
//! <https://support.sigfox.com/docs/callbacks>

use crate::reading::Fields;

/// The topic, unless the environment names another.
pub const TOPIC: &str = "sigfox";

/// A device counts its messages in `seqNumber`; the cloud notes in `time` when its base stations heard it, in seconds.
pub fn fields() -> Fields {
    Fields::new(Some("seqNumber"), "time")
}
