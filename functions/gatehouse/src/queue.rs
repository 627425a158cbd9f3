use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use serde::Serialize;

use crate::environment::{Environment, InitError};
use crate::outcome::BoxError;
use crate::runtime::Setup;

/// The queue that wakes a function, when the function sends itself what is to be done later.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// Amazon SQS did not take the message.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not take the message")]
pub struct NotSent(#[source] BoxError);

impl Queue {
    /// The longest that Amazon SQS holds a message back.
    pub const LONGEST_DELAY: Duration = Duration::from_mins(15);

    /// The queue, with the connection to it warmed up.
    pub async fn connect(setup: &Setup) -> Result<Self, InitError> {
        let queue = Self::from(setup.environment(), Client::new(setup.sdk()))?;
        let look = queue.client.get_queue_attributes().queue_url(&queue.url);
        setup.warm("SQS", look.attribute_names(QueueAttributeName::QueueArn).send()).await;
        Ok(queue)
    }

    /// Reads `QUEUE_URL`.
    pub fn from(environment: &Environment, client: Client) -> Result<Self, InitError> {
        Ok(Self { client, url: environment.required("QUEUE_URL")? })
    }

    /// Sends a message, as JSON, that comes after `delay`, rounded up to a second, or after [`Self::LONGEST_DELAY`].
    pub async fn send(&self, message: &impl Serialize, delay: Duration) -> Result<(), NotSent> {
        self.send_text(serde_json::to_string(message).map_err(|error| NotSent(error.into()))?, delay).await
    }

    /// Sends a message that is text already, in the same way.
    pub async fn send_text(&self, text: impl Into<String>, delay: Duration) -> Result<(), NotSent> {
        let seconds = delay.min(Self::LONGEST_DELAY).as_millis().div_ceil(1000);
        let send = self.client.send_message().queue_url(&self.url).message_body(text);
        let send = send.delay_seconds(i32::try_from(seconds).unwrap_or_default());
        send.send().await.map_err(|error| NotSent(error.into()))?;
        Ok(())
    }
}
