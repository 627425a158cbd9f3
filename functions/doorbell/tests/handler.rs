//! The whole function except the Lambda runtime, against the fake AWS.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::time::Duration;

use doorbell::{DoorbellHandler, RingTable};
use gatehouse::{Concurrent, InitError, Timestamp, Topic};
use serde_json::{Value, json};
use test_support::{Delivered, FakeAws, Fault, NOW, Process, State, Table, sample};

/// The table, with the operations that the function's role allows.
const IDEMPOTENCY: Table = Table::new("idempotency", &["id"], &["GetItem", "PutItem"]);

fn aws() -> FakeAws {
    FakeAws::new("doorbell").env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:doorbell").table(IDEMPOTENCY)
}

/// An account in which the doorbell has these recent rings.
fn aws_with(sent: &Value, claim: &Value) -> FakeAws {
    let aws = aws();
    set_rings(&mut aws.state(), sent, claim);
    aws
}

fn set_rings(state: &mut State, sent: &Value, claim: &Value) {
    let rings = json!({"told": sent, "claim": claim}).to_string();
    state.set_attributes(
        "idempotency",
        &["doorbell#front-door"],
        &json!({"version": {"N": "3"}, "rings": {"S": rings}}),
    );
}

fn rings(aws: &FakeAws) -> Value {
    let rings = aws.state().attribute("idempotency", &["doorbell#front-door"], "rings");
    serde_json::from_str(&rings.unwrap()).unwrap()
}

fn handler(process: &Process) -> Result<Concurrent<DoorbellHandler>, InitError> {
    let environment = process.environment();
    let rings = RingTable::from_environment(&environment, process.dynamodb(), "doorbell")?;
    let topic = Topic::from_environment(&environment, process.sns())?;
    Ok(Concurrent::new(DoorbellHandler::from_environment(&environment, topic, rings)?, NonZeroUsize::MIN))
}

async fn deliver(aws: &FakeAws, event: &Value) -> Delivered {
    let process = aws.process();
    process.deliver_to(handler(&process).unwrap(), event, NOW).await
}

/// The metrics after a ring that is done.
fn counted(delivered: &Delivered) -> Vec<&'static str> {
    assert!(delivered.is_done(), "{delivered:?}");
    delivered.counts.keys().copied().collect()
}

fn error(delivered: Delivered) -> String {
    delivered.response.unwrap().unwrap_err()
}

fn ring(id: &str, received_at: Timestamp) -> Value {
    json!({
        "thing": "front-door", "topic": "doorbell/front-door", "traceId": id, "receivedAt": received_at,
        "payload": {"msg": "Somebody is at the door!", "ts": "1468958915.41"},
    })
}

fn sent_ring(id: &str) -> Value {
    json!({"eventId": id, "receivedAt": NOW})
}

fn claim(owner: &str, expires: Timestamp) -> Value {
    json!({"ring": sent_ring("e-1"), "owner": owner, "expires": expires})
}

#[tokio::test(start_paused = true)]
async fn ring_is_sent_as_a_transactional_text_and_remembered() {
    let aws = aws();
    assert_eq!(counted(&deliver(&aws, &sample("doorbell/ring.json")).await), ["Notified"]);
    {
        let state = aws.state();
        let [message] = state.published.as_slice() else { panic!("published {} messages", state.published.len()) };
        assert_eq!(message.message, "Somebody is at the door!");
        assert_eq!(message.subject, "Doorbell front-door");
        let attribute = |name: &str| message.attributes[name].as_str();
        assert_eq!(attribute("AWS.SNS.SMS.SMSType"), "Transactional");
        assert_eq!(attribute("AWS.SNS.SMS.SenderID"), "DOORBELL");
        assert_eq!((attribute("thing"), attribute("eventId")), ("front-door", "5f6b3c1e-0000-4000-8000-000000000015"));
    }
    assert_eq!(rings(&aws)["told"][0]["eventId"], "5f6b3c1e-0000-4000-8000-000000000015");
    assert_eq!(rings(&aws)["claim"], Value::Null);
    let item = aws.state().item("idempotency", &["doorbell#front-door"]).unwrap().clone();
    assert_eq!(item.keys().collect::<Vec<_>>(), ["expiration", "id", "rings", "version", "writer"]);
}

