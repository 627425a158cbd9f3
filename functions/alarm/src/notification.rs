//! Notifications to subscribers, as they are stored while pending and as they are published.

use std::collections::BTreeMap;

use gatehouse::store::ParsePendingError;
use gatehouse::{
    AlarmState, Attribute, DataState, Item, MessageKind, Notification, Outbox, Severity, ThingName, Timestamp,
};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::due_index;
use crate::history::HistoryMark;
use crate::rules::Value;

/// The attribute of a record that holds its pending notifications.
pub const PENDING: &str = "owed";

const MAX_ID_LENGTH: usize = 128;

/// A state change of a device, or of its alarm, as JSON for machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Its id: unique, and the same however often it is published.
    #[serde(rename = "transition")]
    pub id: String,
    /// The rule's name.
    pub threshold: String,
    /// The thing's name.
    pub thing: String,
    /// The previous state of the data.
    pub from: DataState,
    /// The new state of the data.
    pub to: DataState,
    /// The first field of the rule, as a JSON pointer.
    pub field: String,
    /// The field's newest value, as the device wrote it.
    pub value: Value,
    /// When it happened.
    pub at: Timestamp,
    /// When the deciding condition began, when the last value before a gap was received, or when a state that is now
    /// closed was entered.
    pub since: Timestamp,
    /// The text for people.
    #[serde(rename = "words")]
    pub message: String,
    /// The rule's name again.
    #[serde(default)]
    pub rule: String,
    /// The number of the document that the rule was in.
    #[serde(default)]
    pub rule_version: u64,
    /// What the message reports.
    #[serde(default)]
    pub kind: MessageKind,
    /// The alarm's severity: the last one if the alarm is over.
    #[serde(default)]
    pub severity: Option<Severity>,
    /// The severity before, if the message reports that it has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_severity: Option<Severity>,
    /// The alarm's state.
    #[serde(default)]
    pub state: AlarmState,
    /// The alarm's state before.
    #[serde(default)]
    pub previous_state: AlarmState,
    /// Who changed the alarm's state, if a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Returns the id of a message about a thing and a rule. The number distinguishes two changes within the same
/// millisecond.
pub fn message_id(thing: &ThingName, rule: &str, at: Timestamp, what: &str, number: u64) -> String {
    let id = format!("{thing}#{rule}#{at}#{what}#{number}");
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
    /// Only machines. People receive a summary later, because of the rate limit or quiet hours.
    Machines,
    /// Nobody, because the alarm is snoozed or disabled.
    Nobody,
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
    pub changes: BTreeMap<DataState, u64>,
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
    /// A summary of several transitions.
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
    /// The history entry that is written before it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryMark>,
}

impl AlarmNotification {
    /// Its id, which is the same however often it is published.
    pub fn id(&self) -> &str {
        match self {
            Self::Transition(_, transition) => &transition.id,
            Self::Summary(summary) => &summary.id,
        }
    }

    /// Returns the notification in the form in which it is published; `None` if nobody is notified.
    pub fn to_publish(&self) -> Option<Notification> {
        let text = |text: &str| Attribute::Text(text.to_owned());
        let (subject, message, data, mut attributes) = match self {
            Self::Transition(Audience::Nobody, _) => return None,
            Self::Transition(audience, transition) => {
                let Transition { threshold, thing, from, to, message, kind, severity, state, .. } = transition;
                let audience = if *audience == Audience::People { "people" } else { "machines" };
                let mut attributes = vec![
                    ("audience", text(audience)),
                    ("kind", text(kind.as_str())),
                    ("state", text(state.as_str())),
                    ("thing", text(thing)),
                    ("threshold", text(threshold)),
                ];
                attributes.extend(severity.map(|severity| ("severity", text(severity.as_str()))));
                // Subscribers that filter on these attributes expect only transitions.
                if *kind == MessageKind::Transition {
                    attributes.extend([("from", text(from.as_str())), ("to", text(to.as_str()))]);
                }
                // Serialized directly, because serde_json's `Value` would change numbers. It cannot fail.
                let data = serde_json::to_string(transition).ok();
                let what = if *kind == MessageKind::State { state.as_str() } else { to.as_str() };
                (format!("{what} {threshold}: {thing}"), message, data, attributes)
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
            // SMS messages are promotional by default, and may then be delayed.
            ("AWS.SNS.SMS.SMSType", text("Transactional")),
        ]);
        Some(Notification { subject, message: message.clone(), data, attributes })
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

/// Returns when the oldest of these notifications was stored.
pub(crate) fn oldest(pending: &[PendingNotification]) -> Option<Timestamp> {
    pending.iter().map(|pending| pending.since).min()
}
