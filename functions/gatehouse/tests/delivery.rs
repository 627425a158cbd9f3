//! Each event in a delivery gets its own outcome, and the response reports exactly the events that must be retried.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::{
    BatchHandler, Command, Concurrent, DeviceEvent, EventHandler, Failure, Function, Incoming, Input, Invocation,
    Outcomes, Quarantine,
};
use serde::Deserialize;
use serde_json::{Value, json};
use test_support::{FakeAws, Fault, Logs, NOW};

/// The refused events in quarantine: id, reason, and the event itself.
fn quarantined(aws: &FakeAws) -> Vec<(String, String, String)> {
    let state = aws.state();
    let events = state.items("quarantine").map(|(_, item)| {
        let text = |name: &str| item[name]["S"].as_str().unwrap().to_owned();
        assert_eq!(text("function"), "sample");
        assert!(text("why").ends_with('.'), "a sentence: {}", text("why"));
        (text("eventId"), text("reason"), text("event"))
    });
    events.collect()
}

/// Does what the payload says.
struct Obedient;

#[derive(Deserialize)]
struct Instruction {
    then: String,
}

impl EventHandler for Obedient {
    type Input = DeviceEvent;
    type Error = Failure;

    async fn handle(&self, event: &DeviceEvent, _invocation: &Invocation) -> Result<(), Failure> {
        match event.payload::<Instruction>(100)?.then.as_str() {
            "succeed" => Ok(()),
            "retry" => Err(Failure::retry("throttled")),
            "hang" => std::future::pending().await,
            other => panic!("{other}"),
        }
    }
}

fn event(id: &str, then: &str) -> Value {
    json!({"thing": "thing-1", "topic": "sample/thing-1", "traceId": id, "payload": {"then": then}})
}

fn batch(bodies: &[String]) -> Value {
    let record = |(index, body): (usize, &String)| {
        json!({"messageId": format!("message-{index}"), "eventSource": "aws:sqs", "body": body,
               "attributes": {"SentTimestamp": "1763715599000"}})
    };
    json!({"Records": bodies.iter().enumerate().map(record).collect::<Vec<_>>()})
}

async fn deliver<H: BatchHandler>(aws: &FakeAws, handler: H, delivery: &Value) -> Result<Value, String> {
    aws.process().deliver_to(handler, delivery, NOW).await.response.unwrap()
}

async fn deliver_to_obedient(delivery: &Value) -> (Result<Value, String>, Vec<(String, String, String)>) {
    let aws = FakeAws::new("sample");
    let response = deliver(&aws, Concurrent::new(Obedient, NonZeroUsize::new(4).unwrap()), delivery).await;
    (response, quarantined(&aws))
}

fn handed_back(ids: &[&str]) -> Value {
    json!({"batchItemFailures": ids.iter().map(|id| json!({"itemIdentifier": id})).collect::<Vec<_>>()})
}

#[tokio::test(start_paused = true)]
async fn bare_event_that_is_done_is_acknowledged() {
    let (response, quarantined) = deliver_to_obedient(&event("e-1", "succeed")).await;
    assert_eq!(response, Ok(json!({"outcome": "done"})));
    assert_eq!(quarantined, []);
}