#[tokio::test(start_paused = true)]
async fn duplicate_ring_is_not_sent_twice() {
    let aws = aws();
    deliver(&aws, &ring("e-1", NOW)).await;
    assert_eq!(counted(&deliver(&aws, &ring("e-1", NOW)).await), ["Duplicate"]);
    assert_eq!(aws.state().published.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn ring_is_suppressed_within_the_window_and_sent_after_it() {
    let aws = aws();
    deliver(&aws, &ring("e-1", NOW)).await;
    let second = deliver(&aws, &ring("e-2", NOW.plus(Duration::from_secs(9)))).await;
    assert_eq!(counted(&second), ["Suppressed"]);
    let third = deliver(&aws, &ring("e-3", NOW.plus(Duration::from_secs(10)))).await;
    assert_eq!(counted(&third), ["Notified"]);
    assert_eq!(aws.state().published.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn ring_waits_for_another_and_is_suppressed_once_that_is_sent() {
    let aws = aws_with(&json!([]), &claim("another", NOW.plus(Duration::from_secs(10))));
    aws.change(4, |state| set_rings(state, &json!([sent_ring("e-1")]), &Value::Null));
    assert_eq!(counted(&deliver(&aws, &ring("e-2", NOW)).await), ["Suppressed"]);
    assert_eq!(aws.state().calls_of(1), ["GetItem idempotency"; 4]);
}

#[tokio::test(start_paused = true)]
async fn ring_is_retried_while_another_one_may_still_fail() {
    let aws = aws_with(&json!([]), &claim("another", NOW.plus(Duration::from_secs(10))));
    let error = error(deliver(&aws, &ring("e-2", NOW)).await);
    assert!(error.contains("another ring of this doorbell is being sent"), "{error}");
    // The first read and twenty polls.
    assert_eq!(aws.state().calls_of(1), ["GetItem idempotency"; 21]);
}

#[tokio::test(start_paused = true)]
async fn expired_claim_of_a_dead_process_is_taken_over() {
    let aws = aws_with(&json!([]), &claim("dead", NOW));
    assert_eq!(counted(&deliver(&aws, &ring("e-1", NOW)).await), ["Notified"]);
    assert_eq!(aws.state().published.len(), 1);
    assert_eq!(rings(&aws)["claim"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn ring_that_another_process_sends_first_is_respected() {
    let aws = aws();
    // Between the read and the write.
    aws.change(2, |state| set_rings(state, &json!([sent_ring("e-1")]), &Value::Null));
    assert_eq!(counted(&deliver(&aws, &ring("e-2", NOW)).await), ["Conflicts", "Suppressed"]);
    assert!(aws.state().published.is_empty());
}

/// Loses the response to the nth write, so that the SDK repeats the write and finds its own item.
async fn deliver_with_lost_response(write: usize) -> FakeAws {
    let aws = aws();
    let faults = (1..=write).map(|n| (n == write).then_some(Fault::Lost));
    aws.fail_next("PutItem", faults);
    assert_eq!(counted(&deliver(&aws, &ring("e-1", NOW)).await), ["Notified"]);
    let state = aws.state();
    assert_eq!((state.calls_to("PutItem").len(), state.published.len()), (3, 1));
    drop(state);
    aws
}

#[tokio::test(start_paused = true)]
async fn claim_whose_response_was_lost_is_recognized() {
    let aws = deliver_with_lost_response(1).await;
    assert_eq!(rings(&aws)["told"][0]["eventId"], "e-1");
}

#[tokio::test(start_paused = true)]
async fn claim_is_recognized_even_if_the_record_has_changed_since() {
    let aws = aws();
    aws.fail_next("PutItem", [Fault::Lost]);
    // Before the SDK repeats the claim.
    aws.change(3, |state| {
        let other = json!({"version": {"N": "2"}, "writer": {"S": "another"}});
        state.set_attributes("idempotency", &["doorbell#front-door"], &other);
    });
    assert_eq!(counted(&deliver(&aws, &ring("e-1", NOW)).await), ["Conflicts", "Notified"]);
    assert_eq!(aws.state().published.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn mark_whose_response_was_lost_is_recognized() {
    let aws = deliver_with_lost_response(2).await;
    assert_eq!(rings(&aws)["told"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn throttled_publish_is_retried_by_the_sdk() {
    let aws = aws();
    aws.fail_next("Publish", [Fault::Throttled]);
    assert_eq!(counted(&deliver(&aws, &ring("e-1", NOW)).await), ["Notified"]);
    assert_eq!(aws.state().calls_to("Publish").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn failed_publish_releases_the_claim_for_the_retry() {
    let aws = aws();
    aws.fail_next("Publish", [Fault::Error(403, "AuthorizationError")]);
    let error = error(deliver(&aws, &ring("e-1", NOW)).await);
    assert!(error.contains("failed to publish to the topic"), "{error}");
    assert_eq!(rings(&aws), json!({"told": [], "claim": null}));
}

#[tokio::test(start_paused = true)]
async fn every_invalid_sample_is_only_quarantined() {
    for (name, reason, why) in [
        ("not-json.json", "not-json", "The payload is not JSON: syntax error at line 1 column 1."),
        ("missing-field.json", "missing-field", "Field `msg` is missing."),
        ("wrong-type.json", "wrong-type", "Field `msg` must be a string."),
        ("no-text.json", "invalid-value", "Field `msg` must contain text."),
    ] {
        let aws = aws();
        let delivered = deliver(&aws, &sample(&format!("doorbell/{name}"))).await;
        assert_eq!(delivered.refusal(), Some((reason, why)), "{name}");
        assert_eq!(aws.state().calls_of(1), ["PutItem quarantine"], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn text_that_nobody_sees_is_refused() {
    for msg in ["\u{200b}", "\u{200b}\u{feff} \u{2060}", "\u{200d}\u{200c}", "\u{ad}\u{2800}"] {
        let mut event = ring("e-1", NOW);
        event["payload"] = json!({"msg": msg});
        let aws = aws();
        let delivered = deliver(&aws, &event).await;
        assert_eq!(delivered.refusal(), Some(("invalid-value", "Field `msg` must contain text.")), "{msg:?}");
        assert!(aws.state().published.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn long_text_and_emoji_are_sent_in_one_part() {
    for (name, length) in [("too-long-for-one-text.json", 150), ("emoji.json", 26)] {
        let aws = aws();
        assert_eq!(counted(&deliver(&aws, &sample(&format!("doorbell/{name}"))).await), ["Notified"], "{name}");
        assert!(aws.state().published[0].message.chars().count() <= length, "{name}");
    }
}

#[test]
fn missing_or_invalid_variable_is_named() {
    let error = |process: Process| handler(&process).unwrap_err().to_string();
    assert!(error(aws().process().env("IDEMPOTENCY_TABLE", "")).contains("IDEMPOTENCY_TABLE is missing"));
    assert!(error(aws().process().env("DEBOUNCE_SECONDS", "0")).contains("DEBOUNCE_SECONDS is \"0\""));
    for name in ["Front door", "7bells", "ELEVENCHARS"] {
        assert!(error(aws().process().env("SENDER_NAME", name)).contains("SENDER_NAME is "), "{name}");
    }
}
