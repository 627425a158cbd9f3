//! Amazon SQS clients for queues in any region.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{Builder, Config, Region};
use aws_sdk_sqs::types::QueueAttributeName;
use gatehouse::Setup;

use crate::queue_url::QueueUrl;

/// The timeout of one attempt. A batch may be a whole megabyte, and a standard queue does not drop duplicates: a
/// response that is merely slow must not make the SDK send the batch again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// One client per region.
#[derive(Debug)]
pub struct RegionalClients {
    /// The configuration for the function's own region.
    home: Config,
    /// Clients by region; `None` is the function's own region.
    clients: Mutex<HashMap<Option<String>, Client>>,
}

impl RegionalClients {
    /// Prepares the clients, and warms up the connection to the function's own region. Calls the function's own queue
    /// (`QUEUE_URL`, if set), because its role may only send to destinations' queues.
    pub async fn connect(setup: &Setup) -> Self {
        let clients = Self::new(Builder::from(setup.sdk()));
        if let Some(own) = setup.environment().get("QUEUE_URL") {
            let look = clients.in_region(None).get_queue_attributes().queue_url(own);
            setup.warm_up("SQS", look.attribute_names(QueueAttributeName::QueueArn).send()).await;
        }
        clients
    }

    /// Clients with this configuration, except for the region and the timeouts. An endpoint that it sets is kept.
    pub fn new(home: Builder) -> Self {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(2 * ATTEMPT_TIMEOUT)
            .build();
        Self { home: home.timeout_config(timeouts).build(), clients: Mutex::default() }
    }

    /// The client for a queue.
    pub fn for_queue(&self, queue: &QueueUrl) -> Client {
        let home = self.home.region().map(Region::as_ref);
        self.in_region(queue.region().filter(|region| Some(*region) != home))
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
