//! What is sent: the device's own bytes, with what AWS IoT knows of them beside.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::{DeviceEvent, Refusal};
use serde_json::value::RawValue;

use crate::destination::{Binary, Destination};
use crate::packing::LARGEST_BATCH;

/// A message to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The payload as the device sent it, where that is JSON; otherwise the payload in base64.
    pub body: Cow<'a, str>,
    /// What is known besides: `topic`, `thing`, `traceId` (the event's id), `receivedAt` (milliseconds since 1970),
    /// `contentType` (`application/json` or `application/octet-stream`), and, where the body is in base64,
    /// `contentTransferEncoding` = `base64`.
    pub attributes: Vec<Attribute<'a>>,
}

/// A message attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its name.
    pub name: &'static str,
    /// Its type: `String` or `Number`.
    pub data_type: &'static str,
    /// Its value.
    pub value: Cow<'a, str>,
}

impl<'a> Message<'a> {
    /// The message that an event makes for this destination.
    ///
    /// Refused with `empty-payload`, `not-json` (where the destination takes nothing else), `bad-topic`, or
    /// `payload-too-large`. That last one is more than quarantine can hold, too (400 KB): such an event ends in the
    /// dead-letter queue. AWS IoT takes 128 KB, so that it can only come from elsewhere.
    pub fn new(event: &'a DeviceEvent, to: &Destination) -> Result<Self, Refusal> {
        if event.bytes().is_empty() {
            return Err(Refusal::new(
                "empty-payload",
                "The payload is empty, and Amazon SQS carries no empty message.",
            ));
        }
        if event.topic.is_empty() || !event.topic.chars().all(is_carried) {
            let why = "The topic is empty, or holds a character that Amazon SQS does not carry.";
            return Err(Refusal::new("bad-topic", why));
        }
        let (body, content_type, encoding) = match (json(event.bytes()), to.binary) {
            (Some(text), _) => (Cow::from(text), "application/json", None),
            (None, Binary::Base64) => {
                let encoding = Attribute::text("contentTransferEncoding", "base64");
                (Cow::from(BASE64_STANDARD.encode(event.bytes())), "application/octet-stream", Some(encoding))
            }
            (None, Binary::Refuse) => {
                let why = format!("Destination `{}` takes JSON alone, and the payload is not JSON.", to.name);
                return Err(Refusal::new("not-json", why));
            }
        };
        let mut attributes = vec![
            Attribute::text("topic", event.topic.as_str()),
            Attribute::text("thing", event.thing.as_str()),
            Attribute::text("traceId", event.id.as_str()),
            Attribute { data_type: "Number", ..Attribute::text("receivedAt", event.received_at.to_string()) },
            Attribute::text("contentType", content_type),
        ];
        attributes.extend(encoding);
        let message = Self { body, attributes };
        let bytes = message.bytes();
        if bytes > LARGEST_BATCH {
            let why = format!("With its attributes the message has {bytes} bytes; Amazon SQS takes {LARGEST_BATCH}.");
            return Err(Refusal::new("payload-too-large", why));
        }
        Ok(message)
    }

    /// How Amazon SQS counts it: the body, and each attribute's name, type and value.
    pub fn bytes(&self) -> usize {
        let of = |Attribute { name, data_type, value }: &Attribute| name.len() + data_type.len() + value.len();
        self.body.len() + self.attributes.iter().map(of).sum::<usize>()
    }
}

impl<'a> Attribute<'a> {
    fn text(name: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        Self { name, data_type: "String", value: value.into() }
    }
}

/// The payload as text, where it is JSON that a message's body can hold.
fn json(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    (is_json && text.chars().all(is_carried)).then_some(text)
}

