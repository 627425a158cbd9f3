use std::time::Duration;

use gatehouse::store::item::{integer, is_true, number};
use gatehouse::{
    DeviceEvent, Environment, EventHandler, Failure, InitError, Invocation, Item, Key, Setup, Timestamp, Update,
    VersionedTable,
};

use crate::change::ShadowChange;
use crate::history::ShadowHistory;
use crate::revision::{Recency, Revision, compare};

/// How long a deletion is remembered: longer than AWS keeps counting the versions of a deleted shadow (48 hours), and
/// longer than an event can wait in a queue and its dead-letter queue.
const DELETION_RETENTION: Duration = Duration::from_hours(30 * 24);

/// Stores updates and deletions of shadows.
#[derive(Debug)]
pub struct ShadowHandler {
    devices: VersionedTable,
    history: Option<ShadowHistory>,
}

/// The record was changed by hand, or by a newer version of the function.
#[derive(Debug, thiserror::Error)]
#[error("failed to parse the shadow's record in the devices table: attribute {0} is missing or has the wrong type")]
struct ParseRevisionError(&'static str);

impl ShadowHandler {
    /// Assembles the handler during INIT.
    pub fn new(setup: &Setup) -> Result<Self, InitError> {
        Self::from_environment(setup.environment(), setup.dynamodb())
    }

    /// Reads `DEVICES_TABLE`, and optionally `HISTORY_TABLE` and `HISTORY_RETENTION_DAYS` (default 90).
    pub fn from_environment(environment: &Environment, client: aws_sdk_dynamodb::Client) -> Result<Self, InitError> {
        let devices = VersionedTable::new(client.clone(), environment.required::<String>("DEVICES_TABLE")?);
        Ok(Self { devices, history: ShadowHistory::from_environment(environment, client)? })
    }
}

impl EventHandler for ShadowHandler {
    type Input = DeviceEvent;
    type Error = Failure;

    async fn handle(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Failure> {
        let change = ShadowChange::parse(event)?;
        if let Some(history) = &self.history {
            history.put(&event.thing, &change).await?;
        }
        let key = Key::new(format!("thing#{}", event.thing), format!("shadow#{}", change.shadow));
        let updated = self.devices.update(&key, invocation, async |old| {
            let recency = compare(parse_revision(&old.item).map_err(Failure::retry)?, change.revision);
            Ok::<_, Failure>(match recency {
                Recency::Newer => Update::Write(record(&change), recency),
                Recency::Duplicate | Recency::OutOfOrder => Update::Keep(recency),
            })
        });
        match updated.await?.value {
            Recency::Newer => {}
            Recency::Duplicate => invocation.count("Duplicate"),
            Recency::OutOfOrder => invocation.count("OutOfOrder"),
        }
        Ok(())
    }
}

/// Parses the revision that a record holds; `None` if there is no record.
fn parse_revision(item: &Item) -> Result<Option<Revision>, ParseRevisionError> {
    if item.is_empty() {
        return Ok(None);
    }
    let required = |name| integer(item, name).ok_or(ParseRevisionError(name));
    let at = Timestamp::from_millis(required("timestamp")?.saturating_mul(1000));
    Ok(Some(Revision { version: required("shadowVersion")?, at, is_deleted: is_true(item, "deleted") }))
}

/// Returns the record's attributes. A deleted shadow's record expires once no late event can revive the shadow.
fn record(change: &ShadowChange<'_>) -> Item {
    let mut item = change.to_item();
    if change.revision.is_deleted {
        let expiration = change.revision.at.plus(DELETION_RETENTION);
        item.insert("expiration".to_owned(), number(expiration.seconds()));
    }
    item
}
