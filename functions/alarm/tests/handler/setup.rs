//! An account with the function, the events that tests deliver to it, and the results that they check.

use std::collections::BTreeSet;
use std::time::Duration;

use alarm::AlarmHandler;
use gatehouse::{Idempotency, InitError, Timestamp, Topic};
use serde_json::{Value, json};
use test_support::{Delivered, FakeAws, Index, Item, NOW, Process, Published, State, Table, label_by_kind, sqs_batch};

pub const START: u64 = NOW.millis();
pub const MINUTE: u64 = 60_000;

/// How long the queue waits before it redelivers a message.
pub const VISIBILITY_TIMEOUT: Duration = Duration::from_mins(6);

const ALARMS: Table =
    Table::new("alarms", &["id", "part"], &["GetItem", "BatchGetItem", "PutItem", "BatchExecuteStatement"])
        .index(Index { name: "due", key: &["due", "dueAt"], projects_all: false })
        .label(label);
const DEVICES: Table = Table::new("devices", &["id", "part"], &["Scan"]);

/// Items of the history are labeled as such, others by the kind in their partition key.
fn label(table: &str, key: &[String]) -> String {
    if key[1].starts_with("history#") { "history".to_owned() } else { label_by_kind(table, key) }
}

pub fn empty_account() -> FakeAws {
    FakeAws::new("alarm")
        .timeout(Duration::from_mins(1))
        .page_size(2)
        .env("ALARMS_TABLE", "alarms")
        .env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:alarms")
        .env("DEVICES_TABLE", "devices")
        .table(ALARMS)
        .table(DEVICES)
}

/// An account in which these thresholds are in force.
pub async fn account(thresholds: Value) -> FakeAws {
    let aws = empty_account();
    assert!(put_thresholds(&aws, thresholds).await.is_done());
    aws
}

pub fn handler(process: &Process) -> Result<AlarmHandler, InitError> {
    let environment = process.environment();
    let idempotency = Idempotency::from_environment(&environment, process.dynamodb(), "alarm")?;
    let topic = Topic::from_environment(&environment, process.sns())?;
    AlarmHandler::from_environment(&environment, process.dynamodb(), idempotency, topic)
}

pub fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

pub async fn deliver_to(process: &Process, delivery: &Value, now: Timestamp) -> Delivered {
    process.deliver_to(handler(process).unwrap(), delivery, now).await
}

pub async fn deliver(aws: &FakeAws, bodies: &[Value], millis: u64) -> Delivered {
    deliver_to(&aws.process(), &sqs_batch(bodies), at(millis)).await
}

pub async fn put_thresholds(aws: &FakeAws, thresholds: Value) -> Delivered {
    deliver_to(&aws.process(), &json!({"thresholds": thresholds}), at(0)).await
}

pub fn check_command() -> Value {
    json!({"check": "due"})
}

/// Delivers the schedule's command alone.
pub async fn check(aws: &FakeAws, millis: u64) -> Delivered {
    deliver_to(&aws.process(), &check_command(), at(millis)).await
}

/// A threshold that raises above 100 and clears below 100, each sustained for this many seconds; stale after an hour.
pub fn too_bright(seconds: u64) -> Value {
    json!({"name": "too-bright", "things": "greenhouse-*", "field": "/lux", "stale": "1 h",
           "raise": {"above": 100, "for": format!("{seconds} s")},
           "clear": {"below": 100, "for": format!("{seconds} s")}})
}

/// A device's message, received this long after the start.
pub fn event(id: &str, thing: &str, millis: u64, payload: Value) -> Value {
    let mut event = json!({"traceId": id, "thing": thing, "topic": format!("telemetry/{thing}")});
    event["receivedAt"] = (START + millis).into();
    event["payload"] = payload;
    event
}

pub fn reading(id: &str, millis: u64, lux: u64) -> Value {
    event(id, "greenhouse-1", millis, json!({"lux": lux}))
}

/// Readings that raise an alarm if it must be sustained for a minute.
pub fn raising() -> Vec<Value> {
    vec![reading("e-1", 0, 150), reading("e-2", MINUTE, 150)]
}

/// One reading from each of many things.
pub fn storm(things: usize, millis: u64, lux: u64) -> Vec<Value> {
    (0..things)
        .map(|n| event(&format!("e-{n}-{millis}"), &format!("greenhouse-{n}"), millis, json!({"lux": lux})))
        .collect()
}

/// The distinct transitions of a thing by `too-bright` that were published, in order: time since the start, and state.
pub fn transitions_of(state: &State, thing: &str) -> Vec<(u64, String)> {
    let mut ids = BTreeSet::new();
    let data = state.published.iter().map(|published| (published, published.data()));
    data.filter(|(_, data)| data["thing"] == thing && data["threshold"] == "too-bright")
        .filter(|(published, _)| ids.insert(published.attributes["eventId"].clone()))
        .map(|(_, data)| (data["at"].as_u64().unwrap() - START, data["to"].as_str().unwrap().to_owned()))
        .collect()
}

