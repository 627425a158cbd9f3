//! The whole function but for the Lambda runtime: a delivery goes in, calls to AWS come out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, path::Path};

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_dynamodb::operation::get_item::GetItemOutput;
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_sns::Client as Sns;
use aws_sdk_sns::error::ErrorMetadata;
use aws_sdk_sns::operation::publish::{PublishError, PublishInput, PublishOutput};
use aws_smithy_mocks::{MockResponse, Rule, RuleMode, mock, mock_client};
use doorbell::Doorbell;
use doorbell::ledger::Ledger;
use gatehouse::{Concurrent, Environment, Function, InitError, Invocation, Quarantine, Timestamp, Topic};
use serde_json::value::RawValue;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_763_715_700_000);

fn environment(more: &[(&str, &str)]) -> Environment {
    let always =
        [("TOPIC_ARN", "arn:doorbell"), ("QUARANTINE_TABLE", "quarantine"), ("IDEMPOTENCY_TABLE", "idempotency")];
    always.iter().chain(more).copied().collect()
}

fn doorbell(environment: &Environment, dynamodb: &DynamoDb, sns: &Sns) -> Result<Doorbell, InitError> {
    let ledger = Ledger::from(environment, dynamodb.clone(), "doorbell")?;
    Doorbell::from(environment, Topic::from(environment, sns.clone())?, ledger)
}

async fn invoke(delivery: &str, dynamodb: &[&Rule], sns: &[&Rule]) -> (Result<Value, String>, Invocation) {
    let environment = environment(&[]);
    let dynamodb = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, dynamodb);
    let sns = mock_client!(aws_sdk_sns, RuleMode::MatchAny, sns);
    let handler = Concurrent::new(doorbell(&environment, &dynamodb, &sns).unwrap(), NonZeroUsize::MIN);
    let function = Function::new("doorbell", handler, Quarantine::from(&environment, dynamodb, "doorbell").unwrap());
    let invocation = Invocation::new("request-1", NOW, NOW.plus(Duration::from_secs(10)));
    let delivery: &RawValue = serde_json::from_str(delivery).unwrap();
    (function.invoke(delivery, &invocation).await.map_err(|error| error.to_string()), invocation)
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/doorbell").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn ring(id: &str, received_at: Timestamp) -> String {
    json!({
        "thing": "front-door", "topic": "doorbell/front-door", "traceId": id, "receivedAt": received_at,
        "payload": {"msg": "Somebody is at the door!", "ts": "1468958915.41"},
    })
    .to_string()
}

type Item = std::collections::HashMap<String, AttributeValue>;

/// One item, held as DynamoDB holds it: a put whose condition names another version than it has is refused, with the
/// item as it is.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<Option<Item>>>);

impl Table {
    fn with(told: &Value, claim: &Value) -> Self {
        let rings = json!({"told": told, "claim": claim}).to_string();
        let item = [("version", AttributeValue::N("3".to_owned())), ("rings", AttributeValue::S(rings))];
        Self(Arc::new(Mutex::new(Some(item.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))))
    }

    fn rings(&self) -> Value {
        let item = self.0.lock().unwrap();
        serde_json::from_str(item.as_ref().unwrap()["rings"].as_s().unwrap()).unwrap()
    }

    fn put(&self, input: &PutItemInput) -> Result<(), Box<PutItemError>> {
        let mut held = self.0.lock().unwrap();
        let expected = &input.expression_attribute_values().unwrap()[":version"];
        if held.as_ref().is_some_and(|item| &item["version"] != expected) {
            let refused = ConditionalCheckFailedException::builder().set_item(held.clone()).build();
            return Err(Box::new(PutItemError::ConditionalCheckFailedException(refused)));
        }
        *held = input.item().cloned();
        Ok(())
    }

