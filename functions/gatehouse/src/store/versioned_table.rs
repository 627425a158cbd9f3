use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::batch_execute_statement::BatchExecuteStatementError;
use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{KeysAndAttributes, ReturnValuesOnConditionCheckFailure};
use tokio::time::sleep;
use uuid::Uuid;

use crate::runtime::invocation::Invocation;
use crate::runtime::outcome::Failure;
use crate::store::item::{Item, integer, number, string, text};
use crate::store::write_batch::{BatchedWrite, WriteBatch, replace};

/// The maximum number of items that Amazon DynamoDB reads in one call.
const MAX_BATCH_KEYS: usize = 100;

/// The first pause before requesting unprocessed keys again, and the maximum number of calls. Each pause is twice as
/// long as the one before.
const UNPROCESSED_PAUSE: Duration = Duration::from_millis(50);
const MAX_BATCH_CALLS: usize = 6;

/// The maximum number of attempts to update a record that other processes keep writing: enough for a hundred writers,
/// such as devices that count against the same rate limit.
const MAX_ATTEMPTS: u32 = 20;

/// The maximum pause after the first conflict, and after any conflict. Pauses are random, so that two processes that
/// collided once do not keep colliding.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(200);

const PARTITION_KEY: &str = "id";
const SORT_KEY: &str = "part";
const VERSION: &str = "version";
const WRITER: &str = "writer";

/// A table of records that several processes update under optimistic locking: a record is replaced only if nobody else
/// has written it since it was read.
///
/// Its partition key is `id`, its sort key, if it has one, `part`; both are strings. `version` counts the writes of an
/// item. `writer` identifies the last write, so that a write whose response was lost is recognized when the SDK repeats
/// it.
#[derive(Debug, Clone)]
pub struct VersionedTable {
    client: Client,
    name: String,
    /// Combines writes, if they may be.
    batch: Option<Arc<WriteBatch>>,
}

/// The primary key of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The partition key.
    pub pk: String,
    /// The sort key; `None` in a table without one.
    pub sk: Option<String>,
}

impl Key {
    /// The key of a record in a table with a sort key.
    pub fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: Some(sk.into()) }
    }

    /// The key of a record in a table without a sort key.
    pub fn partition(pk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: None }
    }

    /// The key of this item, if it has one.
    pub fn of(item: &Item) -> Option<Self> {
        Some(Self { pk: text(item, PARTITION_KEY)?.to_owned(), sk: text(item, SORT_KEY).map(str::to_owned) })
    }

    fn attributes(&self) -> Item {
        let sk = self.sk.iter().map(|sk| (SORT_KEY.to_owned(), string(sk)));
        sk.chain([(PARTITION_KEY.to_owned(), string(&self.pk))]).collect()
    }
}

/// A record as it was read or written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VersionedItem {
    /// All its attributes; empty if there is no such record yet.
    pub item: Item,
    version: u64,
}

impl VersionedItem {
    /// How many times the record has been written; zero if there is none yet.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn read(item: Item) -> Self {
        Self { version: integer(&item, VERSION).unwrap_or_default(), item }
    }
}

/// What to do with a record, and the value to return to the caller.
#[derive(Debug)]
pub enum Update<T> {
    /// Replace the record's attributes with these. The key, `version` and `writer` are added.
    Write(Item, T),
    /// Leave the record as it is.
    Keep(T),
}

/// A record after an update.
#[derive(Debug)]
pub struct Updated<T> {
    /// The record, as it was written or kept.
    pub record: VersionedItem,
    /// The value that the decision returned.
    pub value: T,
}

