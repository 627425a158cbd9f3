//! Runs in the devices table: how far each is, and who is at it.
//!
//! A run goes from step to step, each of them one invocation. A step is worked on under a lease, and stored together with
//! the message that is still owed to the next one; the debt is struck off once SQS has the message. So a message that
//! comes twice does not fork the run, and a process that dies between the two sends it later.

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::item::{integer, is_true, number, string, text};
use gatehouse::{BoxError, Call, Devices, Timestamp};
use uuid::Uuid;

use crate::progress::Progress;

/// A run's place in the table.
#[derive(Debug, Clone)]
pub struct Run {
    /// The item's `id`: the CA's or the certificate's.
    pub id: String,
    /// The run's own name, the id of the event that began it.
    pub name: String,
}

/// A run as it is stored.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Which step is next, or at work.
    pub step: u64,
    /// Whether the message to that step has not been sent for certain.
    pub is_owed: bool,
    /// How far it is.
    pub progress: Progress,
    owned_until: Option<Timestamp>,
}

/// The right to work on a step.
#[derive(Debug)]
pub struct Lease {
    run: Run,
    owner: String,
}

/// The table did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be read.
    #[error("the devices table could not be read")]
    Read(#[source] BoxError),
    /// It could not be written.
    #[error("the devices table could not be written")]
    Write(#[source] BoxError),
    /// Another invocation is at this step.
    #[error("another invocation is at this step of the run")]
    Busy,
}

impl Run {
    fn part(&self) -> String {
        format!("revocation#{}", self.name)
    }

    /// Looks a run up.
    pub async fn load(&self, devices: &Devices) -> Result<Option<Stored>, RunError> {
        let found = devices.get(self.id.clone(), &self.part()).await.map_err(|error| RunError::Read(error.into()))?;
        let Some(item) = found else { return Ok(None) };
        let progress = text(&item, "progress").and_then(|progress| serde_json::from_str(progress).ok());
        Ok(Some(Stored {
            step: integer(&item, "step").unwrap_or_default(),
            is_owed: is_true(&item, "owed"),
            progress: progress.ok_or_else(|| RunError::Read("its progress does not parse".into()))?,
            owned_until: integer(&item, "ownedUntil").map(Timestamp::from_millis),
        }))
    }

    /// Takes a step on.
    pub async fn begin(&self, devices: &Devices, stored: &Stored, call: &Call) -> Result<Lease, RunError> {
        if stored.owned_until.is_some_and(|until| until >= call.now()) {
            return Err(RunError::Busy);
        }
        let lease = Lease { run: self.clone(), owner: Uuid::new_v4().to_string() };
        let update = self
            .update(devices)
            .update_expression(
                "SET #step = :step, progress = :progress, #owner = :mine, ownedUntil = :until, owed = :no",
            )
            .condition_expression(
                "attribute_not_exists(id) OR #owner = :mine OR \
                 (#step = :step AND (attribute_not_exists(ownedUntil) OR ownedUntil < :now))",
            )
            .expression_attribute_names("#step", "step")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":step", number(stored.step))
            .expression_attribute_values(":progress", progress(&stored.progress))
            .expression_attribute_values(":mine", string(&lease.owner))
            .expression_attribute_values(":until", number(call.deadline().millis()))
            .expression_attribute_values(":no", AttributeValue::Bool(false))
            .expression_attribute_values(":now", number(call.now().millis()));
        write(update).await?;
        Ok(lease)
    }

    /// Strikes the debt off: the next step has its message.
    pub async fn sent(&self, devices: &Devices, step: u64) -> Result<(), RunError> {
        let update = self
            .update(devices)
            .update_expression("SET owed = :no")
            .condition_expression("#step = :step")
            .expression_attribute_names("#step", "step")
            .expression_attribute_values(":no", AttributeValue::Bool(false))
            .expression_attribute_values(":step", number(step));
        match write(update).await {
            // The next step is at work, or past: it has had its message.
            Ok(()) | Err(RunError::Busy) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn update(&self, devices: &Devices) -> UpdateItemFluentBuilder {
        let (client, table) = devices.table();
        client.update_item().table_name(table).key("id", string(&self.id)).key("part", string(self.part()))
    }
}

impl Lease {
    /// Stores how far the step is.
    pub async fn save(&self, devices: &Devices, done: &Progress) -> Result<(), RunError> {
        let update = self.owned(devices).update_expression("SET progress = :progress");
        write(update.expression_attribute_values(":progress", progress(done))).await
    }

    /// Ends the step; the next one is owed its message.
    pub async fn hand_on(&self, devices: &Devices, step: u64, next: &Progress) -> Result<(), RunError> {
        let update = self
            .owned(devices)
            .update_expression("SET #step = :step, progress = :progress, owed = :yes REMOVE ownedUntil")
            .expression_attribute_names("#step", "step")
            .expression_attribute_values(":step", number(step))
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .expression_attribute_values(":progress", progress(next));
        write(update).await
    }

    /// Ends the run: its step lies behind every message of it.
    pub async fn end(&self, devices: &Devices, step: u64) -> Result<(), RunError> {
        let update = self
            .owned(devices)
            .update_expression("SET #step = :step REMOVE ownedUntil")
            .expression_attribute_names("#step", "step")
            .expression_attribute_values(":step", number(step));
        write(update).await
    }

    /// Ends the lease early, so that the next try need not wait.
    pub async fn release(&self, devices: &Devices) -> Result<(), RunError> {
        write(self.owned(devices).update_expression("REMOVE ownedUntil")).await
    }

    fn owned(&self, devices: &Devices) -> UpdateItemFluentBuilder {
        self.run
            .update(devices)
            .condition_expression("#owner = :mine")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":mine", string(&self.owner))
    }
}

fn progress(progress: &Progress) -> AttributeValue {
    // A struct of numbers and a text always serialises.
    string(serde_json::to_string(progress).unwrap_or_default())
}

async fn write(update: UpdateItemFluentBuilder) -> Result<(), RunError> {
    let is_refused = |error: &SdkError<UpdateItemError>| {
        error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
    };
    match update.send().await {
        Ok(_) => Ok(()),
        Err(error) if is_refused(&error) => Err(RunError::Busy),
        Err(error) => Err(RunError::Write(error.into())),
    }
}
