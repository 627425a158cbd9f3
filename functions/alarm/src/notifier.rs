//! Writes the history entries of a record's pending notifications, and publishes the notifications.

use gatehouse::{Idempotency, IdempotencyError, Invocation, Key, Outbox, OutboxError, PublishError, Topic};
use gatehouse::{VersionedItem, VersionedTable};

use crate::due_index;
use crate::history::{History, HistoryError};
use crate::notification::{self, AlarmNotification, PENDING, PendingNotification};

/// The topic, the history, and the outbox in the alarms table.
#[derive(Debug)]
pub(crate) struct Notifier {
    outbox: Outbox,
    topic: Topic,
    history: History,
}

/// Why a pending notification is still pending.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotifyError {
    /// It could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The history entry could not be written.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl Notifier {
    pub(crate) fn new(table: VersionedTable, idempotency: Idempotency, topic: Topic, history: History) -> Self {
        Self { outbox: Outbox::new(table, idempotency, PENDING), topic, history }
    }

    /// Publishes the pending notifications in the record of this device or rule.
    ///
    /// Stops at a notification that another invocation is publishing, and leaves it and those after it to that
    /// invocation, so that subscribers receive transitions in order. If that invocation fails, the scheduled check
    /// publishes them.
    pub(crate) async fn send_pending(
        &self,
        key: &Key,
        name: &str,
        record: VersionedItem,
        invocation: &Invocation,
    ) -> Result<(), OutboxError<NotifyError>> {
        let flushed = self.outbox.flush(
            key,
            record,
            invocation,
            |pending: &PendingNotification| pending.notification.id().to_owned(),
            async |pending| self.send(pending).await,
            |item, left| due_index::set_due(item, name, notification::oldest(left), due_index::next_check_at(item)),
        );
        match flushed.await {
            Err(OutboxError::Send(IdempotencyError::AlreadyInProgress)) => Ok(()),
            other => other,
        }
    }

    async fn send(&self, pending: &PendingNotification) -> Result<(), NotifyError> {
        if let (AlarmNotification::Transition(_, transition), Some(mark)) = (&pending.notification, &pending.history) {
            self.history.write(transition, mark).await?;
        }
        if let Some(notification) = pending.notification.to_publish() {
            self.topic.publish(notification).await?;
        }
        Ok(())
    }
}
