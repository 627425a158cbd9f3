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
use aws_sdk_dynamodb::operation::delete_item::DeleteItemOutput;
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemOutput};
use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_sns::Client as Sns;
use aws_sdk_sns::error::ErrorMetadata;
use aws_sdk_sns::operation::publish::{PublishError, PublishInput, PublishOutput};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use button::Button;
use gatehouse::{Concurrent, Environment, Function, Idempotency, InitError, Invocation, Quarantine, Timestamp, Topic};
use serde_json::value::RawValue;
use serde_json::{Value, json};

fn environment(more: &[(&str, &str)]) -> Environment {
    let always =
        [("TOPIC_ARN", "arn:button"), ("QUARANTINE_TABLE", "quarantine"), ("IDEMPOTENCY_TABLE", "idempotency")];
    always.iter().chain(more).copied().collect()
}

fn button(environment: &Environment, dynamodb: &DynamoDb, sns: &Sns) -> Result<Button, InitError> {
    let topic = Topic::from(environment, sns.clone())?;
    Button::from(environment, topic, Idempotency::from(environment, dynamodb.clone(), "button")?)
}

async fn invoke(delivery: &str, dynamodb: &[&Rule], sns: &[&Rule]) -> Result<Value, String> {
    let environment = environment(&[]);
    let dynamodb = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, dynamodb);
    let sns = mock_client!(aws_sdk_sns, RuleMode::MatchAny, sns);
    let handler = Concurrent::new(button(&environment, &dynamodb, &sns).unwrap(), NonZeroUsize::MIN);
    let function = Function::new("button", handler, Quarantine::from(&environment, dynamodb, "button").unwrap());
    let now = Timestamp::from_millis(1_763_715_700_000);
    let invocation = Invocation::new("request-1", now, now.plus(Duration::from_secs(10)));
    let delivery: &RawValue = serde_json::from_str(delivery).unwrap();
    function.invoke(delivery, &invocation).await.map_err(|error| error.to_string())
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/button").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Takes a claim, or an event into quarantine.
fn put() -> Rule {
    mock!(DynamoDb::put_item).then_output(|| PutItemOutput::builder().build())
}

