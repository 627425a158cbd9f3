//! The index of records that are due for a check, such as devices that may have become stale, notifications that are
//! still pending, and rate-limit windows that have ended.
//!
//! A record that must be checked has the attributes `due` and `dueAt`, the key of the index `due`. The index is spread
//! over sixteen partitions; a query reads one of them.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::query::QueryError;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::{integer, number, string};
use gatehouse::{Item, Key, Timestamp, VersionedTable};
use ring::digest::{SHA256, digest};

/// The number of the index's partitions.
pub const SHARDS: u8 = 16;

/// How long a notification must have been pending before the scheduled check sends it: the function's timeout, after
/// which the invocation that stored it has certainly ended.
pub const RESEND_DELAY: Duration = Duration::from_mins(1);

/// The number of records per page: as many as one call can then read.
const PAGE_SIZE: i32 = 100;

const DUE: &str = "due";
const DUE_AT: &str = "dueAt";
const NEXT_CHECK_AT: &str = "lookAt";

/// Some of the records that are due.
#[derive(Debug, Default)]
pub struct DuePage {
    /// Their keys.
    pub keys: Vec<Key>,
    /// Where the next page starts, if there is one.
    pub next: Option<Item>,
}

/// The index could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to query the index of due records")]
pub struct DueQueryError(#[from] Box<SdkError<QueryError>>);

/// Returns the name of a partition.
pub fn shard_name(number: u8) -> String {
    format!("due#{number:02}")
}

/// Returns the name of the partition for the record of this device or threshold.
fn shard_of(name: &str) -> String {
    shard_name(hash_byte(name) % SHARDS)
}

/// Hashes a name to a byte; spreads names evenly.
pub(crate) fn hash_byte(name: &str) -> u8 {
    digest(&SHA256, name.as_bytes()).as_ref().first().copied().unwrap_or_default()
}

/// Returns when a record must be checked next, regardless of pending notifications.
pub fn next_check_at(item: &Item) -> Option<Timestamp> {
    integer(item, NEXT_CHECK_AT).map(Timestamp::from_millis)
}

/// Sets when the record of this device or threshold is due: at `next_check_at`, or when the oldest pending notification
/// may be sent again, whichever comes first.
pub fn set_due(item: &mut Item, name: &str, pending_since: Option<Timestamp>, next_check_at: Option<Timestamp>) {
    let mut set = |name: &str, value: Option<AttributeValue>| match value {
        Some(value) => drop(item.insert(name.to_owned(), value)),
        None => drop(item.remove(name)),
    };
    let due_at = pending_since.map(|since| since.plus(RESEND_DELAY)).into_iter().chain(next_check_at).min();
    set(NEXT_CHECK_AT, next_check_at.map(|at| number(at.millis())));
    set(DUE, due_at.map(|_| string(shard_of(name))));
    set(DUE_AT, due_at.map(|at| number(at.millis())));
}

/// Reads a page of the records in a partition that are due before `now`.
pub async fn query(
    table: &VersionedTable,
    shard: &str,
    now: Timestamp,
    start: Option<Item>,
) -> Result<DuePage, DueQueryError> {
    let found = table
        .client()
        .query()
        .table_name(table.name())
        .index_name("due")
        .key_condition_expression("#due = :shard AND #dueAt < :now")
        .expression_attribute_names("#due", DUE)
        .expression_attribute_names("#dueAt", DUE_AT)
        .expression_attribute_values(":shard", string(shard))
        .expression_attribute_values(":now", number(now.millis()))
        .limit(PAGE_SIZE)
        .set_exclusive_start_key(start)
        .send()
        .await
        .map_err(Box::new)?;
    Ok(DuePage { keys: found.items().iter().filter_map(Key::of).collect(), next: found.last_evaluated_key })
}
