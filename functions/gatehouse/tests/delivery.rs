//! A delivery goes in, each event in it meets its own fate, and the answer hands back exactly what is to be retried.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ErrorMetadata;
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemOutput};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::{
    BatchHandler, Command, Concurrent, DeviceEvent, Environment, EventHandler, Failure, Function, Incoming, Input,
    Invocation, Outcomes, Quarantine, Timestamp,
};
use serde::Deserialize;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_763_715_600_000);

/// What each refused event looked like in quarantine: id, reason, and the event itself.
type Quarantined = Arc<Mutex<Vec<(String, String, String)>>>;

fn quarantine() -> (Quarantine, Quarantined) {
    let quarantined = Quarantined::default();
    let seen = Arc::clone(&quarantined);
    let put = mock!(Client::put_item).then_compute_output(move |input| {
        let item = input.item().unwrap();
        let text = |name: &str| item[name].as_s().unwrap().clone();
        assert_eq!(text("function"), "sample");
        assert!(text("why").ends_with('.'), "a sentence: {}", text("why"));
        seen.lock().unwrap().push((text("eventId"), text("reason"), text("event")));
        PutItemOutput::builder().build()
    });
    (quarantine_of(&put), quarantined)
}

fn quarantine_of(put: &Rule) -> Quarantine {
    let client = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, [put]);
    let environment: Environment = [("QUARANTINE_TABLE", "quarantine")].into_iter().collect();
    Quarantine::from(&environment, client, "sample").unwrap()
}

/// Does as the payload says.
struct Obedient;

#[derive(Deserialize)]
struct Order {
    then: String,
}

impl EventHandler for Obedient {
    type Input = DeviceEvent;
    type Error = Failure;

