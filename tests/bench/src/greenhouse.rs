//! Readings, in batches as SQS hands them to a function, and what must come of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    aws::Call,
    dynamodb::{ALARMS_TABLE, DEVICES_TABLE, TELEMETRY_TABLE, attribute, of_one_table, puts, text},
    sqs,
};

/// The queue that gets what is forwarded.
pub const DESTINATION: &str = "weather";

/// How many things report, and in how many houses they stand. Each house has a threshold of its own.
const THINGS: usize = 100;
const HOUSES: usize = 50;

/// So many messages of so many readings each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The messages of a batch.
    pub messages: usize,
    /// The readings of a message.
    pub each: usize,
}

impl Size {
    /// One message of one reading.
    pub const ONE: Self = Self::of(1);

    /// So many messages of one reading.
    pub const fn of(messages: usize) -> Self {
        Self { messages, each: 1 }
    }

    /// The readings of a batch.
    pub const fn readings(self) -> usize {
        self.messages * self.each
    }
}

/// As in `bench.json`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.messages, self.each)
    }
}

/// One batch.
#[derive(Debug)]
pub struct Batch {
    size: Size,
    /// Which batch of its subject's it is.
    n: usize,
    /// When its first message was received, in milliseconds since 1970.
    received_at: u64,
    /// Whose things these are: no two subjects have the same.
    owner: &'static str,
}

impl Batch {
    /// The batch `n` of the subject `owner`.
    pub fn new(size: Size, n: usize, received_at: u64, owner: &'static str) -> Self {
        Self { size, n, received_at, owner }
    }

    /// The function's input.
    pub fn delivery(&self, function: &str) -> Value {
        sqs::delivery(&self.messages().map(|message| message.record(function)).collect::<Vec<_>>())
    }

    fn messages(&self) -> impl Iterator<Item = Message> {
        (0..self.size.messages).map(|i| {
            // The things report in turn.
            let (round, thing) = (i / THINGS, i % THINGS);
            let received_at = self.received_at + u64::try_from(round).unwrap_or_default();
            let seq = (self.n * self.size.messages + i) * self.size.each;
            Message {
                thing: format!("house-{:02}-{}-{}", thing % HOUSES, self.owner, thing / HOUSES),
                trace_id: format!("{:08x}-7c5b-4c1e-9a3e-{i:012x}", self.n),
                received_at,
                readings: (seq..seq + self.size.each).map(|seq| reading(seq, round, received_at)).collect(),
            }
        })
    }

    /// Whether `calls` keep each reading once, and do nothing else.
    pub fn is_kept(&self, calls: &[&Call]) -> Result<()> {
        let mut missing: BTreeMap<(String, String), Value> =
            self.messages().flat_map(|message| message.items(self.size.each > 1)).collect();
        for call in calls {
            ensure!(call.operation == "BatchWriteItem", "{} {} was not expected", call.operation, call.target);
            let fields: Value = serde_json::from_str(&call.body)?;
            let (table, requests) = of_one_table(&fields)?;
            ensure!(table == TELEMETRY_TABLE, "it wrote into {table}");
            for item in puts(table, requests)? {
                let key = (text(item, "thing")?.to_owned(), text(item, "at")?.to_owned());
                let expected = missing.remove(&key);
                let expected = expected.with_context(|| format!("{key:?} was not expected, or came twice"))?;
                let mut item = item.clone();
                ensure!(item.remove("expiration").is_some_and(|it| it.get("N").is_some()), "{key:?} has no expiration");
                ensure!(Value::Object(item.clone()) == expected, "{key:?} is {item:?}, expected was {expected}");
            }
        }
        match missing.first_key_value() {
            None => Ok(()),
            Some((key, _)) => bail!("{} readings were not written; the first is {key:?}", missing.len()),
        }
    }

    /// Whether `calls` read and write the state of each thing once, its newest reading taken in, and tell nobody
    /// anything.
    pub fn is_judged(&self, calls: &[&Call]) -> Result<()> {
        let newest: BTreeMap<String, u64> =
            self.messages().map(|message| (message.thing, message.received_at)).collect();
        let mut written = BTreeSet::new();
        for call in calls {
            ensure!(call.target == ALARMS_TABLE, "{} {} was not expected", call.operation, call.target);
            match call.operation.as_str() {
                "GetItem" | "BatchGetItem" => {}
                "PutItem" => {
                    let about = newest
                        .iter()
                        .find(|(thing, at)| call.body.contains(thing.as_str()) && call.body.contains(&at.to_string()));
                    let (thing, _) = about.with_context(|| format!("{} is about no newest reading", call.body))?;
                    ensure!(written.insert(thing), "the state of {thing} was written twice");
                }
                other => bail!("{other} was not expected"),
            }
        }
        ensure!(written.len() == newest.len(), "{} states of {} were written", written.len(), newest.len());
        Ok(())
    }

