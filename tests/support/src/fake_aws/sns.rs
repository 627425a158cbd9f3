//! Amazon SNS: `Publish`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::State;
use super::request::Call;
use super::response::Response;

/// A message that was published to a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The topic.
    pub topic_arn: String,
    /// The subject; empty if there is none.
    pub subject: String,
    /// The message as it was published.
    pub message: String,
    /// Whether `message` is JSON with one text per protocol.
    pub is_structured: bool,
    /// The attributes' values.
    pub attributes: BTreeMap<String, String>,
    /// The attributes' types, `String` or `Number`.
    pub attribute_types: BTreeMap<String, String>,
}

impl Published {
    /// Returns what a phone receives.
    pub fn text(&self) -> String {
        self.by_protocol("sms")
    }

    /// Returns the JSON that a queue receives.
    pub fn data(&self) -> Value {
        serde_json::from_str(&self.by_protocol("sqs")).unwrap()
    }

    /// Returns what subscribers with this protocol receive.
    pub fn by_protocol(&self, protocol: &str) -> String {
        if !self.is_structured {
            return self.message.clone();
        }
        let message: BTreeMap<String, String> = serde_json::from_str(&self.message).unwrap();
        message.get(protocol).unwrap_or_else(|| &message["default"]).clone()
    }

    fn read(form: &Value) -> Self {
        let field = |name: &str| form[name].as_str().map(str::to_owned);
        let entry = |n: usize, part: &str| field(&format!("MessageAttributes.entry.{n}.{part}"));
        let names = || (1..).map_while(|n| Some((n, entry(n, "Name")?)));
        let part = |part: &'static str| names().map(move |(n, name)| (name, entry(n, part).unwrap())).collect();
        let structure = field("MessageStructure");
        assert!(structure.as_deref().is_none_or(|structure| structure == "json"), "{structure:?}");
        let published = Self {
            topic_arn: field("TopicArn").expect("only topics are published to"),
            subject: field("Subject").unwrap_or_default(),
            message: field("Message").unwrap(),
            is_structured: structure.is_some(),
            attributes: part("Value.StringValue"),
            attribute_types: part("Value.DataType"),
        };
        assert!(!published.message.is_empty(), "SNS does not accept an empty message");
        assert!(published.subject.len() < 100, "SNS does not accept a subject of 100 characters");
        published
    }
}

/// Returns the operation, and the form as an object.
pub(super) fn parse(body: &[u8]) -> (String, Value) {
    let form: BTreeMap<String, String> = form_urlencoded::parse(body).into_owned().collect();
    (form["Action"].clone(), json!(form))
}

impl State {
    pub(super) fn sns(&mut self, call: &Call) -> Response {
        assert_eq!(call.operation, "Publish", "the fake SNS does not support {}", call.operation);
        self.published.push(Published::read(&call.body));
        Response::Output(json!({"MessageId": format!("message-{}", self.published.len())}))
    }
}
