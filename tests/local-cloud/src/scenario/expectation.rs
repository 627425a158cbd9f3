//! The expected outcome of a step.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Connect, StepAction, confirmation_topic};

/// The expected outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Expectation {
    /// A notification is published, once.
    Notification(ExpectedNotification),
    /// The event is quarantined.
    Quarantine(Reason),
    /// No notification is published, because an equal one was published moments ago.
    Suppressed,
    /// No function acts on the event. For a connection: it is accepted at the first attempt.
    Nothing,
    /// AWS IoT denies the publish. For a connection: AWS IoT denies it and publishes no event.
    Denied,
    /// The connection is denied, the certificate is admitted, and the next connection is accepted.
    Admitted,
    /// The connection is denied and the certificate is rejected.
    Rejected(Reason),
    /// The message's readings are in the telemetry table.
    Stored(Stored),
    /// The command completes.
    Done,
    /// The command is refused.
    Refused(Reason),
    /// A device shadow has this desired state.
    Desired(Value),
    /// The message is in the destination queue, unmodified and once.
    Forwarded(ExpectedForward),
    /// The device is recorded as connected, without a notification.
    Connected,
    /// The device is recorded as disconnected, without a notification.
    Disconnected,
    /// The devices table has this state of a device shadow.
    Recorded(ShadowState),
    /// The alarms table has this state of the alarm.
    Alarm(AlarmView),
}

/// The expected notification. Fields that are absent match anything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExpectedNotification {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Attributes that the message must have; it may have others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// The expected message in the destination queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExpectedForward {
    /// Attributes that the message must have; it may have others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// The reason for a refusal or rejection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Reason {
    /// The reason code.
    pub reason: String,
}

/// The number of readings in a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stored {
    /// The number of readings.
    pub readings: usize,
}

/// The state of an alarm that operators work with, as recorded in the alarms table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AlarmView {
    /// The state, such as ACKNOWLEDGED.
    pub state: String,
    /// The severity; an expectation without one is met by any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
}

impl AlarmView {
    /// Returns whether this meets an expectation.
    pub(crate) fn meets(&self, expected: &Self) -> bool {
        self.state == expected.state && (expected.severity.is_none() || self.severity == expected.severity)
    }
}

impl fmt::Display for AlarmView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.as_ref().map_or_else(String::new, |severity| format!(" ({severity})"));
        write!(f, "{}{severity}", self.state)
    }
}

/// The newest state of a device shadow, as recorded in the devices table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ShadowState {
    /// The complete desired state, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<Value>,
    /// The complete reported state, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<Value>,
    /// Whether the shadow was deleted.
    pub deleted: bool,
}

impl fmt::Display for ShadowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |name: &str, state: &Option<Value>| Some(format!("{name} {}", state.as_ref()?));
        let states = [state("desired", &self.desired), state("reported", &self.reported)];
        let deleted = self.deleted.then(|| "deleted".to_owned());
        let all: Vec<_> = states.into_iter().chain([deleted]).flatten().collect();
        f.write_str(&if all.is_empty() { "no state".to_owned() } else { all.join(", ") })
    }
}

impl Expectation {
    /// Returns whether such an action can have this outcome.
    pub(super) fn is_possible_for(&self, action: &StepAction<'_>) -> bool {
        match self {
            Self::Nothing | Self::Denied => matches!(action, StepAction::Connect(_) | StepAction::Publish { .. }),
            Self::Admitted | Self::Rejected(_) => matches!(action, StepAction::Connect(_)),
            Self::Notification(_) => {
                matches!(
                    action,
                    StepAction::Publish { .. } | StepAction::Connect(Connect::Again) | StepAction::Disconnect
                )
            }
            Self::Connected => matches!(action, StepAction::Connect(Connect::Again)),
            Self::Disconnected => matches!(action, StepAction::Disconnect),
            Self::Quarantine(_) | Self::Suppressed | Self::Stored(_) | Self::Forwarded(_) => {
                matches!(action, StepAction::Publish { .. })
            }
            Self::Done => matches!(action, StepAction::Command(_)),
            Self::Refused(_) => matches!(action, StepAction::Command(_) | StepAction::Operator(_)),
            Self::Alarm(_) => matches!(action, StepAction::Operator(_)),
            Self::Desired(_) => matches!(action, StepAction::ReadShadow(_)),
            Self::Recorded(_) => match action {
                StepAction::Publish { topic, .. } => confirmation_topic(topic).is_some(),
                other => matches!(other, StepAction::ReadShadow(_) | StepAction::UpdateShadow(..)),
            },
        }
    }

    /// Returns whether this is the outcome of a connection after a `disconnect` step.
    pub fn is_reconnection(&self) -> bool {
        matches!(self, Self::Notification(_) | Self::Connected)
    }
}
