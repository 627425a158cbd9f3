use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::envelope::{Envelope, Input};
use crate::event::ids::{EventId, ThingName};
use crate::event::payload;
use crate::event::timestamp::Timestamp;
use crate::runtime::outcome::Refusal;

/// How far a message's own time may be ahead of its receipt, if messages are ordered by that time. A message dated in
/// the far future would otherwise count as the newest until then.
const MAX_CLOCK_SKEW: Duration = Duration::from_hours(1);

/// The fields of a device event's envelope, as a rule's SQL writes them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceFields<'a> {
    thing: String,
    topic: String,
    #[serde(borrow)]
    payload_base64: Option<Text<'a>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    trace_id: Option<String>,
    received_at: Option<Timestamp>,
}

/// A string that is copied only if it has escapes, which Base64 never has.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl DeviceFields<'_> {
    pub(crate) fn has_payload(&self) -> bool {
        self.payload.is_some() || self.payload_base64.is_some()
    }
}

/// A message that a device, or AWS IoT on its behalf, published.
///
/// Everything except the payload comes from AWS IoT and can be trusted.
#[derive(Debug, Clone)]
pub struct DeviceEvent {
    /// The event's id.
    pub id: EventId,
    /// The thing that published it, as the rule's SQL names it.
    pub thing: ThingName,
    /// The topic that it was published on.
    pub topic: String,
    /// When AWS IoT received it.
    pub received_at: Timestamp,
    bytes: Vec<u8>,
}

impl DeviceEvent {
    /// The payload, as the device sent it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses the payload, which must be one JSON object of at most `limit` bytes, as a `P`.
    ///
    /// Refused with `payload-too-large`, `empty-payload`, `invalid-utf8`, `not-json`, `not-an-object`, or, naming the
    /// field, `missing-field`, `duplicate-field`, `wrong-type`, `unknown-value`, `number-out-of-range` or
    /// `invalid-value`.
    pub fn payload<'a, P: Deserialize<'a>>(&'a self, limit: usize) -> Result<P, Refusal> {
        payload::object(&self.bytes, limit)
    }

    /// Returns the payload's items: the payload itself if it is one JSON object, or else the elements of its array. The
    /// payload may have at most `limit` bytes. The items are not parsed yet, so that an invalid one does not affect the
    /// others: see [`parse_object`](crate::parse_object).
    ///
    /// Refused with `payload-too-large`, `empty-payload`, `invalid-utf8`, `not-json` or `not-an-object`.
    pub fn items(&self, limit: usize) -> Result<Vec<&RawValue>, Refusal> {
        payload::items(&self.bytes, limit)
    }

    /// Checks `at`, the time in field `field` of the payload by which messages are ordered, and returns it.
    ///
    /// Refused with `invalid-value` if it is more than an hour after the receipt of the event.
    pub fn time(&self, field: &str, at: Timestamp) -> Result<Timestamp, Refusal> {
        if at > self.received_at.plus(MAX_CLOCK_SKEW) {
            let why = format!("Field `{field}` must be at most one hour after the message was received.");
            return Err(Refusal::new("invalid-value", why));
        }
        Ok(at)
    }

    /// Builds an event from an envelope's fields.
    pub(crate) fn from_fields(fields: DeviceFields<'_>, envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        let bytes = match (fields.payload_base64, fields.payload) {
            (Some(encoded), None) => BASE64_STANDARD.decode(&*encoded.0).map_err(|_| {
                Refusal::new("bad-envelope", "Field `payloadBase64` of the envelope must be standard base64.")
            })?,
            (None, Some(json)) => json.get().as_bytes().to_vec(),
            _ => {
                let why = "The envelope must have exactly one of the fields `payload` and `payloadBase64`.";
                return Err(Refusal::new("bad-envelope", why));
            }
        };
        Ok(Self {
            id: EventId::of(fields.trace_id, envelope.delivery_id)?,
            thing: ThingName::new(fields.thing)?,
            topic: fields.topic,
            received_at: fields.received_at.unwrap_or(envelope.delivered_at),
            bytes,
        })
    }
}

impl Input for DeviceEvent {
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        Self::from_fields(payload::envelope(envelope.text)?, envelope)
    }

    fn id(&self) -> &EventId {
        &self.id
    }

    fn thing(&self) -> Option<&ThingName> {
        Some(&self.thing)
    }
}
