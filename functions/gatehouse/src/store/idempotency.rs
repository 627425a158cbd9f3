use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use tokio::time::timeout;
use uuid::Uuid;

use crate::runtime::environment::{Environment, InitError};
use crate::runtime::invocation::Invocation;
use crate::runtime::outcome::{BoxError, Failure, error_chain};
use crate::store::item::{number, string, text};

const IN_PROGRESS: &str = "INPROGRESS";
const COMPLETED: &str = "COMPLETED";

/// How long before the handlers' cutoff an attempt to mark an effect as completed is given up.
const RESPONSE_RESERVE: Duration = Duration::from_millis(100);

/// The table of effects that have been performed or claimed.
///
/// An effect is claimed, performed, then marked `COMPLETED`. The claim identifies its owner by a token and expires with
/// the invocation that took it, so that a process that dies holding it does not block the retry. Every condition checks
/// for expiry itself; DynamoDB's time to live, which may act days late, only cleans up.
///
/// Amazon SNS has no idempotency of its own, so the guarantee for a notification is *at least once*: it is sent twice
/// only if the process dies, or the response is lost, between SNS accepting it and the mark.
///
/// The attributes' names and states are those of Powertools for AWS Lambda, with `owner` added.
#[derive(Debug, Clone)]
pub struct Idempotency {
    client: Client,
    table: String,
    function: String,
    expires_after: Duration,
}

/// The result of an effect that must happen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// It was performed just now.
    Completed,
    /// It had been performed before.
    AlreadyCompleted,
}

/// Why an effect was not performed.
#[derive(Debug, thiserror::Error)]
pub enum IdempotencyError<E> {
    /// Another process holds the claim and may still succeed.
    #[error("another invocation is handling this event")]
    AlreadyInProgress,
    /// The claim could not be written.
    #[error("failed to write the claim to the idempotency table")]
    Claim(#[from] Box<SdkError<PutItemError>>),
    /// Too little time was left after claiming, so the effect is left to the next attempt. The claim has been released.
    #[error("too little time is left to perform the effect")]
    TooLate,
    /// The effect itself failed. The claim has been released.
    #[error(transparent)]
    Effect(E),
}

impl<E: Into<Failure> + Send + Sync + std::error::Error + 'static> From<IdempotencyError<E>> for Failure {
    fn from(error: IdempotencyError<E>) -> Self {
        match error {
            IdempotencyError::Effect(effect) => effect.into(),
            other => Self::retry(other),
        }
    }
}

enum Claim {
    Acquired(ClaimGuard),
    AlreadyCompleted,
    AlreadyInProgress,
}

struct ClaimGuard {
    id: String,
    owner: String,
}

impl Idempotency {
    /// Reads `IDEMPOTENCY_TABLE` and `IDEMPOTENCY_EXPIRES_AFTER_SECONDS` (default one day).
    pub fn from_environment(environment: &Environment, client: Client, function: &str) -> Result<Self, InitError> {
        Ok(Self {
            client,
            table: environment.required("IDEMPOTENCY_TABLE")?,
            function: function.to_owned(),
            expires_after: Duration::from_secs(
                environment.optional("IDEMPOTENCY_EXPIRES_AFTER_SECONDS")?.unwrap_or(24 * 60 * 60),
            ),
        })
    }

    /// Performs `effect`, unless it has been performed for this key before.
    pub async fn run_once<E>(
        &self,
        key: &str,
        invocation: &Invocation,
        effect: impl Future<Output = Result<(), E>>,
    ) -> Result<Execution, IdempotencyError<E>> {
        let claim = match self.claim(key, invocation).await.map_err(Box::new)? {
            Claim::Acquired(claim) => claim,
            Claim::AlreadyCompleted => return Ok(Execution::AlreadyCompleted),
            Claim::AlreadyInProgress => return Err(IdempotencyError::AlreadyInProgress),
        };
        run_claimed(&claim.id, invocation, effect, self.complete(&claim, invocation), self.release(&claim)).await?;
        Ok(Execution::Completed)
    }

