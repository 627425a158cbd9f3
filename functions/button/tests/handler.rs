//! The whole function except the Lambda runtime, against the fake AWS.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use button::ButtonHandler;
use gatehouse::{Concurrent, Idempotency, InitError, Topic};
use serde_json::{Value, json};
use test_support::{Delivered, FakeAws, Fault, NOW, Process, sample};

const TOPIC_ARN: &str = "arn:aws:sns:eu-west-1:123456789012:button";

fn aws() -> FakeAws {
    FakeAws::new("button").env("TOPIC_ARN", TOPIC_ARN)
}

fn handler(process: &Process) -> Result<Concurrent<ButtonHandler>, InitError> {
    let environment = process.environment();
    let topic = Topic::from_environment(&environment, process.sns())?;
    let idempotency = Idempotency::from_environment(&environment, process.dynamodb(), "button")?;
    Ok(Concurrent::new(ButtonHandler::from_environment(&environment, topic, idempotency)?, NonZeroUsize::MIN))
}

async fn deliver(aws: &FakeAws, event: &Value) -> Delivered {
    let process = aws.process();
    process.deliver_to(handler(&process).unwrap(), event, NOW).await
}

fn click() -> Value {
    sample("button/single.json")
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[tokio::test(start_paused = true)]
async fn click_is_claimed_published_and_marked_as_completed() {
    let aws = aws();
    assert!(deliver(&aws, &click()).await.is_done());
    let state = aws.state();
    assert_eq!(state.calls_of(1), ["PutItem idempotency", "Publish", "UpdateItem idempotency"]);
    let [message] = state.published.as_slice() else { panic!("published {} messages", state.published.len()) };
    assert_eq!(message.topic_arn, TOPIC_ARN);
    assert_eq!(message.message, "Received SINGLE message from button ID: G030JF055364XVRB");
    assert_eq!(message.subject, "SINGLE click of button G030JF055364XVRB");
    assert_eq!(
        pairs(&message.attributes),
        [
            ("batteryVoltage", "2000"),
            ("clickType", "SINGLE"),
            ("eventId", "5f6b3c1e-0000-4000-8000-000000000001"),
            ("thing", "G030JF055364XVRB"),
        ]
    );
    assert_eq!(
        pairs(&message.attribute_types),
        [("batteryVoltage", "Number"), ("clickType", "String"), ("eventId", "String"), ("thing", "String")]
    );
}

#[tokio::test(start_paused = true)]
async fn every_valid_sample_is_published() {
    for (name, message) in [
        ("double.json", "Received DOUBLE message from button ID: G030JF055364XVRB"),
        ("long.json", "Received LONG message from button ID: G030JF055364XVRB"),
        ("low-battery.json", "Received SINGLE message from button ID: G030JF055364XVRB\nBattery low: 1100 mV"),
        ("without-trace-id.json", "Received SINGLE message from button ID: G030JF055364XVRB"),
    ] {
        let aws = aws();
        assert!(deliver(&aws, &sample(&format!("button/{name}"))).await.is_done(), "{name}");
        assert_eq!(aws.state().published[0].message, message, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_invalid_sample_is_only_quarantined() {
    for (name, reason, why) in [
        ("not-json.json", "not-json", "The payload is not JSON: syntax error at line 1 column 1."),
        ("empty.json", "empty-payload", "The payload is empty."),
        ("array.json", "not-an-object", "The payload is an array, not an object."),
        ("missing-field.json", "missing-field", "Field `clickType` is missing."),
        ("wrong-type.json", "wrong-type", "Field `batteryVoltage` must be a string."),
        ("unknown-click-type.json", "unknown-value", "Field `clickType` must be one of `SINGLE`, `DOUBLE`, `LONG`."),
        (
            "serial-number-of-another.json",
            "serial-number-mismatch",
            "Field `serialNumber` must be the name of the thing that published the click.",
        ),
        ("invalid-utf8.json", "invalid-utf8", "The payload is not UTF-8: byte 17 is invalid."),
        (
            "bad-thing-name.json",
            "bad-thing-name",
            "Field `thing` must be 1 to 128 of the characters a-z A-Z 0-9 : _ -.",
        ),
    ] {
        let aws = aws();
        let delivered = deliver(&aws, &sample(&format!("button/{name}"))).await;
        assert_eq!(delivered.refusal(), Some((reason, why)), "{name}");
        assert_eq!(aws.state().calls_of(1), ["PutItem quarantine"], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn click_type_other_than_a_known_text_is_refused() {
    for (click_type, reason) in [
        (Value::Null, "wrong-type"),
        (json!(1), "wrong-type"),
        (json!(true), "wrong-type"),
        (json!(["SINGLE"]), "wrong-type"),
        (json!({"SINGLE": null}), "wrong-type"),
        (json!({"SINGLE": []}), "wrong-type"),
        (json!({}), "wrong-type"),
        (json!("single"), "unknown-value"),
        (json!(""), "unknown-value"),
    ] {
        let mut event = click();
        event["payload"]["clickType"] = click_type.clone();
        let aws = aws();
        let delivered = deliver(&aws, &event).await;
        let why = "Field `clickType` must be one of `SINGLE`, `DOUBLE`, `LONG`.";
        assert_eq!(delivered.refusal(), Some((reason, why)), "{click_type}");
        assert!(aws.state().published.is_empty(), "{click_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn payload_of_128_kib_is_refused() {
    let mut event = click();
    event["payload"] = json!("x".repeat(128 * 1024 - 2));
    let delivered = deliver(&aws(), &event).await;
    assert_eq!(delivered.refusal().unwrap().1, "The payload has 131072 bytes; the limit is 8192.");
}

#[tokio::test(start_paused = true)]
async fn refusal_of_an_invalid_voltage_names_the_field() {
    let mut event = click();
    event["payload"]["batteryVoltage"] = json!("2V");
    let delivered = deliver(&aws(), &event).await;
    assert_eq!(delivered.refusal().unwrap().1, "Field `batteryVoltage` must be millivolts, such as \"2000mV\".");
}

#[tokio::test(start_paused = true)]
async fn invalid_event_in_a_batch_does_not_affect_the_others() {
    let aws = aws();
    let delivered = deliver(&aws, &sample("button/sqs-batch.json")).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    let state = aws.state();
    let counts = ["PutItem", "Publish", "UpdateItem"].map(|operation| state.calls_to(operation).len());
    assert_eq!((counts, state.quarantined().len()), ([3, 2, 2], 1));
}

#[tokio::test(start_paused = true)]
async fn retry_does_not_publish_twice() {
    let aws = aws();
    assert_eq!(deliver(&aws, &click()).await.counts, BTreeMap::from([("Notified", 1)]));
    let retry = deliver(&aws, &click()).await;
    assert_eq!((retry.is_done(), retry.counts), (true, BTreeMap::from([("Duplicate", 1)])));
    assert_eq!(aws.state().published.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn lost_response_to_the_mark_does_not_publish_twice() {
    let aws = aws();
    aws.fail_next("UpdateItem", [Fault::Lost]);
    assert!(deliver(&aws, &click()).await.is_done());
    let state = aws.state();
    assert_eq!((state.calls_to("UpdateItem").len(), state.published.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn throttled_publish_is_retried_by_the_sdk() {
    let aws = aws();
    aws.fail_next("Publish", [Fault::Throttled]);
    assert!(deliver(&aws, &click()).await.is_done());
    let state = aws.state();
    assert_eq!((state.calls_to("Publish").len(), state.published.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn failed_publish_releases_the_claim_for_the_retry() {
    let aws = aws();
    aws.fail_next("Publish", [Fault::Error(403, "AuthorizationError")]);
    let error = deliver(&aws, &click()).await.response.unwrap().unwrap_err();
    assert!(error.contains("failed to publish to the topic"), "{error}");
    assert_eq!(aws.state().calls_to("DeleteItem").len(), 1);
    assert!(deliver(&aws, &click()).await.is_done());
}

#[test]
fn missing_or_invalid_variable_is_named() {
    let error = |process: Process| handler(&process).unwrap_err().to_string();
    assert!(error(FakeAws::new("button").process()).contains("TOPIC_ARN is missing"));
    for (name, value) in [("SERIAL_NUMBER_PATTERN", "("), ("LOW_BATTERY_MILLIVOLTS", "low")] {
        assert!(error(aws().process().env(name, value)).contains(&format!("{name} is \"{value}\"")));
    }
}
