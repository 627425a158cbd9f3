//! Parses the messages in which AWS IoT reports that a shadow was updated or deleted.
//! <https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html>

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::{number, string};
use gatehouse::{DeviceEvent, Item, Refusal, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::revision::Revision;

/// The maximum size of a message. A document's state has at most 8 KB (30 KB if AWS raised the quota), its metadata is
/// larger, and a message holds two documents. The state in a message of this size fits into a DynamoDB item.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// An update or deletion of a shadow.
#[derive(Debug, Clone)]
pub struct ShadowChange<'a> {
    /// The shadow's name; empty for the classic one.
    pub shadow: &'a str,
    /// The revision that it created.
    pub revision: Revision,
    /// The whole desired state, as JSON text.
    pub desired: Option<&'a str>,
    /// The whole reported state, as JSON text.
    pub reported: Option<&'a str>,
}

#[derive(Deserialize)]
struct UpdateDocuments<'a> {
    #[serde(borrow)]
    current: ShadowDocument<'a>,
    /// Seconds since the epoch.
    timestamp: u64,
}

#[derive(Deserialize)]
struct ShadowDocument<'a> {
    #[serde(borrow)]
    state: Option<ShadowState<'a>>,
    version: u64,
}

#[derive(Default, Deserialize)]
struct ShadowState<'a> {
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

impl<'a> ShadowChange<'a> {
    /// Parses a message, which must be about a shadow of the thing that the envelope names.
    ///
    /// Refused with the codes of [`DeviceEvent::payload`], with `topic-mismatch`, or with `invalid-value` if its time
    /// is more than an hour in the future.
    pub fn parse(event: &'a DeviceEvent) -> Result<Self, Refusal> {
        let (shadow, is_deleted) = parse_topic(event).ok_or_else(|| {
            let why = "The topic must be one of update documents or accepted deletions of the thing's shadows.";
            Refusal::new("topic-mismatch", why)
        })?;
        let revision = |version, seconds: u64| {
            let at = event.time("timestamp", Timestamp::from_millis(seconds.saturating_mul(1000)))?;
            Ok::<_, Refusal>(Revision { version, at, is_deleted })
        };
        if is_deleted {
            let Deletion { version, timestamp } = event.payload(MAX_PAYLOAD_BYTES)?;
            return Ok(Self { shadow, revision: revision(version, timestamp)?, desired: None, reported: None });
        }
        let UpdateDocuments { current, timestamp } = event.payload(MAX_PAYLOAD_BYTES)?;
        let ShadowState { desired, reported } = current.state.unwrap_or_default();
        Ok(Self {
            shadow,
            revision: revision(current.version, timestamp)?,
            desired: desired.map(|state| object("desired", state)).transpose()?,
            reported: reported.map(|state| object("reported", state)).transpose()?,
        })
    }

    /// Returns the attributes that the record and the history share. `desired` and `reported` are JSON text;
    /// `timestamp` is in seconds, as AWS sends it. (The record's `version` is a different number: it counts the
    /// record's writes.)
    pub fn to_item(&self) -> Item {
        let Revision { version, at, is_deleted } = self.revision;
        let always = [
            ("shadowVersion", number(version)),
            ("timestamp", number(at.seconds())),
            ("deleted", AttributeValue::Bool(is_deleted)),
        ];
        let state = [("desired", self.desired), ("reported", self.reported)];
        let state = state.into_iter().filter_map(|(name, state)| Some((name, string(state?))));
        always.into_iter().chain(state).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn object<'a>(name: &str, state: &'a RawValue) -> Result<&'a str, Refusal> {
    let why = || format!("Field `current.state.{name}` must be an object.");
    state.get().starts_with('{').then_some(state.get()).ok_or_else(|| Refusal::new("wrong-type", why()))
}

/// Returns the shadow's name, and whether it was deleted.
fn parse_topic(event: &DeviceEvent) -> Option<(&str, bool)> {
    let (thing, rest) = event.topic.strip_prefix("$aws/things/")?.split_once("/shadow/")?;
    let (shadow, rest) = match rest.strip_prefix("name/") {
        Some(named) => named.split_once('/')?,
        None => ("", rest),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'$' | b':' | b'_' | b'-');
    let is_valid = thing == event.thing.as_str()
        && shadow.bytes().all(is_name)
        && shadow.len() <= 64
        && shadow.is_empty() != event.topic.contains("/shadow/name/");
    match rest {
        "update/documents" if is_valid => Some((shadow, false)),
        "delete/accepted" if is_valid => Some((shadow, true)),
        _ => None,
    }
}