#[tokio::test(start_paused = true)]
async fn bare_event_to_be_retried_fails_the_invocation() {
    let (response, _) = deliver_to_obedient(&event("e-1", "retry")).await;
    assert_eq!(response, Err("the event could not be handled and must be retried: throttled".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn refused_bare_event_is_quarantined_whole_and_acknowledged() {
    let broken = json!({"thing": "thing-1", "topic": "sample/thing-1", "traceId": "e-1", "payloadBase64": "/w=="});
    let (response, quarantined) = deliver_to_obedient(&broken).await;
    assert_eq!(response.unwrap()["reason"], "invalid-utf8");
    assert_eq!(quarantined, [("e-1".to_owned(), "invalid-utf8".to_owned(), broken.to_string())]);
}

#[tokio::test(start_paused = true)]
async fn only_messages_to_be_retried_are_handed_back() {
    let bodies = [
        event("e-0", "succeed").to_string(),
        event("e-1", "retry").to_string(),
        "not even JSON".to_owned(),
        event("e-3", "panic").to_string(),
        event("e-4", "succeed").to_string(),
    ];
    let (response, quarantined) = deliver_to_obedient(&batch(&bodies)).await;
    assert_eq!(response, Ok(handed_back(&["message-1", "message-3"])));
    assert_eq!(quarantined, [("message-2".to_owned(), "bad-envelope".to_owned(), "not even JSON".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn empty_batch_has_no_failures() {
    assert_eq!(deliver_to_obedient(&batch(&[])).await.0, Ok(handed_back(&[])));
}

#[tokio::test(start_paused = true)]
async fn hanging_event_is_handed_back_and_done_ones_stay_done() {
    let bodies = [event("e-0", "succeed").to_string(), event("e-1", "hang").to_string()];
    let began = tokio::time::Instant::now();
    let (response, _) = deliver_to_obedient(&batch(&bodies)).await;
    assert_eq!(response, Ok(handed_back(&["message-1"])));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn event_that_cannot_be_quarantined_stays_in_its_queue() {
    let aws = FakeAws::new("sample");
    aws.fail_each("PutItem quarantine", Fault::Denied);
    let handler = Concurrent::new(Obedient, NonZeroUsize::MIN);
    let bodies = ["not even JSON".to_owned(), event("e-1", "succeed").to_string()];
    assert_eq!(deliver(&aws, handler, &batch(&bodies)).await, Ok(handed_back(&["message-0"])));
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_handed_back_are_quarantined_whole() {
    for record in [
        json!({"messageId": "", "eventSource": "aws:sqs", "body": "{}"}),
        json!({"EventSource": "aws:sns", "Sns": {"Message": "{}"}}),
    ] {
        let delivery = json!({"Records": [record]});
        let (response, quarantined) = deliver_to_obedient(&delivery).await;
        assert_eq!(response.unwrap()["reason"], "bad-envelope");
        assert_eq!(quarantined[0].2, delivery.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn each_error_in_an_envelope_is_named() {
    let good = event("e-1", "succeed");
    let changed = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    let without = |field: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(field);
        event
    };
    for (event, code, word) in [
        (json!([]), "bad-envelope", "envelope"),
        (json!([[["aws:sqs", "m-1", "{}", ["1"]]]]), "bad-envelope", "envelope"),
        (json!({"Records": [["aws:sqs", "m-1", "{}", ["1"]]]}), "bad-envelope", "`thing`"),
        (without("payload"), "bad-envelope", "`payloadBase64`"),
        (changed("payloadBase64", json!("e30=")), "bad-envelope", "exactly one"),
        (without("thing"), "bad-envelope", "`thing`"),
        (without("topic"), "bad-envelope", "`topic`"),
        (changed("topic", json!(1)), "bad-envelope", "`topic`"),
        (changed("receivedAt", json!(-1)), "bad-envelope", "`receivedAt`"),
        (changed("traceId", json!("")), "bad-envelope", "`traceId`"),
        (changed("traceId", json!("x".repeat(129))), "bad-envelope", "`traceId`"),
        (changed("thing", json!("")), "bad-thing-name", "`thing`"),
        (changed("thing", json!("x".repeat(129))), "bad-thing-name", "`thing`"),
        (changed("thing", json!("a+b")), "bad-thing-name", "`thing`"),
        (changed("thing", json!("#")), "bad-thing-name", "`thing`"),
        (changed("thing", json!("a/b")), "bad-thing-name", "`thing`"),
        (changed("thing", json!("$aws")), "bad-thing-name", "`thing`"),
        (changed("thing", json!("türe")), "bad-thing-name", "`thing`"),
    ] {
        let (response, quarantined) = deliver_to_obedient(&event).await;
        let response = response.unwrap();
        assert_eq!(response["reason"], code, "{event}");
        assert!(response["why"].as_str().unwrap().contains(word), "{response}");
        assert_eq!(quarantined.len(), 1);
    }
    let no_base64 = json!({"thing": "thing-1", "topic": "t", "payloadBase64": "{}"});
    assert_eq!(deliver_to_obedient(&no_base64).await.0.unwrap()["reason"], "bad-envelope");
}

/// Records its inputs, and sets only the first outcome.
struct Recording(Arc<Mutex<Vec<DeviceEvent>>>);

impl BatchHandler for Recording {
    type Input = DeviceEvent;

    async fn handle_batch(&self, inputs: &[DeviceEvent], outcomes: &mut Outcomes, _invocation: &Invocation) {
        self.0.lock().unwrap().extend_from_slice(inputs);
        outcomes.set(0, Ok(()));
        outcomes.set(99, Ok(()));
    }
}

async fn recorded(delivery: &Value) -> (Result<Value, String>, Vec<DeviceEvent>) {
    let events = Arc::default();
    let response = deliver(&FakeAws::new("sample"), Recording(Arc::clone(&events)), delivery).await;
    let events = events.lock().unwrap().clone();
    (response, events)
}

#[tokio::test(start_paused = true)]
async fn event_without_an_outcome_is_handed_back() {
    let bodies = [event("e-0", "succeed").to_string(), event("e-1", "succeed").to_string()];
    assert_eq!(recorded(&batch(&bodies)).await.0, Ok(handed_back(&["message-1"])));
}

#[tokio::test(start_paused = true)]
async fn event_id_is_the_trace_id_or_the_delivery_id() {
    let mut without = event("", "succeed");
    without.as_object_mut().unwrap().remove("traceId");
    let id = async |delivery: &Value| recorded(delivery).await.1[0].id.to_string();
    assert_eq!(id(&event("e-1", "succeed")).await, "e-1");
    assert_eq!(id(&without).await, "request-1");
    assert_eq!(id(&batch(&[without.to_string()])).await, "message-0");
}

#[tokio::test(start_paused = true)]
async fn receipt_time_is_the_rules_or_the_deliverys() {
    let mut stamped = event("e-1", "succeed");
    stamped["receivedAt"] = json!(5);
    let received_at = async |delivery: &Value| recorded(delivery).await.1[0].received_at.millis();
    assert_eq!(received_at(&stamped).await, 5);
    assert_eq!(received_at(&batch(&[event("e-1", "succeed").to_string()])).await, 1_763_715_599_000);
    assert!(received_at(&event("e-1", "succeed")).await >= NOW.millis());
}

#[tokio::test(start_paused = true)]
async fn bytes_and_json_are_passed_on_unchanged() {
    let encoded = BASE64_STANDARD.encode(b"\xff 22.50");
    let raw = json!({"thing": "thing-1", "topic": "t", "payloadBase64": encoded});
    assert_eq!(recorded(&raw).await.1[0].bytes(), b"\xff 22.50");
    let body = r#"{"thing": "thing-1", "topic": "t", "payload": {"lux":  22.50}}"#.to_owned();
    assert_eq!(recorded(&batch(&[body])).await.1[0].bytes(), br#"{"lux":  22.50}"#);
}

#[derive(Deserialize)]
struct Block {
    ca: String,
}

/// Takes commands instead of device events.
struct Commanded;

impl EventHandler for Commanded {
    type Input = Command<Block>;
    type Error = Failure;

    async fn handle(&self, command: &Command<Block>, _invocation: &Invocation) -> Result<(), Failure> {
        assert_eq!((command.body.ca.as_str(), command.id().as_str()), ("abc", "request-1"));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn command_is_handled_and_quarantined_like_any_event() {
    let aws = FakeAws::new("sample");
    let process = aws.process();
    let handler = || Concurrent::new(Commanded, NonZeroUsize::MIN);
    assert!(process.deliver_to(handler(), &json!({"ca": "abc"}), NOW).await.is_done());
    let invalid = process.deliver_to(handler(), &json!({"cb": "abc"}), NOW).await;
    assert_eq!(invalid.refusal(), Some(("missing-field", "Field `ca` is missing.")));
    assert_eq!(quarantined(&aws)[0].0, "request-1");
}

/// Takes device events and commands, and counts both.
struct Either;

impl EventHandler for Either {
    type Input = Incoming<Block>;
    type Error = Failure;

    async fn handle(&self, input: &Incoming<Block>, invocation: &Invocation) -> Result<(), Failure> {
        invocation.count(match input {
            Incoming::Event(_) => "Event",
            Incoming::Command(_) => "Command",
        });
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn events_and_commands_are_distinguished_by_the_payload() {
    let aws = FakeAws::new("sample");
    let delivery = batch(&[event("e-1", "succeed").to_string(), json!({"ca": "abc"}).to_string(), "{}".to_owned()]);
    let handler = Concurrent::new(Either, NonZeroUsize::MIN);
    let delivered = aws.process().deliver_to(handler, &delivery, NOW).await;
    assert_eq!(delivered.response, Some(Ok(handed_back(&[]))));
    assert_eq!((delivered.count("Event"), delivered.count("Command")), (1, 1));
    assert_eq!(quarantined(&aws)[0].1, "missing-field");
}

#[tokio::test(start_paused = true)]
async fn each_event_of_a_batch_is_logged_under_its_id() {
    let logs = Logs::capture();
    let not_json = json!({"thing": "thing-1", "topic": "sample/thing-1", "traceId": "e-2", "payloadBase64": "/w=="});
    let bodies = [event("e-0", "succeed"), event("e-1", "retry"), not_json].map(|event| event.to_string());
    deliver_to_obedient(&batch(&bodies)).await.0.unwrap();
    let done =
        json!({"level": "DEBUG", "message": "done", "requestId": "request-1", "eventId": "e-0", "thing": "thing-1"});
    assert_eq!(logs.with_message("done"), [done]);
    let retry = json!({"level": "WARN", "message": "retry", "requestId": "request-1", "eventId": "e-1",
                       "thing": "thing-1", "error": "throttled"});
    assert_eq!(logs.with_message("retry"), [retry]);
    let refused = &logs.with_message("refused")[0];
    assert_eq!((&refused["eventId"], &refused["reason"]), (&json!("e-2"), &json!("invalid-utf8")));
    let batch =
        json!({"level": "INFO", "message": "batch", "requestId": "request-1", "done": 1, "refused": 1, "retried": 1});
    assert_eq!(logs.with_message("batch"), [batch]);
}

#[tokio::test(start_paused = true)]
async fn certificate_is_not_logged_as_a_thing() {
    let logs = Logs::capture();
    let topic = format!("$aws/events/certificates/registered/{}", "b".repeat(64));
    let id = "a".repeat(64);
    let event = json!({"thing": id, "topic": topic, "traceId": "e-1", "payload": {"then": 1}});
    let aws = FakeAws::new("sample");
    deliver(&aws, Concurrent::new(Obedient, NonZeroUsize::MIN), &event).await.unwrap();
    for line in ["refused", "batch"].map(|message| logs.with_message(message).pop().unwrap()) {
        assert_eq!((&line["certificateId"], line.get("thing")), (&json!(id), None), "{line}");
    }
    let state = aws.state();
    let (_, item) = state.items("quarantine").next().unwrap();
    assert_eq!((&item["certificateId"]["S"], item.get("thing")), (&json!(id), None));
}

#[tokio::test(start_paused = true)]
async fn first_invocation_of_a_process_is_logged_as_a_cold_start() {
    let logs = Logs::capture();
    let process = FakeAws::new("sample").process();
    let quarantine = Quarantine::from_environment(&process.environment(), process.dynamodb(), "sample").unwrap();
    let function = Function::new("sample", Concurrent::new(Obedient, NonZeroUsize::MIN), quarantine);
    let delivery = serde_json::value::to_raw_value(&event("e-1", "succeed")).unwrap();
    for is_cold_start in [true, false] {
        let invocation = Invocation::new("r", NOW, NOW.plus(Duration::from_secs(10))).with_cold_start(is_cold_start);
        function.invoke(&delivery, &invocation).await.unwrap();
    }
    let flags: Vec<_> = logs.with_message("batch").iter().map(|line| line.get("coldStart").cloned()).collect();
    assert_eq!(flags, [Some(json!(true)), None]);
}
