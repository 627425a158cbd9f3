//! Batches of readings as SQS delivers them, and their expected effects.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    aws::Call,
    dynamodb::{ALARMS_TABLE, DEVICES_TABLE, TELEMETRY_TABLE, attribute, puts, single_table, text},
    sqs,
};

/// The queue that messages are forwarded to.
pub const DESTINATION: &str = "weather";

/// The number of things, and of the houses that contain them.
const THINGS: usize = 100;
const HOUSES: usize = 50;

/// The number of thresholds in the document. Each of the first 50 applies to the things with its letter in their names:
/// those in one house, or all things of a batch with many thresholds per thing. The others apply to names with `_`.
const THRESHOLDS: usize = 200;
const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwx";

/// The size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Messages per batch.
    pub messages: usize,
    /// Readings per message.
    pub each: usize,
    /// How many of the thresholds apply to each thing: 1, 50 or 200.
    pub thresholds: usize,
}

impl Size {
    /// One message with one reading.
    pub const ONE: Self = Self::of(1);

    /// Returns the size of a batch of messages with one reading each.
    pub const fn of(messages: usize) -> Self {
        Self { messages, each: 1, thresholds: 1 }
    }

    /// Returns the size of a batch of messages with several readings each.
    pub const fn of_arrays(messages: usize, each: usize) -> Self {
        Self { messages, each, thresholds: 1 }
    }

    /// Returns the size of a batch with one reading per message and this many thresholds per thing.
    pub const fn with_thresholds(messages: usize, thresholds: usize) -> Self {
        Self { messages, each: 1, thresholds }
    }

    /// Returns the number of readings in the batch.
    pub const fn readings(self) -> usize {
        self.messages * self.each
    }
}

/// Formats the size as in `bench.json`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.messages, self.each)?;
        if self.thresholds > 1 { write!(f, ", {} thresholds", self.thresholds) } else { Ok(()) }
    }
}

/// A batch.
#[derive(Debug)]
pub struct Batch {
    size: Size,
    /// The number of the subject's batch.
    n: usize,
    /// When its first message was received, in milliseconds since 1970.
    received_at: u64,
    /// The subject; each has its own things.
    owner: &'static str,
}

impl Batch {
    /// Returns batch `n` of a subject.
    pub fn new(size: Size, n: usize, received_at: u64, owner: &'static str) -> Self {
        Self { size, n, received_at, owner }
    }

