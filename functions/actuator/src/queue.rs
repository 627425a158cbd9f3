//! The function's own queue, through which a transition comes again whose command was put off.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use gatehouse::{BoxError, Environment, InitError, Setup};

/// The longest that Amazon SQS holds a message back.
pub const LONGEST_DELAY: Duration = Duration::from_mins(15);

/// The queue that wakes this function.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// Amazon SQS did not take the message.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not take the transition whose command is put off")]
pub struct NotSent(#[source] BoxError);

impl Queue {
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

    /// Sends a message that comes after `delay`, rounded up to a second, or after [`LONGEST_DELAY`].
    pub async fn send(&self, text: &str, delay: Duration) -> Result<(), NotSent> {
        let seconds = delay.min(LONGEST_DELAY).as_millis().div_ceil(1000);
        let send = self.client.send_message().queue_url(&self.url).message_body(text);
        let send = send.delay_seconds(i32::try_from(seconds).unwrap_or_default());
        send.send().await.map_err(|error| NotSent(error.into()))?;
        Ok(())
    }
}
