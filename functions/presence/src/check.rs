//! The function's order to itself, which its queue holds back for the grace period.

use gatehouse::ThingName;
use serde::{Deserialize, Serialize};

use crate::presence::Presence;

/// The function's order to itself: is this device still away, by the disconnect of this connection?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    #[serde(rename = "check")]
    what: What,
    /// The device.
    pub thing: String,
    /// AWS's number of the connection.
    pub version: u64,
    /// AWS's name for its session.
    pub session: String,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Away,
}

impl Check {
    /// The check of this disconnect.
    pub fn of(thing: &ThingName, disconnect: &Presence) -> Self {
        let (version, session) = (disconnect.version, disconnect.session.clone());
        Self { what: What::Away, thing: thing.to_string(), version, session }
    }
}
