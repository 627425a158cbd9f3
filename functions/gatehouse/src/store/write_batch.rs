use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::batch_execute_statement::BatchExecuteStatementError;
use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementErrorCodeEnum, BatchStatementRequest, BatchStatementResponse,
    ReturnValuesOnConditionCheckFailure,
};
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::runtime::outcome::error_chain;
use crate::store::item::Item;
use crate::store::versioned_table::Key;

/// The maximum number of statements that Amazon DynamoDB executes in one call.
const MAX_STATEMENTS: usize = 25;

/// The outcome of a write in a batch.
#[derive(Debug)]
pub(super) enum BatchedWrite {
    /// The item was replaced.
    Written,
    /// The condition does not hold. This is the item that was found.
    ConditionFailed(Option<Item>),
    /// There was no other write to share a call with, or DynamoDB rejected this statement or the whole call. The write
    /// must be made in a call of its own.
    NotBatched,
    /// The call failed for all writes in it.
    Failed(Arc<SdkError<BatchExecuteStatementError>>),
}

/// Combines the conditional writes of concurrent updates into `BatchExecuteStatement` calls.
///
/// `BatchWriteItem` has no conditions, and a transaction fails as a whole and costs twice as much. PartiQL statements
/// in a batch cost what single writes cost, and each has its own condition and outcome.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ql-reference.multiplestatements.batching.html>
///
/// A write waits until all other futures of its task that can proceed have done so; then all that are waiting are sent.
#[derive(Debug)]
pub(super) struct WriteBatch {
    client: Client,
    /// By key: of two writes of one item in a call, at most one could succeed.
    waiting: Mutex<BTreeMap<Key, (BatchStatementRequest, oneshot::Sender<BatchedWrite>)>>,
}

impl WriteBatch {
    pub(super) fn new(client: Client) -> Self {
        Self { client, waiting: Mutex::default() }
    }

    /// Makes a write together with those that are waiting.
    pub(super) async fn write(&self, key: &Key, statement: BatchStatementRequest) -> BatchedWrite {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.contains_key(key) {
                return BatchedWrite::NotBatched;
            }
            waiting.insert(key.clone(), (statement, sender));
        }
        yield_now().await;
        // The first write to get here sends all of them; the others find none.
        let writes: Vec<_> = mem::take(&mut *self.waiting()).into_values().collect();
        if writes.len() > 1 {
            self.send(writes).await;
        } else {
            drop(writes);
        }
        // Fails if the sender was dropped: it was the only write, or the one that was sending was canceled.
        receiver.await.unwrap_or(BatchedWrite::NotBatched)
    }

    async fn send(&self, mut writes: Vec<(BatchStatementRequest, oneshot::Sender<BatchedWrite>)>) {
        let mut calls = Vec::with_capacity(writes.len().div_ceil(MAX_STATEMENTS));
        while !writes.is_empty() {
            let (statements, senders) = writes.drain(..writes.len().min(MAX_STATEMENTS)).unzip();
            calls.push(self.execute(statements, senders));
        }
        join_all(calls).await;
    }

    async fn execute(&self, statements: Vec<BatchStatementRequest>, senders: Vec<oneshot::Sender<BatchedWrite>>) {
        let call = self.client.batch_execute_statement().set_statements(Some(statements));
        match Box::pin(call.send()).await {
            Ok(output) => {
                for (sender, response) in senders.into_iter().zip(output.responses.unwrap_or_default()) {
                    drop(sender.send(outcome(response)));
                }
            }
            // The senders are dropped, so each write is made in a call of its own. That call needs no permission for
            // PartiQL, and its error says which write is invalid.
            Err(error) if matches!(error.code(), Some("AccessDeniedException" | "ValidationException")) => {
                let error = error_chain(&error);
                tracing::warn!(error, "DynamoDB rejected a batch of writes; each is made in a call of its own");
            }
            Err(error) => {
                let error = Arc::new(error);
                for sender in senders {
                    drop(sender.send(BatchedWrite::Failed(Arc::clone(&error))));
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Key, (BatchStatementRequest, oneshot::Sender<BatchedWrite>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(response: BatchStatementResponse) -> BatchedWrite {
    match response.error {
        None => BatchedWrite::Written,
        Some(error) if error.code == Some(BatchStatementErrorCodeEnum::ConditionalCheckFailed) => {
            BatchedWrite::ConditionFailed(error.item)
        }
        // Such as throttling: a call of its own is retried by the SDK, or returns a better error.
        Some(_) => BatchedWrite::NotBatched,
    }
}

/// Returns the statement that turns the item `old` into `new`, if the attributes in `expected` have these values.
///
/// PartiQL cannot replace an item. Instead, the statement sets the attributes that differ, and removes those that are
/// not in `new`.
pub(super) fn replace(
    table: &str,
    old: &Item,
    new: &Item,
    expected: &BTreeMap<String, AttributeValue>,
) -> Result<BatchStatementRequest, BuildError> {
    let is_expected = |name: &str, value: &AttributeValue| expected.get(name) == Some(value);
    let is_changed = |name: &str, value: &AttributeValue| !is_expected(name, value) && old.get(name) != Some(value);
    let mut changed: Vec<_> = new.iter().filter(|(name, value)| is_changed(name, value)).collect();
    let mut removed: Vec<_> = old.keys().filter(|name| !new.contains_key(*name)).collect();
    // The same change always has the same text.
    changed.sort_unstable_by_key(|(name, _)| *name);
    removed.sort_unstable();
    let mut text = format!("UPDATE \"{table}\"");
    for (name, _) in &changed {
        let _ = write!(text, " SET \"{name}\"=?");
    }
    for name in removed {
        let _ = write!(text, " REMOVE \"{name}\"");
    }
    for (index, name) in expected.keys().enumerate() {
        let word = if index == 0 { "WHERE" } else { "AND" };
        let _ = write!(text, " {word} \"{name}\"=?");
    }
    let values = changed.into_iter().map(|(_, value)| value).chain(expected.values());
    BatchStatementRequest::builder()
        .statement(text)
        .set_parameters(Some(values.cloned().collect()))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build()
}
