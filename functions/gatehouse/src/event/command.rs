use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::event::device_event::{DeviceEvent, DeviceFields};
use crate::event::envelope::{Envelope, Input};
use crate::event::ids::{EventId, ThingName};
use crate::event::payload;
use crate::event::timestamp::Timestamp;
use crate::runtime::outcome::Refusal;

/// A request from an operator, a schedule, or another function. The whole input is the request.
#[derive(Debug, Clone)]
pub struct Command<T> {
    /// The event's id.
    pub id: EventId,
    /// When it was received: by the queue if it came through one, or else by the function.
    pub received_at: Timestamp,
    /// What is requested.
    pub body: T,
}

impl<T: DeserializeOwned> Input for Command<T> {
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            id: EventId::of(None, envelope.delivery_id)?,
            received_at: envelope.delivered_at,
            body: payload::object(envelope.text.as_bytes(), usize::MAX)?,
        })
    }

    fn id(&self) -> &EventId {
        &self.id
    }
}

/// The input of a function that takes device events and commands from the same queue.
#[derive(Debug, Clone)]
pub enum Incoming<T> {
    /// A device's message: the envelope has a payload.
    Event(DeviceEvent),
    /// A command: it has none.
    Command(Command<T>),
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
        // Almost every input is a valid event; this path parses it only once.
        let fields: Option<DeviceFields> = payload::valid_envelope(envelope.text);
        if let Some(fields) = fields.filter(DeviceFields::has_payload) {
            return DeviceEvent::from_fields(fields, envelope).map(Self::Event);
        }
        let is_event = payload::valid_envelope::<Payload>(envelope.text)
            .is_some_and(|found| found.payload.is_some() || found.payload_base64.is_some());
        if is_event { DeviceEvent::open(envelope).map(Self::Event) } else { Command::open(envelope).map(Self::Command) }
    }

    fn id(&self) -> &EventId {
        match self {
            Self::Event(event) => event.id(),
            Self::Command(command) => command.id(),
        }
    }

    fn thing(&self) -> Option<&ThingName> {
        match self {
            Self::Event(event) => event.thing(),
            Self::Command(command) => command.thing(),
        }
    }
}
