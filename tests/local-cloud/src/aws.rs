//! SDK clients for an account of the local cloud. They read no environment variables and no files.

use anyhow::{Context, Result};
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use aws_sdk_sqs::types::QueueAttributeName;

use crate::isolation::{Account, Endpoint, REGION, SECRET};

/// A client for each service.
#[derive(Debug, Clone)]
pub struct Clients {
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// AWS IoT.
    pub iot: aws_sdk_iot::Client,
    /// The data plane of AWS IoT.
    pub iot_data: aws_sdk_iotdataplane::Client,
    /// Lambda.
    pub lambda: aws_sdk_lambda::Client,
    /// SNS.
    pub sns: aws_sdk_sns::Client,
    /// SQS.
    pub sqs: aws_sdk_sqs::Client,
}

impl Clients {
    /// Returns clients that connect directly to the endpoint, over plain HTTP.
    pub fn new(endpoint: Endpoint, account: &Account) -> Self {
        // This builder reads no proxy variables.
        let http = aws_smithy_http_client::Builder::new().build_http();
        let credentials =
            SharedCredentialsProvider::new(Credentials::new(account.id(), SECRET, None, None, "local cloud"));
        macro_rules! client {
            ($service:ident) => {
                $service::Client::from_conf(
                    $service::Config::builder()
                        .behavior_version(BehaviorVersion::latest())
                        .region(Region::new(REGION))
                        .endpoint_url(endpoint.url())
                        .credentials_provider(credentials.clone())
                        .http_client(http.clone())
                        .build(),
                )
            };
        }
        Self {
            dynamodb: client!(aws_sdk_dynamodb),
            iot: client!(aws_sdk_iot),
            iot_data: client!(aws_sdk_iotdataplane),
            lambda: client!(aws_sdk_lambda),
            sns: client!(aws_sdk_sns),
            sqs: client!(aws_sdk_sqs),
        }
    }

    /// Sets an attribute of a queue. Messages in flight keep their visibility timeout.
    pub async fn set_queue_attribute(&self, queue_url: &str, name: QueueAttributeName, value: &str) -> Result<()> {
        let set = self.sqs.set_queue_attributes().queue_url(queue_url).attributes(name.clone(), value).send().await;
        set.with_context(|| format!("failed to set {name} of {queue_url}"))?;
        Ok(())
    }
}
