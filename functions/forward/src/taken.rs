//! Remembers which destinations have taken a message, where others have not: those alone are tried again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::item::number;
use gatehouse::{EventId, Record, RecordError, Records, Timestamp};

/// As long as a message can lie in the queue and then in its dead-letter queue: 14 days each.
const KEPT: Duration = Duration::from_hours(28 * 24);

const PART: &str = "taken";
const NAMES: &str = "names";

/// Notes of which destinations have taken a message, in the devices table: `id` is `forward#<event id>`.
#[derive(Debug)]
pub struct Taken(Records);

/// What is noted of one message.
#[derive(Debug, Default)]
pub struct Note {
    /// The names of the destinations that have taken it.
    pub names: BTreeSet<String>,
    record: Record,
}

impl Taken {
    /// Notes in this table.
    pub fn new(records: Records) -> Self {
        Self(records)
    }

    /// The notes of these messages, by their ids; none of a message of which nothing is noted.
    pub async fn read<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a EventId>,
    ) -> Result<HashMap<&'a EventId, Note>, RecordError> {
        let keys: HashMap<String, &EventId> = ids.into_iter().map(|id| (key(id), id)).collect();
        let found = self.0.get_all(keys.keys().map(|key| (key.as_str(), PART))).await?;
        let note = |((key, _), record): (_, Record)| {
            let names = record.item.get(NAMES).and_then(|names| names.as_ss().ok());
            let names = names.map(|names| names.iter().cloned().collect()).unwrap_or_default();
            Some((*keys.get(&key)?, Note { names, record }))
        };
        Ok(found.into_iter().filter_map(note).collect())
    }

    /// Notes that these destinations, too, have taken a message. Those of `was` stay noted, although they may have left
    /// the document: they may come back.
    pub async fn note(
        &self,
        id: &EventId,
        mut names: BTreeSet<String>,
        was: &Note,
        now: Timestamp,
    ) -> Result<(), RecordError> {
        names.extend(was.names.iter().cloned());
        if names == was.names {
            return Ok(());
        }
        let item = HashMap::from([
            (NAMES.to_owned(), AttributeValue::Ss(names.into_iter().collect())),
            ("expiration".to_owned(), number(now.plus(KEPT).seconds())),
        ]);
        self.0.put(&key(id), PART, item, &was.record).await.map(|_| ())
    }
}

fn key(id: &EventId) -> String {
    format!("forward#{id}")
}
