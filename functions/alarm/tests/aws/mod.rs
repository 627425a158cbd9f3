//! As much of AWS as `alarm` uses: its tables, with an index, and an SNS topic.

#[path = "../../../gatehouse/tests/wire/mod.rs"]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alarm::Alarm;
use gatehouse::{Idempotency, InitError, Timestamp, Topic};
use serde_json::Value;
use wire::dynamodb::{Index, Item, Table, kind};
use wire::{Answer, Request};
pub use wire::{Delivered, Fault};

use crate::client;

/// How long the queue waits for an invocation.
pub const VISIBILITY: Duration = Duration::from_mins(6);

pub type Aws = wire::Aws<Account>;
pub type Process = wire::Process<Account>;
pub type State = wire::State<Account>;

/// What is in the account beside the tables.
#[derive(Default)]
pub struct Account {
    /// What the topic's subscribers got.
    pub published: Vec<Published>,
}

/// A message, as its subscribers get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    pub subject: String,
    /// What a phone shows.
    pub words: String,
    /// What a queue gets.
    pub data: Value,
    pub attributes: BTreeMap<String, String>,
}

impl Published {
    pub fn is_for_people(&self) -> bool {
        self.attributes["audience"] == "people"
    }

    fn read(form: &BTreeMap<String, String>) -> Self {
        assert_eq!(form["MessageStructure"], "json");
        let message: Value = serde_json::from_str(&form["Message"]).unwrap();
        let entry = |n: usize, part: &str| form.get(&format!("MessageAttributes.entry.{n}.{part}")).cloned();
        Self {
            subject: form["Subject"].clone(),
            words: message["sms"].as_str().unwrap().to_owned(),
            data: serde_json::from_str(message["sqs"].as_str().unwrap()).unwrap(),
            attributes: (1..).map_while(|n| Some((entry(n, "Name")?, entry(n, "Value.StringValue")?))).collect(),
        }
    }
}

impl wire::Account for Account {
    const TIME_OUT: Duration = Duration::from_mins(1);
    const ENVIRONMENT: &'static [(&'static str, &'static str)] =
        &[("ALARMS_TABLE", "alarms"), ("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:alarms")];
    const TABLES: &'static [Table] = &[Table {
        name: "alarms",
        key: &["id", "part"],
        operations: &["GetItem", "BatchGetItem", "PutItem"],
        index: Some(Index { name: "due", key: &["due", "dueAt"], is_whole: false }),
        called: |key| kind(&key[0]).to_owned(),
    }];
    const PAGE: usize = 2;

    fn answer(&mut self, request: &Request<'_>) -> Answer {
        let Request::Publish(form) = request else { panic!("{request:?} is not known here") };
        self.published.push(Published::read(form));
        Answer::published()
    }
}

impl Delivered {
    /// The messages of a batch that come again; none where the process died: all do.
    pub fn handed_back(&self) -> Option<Vec<&str>> {
        let failures = self.answer.as_ref()?.as_ref().ok()?["batchItemFailures"].as_array()?;
        Some(failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect())
    }

    /// The code and the sentence of the reason for which the event is in quarantine.
    pub fn refused(&self) -> Option<(&str, &str)> {
        let answer = self.answer.as_ref()?.as_ref().ok()?;
        Some((answer["reason"].as_str()?, answer["why"].as_str()?))
    }
}

impl Process {
    pub fn alarm(&self) -> Result<Alarm, InitError> {
        let (environment, dynamodb) = (self.environment(), client!(aws_sdk_dynamodb, self));
        let idempotency = Idempotency::from(&environment, dynamodb.clone(), "alarm")?;
        Alarm::from(&environment, dynamodb, idempotency, Topic::from(&environment, client!(aws_sdk_sns, self))?)
    }

    /// Hands something to the process, by this clock.
    pub async fn deliver(&self, delivery: &Value, now: Timestamp) -> Delivered {
        self.deliver_to(self.alarm().unwrap(), delivery, now).await
    }
}

impl State {
    /// How often each call was made.
    pub fn made(&self) -> BTreeMap<&str, usize> {
        let mut made = BTreeMap::new();
        for (_, invocation) in &self.calls {
            *made.entry(invocation.as_str()).or_default() += 1;
        }
        made
    }

    /// The record of a thing by a threshold.
    pub fn record(&self, thing: &str, threshold: &str) -> Option<&Item> {
        let key = vec![format!("thing#{thing}"), format!("threshold#{threshold}")];
        self.tables.get(&("alarms".to_owned(), key))
    }

    /// An attribute of that record, as text.
    pub fn noted(&self, thing: &str, threshold: &str, name: &str) -> Option<&str> {
        self.record(thing, threshold)?.get(name)?.as_object()?.values().next()?.as_str()
    }

    /// The ids and reasons of what is in quarantine.
    pub fn quarantined(&self) -> Vec<(&str, &str)> {
        let items = self.tables.iter().filter(|((table, _), _)| table == "quarantine");
        items.map(|(_, item)| (item["eventId"]["S"].as_str().unwrap(), item["reason"]["S"].as_str().unwrap())).collect()
    }

    /// What the index holds: the records that somebody must look at, and when.
    pub fn due(&self) -> Vec<(&str, u64)> {
        let items = self.tables.values().filter(|item| item.contains_key("due"));
        items
            .map(|item| (item["id"]["S"].as_str().unwrap(), item["dueAt"]["N"].as_str().unwrap().parse().unwrap()))
            .collect()
    }

    /// The states that were told of a thing by a threshold, in order, each change once.
    pub fn told(&self, thing: &str, threshold: &str) -> Vec<(u64, String)> {
        let mut ids = BTreeSet::new();
        self.published
            .iter()
            .filter(|told| told.data["thing"] == thing && told.data["threshold"] == threshold)
            .filter(|told| ids.insert(told.attributes["eventId"].clone()))
            .map(|told| (told.data["at"].as_u64().unwrap(), told.data["to"].as_str().unwrap().to_owned()))
            .collect()
    }

    /// Whether any record still owes a notice.
    pub fn owes(&self) -> bool {
        self.tables.values().any(|item| item.contains_key("owed"))
    }
}