fn mark() -> Rule {
    mock!(DynamoDb::update_item).then_output(|| UpdateItemOutput::builder().build())
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

#[tokio::test]
async fn a_click_is_claimed_published_with_attributes_to_filter_on_and_marked() {
    let (claim, mark, (publish, published)) = (put(), mark(), publish());
    let answer = invoke(&sample("single.json"), &[&claim, &mark], &[&publish]).await;
    assert_eq!(answer, Ok(json!({"outcome": "done"})));
    assert_eq!((claim.num_calls(), mark.num_calls()), (1, 1));

    let published = published.lock().unwrap();
    let [message] = published.as_slice() else { panic!("published {} messages", published.len()) };
    assert_eq!(message.topic_arn(), Some("arn:button"));
    assert_eq!(message.message(), Some("Received SINGLE message from button ID: G030JF055364XVRB"));
    assert_eq!(message.subject(), Some("SINGLE click of button G030JF055364XVRB"));
    let mut attributes: Vec<_> = message.message_attributes().unwrap().iter().collect();
    attributes.sort_by_key(|(name, _)| name.as_str());
    let attributes: Vec<_> = attributes
        .into_iter()
        .map(|(name, value)| (name.as_str(), value.data_type(), value.string_value().unwrap_or_default()))
        .collect();
    assert_eq!(
        attributes,
        [
            ("batteryVoltage", "Number", "2000"),
            ("clickType", "String", "SINGLE"),
            ("eventId", "String", "5f6b3c1e-0000-4000-8000-000000000001"),
            ("thing", "String", "G030JF055364XVRB"),
        ]
    );
}

#[tokio::test]
async fn every_good_sample_is_told() {
    for (name, message) in [
        ("double.json", "Received DOUBLE message from button ID: G030JF055364XVRB"),
        ("long.json", "Received LONG message from button ID: G030JF055364XVRB"),
        ("low-battery.json", "Received SINGLE message from button ID: G030JF055364XVRB\nBattery low: 1100 mV"),
        ("without-trace-id.json", "Received SINGLE message from button ID: G030JF055364XVRB"),
    ] {
        let (publish, published) = publish();
        let answer = invoke(&sample(name), &[&put(), &mark()], &[&publish]).await;
        assert_eq!(answer, Ok(json!({"outcome": "done"})), "{name}");
        assert_eq!(published.lock().unwrap()[0].message(), Some(message), "{name}");
    }
}

#[tokio::test]
async fn every_bad_sample_goes_to_quarantine_with_its_reason_and_nowhere_else() {
    for (name, reason, why) in [
        ("not-json.json", "not-json", "The payload is not JSON: line 1 column 1 does not parse."),
        ("empty.json", "empty-payload", "The payload is empty."),
        ("array.json", "not-an-object", "The payload is an array, not an object."),
        ("missing-field.json", "missing-field", "Field `clickType` is missing."),
        ("wrong-type.json", "wrong-type", "Field `batteryVoltage` must be a string."),
        ("unknown-click-type.json", "unknown-value", "Field `clickType` must be one of `SINGLE`, `DOUBLE`, `LONG`."),
        (
            "serial-number-of-another.json",
            "serial-number-mismatch",
            "Field `serialNumber` is not the name of the thing that published it.",
        ),
        ("invalid-utf8.json", "invalid-utf8", "The payload is not UTF-8: byte 17 does not belong to a character."),
        (
            "bad-thing-name.json",
            "bad-thing-name",
            "Field `thing` must be 1 to 128 of the characters a-z A-Z 0-9 : _ -.",
        ),
    ] {
        let quarantine = put();
        let answer = invoke(&sample(name), &[&quarantine], &[]).await;
        assert_eq!(answer, Ok(json!({"outcome": "refused", "reason": reason, "why": why})), "{name}");
        assert_eq!(quarantine.num_calls(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_payload_of_128_kib_is_refused() {
    let mut event: Value = serde_json::from_str(&sample("single.json")).unwrap();
    event["payload"] = json!("x".repeat(128 * 1024 - 2));
    let answer = invoke(&event.to_string(), &[&put()], &[]).await.unwrap();
    assert_eq!(answer["why"], "The payload has 131072 bytes; at most 8192 are taken.");
}

#[tokio::test]
async fn a_voltage_that_is_none_is_refused_by_its_field() {
    let mut event: Value = serde_json::from_str(&sample("single.json")).unwrap();
    event["payload"]["batteryVoltage"] = json!("2V");
    let answer = invoke(&event.to_string(), &[&put()], &[]).await.unwrap();
    assert_eq!(answer["why"], "Field `batteryVoltage` must be millivolts, such as \"2000mV\".");
}

#[tokio::test]
async fn a_broken_event_in_a_batch_leaves_its_neighbours_alone() {
    let put = mock!(DynamoDb::put_item).sequence().output(|| PutItemOutput::builder().build()).times(3).build();
    let mark = mock!(DynamoDb::update_item).sequence().output(|| UpdateItemOutput::builder().build()).times(2).build();
    let publish = mock!(Sns::publish).sequence().output(|| PublishOutput::builder().build()).times(2).build();
    let answer = invoke(&sample("sqs-batch.json"), &[&put, &mark], &[&publish]).await;
    assert_eq!(answer, Ok(json!({"batchItemFailures": []})));
    assert_eq!((put.num_calls(), publish.num_calls(), mark.num_calls()), (3, 2, 2));
}

#[tokio::test]
async fn a_click_that_was_told_before_is_done_and_not_told_again() {
    let claim = mock!(DynamoDb::put_item).then_error(|| {
        let told = AttributeValue::S("COMPLETED".to_owned());
        let refused = ConditionalCheckFailedException::builder().item("status", told).build();
        PutItemError::ConditionalCheckFailedException(refused)
    });
    assert_eq!(invoke(&sample("single.json"), &[&claim], &[]).await, Ok(json!({"outcome": "done"})));
}

#[tokio::test]
async fn a_mark_whose_answer_was_lost_is_made_again_and_the_click_told_once() {
    let mark =
        mock!(DynamoDb::update_item).sequence().http_status(500, None).output(|| UpdateItemOutput::builder().build());
    let (mark, (publish, published)) = (mark.build(), publish());
    let answer = invoke(&sample("single.json"), &[&put(), &mark], &[&publish]).await;
    assert_eq!((answer, mark.num_calls()), (Ok(json!({"outcome": "done"})), 2));
    assert_eq!(published.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_throttled_topic_is_tried_again() {
    let throttled = || PublishError::generic(ErrorMetadata::builder().code("ThrottledException").build());
    let publish = mock!(Sns::publish).sequence().error(throttled).output(|| PublishOutput::builder().build()).build();
    let answer = invoke(&sample("single.json"), &[&put(), &mark()], &[&publish]).await;
    assert_eq!((answer, publish.num_calls()), (Ok(json!({"outcome": "done"})), 2));
}

#[tokio::test]
async fn a_topic_that_denies_makes_a_retry_which_finds_its_claim_given_back() {
    let denied = || PublishError::generic(ErrorMetadata::builder().code("AuthorizationError").build());
    let publish = mock!(Sns::publish).then_error(denied);
    let release = mock!(DynamoDb::delete_item).then_output(|| DeleteItemOutput::builder().build());
    let answer = invoke(&sample("single.json"), &[&put(), &release], &[&publish]).await;
    assert!(answer.unwrap_err().contains("the topic did not take the message"));
    assert_eq!(release.num_calls(), 1);
}

#[test]
fn what_is_missing_or_wrong_in_the_environment_is_named() {
    let (dynamodb, sns) = (mock_client!(aws_sdk_dynamodb, [&put()]), mock_client!(aws_sdk_sns, [&publish().0]));
    let error = |environment| button(&environment, &dynamodb, &sns).unwrap_err().to_string();
    assert!(error(Environment::default()).contains("TOPIC_ARN is missing"));
    assert!(error(environment(&[("SERIAL_NUMBER_PATTERN", "(")])).contains("SERIAL_NUMBER_PATTERN is \"(\""));
    assert!(error(environment(&[("LOW_BATTERY_MILLIVOLTS", "low")])).contains("LOW_BATTERY_MILLIVOLTS is \"low\""));
}
