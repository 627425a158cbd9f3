//! The history of shadows, where one is kept: each version as an item of its own.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use gatehouse::item::{number, string};
use gatehouse::{Environment, InitError, ThingName};

use crate::event::Change;
use crate::item;

const DAY: Duration = Duration::from_hours(24);

/// The table of all versions of all shadows, for as long as they are kept.
///
/// The items of one shadow have the key `shadow`, its thing and its name with `#` in between, and stand in the order of
/// `at`: the time in seconds, of 10 digits, the version, of 20 digits, and `updated` or `deleted`. All of an item comes
/// from the message, so that writing it again changes nothing.
#[derive(Debug, Clone)]
pub struct History {
    client: Client,
    table: String,
    retention: Duration,
}

/// The history did not take it; it may next time.
#[derive(Debug, thiserror::Error)]
#[error("the history could not be written")]
pub struct NotKept(#[source] Box<SdkError<PutItemError>>);

impl History {
    /// Reads `HISTORY_TABLE`; none is kept where it is not set. `HISTORY_RETENTION_DAYS` (default 90) is for how long.
    pub fn from(environment: &Environment, client: Client) -> Result<Option<Self>, InitError> {
        let days: u32 = environment.optional("HISTORY_RETENTION_DAYS")?.unwrap_or(90);
        let table = environment.optional("HISTORY_TABLE")?;
        Ok(table.map(|table| Self { client, table, retention: DAY * days }))
    }

    /// Keeps a version.
    pub async fn keep(&self, thing: &ThingName, change: &Change<'_>) -> Result<(), NotKept> {
        let stamp = change.stamp;
        let what = if stamp.is_deleted { "deleted" } else { "updated" };
        let mut item = item(change);
        item.extend([
            ("shadow".to_owned(), string(format!("{thing}#{}", change.shadow))),
            ("at".to_owned(), string(format!("{:010}#{:020}#{what}", stamp.at.seconds(), stamp.version))),
            ("thing".to_owned(), string(thing.as_str())),
            ("expiration".to_owned(), number(stamp.at.plus(self.retention).seconds())),
        ]);
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await;
        put.map(drop).map_err(|error| NotKept(error.into()))
    }
}
