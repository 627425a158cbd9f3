//! What `actuator` is asked to do: by the alarm topic, by itself after a delay, or by an operator.

use std::fmt;

use gatehouse::{Command, Envelope, EventId, Input, Refusal, ThingName, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What the function takes in.
#[derive(Debug, Clone)]
pub enum Order {
    /// An alarm has changed its state. The same text comes again where its command was put off.
    Answer {
        /// The delivery's id.
        id: EventId,
        /// What has changed.
        transition: Transition,
        /// As it came, to be sent again.
        text: String,
    },
    /// An operator puts a document of [answers](crate::answers::Answers) into force.
    Put {
        /// The delivery's id.
        id: EventId,
        /// When it reached the function, or the queue before it.
        given_at: Timestamp,
        /// The document, not checked yet.
        document: String,
    },
}

/// An alarm's change of state, as far as it matters here; what else is in it may grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Its id, the same however often it comes.
    pub id: EventId,
    /// The alarm: the name of its threshold.
    pub threshold: String,
    /// The thing that it is about.
    pub thing: ThingName,
    /// The state that the alarm has got into.
    pub to: State,
    /// When the reading that decided it was received.
    pub at: Timestamp,
}

/// The state of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// All is well.
    Ok,
    /// The threshold has been passed for long enough.
    Alarm,
    /// Nothing has come for too long.
    Stale,
}

/// As the alarm topic writes it.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Alarm => "ALARM",
            Self::Stale => "STALE",
        })
    }
}

/// A transition's fields, before anything in them is believed.
#[derive(Debug, Clone, Deserialize)]
struct Fields {
    transition: String,
    threshold: String,
    thing: String,
    to: State,
    at: Timestamp,
}

/// What tells the two kinds of orders apart.
#[derive(Debug, Clone, Deserialize)]
struct Kind {
    answers: Option<IgnoredAny>,
    transition: Option<IgnoredAny>,
}

impl TryFrom<Fields> for Transition {
    type Error = Refusal;

    fn try_from(fields: Fields) -> Result<Self, Refusal> {
        let why = "Field `transition` must be 1 to 128 printable ASCII characters.";
        Ok(Self {
            id: EventId::new(fields.transition).ok_or_else(|| Refusal::new("invalid-value", why))?,
            threshold: fields.threshold,
            thing: ThingName::new(fields.thing)?,
            to: fields.to,
            at: fields.at,
        })
    }
}

impl Input for Order {
    fn open(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        let Command { id, received_at, order } = Command::<Kind>::open(envelope)?;
        match order {
            Kind { answers: Some(_), transition: None } => {
                Ok(Self::Put { id, given_at: received_at, document: envelope.text.to_owned() })
            }
            Kind { answers: None, transition: Some(_) } => {
                let transition = Command::<Fields>::open(envelope)?.order.try_into()?;
                Ok(Self::Answer { id, transition, text: envelope.text.to_owned() })
            }
            _ => {
                let why = "It must hold exactly one of the fields `transition` and `answers`.";
                Err(Refusal::new("bad-order", why))
            }
        }
    }

    fn id(&self) -> &EventId {
        match self {
            Self::Answer { id, .. } | Self::Put { id, .. } => id,
        }
    }

    fn thing(&self) -> Option<&ThingName> {
        match self {
            Self::Answer { transition, .. } => Some(&transition.thing),
            Self::Put { .. } => None,
        }
    }
}
