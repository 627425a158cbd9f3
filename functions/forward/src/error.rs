use std::sync::Arc;

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchError;
use aws_sdk_sqs::types::BatchResultErrorEntry;
use gatehouse::{DocumentError, Failure, Refusal, TableError};

use crate::queue_url::QueueUrl;

/// The error code for denied access to the queue's KMS key.
const KMS_ACCESS_DENIED: &str = "KMS.AccessDeniedException";

/// Why a destination did not accept a message.
///
/// Cloned for each message that has the same reason.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ForwardError {
    /// The destination will never accept the message.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The destinations could not be read.
    #[error("failed to read the destinations")]
    Destinations(#[source] Arc<DocumentError>),
    /// The destinations that have already accepted the message could not be read.
    #[error("failed to read which destinations have accepted the message")]
    DeliveryRecords(#[source] Arc<TableError>),
    /// The function lacks permission to send to the queue. An operator must grant it, in this account or in the
    /// queue's.
    #[error("access to queue {queue} is denied; likely missing: {grant}")]
    Denied {
        /// The queue.
        queue: QueueUrl,
        /// What likely must be granted, and where.
        grant: &'static str,
        /// The response of Amazon SQS.
        source: Arc<SdkError<SendMessageBatchError>>,
    },
    /// The queue does not exist. An operator must fix that.
    #[error(
        "there is no queue {queue}; it was deleted, or the destination's URL is wrong, or neither account allows this \
         function's role to send to it"
    )]
    QueueNotFound {
        /// The queue.
        queue: QueueUrl,
        /// The response of Amazon SQS.
        source: Arc<SdkError<SendMessageBatchError>>,
    },
    /// The call failed, and with it all its messages.
    #[error("failed to send a batch to queue {queue}")]
    Batch {
        /// The queue.
        queue: QueueUrl,
        /// What went wrong.
        source: Arc<SdkError<SendMessageBatchError>>,
    },
    /// The queue accepted the batch without this message.
    #[error("queue {queue} did not accept the message: {reason}")]
    Message {
        /// The queue.
        queue: QueueUrl,
        /// The error code of Amazon SQS, or what was wrong with its response.
        reason: String,
    },
    /// An earlier message of the same thing must be sent first.
    #[error("queue {0} has not accepted an earlier message of the same thing")]
    Blocked(QueueUrl),
    /// Too little time is left in this invocation.
    #[error("too little time is left to send to queue {0}")]
    TooLate(QueueUrl),
}

impl From<ForwardError> for Failure {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Refused(refusal) => refusal.into(),
            other @ (ForwardError::Destinations(_)
            | ForwardError::DeliveryRecords(_)
            | ForwardError::Denied { .. }
            | ForwardError::QueueNotFound { .. }
            | ForwardError::Batch { .. }
            | ForwardError::Message { .. }
            | ForwardError::Blocked(_)
            | ForwardError::TooLate(_)) => Self::retry(other),
        }
    }
}

impl ForwardError {
    /// Whether the queue will accept nothing until an operator fixes something.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::QueueNotFound { .. })
    }

    /// The error of a call that failed as a whole.
    pub(crate) fn from_call(queue: &QueueUrl, error: SdkError<SendMessageBatchError>) -> Self {
        let (queue, source) = (queue.clone(), Arc::new(error));
        let code = source.code().unwrap_or_default();
        match code {
            "AccessDenied" | "AccessDeniedException" | KMS_ACCESS_DENIED => {
                let grant = missing_grant(code, source.message().unwrap_or_default());
                Self::Denied { queue, grant, source }
            }
            // The second code is the API's newer name for the error, in case the header with the older one is missing.
            "AWS.SimpleQueueService.NonExistentQueue" | "QueueDoesNotExist" => Self::QueueNotFound { queue, source },
            _ if is_content_error(Some(code)) => not_accepted(),
            _ => Self::Batch { queue, source },
        }
    }

    /// The error of one message in a batch. `SenderFault` alone does not decide, because throttling counts as the
    /// sender's fault, too.
    pub(crate) fn from_entry(queue: &QueueUrl, entry: &BatchResultErrorEntry) -> Self {
        if entry.sender_fault() && is_content_error(Some(entry.code())) {
            return not_accepted();
        }
        Self::Message { queue: queue.clone(), reason: entry.code().to_owned() }
    }

    /// The error of a message that the response does not name.
    pub(crate) fn missing_in_response(queue: &QueueUrl) -> Self {
        Self::Message { queue: queue.clone(), reason: "the response does not contain it".to_owned() }
    }
}

/// Whether the message itself is the cause, so that it would fail again. Messages with an unknown code are retried: in
/// the worst case they end up in the dead-letter queue, where they are not lost either.
pub(crate) fn is_content_error(code: Option<&str>) -> bool {
    let code = code.unwrap_or_default().rsplit('.').next().unwrap_or_default();
    matches!(code, "InvalidMessageContents" | "InvalidParameterValue" | "InvalidAttributeValue" | "BatchRequestTooLong")
}

fn not_accepted() -> ForwardError {
    let why = "The destination's queue does not accept the message: it is too large for the queue, or contains \
               characters that Amazon SQS does not support.";
    Refusal::new("not-taken", why).into()
}

/// Returns what likely must be granted, judging by AWS's message about the denial.
fn missing_grant(code: &str, message: &str) -> &'static str {
    if code == KMS_ACCESS_DENIED {
        "SQS-managed keys (SqsManagedSseEnabled) on the queue, which need no grant; this function's role may not use \
         any KMS key"
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
    fn likely_grant_follows_from_the_response() {
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
            (KMS_ACCESS_DENIED, String::new(), "SqsManagedSseEnabled"),
        ] {
            let found = missing_grant(code, &message);
            assert!(found.contains(grant), "{message}: {found}");
        }
    }
}
