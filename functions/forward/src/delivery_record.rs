//! Records which destinations have accepted a message that others have not, so that only the others are tried again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::number;
use gatehouse::{EventId, Invocation, Item, Key, TableError, Update, VersionedItem, VersionedTable};

/// How long a record is kept: a message can stay in the queue, and then in its dead-letter queue, for 14 days each.
const RETENTION: Duration = Duration::from_hours(28 * 24);

const NAMES: &str = "names";

/// The records in the devices table, with the partition key `forward#<event id>`.
#[derive(Debug)]
pub struct DeliveryRecords(VersionedTable);

/// The record of one message.
#[derive(Debug, Clone, Default)]
pub struct DeliveryRecord(VersionedItem);

impl DeliveryRecord {
    /// Whether this destination has accepted the message.
    pub fn contains(&self, destination: &str) -> bool {
        names(&self.0.item).contains(destination)
    }
}

impl DeliveryRecords {
    /// The records in this table.
    pub fn new(table: VersionedTable) -> Self {
        Self(table)
    }

    /// Returns the records of these messages, by id. A message without a record is left out.
    pub async fn get_all<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a EventId>,
    ) -> Result<HashMap<&'a EventId, DeliveryRecord>, TableError> {
        let ids: HashMap<Key, &EventId> = ids.into_iter().map(|id| (key(id), id)).collect();
        let found = self.0.get_all(ids.keys()).await?;
        Ok(found.into_iter().filter_map(|(key, item)| Some((*ids.get(&key)?, DeliveryRecord(item)))).collect())
    }

    /// Records that these destinations have accepted a message, in addition to earlier ones.
    ///
    /// Recorded names are kept even if they are no longer in the document, because they may come back.
    pub async fn add(
        &self,
        id: &EventId,
        destinations: &BTreeSet<&str>,
        record: DeliveryRecord,
        invocation: &Invocation,
    ) -> Result<(), TableError> {
        let expiration = invocation.now().plus(RETENTION).seconds();
        self.0
            .update_from(record.0, &key(id), invocation, async |old| {
                let recorded = names(&old.item);
                let all: BTreeSet<&str> = recorded.union(destinations).copied().collect();
                if all == recorded {
                    return Ok(Update::Keep(()));
                }
                let names = AttributeValue::Ss(all.into_iter().map(str::to_owned).collect());
                Ok(Update::Write([(NAMES.to_owned(), names), ("expiration".to_owned(), number(expiration))].into(), ()))
            })
            .await?;
        Ok(())
    }
}

fn names(item: &Item) -> BTreeSet<&str> {
    let names = item.get(NAMES).and_then(|names| names.as_ss().ok());
    names.into_iter().flatten().map(String::as_str).collect()
}

fn key(id: &EventId) -> Key {
    Key::new(format!("forward#{id}"), "taken")
}
