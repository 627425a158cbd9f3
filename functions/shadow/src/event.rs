//! The messages by which AWS IoT tells that a shadow was updated or deleted.
//! <https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html>

use std::time::Duration;

use gatehouse::{DeviceEvent, Refusal, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::shadow::Stamp;

/// A document's state has 8 KB, or 30 KB where AWS raised that; its metadata has more, and a message holds two
/// documents. Whatever stands in a message of this size fits an item of Amazon DynamoDB.
const PAYLOAD_LIMIT: usize = 256 * 1024;

/// How far a message's own time may lie after its receipt. AWS's clocks do not go as wrong as that; a message from the
/// future would stand for good, since all that come after it would be older.
const FUTURE: Duration = Duration::from_hours(1);

/// A shadow was updated or deleted.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The shadow's name; empty for the classic one.
    pub shadow: &'a str,
    /// Which version that made, and when.
    pub stamp: Stamp,
    /// The whole desired state, as JSON text; none where there is none.
    pub desired: Option<&'a str>,
    /// The whole reported state, as JSON text; none where there is none.
    pub reported: Option<&'a str>,
}

#[derive(Deserialize)]
struct Documents<'a> {
    #[serde(borrow)]
    current: Document<'a>,
    /// Seconds since the epoch.
    timestamp: u64,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    state: Option<State<'a>>,
    version: u64,
}

#[derive(Default, Deserialize)]
struct State<'a> {
    #[serde(borrow)]
    desired: Option<&'a RawValue>,
    #[serde(borrow)]
    reported: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Deletion {
    version: u64,
    /// Seconds since the epoch.
    timestamp: u64,
}

impl<'a> Change<'a> {
    /// Reads the message, which must be about a shadow of the thing that the rule says it is about.
    ///
    /// Refused with the codes of [`DeviceEvent::payload`], `topic-mismatch`, or `invalid-value` where it is of the future.
    pub fn read(event: &'a DeviceEvent) -> Result<Self, Refusal> {
        let (shadow, is_deleted) = topic(event).ok_or_else(|| {
            let why = "The topic is not one on which updates or deletions of the thing's shadows are told.";
            Refusal::new("topic-mismatch", why)
        })?;
        let stamp = |version, seconds: u64| {
            let at = Timestamp::from_millis(seconds.saturating_mul(1000));
            if at > event.received_at.plus(FUTURE) {
                return Err(Refusal::new("invalid-value", "Field `timestamp` lies after the message's receipt."));
            }
            Ok(Stamp { version, at, is_deleted })
        };
        if is_deleted {
            let Deletion { version, timestamp } = event.payload(PAYLOAD_LIMIT)?;
            return Ok(Self { shadow, stamp: stamp(version, timestamp)?, desired: None, reported: None });
        }
        let Documents { current, timestamp } = event.payload(PAYLOAD_LIMIT)?;
        let State { desired, reported } = current.state.unwrap_or_default();
        Ok(Self {
            shadow,
            stamp: stamp(current.version, timestamp)?,
            desired: desired.map(|state| object("desired", state)).transpose()?,
            reported: reported.map(|state| object("reported", state)).transpose()?,
        })
    }
}

fn object<'a>(name: &str, state: &'a RawValue) -> Result<&'a str, Refusal> {
    let why = || format!("Field `current.state.{name}` must be an object.");
    state.get().starts_with('{').then_some(state.get()).ok_or_else(|| Refusal::new("wrong-type", why()))
}

/// The shadow's name, and whether it was deleted, by the message's topic.
fn topic(event: &DeviceEvent) -> Option<(&str, bool)> {
    let (thing, rest) = event.topic.strip_prefix("$aws/things/")?.split_once("/shadow/")?;
    let (shadow, rest) = match rest.strip_prefix("name/") {
        Some(named) => named.split_once('/')?,
        None => ("", rest),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'$' | b':' | b'_' | b'-');
    let is_good = thing == event.thing.as_str()
        && shadow.bytes().all(is_name)
        && shadow.len() <= 64
        && shadow.is_empty() != event.topic.contains("/shadow/name/");
    match rest {
        "update/documents" if is_good => Some((shadow, false)),
        "delete/accepted" if is_good => Some((shadow, true)),
        _ => None,
    }
}
