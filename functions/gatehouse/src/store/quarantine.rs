use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;

use crate::event::envelope::{Envelope, Label};
use crate::runtime::environment::{Environment, InitError};
use crate::runtime::invocation::Invocation;
use crate::runtime::outcome::{Failure, Refusal};
use crate::store::item::{number, string};

const DAY: Duration = Duration::from_hours(24);

/// The table of refused events, keyed by function and event id.
///
/// An event is stored whole, as the function received it, together with the reason, for a retention period. Writing the
/// same event again replaces the item, so a retry does not add a second one. An event larger than a DynamoDB item (400
/// KB) does not fit: the write fails, and the event stays in its queue and finally moves to the dead-letter queue.
#[derive(Debug, Clone)]
pub struct Quarantine {
    client: Client,
    table: String,
    function: String,
    retention: Duration,
}

/// A refused event could not be quarantined.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The table could not be written.
    #[error("failed to quarantine the event")]
    Put(#[from] Box<SdkError<PutItemError>>),
    /// The invocation's time ended first.
    #[error("failed to quarantine the event: the invocation ran out of time")]
    Timeout,
}

impl From<QuarantineError> for Failure {
    fn from(error: QuarantineError) -> Self {
        Self::retry(error)
    }
}

impl Quarantine {
    /// Reads `QUARANTINE_TABLE` and `QUARANTINE_RETENTION_DAYS` (default 30).
    pub fn from_environment(environment: &Environment, client: Client, function: &str) -> Result<Self, InitError> {
        Ok(Self {
            client,
            table: environment.required("QUARANTINE_TABLE")?,
            function: function.to_owned(),
            retention: DAY * environment.optional("QUARANTINE_RETENTION_DAYS")?.unwrap_or(30),
        })
    }

    pub(crate) async fn put(
        &self,
        envelope: &Envelope<'_>,
        label: &Label,
        refusal: &Refusal,
        invocation: &Invocation,
    ) -> Result<(), QuarantineError> {
        let now = invocation.now();
        let mut item = HashMap::from([
            ("function".to_owned(), string(&self.function)),
            ("eventId".to_owned(), string(&label.id)),
            ("event".to_owned(), string(envelope.text)),
            ("reason".to_owned(), string(refusal.code)),
            ("why".to_owned(), string(refusal.why.as_ref())),
            ("requestId".to_owned(), string(invocation.request_id())),
            ("receivedAt".to_owned(), number(envelope.delivered_at.millis())),
            ("refusedAt".to_owned(), number(now.millis())),
            ("expiration".to_owned(), number(now.plus(self.retention).seconds())),
        ]);
        let known = [("thing", &label.thing), ("certificateId", &label.certificate_id), ("topic", &label.topic)];
        item.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), string(value.as_deref()?)))));
        self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await.map_err(Box::new)?;
        Ok(())
    }

    /// Makes one cheap read, so that the connection to DynamoDB is open before the first event arrives.
    pub(crate) async fn warm_up(&self) -> Result<(), SdkError<GetItemError>> {
        let get = self.client.get_item().table_name(&self.table);
        get.key("function", string(&self.function)).key("eventId", string("warm-up")).send().await?;
        Ok(())
    }
}
