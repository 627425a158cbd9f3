//! An AWS account with the function, and the queues of other accounts.

use std::collections::BTreeMap;
use std::time::Duration;

use forward::{ForwardHandler, RegionalClients};
use gatehouse::{Timestamp, VersionedTable};
use serde_json::{Value, json};
use test_support::{Delivered, FakeAws, Fault, NOW, Process, Table, sqs_record, workspace_file};

pub const QUEUE: &str = "https://sqs.eu-west-1.amazonaws.com/222222222222/weather";
pub const FIFO: &str = "https://sqs.eu-west-1.amazonaws.com/222222222222/weather.fifo";
pub const OTHER: &str = "https://sqs.us-east-1.amazonaws.com/333333333333/weather";

/// Environment variables of one process.
pub type Variables<'a> = [(&'static str, &'a str)];

/// An account without queues. A batch that contains [`poison`] fails as a whole, as if its queue only accepted smaller
/// messages.
pub fn aws() -> FakeAws {
    let aws = FakeAws::new("forward").timeout(template("Timeout")).table(Table::new(
        "devices",
        &["id", "part"],
        &["GetItem", "PutItem", "BatchGetItem"],
    ));
    aws.fail_when("SendMessageBatch", |call| {
        let mut entries = call.body["Entries"].as_array().unwrap().iter();
        let is_poisoned = entries.any(|entry| entry["MessageBody"] == "\"poison\"");
        is_poisoned.then_some(Fault::Error(400, "InvalidParameterValue"))
    });
    aws
}

/// A duration in the template: `Timeout` of the function, or `VisibilityTimeout` of its queue.
pub fn template(name: &str) -> Duration {
    let text = workspace_file("infra/forward.yaml");
    let seconds = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    Duration::from_secs(seconds.unwrap().parse().unwrap())
}

/// The variables that the template sets for this queue.
pub fn to(queue: &str) -> [(&'static str, &str); 1] {
    [("DESTINATION_QUEUE_URL", queue)]
}

/// Passes a delivery to a new process.
pub async fn deliver(aws: &FakeAws, variables: &Variables<'_>, delivery: &Value, now: Timestamp) -> Delivered {
    deliver_to(aws.process(), variables, delivery, now).await
}

/// Passes a delivery to this process.
pub async fn deliver_to(process: Process, variables: &Variables<'_>, delivery: &Value, now: Timestamp) -> Delivered {
    let process = variables.iter().fold(process, |process, (name, value)| process.env(name, *value));
    let environment = process.environment();
    let mut config = aws_sdk_sqs::config::Builder::from(&process.sdk_config());
    config.set_endpoint_url(environment.get("AWS_ENDPOINT_URL").map(str::to_owned));
    let table = VersionedTable::new(process.dynamodb(), "devices");
    let handler = ForwardHandler::from_environment(&environment, RegionalClients::new(config), table).unwrap();
    // Boxed, because the future's type would be nested too deeply for the compiler.
    Box::pin(process.deliver_to(handler, delivery, now)).await
}

/// A message of a thing, received this many milliseconds after the start.
pub fn event(id: &str, thing: &str, received_after: u64, payload: &Value) -> Value {
    json!({
        "payload": payload, "thing": thing, "topic": "Weather/Corp/temperature", "traceId": id,
        "receivedAt": NOW.millis() + received_after,
    })
}

pub fn reading(id: &str) -> Value {
    event(id, "station-1", 0, &json!(id))
}

/// A message that makes every call that contains it fail.
pub fn poison() -> Value {
    reading("poison")
}

/// A batch that SQS delivers. Each message's id is that of its event.
pub fn batch<'a>(events: impl IntoIterator<Item = &'a Value>) -> Value {
    let record = |event: &Value| sqs_record(event["traceId"].as_str().unwrap_or("command"), event);
    json!({"Records": events.into_iter().map(record).collect::<Vec<_>>()})
}

/// A document of destinations, each with its name, topics, queue and policy for payloads that are not JSON.
pub fn document(destinations: &[(&str, &str, &str, &str)]) -> Value {
    let destination = |(name, topics, queue, binary): &(&str, &str, &str, &str)| json!({"name": name, "topics": topics, "queueUrl": queue, "binary": binary});
    json!({"destinations": destinations.iter().map(destination).collect::<Vec<_>>()})
}

pub async fn put(aws: &FakeAws, document: &Value) {
    assert_done(&deliver(aws, &[], document, NOW).await);
}

#[track_caller]
pub fn assert_done(delivered: &Delivered) {
    assert!(delivered.is_done(), "{delivered:?}");
}

/// The bodies of the messages in a queue.
pub fn bodies(aws: &FakeAws, queue: &str) -> Vec<String> {
    aws.state().queues[queue].bodies().into_iter().map(str::to_owned).collect()
}

/// The hosts that `SendMessageBatch` was sent to, one per call.
pub fn hosts(aws: &FakeAws) -> Vec<String> {
    aws.state().calls_to("SendMessageBatch").into_iter().map(|call| call.host.clone()).collect()
}

/// The reason codes of refused events, by event id.
pub fn quarantined(aws: &FakeAws) -> BTreeMap<String, String> {
    let state = aws.state();
    state.quarantined().into_iter().map(|(id, reason, _)| (id.to_owned(), reason.to_owned())).collect()
}

/// Refused events, as [`quarantined`] returns them.
pub fn reasons<const N: usize>(reasons: [(&str, &str); N]) -> BTreeMap<String, String> {
    reasons.map(|(id, reason)| (id.to_owned(), reason.to_owned())).into()
}
