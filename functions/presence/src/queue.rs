//! The function's own queue, which holds its checks back for the grace period.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use gatehouse::{BoxError, Environment, InitError, Setup, ThingName};
use serde::{Deserialize, Serialize};

use crate::presence::Presence;

/// The longest that Amazon SQS holds a message back.
pub const LONGEST_DELAY: Duration = Duration::from_mins(15);

/// The queue that wakes this function.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// The function's order to itself: is this device still away, by the disconnect of this connection?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    #[serde(rename = "check")]
    what: What,
    /// The device.
    pub thing: String,
    /// AWS's number of the connection.
    pub version: u64,
    /// AWS's name for its session.
    pub session: String,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Away,
}

impl Check {
    /// The check of this disconnect.
    pub fn of(thing: &ThingName, disconnect: &Presence) -> Self {
        let (version, session) = (disconnect.version, disconnect.session.clone());
        Self { what: What::Away, thing: thing.to_string(), version, session }
    }
}

/// Amazon SQS did not take the message.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not take the check")]
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

    /// Sends a check that comes after `delay`, whole seconds.
    pub async fn send(&self, check: &Check, delay: Duration) -> Result<(), NotSent> {
        let body = serde_json::to_string(check).map_err(|error| NotSent(error.into()))?;
        let seconds = i32::try_from(delay.min(LONGEST_DELAY).as_secs()).unwrap_or_default();
        let send = self.client.send_message().queue_url(&self.url).message_body(body).delay_seconds(seconds);
        send.send().await.map_err(|error| NotSent(error.into()))?;
        Ok(())
    }
}
