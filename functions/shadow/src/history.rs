use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use gatehouse::store::item::{number, string};
use gatehouse::{Environment, Failure, InitError, ThingName};

use crate::change::ShadowChange;

const DAY: Duration = Duration::from_hours(24);

/// The table with all revisions of all shadows, each kept for a retention period.
///
/// The partition key `shadow` is the thing and the shadow's name, joined by `#`. The sort key `at` is the time in
/// seconds (10 digits), the version (20 digits), and `updated` or `deleted`. The whole item is derived from the event,
/// so writing it again changes nothing.
#[derive(Debug, Clone)]
pub struct ShadowHistory {
    client: Client,
    table: String,
    retention: Duration,
}

/// The history table could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the shadow history")]
pub struct HistoryError(#[source] Box<SdkError<PutItemError>>);

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        Self::retry(error)
    }
}

impl ShadowHistory {
    /// Reads `HISTORY_TABLE` and `HISTORY_RETENTION_DAYS` (default 90). Without a table, there is no history.
    pub fn from_environment(environment: &Environment, client: Client) -> Result<Option<Self>, InitError> {
        let days: u32 = environment.optional("HISTORY_RETENTION_DAYS")?.unwrap_or(90);
        let table = environment.optional("HISTORY_TABLE")?;
        Ok(table.map(|table| Self { client, table, retention: DAY * days }))
    }

    /// Stores a revision.
    pub async fn put(&self, thing: &ThingName, change: &ShadowChange<'_>) -> Result<(), HistoryError> {
        let revision = change.revision;
        let kind = if revision.is_deleted { "deleted" } else { "updated" };
        let mut item = change.to_item();
        item.extend([
            ("shadow".to_owned(), string(format!("{thing}#{}", change.shadow))),
            ("at".to_owned(), string(format!("{:010}#{:020}#{kind}", revision.at.seconds(), revision.version))),
            ("thing".to_owned(), string(thing.as_str())),
            ("expiration".to_owned(), number(revision.at.plus(self.retention).seconds())),
        ]);
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        put.send().await.map_err(|error| HistoryError(error.into()))?;
        Ok(())
    }
}