    /// The calls that this table answers.
    fn rules(&self) -> [Rule; 2] {
        let (gets, puts) = (self.clone(), self.clone());
        let get = mock!(DynamoDb::get_item)
            .match_requests(|input| {
                input.consistent_read() == Some(true)
                    && input.key().unwrap()["id"] == AttributeValue::S("doorbell#front-door".to_owned())
            })
            .then_compute_output(move |_| GetItemOutput::builder().set_item(gets.0.lock().unwrap().clone()).build());
        let put = mock!(DynamoDb::put_item).then_compute_response(move |input| {
            let stored = puts.put(input);
            stored.map_or_else(
                |refused| MockResponse::Error(*refused),
                |()| MockResponse::Output(PutItemOutput::builder().build()),
            )
        });
        [get, put]
    }

    async fn ring(&self, event: &str, sns: &[&Rule]) -> (Result<Value, String>, Invocation) {
        let [get, put] = self.rules();
        invoke(event, &[&get, &put], sns).await
    }
}

/// Takes messages, and keeps them.
fn publish() -> (Rule, Arc<Mutex<Vec<PublishInput>>>) {
    let published = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&published);
    let rule = mock!(Sns::publish).then_compute_output(move |input| {
        seen.lock().unwrap().push(input.clone());
        PublishOutput::builder().build()
    });
    (rule, published)
}

fn counted(invocation: &Invocation) -> Vec<&'static str> {
    invocation.counts().into_keys().collect()
}

#[tokio::test]
async fn a_ring_is_told_as_a_transactional_text_from_the_sender_and_remembered() {
    let (table, (publish, published)) = (Table::default(), publish());
    let (answer, invocation) = table.ring(&sample("ring.json"), &[&publish]).await;
    assert_eq!((answer, counted(&invocation)), (Ok(json!({"outcome": "done"})), vec!["Told"]));
    let published = published.lock().unwrap();
    let [message] = published.as_slice() else { panic!("published {} messages", published.len()) };
    assert_eq!(message.message(), Some("Somebody is at the door!"));
    assert_eq!(message.subject(), Some("Doorbell front-door"));
    let attributes = message.message_attributes().unwrap();
    let attribute = |name: &str| attributes[name].string_value().unwrap();
    assert_eq!(attribute("AWS.SNS.SMS.SMSType"), "Transactional");
    assert_eq!(attribute("AWS.SNS.SMS.SenderID"), "DOORBELL");
    assert_eq!((attribute("thing"), attribute("eventId")), ("front-door", "5f6b3c1e-0000-4000-8000-000000000015"));
    assert_eq!(table.rings()["told"][0]["eventId"], "5f6b3c1e-0000-4000-8000-000000000015");
    assert_eq!(table.rings()["claim"], Value::Null);
}

