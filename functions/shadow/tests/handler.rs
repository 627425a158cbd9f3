//! The whole function but for the Lambda runtime, against a small AWS: documents and deletions go in, and whatever
//! happens in between, the newest is held.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

#[path = "../../presence/tests/aws/mod.rs"]
mod aws;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use aws::{Aws, Delivered, FAULTS, Fault, Process, VISIBILITY};
use gatehouse::{InitError, Concurrent, Timestamp};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shadow::Handler;

const SECONDS: u64 = 1_763_715_600;
const NOW: Timestamp = Timestamp::from_millis(SECONDS * 1000);
const HOUR: u64 = 3600;

fn handler(process: &Process) -> Result<Concurrent<Handler>, InitError> {
    let handler = Handler::from(&process.environment(), client!(aws_sdk_dynamodb, process))?;
    Ok(Concurrent(handler, NonZeroUsize::new(10).unwrap()))
}

async fn deliver(process: &Process, event: &Value) -> Delivered {
    process.deliver(handler(process).unwrap(), event, NOW).await
}

/// Hands an event to this process, and as long as it comes back, to others, as the queue does: the last answer.
async fn deliver_until_done(mut process: Process, event: &Value) -> Delivered {
    let mut now = NOW;
    for _ in 0..5 {
        let delivered = process.deliver(handler(&process).unwrap(), event, now).await;
        if !delivered.is_handed_back() {
            return delivered;
        }
        now = now.plus(VISIBILITY);
        process = with_history(&process.aws);
    }
    panic!("the event came back five times");
}

fn with_history(aws: &Aws) -> Process {
    aws.process().with("HISTORY_TABLE", "history").with("HISTORY_RETENTION_DAYS", "30")
}

fn event(shadow: &str, what: &str, payload: &Value) -> Value {
    let shadow = if shadow.is_empty() { String::new() } else { format!("name/{shadow}/") };
    json!({
        "payload": payload, "thing": "greenhouse-1", "topic": format!("$aws/things/greenhouse-1/shadow/{shadow}{what}"),
        "traceId": "e", "receivedAt": payload["timestamp"].as_u64().unwrap() * 1000,
    })
}

fn named(shadow: &str, version: u64, seconds: u64) -> Value {
    let state = json!({"desired": {"lamp": "on"}, "reported": {"lux": version}});
    let document = json!({"state": state, "metadata": {}, "version": version});
    event(shadow, "update/documents", &json!({"previous": null, "current": document, "timestamp": seconds}))
}

fn updated(version: u64, seconds: u64) -> Value {
    named("", version, seconds)
}

fn deleted(version: u64, seconds: u64) -> Value {
    event("", "delete/accepted", &json!({"version": version, "timestamp": seconds}))
}

fn record(aws: &Aws, shadow: &str) -> Value {
    aws.state().record("thing#greenhouse-1", &format!("shadow#{shadow}"))
}

fn held(aws: &Aws) -> (u64, bool) {
    let record = record(aws, "");
    (record["shadowVersion"]["N"].as_str().unwrap().parse().unwrap(), record["deleted"]["BOOL"] == true)
}

