use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::outcome::Refusal;
use crate::payload;
use crate::timestamp::Timestamp;

/// What idempotency and quarantine hang on: the same for every retry of one event.
///
/// For a device's event it is the `traceId` that AWS IoT gave the message; where that is absent (AWS gives none to a
/// message published over HTTP), and for a command, it is the SQS message id or the Lambda request id. It cannot tell
/// a device's own resend from a second message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId(String);

impl EventId {
    /// An id from 1 to 128 printable ASCII characters; `None` for anything else.
    pub fn new(id: impl Into<String>) -> Option<Self> {
        let id = id.into();
        ((1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())).then_some(Self(id))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a thing in AWS IoT's registry: 1 to 128 of `a-z A-Z 0-9 : _ -`.
///
/// Nothing in it can act as a wildcard in a topic or a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ThingName(String);

impl ThingName {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, Refusal> {
        let name = name.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err(Refusal::new("bad-thing-name", "Field `thing` must be 1 to 128 of the characters a-z A-Z 0-9 : _ -."))
        }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ThingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One event as it arrived, before anything in it is believed.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The JSON text, unchanged.
    pub text: &'a str,
    /// The SQS message id or the Lambda request id.
    pub delivery_id: &'a str,
    /// When SQS took it in, or when the invocation began.
    pub delivered_at: Timestamp,
}

/// What a function takes in.
pub trait Input: Sized {
    /// Opens an envelope.
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal>;

    /// The event's id.
    fn id(&self) -> &EventId;

    /// The thing that the event is about, if it is about one.
    fn thing(&self) -> Option<&ThingName> {
        None
    }
}

/// The fields of a device event's envelope, as a rule's SQL writes them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceFields<'a> {
    thing: String,
    topic: String,
    payload_base64: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    trace_id: Option<String>,
    received_at: Option<Timestamp>,
}

/// A message that a device, or AWS IoT on its behalf, published.
///
/// All but the bytes comes from AWS IoT and can be trusted.
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

    /// The payload, which must be one JSON object of at most `limit` bytes, read as a `P`.
    ///
    /// Refused with `payload-too-large`, `empty-payload`, `invalid-utf8`, `not-json`, `not-an-object`, or, naming the
    /// field, `missing-field`, `duplicate-field`, `wrong-type`, `unknown-value` or `invalid-value`.
    pub fn payload<'a, P: Deserialize<'a>>(&'a self, limit: usize) -> Result<P, Refusal> {
        payload::object(&self.bytes, limit)
    }

    /// The payload's items: the payload itself where it is one JSON object, or else what stands in its array; of at most
    /// `limit` bytes. Each is still to be read, by [`read_object`](crate::read_object), so that one that is bad does not
    /// fail its neighbours.
    ///
    /// Refused with `payload-too-large`, `empty-payload`, `invalid-utf8`, `not-json` or `not-an-object`.
    pub fn items(&self, limit: usize) -> Result<Vec<&RawValue>, Refusal> {
        payload::items(&self.bytes, limit)
    }
}

impl Input for DeviceEvent {
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        let fields: DeviceFields = payload::envelope(envelope.text)?;
        let bytes = match (fields.payload_base64, fields.payload) {
            (Some(encoded), None) => BASE64_STANDARD.decode(encoded).map_err(|_| {
                Refusal::new("bad-envelope", "Field `payloadBase64` of the envelope is not standard base64.")
            })?,
            (None, Some(json)) => json.get().as_bytes().to_vec(),
            _ => {
                let why = "The envelope must hold exactly one of the fields `payload` and `payloadBase64`.";
                return Err(Refusal::new("bad-envelope", why));
            }
        };
        Ok(Self {
            id: event_id(fields.trace_id, envelope.delivery_id)?,
            thing: ThingName::new(fields.thing)?,
            topic: fields.topic,
            received_at: fields.received_at.unwrap_or(envelope.delivered_at),
            bytes,
        })
    }

    fn id(&self) -> &EventId {
        &self.id
    }

    fn thing(&self) -> Option<&ThingName> {
        Some(&self.thing)
    }
}

/// An order from an operator, a schedule, or another function: the whole input is the order.
#[derive(Debug, Clone)]
pub struct Command<T> {
    /// The event's id.
    pub id: EventId,
    /// When it reached the function, or the queue before it.
    pub received_at: Timestamp,
    /// What is to be done.
    pub order: T,
}

impl<T: DeserializeOwned> Input for Command<T> {
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            id: event_id(None, envelope.delivery_id)?,
            received_at: envelope.delivered_at,
            order: payload::object(envelope.text.as_bytes(), usize::MAX)?,
        })
    }

    fn id(&self) -> &EventId {
        &self.id
    }
}

/// What a function takes in that hears devices and takes orders, a schedule's tick say, through the same door.
#[derive(Debug, Clone)]
pub enum Incoming<T> {
    /// A message: the envelope holds a payload.
    Event(DeviceEvent),
    /// An order: it holds none.
    Order(Command<T>),
}

impl<T: DeserializeOwned> Input for Incoming<T> {
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Payload<'a> {
            #[serde(borrow)]
            payload: Option<&'a RawValue>,
            #[serde(borrow)]
            payload_base64: Option<&'a RawValue>,
        }
        let is_event = serde_json::from_str::<Payload>(envelope.text)
            .is_ok_and(|found| found.payload.is_some() || found.payload_base64.is_some());
        if is_event { DeviceEvent::open(envelope).map(Self::Event) } else { Command::open(envelope).map(Self::Order) }
    }

    fn id(&self) -> &EventId {
        match self {
            Self::Event(event) => event.id(),
            Self::Order(order) => order.id(),
        }
    }

    fn thing(&self) -> Option<&ThingName> {
        match self {
            Self::Event(event) => event.thing(),
            Self::Order(order) => order.thing(),
        }
    }
}

fn event_id(trace_id: Option<String>, delivery_id: &str) -> Result<EventId, Refusal> {
    EventId::new(trace_id.unwrap_or_else(|| delivery_id.to_owned())).ok_or_else(|| {
        Refusal::new("bad-envelope", "Field `traceId` of the envelope must be 1 to 128 printable ASCII characters.")
    })
}

/// The id, thing and topic under which a refused event is quarantined: as many of them as can be read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) id: String,
    pub(crate) thing: Option<String>,
    pub(crate) topic: Option<String>,
}

impl Label {
    pub(crate) fn read(envelope: &Envelope<'_>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Loose<'a> {
            #[serde(borrow)]
            trace_id: Option<&'a RawValue>,
            #[serde(borrow)]
            thing: Option<&'a RawValue>,
            #[serde(borrow)]
            topic: Option<&'a RawValue>,
        }
        let text = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let loose: Loose = serde_json::from_str(envelope.text).unwrap_or_default();
        let trace_id = text(loose.trace_id).filter(|id| EventId::new(id.as_str()).is_some());
        Self {
            id: trace_id.unwrap_or_else(|| envelope.delivery_id.to_owned()),
            thing: text(loose.thing),
            topic: text(loose.topic),
        }
    }
}
