//! The table of readings, written with `BatchWriteItem`.
//! <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html>

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::batch_write_item::{BatchWriteItemError, BatchWriteItemOutput};
use aws_sdk_dynamodb::types::WriteRequest;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use gatehouse::store::item::text;
use gatehouse::{Failure, Invocation, Refusal};
use tokio::time::sleep;

use crate::puts::Put;
use crate::reading::append_quoted;

/// The maximum pause before unprocessed items are sent again: the first time, and in general.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Why a reading was not stored. A failed call shares its error among all its readings.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// DynamoDB cannot store it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The call failed.
    #[error("failed to write the telemetry table")]
    Call(#[source] Arc<SdkError<BatchWriteItemError>>),
    /// DynamoDB left it unprocessed until time ran out.
    #[error("failed to write the telemetry table: the item stayed unprocessed")]
    Unprocessed,
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(refusal) => refusal.into(),
            other @ (WriteError::Call(_) | WriteError::Unprocessed) => Self::retry(other),
        }
    }
}

/// A table of readings.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    /// The request's text up to the first put.
    opening: Vec<u8>,
    retention: Duration,
}

impl Table {
    /// The table of this name. Items expire when `retention` has passed since their readings were received.
    pub fn new(client: Client, name: &str, retention: Duration) -> Self {
        let mut opening = b"{\"RequestItems\":{".to_vec();
        append_quoted(name, &mut opening);
        opening.extend_from_slice(b":[");
        Self { client, opening, retention }
    }

    /// Writes puts with as few calls as possible, and settles each as soon as its result is known.
    ///
    /// Unprocessed items are sent again while there is time. A call that is rejected because of one invalid item is
    /// split until that item is alone.
    pub async fn write(
        &self,
        puts: Vec<&Put<'_>>,
        invocation: &Invocation,
        settle: impl Fn(&[&Put<'_>], Result<(), WriteError>),
    ) {
        let mut pause_limit = FIRST_PAUSE;
        let mut remaining = vec![puts];
        while let Some(puts) = remaining.pop() {
            let (text, mut puts, refused) = self.request(puts);
            for (put, refusal) in refused {
                settle(&[put], Err(WriteError::Refused(refusal)));
            }
            if puts.is_empty() {
                continue;
            }
            match self.send(text).await {
                Ok(response) => {
                    let (left, written) = partition(puts, &response);
                    settle(&written, Ok(()));
                    if left.is_empty() {
                        continue;
                    }
                    let pause = pause_limit.mul_f64(fastrand::f64());
                    if pause >= invocation.time_left() {
                        settle(&left, Err(WriteError::Unprocessed));
                        continue;
                    }
                    invocation.add("Unprocessed", count(&left));
                    sleep(pause).await;
                    pause_limit = MAX_PAUSE.min(pause_limit * 2);
                    remaining.push(left);
                }
                Err(error) if !is_about_an_item(&error) => settle(&puts, Err(WriteError::Call(Arc::new(error)))),
                Err(_) if puts.len() > 1 => {
                    let half = puts.split_off(puts.len() / 2);
                    remaining.extend([half, puts]);
                }
                Err(_) => settle(&puts, Err(WriteError::Refused(not_storable(&puts)))),
            }
        }
    }

    async fn send(&self, text: Bytes) -> Result<BatchWriteItemOutput, SdkError<BatchWriteItemError>> {
        // Replaces only the request's body, which the SDK would take several times as long to build from a tree of
        // attribute values. The SDK still does the signing, timeouts, retries and the parsing of the response.
        let request = self.client.batch_write_item().customize().mutate_request(move |request| {
            request.headers_mut().insert("content-length", text.len().to_string());
            *request.body_mut() = SdkBody::from(text.clone());
        });
        request.send().await
    }

    /// Returns the text of a request, the puts in it, and those that DynamoDB cannot store.
    fn request<'p, 'a>(&self, puts: Vec<&'p Put<'a>>) -> (Bytes, Vec<&'p Put<'a>>, Vec<(&'p Put<'a>, Refusal)>) {
        let mut text = Vec::with_capacity(self.opening.len() + puts.len() * 1024);
        text.extend_from_slice(&self.opening);
        let (mut taken, mut refused) = (Vec::with_capacity(puts.len()), Vec::new());
        for put in puts {
            let end = text.len();
            if !taken.is_empty() {
                text.push(b',');
            }
            match put.reading.append_put(self.retention, &mut text) {
                Ok(()) => taken.push(put),
                Err(refusal) => {
                    text.truncate(end);
                    refused.push((put, refusal));
                }
            }
        }
        text.extend_from_slice(b"]}}");
        (text.into(), taken, refused)
    }
}

/// Separates puts into those that DynamoDB left unprocessed, and those that it wrote.
fn partition<'p, 'a>(puts: Vec<&'p Put<'a>>, response: &BatchWriteItemOutput) -> (Vec<&'p Put<'a>>, Vec<&'p Put<'a>>) {
    let requests = || response.unprocessed_items.iter().flat_map(|tables| tables.values().flatten());
    let key = |request: &'_ WriteRequest| {
        let item = &request.put_request.as_ref()?.item;
        Some((text(item, "thing")?.to_owned(), text(item, "at")?.to_owned()))
    };
    let keys: HashSet<_> = requests().filter_map(key).collect();
    let is_left = |put: &&Put<'_>| {
        let (thing, at) = put.reading.key();
        !keys.is_empty() && keys.contains(&(thing.to_owned(), at.to_string()))
    };
    let (left, written): (Vec<_>, Vec<_>) = puts.iter().partition(|put| is_left(put));
    // If it is unclear which puts were left, none counts as written.
    if left.len() == requests().count() { (left, written) } else { (puts, Vec::new()) }
}

/// Whether the error may be the fault of a single item, without which DynamoDB would have accepted the call.
fn is_about_an_item(error: &SdkError<BatchWriteItemError>) -> bool {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    matches!(code, Some("ValidationException" | "SerializationException"))
}

fn not_storable(puts: &[&Put<'_>]) -> Refusal {
    let position = puts.iter().find_map(|put| put.reading.position);
    let noun = position.map_or_else(|| "The payload".to_owned(), |position| format!("Item {position}"));
    Refusal::new("not-storable", format!("{noun} is a reading that DynamoDB rejected."))
}

fn count(puts: &[&Put<'_>]) -> u64 {
    u64::try_from(puts.len()).unwrap_or(u64::MAX)
}
