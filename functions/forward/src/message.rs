//! The message that a queue receives: the device's own bytes, with AWS IoT's metadata in attributes.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::{DeviceEvent, Refusal};
use serde_json::value::RawValue;

use crate::batch::MAX_BATCH_BYTES;
use crate::destination::{BinaryPolicy, Destination};

/// A message to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The payload as the device sent it if that is JSON, or else the payload in Base64.
    pub body: Cow<'a, str>,
    /// `topic`, `thing`, `traceId` (the event's id), `receivedAt` (milliseconds since 1970), `contentType`
    /// (`application/json` or `application/octet-stream`), and, if the body is in Base64, `contentTransferEncoding`
    /// (`base64`).
    pub attributes: Vec<MessageAttribute<'a>>,
}

/// A message attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageAttribute<'a> {
    /// Its name.
    pub name: &'static str,
    /// Its type: `String` or `Number`.
    pub data_type: &'static str,
    /// Its value.
    pub value: Cow<'a, str>,
}

impl<'a> Message<'a> {
    /// Builds the message for an event and a destination.
    ///
    /// Refused with `empty-payload`, `not-json` (if the destination receives only JSON), `bad-topic`, or
    /// `payload-too-large`. An event refused with the last one is also too large for quarantine (400 KB), and ends up
    /// in the dead-letter queue. AWS IoT cannot send it, because its own limit is 128 KB.
    pub fn new(event: &'a DeviceEvent, destination: &Destination) -> Result<Self, Refusal> {
        if event.bytes().is_empty() {
            return Err(Refusal::new(
                "empty-payload",
                "The payload is empty, and Amazon SQS does not support empty messages.",
            ));
        }
        if event.topic.is_empty() || !event.topic.chars().all(is_supported) {
            let why = "The topic is empty, or contains a character that Amazon SQS does not support.";
            return Err(Refusal::new("bad-topic", why));
        }
        let (body, content_type, encoding) = match (json(event.bytes()), destination.binary) {
            (Some(text), _) => (Cow::from(text), "application/json", None),
            (None, BinaryPolicy::Base64) => {
                let encoding = MessageAttribute::text("contentTransferEncoding", "base64");
                (Cow::from(BASE64_STANDARD.encode(event.bytes())), "application/octet-stream", Some(encoding))
            }
            (None, BinaryPolicy::Refuse) => {
                let why =
                    format!("Destination `{}` receives only JSON, and the payload is not JSON.", destination.name);
                return Err(Refusal::new("not-json", why));
            }
        };
        let mut attributes = vec![
            MessageAttribute::text("topic", event.topic.as_str()),
            MessageAttribute::text("thing", event.thing.as_str()),
            MessageAttribute::text("traceId", event.id.as_str()),
            MessageAttribute {
                data_type: "Number",
                ..MessageAttribute::text("receivedAt", event.received_at.to_string())
            },
            MessageAttribute::text("contentType", content_type),
        ];
        attributes.extend(encoding);
        let message = Self { body, attributes };
        let bytes = message.bytes();
        if bytes > MAX_BATCH_BYTES {
            let why = format!("With its attributes, the message has {bytes} bytes; the limit is {MAX_BATCH_BYTES}.");
            return Err(Refusal::new("payload-too-large", why));
        }
        Ok(message)
    }

    /// The size as Amazon SQS counts it: the body, and each attribute's name, type and value.
    pub fn bytes(&self) -> usize {
        let of =
            |MessageAttribute { name, data_type, value }: &MessageAttribute| name.len() + data_type.len() + value.len();
        self.body.len() + self.attributes.iter().map(of).sum::<usize>()
    }
}

impl<'a> MessageAttribute<'a> {
    fn text(name: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        Self { name, data_type: "String", value: value.into() }
    }
}

/// Returns the payload as text if it is JSON that a message's body can contain.
fn json(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
    (is_json && text.chars().all(is_supported)).then_some(text)
}

/// Whether Amazon SQS supports a character: it supports those of XML 1.0.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
fn is_supported(character: char) -> bool {
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
    fn json_is_sent_unchanged() {
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
    fn other_payloads_are_sent_in_base64_if_the_destination_allows() {
        // The last one is JSON, but contains a character that SQS does not support.
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
    fn payload_or_topic_that_sqs_cannot_carry_is_refused() {
        assert_eq!(refusal("Weather/Corp/temperature", b"", "base64"), "empty-payload");
        assert_eq!(refusal("Weather/Corp/\u{1}", b"{}", "base64"), "bad-topic");
        assert_eq!(refusal("", b"{}", "base64"), "bad-topic");
    }

    #[test]
    fn largest_message_is_sent_and_one_byte_more_is_refused() {
        let with = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        let overhead = Message::new(&event("t", b"1"), &destination("refuse")).expect("a message").bytes() - 1;
        let names_and_values =
            "topic t thing station-1 traceId trace-1 receivedAt 1700000000123 contentType application/json";
        assert_eq!(overhead, names_and_values.replace(' ', "").len() + 4 * "String".len() + "Number".len());
        let largest = event("t", with(MAX_BATCH_BYTES - overhead).as_bytes());
        assert_eq!(Message::new(&largest, &destination("refuse")).expect("a message").bytes(), MAX_BATCH_BYTES);
        assert_eq!(refusal("t", with(MAX_BATCH_BYTES - overhead + 1).as_bytes(), "refuse"), "payload-too-large");
        // The body's size counts, which is a third larger in Base64.
        assert_eq!(refusal("t", &vec![0; MAX_BATCH_BYTES / 4 * 3], "base64"), "payload-too-large");
    }
}
