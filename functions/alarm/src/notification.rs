//! What subscribers are notified of, as it is stored while pending and as it is published.

use std::collections::BTreeMap;

use gatehouse::store::ParsePendingError;
use gatehouse::{Attribute, Item, Notification, Number, Outbox, ThingName, Timestamp};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::due_index;
use crate::message_text;
use crate::state_machine::{AlarmState, AlarmStatus, StateChange};
use crate::thresholds::Threshold;

/// The attribute of a record that holds its pending notifications.
pub const PENDING: &str = "owed";

/// The longest id of an event.
const MAX_ID_LENGTH: usize = 128;

/// A state change of a device, as JSON for machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Its id: unique, and the same however often it is published.
    #[serde(rename = "transition")]
    pub id: String,
    /// The threshold's name.
    pub threshold: String,
    /// The thing's name.
    pub thing: String,
    /// The previous state.
    pub from: AlarmState,
    /// The new state.
    pub to: AlarmState,
    /// The field of the readings, as a JSON pointer.
    pub field: String,
    /// The newest value, as the device wrote it.
    pub value: Number,
    /// When it happened.
    pub at: Timestamp,
    /// When the deciding condition began, when the last value before the gap was received, or when the state that is
    /// closed was entered.
    pub since: Timestamp,
    /// The text for people.
    #[serde(rename = "words")]
    pub message: String,
}

impl Transition {
    /// The state change of this thing by this threshold that is its `number`th.
    pub fn new(threshold: &Threshold, thing: &ThingName, change: &StateChange, number: u64) -> Self {
        Self {
            id: id(thing, &threshold.name, change.at, change.to, number),
            threshold: threshold.name.clone(),
            thing: thing.to_string(),
            from: change.from,
            to: change.to,
            field: threshold.field.to_string(),
            value: change.value.clone(),
            at: change.at,
            since: change.since,
            message: message_text::transition(threshold, thing, change),
        }
    }

    /// The end of this thing's state by a definition of a threshold that was changed or removed. It is the `number`th
    /// change of state.
    ///
    /// Its time is that of the last decision by that definition, whoever notices the end, and when.
    pub fn closing(
        (threshold, field): (&str, String),
        thing: &ThingName,
        status: &AlarmStatus,
        is_removed: bool,
        number: u64,
    ) -> Self {
        let (at, to) = (status.decided_until(), AlarmState::Closed);
        Self {
            id: id(thing, threshold, at, to, number),
            threshold: threshold.to_owned(),
            thing: thing.to_string(),
            from: status.state(),
            to,
            field,
            value: status.value.clone(),
            at,
            since: status.since,
            message: message_text::closing(threshold, thing, status, is_removed),
        }
    }
}

/// The id of a transition. The number keeps two changes within one millisecond apart.
fn id(thing: &ThingName, threshold: &str, at: Timestamp, to: AlarmState, number: u64) -> String {
    let id = format!("{thing}#{threshold}#{at}#{}#{number}", to.as_str());
    if id.len() > MAX_ID_LENGTH { hash(&id) } else { id }
}

/// The first half of the text's SHA-256 in hexadecimal.
fn hash(text: &str) -> String {
    let half = digest(&SHA256, text.as_bytes()).as_ref().first_chunk().copied().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(half))
}

/// Who receives a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Everybody.
    People,
    /// Only machines. People receive it in a summary, because there are too many.
    Machines,
}

/// The transitions of a threshold within a window that people were not notified of individually.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Its id.
    #[serde(rename = "summary")]
    pub id: String,
    /// The threshold's name.
    pub threshold: String,
    /// The number of transitions by their new state.
    pub changes: BTreeMap<AlarmState, u64>,
    /// The names of the first things.
    pub things: Vec<String>,
    /// Whether there are more things than are named.
    pub has_more: bool,
    /// When the window began.
    pub from: Timestamp,
    /// When it ended.
    pub until: Timestamp,
    /// The text for people.
    #[serde(rename = "words")]
    pub message: String,
}

/// A notification of the function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AlarmNotification {
    /// A state transition.
    Transition(Audience, Transition),
    /// A summary of many.
    Summary(Summary),
}

/// A notification that may not have been sent yet, as it is stored in the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingNotification {
    /// When it was stored.
    pub since: Timestamp,
    /// The notification.
    #[serde(rename = "notice")]
    pub notification: AlarmNotification,
}

impl AlarmNotification {
    /// Its id, which is the same however often it is published.
    pub fn id(&self) -> &str {
        match self {
            Self::Transition(_, transition) => &transition.id,
            Self::Summary(summary) => &summary.id,
        }
    }

    /// The notification in the form in which it is published.
    pub fn to_publish(&self) -> Notification {
        let text = |text: &str| Attribute::Text(text.to_owned());
        let (subject, message, data, mut attributes) = match self {
            Self::Transition(audience, transition) => {
                let Transition { threshold, thing, from, to, message, .. } = transition;
                let audience = match audience {
                    Audience::People => "people",
                    Audience::Machines => "machines",
                };
                let attributes = vec![
                    ("audience", text(audience)),
                    ("from", text(from.as_str())),
                    ("thing", text(thing)),
                    ("threshold", text(threshold)),
                    ("to", text(to.as_str())),
                ];
                // As text, not as a `Value`, which would change numbers. It cannot fail.
                let data = serde_json::to_string(transition).ok();
                (format!("{} {threshold}: {thing}", to.as_str()), message, data, attributes)
            }
            Self::Summary(summary) => {
                let attributes = vec![("audience", text("people")), ("threshold", text(&summary.threshold))];
                let number: u64 = summary.changes.values().sum();
                let data = Some(json!(summary).to_string());
                (format!("{}: {number} more", summary.threshold), &summary.message, data, attributes)
            }
        };
        attributes.extend([
            ("eventId", text(self.id())),
            // Promotional text messages, the default, may be delayed.
            ("AWS.SNS.SMS.SMSType", text("Transactional")),
        ]);
        Notification { subject, message: message.clone(), data, attributes }
    }
}

/// Returns the notifications that are pending in a record.
pub(crate) fn pending(item: &Item) -> Result<Vec<PendingNotification>, ParsePendingError> {
    Outbox::pending(item, PENDING)
}

/// Sets the pending notifications of this device's or threshold's record, and when it is due for a check.
pub(crate) fn set_pending(
    item: &mut Item,
    name: &str,
    pending: &[PendingNotification],
    next_check_at: Option<Timestamp>,
) -> Result<(), ParsePendingError> {
    Outbox::set_pending(item, PENDING, pending)?;
    due_index::set_due(item, name, oldest(pending), next_check_at);
    Ok(())
}

/// Returns since when the oldest of these notifications has been pending.
pub(crate) fn oldest(pending: &[PendingNotification]) -> Option<Timestamp> {
    pending.iter().map(|pending| pending.since).min()
}
