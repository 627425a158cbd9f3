//! The handler against the fake AWS: whatever happens to documents and deletions, the newest one is recorded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use gatehouse::{Concurrent, InitError};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shadow::ShadowHandler;
use test_support::{
    Delivered, FAULTS, FakeAws, Fault, NOW, Process, Table, label_by_kind_and_sort_key, sqs_batch, sqs_record,
};

const SECONDS: u64 = NOW.seconds();
const HOUR: u64 = 3600;
const DEVICES: Table =
    Table::new("devices", &["id", "part"], &["GetItem", "PutItem"]).label(label_by_kind_and_sort_key);
/// Items are only ever added.
const HISTORY: Table = Table::new("history", &["shadow", "at"], &["PutItem"]);

fn account() -> FakeAws {
    FakeAws::new("shadow")
        .timeout(Duration::from_secs(30))
        .visibility_timeout(Duration::from_mins(3))
        .env("DEVICES_TABLE", "devices")
        .table(DEVICES)
        .table(HISTORY)
}

fn handler(process: &Process) -> Result<Concurrent<ShadowHandler>, InitError> {
    let handler = ShadowHandler::from_environment(&process.environment(), process.dynamodb())?;
    Ok(Concurrent::new(handler, NonZeroUsize::new(10).unwrap()))
}

async fn deliver(process: &Process, event: &Value) -> Delivered {
    process.deliver_to(handler(process).unwrap(), event, NOW).await
}

/// Delivers an event until it is not retried, as the queue does.
async fn deliver_until_done(process: Process, event: &Value) -> Delivered {
    process.deliver_until_done(|process| handler(process).unwrap(), event, NOW).await.0
}

