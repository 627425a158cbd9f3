//! The alarms table: how each device stands by each threshold, and which of them somebody must look at without being
//! asked.
//!
//! A record that must be looked at has the attributes `due` and `dueAt`, and with them stands in the index `due`,
//! spread over sixteen partitions. So what is due is found by a query of each, and never by looking through the table.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::query::QueryError;
use gatehouse::item::{Item, number, string, text};
use gatehouse::{Key, Records, Timestamp};
use ring::digest::{SHA256, digest};

/// The index's partitions.
pub const SHARDS: u8 = 16;

/// The attributes that the index goes by.
pub const DUE: &str = "due";
/// See [`DUE`].
pub const DUE_AT: &str = "dueAt";

/// A notice that has been owed for so long is sent by whoever finds it: the function's time-out, after which the
/// process that was to send it has ended.
pub const SEND_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// A record that nobody has written for so long goes: longer than the longest silence that a threshold may allow.
pub const KEPT: Duration = Duration::from_hours(24 * 400);

/// How many records one query finds: as many as can be read at once.
const PAGE: i32 = 100;

/// Records that are due.
#[derive(Debug, Default)]
pub struct Page {
    /// Where they stand.
    pub keys: Vec<Key>,
    /// Where the next page begins, if there is one.
    pub next: Option<Item>,
}

/// The index could not be read.
#[derive(Debug, thiserror::Error)]
#[error("what is due could not be read")]
pub struct NotFound(#[from] Box<SdkError<QueryError>>);

/// The partition in which the record of this name stands.
pub fn shard_of(name: &str) -> String {
    let first = digest(&SHA256, name.as_bytes()).as_ref().first().copied().unwrap_or_default();
    shard(first % SHARDS)
}

/// A partition's name.
pub fn shard(number: u8) -> String {
    format!("due#{number:02}")
}

/// The record of a thing by a threshold.
pub fn key(thing: &str, threshold: &str) -> Key {
    (format!("thing#{thing}"), format!("threshold#{threshold}"))
}

/// What is due before `now` in a partition, a page of it.
pub async fn due(records: &Records, shard: &str, now: Timestamp, from: Option<Item>) -> Result<Page, NotFound> {
    let (client, table) = records.table();
    let found = client
        .query()
        .table_name(table)
        .index_name("due")
        .key_condition_expression("#due = :shard AND #dueAt < :now")
        .expression_attribute_names("#due", DUE)
        .expression_attribute_names("#dueAt", DUE_AT)
        .expression_attribute_values(":shard", string(shard))
        .expression_attribute_values(":now", number(now.millis()))
        .limit(PAGE)
        .set_exclusive_start_key(from)
        .send()
        .await
        .map_err(Box::new)?;
    let key = |item: &Item| Some((text(item, "id")?.to_owned(), text(item, "part")?.to_owned()));
    Ok(Page { keys: found.items().iter().filter_map(key).collect(), next: found.last_evaluated_key })
}
