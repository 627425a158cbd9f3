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
use gatehouse::item::text;
use gatehouse::{Invocation, Refusal};
use tokio::time::sleep;

use crate::Error;
use crate::puts::Put;
use crate::reading::append_quoted;

/// The longest pause before what DynamoDB left is sent again: the first time, and ever.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A table of readings.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    /// A request's text up to the first put.
    opening: Vec<u8>,
    retention: Duration,
}

impl Table {
    /// The table of this name, in which an item expires so long after the reading's receipt.
    pub fn new(client: Client, name: &str, retention: Duration) -> Self {
        let mut opening = b"{\"RequestItems\":{".to_vec();
        append_quoted(name, &mut opening);
        opening.extend_from_slice(b":[");
        Self { client, opening, retention }
    }

    /// Writes items with as few calls as it can, and says of each what became of it as soon as that is known.
    ///
    /// What DynamoDB leaves unprocessed is sent again, as long as there is time. A call that it does not take as it is,
    /// for one item that is not as it should be, is split until that one is alone.
    pub async fn write(&self, puts: Vec<&Put<'_>>, invocation: &Invocation, settle: impl Fn(&[&Put<'_>], Result<(), Error>)) {
        let (mut longest_pause, most) = PAUSES;
        let mut open = vec![puts];
        while let Some(puts) = open.pop() {
            let (text, mut puts, refused) = self.request(puts);
            for (put, refusal) in refused {
                settle(&[put], Err(Error::Refused(refusal)));
            }
            if puts.is_empty() {
                continue;
            }
            match self.send(text).await {
                Ok(answer) => {
                    let (left, written) = partition(puts, &answer);
                    settle(&written, Ok(()));
                    if left.is_empty() {
                        continue;
                    }
                    let pause = longest_pause.mul_f64(fastrand::f64());
                    if pause >= invocation.time_left() {
                        settle(&left, Err(Error::Unprocessed));
                        continue;
                    }
                    invocation.add("Unprocessed", count(&left));
                    sleep(pause).await;
                    longest_pause = most.min(longest_pause * 2);
                    open.push(left);
                }
                Err(error) if !is_about_an_item(&error) => settle(&puts, Err(Error::NotWritten(Arc::new(error)))),
                Err(_) if puts.len() > 1 => {
                    let half = puts.split_off(puts.len() / 2);
                    open.extend([half, puts]);
                }
                Err(_) => settle(&puts, Err(Error::Refused(not_storable(&puts)))),
            }
        }
    }

    async fn send(&self, text: Bytes) -> Result<BatchWriteItemOutput, SdkError<BatchWriteItemError>> {
        // Signing, time-outs, retries and the answer are the SDK's. The text alone is ours: what the SDK would make of
        // a tree of attribute values, several times as slowly.
        let request = self.client.batch_write_item().customize().mutate_request(move |request| {
            request.headers_mut().insert("content-length", text.len().to_string());
            *request.body_mut() = SdkBody::from(text.clone());
        });
        request.send().await
    }

    /// The text of a request, the puts that are in it, and those that DynamoDB could not hold.
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

/// What DynamoDB left unprocessed, and what it has written.
fn partition<'p, 'a>(puts: Vec<&'p Put<'a>>, answer: &BatchWriteItemOutput) -> (Vec<&'p Put<'a>>, Vec<&'p Put<'a>>) {
    let requests = || answer.unprocessed_items.iter().flat_map(|tables| tables.values().flatten());
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
    // Where it cannot be told what was left, nothing counts as written.
    if left.len() == requests().count() { (left, written) } else { (puts, Vec::new()) }
}

/// Whether DynamoDB would have taken the call without one of its items.
fn is_about_an_item(error: &SdkError<BatchWriteItemError>) -> bool {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    matches!(code, Some("ValidationException" | "SerializationException"))
}

fn not_storable(puts: &[&Put<'_>]) -> Refusal {
    let position = puts.iter().find_map(|put| put.reading.position);
    let noun = position.map_or_else(|| "The payload".to_owned(), |position| format!("Item {position}"));
    Refusal::new("not-storable", format!("{noun} is no reading that DynamoDB takes, for a reason of its own."))
}

/// How many these are, as a metric counts.
fn count(puts: &[&Put<'_>]) -> u64 {
    u64::try_from(puts.len()).unwrap_or(u64::MAX)
}
