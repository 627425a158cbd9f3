//! Refused events as they are in the quarantine table.

use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::store::item::{integer, text};
use gatehouse::{Item, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::output::{escape, escape_bytes, utc};

/// A refused event, without the event itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedEventSummary {
    /// The function that refused it, by its full name.
    pub function: String,
    /// The event's ID.
    pub event_id: String,
    /// The reason code.
    pub reason: String,
    /// The thing, if the event names one.
    pub thing: Option<String>,
    /// When it was refused.
    pub refused_at: Timestamp,
}

/// A refused event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedEvent {
    /// The fields that lists show.
    #[serde(flatten)]
    pub summary: RefusedEventSummary,
    /// Why it was refused, in one sentence.
    pub why: String,
    /// The topic, if the event names one.
    pub topic: Option<String>,
    /// When the function, or its queue, received it.
    pub received_at: Timestamp,
    /// When it expires from the table, in seconds since 1970.
    pub expires_at: u64,
    /// The request ID of the invocation that refused it.
    pub request_id: String,
    /// The event as the function received it.
    pub event: String,
    /// The payload, if it is text.
    pub payload: Option<String>,
}

impl RefusedEventSummary {
    /// Parses an item; `None` if it is not a refused event.
    pub fn parse(item: &Item) -> Option<Self> {
        Some(Self {
            function: text(item, "function")?.to_owned(),
            event_id: text(item, "eventId")?.to_owned(),
            reason: text(item, "reason")?.to_owned(),
            thing: text(item, "thing").map(ToOwned::to_owned),
            refused_at: Timestamp::from_millis(integer(item, "refusedAt")?),
        })
    }
}

impl RefusedEvent {
    /// Parses an item; `None` if it is not a refused event.
    pub fn parse(item: &Item) -> Option<Self> {
        let event = item.get("event").map(AttributeValue::as_s)?.ok()?.clone();
        Some(Self {
            summary: RefusedEventSummary::parse(item)?,
            why: text(item, "why").unwrap_or_default().to_owned(),
            topic: text(item, "topic").map(ToOwned::to_owned),
            received_at: Timestamp::from_millis(integer(item, "receivedAt").unwrap_or_default()),
            expires_at: integer(item, "expiration").unwrap_or_default(),
            request_id: text(item, "requestId").unwrap_or_default().to_owned(),
            payload: payload(&event).and_then(|bytes| String::from_utf8(bytes).ok()),
            event,
        })
    }
}

/// Returns the payload of an event from AWS IoT; `None` for other events.
pub fn payload(event: &str) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload<'a> {
        payload_base64: Option<String>,
        #[serde(borrow)]
        payload: Option<&'a RawValue>,
    }
    let found: Payload<'_> = serde_json::from_str(event).ok()?;
    match found.payload_base64 {
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok(),
        None => Some(found.payload?.get().as_bytes().to_vec()),
    }
}

/// One field per line, then the event and its payload.
impl fmt::Display for RefusedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RefusedEventSummary { function, event_id, reason, thing, refused_at } = &self.summary;
        let expires_at = Timestamp::from_millis(self.expires_at.saturating_mul(1000));
        for (name, value) in [
            ("function", function.as_str()),
            ("event ID", event_id),
            ("reason", reason),
            ("why", &self.why),
            ("thing", thing.as_deref().unwrap_or("-")),
            ("topic", self.topic.as_deref().unwrap_or("-")),
            ("received", &utc(self.received_at)),
            ("refused", &utc(*refused_at)),
            ("expires", &utc(expires_at)),
            ("request ID", &self.request_id),
            ("event", &self.event),
        ] {
            writeln!(f, "{name:<12}{}", escape(value))?;
        }
        if let Some(payload) = payload(&self.event) {
            writeln!(f, "{:<12}{}", "payload", escape_bytes(&payload))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse::store::item::{number, string};

    fn item(event: &str) -> Item {
        [
            ("function", string("gatehouse-button")),
            ("eventId", string("an-event")),
            ("reason", string("not-json")),
            ("why", string("It is not JSON.")),
            ("thing", string("a\u{1b}[2J")),
            ("refusedAt", number(1_764_421_445_000)),
            ("receivedAt", number(1_764_421_444_000)),
            ("expiration", number(1_767_013_445)),
            ("event", string(event)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    #[test]
    fn payload_is_decoded_and_cannot_control_the_terminal() {
        let event = RefusedEvent::parse(&item(r#"{"payloadBase64": "YRtbMkr/"}"#)).expect("an event");
        let text = event.to_string();
        assert!(text.contains("payload     a\\u{1b}[2J\\xff"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(event.payload, None);
    }

    #[test]
    fn payload_of_aws_iot_itself_is_json() {
        assert_eq!(payload(r#"{"payload": {"a": 22.50}}"#), Some(br#"{"a": 22.50}"#.to_vec()));
        assert_eq!(payload(r#"{"thresholds": []}"#), None);
    }
}
