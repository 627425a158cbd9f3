//! Tables, and the guarantees built on them.
//!
//! There is one implementation of each: optimistic locking ([`VersionedTable::update`]), temporary exclusive access
//! ([`Lease`]), effects that must happen once ([`Idempotency`]), messages stored with a state change ([`Outbox`]),
//! operators' configuration ([`Document`]), refused events ([`Quarantine`]), and the devices table ([`Devices`]). No
//! function writes its own conflict loop or outbox.

mod devices;
mod document;
pub(crate) mod idempotency;
pub mod item;
mod lease;
mod outbox;
pub(crate) mod quarantine;
pub(crate) mod versioned_table;
mod write_batch;

pub use devices::{CaStatus, CrlFetchError, Devices, PublishedCrl};
pub use document::{
    CurrentDocument, Document, DocumentError, MAX_DOCUMENT_BYTES, Validate, ValidationError, parse_document,
};
pub use idempotency::{Execution, Idempotency, IdempotencyError, run_claimed};
pub use item::Item;
pub use lease::{Lease, LeaseError};
pub use outbox::{Outbox, OutboxError, ParsePendingError};
pub use quarantine::{Quarantine, QuarantineError};
pub use versioned_table::{Key, TableError, Update, Updated, VersionedItem, VersionedTable};
