//! As much of AWS as `presence` and `shadow` use: their tables, an SNS topic and an SQS queue.

#[path = "../../../gatehouse/tests/wire/mod.rs"]
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use gatehouse::{BatchHandler, Timestamp};
use serde_json::{Value, json};
use wire::dynamodb::{Table, kind};
use wire::{Answer, Request};
pub use wire::{Delivered, FAULTS, Fault};

/// How long the queue waits for an invocation.
pub const VISIBILITY: Duration = Duration::from_mins(3);

pub type Aws = wire::Aws<Account>;
pub type Process = wire::Process<Account>;
pub type State = wire::State<Account>;

/// What is in the account beside the tables.
#[derive(Default)]
pub struct Account {
    /// What the topic's subscribers got.
    pub published: Vec<BTreeMap<String, String>>,
    /// What the queue got, and for how many seconds it is to hold it back.
    pub sent: Vec<(Value, u64)>,
}

impl wire::Account for Account {
    const TIME_OUT: Duration = Duration::from_secs(30);
    const ENVIRONMENT: &'static [(&'static str, &'static str)] = &[
        ("DEVICES_TABLE", "devices"),
        ("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:presence"),
        ("QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/presence"),
    ];
    const TABLES: &'static [Table] = &[
        Table {
            name: "devices",
            key: &["id", "part"],
            operations: &["GetItem", "PutItem"],
            index: None,
            called: |key| format!("{}/{}", kind(&key[0]), key[1]),
        },
        // It is only ever added to.
        Table {
            name: "history",
            key: &["shadow", "at"],
            operations: &["PutItem"],
            index: None,
            called: |_| "history".to_owned(),
        },
    ];

    fn answer(&mut self, request: &Request<'_>) -> Answer {
        match request {
            Request::Publish(form) => {
                self.published.push(form.clone());
                Answer::published()
            }
            Request::SendMessage(body) => {
                let message = serde_json::from_str(body["MessageBody"].as_str().unwrap()).unwrap();
                self.sent.push((message, body["DelaySeconds"].as_u64().unwrap()));
                Answer::good(&json!({"MessageId": "m"}))
            }
            other => panic!("{other:?} is not known here"),
        }
    }
}

impl Process {
    /// Hands something to the process, by this clock.
    pub async fn deliver<H: BatchHandler>(&self, handler: H, delivery: &Value, now: Timestamp) -> Delivered {
        self.deliver_to(handler, delivery, now).await
    }
}

impl State {
    /// A part of an item of the devices table, without what is different from one run to the next; null where there is
    /// none.
    pub fn record(&self, id: &str, part: &str) -> Value {
        let Some(item) = self.tables.get(&("devices".to_owned(), vec![id.to_owned(), part.to_owned()])) else {
            return Value::Null;
        };
        let own = |name: &str| !["id", "part", "version", "writer"].contains(&name);
        item.iter().filter(|(name, _)| own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
