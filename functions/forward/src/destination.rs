//! The operator's document: which queues receive which messages.

use std::collections::HashSet;
use std::str::FromStr;

use gatehouse::{Environment, InitError, Validate, ValidationError};
use serde::Deserialize;

use crate::queue_url::QueueUrl;
use crate::topic_filter::{TopicFilter, one_or_more};

/// The document. A message goes to every destination whose topics match.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destinations {
    /// All destinations; empty if nothing is forwarded.
    pub destinations: Vec<Destination>,
}

/// A queue, and the messages that it receives.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// A unique name for people and for this function's records: 1 to 64 of the characters `a-z A-Z 0-9 _ -`.
    pub name: String,
    /// The topics that it receives: one filter, or a list of them.
    #[serde(deserialize_with = "one_or_more")]
    pub topics: Vec<TopicFilter>,
    /// The queue, unique among the destinations: it would otherwise receive a message twice where topics overlap.
    pub queue_url: QueueUrl,
    /// What to do with a payload that is not JSON.
    #[serde(default)]
    pub binary: BinaryPolicy,
}

impl Destination {
    /// Whether it receives messages of this topic.
    pub fn matches(&self, topic: &str) -> bool {
        self.topics.iter().any(|filter| filter.matches(topic))
    }
}

/// What to do with a payload that is not JSON, or that a message's body cannot contain unchanged.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BinaryPolicy {
    /// Send it in Base64.
    Base64,
    /// Refuse the message.
    #[default]
    Refuse,
}

impl FromStr for BinaryPolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "base64" => Ok(Self::Base64),
            "refuse" => Ok(Self::Refuse),
            _ => Err("it must be base64 or refuse"),
        }
    }
}

impl Destinations {
    /// Reads the destinations that apply until a document is uploaded: one, named `default`, if `DESTINATION_QUEUE_URL`
    /// is set, or else none. It receives the topics in `DESTINATION_TOPICS` (one filter, default `Weather/Corp/+`).
    /// `DESTINATION_BINARY` (default `refuse`) says what to do with a payload that is not JSON.
    pub fn from_environment(environment: &Environment) -> Result<Self, InitError> {
        let queue_url: Option<QueueUrl> = environment.optional("DESTINATION_QUEUE_URL")?;
        let Some(queue_url) = queue_url else { return Ok(Self::default()) };
        let topics = vec![environment.optional("DESTINATION_TOPICS")?.unwrap_or_default()];
        let binary = environment.optional("DESTINATION_BINARY")?.unwrap_or_default();
        Ok(Self { destinations: vec![Destination { name: "default".to_owned(), topics, queue_url, binary }] })
    }
}

impl Validate for Destinations {
    fn validate(&self) -> Result<(), ValidationError> {
        let (mut names, mut queues) = (HashSet::new(), HashSet::new());
        for (index, Destination { name, queue_url, .. }) in self.destinations.iter().enumerate() {
            let invalid = |field, why| Err(ValidationError::new(format!("destinations[{index}].{field}"), why));
            let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
            if !(1..=64).contains(&name.len()) || !name.bytes().all(is_allowed) {
                return invalid("name", "It must be 1 to 64 of the characters a-z A-Z 0-9 _ -.");
            }
            if !names.insert(name) {
                return invalid("name", "Another destination has the same name.");
            }
            if !queues.insert(queue_url.queue()) {
                let why = "Another destination has the same queue; one destination can have a list of topics.";
                return invalid("queueUrl", why);
            }
        }
        Ok(())
    }
}
