use std::collections::HashSet;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::runtime::invocation::Invocation;
use crate::runtime::outcome::{BoxError, Failure};
use crate::store::idempotency::{Idempotency, IdempotencyError};
use crate::store::item::Item;
use crate::store::versioned_table::{Key, TableError, Update, VersionedItem, VersionedTable};

/// A transactional outbox: messages that announce a state change are stored in the same write as the change, sent
/// afterwards, and removed once they are sent.
///
/// The process may die between any two of these steps; the next invocation that handles the record sends what is still
/// pending. So each message is sent at least once, always under the same id, and the [`Idempotency`] table keeps a
/// second invocation from sending it as well.
///
/// A record holds its pending messages in one attribute, as a list of JSON strings, oldest first.
#[derive(Debug, Clone)]
pub struct Outbox {
    table: VersionedTable,
    idempotency: Option<Idempotency>,
    attribute: &'static str,
}

/// The pending messages of a record cannot be parsed: they were changed by hand, or by a newer version of the function.
#[derive(Debug, thiserror::Error)]
#[error("failed to parse the pending messages in attribute {attribute}")]
pub struct ParsePendingError {
    attribute: &'static str,
    #[source]
    source: BoxError,
}

/// Why pending messages were not sent.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError<E> {
    /// The record's pending messages cannot be parsed.
    #[error(transparent)]
    Parse(#[from] ParsePendingError),
    /// A message could not be sent now.
    #[error(transparent)]
    Send(IdempotencyError<E>),
    /// The record could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl<E: Into<Failure> + std::error::Error + Send + Sync + 'static> From<OutboxError<E>> for Failure {
    fn from(error: OutboxError<E>) -> Self {
        match error {
            OutboxError::Send(error) => error.into(),
            other @ (OutboxError::Parse(_) | OutboxError::Table(_)) => Self::retry(other),
        }
    }
}

impl Outbox {
    /// The outbox in this attribute of the table's records.
    pub fn new(table: VersionedTable, idempotency: Idempotency, attribute: &'static str) -> Self {
        Self { table, idempotency: Some(idempotency), attribute }
    }

    /// An outbox whose messages are sent without claims, for a receiver that recognizes duplicates. They are sent even
    /// when the invocation is running late.
    pub fn without_claims(table: VersionedTable, attribute: &'static str) -> Self {
        Self { table, idempotency: None, attribute }
    }

    /// Returns the messages that are pending in a record, oldest first.
    pub fn pending<M: DeserializeOwned>(item: &Item, attribute: &'static str) -> Result<Vec<M>, ParsePendingError> {
        let Some(messages) = item.get(attribute) else { return Ok(Vec::new()) };
        let parse = || -> Result<Vec<M>, BoxError> {
            let unexpected = |_: &AttributeValue| BoxError::from("it is not a list of strings");
            let messages = messages.as_l().map_err(unexpected)?.iter();
            messages.map(|message| Ok(serde_json::from_str(message.as_s().map_err(unexpected)?)?)).collect()
        };
        parse().map_err(|source| ParsePendingError { attribute, source })
    }

    /// Sets the pending messages of a record that is about to be written.
    pub fn set_pending<M: Serialize>(
        item: &mut Item,
        attribute: &'static str,
        messages: &[M],
    ) -> Result<(), ParsePendingError> {
        if messages.is_empty() {
            item.remove(attribute);
            return Ok(());
        }
        let texts = messages.iter().map(serde_json::to_string).map(|text| text.map(AttributeValue::S));
        let texts = texts.collect::<Result<_, _>>();
        let texts = texts.map_err(|error| ParsePendingError { attribute, source: error.into() })?;
        item.insert(attribute.to_owned(), AttributeValue::L(texts));
        Ok(())
    }

    /// Sends the messages that are pending in a record, in order, and removes those that were sent. Then does the same
    /// for messages that other invocations have added meanwhile.
    ///
    /// `id` returns a message's idempotency key. `on_sent` updates whatever else in the record depends on the messages
    /// that remain pending, such as an index.
    ///
    /// Stops at the first message that fails, so that subscribers receive messages in order. A message that another
    /// invocation is sending ([`IdempotencyError::AlreadyInProgress`]) stays pending, in case that invocation fails.
    pub async fn flush<M: Serialize + DeserializeOwned, E>(
        &self,
        key: &Key,
        mut record: VersionedItem,
        invocation: &Invocation,
        id: impl Fn(&M) -> String,
        send: impl AsyncFn(&M) -> Result<(), E>,
        on_sent: impl Fn(&mut Item, &[M]),
    ) -> Result<(), OutboxError<E>> {
        loop {
            let mut sent_ids = HashSet::new();
            let mut failure = None;
            for message in Self::pending::<M>(&record.item, self.attribute)? {
                let id = id(&message);
                let result = match &self.idempotency {
                    Some(idempotency) => idempotency.run_once(&id, invocation, send(&message)).await.map(drop),
                    None => send(&message).await.map_err(IdempotencyError::Effect),
                };
                match result {
                    Ok(()) => drop(sent_ids.insert(id)),
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            if !sent_ids.is_empty() {
                record = self.mark_sent(key, record, invocation, &sent_ids, &id, &on_sent).await?;
            }
            match failure {
                Some(error) => return Err(OutboxError::Send(error)),
                None if sent_ids.is_empty() => return Ok(()),
                None => {}
            }
        }
    }

    async fn mark_sent<M: Serialize + DeserializeOwned, E>(
        &self,
        key: &Key,
        record: VersionedItem,
        invocation: &Invocation,
        sent_ids: &HashSet<String>,
        id: &impl Fn(&M) -> String,
        on_sent: &impl Fn(&mut Item, &[M]),
    ) -> Result<VersionedItem, OutboxError<E>> {
        let updated = self
            .table
            .update_from(record, key, invocation, async |record| {
                let mut messages = Self::pending::<M>(&record.item, self.attribute)?;
                let before = messages.len();
                messages.retain(|message| !sent_ids.contains(&id(message)));
                if messages.len() == before {
                    return Ok::<_, OutboxError<E>>(Update::Keep(()));
                }
                let mut item = record.item.clone();
                Self::set_pending(&mut item, self.attribute, &messages)?;
                on_sent(&mut item, &messages);
                Ok(Update::Write(item, ()))
            })
            .await?;
        Ok(updated.record)
    }
}