pub fn transitions(aws: &FakeAws) -> Vec<(u64, String)> {
    transitions_of(&aws.state(), "greenhouse-1")
}

/// An expected transition.
pub fn to(state: &str, at: u64) -> (u64, String) {
    (at, state.to_owned())
}

pub fn is_for_people(published: &Published) -> bool {
    published.attributes["audience"] == "people"
}

/// How many notifications people have received.
pub fn people(aws: &FakeAws) -> usize {
    aws.state().published.iter().filter(|published| is_for_people(published)).count()
}

const KEY: [&str; 2] = ["thing#greenhouse-1", "threshold#too-bright"];

/// The record of greenhouse-1 for `too-bright`.
pub fn record(aws: &FakeAws) -> Option<Item> {
    aws.state().item("alarms", &KEY).cloned()
}

/// An attribute of that record.
pub fn attribute(state: &State, name: &str) -> Option<String> {
    state.attribute("alarms", &KEY, name)
}

/// The records in the index of due records, and when they are due.
pub fn due(aws: &FakeAws) -> Vec<(String, u64)> {
    let state = aws.state();
    let items = state.items("alarms").filter(|(_, item)| item.contains_key("due"));
    items.map(|(key, item)| (key[0].clone(), item["dueAt"]["N"].as_str().unwrap().parse().unwrap())).collect()
}

/// Whether any notification is still pending.
pub fn has_pending(state: &State) -> bool {
    state.tables.values().any(|item| item.contains_key("owed"))
}

/// Puts a document of version 2 with these rules into force.
pub async fn put_rules(aws: &FakeAws, rules: Value, millis: u64) -> Delivered {
    deliver_to(&aws.process(), &json!({"version": 2, "rules": rules}), at(millis)).await
}

/// An account in which this rule of version 2 is in force.
pub async fn account_with_rule(rule: Value) -> FakeAws {
    let aws = empty_account();
    let put = put_rules(&aws, json!([rule]), 0).await;
    assert!(put.is_done(), "{put:?}");
    aws
}

/// A rule that raises a warning above 100 and a critical alarm above 200, and clears 10 below, at once.
pub fn two_levels() -> Value {
    let level = |severity: &str, limit: u64| {
        json!({"severity": severity,
               "raise": {"when": {"field": "/lux", "op": ">", "value": limit}},
               "clear": {"when": {"field": "/lux", "op": "<", "value": limit - 10}}})
    };
    json!({"name": "too-bright", "things": "greenhouse-*", "severities": [level("critical", 200), level("warning", 100)]})
}

/// Performs an action on greenhouse-1's alarm by `too-bright`.
pub async fn act(aws: &FakeAws, action: &str, millis: u64) -> Delivered {
    deliver_to(&aws.process(), &action_command(action), at(millis)).await
}

/// The command for such an action; a snooze lasts ten minutes.
pub fn action_command(action: &str) -> Value {
    let mut fields = json!({"thing": "greenhouse-1", "rule": "too-bright", "by": "anna"});
    if action == "snooze" {
        fields["for"] = "10 min".into();
    }
    json!({action: fields})
}

/// Everything that was published about greenhouse-1, each message once: time since the start, kind, severity and state.
pub fn messages(state: &State) -> Vec<(u64, String, String, String)> {
    let mut ids = BTreeSet::new();
    let published = state.published.iter().filter(|published| ids.insert(published.attributes["eventId"].clone()));
    published
        .map(Published::data)
        .filter(|data| data["thing"] == "greenhouse-1")
        .map(|data| {
            let [kind, severity, state] =
                ["kind", "severity", "state"].map(|name| data[name].as_str().unwrap_or("-").to_owned());
            (data["at"].as_u64().unwrap() - START, kind, severity, state)
        })
        .collect()
}

/// An expected message.
pub fn message(at: u64, kind: &str, severity: &str, state: &str) -> (u64, String, String, String) {
    (at, kind.to_owned(), severity.to_owned(), state.to_owned())
}

/// The history of greenhouse-1: time since the start, cause, state of the alarm before and after.
pub fn history(state: &State) -> Vec<(u64, String, String, String)> {
    let items =
        state.items("alarms").filter(|(key, _)| key[0] == "thing#greenhouse-1" && key[1].starts_with("history#"));
    items
        .map(|(_, item)| {
            let text = |name: &str| item[name]["S"].as_str().unwrap().to_owned();
            let at: u64 = item["at"]["N"].as_str().unwrap().parse().unwrap();
            (at - START, text("cause"), text("previousState"), text("alarmState"))
        })
        .collect()
}

/// An expected entry.
pub fn entry(at: u64, cause: &str, from: &str, to: &str) -> (u64, String, String, String) {
    (at, cause.to_owned(), from.to_owned(), to.to_owned())
}