fn with_history(aws: &FakeAws) -> Process {
    aws.process().env("HISTORY_TABLE", "history").env("HISTORY_RETENTION_DAYS", "30")
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

/// A shadow's record, without the attributes that every versioned item has; null if there is none.
fn record(aws: &FakeAws, shadow: &str) -> Value {
    let state = aws.state();
    let Some(item) = state.item("devices", &["thing#greenhouse-1", &format!("shadow#{shadow}")]) else {
        return Value::Null;
    };
    let own = |name: &str| !["id", "part", "version", "writer"].contains(&name);
    item.iter().filter(|(name, _)| own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The recorded version of the classic shadow, and whether it is a deletion.
fn recorded(aws: &FakeAws) -> (u64, bool) {
    let record = record(aws, "");
    (record["shadowVersion"]["N"].as_str().unwrap().parse().unwrap(), record["deleted"]["BOOL"] == true)
}

/// The keys of the history's items, in order.
fn history(aws: &FakeAws) -> Vec<Vec<String>> {
    aws.state().items("history").map(|(key, _)| key.to_vec()).collect()
}

#[tokio::test(start_paused = true)]
async fn newest_state_of_each_shadow_is_recorded() {
    let aws = account();
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
async fn late_and_duplicate_versions_are_counted_and_discarded() {
    let aws = account();
    deliver(&aws.process(), &updated(4, SECONDS)).await;
    let kept = record(&aws, "");
    assert_eq!(deliver(&aws.process(), &updated(3, SECONDS)).await.counts, BTreeMap::from([("OutOfOrder", 1)]));
    assert_eq!(deliver(&aws.process(), &updated(4, SECONDS)).await.counts, BTreeMap::from([("Duplicate", 1)]));
    assert_eq!(record(&aws, ""), kept);
}

#[tokio::test(start_paused = true)]
async fn late_document_does_not_revive_a_deleted_shadow() {
    let aws = account();
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
async fn recreated_shadow_is_newer_even_if_versions_restart() {
    let aws = account();
    deliver(&aws.process(), &deleted(40, SECONDS)).await;
    deliver(&aws.process(), &updated(41, SECONDS + HOUR)).await;
    assert_eq!(recorded(&aws), (41, false));
    deliver(&aws.process(), &deleted(41, SECONDS + 2 * HOUR)).await;
    deliver(&aws.process(), &updated(1, SECONDS + 51 * HOUR)).await;
    assert_eq!(recorded(&aws), (1, false));
    assert_eq!(record(&aws, "")["expiration"], Value::Null);
    for late in [updated(41, SECONDS + HOUR), deleted(41, SECONDS + 2 * HOUR)] {
        assert_eq!(deliver(&aws.process(), &late).await.count("OutOfOrder"), 1);
    }
    assert_eq!(recorded(&aws), (1, false));
}

#[tokio::test(start_paused = true)]
async fn numbers_are_stored_digit_for_digit() {
    let aws = account();
    let reported =
        r#"{"celsius":22.50,"steps":1234567890123456789012345678901234567890,"tiny":1e-400,"word":"\u00e9"}"#;
    let state: &RawValue = serde_json::from_str(reported).unwrap();
    let text = format!(
        r#"{{"payload":{{"current":{{"state":{{"reported":{}}},"version":1}},"timestamp":{SECONDS}}},
        "thing":"greenhouse-1","topic":"$aws/things/greenhouse-1/shadow/update/documents"}}"#,
        state.get(),
    );
    let delivered = deliver(&aws.process(), &json!({"Records": [sqs_record("m", &text)]})).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    assert_eq!(record(&aws, "")["reported"]["S"], reported);
    assert_eq!(record(&aws, "")["desired"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn state_of_eight_kilobytes_is_stored_whole() {
    let aws = account();
    let mut event = updated(1, SECONDS);
    let text = "é".repeat(4000);
    event["payload"]["current"]["state"]["reported"] = json!({"text": text});
    event["payload"]["previous"] = event["payload"]["current"].clone();
    assert!(deliver(&aws.process(), &event).await.is_done());
    assert_eq!(record(&aws, "")["reported"]["S"], json!({"text": text}).to_string());
}

#[tokio::test(start_paused = true)]
async fn history_has_each_version_once_including_late_ones() {
    let aws = account();
    for event in [updated(2, SECONDS + 5), updated(2, SECONDS + 5), deleted(2, SECONDS + 5), updated(1, SECONDS)] {
        assert!(deliver(&with_history(&aws), &event).await.is_done());
    }
    let key = |seconds: u64, version: u64, what: &str| {
        vec!["greenhouse-1#".to_owned(), format!("{seconds}#{version:020}#{what}")]
    };
    let expected = [key(SECONDS, 1, "updated"), key(SECONDS + 5, 2, "deleted"), key(SECONDS + 5, 2, "updated")];
    assert_eq!(history(&aws), expected);
    let key = key(SECONDS, 1, "updated");
    let item = aws.state().item("history", &[&key[0], &key[1]]).unwrap().clone();
    assert_eq!(item["expiration"]["N"], (SECONDS + 30 * 24 * HOUR).to_string());
    assert_eq!((&item["reported"]["S"], &item["thing"]["S"]), (&json!("{\"lux\":1}"), &json!("greenhouse-1")));
    assert_eq!(recorded(&aws), (2, true));
}

#[tokio::test(start_paused = true)]
async fn history_is_optional() {
    let aws = account();
    deliver(&aws.process(), &updated(1, SECONDS)).await;
    assert_eq!(aws.state().calls_of(1), ["GetItem thing/shadow#", "PutItem thing/shadow#"]);
}

#[tokio::test(start_paused = true)]
async fn one_fault_at_any_call_does_not_change_the_result() {
    let whole = account();
    let journey = [updated(1, SECONDS), deleted(1, SECONDS), updated(2, SECONDS)];
    for event in &journey {
        assert!(deliver(&with_history(&whole), event).await.is_done());
    }
    for (broken, call, fault) in (0..3)
        .flat_map(|broken| (1..=3).flat_map(move |call| FAULTS.into_iter().map(move |fault| (broken, call, fault))))
    {
        let aws = account();
        for (index, event) in journey.iter().enumerate() {
            let process = with_history(&aws);
            let process = if index == broken { process.fail(call, fault) } else { process };
            assert!(deliver_until_done(process, event).await.is_done(), "{fault:?} at call {call} of {event}");
        }
        assert_eq!(record(&aws, ""), record(&whole, ""), "{fault:?} at call {call} of event {broken}");
        assert_eq!(history(&aws), history(&whole), "{fault:?} at call {call} of event {broken}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn newer_of_two_concurrent_documents_wins(
        turns in proptest::collection::vec(1..=2_usize, 0..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let aws = account();
            let (one, other) = (aws.process(), aws.process());
            aws.serve_in_order(turns);
            let (newer, older) = (updated(9, SECONDS), updated(8, SECONDS));
            let (first, second) = tokio::join!(deliver(&one, &newer), deliver(&other, &older));
            prop_assert!(first.is_done() && second.is_done());
            prop_assert_eq!(recorded(&aws), (9, false));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn batch_in_the_wrong_order_ends_with_the_newest_version() {
    let aws = account();
    let refused = json!({"thing": "x"});
    let events = [
        updated(3, SECONDS),
        updated(1, SECONDS),
        refused,
        updated(4, SECONDS),
        updated(2, SECONDS),
        updated(4, SECONDS),
    ];
    let delivered = deliver(&aws.process(), &sqs_batch(&events)).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    assert_eq!(recorded(&aws), (4, false));
}

#[tokio::test(start_paused = true)]
async fn only_the_failed_event_of_a_batch_is_retried() {
    let aws = account();
    // The read of one of the two records.
    let process = aws.process().fail(1, Fault::Denied);
    let delivered = deliver(&process, &sqs_batch([named("a", 1, SECONDS), named("b", 1, SECONDS)])).await;
    let (first, second) = (record(&aws, "a") == Value::Null, record(&aws, "b") == Value::Null);
    assert!(first != second);
    let id = if first { "m-0" } else { "m-1" };
    assert_eq!(delivered.retried_messages(), Some(vec![id]));
}

#[tokio::test(start_paused = true)]
async fn anything_but_a_shadow_message_of_the_thing_is_refused() {
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
        (with("/payload/current/version", json!(-3)), "number-out-of-range"),
        (with("/payload/current/state/reported", json!([1])), "wrong-type"),
        (with("/payload/timestamp", json!("now")), "wrong-type"),
        (with("/payload/timestamp", json!(SECONDS + 2 * HOUR)), "invalid-value"),
        (with("/payload/previous", json!("x".repeat(300_000))), "payload-too-large"),
        (event("lamp", "update/documents", &json!({"timestamp": SECONDS})), "missing-field"),
        (event("lamp", "delete/accepted", &json!({"timestamp": SECONDS})), "missing-field"),
    ] {
        let delivered = deliver(&account().process(), &event).await;
        assert_eq!(delivered.refusal_code(), reason, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn sample_events_have_the_outcome_that_their_name_says() {
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
        let delivered = deliver(&account().process(), &event).await;
        match refused.get(name.as_str()) {
            Some(reason) => {
                assert_eq!(delivered.refusal_code(), *reason, "{name}");
                found += 1;
            }
            None if name == "sqs-batch" => {
                assert_eq!(delivered.retried_messages(), Some(vec![]));
            }
            None => assert!(delivered.is_done(), "{name}: {delivered:?}"),
        }
    }
    assert_eq!(found, refused.len());
}
