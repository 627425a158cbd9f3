//! Where messages go, as an operator has set it down.

use std::collections::HashSet;
use std::str::FromStr;

use gatehouse::{Validate, Environment, Fault, InitError};
use serde::Deserialize;

use crate::filter::{TopicFilter, one_or_more};
use crate::queue_url::QueueUrl;

/// The document of destinations. A message goes to every one that takes its topic.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destinations {
    /// All of them; none where nothing is to be forwarded.
    pub destinations: Vec<Destination>,
}

/// One queue, and what it gets.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// What people and this function's own notes call it: 1 to 64 of `a-z A-Z 0-9 _ -`, and no other has the same.
    pub name: String,
    /// The topics that it takes: one filter, or a list of them.
    #[serde(deserialize_with = "one_or_more")]
    pub topics: Vec<TopicFilter>,
    /// The queue, which is no other destination's: it would get a message twice where their topics overlap.
    pub queue_url: QueueUrl,
    /// What becomes of a payload that is not JSON.
    #[serde(default)]
    pub binary: Binary,
}

impl Destination {
    /// Whether it takes messages of this topic.
    pub fn takes(&self, topic: &str) -> bool {
        self.topics.iter().any(|filter| filter.matches(topic))
    }
}

/// What becomes of a payload that a message's body cannot hold as it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binary {
    /// It is sent in base64.
    Base64,
    /// The message is refused.
    #[default]
    Refuse,
}

impl FromStr for Binary {
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
    /// What holds until somebody puts a document: one destination, `default`, where `DESTINATION_QUEUE_URL` names a
    /// queue, or none. `DESTINATION_TOPICS` (default `Weather/Corp/+`) is what it takes, `DESTINATION_BINARY` (default
    /// `refuse`) says what becomes of a payload that is not JSON.
    pub fn from(environment: &Environment) -> Result<Self, InitError> {
        let queue_url: Option<QueueUrl> = environment.optional("DESTINATION_QUEUE_URL")?;
        let Some(queue_url) = queue_url else { return Ok(Self::default()) };
        let topics = vec![environment.optional("DESTINATION_TOPICS")?.unwrap_or_default()];
        let binary = environment.optional("DESTINATION_BINARY")?.unwrap_or_default();
        Ok(Self { destinations: vec![Destination { name: "default".to_owned(), topics, queue_url, binary }] })
    }
}

impl Validate for Destinations {
    fn check(&self) -> Result<(), Fault> {
        let (mut names, mut queues) = (HashSet::new(), HashSet::new());
        for (index, Destination { name, queue_url, .. }) in self.destinations.iter().enumerate() {
            let fault = |field, why| Err(Fault::new(format!("destinations[{index}].{field}"), why));
            let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
            if !(1..=64).contains(&name.len()) || !name.bytes().all(is_allowed) {
                return fault("name", "It must be 1 to 64 of the characters a-z A-Z 0-9 _ -.");
            }
            if !names.insert(name) {
                return fault("name", "Another destination has the same name.");
            }
            if !queues.insert(queue_url.queue()) {
                return fault("queueUrl", "Another destination has the same queue; one can have a list of topics.");
            }
        }
        Ok(())
    }
}
