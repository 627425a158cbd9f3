//! Sends messages to one queue, in batches.

use std::collections::{HashMap, VecDeque};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchError;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use gatehouse::Invocation;

use crate::batch::{BatchItem, take_batch};
use crate::error::{ForwardError, is_content_error};
use crate::message::{Message, MessageAttribute};
use crate::queue_url::QueueUrl;

/// A message to be sent, with its position.
#[derive(Debug)]
pub struct OutgoingMessage<'a> {
    /// The caller's position of the message, which is returned with the result.
    pub position: usize,
    /// The id by which a FIFO queue drops duplicates within five minutes.
    pub deduplication_id: &'a str,
    /// The message.
    pub message: Message<'a>,
}

/// Sends all pending messages, batch by batch. Returns each message's position with the result.
///
/// A group stops at its first message that must be retried; other groups continue. A queue that is inaccessible or does
/// not exist is not called again.
pub async fn send_all<'a>(
    client: &Client,
    queue: &QueueUrl,
    mut pending: VecDeque<BatchItem<'a, OutgoingMessage<'a>>>,
    invocation: &Invocation,
) -> Vec<(usize, Result<(), ForwardError>)> {
    let mut results = Vec::with_capacity(pending.len());
    // Why the remaining messages are not sent.
    let mut stopped = None;
    let mut single_sends = 0_usize;
    while !pending.is_empty() && stopped.is_none() {
        // The queue might accept a call that is cut off: on a standard queue, its messages would then arrive twice.
        if invocation.is_running_late() {
            stopped = Some(ForwardError::TooLate(queue.clone()));
            break;
        }
        let batch = if single_sends > 0 { pending.pop_front().into_iter().collect() } else { take_batch(&mut pending) };
        single_sends = single_sends.saturating_sub(1);
        let sent = match send_batch(client, queue, &batch).await {
            Ok(sent) => sent,
            // A single message may have made the whole batch fail, so each message is sent alone.
            Err(error) if batch.len() > 1 && is_content_error(error.code()) => {
                single_sends = batch.len();
                batch.into_iter().rev().for_each(|item| pending.push_front(item));
                continue;
            }
            Err(error) => vec![Err(ForwardError::from_call(queue, error)); batch.len()],
        };
        for (item, result) in batch.iter().zip(sent) {
            if let Err(error) = &result
                && !matches!(error, ForwardError::Refused(_))
            {
                if error.is_closed() {
                    stopped = Some(error.clone());
                }
                let is_blocked = |other: &BatchItem<_>| item.group.is_some() && other.group == item.group;
                pending.retain(|other| {
                    if is_blocked(other) {
                        results.push((other.content.position, Err(ForwardError::Blocked(queue.clone()))));
                    }
                    !is_blocked(other)
                });
            }
            results.push((item.content.position, result));
        }
    }
    if let Some(error) = stopped {
        if error.is_closed() {
            invocation.count("DestinationClosed");
        }
        results.extend(pending.into_iter().map(|item| (item.content.position, Err(error.clone()))));
    }
    results
}

/// Sends one batch. Returns the result of each message, in order.
async fn send_batch(
    client: &Client,
    queue: &QueueUrl,
    batch: &[BatchItem<'_, OutgoingMessage<'_>>],
) -> Result<Vec<Result<(), ForwardError>>, SdkError<SendMessageBatchError>> {
    let entries: Result<Vec<_>, _> =
        batch.iter().enumerate().map(|(id, item)| entry(id, item, queue.is_fifo())).collect();
    let entries = entries.map_err(SdkError::construction_failure)?;
    let response = client.send_message_batch().queue_url(queue.as_str()).set_entries(Some(entries)).send().await?;
    // A successful call says nothing about a single message; a message that the response does not contain counts as not
    // accepted.
    let mut results = vec![Err(ForwardError::missing_in_response(queue)); batch.len()];
    let accepted = response.successful.iter().map(|entry| (entry.id(), Ok(())));
    let failed = response.failed.iter().map(|entry| (entry.id(), Err(ForwardError::from_entry(queue, entry))));
    for (id, result) in accepted.chain(failed) {
        if let Some(slot) = id.parse::<usize>().ok().and_then(|id| results.get_mut(id)) {
            *slot = result;
        }
    }
    Ok(results)
}

fn entry(
    id: usize,
    item: &BatchItem<'_, OutgoingMessage<'_>>,
    is_fifo: bool,
) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let OutgoingMessage { deduplication_id, message, .. } = &item.content;
    let attribute = |MessageAttribute { name, data_type, value }: &MessageAttribute| {
        let value = MessageAttributeValue::builder().data_type(*data_type).string_value(&**value).build()?;
        Ok(((*name).to_owned(), value))
    };
    let attributes: Result<HashMap<_, _>, BuildError> = message.attributes.iter().map(attribute).collect();
    SendMessageBatchRequestEntry::builder()
        .id(id.to_string())
        .message_body(&*message.body)
        .set_message_attributes(Some(attributes?))
        .set_message_group_id(item.group.map(str::to_owned))
        .set_message_deduplication_id(is_fifo.then(|| (*deduplication_id).to_owned()))
        .build()
}
