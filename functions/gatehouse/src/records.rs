use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{KeysAndAttributes, ReturnValuesOnConditionCheckFailure};
use tokio::time::sleep;
use uuid::Uuid;

use crate::item::{Item, integer, number, string, text};

/// The most items that Amazon DynamoDB reads in one call.
const READ_AT_ONCE: usize = 100;

/// How long to wait, and how many times, for what a call has left unread; each time twice as long.
const READ_AGAIN: (Duration, usize) = (Duration::from_millis(50), 6);

const VERSION: &str = "version";
const WRITER: &str = "writer";

/// A table of records that several processes change, each under optimistic locking: what was read is written back only if
/// nobody else has written it meanwhile.
///
/// Its items are found by `id` and `part`, both texts. `version` counts the writes of an item; `writer` names the last of
/// them, so that a write whose answer was lost knows itself again when the SDK repeats it.
#[derive(Debug, Clone)]
pub struct Records {
    client: Client,
    table: String,
}

/// Where a record stands: its `id` and its `part`.
pub type Key = (String, String);

/// A record as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// Its attributes.
    pub item: Item,
    version: u64,
}

impl Record {
    /// How many times it has been written; none for a record that is not there yet.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn read(item: Item) -> Self {
        Self { version: integer(&item, VERSION).unwrap_or_default(), item }
    }
}

/// The table did not do what it was asked; it may next time.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A record could not be read.
    #[error("the table {0} could not be read")]
    Read(String, #[source] Box<SdkError<GetItemError>>),
    /// Records could not be read.
    #[error("the table {0} could not be read")]
    ReadAll(String, #[source] Box<SdkError<BatchGetItemError>>),
    /// Some records were left unread however often they were asked for.
    #[error("the table {0} left records unread again and again")]
    Unread(String),
    /// A record could not be written.
    #[error("the table {0} could not be written")]
    Write(String, #[source] Box<SdkError<PutItemError>>),
    /// Another process has written the record since it was read.
    #[error("another invocation has changed the record meanwhile")]
    Conflict,
}

impl Records {
    /// The records in this table.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into() }
    }

    /// The client and the table's name, for what is asked of it besides.
    pub fn table(&self) -> (&Client, &str) {
        (&self.client, &self.table)
    }

    /// One record, read consistently; version 0 and empty where there is none.
    pub async fn get(&self, id: &str, part: &str) -> Result<Record, RecordError> {
        let get = self.client.get_item().table_name(&self.table).consistent_read(true);
        let found = get.key("id", string(id)).key("part", string(part)).send().await;
        let found = found.map_err(|error| RecordError::Read(self.table.clone(), error.into()))?;
        Ok(found.item.map(Record::read).unwrap_or_default())
    }

    /// Many records, read consistently, a hundred a call. Those that are not there are left out.
    pub async fn get_all(
        &self,
        keys: impl IntoIterator<Item = (&str, &str)>,
    ) -> Result<HashMap<Key, Record>, RecordError> {
        // DynamoDB refuses a call in which a key stands twice.
        let keys: BTreeSet<_> = keys.into_iter().collect();
        let keys: Vec<Item> = keys
            .into_iter()
            .map(|(id, part)| HashMap::from([("id".to_owned(), string(id)), ("part".to_owned(), string(part))]))
            .collect();
        let mut found = HashMap::with_capacity(keys.len());
        for keys in keys.chunks(READ_AT_ONCE) {
            self.read(keys.to_vec(), &mut found).await?;
        }
        Ok(found)
    }

    async fn read(&self, mut keys: Vec<Item>, found: &mut HashMap<Key, Record>) -> Result<(), RecordError> {
        let (mut pause, looks) = READ_AGAIN;
        for _ in 0..looks {
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let wanted = wanted.map_err(|error| self.not_read(SdkError::construction_failure(error)))?;
            let read = self.client.batch_get_item().request_items(&self.table, wanted).send().await;
            let read = read.map_err(|error| self.not_read(error))?;
            let items = read.responses.and_then(|mut tables| tables.remove(&self.table)).unwrap_or_default();
            found.extend(items.into_iter().filter_map(|item| {
                let key = (text(&item, "id")?.to_owned(), text(&item, "part")?.to_owned());
                Some((key, Record::read(item)))
            }));
            let left = read.unprocessed_keys.and_then(|mut tables| tables.remove(&self.table));
            keys = left.map(|left| left.keys).unwrap_or_default();
            if keys.is_empty() {
                return Ok(());
            }
            sleep(pause).await;
            pause *= 2;
        }
        Err(RecordError::Unread(self.table.clone()))
    }

    fn not_read(&self, error: SdkError<BatchGetItemError>) -> RecordError {
        RecordError::ReadAll(self.table.clone(), error.into())
    }

    /// Writes a record in place of the one that was read as `was`; the record as it is now.
    ///
    /// `item` holds the attributes without `id`, `part` and what this type keeps for itself.
    ///
    /// [`RecordError::Conflict`] where another process wrote it meanwhile.
    pub async fn put(&self, id: &str, part: &str, mut item: Item, was: &Record) -> Result<Record, RecordError> {
        let writer = Uuid::new_v4().to_string();
        let version = was.version + 1;
        item.extend([
            ("id".to_owned(), string(id)),
            ("part".to_owned(), string(part)),
            (VERSION.to_owned(), number(version)),
            (WRITER.to_owned(), string(&writer)),
        ]);
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item.clone()))
            .expression_attribute_names("#version", VERSION)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let put = if was.version == 0 {
            put.condition_expression("attribute_not_exists(#version)")
        } else {
            let put = put.condition_expression("#version = :was");
            put.expression_attribute_values(":was", number(was.version))
        };
        let Err(error) = put.send().await else { return Ok(Record { item, version }) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                let is_ours = failed.item().is_some_and(|found| text(found, WRITER) == Some(&writer));
                if is_ours { Ok(Record { item, version }) } else { Err(RecordError::Conflict) }
            }
            _ => Err(RecordError::Write(self.table.clone(), error.into())),
        }
    }
}
