//! Sends what waits for one destination, and tells each message's fate.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchError;
use aws_sdk_sqs::types::{BatchResultErrorEntry, MessageAttributeValue, SendMessageBatchRequestEntry};
use gatehouse::{Invocation, Failure, Refusal};

use crate::message::{Attribute, Message};
use crate::packing::{Piece, take_batch};
use crate::queue_url::QueueUrl;

/// A message, and the event that it comes from.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Which of the invocation's events it is.
    pub event: usize,
    /// What a FIFO queue knows it by, so that it is taken once in five minutes.
    pub deduplication_id: &'a str,
    /// What is sent.
    pub message: Message<'a>,
}

/// Why a queue did not take a message.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotTaken {
    /// It will never take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The queue may not be sent to. An operator has to do something about it, in this account or in the queue's.
    #[error("sending to queue {to} is denied; likely missing: {grant}")]
    Denied {
        /// The queue.
        to: QueueUrl,
        /// What likely has to be granted, and where.
        grant: &'static str,
        /// What AWS answered.
        source: Arc<SdkError<SendMessageBatchError>>,
    },
    /// There is no such queue. An operator has to do something about it.
    #[error(
        "there is no queue {to}; it was deleted, or the destination's URL is wrong, or perhaps neither account lets \
         this function's role send to it"
    )]
    Gone {
        /// The queue.
        to: QueueUrl,
        /// What AWS answered.
        source: Arc<SdkError<SendMessageBatchError>>,
    },
    /// The call failed, with all messages in it.
    #[error("queue {to} did not take the batch")]
    Batch {
        /// The queue.
        to: QueueUrl,
        /// What went wrong.
        source: Arc<SdkError<SendMessageBatchError>>,
    },
    /// The queue took others of the batch.
    #[error("queue {to} did not take this message: {code}")]
    Message {
        /// The queue.
        to: QueueUrl,
        /// AWS's code of the reason.
        code: String,
    },
    /// An earlier message of the same thing must go first.
    #[error("queue {0} has not taken an earlier message of the same thing")]
    Behind(QueueUrl),
    /// The next invocation has more time for it.
    #[error("too little time was left to send to queue {0}")]
    Late(QueueUrl),
}

impl From<NotTaken> for Failure {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Refused(refusal) => refusal.into(),
            other @ (NotTaken::Denied { .. }
            | NotTaken::Gone { .. }
            | NotTaken::Batch { .. }
            | NotTaken::Message { .. }
            | NotTaken::Behind(_)
            | NotTaken::Late(_)) => Self::retry(other),
        }
    }
}

/// Sends all that waits, batch by batch; each event's fate.
///
/// A group stops at its first message that is to be tried again, and the others go on. A queue that is closed to us is
/// not asked again for what is left.
pub async fn send_all<'a>(
    client: &Client,
    to: &QueueUrl,
    mut waiting: VecDeque<Piece<'a, Outgoing<'a>>>,
    invocation: &Invocation,
) -> Vec<(usize, Result<(), NotTaken>)> {
    let mut fates = Vec::with_capacity(waiting.len());
    let mut closed = None;
    let mut alone = 0_usize;
    while !waiting.is_empty() && closed.is_none() {
        // A call that is cut off may have been taken: on a standard queue the message would be there twice.
        if invocation.is_running_late() {
            closed = Some(NotTaken::Late(to.clone()));
            break;
        }
        let batch = if alone > 0 { waiting.pop_front().into_iter().collect() } else { take_batch(&mut waiting) };
        alone = alone.saturating_sub(1);
        let sent = match send(client, to, &batch).await {
            Ok(sent) => sent,
            // One message may be the reason why its neighbours were turned away: each goes alone.
            Err(error) if batch.len() > 1 && is_about_content(error.code()) => {
                alone = batch.len();
                batch.into_iter().rev().for_each(|piece| waiting.push_front(piece));
                continue;
            }
            Err(error) => vec![Err(failure(to, error)); batch.len()],
        };
        for (piece, taken) in batch.iter().zip(sent) {
            if let Err(error) = &taken
                && !matches!(error, NotTaken::Refused(_))
            {
                if matches!(error, NotTaken::Denied { .. } | NotTaken::Gone { .. }) {
                    closed = Some(error.clone());
                }
                let is_behind = |other: &Piece<_>| piece.group.is_some() && other.group == piece.group;
                waiting.retain(|other| {
                    if is_behind(other) {
                        fates.push((other.content.event, Err(NotTaken::Behind(to.clone()))));
                    }
                    !is_behind(other)
                });
            }
            fates.push((piece.content.event, taken));
        }
    }
    if let Some(error) = closed {
        if !matches!(error, NotTaken::Late(_)) {
            invocation.count("DestinationClosed");
        }
        fates.extend(waiting.into_iter().map(|piece| (piece.content.event, Err(error.clone()))));
    }
    fates
}