    /// Returns the function's input.
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
                thing: self.thing(thing),
                trace_id: format!("{:08x}-7c5b-4c1e-9a3e-{i:012x}", self.n),
                received_at,
                readings: (seq..seq + self.size.each).map(|seq| reading(seq, round, received_at)).collect(),
            }
        })
    }

    /// Returns the name of a thing, with the letters of the thresholds that apply to it.
    fn thing(&self, number: usize) -> String {
        let house = number % HOUSES;
        let letters: String = match self.size.thresholds {
            1 => LETTERS.chars().skip(house).take(1).collect(),
            HOUSES => LETTERS.to_owned(),
            _ => format!("{LETTERS}_"),
        };
        format!("house-{house:02}-{}-{}:{letters}", self.owner, number / HOUSES)
    }

    /// Ensures that the calls store each reading once, and do nothing else.
    pub fn ensure_stored(&self, calls: &[&Call]) -> Result<()> {
        let mut missing: BTreeMap<(String, String), Value> =
            self.messages().flat_map(|message| message.items(self.size.each > 1)).collect();
        for call in calls {
            ensure!(call.operation == "BatchWriteItem", "unexpected call {} {}", call.operation, call.target);
            let fields: Value = serde_json::from_str(&call.body)?;
            let (table, requests) = single_table(&fields)?;
            ensure!(table == TELEMETRY_TABLE, "the call writes to {table}");
            for item in puts(table, requests)? {
                let key = (text(item, "thing")?.to_owned(), text(item, "at")?.to_owned());
                let expected = missing.remove(&key);
                let expected = expected.with_context(|| format!("{key:?} is unexpected or duplicate"))?;
                let mut item = item.clone();
                ensure!(item.remove("expiration").is_some_and(|it| it.get("N").is_some()), "{key:?} has no expiration");
                ensure!(Value::Object(item.clone()) == expected, "{key:?} is {item:?}, expected {expected}");
            }
        }
        match missing.first_key_value() {
            None => Ok(()),
            Some((key, _)) => bail!("{} readings are missing, the first one is {key:?}", missing.len()),
        }
    }

    /// Ensures that the calls read and write the state of each thing once, including its newest reading, and that
    /// nothing is published.
    pub fn ensure_evaluated(&self, calls: &[&Call]) -> Result<()> {
        let newest: BTreeMap<String, u64> =
            self.messages().map(|message| (message.thing, message.received_at)).collect();
        let mut written = BTreeSet::new();
        let threshold = |body: &str| -> Option<String> {
            let (_, key) = body.split_once("\"threshold#")?;
            Some(key.split_once('"')?.0.to_owned())
        };
        for call in calls {
            ensure!(call.target == ALARMS_TABLE, "unexpected call {} {}", call.operation, call.target);
            let writes = match call.operation.as_str() {
                "GetItem" | "BatchGetItem" => Vec::new(),
                "PutItem" => vec![call.body.clone()],
                "BatchExecuteStatement" => {
                    let fields: Value = serde_json::from_str(&call.body)?;
                    let statements = fields.get("Statements").and_then(Value::as_array).context("no Statements")?;
                    statements.iter().map(Value::to_string).collect()
                }
                other => bail!("unexpected call {other}"),
            };
            for write in writes {
                let found =
                    newest.iter().find(|(thing, at)| write.contains(thing.as_str()) && write.contains(&at.to_string()));
                let (thing, _) = found.with_context(|| format!("{write} has no newest reading"))?;
                let threshold = threshold(&write).with_context(|| format!("{write} has no threshold"))?;
                ensure!(written.insert((thing, threshold)), "a state of {thing} was written twice");
            }
        }
        let expected = newest.len() * self.size.thresholds;
        ensure!(written.len() == expected, "{} of {expected} states were written", written.len());
        Ok(())
    }

    /// Ensures that the calls send each message once, unmodified, and otherwise only read a document.
    pub fn ensure_forwarded(&self, calls: &[&Call]) -> Result<()> {
        let mut missing: BTreeMap<String, Message> =
            self.messages().map(|message| (message.trace_id.clone(), message)).collect();
        for call in calls {
            match (call.operation.as_str(), call.target.as_str()) {
                ("GetItem", DEVICES_TABLE) => continue,
                ("SendMessageBatch", DESTINATION) => {}
                (operation, target) => bail!("unexpected call {operation} {target}"),
            }
            let fields: Value = serde_json::from_str(&call.body)?;
            for entry in sqs::entries(&fields)? {
                let attribute = |name: &str| {
                    let value = entry.pointer(&format!("/MessageAttributes/{name}/StringValue"));
                    value.and_then(Value::as_str).with_context(|| format!("an entry has no attribute {name}"))
                };
                let id = attribute("traceId")?;
                let message = missing.remove(id).with_context(|| format!("{id} is unexpected or duplicate"))?;
                ensure!(sqs::text(entry, "MessageBody")? == message.payload(), "the payload of {id} was modified");
                ensure!(attribute("topic")? == message.topic(), "{id} has another topic");
                ensure!(attribute("thing")? == message.thing, "{id} has another thing");
                ensure!(attribute("receivedAt")? == message.received_at.to_string(), "{id} has another time");
                ensure!(attribute("contentType")? == "application/json", "{id} has another type");
            }
        }
        ensure!(missing.is_empty(), "{} messages are missing", missing.len());
        Ok(())
    }
}

/// Returns the thresholds document.
pub fn thresholds() -> Value {
    let letters = LETTERS.chars().map(|letter| format!("*:*{letter}*"));
    let patterns = letters.chain(std::iter::repeat("*:*_*".to_owned())).take(THRESHOLDS);
    let threshold = |(number, things)| {
        json!({
            "name": format!("too-bright-{number:03}"),
            "things": things,
            "field": "/lux",
            "raise": { "above": 35_000, "for": "15 min" },
            "clear": { "below": 35_000, "for": "15 min" },
            "stale": "1 h",
        })
    };
    json!({ "thresholds": patterns.enumerate().map(threshold).collect::<Vec<_>>() })
}

/// Returns a sensor's reading of about 200 bytes. A thing's readings are above and below the threshold in turn, so no
/// alarm is ever raised.
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

/// A message of a device.
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

    /// Returns the SQS record of the event.
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

    /// Returns the items of its readings by key, without their expiration.
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
