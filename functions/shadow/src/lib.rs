//! `$aws/things/+/shadow/…/update/documents` and `…/delete/accepted`: the newest reported and desired state of each
//! shadow, classic or named, whatever order it arrives in.
//!
//! Each message is held against the shadow's record, under optimistic locking, and only what is newer changes it: see
//! [`shadow`]. The state is kept as the JSON text that arrived: a number in it may have more digits than Amazon
//! DynamoDB keeps, and nothing here looks into it. Where a history is kept, each message becomes an item of its own
//! there, late ones too, and a message that comes again becomes the same item.

pub mod event;
pub mod history;
pub mod shadow;

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::item::{Item, integer, is_true, number, string};
use gatehouse::{
    BoxError, Invocation, DeviceEvent, EventHandler, Environment, Failure, InitError, RecordError, Records, Refusal, Setup, Timestamp,
};

use crate::event::Change;
use crate::history::{History, NotKept};
use crate::shadow::{News, Stamp, news};

/// How long a deletion is remembered: longer than AWS goes on counting the shadow's versions (48 hours), and than a
/// message can wait in a queue and its dead-letter queue.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);

/// The handler of shadows' documents and deletions.
#[derive(Debug)]
pub struct Handler {
    records: Records,
    history: Option<History>,
}

/// Why an event is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not an event that we take.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The shadow's record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The shadow's record is not one that this function writes: it was changed by hand, or by a newer version of it.
    #[error("the shadow's record in the devices table cannot be used")]
    Unreadable(#[source] BoxError),
    /// The history did not take it.
    #[error(transparent)]
    NotKept(#[from] NotKept),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            other @ (Error::Record(_) | Error::Unreadable(_) | Error::NotKept(_)) => Self::retry(other),
        }
    }
}

impl Handler {
    /// The handler that the process's environment describes.
    pub fn new(setup: &Setup) -> Result<Self, InitError> {
        Self::from(setup.environment(), setup.dynamodb())
    }

    /// Reads `DEVICES_TABLE` and what [`History::from`] reads.
    pub fn from(environment: &Environment, client: aws_sdk_dynamodb::Client) -> Result<Self, InitError> {
        let records = Records::new(client.clone(), environment.required::<String>("DEVICES_TABLE")?);
        Ok(Self { records, history: History::from(environment, client)? })
    }
}

impl EventHandler for Handler {
    type Input = DeviceEvent;
    type Error = Error;

    async fn handle(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Error> {
        let change = Change::read(event)?;
        if let Some(history) = &self.history {
            history.keep(&event.thing, &change).await?;
        }
        let (id, part) = (format!("thing#{}", event.thing), format!("shadow#{}", change.shadow));
        loop {
            let was = self.records.get(&id, &part).await?;
            match news(held(&was.item)?, change.stamp) {
                News::Newer => match self.records.put(&id, &part, record(&change), &was).await {
                    // Another process wrote it meanwhile: which is the newer one is decided anew.
                    Err(RecordError::Conflict) => {}
                    other => return Ok(other.map(drop)?),
                },
                News::Repeated => {
                    invocation.count("Repeated");
                    return Ok(());
                }
                News::Older => {
                    invocation.count("Late");
                    return Ok(());
                }
            }
        }
    }
}

/// What is held of a shadow; none where there is no record.
fn held(item: &Item) -> Result<Option<Stamp>, Error> {
    if item.is_empty() {
        return Ok(None);
    }
    let whole = |name: &str| {
        let missing = || Error::Unreadable(format!("attribute {name} is not there or of another kind").into());
        integer(item, name).ok_or_else(missing)
    };
    let at = Timestamp::from_millis(whole("timestamp")?.saturating_mul(1000));
    Ok(Some(Stamp { version: whole("shadowVersion")?, at, is_deleted: is_true(item, "deleted") }))
}

/// The record's attributes. Of a shadow that is gone for good, it goes too, but for what may still come late.
fn record(change: &Change<'_>) -> Item {
    let mut item = item(change);
    if change.stamp.is_deleted {
        let expiration = change.stamp.at.plus(FORGOTTEN_AFTER);
        item.insert("expiration".to_owned(), number(expiration.seconds()));
    }
    item
}

/// The record's attributes, and those of the history's items: `desired` and `reported` as JSON text, where they are
/// there; `timestamp` in seconds, as AWS gives it. (`version` is the record's own.)
fn item(change: &Change<'_>) -> Item {
    let Stamp { version, at, is_deleted } = change.stamp;
    let always = [
        ("shadowVersion", number(version)),
        ("timestamp", number(at.seconds())),
        ("deleted", AttributeValue::Bool(is_deleted)),
    ];
    let state = [("desired", change.desired), ("reported", change.reported)];
    let state = state.into_iter().filter_map(|(name, state)| Some((name, string(state?))));
    always.into_iter().chain(state).map(|(name, value)| (name.to_owned(), value)).collect()
}