    async fn claim(&self, key: &str, invocation: &Invocation) -> Result<Claim, SdkError<PutItemError>> {
        let claim = ClaimGuard { id: format!("{}#{key}", self.function), owner: Uuid::new_v4().to_string() };
        let now = invocation.now();
        let written = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("id", string(&claim.id))
            .item("owner", string(&claim.owner))
            .item("status", string(IN_PROGRESS))
            .item("in_progress_expiration", number(invocation.deadline().millis()))
            .item("expiration", number(now.plus(self.expires_after).seconds()))
            .condition_expression(
                "attribute_not_exists(id) OR expiration < :seconds \
                 OR (#status = :in_progress AND in_progress_expiration < :millis)",
            )
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":in_progress", string(IN_PROGRESS))
            .expression_attribute_values(":seconds", number(now.seconds()))
            .expression_attribute_values(":millis", number(now.millis()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = written else { return Ok(Claim::Acquired(claim)) };
        let Some(PutItemError::ConditionalCheckFailedException(refused)) = error.as_service_error() else {
            return Err(error);
        };
        let has = |name: &str, value: &str| {
            refused.item().is_some_and(|item| text(item, name).is_some_and(|found| found == value))
        };
        Ok(if has("owner", &claim.owner) {
            // The claim was written, the response was lost, and the SDK's own retry found our own item.
            Claim::Acquired(claim)
        } else if has("status", COMPLETED) {
            Claim::AlreadyCompleted
        } else {
            Claim::AlreadyInProgress
        })
    }

    async fn complete(&self, claim: &ClaimGuard, invocation: &Invocation) -> Result<(), BoxError> {
        self.client
            .update_item()
            .table_name(&self.table)
            .key("id", string(&claim.id))
            .update_expression("SET #status = :completed, expiration = :expiration")
            .condition_expression("#owner = :owner")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", string(&claim.owner))
            .expression_attribute_values(":completed", string(COMPLETED))
            .expression_attribute_values(":expiration", number(invocation.now().plus(self.expires_after).seconds()))
            .send()
            .await?;
        Ok(())
    }

    async fn release(&self, claim: &ClaimGuard) -> Result<(), BoxError> {
        let released = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("id", string(&claim.id))
            .condition_expression("#owner = :owner")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", string(&claim.owner))
            .send()
            .await;
        match released {
            Ok(_) => Ok(()),
            // Already gone: the response to the first attempt was lost, or the claim expired and another invocation
            // took it.
            Err(error)
                if error.as_service_error().is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Performs an effect under the claim `id`: marks the claim as completed if the effect succeeds, and releases it if
/// not, so that the retry need not wait for the claim to expire.
///
/// An effect that is in place counts as done even if marking it fails or times out: a retry would certainly repeat the
/// effect, while acknowledging the event repeats it only if AWS delivers the event again. Such cases count in the
/// metric `Unmarked`.
pub async fn run_claimed<E>(
    id: &str,
    invocation: &Invocation,
    effect: impl Future<Output = Result<(), E>>,
    complete: impl Future<Output = Result<(), BoxError>>,
    release: impl Future<Output = Result<(), BoxError>>,
) -> Result<(), IdempotencyError<E>> {
    let warn = |what: &str, error: BoxError| {
        let (request_id, error) = (invocation.request_id(), error_chain(error.as_ref()));
        tracing::warn!(requestId = request_id, claim = id, error, "{what}");
    };
    let result = if invocation.is_running_late() {
        Err(IdempotencyError::TooLate)
    } else {
        effect.await.map_err(IdempotencyError::Effect)
    };
    if result.is_err() {
        if let Err(error) = release.await {
            warn("failed to release the claim; it expires by itself", error);
        }
        return result;
    }
    // Must end before the handler's cutoff, which would make the event a Retry.
    let limit = invocation.time_left().saturating_sub(RESPONSE_RESERVE);
    if let Err(error) = timeout(limit, complete).await.unwrap_or_else(|elapsed| Err(elapsed.into())) {
        invocation.count("Unmarked");
        warn("done, but failed to mark the claim as completed", error);
    }
    Ok(())
}
