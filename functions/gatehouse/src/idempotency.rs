use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use tokio::time::timeout;
use uuid::Uuid;

use crate::call::Call;
use crate::environment::{Environment, InitError};
use crate::item::{number, string, text};
use crate::outcome::{BoxError, Failure, chain};

const IN_PROGRESS: &str = "INPROGRESS";
const COMPLETED: &str = "COMPLETED";

/// What is left of a handler's time once its mark has been given up.
const TO_REPORT: Duration = Duration::from_millis(100);

/// The table that remembers which effects have been carried out.
///
/// An effect is claimed, carried out, then marked `COMPLETED`. The claim names its owner by a token and ends with the
/// invocation that took it, so that a process which died holding it does not block the retry. That an item has expired
/// is part of every condition; DynamoDB's time to live, which may come days late, only cleans up.
///
/// Amazon SNS has no idempotency of its own, so what this gives for a notification is *at least once*, and twice only
/// where the process dies, or the answer is lost, between SNS's acceptance and the mark.
///
/// The attributes' names and states are those of Powertools for AWS Lambda, with `owner` added.
#[derive(Debug, Clone)]
pub struct Idempotency {
    client: Client,
    table: String,
    function: String,
    expires_after: Duration,
}

/// What came of an effect that must happen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once {
    /// It was carried out just now.
    Done,
    /// It had been carried out before.
    AlreadyDone,
}

/// Why an effect was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OnceError<E> {
    /// Another process holds the claim and may yet succeed.
    #[error("this event is being handled by another invocation")]
    AlreadyInProgress,
    /// The claim could not be written.
    #[error("the idempotency table did not take the claim")]
    Claim(#[from] Box<SdkError<PutItemError>>),
    /// The claim took so long that the effect is better left to the next try; the claim has been given back.
    #[error("too little time is left to carry it out")]
    TooLate,
    /// The effect itself failed; the claim has been given back.
    #[error(transparent)]
    Effect(E),
}

impl<E: Into<Failure> + Send + Sync + std::error::Error + 'static> From<OnceError<E>> for Failure {
    fn from(error: OnceError<E>) -> Self {
        match error {
            OnceError::Effect(effect) => effect.into(),
            other => Self::retry(other),
        }
    }
}

enum Claim {
    Held(Held),
    AlreadyDone,
    AlreadyInProgress,
}

struct Held {
    id: String,
    owner: String,
}

impl Idempotency {
    /// Reads `IDEMPOTENCY_TABLE` and `IDEMPOTENCY_EXPIRES_AFTER_SECONDS` (default one day).
    pub fn from(environment: &Environment, client: Client, function: &str) -> Result<Self, InitError> {
        Ok(Self {
            client,
            table: environment.required("IDEMPOTENCY_TABLE")?,
            function: function.to_owned(),
            expires_after: Duration::from_secs(
                environment.optional("IDEMPOTENCY_EXPIRES_AFTER_SECONDS")?.unwrap_or(24 * 60 * 60),
            ),
        })
    }

    /// Carries `effect` out, unless it has been carried out for this key before.
    pub async fn once<E>(
        &self,
        key: &str,
        call: &Call,
        effect: impl Future<Output = Result<(), E>>,
    ) -> Result<Once, OnceError<E>> {
        let held = match self.claim(key, call).await.map_err(Box::new)? {
            Claim::Held(held) => held,
            Claim::AlreadyDone => return Ok(Once::AlreadyDone),
            Claim::AlreadyInProgress => return Err(OnceError::AlreadyInProgress),
        };
        carry_out(&held.id, call, effect, self.complete(&held, call), self.release(&held)).await?;
        Ok(Once::Done)
    }

    async fn claim(&self, key: &str, call: &Call) -> Result<Claim, SdkError<PutItemError>> {
        let held = Held { id: format!("{}#{key}", self.function), owner: Uuid::new_v4().to_string() };
        let now = call.now();
        let written = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("id", string(&held.id))
            .item("owner", string(&held.owner))
            .item("status", string(IN_PROGRESS))
            .item("in_progress_expiration", number(call.deadline().millis()))
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
        let Err(error) = written else { return Ok(Claim::Held(held)) };
        let Some(PutItemError::ConditionalCheckFailedException(refused)) = error.as_service_error() else {
            return Err(error);
        };
        let holds = |name: &str, value: &str| {
            refused.item().is_some_and(|item| text(item, name).is_some_and(|found| found == value))
        };
        Ok(if holds("owner", &held.owner) {
            // The table took the claim, the answer was lost, and the SDK's own retry met our own item.
            Claim::Held(held)
        } else if holds("status", COMPLETED) {
            Claim::AlreadyDone
        } else {
            Claim::AlreadyInProgress
        })
    }

    async fn complete(&self, held: &Held, call: &Call) -> Result<(), BoxError> {
        self.client
            .update_item()
            .table_name(&self.table)
            .key("id", string(&held.id))
            .update_expression("SET #status = :completed, expiration = :expiration")
            .condition_expression("#owner = :owner")
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", string(&held.owner))
            .expression_attribute_values(":completed", string(COMPLETED))
            .expression_attribute_values(":expiration", number(call.now().plus(self.expires_after).seconds()))
            .send()
            .await?;
        Ok(())
    }

    async fn release(&self, held: &Held) -> Result<(), BoxError> {
        let released = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("id", string(&held.id))
            .condition_expression("#owner = :owner")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", string(&held.owner))
            .send()
            .await;
        match released {
            Ok(_) => Ok(()),
            // Gone already: the answer to the first attempt was lost, or the claim has expired and is somebody else's.
            Err(error)
                if error.as_service_error().is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Carries an effect out under the claim `id`: marks it if it succeeds, gives the claim back if it fails, so that the
/// retry need not wait for the claim to expire.
///
/// An effect that is in place is done even where its mark fails or hangs: handing the event back would be certain to
/// repeat it, acknowledging it repeats it only if AWS delivers the event a second time. Such a one counts as `Unmarked`.
pub async fn carry_out<E>(
    id: &str,
    call: &Call,
    effect: impl Future<Output = Result<(), E>>,
    mark: impl Future<Output = Result<(), BoxError>>,
    release: impl Future<Output = Result<(), BoxError>>,
) -> Result<(), OnceError<E>> {
    let warn = |what: &str, error: BoxError| {
        tracing::warn!(requestId = call.request_id(), claim = id, error = chain(error.as_ref()), "{what}");
    };
    let carried_out = if call.is_late() { Err(OnceError::TooLate) } else { effect.await.map_err(OnceError::Effect) };
    if carried_out.is_err() {
        if let Err(error) = release.await {
            warn("the claim could not be given back; it expires by itself", error);
        }
        return carried_out;
    }
    // Ends before the handler as a whole is cut off, which would hand the event back.
    let limit = call.time_left().saturating_sub(TO_REPORT);
    if let Err(error) = timeout(limit, mark).await.unwrap_or_else(|elapsed| Err(elapsed.into())) {
        call.count("Unmarked");
        warn("done, but could not be marked as done", error);
    }
    Ok(())
}
