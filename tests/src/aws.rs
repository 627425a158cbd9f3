//! SDK clients for one account of the local cloud, built by hand: nothing is read from the environment or from files.

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};

use crate::isolation::{Account, Endpoint, REGION, SECRET};

/// One client a service.
#[derive(Debug, Clone)]
pub struct Clients {
    /// DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// AWS IoT.
    pub iot: aws_sdk_iot::Client,
    /// Lambda.
    pub lambda: aws_sdk_lambda::Client,
    /// CloudWatch Logs.
    pub logs: aws_sdk_cloudwatchlogs::Client,
    /// SNS.
    pub sns: aws_sdk_sns::Client,
    /// SQS.
    pub sqs: aws_sdk_sqs::Client,
}

impl Clients {
    /// Clients that speak plain HTTP to the endpoint, directly.
    pub fn new(endpoint: Endpoint, account: &Account) -> Self {
        // Without a proxy, which is this builder's default: the variables that could name one are not read.
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
            lambda: client!(aws_sdk_lambda),
            logs: client!(aws_sdk_cloudwatchlogs),
            sns: client!(aws_sdk_sns),
            sqs: client!(aws_sdk_sqs),
        }
    }
}
