use uuid::Uuid;

use crate::event::timestamp::Timestamp;
use crate::runtime::invocation::Invocation;
use crate::runtime::outcome::Failure;
use crate::store::item::{Item, integer, number, string, text};
use crate::store::versioned_table::{Key, Put, TableError, Update, VersionedItem, VersionedTable};

const OWNER: &str = "owner";
const OWNED_UNTIL: &str = "ownedUntil";

/// One invocation's exclusive right to work on a record, until the invocation ends.
///
/// The record names the owner (`owner`, a random token) and when its right expires (`ownedUntil`, the invocation's
/// deadline), so that a process that died does not block the record. Other processes may still change the record, for
/// example to block a certificate; the owner's changes are then applied on top of theirs. Replacing `owner` takes the
/// lease away.
#[derive(Debug)]
pub struct Lease {
    table: VersionedTable,
    key: Key,
    owner: String,
    record: VersionedItem,
}

/// Why a leased record was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The lease has expired or was taken away, and another process owns the record.
    #[error("another invocation has taken over record {0}")]
    Lost(String),
    /// The table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl From<LeaseError> for Failure {
    fn from(error: LeaseError) -> Self {
        Self::retry(error)
    }
}

impl Lease {
    /// Whether an invocation owns this record now.
    pub fn is_active(record: &VersionedItem, now: Timestamp) -> bool {
        integer(&record.item, OWNED_UNTIL).is_some_and(|until| until >= now.millis())
    }

    /// Takes a lease on a record that was read as `seen`, and applies `change` to its attributes in the same write.
    ///
    /// Returns `None` if another invocation owns the record, or has written it since it was read.
    pub async fn acquire(
        table: &VersionedTable,
        key: Key,
        seen: &VersionedItem,
        invocation: &Invocation,
        change: impl FnOnce(&mut Item),
    ) -> Result<Option<Self>, TableError> {
        if Self::is_active(seen, invocation.now()) {
            return Ok(None);
        }
        let owner = Uuid::new_v4().to_string();
        let mut item = seen.item.clone();
        change(&mut item);
        item.insert(OWNER.to_owned(), string(&owner));
        item.insert(OWNED_UNTIL.to_owned(), number(invocation.deadline().millis()));
        Ok(match table.put(&key, item, seen).await? {
            Put::Written(record) => Some(Self { table: table.clone(), key, owner, record }),
            Put::Conflict => None,
        })
    }

    /// The record, as this invocation read or wrote it last.
    pub fn record(&self) -> &VersionedItem {
        &self.record
    }

    /// Applies `change` to the record's attributes, and keeps the lease.
    pub async fn change(&mut self, invocation: &Invocation, change: impl Fn(&mut Item)) -> Result<(), LeaseError> {
        self.apply(invocation, change).await
    }

    /// Applies `change` to the record's attributes, and gives the lease back.
    pub async fn release(&mut self, invocation: &Invocation, change: impl Fn(&mut Item)) -> Result<(), LeaseError> {
        self.apply(invocation, |item| {
            change(item);
            item.remove(OWNED_UNTIL);
        })
        .await
    }

    async fn apply(&mut self, invocation: &Invocation, change: impl Fn(&mut Item)) -> Result<(), LeaseError> {
        let Self { table, key, owner, record } = self;
        let updated = table
            .update_from(record.clone(), key, invocation, async |record| {
                if text(&record.item, OWNER) != Some(owner.as_str()) {
                    return Err(LeaseError::Lost(key.pk.clone()));
                }
                let mut item = record.item.clone();
                change(&mut item);
                Ok(Update::Write(item, ()))
            })
            .await?;
        *record = updated.record;
        Ok(())
    }
}