/// Sends one batch; the fate of each of its messages, in their order.
async fn send(
    client: &Client,
    to: &QueueUrl,
    batch: &[Piece<'_, Outgoing<'_>>],
) -> Result<Vec<Result<(), NotTaken>>, SdkError<SendMessageBatchError>> {
    let entries: Result<Vec<_>, _> =
        batch.iter().enumerate().map(|(id, piece)| entry(id, piece, to.is_fifo())).collect();
    let entries = entries.map_err(SdkError::construction_failure)?;
    let answer = client.send_message_batch().queue_url(to.as_str()).set_entries(Some(entries)).send().await?;
    // The call's success says nothing of a message; one that the answer does not name counts as not taken.
    let mut fates = vec![Err(unanswered(to)); batch.len()];
    let taken = answer.successful.iter().map(|entry| (entry.id(), Ok(())));
    let failed = answer.failed.iter().map(|entry| (entry.id(), Err(reason(to, entry))));
    for (id, fate) in taken.chain(failed) {
        if let Some(slot) = id.parse::<usize>().ok().and_then(|id| fates.get_mut(id)) {
            *slot = fate;
        }
    }
    Ok(fates)
}

fn entry(
    id: usize,
    piece: &Piece<'_, Outgoing<'_>>,
    is_fifo: bool,
) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let Outgoing { deduplication_id, message, .. } = &piece.content;
    let attribute = |Attribute { name, data_type, value }: &Attribute| {
        let value = MessageAttributeValue::builder().data_type(*data_type).string_value(&**value).build()?;
        Ok(((*name).to_owned(), value))
    };
    let attributes: Result<HashMap<_, _>, BuildError> = message.attributes.iter().map(attribute).collect();
    SendMessageBatchRequestEntry::builder()
        .id(id.to_string())
        .message_body(&*message.body)
        .set_message_attributes(Some(attributes?))
        .set_message_group_id(piece.group.map(str::to_owned))
        .set_message_deduplication_id(is_fifo.then(|| (*deduplication_id).to_owned()))
        .build()
}

/// Why one message of a batch was not taken. `SenderFault` does not decide alone: throttling counts as the sender's
/// too.
fn reason(to: &QueueUrl, entry: &BatchResultErrorEntry) -> NotTaken {
    if entry.sender_fault() && is_about_content(Some(entry.code())) {
        return not_taken();
    }
    NotTaken::Message { to: to.clone(), code: entry.code().to_owned() }
}

fn unanswered(to: &QueueUrl) -> NotTaken {
    NotTaken::Message { to: to.clone(), code: "the answer does not name it".to_owned() }
}

fn not_taken() -> NotTaken {
    let why =
        "The destination's queue takes no such message: too large for it, or with characters that it does not carry.";
    Refusal::new("not-taken", why).into()
}

/// Whether the message itself is at fault, and would be again. What is not known here is tried again: it is not lost in
/// the dead-letter queue either.
fn is_about_content(code: Option<&str>) -> bool {
    let code = code.unwrap_or_default().rsplit('.').next().unwrap_or_default();
    matches!(code, "InvalidMessageContents" | "InvalidParameterValue" | "InvalidAttributeValue" | "BatchRequestTooLong")
}

fn failure(to: &QueueUrl, error: SdkError<SendMessageBatchError>) -> NotTaken {
    let (to, source) = (to.clone(), Arc::new(error));
    let code = source.code().unwrap_or_default();
    match code {
        "AccessDenied" | "AccessDeniedException" | KEY_DENIED => {
            let grant = missing_grant(code, source.message().unwrap_or_default());
            NotTaken::Denied { to, grant, source }
        }
        // The second is the API's newer name for it, should the older one's header be missing.
        "AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist" => NotTaken::Gone { to, source },
        _ if is_about_content(Some(code)) => not_taken(),
        _ => NotTaken::Batch { to, source },
    }
}

/// The code where the queue's key may not be used.
const KEY_DENIED: &str = "KMS.AccessDeniedException";

/// What likely has to be granted, by what AWS says of the denial.
fn missing_grant(code: &str, message: &str) -> &'static str {
    if code == KEY_DENIED {
        "keys that SQS manages (SqsManagedSseEnabled) on the queue, which need no grant; this function's role may use \
         no KMS key"
    } else if message.contains("identity-based policy") {
        "sqs:SendMessage on the queue in this function's role (its template's DestinationQueueArns); the queue's policy \
         must allow it as well"
    } else if message.contains("resource-based policy") {
        "an Allow for this function's role in the queue's policy (its template's SenderRoleName and SenderAccountId)"
    } else {
        "an Allow for this function's role in the queue's policy, or sqs:SendMessage on the queue in the role itself"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likely_grant_follows_from_what_aws_says() {
        let denied = "User: arn:aws:sts::111111111111:assumed-role/r/s is not authorized to perform: sqs:sendmessage \
                      on resource: arn:aws:sqs:eu-west-1:222222222222:weather because no";
        for (code, message, grant) in [
            (
                "AccessDenied",
                format!("{denied} identity-based policy allows the sqs:sendmessage action"),
                "in this function's",
            ),
            (
                "AccessDenied",
                format!("{denied} resource-based policy allows the sqs:sendmessage action"),
                "in the queue's",
            ),
            ("AccessDenied", "Access to the resource is denied.".to_owned(), "queue's policy, or"),
            (KEY_DENIED, String::new(), "SqsManagedSseEnabled"),
        ] {
            let found = missing_grant(code, &message);
            assert!(found.contains(grant), "{message}: {found}");
        }
    }
}
