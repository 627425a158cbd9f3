use aws_sdk_sns::Client;
use aws_sdk_sns::config::Builder;
use aws_sdk_sns::error::{BuildError, SdkError};
use aws_sdk_sns::operation::publish::PublishError as SdkPublishError;
use aws_sdk_sns::types::MessageAttributeValue;
use serde_json::json;

use crate::aws::config;
use crate::runtime::environment::{Environment, InitError};
use crate::runtime::outcome::Failure;
use crate::runtime::setup::Setup;

/// The maximum length of a subject: Amazon SNS accepts "less than 100 characters" of ASCII.
const MAX_SUBJECT: usize = 99;

/// An Amazon SNS topic that a function publishes to.
#[derive(Debug, Clone)]
pub struct Topic {
    client: Client,
    arn: String,
}

/// A message to a topic's subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notification {
    /// The subject of emails. Characters that are not printable ASCII, and any after the 99th, are dropped.
    pub subject: String,
    /// The text for people. Not empty.
    pub message: String,
    /// The same content as JSON for machines. Queues, functions and HTTPS endpoints receive it instead of the text,
    /// emails contain it below the text, and SMS messages omit it. `None` if every subscriber receives the text.
    pub data: Option<String>,
    /// Attributes that subscribers can filter on.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A message attribute's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// SNS's `String`.
    Text(String),
    /// SNS's `Number`.
    Number(u64),
}

/// Amazon SNS did not accept the message.
#[derive(Debug, thiserror::Error)]
#[error("failed to publish to the topic")]
pub struct PublishError(#[from] Box<SdkError<SdkPublishError>>);

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::retry(error)
    }
}

impl Topic {
    /// Connects to the topic that `TOPIC_ARN` names, and warms up the connection.
    pub async fn connect(setup: &Setup) -> Result<Self, InitError> {
        // A response that is only slow must not make the SDK publish a second time.
        let config = Builder::from(setup.sdk()).timeout_config(config::single_attempt_timeouts(setup.sdk())).build();
        let topic = Self::from_environment(setup.environment(), Client::from_conf(config))?;
        setup.warm_up("SNS", topic.client.get_topic_attributes().topic_arn(&topic.arn).send()).await;
        Ok(topic)
    }

    /// Reads the topic's ARN from `TOPIC_ARN`.
    pub fn from_environment(environment: &Environment, client: Client) -> Result<Self, InitError> {
        Ok(Self { client, arn: environment.required("TOPIC_ARN")? })
    }

    /// Publishes, and returns once Amazon SNS has accepted the message.
    ///
    /// Calling it twice publishes twice: SNS has no idempotency of its own.
    pub async fn publish(&self, notification: Notification) -> Result<(), PublishError> {
        let Notification { subject, message, data, attributes } = notification;
        let subject: String = subject.chars().filter(|c| matches!(c, ' '..='~')).take(MAX_SUBJECT).collect();
        let publish = self.client.publish().topic_arn(&self.arn).subject(subject);
        let mut publish = match data {
            None => publish.message(message),
            Some(data) => publish.message_structure("json").message(by_protocol(&message, &data)),
        };
        for (name, value) in attributes {
            let value = value.try_into().map_err(|error: BuildError| SdkError::construction_failure(error));
            publish = publish.message_attributes(name, value.map_err(Box::new)?);
        }
        publish.send().await.map_err(Box::new)?;
        Ok(())
    }
}

/// Builds a message that differs by the subscription's protocol, in SNS's format.
/// <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>
fn by_protocol(message: &str, data: &str) -> String {
    let both = format!("{message}\n\n{data}");
    json!({"default": both, "sms": message, "sqs": data, "lambda": data, "http": data, "https": data}).to_string()
}

impl TryFrom<Attribute> for MessageAttributeValue {
    type Error = BuildError;

    fn try_from(attribute: Attribute) -> Result<Self, Self::Error> {
        let (data_type, value) = match attribute {
            Attribute::Text(text) => ("String", text),
            Attribute::Number(number) => ("Number", number.to_string()),
        };
        Self::builder().data_type(data_type).string_value(value).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn message_differs_by_protocol() {
        let text = by_protocol("too \"bright\"", r#"{"to":"ALARM"}"#);
        let message: Value = serde_json::from_str(&text).expect("valid JSON");
        for machine in ["sqs", "lambda", "http", "https"] {
            assert_eq!(message[machine], r#"{"to":"ALARM"}"#);
        }
        assert_eq!(message["sms"], "too \"bright\"");
        assert_eq!(message["default"], "too \"bright\"\n\n{\"to\":\"ALARM\"}");
    }
}
