//! Publishes the notifications that are pending in a record.

use gatehouse::{Idempotency, IdempotencyError, Invocation, Key, Outbox, OutboxError, PublishError, Topic};
use gatehouse::{VersionedItem, VersionedTable};

use crate::due_index;
use crate::notification::{self, PENDING, PendingNotification};

/// The topic, and the outbox in the alarms table.
#[derive(Debug)]
pub(crate) struct Notifier {
    outbox: Outbox,
    topic: Topic,
}

impl Notifier {
    pub(crate) fn new(table: VersionedTable, idempotency: Idempotency, topic: Topic) -> Self {
        Self { outbox: Outbox::new(table, idempotency, PENDING), topic }
    }

    /// Publishes what is pending in the record of this device or threshold.
    ///
    /// What another invocation is publishing is left to it, and so is what comes after it, so that subscribers receive
    /// transitions in order. If that invocation fails, the scheduled check publishes them.
    pub(crate) async fn send_pending(
        &self,
        key: &Key,
        name: &str,
        record: VersionedItem,
        invocation: &Invocation,
    ) -> Result<(), OutboxError<PublishError>> {
        let flushed = self.outbox.flush(
            key,
            record,
            invocation,
            |pending: &PendingNotification| pending.notification.id().to_owned(),
            async |pending| self.topic.publish(pending.notification.to_publish()).await,
            |item, left| due_index::set_due(item, name, notification::oldest(left), due_index::next_check_at(item)),
        );
        match flushed.await {
            Err(OutboxError::Send(IdempotencyError::AlreadyInProgress)) => Ok(()),
            other => other,
        }
    }
}
