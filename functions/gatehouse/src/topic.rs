use aws_sdk_sns::Client;
use aws_sdk_sns::config::Builder;
use aws_sdk_sns::error::{BuildError, SdkError};
use aws_sdk_sns::operation::publish::PublishError;
use aws_sdk_sns::types::MessageAttributeValue;
use serde_json::json;

use crate::environment::{Environment, InitError};
use crate::outcome::Failure;
use crate::runtime::Setup;
use crate::sdk;

/// The longest subject that Amazon SNS takes: "less than 100 characters", of ASCII.
const SUBJECT_LIMIT: usize = 99;

/// An Amazon SNS topic that a function publishes to.
#[derive(Debug, Clone)]
pub struct Topic {
    client: Client,
    arn: String,
}

/// A message to a topic's subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notification {
    /// For e-mail. What is not printable ASCII, or beyond 99 characters, is left out.
    pub subject: String,
    /// What people read. Not empty.
    pub message: String,
    /// The same for machines, as JSON: what queues, functions and HTTPS endpoints get instead, and e-mails below the words.
    /// A text message has the words alone. Where there is none, everybody gets the words.
    pub data: Option<String>,
    /// What subscribers can filter on.
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

/// Amazon SNS did not take the message.
#[derive(Debug, thiserror::Error)]
#[error("the topic did not take the message")]
pub struct NotPublished(#[from] Box<SdkError<PublishError>>);

impl From<NotPublished> for Failure {
    fn from(error: NotPublished) -> Self {
        Self::retry(error)
    }
}

impl Topic {
    /// The topic that `TOPIC_ARN` names, with its connection warmed up.
    pub async fn connect(setup: &Setup) -> Result<Self, InitError> {
        // An answer that is only slow must not make the SDK publish a second time.
        let config = Builder::from(setup.sdk()).timeout_config(sdk::one_long_attempt()).build();
        let topic = Self::from(setup.environment(), Client::from_conf(config))?;
        setup.warm("SNS", topic.client.get_topic_attributes().topic_arn(&topic.arn).send()).await;
        Ok(topic)
    }

    /// Reads `TOPIC_ARN`.
    pub fn from(environment: &Environment, client: Client) -> Result<Self, InitError> {
        Ok(Self { client, arn: environment.required("TOPIC_ARN")? })
    }

    /// Publishes, and returns once Amazon SNS has accepted the message.
    ///
    /// Twice called is twice published: SNS has no idempotency of its own.
    pub async fn publish(&self, notification: Notification) -> Result<(), NotPublished> {
        let Notification { subject, message, data, attributes } = notification;
        let subject: String = subject.chars().filter(|c| matches!(c, ' '..='~')).take(SUBJECT_LIMIT).collect();
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

/// A message that differs by the subscription's protocol, in SNS's format for that.
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
    fn machines_get_the_data_a_text_message_the_words_and_an_e_mail_both() {
        let text = by_protocol("too \"bright\"", r#"{"to":"ALARM"}"#);
        let message: Value = serde_json::from_str(&text).expect("valid JSON");
        for machine in ["sqs", "lambda", "http", "https"] {
            assert_eq!(message[machine], r#"{"to":"ALARM"}"#);
        }
        assert_eq!(message["sms"], "too \"bright\"");
        assert_eq!(message["default"], "too \"bright\"\n\n{\"to\":\"ALARM\"}");
    }
}