/// The table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A record could not be read.
    #[error("failed to read table {0}")]
    Get(String, #[source] Box<SdkError<GetItemError>>),
    /// Several records could not be read.
    #[error("failed to read table {0}")]
    BatchGet(String, #[source] Box<SdkError<BatchGetItemError>>),
    /// Some keys stayed unprocessed in every call.
    #[error("failed to read table {0}: some keys stayed unprocessed")]
    Unprocessed(String),
    /// A record could not be written.
    #[error("failed to write table {0}")]
    Put(String, #[source] Box<SdkError<PutItemError>>),
    /// Several records could not be written in one call, which share its error.
    #[error("failed to write table {0}")]
    BatchPut(String, #[source] Arc<SdkError<BatchExecuteStatementError>>),
    /// Other processes kept writing the record.
    #[error("failed to update a record of table {0}: other invocations keep changing it")]
    Conflict(String),
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        Self::retry(error)
    }
}

/// The result of a conditional write.
pub(crate) enum Put {
    Written(VersionedItem),
    Conflict,
}

impl VersionedTable {
    /// The table of this name.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into(), batch: None }
    }

    /// Combines the writes of updates that run concurrently in one task: up to 25 per call. This takes a fraction of
    /// the CPU time of single calls. The function's role needs `dynamodb:PartiQLUpdate`.
    ///
    /// Such updates must all be polled until they are done, as a stream of buffered futures does, because one of them
    /// makes the call for all.
    #[must_use]
    pub fn with_batched_writes(self) -> Self {
        Self { batch: Some(Arc::new(WriteBatch::new(self.client.clone()))), ..self }
    }

    /// The client, for requests that only one function makes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one record consistently. If there is none, the result is empty and has version 0.
    pub async fn get(&self, key: &Key) -> Result<VersionedItem, TableError> {
        let get = self.client.get_item().table_name(&self.name).consistent_read(true);
        let found = Box::pin(get.set_key(Some(key.attributes())).send()).await;
        let found = found.map_err(|error| TableError::Get(self.name.clone(), error.into()))?;
        Ok(found.item.map(VersionedItem::read).unwrap_or_default())
    }

    /// Reads many records consistently, a hundred per call. Those that do not exist are left out.
    pub async fn get_all<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Result<HashMap<Key, VersionedItem>, TableError> {
        // DynamoDB rejects a call in which a key appears twice.
        let keys: BTreeSet<_> = keys.into_iter().collect();
        let keys: Vec<Item> = keys.into_iter().map(Key::attributes).collect();
        let mut found = HashMap::with_capacity(keys.len());
        for keys in keys.chunks(MAX_BATCH_KEYS) {
            self.get_batch(keys.to_vec(), &mut found).await?;
        }
        Ok(found)
    }

    async fn get_batch(&self, mut keys: Vec<Item>, found: &mut HashMap<Key, VersionedItem>) -> Result<(), TableError> {
        let failed = |error: SdkError<BatchGetItemError>| TableError::BatchGet(self.name.clone(), error.into());
        let mut pause = UNPROCESSED_PAUSE;
        for _ in 0..MAX_BATCH_CALLS {
            let request = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let request = request.map_err(|error| failed(SdkError::construction_failure(error)))?;
            let response = Box::pin(self.client.batch_get_item().request_items(&self.name, request).send()).await;
            let response = response.map_err(failed)?;
            let items = response.responses.and_then(|mut tables| tables.remove(&self.name)).unwrap_or_default();
            found.extend(items.into_iter().filter_map(|item| Some((Key::of(&item)?, VersionedItem::read(item)))));
            let unprocessed = response.unprocessed_keys.and_then(|mut tables| tables.remove(&self.name));
            keys = unprocessed.map(|unprocessed| unprocessed.keys).unwrap_or_default();
            if keys.is_empty() {
                return Ok(());
            }
            sleep(pause).await;
            pause *= 2;
        }
        Err(TableError::Unprocessed(self.name.clone()))
    }

    /// Reads a record, lets `decide` choose what to do with it, and writes the result. If another process has written
    /// the record meanwhile, starts over after a random pause, up to a maximum number of attempts. Each conflict counts
    /// in the metric `Conflicts`.
    ///
    /// This is the only read-decide-write loop in the project.
    pub async fn update<T, E: From<TableError>>(
        &self,
        key: &Key,
        invocation: &Invocation,
        decide: impl AsyncFnMut(&VersionedItem) -> Result<Update<T>, E>,
    ) -> Result<Updated<T>, E> {
        let record = self.get(key).await?;
        self.update_from(record, key, invocation, decide).await
    }

    /// Does the same as [`update`](Self::update), starting with a record that was read or written before.
    pub async fn update_from<T, E: From<TableError>>(
        &self,
        mut record: VersionedItem,
        key: &Key,
        invocation: &Invocation,
        mut decide: impl AsyncFnMut(&VersionedItem) -> Result<Update<T>, E>,
    ) -> Result<Updated<T>, E> {
        for attempt in 0..MAX_ATTEMPTS {
            let (item, value) = match decide(&record).await? {
                Update::Keep(value) => return Ok(Updated { record, value }),
                Update::Write(item, value) => (item, value),
            };
            match self.put(key, item, &record).await? {
                Put::Written(record) => return Ok(Updated { record, value }),
                Put::Conflict => {
                    invocation.count("Conflicts");
                    sleep(pause_after(attempt)).await;
                    record = self.get(key).await?;
                }
            }
        }
        Err(TableError::Conflict(self.name.clone()).into())
    }

    /// Replaces the record that was read as `old`, if nobody has written it since.
    pub(crate) async fn put(&self, key: &Key, mut item: Item, old: &VersionedItem) -> Result<Put, TableError> {
        let writer = Uuid::new_v4().to_string();
        let version = old.version + 1;
        item.extend(key.attributes());
        item.extend([(VERSION.to_owned(), number(version)), (WRITER.to_owned(), string(&writer))]);
        let written = |item| Put::Written(VersionedItem { item, version });
        let condition_failed = |item, found: Option<&Item>| {
            let is_ours = found.is_some_and(|found| text(found, WRITER) == Some(&writer));
            if is_ours { written(item) } else { Put::Conflict }
        };
        match self.put_batched(key, &item, old).await {
            BatchedWrite::Written => return Ok(written(item)),
            BatchedWrite::ConditionFailed(found) => return Ok(condition_failed(item, found.as_ref())),
            BatchedWrite::Failed(error) => return Err(TableError::BatchPut(self.name.clone(), error)),
            BatchedWrite::NotBatched => {}
        }
        let put = self
            .client
            .put_item()
            .table_name(&self.name)
            .set_item(Some(item.clone()))
            .expression_attribute_names("#version", VERSION)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let put = if old.version == 0 {
            put.condition_expression("attribute_not_exists(#version)")
        } else {
            let put = put.condition_expression("#version = :old");
            put.expression_attribute_values(":old", number(old.version))
        };
        // The SDK's future is several kilobytes, which the streams of futures that await this one would copy
        // repeatedly.
        let Err(error) = Box::pin(put.send()).await else { return Ok(written(item)) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => Ok(condition_failed(item, failed.item())),
            _ => Err(TableError::Put(self.name.clone(), error.into())),
        }
    }

    /// Replaces a record together with others, if writes are batched. A new record, which is rare, is written by itself:
    /// it would need a statement of another kind.
    async fn put_batched(&self, key: &Key, item: &Item, old: &VersionedItem) -> BatchedWrite {
        let Some(batch) = self.batch.as_ref().filter(|_| old.version > 0) else { return BatchedWrite::NotBatched };
        let expected = key.attributes().into_iter().chain([(VERSION.to_owned(), number(old.version))]).collect();
        match replace(&self.name, &old.item, item, &expected) {
            Ok(statement) => batch.write(key, statement).await,
            Err(_) => BatchedWrite::NotBatched,
        }
    }
}

/// A random pause, up to a limit that doubles with each attempt ("full jitter").
fn pause_after(attempt: u32) -> Duration {
    let limit = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempt)).min(MAX_PAUSE);
    limit.mul_f64(fastrand::f64())
}