    /// Whether `calls` send each message once, as its device published it, and do no more than to look for a document.
    pub fn is_forwarded(&self, calls: &[&Call]) -> Result<()> {
        let mut missing: BTreeMap<String, Message> =
            self.messages().map(|message| (message.trace_id.clone(), message)).collect();
        for call in calls {
            match (call.operation.as_str(), call.target.as_str()) {
                ("GetItem", DEVICES_TABLE) => continue,
                ("SendMessageBatch", DESTINATION) => {}
                (operation, target) => bail!("{operation} {target} was not expected"),
            }
            let fields: Value = serde_json::from_str(&call.body)?;
            for entry in sqs::entries(&fields)? {
                let attribute = |name: &str| {
                    let value = entry.pointer(&format!("/MessageAttributes/{name}/StringValue"));
                    value.and_then(Value::as_str).with_context(|| format!("an entry has no attribute {name}"))
                };
                let id = attribute("traceId")?;
                let message = missing.remove(id).with_context(|| format!("{id} was not expected, or came twice"))?;
                ensure!(sqs::text(entry, "MessageBody")? == message.payload(), "{id} is not as it was published");
                ensure!(attribute("topic")? == message.topic(), "{id} has another topic");
                ensure!(attribute("thing")? == message.thing, "{id} has another thing");
                ensure!(attribute("receivedAt")? == message.received_at.to_string(), "{id} has another time");
                ensure!(attribute("contentType")? == "application/json", "{id} has another type");
            }
        }
        ensure!(missing.is_empty(), "{} messages were not sent", missing.len());
        Ok(())
    }
}

/// The document of thresholds, as it stands in the alarms' table. Each thing is held against one of them.
pub fn thresholds() -> Value {
    let threshold = |house| {
        json!({
            "name": format!("too-bright-{house:02}"),
            "things": format!("house-{house:02}-*"),
            "field": "/lux",
            "raise": { "above": 35_000, "for": "15 min" },
            "clear": { "below": 35_000, "for": "15 min" },
            "stale": "1 h",
        })
    };
    let document = json!({ "thresholds": (0..HOUSES).map(threshold).collect::<Vec<_>>() });
    json!({
        "id": { "S": "document#thresholds" },
        "part": { "S": "current" },
        "document": { "S": document.to_string() },
        "givenAt": { "N": "1763715600000" },
        "version": { "N": "1" },
    })
}

/// What a sensor sends, of about 200 bytes. Every other one is above the threshold, so that none ever holds for long.
fn reading(seq: usize, round: usize, at: u64) -> Value {
    let lux = if round.is_multiple_of(2) { 35_123.5 } else { 34_876.25 };
    json!({
        "seq": seq,
        "time": at - 250,
        "lux": lux,
        "temperature": 21.75,
        "humidity": 48.2,
        "battery": { "millivolts": 2950, "low": false },
        "place": { "row": 12, "bench": "north-3" },
        "tags": ["tomato", "east"],
        "firmware": "2.4.1",
    })
}

/// What one device published.
struct Message {
    thing: String,
    trace_id: String,
    received_at: u64,
    readings: Vec<Value>,
}

impl Message {
    fn topic(&self) -> String {
        format!("telemetry/{}", self.thing)
    }

    fn payload(&self) -> String {
        match &*self.readings {
            [reading] => reading.to_string(),
            readings => json!(readings).to_string(),
        }
    }

    /// What SQS makes of what the rule makes of it.
    fn record(&self, function: &str) -> Value {
        let body = json!({
            "payloadBase64": STANDARD.encode(self.payload()),
            "thing": self.thing,
            "topic": self.topic(),
            "clientId": self.thing,
            "principal": "5f29a6cf2bb0c4cf7a39c4f0a2b9d9d9cb2d9cc5c0a8be0f21a3f4d4e1b1a0c7",
            "traceId": self.trace_id,
            "receivedAt": self.received_at,
        });
        let id = self.trace_id.replacen("-7c5b-", "-b21e-", 1);
        sqs::record(function, &id, self.received_at + 20, &body)
    }

    /// The items that keep it, by key, without their expiration.
    fn items(self, is_array: bool) -> impl Iterator<Item = ((String, String), Value)> {
        let Self { thing, trace_id, received_at, .. } = &self;
        let common = [
            ("thing", json!(thing)),
            ("eventId", json!(trace_id)),
            ("topic", json!(self.topic())),
            ("receivedAt", json!(received_at)),
        ];
        let common = common.map(|(name, value)| (name.to_owned(), value));
        let key = (thing.clone(), format!("{received_at:013}#{trace_id}"));
        self.readings.into_iter().enumerate().map(move |(index, reading)| {
            let (thing, mut at) = key.clone();
            if is_array {
                let _ = write!(at, "#{index:06}");
            }
            let own = [("at", json!(at)), ("deviceTime", json!(reading.get("time"))), ("reading", reading)];
            let own = own.map(|(name, value)| (name.to_owned(), value));
            let item = common.clone().into_iter().chain(own);
            let item = item.map(|(name, value)| (name, attribute(&value))).collect();
            ((thing, at), Value::Object(item))
        })
    }
}