/// The keys of the history's items, in order.
fn history(aws: &Aws) -> Vec<Vec<String>> {
    aws.state().tables.keys().filter(|(table, _)| table == "history").map(|(_, key)| key.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_newest_state_of_each_shadow_is_kept() {
    let aws = Aws::default();
    assert!(deliver(&aws.process(), &updated(3, SECONDS)).await.is_done());
    assert!(deliver(&aws.process(), &named("lamp", 1, SECONDS)).await.is_done());
    assert!(deliver(&aws.process(), &updated(4, SECONDS)).await.is_done());
    let expected = |version: u64| {
        json!({
            "shadowVersion": {"N": version.to_string()}, "timestamp": {"N": SECONDS.to_string()},
            "deleted": {"BOOL": false}, "desired": {"S": "{\"lamp\":\"on\"}"},
            "reported": {"S": format!("{{\"lux\":{version}}}")},
        })
    };
    assert_eq!(record(&aws, ""), expected(4));
    assert_eq!(record(&aws, "lamp"), expected(1));
}

#[tokio::test(start_paused = true)]
async fn a_lower_version_is_discarded_and_a_repeated_one_too_and_both_are_counted() {
    let aws = Aws::default();
    deliver(&aws.process(), &updated(4, SECONDS)).await;
    let kept = record(&aws, "");
    assert_eq!(deliver(&aws.process(), &updated(3, SECONDS)).await.counted, BTreeMap::from([("Late", 1)]));
    assert_eq!(deliver(&aws.process(), &updated(4, SECONDS)).await.counted, BTreeMap::from([("Repeated", 1)]));
    assert_eq!(record(&aws, ""), kept);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_recorded_and_a_late_document_does_not_bring_the_shadow_back() {
    let aws = Aws::default();
    deliver(&aws.process(), &updated(4, SECONDS)).await;
    assert!(deliver(&aws.process(), &deleted(4, SECONDS + 1)).await.is_done());
    let expected = json!({
        "shadowVersion": {"N": "4"}, "timestamp": {"N": (SECONDS + 1).to_string()}, "deleted": {"BOOL": true},
        "expiration": {"N": (SECONDS + 1 + 30 * 24 * HOUR).to_string()},
    });
    assert_eq!(record(&aws, ""), expected);
    assert!(deliver(&aws.process(), &updated(4, SECONDS)).await.is_done());
    assert_eq!(record(&aws, ""), expected);
}

#[tokio::test(start_paused = true)]
async fn a_shadow_made_anew_is_recognised_whether_its_versions_go_on_or_begin_again() {
    let aws = Aws::default();
    deliver(&aws.process(), &deleted(40, SECONDS)).await;
    deliver(&aws.process(), &updated(41, SECONDS + HOUR)).await;
    assert_eq!(held(&aws), (41, false));
    deliver(&aws.process(), &deleted(41, SECONDS + 2 * HOUR)).await;
    deliver(&aws.process(), &updated(1, SECONDS + 51 * HOUR)).await;
    assert_eq!(held(&aws), (1, false));
    assert_eq!(record(&aws, "")["expiration"], Value::Null);
    for late in [updated(41, SECONDS + HOUR), deleted(41, SECONDS + 2 * HOUR)] {
        assert_eq!(deliver(&aws.process(), &late).await.count("Late"), 1);
    }
    assert_eq!(held(&aws), (1, false));
}

#[tokio::test(start_paused = true)]
async fn numbers_are_kept_digit_for_digit() {
    let aws = Aws::default();
    let reported =
        r#"{"celsius":22.50,"steps":1234567890123456789012345678901234567890,"tiny":1e-400,"word":"\u00e9"}"#;
    let state: &RawValue = serde_json::from_str(reported).unwrap();
    let text = format!(
        r#"{{"payload":{{"current":{{"state":{{"reported":{}}},"version":1}},"timestamp":{SECONDS}}},
        "thing":"greenhouse-1","topic":"$aws/things/greenhouse-1/shadow/update/documents"}}"#,
        state.get(),
    );
    let record_of_queue = json!({"eventSource": "aws:sqs", "messageId": "m", "body": text, "attributes": {}});
    let delivered = deliver(&aws.process(), &json!({"Records": [record_of_queue]})).await;
    assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": []}))));
    assert_eq!(record(&aws, "")["reported"]["S"], reported);
    assert_eq!(record(&aws, "")["desired"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_state_of_eight_kilobytes_is_kept_whole() {
    let aws = Aws::default();
    let mut event = updated(1, SECONDS);
    let text = "é".repeat(4000);
    event["payload"]["current"]["state"]["reported"] = json!({"text": text});
    event["payload"]["previous"] = event["payload"]["current"].clone();
    assert!(deliver(&aws.process(), &event).await.is_done());
    assert_eq!(record(&aws, "")["reported"]["S"], json!({"text": text}).to_string());
}

#[tokio::test(start_paused = true)]
async fn a_history_holds_each_version_once_in_order_the_late_ones_too() {
    let aws = Aws::default();
    for event in [updated(2, SECONDS + 5), updated(2, SECONDS + 5), deleted(2, SECONDS + 5), updated(1, SECONDS)] {
        assert!(deliver(&with_history(&aws), &event).await.is_done());
    }
    let key = |seconds: u64, version: u64, what: &str| {
        vec!["greenhouse-1#".to_owned(), format!("{seconds}#{version:020}#{what}")]
    };
    let expected = [key(SECONDS, 1, "updated"), key(SECONDS + 5, 2, "deleted"), key(SECONDS + 5, 2, "updated")];
    assert_eq!(history(&aws), expected);
    let item = aws.state().tables[&("history".to_owned(), key(SECONDS, 1, "updated"))].clone();
    assert_eq!(item["expiration"]["N"], (SECONDS + 30 * 24 * HOUR).to_string());
    assert_eq!((&item["reported"]["S"], &item["thing"]["S"]), (&json!("{\"lux\":1}"), &json!("greenhouse-1")));
    assert_eq!(held(&aws), (2, true));
}

#[tokio::test(start_paused = true)]
async fn without_a_table_for_it_no_history_is_kept() {
    let aws = Aws::default();
    deliver(&aws.process(), &updated(1, SECONDS)).await;
    assert_eq!(aws.state().calls_of(1), ["GetItem thing/shadow#", "PutItem thing/shadow#"]);
}

/// Whatever goes wrong once, at whichever call: all ends as if nothing had.
#[tokio::test(start_paused = true)]
async fn any_one_fault_at_any_call_changes_nothing_in_the_end() {
    let whole = Aws::default();
    let journey = [updated(1, SECONDS), deleted(1, SECONDS), updated(2, SECONDS)];
    for event in &journey {
        assert!(deliver(&with_history(&whole), event).await.is_done());
    }
    for (broken, invocation, fault) in (0..3)
        .flat_map(|broken| (1..=3).flat_map(move |invocation| FAULTS.into_iter().map(move |fault| (broken, invocation, fault))))
    {
        let aws = Aws::default();
        for (index, event) in journey.iter().enumerate() {
            let process = with_history(&aws);
            let process = if index == broken { process.fail(invocation, fault) } else { process };
            assert!(deliver_until_done(process, event).await.is_done(), "{fault:?} at call {call} of {event}");
        }
        assert_eq!(record(&aws, ""), record(&whole, ""), "{fault:?} at call {call} of event {broken}");
        assert_eq!(history(&aws), history(&whole), "{fault:?} at call {call} of event {broken}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn of_two_processes_at_the_same_moment_the_newer_document_wins(
        turns in proptest::collection::vec(1..=2_usize, 0..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let aws = Aws::default();
            let (one, other) = (aws.process(), aws.process());
            aws.serve_in_order(turns);
            let (newer, older) = (updated(9, SECONDS), updated(8, SECONDS));
            let (first, second) = tokio::join!(deliver(&one, &newer), deliver(&other, &older));
            prop_assert!(first.is_done() && second.is_done());
            prop_assert_eq!(held(&aws), (9, false));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_one_shadow_in_the_wrong_order_ends_with_the_newest() {
    let aws = Aws::default();
    let refused = json!({"thing": "x"});
    let events = [
        updated(3, SECONDS),
        updated(1, SECONDS),
        refused,
        updated(4, SECONDS),
        updated(2, SECONDS),
        updated(4, SECONDS),
    ];
    let delivered = deliver(&aws.process(), &batch(&events)).await;
    assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": []}))));
    assert_eq!(held(&aws), (4, false));
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_of_a_batch_comes_again() {
    let aws = Aws::default();
    // The read of one of the two.
    let process = aws.process().fail(1, Fault::Denied);
    let delivered = deliver(&process, &batch(&[named("a", 1, SECONDS), named("b", 1, SECONDS)])).await;
    let (first, second) = (record(&aws, "a") == Value::Null, record(&aws, "b") == Value::Null);
    assert!(first != second);
    let id = if first { "m-0" } else { "m-1" };
    assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": [{"itemIdentifier": id}]}))));
}

fn batch(events: &[Value]) -> Value {
    let record = |(index, event): (usize, &Value)| {
        let (id, body) = (format!("m-{index}"), event.to_string());
        json!({"eventSource": "aws:sqs", "messageId": id, "body": body, "attributes": {}})
    };
    json!({"Records": events.iter().enumerate().map(record).collect::<Vec<_>>()})
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_of_the_things_shadow_is_refused() {
    let with = |at: &str, value: Value| {
        let mut event = named("lamp", 3, SECONDS);
        let (parent, name) = at.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap()[name] = value;
        event
    };
    let topic = |topic: &str| with("/topic", json!(format!("$aws/things/{topic}")));
    for (event, reason) in [
        (topic("greenhouse-2/shadow/update/documents"), "topic-mismatch"),
        (topic("greenhouse-1/shadow/update/accepted"), "topic-mismatch"),
        (topic("greenhouse-1/shadow/name//update/documents"), "topic-mismatch"),
        (topic("greenhouse-1/shadow/name/a b/update/documents"), "topic-mismatch"),
        (topic(&format!("greenhouse-1/shadow/name/{}/update/documents", "a".repeat(65))), "topic-mismatch"),
        (with("/payload/current", Value::Null), "wrong-type"),
        (with("/payload/current/version", json!("3")), "wrong-type"),
        (with("/payload/current/version", json!(-3)), "invalid-value"),
        (with("/payload/current/state/reported", json!([1])), "wrong-type"),
        (with("/payload/timestamp", json!("now")), "wrong-type"),
        (with("/payload/timestamp", json!(SECONDS + 2 * HOUR)), "invalid-value"),
        (with("/payload/previous", json!("x".repeat(300_000))), "payload-too-large"),
        (event("lamp", "update/documents", &json!({"timestamp": SECONDS})), "missing-field"),
        (event("lamp", "delete/accepted", &json!({"timestamp": SECONDS})), "missing-field"),
    ] {
        let delivered = deliver(&Aws::default().process(), &event).await;
        assert_eq!(delivered.quarantined(), reason, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_sample_event_is_taken_as_its_name_says() {
    let refused = BTreeMap::from([
        ("bad-thing-name", "bad-thing-name"),
        ("another-thing", "topic-mismatch"),
        ("missing-field", "missing-field"),
        ("not-json", "not-json"),
        ("state-not-an-object", "wrong-type"),
        ("update-accepted", "topic-mismatch"),
        ("wrong-type", "wrong-type"),
    ]);
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/shadow");
    let mut found = 0;
    for entry in fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let event: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let delivered = deliver(&Aws::default().process(), &event).await;
        match refused.get(name.as_str()) {
            Some(reason) => {
                assert_eq!(delivered.quarantined(), *reason, "{name}");
                found += 1;
            }
            None if name == "sqs-batch" => {
                assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": []}))));
            }
            None => assert!(delivered.is_done(), "{name}: {delivered:?}"),
        }
    }
    assert_eq!(found, refused.len());
}
