use gatehouse::ThingName;
use serde::{Deserialize, Serialize};

use crate::connection::ConnectionEvent;

/// The function's command to itself, delayed by the grace period: is this device still offline since the end of this
/// connection?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfflineCheck {
    #[serde(rename = "check")]
    kind: CheckKind,
    /// The device.
    pub thing: String,
    /// The connection's version number.
    pub version: u64,
    /// The connection's session identifier.
    pub session: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum CheckKind {
    #[serde(rename = "away")]
    Offline,
}

impl OfflineCheck {
    /// The check that follows this disconnect.
    pub fn new(thing: &ThingName, disconnect: &ConnectionEvent) -> Self {
        let ConnectionEvent { version, session, .. } = disconnect.clone();
        Self { kind: CheckKind::Offline, thing: thing.to_string(), version, session }
    }
}
