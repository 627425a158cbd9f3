//! The function's input: transitions, from the alarm topic or delayed by the function itself, and documents from
//! operators.

use gatehouse::{
    AlarmState, Command, DataState, Envelope, EventId, Input, MessageKind, Refusal, Severity, ThingName, Timestamp,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::device_command::not_null;

/// An input.
#[derive(Debug, Clone)]
pub enum ActuatorInput {
    /// An alarm has changed its state.
    Transition {
        /// The delivery's id.
        id: EventId,
        /// The transition.
        transition: Transition,
        /// The original message, to be sent to the queue again if the command must be delayed.
        text: String,
    },
    /// An operator uploads a document of [actions](crate::Actions).
    Document {
        /// The delivery's id.
        id: EventId,
        /// When it was received: by the queue if it came through one, or else by the function.
        given_at: Timestamp,
        /// The document, not yet validated.
        text: String,
    },
}

/// The fields of an alarm message that this function needs. Others are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Its id, the same for every delivery.
    pub id: EventId,
    /// The alarm: the name of its threshold or rule.
    pub threshold: String,
    /// The thing that it is about.
    pub thing: ThingName,
    /// What has changed.
    pub kind: MessageKind,
    /// The state that the data has entered, or is in. Always present for a transition.
    pub to: Option<DataState>,
    /// The alarm's severity, or its last one if it is over. Absent in messages from earlier versions of `alarm`.
    pub severity: Option<Severity>,
    /// The alarm's state, which operators can change. Absent in messages from earlier versions of `alarm`.
    pub state: Option<AlarmState>,
    /// When the deciding reading was received.
    pub at: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
struct TransitionFields {
    transition: String,
    threshold: String,
    thing: String,
    #[serde(default)]
    kind: MessageKind,
    #[serde(default, deserialize_with = "not_null")]
    to: Option<DataState>,
    severity: Option<Severity>,
    state: Option<AlarmState>,
    at: Timestamp,
}

/// The fields that distinguish the kinds of input.
#[derive(Debug, Clone, Deserialize)]
struct Kind {
    #[serde(alias = "answers")]
    actions: Option<IgnoredAny>,
    transition: Option<IgnoredAny>,
}

impl TryFrom<TransitionFields> for Transition {
    type Error = Refusal;

    fn try_from(fields: TransitionFields) -> Result<Self, Refusal> {
        if fields.to.is_none() && fields.kind == MessageKind::Transition {
            return Err(Refusal::new("missing-field", "Field `to` is missing."));
        }
        let why = "Field `transition` must be 1 to 128 printable ASCII characters.";
        Ok(Self {
            id: EventId::new(fields.transition).ok_or_else(|| Refusal::new("invalid-value", why))?,
            threshold: fields.threshold,
            thing: ThingName::new(fields.thing)?,
            kind: fields.kind,
            to: fields.to,
            severity: fields.severity,
            state: fields.state,
            at: fields.at,
        })
    }
}

impl Input for ActuatorInput {
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        let Command { id, received_at, body } = Command::<Kind>::open(envelope)?;
        let text = envelope.text.to_owned();
        match body {
            Kind { actions: Some(_), transition: None } => Ok(Self::Document { id, given_at: received_at, text }),
            Kind { actions: None, transition: Some(_) } => {
                let transition = Command::<TransitionFields>::open(envelope)?.body.try_into()?;
                Ok(Self::Transition { id, transition, text })
            }
            _ => {
                let why = "The input must have exactly one of the fields `transition` and `actions`.";
                Err(Refusal::new("bad-order", why))
            }
        }
    }

    fn id(&self) -> &EventId {
        match self {
            Self::Transition { id, .. } | Self::Document { id, .. } => id,
        }
    }

    fn thing(&self) -> Option<&ThingName> {
        match self {
            Self::Transition { transition, .. } => Some(&transition.thing),
            Self::Document { .. } => None,
        }
    }
}