    async fn handle(&self, event: &DeviceEvent, _call: &Invocation) -> Result<(), Failure> {
        match event.payload::<Order>(100)?.then.as_str() {
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

async fn deliver<H: BatchHandler>(handler: H, quarantine: Quarantine, delivery: &Value) -> Result<Value, String> {
    let function = Function::new("sample", handler, quarantine);
    let invocation = Invocation::new("request-1", NOW, NOW.plus(Duration::from_secs(10)));
    function.invoke(&to_raw_value(delivery).unwrap(), &invocation).await.map_err(|error| error.to_string())
}

async fn deliver_to_obedient(delivery: &Value) -> (Result<Value, String>, Vec<(String, String, String)>) {
    let (quarantine, quarantined) = quarantine();
    let answer = deliver(Concurrent(Obedient, NonZeroUsize::new(4).unwrap()), quarantine, delivery).await;
    let quarantined = quarantined.lock().unwrap().clone();
    (answer, quarantined)
}

fn handed_back(ids: &[&str]) -> Value {
    json!({"batchItemFailures": ids.iter().map(|id| json!({"itemIdentifier": id})).collect::<Vec<_>>()})
}

#[tokio::test]
async fn a_bare_event_that_is_done_is_answered_so() {
    let (answer, quarantined) = deliver_to_obedient(&event("e-1", "succeed")).await;
    assert_eq!(answer, Ok(json!({"outcome": "done"})));
    assert_eq!(quarantined, []);
}

#[tokio::test]
async fn a_bare_event_that_is_to_be_retried_fails_the_invocation() {
    let (answer, _) = deliver_to_obedient(&event("e-1", "retry")).await;
    assert_eq!(answer, Err("this event is to be retried: throttled".to_owned()));
}

#[tokio::test]
async fn a_bare_event_that_is_refused_is_quarantined_whole_and_acknowledged() {
    let broken = json!({"thing": "thing-1", "topic": "sample/thing-1", "traceId": "e-1", "payloadBase64": "/w=="});
    let (answer, quarantined) = deliver_to_obedient(&broken).await;
    assert_eq!(answer.unwrap()["reason"], "invalid-utf8");
    assert_eq!(quarantined, [("e-1".to_owned(), "invalid-utf8".to_owned(), broken.to_string())]);
}

#[tokio::test]
async fn in_a_batch_only_what_is_to_be_retried_is_handed_back() {
    let bodies = [
        event("e-0", "succeed").to_string(),
        event("e-1", "retry").to_string(),
        "not even JSON".to_owned(),
        event("e-3", "panic").to_string(),
        event("e-4", "succeed").to_string(),
    ];
    let (answer, quarantined) = deliver_to_obedient(&batch(&bodies)).await;
    assert_eq!(answer, Ok(handed_back(&["message-1", "message-3"])));
    assert_eq!(quarantined, [("message-2".to_owned(), "bad-envelope".to_owned(), "not even JSON".to_owned())]);
}

#[tokio::test]
async fn an_empty_batch_has_no_failures() {
    assert_eq!(deliver_to_obedient(&batch(&[])).await.0, Ok(handed_back(&[])));
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_handed_back_before_the_deadline_and_what_was_done_stays_done() {
    let bodies = [event("e-0", "succeed").to_string(), event("e-1", "hang").to_string()];
    let began = tokio::time::Instant::now();
    let (answer, _) = deliver_to_obedient(&batch(&bodies)).await;
    assert_eq!(answer, Ok(handed_back(&["message-1"])));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_event_that_cannot_be_quarantined_is_kept_by_its_queue() {
    let denied = || PutItemError::generic(ErrorMetadata::builder().code("AccessDeniedException").build());
    let put = mock!(Client::put_item).then_error(denied);
    let handler = Concurrent::new(Obedient, NonZeroUsize::MIN);
    let bodies = ["not even JSON".to_owned(), event("e-1", "succeed").to_string()];
    assert_eq!(deliver(handler, quarantine_of(&put), &batch(&bodies)).await, Ok(handed_back(&["message-0"])));
}

#[tokio::test]
async fn records_that_could_not_be_handed_back_one_by_one_are_quarantined_as_a_whole() {
    for record in [
        json!({"messageId": "", "eventSource": "aws:sqs", "body": "{}"}),
        json!({"EventSource": "aws:sns", "Sns": {"Message": "{}"}}),
    ] {
        let delivery = json!({"Records": [record]});
        let (answer, quarantined) = deliver_to_obedient(&delivery).await;
        assert_eq!(answer.unwrap()["reason"], "bad-envelope");
        assert_eq!(quarantined[0].2, delivery.to_string());
    }
}

#[tokio::test]
async fn every_fault_of_an_envelope_is_named() {
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
        let (answer, quarantined) = deliver_to_obedient(&event).await;
        let answer = answer.unwrap();
        assert_eq!(answer["reason"], code, "{event}");
        assert!(answer["why"].as_str().unwrap().contains(word), "{answer}");
        assert_eq!(quarantined.len(), 1);
    }
    let no_base64 = json!({"thing": "thing-1", "topic": "t", "payloadBase64": "{}"});
    assert_eq!(deliver_to_obedient(&no_base64).await.0.unwrap()["reason"], "bad-envelope");
}

/// Hands out what it was given, and sets no answer but the first.
struct Noting(Arc<Mutex<Vec<DeviceEvent>>>);

impl BatchHandler for Noting {
    type Input = DeviceEvent;

    async fn handle_batch(&self, inputs: &[DeviceEvent], answers: &mut Outcomes, _call: &Invocation) {
        self.0.lock().unwrap().extend_from_slice(inputs);
        answers.set(0, Ok(()));
        answers.set(99, Ok(()));
    }
}

async fn noted(delivery: &Value) -> (Result<Value, String>, Vec<DeviceEvent>) {
    let events = Arc::default();
    let answer = deliver(Noting(Arc::clone(&events)), quarantine().0, delivery).await;
    let events = events.lock().unwrap().clone();
    (answer, events)
}

#[tokio::test]
async fn an_event_that_a_bulk_handler_forgets_is_handed_back() {
    let bodies = [event("e-0", "succeed").to_string(), event("e-1", "succeed").to_string()];
    assert_eq!(noted(&batch(&bodies)).await.0, Ok(handed_back(&["message-1"])));
}

#[tokio::test]
async fn the_event_id_is_the_trace_id_or_else_the_id_of_the_delivery() {
    let mut without = event("", "succeed");
    without.as_object_mut().unwrap().remove("traceId");
    let id = async |delivery: &Value| noted(delivery).await.1[0].id.to_string();
    assert_eq!(id(&event("e-1", "succeed")).await, "e-1");
    assert_eq!(id(&without).await, "request-1");
    assert_eq!(id(&batch(&[without.to_string()])).await, "message-0");
}

#[tokio::test]
async fn the_time_of_receipt_is_the_rules_or_else_that_of_the_delivery() {
    let mut stamped = event("e-1", "succeed");
    stamped["receivedAt"] = json!(5);
    let received_at = async |delivery: &Value| noted(delivery).await.1[0].received_at.millis();
    assert_eq!(received_at(&stamped).await, 5);
    assert_eq!(received_at(&batch(&[event("e-1", "succeed").to_string()])).await, 1_763_715_599_000);
    assert!(received_at(&event("e-1", "succeed")).await >= NOW.millis());
}

#[tokio::test]
async fn bytes_and_json_are_handed_on_exactly_as_they_came() {
    let encoded = BASE64_STANDARD.encode(b"\xff 22.50");
    let raw = json!({"thing": "thing-1", "topic": "t", "payloadBase64": encoded});
    assert_eq!(noted(&raw).await.1[0].bytes(), b"\xff 22.50");
    let body = r#"{"thing": "thing-1", "topic": "t", "payload": {"lux":  22.50}}"#.to_owned();
    assert_eq!(noted(&batch(&[body])).await.1[0].bytes(), br#"{"lux":  22.50}"#);
}

#[derive(Deserialize)]
struct Close {
    ca: String,
}

/// Takes orders instead of device events.
struct Ordered;

impl EventHandler for Ordered {
    type Input = Command<Close>;
    type Error = Failure;

    async fn handle(&self, command: &Command<Close>, _call: &Invocation) -> Result<(), Failure> {
        assert_eq!((command.order.ca.as_str(), command.id().as_str()), ("abc", "request-1"));
        Ok(())
    }
}

#[tokio::test]
async fn a_command_comes_through_the_same_door_and_is_quarantined_like_any_event() {
    let (quarantine, quarantined) = quarantine();
    let good = deliver(Concurrent::new(Ordered, NonZeroUsize::MIN), quarantine.clone(), &json!({"ca": "abc"})).await;
    assert_eq!(good, Ok(json!({"outcome": "done"})));
    let bad = deliver(Concurrent::new(Ordered, NonZeroUsize::MIN), quarantine, &json!({"cb": "abc"})).await;
    assert_eq!(bad.unwrap()["why"], "Field `ca` is missing.");
    assert_eq!(quarantined.lock().unwrap()[0].0, "request-1");
}

/// Hears devices and takes orders; says which it got.
struct Either;

impl EventHandler for Either {
    type Input = Incoming<Close>;
    type Error = Failure;

    async fn handle(&self, input: &Incoming<Close>, invocation: &Invocation) -> Result<(), Failure> {
        invocation.count(match input {
            Incoming::Event(_) => "Event",
            Incoming::Command(_) => "Order",
        });
        Ok(())
    }
}

#[tokio::test]
async fn a_function_that_hears_devices_and_takes_orders_tells_them_apart_by_the_payload() {
    let (quarantine, quarantined) = quarantine();
    let function = Function::new("sample", Concurrent::new(Either, NonZeroUsize::MIN), quarantine);
    let invocation = Invocation::new("request-1", NOW, NOW.plus(Duration::from_secs(10)));
    let delivery = batch(&[event("e-1", "succeed").to_string(), json!({"ca": "abc"}).to_string(), "{}".to_owned()]);
    let answer = function.invoke(&to_raw_value(&delivery).unwrap(), &invocation).await.unwrap();
    assert_eq!(answer, handed_back(&[]));
    assert_eq!((invocation.counts()["Event"], invocation.counts()["Order"]), (1, 1));
    assert_eq!(quarantined.lock().unwrap()[0].1, "missing-field");
}