#[tokio::test]
async fn the_same_ring_again_is_not_told_again() {
    let (table, (publish, published)) = (Table::default(), publish());
    table.ring(&ring("e-1", NOW), &[&publish]).await.0.unwrap();
    let (answer, invocation) = table.ring(&ring("e-1", NOW), &[]).await;
    assert_eq!((answer, counted(&invocation)), (Ok(json!({"outcome": "done"})), vec!["Duplicate"]));
    assert_eq!(published.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn another_ring_within_the_window_is_let_go_and_one_after_it_is_told() {
    let (table, (first, _)) = (Table::default(), publish());
    table.ring(&ring("e-1", NOW), &[&first]).await.0.unwrap();
    let (_, invocation) = table.ring(&ring("e-2", NOW.plus(Duration::from_secs(9))), &[]).await;
    assert_eq!(counted(&invocation), ["Quieted"]);
    let (second, published) = publish();
    table.ring(&ring("e-3", NOW.plus(Duration::from_secs(10))), &[&second]).await.0.unwrap();
    assert_eq!(published.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ring_waits_for_another_that_is_being_told_and_is_let_go_once_it_is() {
    let claim = json!({"ring": {"eventId": "e-1", "receivedAt": NOW}, "owner": "another",
                       "expires": NOW.plus(Duration::from_secs(10))});
    let table = Table::with(&json!([]), &claim);
    let told = Table::with(&json!([{"eventId": "e-1", "receivedAt": NOW}]), &Value::Null);
    let looks = Mutex::new(0);
    let get = mock!(DynamoDb::get_item)
        .sequence()
        .output({
            let table = table.clone();
            move || GetItemOutput::builder().set_item(table.0.lock().unwrap().clone()).build()
        })
        .times(3)
        .output(move || {
            *looks.lock().unwrap() += 1;
            GetItemOutput::builder().set_item(told.0.lock().unwrap().clone()).build()
        })
        .build();
    let (answer, invocation) = invoke(&ring("e-2", NOW), &[&get], &[]).await;
    assert_eq!((answer, counted(&invocation)), (Ok(json!({"outcome": "done"})), vec!["Quieted"]));
    assert_eq!(get.num_calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_ring_is_retried_rather_than_let_go_for_another_that_may_still_fail() {
    let claim = json!({"ring": {"eventId": "e-1", "receivedAt": NOW}, "owner": "another",
                       "expires": NOW.plus(Duration::from_secs(10))});
    let table = Table::with(&json!([]), &claim);
    let get = mock!(DynamoDb::get_item)
        .sequence()
        .output(move || GetItemOutput::builder().set_item(table.0.lock().unwrap().clone()).build())
        .repeatedly()
        .build();
    let (answer, _) = invoke(&ring("e-2", NOW), &[&get], &[]).await;
    assert!(answer.unwrap_err().contains("another ring of this doorbell is being told"));
}

#[tokio::test]
async fn a_claim_that_a_dead_process_left_is_taken_over_once_it_has_expired() {
    let claim = json!({"ring": {"eventId": "e-1", "receivedAt": NOW}, "owner": "dead", "expires": NOW});
    let (table, (publish, published)) = (Table::with(&json!([]), &claim), publish());
    table.ring(&ring("e-1", NOW), &[&publish]).await.0.unwrap();
    assert_eq!(published.lock().unwrap().len(), 1);
    assert_eq!(table.rings()["claim"], Value::Null);
}

#[tokio::test]
async fn when_another_process_claims_first_its_ring_is_respected() {
    // What was read is gone by the time of the write: another process has told its ring in between.
    let table = Table::with(&json!([{"eventId": "e-1", "receivedAt": NOW}]), &Value::Null);
    let get = mock!(DynamoDb::get_item).then_output(|| GetItemOutput::builder().build());
    let [_, put] = table.rules();
    let (answer, invocation) = invoke(&ring("e-2", NOW), &[&get, &put], &[]).await;
    assert_eq!((answer, counted(&invocation)), (Ok(json!({"outcome": "done"})), vec!["Quieted"]));
}

/// The table takes the nth put, but its answer is lost: the SDK sends the request again, and meets the item that it
/// had put itself.
async fn ring_while_the_answer_is_lost(to_put: usize) -> (Invocation, usize, Value) {
    let (table, (publish, published)) = (Table::default(), publish());
    let [get, _] = table.rules();
    let (puts, shown) = (table.clone(), table.clone());
    let put = mock!(DynamoDb::put_item).match_requests(move |input| puts.put(input).is_ok()).sequence();
    let put = if to_put == 1 { put.output(|| PutItemOutput::builder().build()) } else { put.http_status(500, None) };
    let put = if to_put == 1 { put.http_status(500, None) } else { put };
    let refused = move || {
        let refused = ConditionalCheckFailedException::builder().set_item(shown.0.lock().unwrap().clone()).build();
        PutItemError::ConditionalCheckFailedException(refused)
    };
    let put = put.error(refused).output(|| PutItemOutput::builder().build()).build();
    let (answer, invocation) = invoke(&ring("e-1", NOW), &[&get, &put], &[&publish]).await;
    assert_eq!(answer, Ok(json!({"outcome": "done"})));
    let messages = published.lock().unwrap().len();
    (invocation, messages, table.rings())
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_recognised_as_our_own_by_its_owner() {
    let (invocation, messages, rings) = ring_while_the_answer_is_lost(0).await;
    assert_eq!((counted(&invocation), messages), (vec!["Told"], 1));
    assert_eq!(rings["told"][0]["eventId"], "e-1");
}

#[tokio::test]
async fn a_mark_whose_answer_was_lost_is_recognised_by_its_ring() {
    let (invocation, messages, rings) = ring_while_the_answer_is_lost(1).await;
    assert_eq!((counted(&invocation), messages), (vec!["Told"], 1));
    assert_eq!(rings["told"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_throttled_topic_is_tried_again() {
    let throttled = || PublishError::generic(ErrorMetadata::builder().code("ThrottledException").build());
    let publish = mock!(Sns::publish).sequence().error(throttled).output(|| PublishOutput::builder().build()).build();
    let (answer, _) = Table::default().ring(&ring("e-1", NOW), &[&publish]).await;
    assert_eq!((answer, publish.num_calls()), (Ok(json!({"outcome": "done"})), 2));
}

#[tokio::test]
async fn a_ring_that_sns_does_not_take_gives_its_claim_back_and_is_retried() {
    let table = Table::default();
    let denied = || PublishError::generic(ErrorMetadata::builder().code("AuthorizationError").build());
    let publish = mock!(Sns::publish).then_error(denied);
    let (answer, _) = table.ring(&ring("e-1", NOW), &[&publish]).await;
    assert!(answer.unwrap_err().contains("the topic did not take the message"));
    assert_eq!(table.rings(), json!({"told": [], "claim": null}));
}

#[tokio::test]
async fn every_bad_sample_goes_to_quarantine_with_its_reason_and_nowhere_else() {
    for (name, reason, why) in [
        ("not-json.json", "not-json", "The payload is not JSON: line 1 column 1 does not parse."),
        ("missing-field.json", "missing-field", "Field `msg` is missing."),
        ("wrong-type.json", "wrong-type", "Field `msg` must be a string."),
        ("no-text.json", "invalid-value", "Field `msg` has no text in it."),
    ] {
        let quarantine = mock!(DynamoDb::put_item)
            .match_requests(|input| input.table_name() == Some("quarantine"))
            .then_output(|| PutItemOutput::builder().build());
        let (answer, _) = invoke(&sample(name), &[&quarantine], &[]).await;
        assert_eq!(answer, Ok(json!({"outcome": "refused", "reason": reason, "why": why})), "{name}");
        assert_eq!(quarantine.num_calls(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_long_text_and_an_emoji_are_told_in_one_part() {
    for (name, length) in [("too-long-for-one-text.json", 150), ("emoji.json", 26)] {
        let (publish, published) = publish();
        Table::default().ring(&sample(name), &[&publish]).await.0.unwrap();
        let published = published.lock().unwrap();
        assert!(published[0].message().unwrap().chars().count() <= length, "{name}");
    }
}

#[test]
fn what_is_missing_or_wrong_in_the_environment_is_named() {
    let (dynamodb, sns) = (mock_client!(aws_sdk_dynamodb, [&publish().0]), mock_client!(aws_sdk_sns, [&publish().0]));
    let error = |environment| doorbell(&environment, &dynamodb, &sns).unwrap_err().to_string();
    assert!(error(Environment::default()).contains("IDEMPOTENCY_TABLE is missing"));
    assert!(error(environment(&[("QUIET_WINDOW_SECONDS", "0")])).contains("QUIET_WINDOW_SECONDS is \"0\""));
    for name in ["Front door", "7bells", "ELEVENCHARS"] {
        assert!(error(environment(&[("SENDER_NAME", name)])).contains("SENDER_NAME is "), "{name}");
    }
}
