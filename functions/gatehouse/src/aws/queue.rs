use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use serde::Serialize;

use crate::runtime::environment::{Environment, InitError};
use crate::runtime::outcome::{BoxError, Failure};
use crate::runtime::setup::Setup;

/// The queue that feeds a function, to which the function sends commands to itself for later.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// Amazon SQS did not accept the message.
#[derive(Debug, thiserror::Error)]
#[error("failed to send a message to the queue")]
pub struct SendError(#[source] BoxError);

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::retry(error)
    }
}

impl Queue {
    /// The maximum delay of an Amazon SQS message.
    pub const MAX_DELAY: Duration = Duration::from_mins(15);

    /// Connects to the queue that `QUEUE_URL` names, and warms up the connection.
    pub async fn connect(setup: &Setup) -> Result<Self, InitError> {
        let queue = Self::from_environment(setup.environment(), Client::new(setup.sdk()))?;
        let look = queue.client.get_queue_attributes().queue_url(&queue.url);
        setup.warm_up("SQS", look.attribute_names(QueueAttributeName::QueueArn).send()).await;
        Ok(queue)
    }

    /// Reads the queue's URL from `QUEUE_URL`.
    pub fn from_environment(environment: &Environment, client: Client) -> Result<Self, InitError> {
        Ok(Self { client, url: environment.required("QUEUE_URL")? })
    }

    /// Sends a message, as JSON, to be delivered after `delay`, rounded up to a second and at most
    /// [`Self::MAX_DELAY`].
    pub async fn send(&self, message: &impl Serialize, delay: Duration) -> Result<(), SendError> {
        self.send_text(serde_json::to_string(message).map_err(|error| SendError(error.into()))?, delay).await
    }

    /// Sends a message that is already text; otherwise the same as [`Self::send`].
    pub async fn send_text(&self, text: impl Into<String>, delay: Duration) -> Result<(), SendError> {
        let seconds = delay.min(Self::MAX_DELAY).as_millis().div_ceil(1000);
        let send = self.client.send_message().queue_url(&self.url).message_body(text);
        let send = send.delay_seconds(i32::try_from(seconds).unwrap_or_default());
        send.send().await.map_err(|error| SendError(error.into()))?;
        Ok(())
    }
}
