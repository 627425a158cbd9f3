use gatehouse::store::ParsePendingError;
use gatehouse::{Key, OutboxError, Refusal, TableError};

use crate::due_index::DueQueryError;
use crate::never_reported::DeviceScanError;
use crate::notifier::NotifyError;

/// Why a record was not evaluated, or its notifications were not sent. One failure may make many events a Retry, which
/// then share the error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AlarmError {
    /// A record could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A record was changed by hand, or by a newer version of the function.
    #[error("failed to parse record {}, {}", .0.pk, .0.sk.as_deref().unwrap_or_default())]
    InvalidRecord(Key),
    /// A later document has changed the rule. The retry reads that document.
    #[error("the document of rules has been replaced")]
    Outdated,
    /// The alarm's state does not allow an action.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The index of due records could not be read.
    #[error(transparent)]
    DueQuery(#[from] DueQueryError),
    /// The devices table could not be read.
    #[error(transparent)]
    DeviceScan(#[from] DeviceScanError),
    /// A notification could not be stored.
    #[error(transparent)]
    Pending(#[from] ParsePendingError),
    /// A notification could not be sent.
    #[error(transparent)]
    Outbox(#[from] OutboxError<NotifyError>),
}