/// Whether Amazon SQS carries a character: those of XML 1.0.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
fn is_carried(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse::{Envelope, Input, Timestamp};
    use serde_json::json;

    fn event(topic: &str, payload: &[u8]) -> DeviceEvent {
        let envelope = json!({
            "payloadBase64": BASE64_STANDARD.encode(payload), "thing": "station-1", "topic": topic,
            "traceId": "trace-1", "receivedAt": 1_700_000_000_123_u64,
        });
        let delivered_at = Timestamp::from_millis(0);
        DeviceEvent::open(&Envelope { text: &envelope.to_string(), delivery_id: "d-1", delivered_at })
            .expect("an event")
    }

    fn destination(binary: &str) -> Destination {
        let url = "https://sqs.eu-west-1.amazonaws.com/222222222222/weather";
        serde_json::from_value(json!({"name": "partner", "topics": "#", "queueUrl": url, "binary": binary}))
            .expect("a destination")
    }

    fn refusal(topic: &str, payload: &[u8], binary: &str) -> &'static str {
        Message::new(&event(topic, payload), &destination(binary)).expect_err("should be refused").code
    }

    #[test]
    fn json_travels_as_it_was_sent() {
        for payload in ["{\"celsius\": 22.50}\n", "[1,2]", "22.50", "null", "\"\\ud800\"", &"[".repeat(1000)] {
            let payload =
                if payload.starts_with("[[") { payload.to_owned() + &"]".repeat(1000) } else { payload.into() };
            let event = event("Weather/Corp/temperature", payload.as_bytes());
            let message = Message::new(&event, &destination("refuse")).expect("a message");
            assert_eq!(message.body, payload);
            let attributes: Vec<_> = message.attributes.iter().map(|a| (a.name, a.data_type, &*a.value)).collect();
            let expected = [
                ("topic", "String", "Weather/Corp/temperature"),
                ("thing", "String", "station-1"),
                ("traceId", "String", "trace-1"),
                ("receivedAt", "Number", "1700000000123"),
                ("contentType", "String", "application/json"),
            ];
            assert_eq!(attributes, expected);
        }
    }

    #[test]
    fn what_is_not_json_travels_in_base64_where_the_destination_takes_it() {
        // The last one is JSON, but holds a character that SQS does not carry.
        for payload in [&b"\xff\x00"[..], b"warm", b" ", b"{\"celsius\":", b"{}{}", "\"\u{FFFF}\"".as_bytes()] {
            let event = event("Weather/Corp/picture", payload);
            let message = Message::new(&event, &destination("base64")).expect("a message");
            assert_eq!(BASE64_STANDARD.decode(&*message.body).expect("base64"), payload);
            let last: Vec<_> = message.attributes.iter().skip(4).map(|a| (a.name, &*a.value)).collect();
            let expected = [("contentType", "application/octet-stream"), ("contentTransferEncoding", "base64")];
            assert_eq!(last, expected);
            assert_eq!(refusal("Weather/Corp/picture", payload, "refuse"), "not-json");
        }
    }

    #[test]
    fn what_no_message_can_hold_is_refused() {
        assert_eq!(refusal("Weather/Corp/temperature", b"", "base64"), "empty-payload");
        assert_eq!(refusal("Weather/Corp/\u{1}", b"{}", "base64"), "bad-topic");
        assert_eq!(refusal("", b"{}", "base64"), "bad-topic");
    }

    #[test]
    fn the_largest_message_is_taken_and_one_byte_more_is_refused() {
        let with = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        let beside = Message::new(&event("t", b"1"), &destination("refuse")).expect("a message").bytes() - 1;
        let names_and_values =
            "topic t thing station-1 traceId trace-1 receivedAt 1700000000123 contentType application/json";
        assert_eq!(beside, names_and_values.replace(' ', "").len() + 4 * "String".len() + "Number".len());
        let largest = event("t", with(LARGEST_BATCH - beside).as_bytes());
        assert_eq!(Message::new(&largest, &destination("refuse")).expect("a message").bytes(), LARGEST_BATCH);
        assert_eq!(refusal("t", with(LARGEST_BATCH - beside + 1).as_bytes(), "refuse"), "payload-too-large");
        // In base64 it is the body that counts, a third longer.
        assert_eq!(refusal("t", &vec![0; LARGEST_BATCH / 4 * 3], "base64"), "payload-too-large");
    }
}
