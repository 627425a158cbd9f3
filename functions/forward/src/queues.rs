//! Clients for queues in any region.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{Builder, Config, Region};
use aws_sdk_sqs::types::QueueAttributeName;
use gatehouse::Setup;

use crate::queue_url::QueueUrl;

/// The longest that one attempt takes. A batch may be a whole megabyte, and a standard queue has no memory: an answer
/// that is only slow must not make the SDK send it again.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Amazon SQS in every region that a destination is in.
#[derive(Debug)]
pub struct Queues {
    /// In this function's own region.
    home: Config,
    /// One a region, by its name; home's under none.
    clients: Mutex<HashMap<Option<String>, Client>>,
}

impl Queues {
    /// With the connection to this function's own region warmed up: by a look at the function's own queue (`QUEUE_URL`,
    /// if set), since a destination's is not ours to look at.
    pub async fn connect(setup: &Setup) -> Self {
        let queues = Self::new(Builder::from(setup.sdk()));
        if let Some(own) = setup.environment().get("QUEUE_URL") {
            let look = queues.in_region(None).get_queue_attributes().queue_url(own);
            setup.warm_up("SQS", look.attribute_names(QueueAttributeName::QueueArn).send()).await;
        }
        queues
    }

    /// Clients that differ from this configuration by their region and time-outs alone: an endpoint that it sets stays
    /// set.
    pub fn new(home: Builder) -> Self {
        let time_out = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).operation_timeout(2 * ATTEMPT);
        Self { home: home.timeout_config(time_out.build()).build(), clients: Mutex::default() }
    }

    /// The client for a queue.
    pub fn client(&self, of: &QueueUrl) -> Client {
        let home = self.home.region().map(Region::as_ref);
        self.in_region(of.region().filter(|region| Some(*region) != home))
    }

    fn in_region(&self, region: Option<&str>) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(region.map(str::to_owned)).or_insert_with(|| {
            let config = self.home.to_builder();
            Client::from_conf(match region {
                Some(region) => config.region(Region::new(region.to_owned())).build(),
                None => config.build(),
            })
        });
        client.clone()
    }
}
