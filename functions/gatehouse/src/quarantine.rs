use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;

use crate::environment::{Environment, InitError};
use crate::event::Label;
use crate::item::{number, string};
use crate::outcome::{BoxError, Refusal};
use crate::timestamp::Timestamp;

const DAY: Duration = Duration::from_hours(24);

/// The table of refused events, keyed by function and event id.
///
/// An event is kept whole, as the function got it, with the reason beside it, until its retention ends. Writing the
/// same event again replaces the item, so a retry makes no second one. An event larger than a DynamoDB item (400 KB)
/// cannot be kept here: the write fails, and the event stays in its queue and then its dead-letter queue.
#[derive(Debug, Clone)]
pub struct Quarantine {
    client: Client,
    table: String,
    function: String,
    retention: Duration,
}

impl Quarantine {
    /// Reads `QUARANTINE_TABLE` and `QUARANTINE_RETENTION_DAYS` (default 30).
    pub fn from(environment: &Environment, client: Client, function: &str) -> Result<Self, InitError> {
        Ok(Self {
            client,
            table: environment.required("QUARANTINE_TABLE")?,
            function: function.to_owned(),
            retention: DAY * environment.optional("QUARANTINE_RETENTION_DAYS")?.unwrap_or(30),
        })
    }

    pub(crate) async fn put(
        &self,
        label: &Label,
        text: &str,
        refusal: &Refusal,
        request_id: &str,
        received_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), BoxError> {
        let mut item = HashMap::from([
            ("function".to_owned(), string(&self.function)),
            ("eventId".to_owned(), string(&label.id)),
            ("event".to_owned(), string(text)),
            ("reason".to_owned(), string(refusal.code)),
            ("why".to_owned(), string(refusal.why.as_ref())),
            ("requestId".to_owned(), string(request_id)),
            ("receivedAt".to_owned(), number(received_at.millis())),
            ("refusedAt".to_owned(), number(now.millis())),
            ("expiration".to_owned(), number(now.plus(self.retention).seconds())),
        ]);
        let known = [("thing", &label.thing), ("topic", &label.topic)];
        item.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), string(value.as_deref()?)))));
        self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await?;
        Ok(())
    }

    /// One cheap read, so that the connection to DynamoDB stands before the first event comes.
    pub(crate) async fn warm(&self) -> Result<(), BoxError> {
        self.client
            .get_item()
            .table_name(&self.table)
            .key("function", string(&self.function))
            .key("eventId", string("warm-up"))
            .send()
            .await?;
        Ok(())
    }
}
