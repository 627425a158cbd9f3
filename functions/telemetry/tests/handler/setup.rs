//! An account with the function, the events that tests deliver to it, and the results that they check.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use telemetry::TelemetryHandler;
use test_support::{Call, Delivered, FakeAws, Fault, NOW, Table, sqs_batch};

pub const READINGS: &str = "readings";

/// The call that writes readings.
pub const WRITE: &str = "BatchWriteItem";

/// An account whose table rejects readings with the field `poison`, for a reason unknown to the function.
pub fn account() -> FakeAws {
    let aws = FakeAws::new("telemetry")
        .timeout(Duration::from_secs(20))
        .env("TELEMETRY_TABLE", READINGS)
        .table(Table::new(READINGS, &["thing", "at"], &[WRITE]))
        .latency(WRITE, Duration::from_millis(5));
    aws.fail_when(WRITE, |call| {
        let is_poisoned = |put: &Value| !put["PutRequest"]["Item"]["reading"]["M"]["poison"].is_null();
        puts(call).iter().any(is_poisoned).then_some(Fault::Error(400, "ValidationException"))
    });
    aws
}

pub async fn deliver(aws: &FakeAws, delivery: &Value) -> Delivered {
    deliver_with(aws, &[], delivery).await
}

/// Delivers to a process with these environment variables.
pub async fn deliver_with(aws: &FakeAws, variables: &[(&'static str, &str)], delivery: &Value) -> Delivered {
    let process = variables.iter().fold(aws.process(), |process, (name, value)| process.env(name, *value));
    let handler = TelemetryHandler::from_environment(&process.environment(), process.dynamodb()).unwrap();
    process.deliver_to(handler, delivery, NOW).await
}

/// The messages that are delivered again.
pub fn retried(delivered: &Delivered) -> Vec<String> {
    let messages = delivered.retried_messages().expect("the process is alive");
    messages.into_iter().map(str::to_owned).collect()
}

/// Makes the next call that writes a reading of this event fail.
pub fn fail_next_call_of(aws: &FakeAws, event: &'static str, fault: Fault) {
    let mut fault = Some(fault);
    aws.fail_when(WRITE, move |call| {
        let is_of_event = |put: &Value| put["PutRequest"]["Item"]["eventId"]["S"] == event;
        fault.take_if(|_| puts(call).iter().any(is_of_event))
    });
}

fn puts(call: &Call) -> &[Value] {
    call.body["RequestItems"][READINGS].as_array().expect("it writes to the table only")
}

/// A device's message, as the rule wraps it.
pub fn event_at(id: &str, payload: &str, received: u64) -> Value {
    event_on("telemetry/greenhouse-1", id, payload, received)
}

pub fn event_on(topic: &str, id: &str, payload: &str, received: u64) -> Value {
    let payload = BASE64_STANDARD.encode(payload);
    json!({"thing": "greenhouse-1", "topic": topic, "traceId": id, "payloadBase64": payload, "receivedAt": received})
}

pub fn event(id: &str, payload: &str) -> Value {
    event_at(id, payload, NOW.millis())
}

/// Numbered readings, one per event.
pub fn numbered(count: usize) -> Value {
    sqs_batch((0..count).map(|n| event(&format!("e-{n}"), &format!(r#"{{"n":{n}}}"#))))
}

pub fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("m-{n}")).collect()
}

/// The sort keys in the table.
pub fn keys(table: &FakeAws) -> Vec<String> {
    table.state().items(READINGS).map(|(key, _)| key[1].clone()).collect()
}

/// The items' attribute of this name.
pub fn attribute(table: &FakeAws, name: &str) -> Vec<Value> {
    table.state().items(READINGS).map(|(_, item)| item[name].clone()).collect()
}

/// The reason and the sentence of the only event in quarantine.
pub fn refused(table: &FakeAws) -> (String, String) {
    let state = table.state();
    let [(_, reason, why)] = state.quarantined()[..] else { panic!("{:?}", state.quarantined()) };
    (reason.to_owned(), why.to_owned())
}

/// The number of readings in each call.
pub fn call_sizes(table: &FakeAws) -> Vec<usize> {
    table.state().calls_to(WRITE).iter().map(|call| puts(call).len()).collect()
}

pub fn stored(table: &FakeAws) -> usize {
    table.state().items(READINGS).count()
}

/// The items of all readings.
pub fn items(table: &FakeAws) -> Vec<Value> {
    table.state().items(READINGS).map(|(_, item)| json!(item)).collect()
}
