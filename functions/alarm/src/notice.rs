//! What is to be told, as it is kept until it is told and as it goes out.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::item::{Item, integer, number, string};
use gatehouse::{Attribute, Notification, ThingName, Timestamp};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Number, json};

use crate::board;
use crate::machine::{Change, Status};
use crate::thresholds::Threshold;
use crate::words;

const OWED: &str = "owed";

/// An event's id has at most so many characters.
const LONGEST_ID: usize = 128;

/// A change of state, as machines get it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Its id: the same however often it is told, and no other change's.
    #[serde(rename = "transition")]
    pub id: String,
    /// The threshold's name.
    pub threshold: String,
    /// The thing's name.
    pub thing: String,
    /// The state before.
    pub from: Status,
    /// The state from now on.
    pub to: Status,
    /// Where the value stands in a reading, as a JSON pointer.
    pub field: String,
    /// The newest value.
    pub value: Number,
    /// When it happened.
    pub at: Timestamp,
    /// When that began which decided it.
    pub since: Timestamp,
    /// The same for people.
    pub words: String,
}

impl Transition {
    /// The `number`th change of this thing by this threshold.
    pub fn new(threshold: &Threshold, thing: &ThingName, change: &Change, number: u64) -> Self {
        // Two changes may happen within one millisecond: the number tells them apart.
        let id = format!("{thing}#{}#{}#{}#{number}", threshold.name, change.at, change.to.as_str());
        let id = if id.len() > LONGEST_ID { hash(&id) } else { id };
        Self {
            id,
            threshold: threshold.name.clone(),
            thing: thing.to_string(),
            from: change.from,
            to: change.to,
            field: threshold.field.to_string(),
            value: words::plain(change.value).parse().unwrap_or_else(|_| 0.into()),
            at: change.at,
            since: change.since,
            words: words::of_change(threshold, thing, change),
        }
    }
}

/// The first half of the text's SHA-256, in hexadecimal digits.
fn hash(text: &str) -> String {
    let half = digest(&SHA256, text.as_bytes()).as_ref().first_chunk().copied().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(half))
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Everybody.
    People,
    /// Only machines: people get a summary, so that a storm does not bury them.
    Machines,
}

/// The changes of a threshold within a window that people were not told of one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Its id.
    #[serde(rename = "summary")]
    pub id: String,
    /// The threshold's name.
    pub threshold: String,
    /// How many changes, by the state that they led to.
    pub changes: BTreeMap<Status, u64>,
    /// The first names among the things.
    pub things: Vec<String>,
    /// Whether there are more things than are named.
    pub has_more: bool,
    /// When the window began.
    pub from: Timestamp,
    /// When it ended.
    pub until: Timestamp,
    /// The same for people.
    pub words: String,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notice {
    /// A change of state.
    Transition(Audience, Transition),
    /// A summary of many.
    Summary(Summary),
}

/// A notice that may not have been sent yet. It is stored in the same write as what it tells of, and struck off once it
/// is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owed {
    /// Since when.
    pub since: Timestamp,
    /// What.
    pub notice: Notice,
}

impl Notice {
    /// Its id, which is the same however often it is told.
    pub fn id(&self) -> &str {
        match self {
            Self::Transition(_, transition) => &transition.id,
            Self::Summary(summary) => &summary.id,
        }
    }

    /// As it goes out.
    pub fn notification(&self) -> Notification {
        let text = |text: &str| Attribute::Text(text.to_owned());
        let (subject, message, data, mut attributes) = match self {
            Self::Transition(audience, transition) => {
                let Transition { threshold, thing, from, to, words, .. } = transition;
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
                (format!("{} {threshold}: {thing}", to.as_str()), words, json!(transition), attributes)
            }
            Self::Summary(summary) => {
                let attributes = vec![("audience", text("people")), ("threshold", text(&summary.threshold))];
                let number: u64 = summary.changes.values().sum();
                (format!("{}: {number} more", summary.threshold), &summary.words, json!(summary), attributes)
            }
        };
        attributes.extend([
            ("eventId", text(self.id())),
            // Promotional, the default for texts, may come late.
            ("AWS.SNS.SMS.SMSType", text("Transactional")),
        ]);
        Notification { subject, message: message.clone(), data: Some(data.to_string()), attributes }
    }
}

/// What is owed by a record; `None` where it cannot be read.
pub fn owed(item: &Item) -> Option<Vec<Owed>> {
    let Some(owed) = item.get(OWED) else { return Some(Vec::new()) };
    let notices = owed.as_l().ok()?.iter();
    notices.map(|notice| serde_json::from_str(notice.as_s().ok()?).ok()).collect()
}

/// Sets down what a record owes, and when somebody must look at it again: at `look_at`, or when a notice has been owed
/// for so long that whoever was to send it has failed. `name` is what the record is about.
pub fn set_owed(item: &mut Item, name: &str, owed: &[Owed], look_at: Option<Timestamp>) {
    const LOOK_AT: &str = "lookAt";
    let mut set = |name: &str, value: Option<AttributeValue>| match value {
        Some(value) => drop(item.insert(name.to_owned(), value)),
        None => drop(item.remove(name)),
    };
    let notices: Vec<_> = owed.iter().map(|owed| AttributeValue::S(json!(owed).to_string())).collect();
    set(OWED, (!notices.is_empty()).then_some(AttributeValue::L(notices)));
    set(LOOK_AT, look_at.map(|at| number(at.millis())));
    let send_again = owed.iter().map(|owed| owed.since.plus(board::SEND_AGAIN_AFTER));
    let due_at = send_again.chain(look_at).min();
    set(board::DUE, due_at.map(|_| string(board::shard_of(name))));
    set(board::DUE_AT, due_at.map(|at| number(at.millis())));
}

/// When somebody must look at a record for its own sake.
pub fn look_at(item: &Item) -> Option<Timestamp> {
    integer(item, "lookAt").map(Timestamp::from_millis)
}
