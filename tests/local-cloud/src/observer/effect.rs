//! The effects of events.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::PublishedMessage;
use crate::scenario::{AlarmView, ShadowState};

/// An effect of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A notification was published.
    Notified(Notification),
    /// The event is in quarantine.
    Quarantined {
        /// The reason code.
        reason: String,
        /// The explanation.
        why: String,
    },
    /// No notification was published, because an equal one was published moments ago.
    Suppressed,
    /// The event had already been processed.
    Duplicate,
    /// A new device was admitted.
    Admitted {
        /// Its thing name.
        thing: String,
    },
    /// A new device was rejected.
    Rejected {
        /// The reason code.
        reason: String,
        /// The explanation.
        why: String,
    },
    /// A device connected, and no function had to act.
    Accepted,
    /// The event was processed without a notification.
    Done,
    /// The message's readings are in the telemetry table.
    Stored {
        /// The number of readings.
        readings: usize,
    },
    /// The function refused a command.
    Refused {
        /// The reason code.
        reason: String,
        /// The explanation.
        why: String,
    },
    /// The desired state of a device shadow.
    Desired(Value),
    /// The message is in a queue of another account.
    Forwarded(QueueMessage),
    /// A device is recorded as connected.
    Connected,
    /// A device is recorded as disconnected.
    Disconnected,
    /// The recorded state of a device shadow.
    Recorded(ShadowState),
    /// The recorded state of an alarm.
    Alarm(AlarmView),
    /// The function returned the event to be retried.
    Retried {
        /// The error.
        error: String,
    },
}

impl Effect {
    /// Returns its name in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Notified(_) => "notification",
            Self::Quarantined { .. } => "quarantine",
            Self::Suppressed => "suppressed",
            Self::Duplicate => "duplicate",
            Self::Admitted { .. } => "admitted",
            Self::Rejected { .. } => "rejected",
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Stored { .. } => "stored",
            Self::Refused { .. } => "refused",
            Self::Desired(_) => "desired",
            Self::Forwarded(_) => "forwarded",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Recorded(_) => "recorded",
            Self::Alarm(_) => "alarm",
            Self::Retried { .. } => "retried",
        }
    }

    /// Returns it as JSON.
    pub fn json(&self) -> Value {
        let details = match self {
            Self::Notified(notification) => notification.json(),
            Self::Quarantined { reason, why } | Self::Rejected { reason, why } | Self::Refused { reason, why } => {
                json!({"reason": reason, "why": why})
            }
            Self::Admitted { thing } => json!({"thing": thing}),
            Self::Stored { readings } => json!({"readings": readings}),
            Self::Desired(state) => json!({"state": state}),
            Self::Recorded(state) => json!({"state": state}),
            Self::Alarm(alarm) => json!({"state": alarm.state, "severity": alarm.severity}),
            Self::Forwarded(message) => json!({
                "account": message.account,
                "queue": message.queue,
                "body": message.body,
                "attributes": message.attributes,
            }),
            Self::Retried { error } => json!({"error": error}),
            Self::Suppressed | Self::Duplicate | Self::Accepted | Self::Done | Self::Connected | Self::Disconnected => {
                json!({})
            }
        };
        let mut object = json!({"kind": self.kind()});
        if let (Some(object), Value::Object(details)) = (object.as_object_mut(), details) {
            object.extend(details);
        }
        object
    }

    /// Returns whether this is the notification of a state change that `message` caused.
    ///
    /// A state change has its own event id. An alarm names the thing and when the deciding reading was received; the
    /// time of receipt can differ between two rules, on a busy machine by hundreds of milliseconds. A presence
    /// notification names the session that started or ended.
    pub(super) fn is_state_change_by(&self, message: &PublishedMessage) -> bool {
        let Self::Notified(Notification { data: Some(data), .. }) = self else { return false };
        if data.get("notice").is_some() {
            let Ok(event) = serde_json::from_slice::<Value>(&message.payload) else { return false };
            let pairs = [("sessionIdentifier", "sessionIdentifier"), ("since", "timestamp"), ("thing", "clientId")];
            return pairs.iter().all(|(in_notice, in_event)| data.get(in_notice) == event.get(in_event));
        }
        // No message of the device causes an operator's action, the end of a snooze, or a reminder.
        if matches!(data.get("kind").and_then(Value::as_str), Some("state" | "repeat")) {
            return false;
        }
        let thing = data.get("transition").and_then(|_| data.get("thing")?.as_str());
        let at = data.get("at").and_then(Value::as_u64);
        thing == Some(&*message.client_id) && at.is_some_and(|at| at.abs_diff(message.at) <= 500)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notified(notification) => write!(f, "notified “{}”", notification.text()),
            Self::Quarantined { reason, why } => write!(f, "quarantined, {reason}: {why}"),
            Self::Suppressed => f.write_str("suppressed"),
            Self::Duplicate => f.write_str("duplicate"),
            Self::Admitted { thing } => write!(f, "admitted as {thing}"),
            Self::Rejected { reason, why } => write!(f, "rejected, {reason}: {why}"),
            Self::Accepted => f.write_str("connection accepted"),
            Self::Done => f.write_str("done"),
            Self::Stored { readings: 1 } => f.write_str("stored"),
            Self::Stored { readings } => write!(f, "stored {readings} readings"),
            Self::Refused { reason, why } => write!(f, "refused, {reason}: {why}"),
            Self::Desired(state) => write!(f, "desired state {state}"),
            Self::Forwarded(message) => {
                write!(f, "forwarded to queue {} of account {}", message.queue, message.account)
            }
            Self::Connected => f.write_str("recorded as connected"),
            Self::Disconnected => f.write_str("recorded as disconnected"),
            Self::Recorded(state) => write!(f, "recorded {state}"),
            Self::Alarm(alarm) => write!(f, "alarm is {alarm}"),
            Self::Retried { error } => write!(f, "retried: {error}"),
        }
    }
}

/// A notification that a topic delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The topic's name.
    pub topic: String,
    /// The message.
    pub message: String,
    /// The structured message, if the topic sends one to queues.
    pub data: Option<Value>,
    /// The subject.
    pub subject: Option<String>,
    /// The message's attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Notification {
    /// Returns it as JSON.
    pub fn json(&self) -> Value {
        json!({
            "topic": self.topic,
            "message": self.message,
            "data": self.data,
            "subject": self.subject,
            "attributes": self.attributes,
        })
    }

    /// Returns the text for people. For a structured message without a text, this is the subject.
    pub fn text(&self) -> &str {
        let has_text = self.data.as_ref().is_none_or(|data| data.get("words").is_some());
        self.subject.as_deref().filter(|_| !has_text).unwrap_or(&self.message)
    }
}

/// A message in a queue of another account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMessage {
    /// The queue's account.
    pub account: String,
    /// The queue's name.
    pub queue: String,
    /// The message's body.
    pub body: String,
    /// The message's attributes.
    pub attributes: BTreeMap<String, String>,
}

/// An effect and when it happened.
#[derive(Debug, Clone)]
pub struct Timed {
    /// The effect.
    pub effect: Effect,
    /// Milliseconds since 1970.
    pub at: u64,
}
