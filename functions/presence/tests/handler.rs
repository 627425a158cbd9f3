//! The handler against the fake AWS: whatever happens to lifecycle events and checks, the record is correct, and each
//! absence is announced once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use gatehouse::{Concurrent, Idempotency, InitError, Queue, Timestamp, Topic, VersionedTable};
use presence::{ClientStatus, PresenceHandler};
use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{
    Delivered, FAULTS, FakeAws, Fault, Logs, NOW, Process, State, Table, label_by_kind_and_sort_key, sqs_batch,
};

const GRACE: Duration = Duration::from_mins(5);
/// How long the queue waits before it redelivers a message.
const VISIBILITY_TIMEOUT: Duration = Duration::from_mins(3);
const QUEUE_URL: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/presence";
const DEVICES: Table =
    Table::new("devices", &["id", "part"], &["GetItem", "PutItem"]).label(label_by_kind_and_sort_key);

fn account() -> FakeAws {
    FakeAws::new("presence")
        .timeout(Duration::from_secs(30))
        .visibility_timeout(VISIBILITY_TIMEOUT)
        .env("DEVICES_TABLE", "devices")
        .env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:presence")
        .env("QUEUE_URL", QUEUE_URL)
        .table(DEVICES)
        .queue(QUEUE_URL)
}

fn handler(process: &Process) -> Result<Concurrent<PresenceHandler>, InitError> {
    let environment = process.environment();
    let handler = PresenceHandler::from_environment(
        &environment,
        VersionedTable::new(process.dynamodb(), "devices"),
        Queue::from_environment(&environment, process.sqs())?,
        Topic::from_environment(&environment, process.sns())?,
        Idempotency::from_environment(&environment, process.dynamodb(), "presence")?,
        environment.optional("CONFIRM_OFFLINE")?.unwrap_or(true).then(|| ClientStatus::new(process.iot_data())),
    )?;
    Ok(Concurrent::new(handler, NonZeroUsize::new(10).unwrap()))
}

async fn deliver(process: &Process, event: &Value, now: Timestamp) -> Delivered {
    process.deliver_to(handler(process).unwrap(), event, now).await
}

/// Delivers an event until it is not retried, as the queue does.
async fn deliver_until_done(process: Process, event: &Value, now: Timestamp) -> (Delivered, Timestamp) {
    process.deliver_until_done(|process| handler(process).unwrap(), event, now).await
}

/// Delivers one event each to two processes at the same time, and retried events to other processes after the
/// visibility timeout.
async fn deliver_together([one, other]: [(Process, Value); 2], now: Timestamp) {
    let aws = one.0.aws.clone();
    let delivered = tokio::join!(deliver(&one.0, &one.1, now), deliver(&other.0, &other.1, now));
    for (delivered, (_, event)) in [(delivered.0, one), (delivered.1, other)] {
        if delivered.is_retried() {
            deliver_until_done(aws.process(), &event, now.plus(VISIBILITY_TIMEOUT)).await;
        }
    }
}

fn event(event_type: &str, version: u64, at: Timestamp, more: &Value) -> Value {
    let mut payload = json!({
        "clientId": "greenhouse-1", "timestamp": at, "eventType": event_type, "versionNumber": version,
        "sessionIdentifier": format!("session-{version}"), "principalIdentifier": "p",
    });
    payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "payload": payload, "thing": "greenhouse-1", "receivedAt": at,
        "topic": format!("$aws/events/presence/{event_type}/greenhouse-1"),
        "traceId": format!("{event_type}-{version}"),
    })
}

fn connected(version: u64, at: Timestamp) -> Value {
    event("connected", version, at, &json!({"ipAddress": "192.0.2.1"}))
}

fn disconnected(version: u64, at: Timestamp) -> Value {
    ended(version, at, "CONNECTION_LOST")
}

fn ended(version: u64, at: Timestamp, reason: &str) -> Value {
    event("disconnected", version, at, &json!({"disconnectReason": reason, "clientInitiatedDisconnect": false}))
}

fn check(version: u64) -> Value {
    json!({"check": "away", "thing": "greenhouse-1", "version": version, "session": format!("session-{version}")})
}

/// A device's record, without the attributes that every versioned item has; null if there is none.
fn record_of(state: &State, thing: &str) -> Value {
    let Some(item) = state.item("devices", &[&format!("thing#{thing}"), "presence"]) else { return Value::Null };
    let own = |name: &str| !["id", "part", "version", "writer"].contains(&name);
    item.iter().filter(|(name, _)| own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn record(aws: &FakeAws) -> Value {
    record_of(&aws.state(), "greenhouse-1")
}

fn is_connected(aws: &FakeAws) -> Value {
    record(aws)["connected"]["BOOL"].clone()
}

/// The checks that were sent to the queue, with their delays in seconds.
fn sent_checks(aws: &FakeAws) -> Vec<(Value, u64)> {
    let sent = aws.state().queues[QUEUE_URL].sent();
    sent.iter().map(|message| (serde_json::from_str(&message.body).unwrap(), message.delay.as_secs())).collect()
}

/// What subscribers were notified of, in order.
fn notified(aws: &FakeAws) -> Vec<String> {
    aws.state().published.iter().map(|message| message.data()["presence"].as_str().unwrap().to_owned()).collect()
}

const NOBODY: [&str; 0] = [];

#[tokio::test(start_paused = true)]
async fn disconnect_is_recorded_and_checked_after_the_grace_period() {
    let aws = account();
    assert!(deliver(&aws.process(), &connected(3, NOW), NOW).await.is_done());
    let connection = json!({
        "connected": {"BOOL": true}, "since": {"N": NOW.to_string()}, "versionNumber": {"N": "3"},
        "sessionIdentifier": {"S": "session-3"}, "ipAddress": {"S": "192.0.2.1"},
    });
    assert_eq!(record(&aws), connection);
    assert!(sent_checks(&aws).is_empty());

    let later = NOW.plus(GRACE);
    assert!(deliver(&aws.process(), &disconnected(3, later), later).await.is_done());
    let end = json!({
        "connected": {"BOOL": false}, "since": {"N": later.to_string()}, "versionNumber": {"N": "3"},
        "sessionIdentifier": {"S": "session-3"}, "ipAddress": {"S": "192.0.2.1"},
        "disconnectReason": {"S": "CONNECTION_LOST"},
    });
    assert_eq!(record(&aws), end);
    assert_eq!(sent_checks(&aws), [(check(3), 300)]);
    assert_eq!(notified(&aws), NOBODY);
}

#[tokio::test(start_paused = true)]
async fn repeated_checks_notify_once() {
    let aws = account();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    let now = NOW.plus(GRACE);
    let delivered = deliver(&aws.process(), &check(3), now).await;
    assert!(delivered.is_done() && delivered.count("Notified") == 1);
    let delivered = deliver(&aws.process(), &check(3), now).await;
    assert!(delivered.is_done() && delivered.count("Notified") == 0);
    assert_eq!(notified(&aws), ["away"]);
    assert_eq!((&record(&aws)["awaySince"]["N"], &record(&aws)["owed"]), (&json!(NOW.to_string()), &Value::Null));

    let published = aws.state().published[0].clone();
    let data = published.data();
    assert_eq!((&data["thing"], &data["presence"]), (&json!("greenhouse-1"), &json!("away")));
}

#[tokio::test(start_paused = true)]
async fn return_within_the_grace_period_notifies_nobody() {
    let aws = account();
    for event in [disconnected(3, NOW), connected(4, NOW.plus(GRACE)), check(3)] {
        assert!(deliver(&aws.process(), &event, NOW.plus(GRACE)).await.is_done());
    }
    assert_eq!(notified(&aws), NOBODY);
    assert_eq!(is_connected(&aws), true);
}

#[tokio::test(start_paused = true)]
async fn announced_absence_is_followed_by_its_return() {
    let aws = account();
    let mut now = NOW;
    for version in 0..2 {
        for event in [disconnected(2 * version, now), check(2 * version), connected(2 * version + 1, now.plus(GRACE))] {
            assert!(deliver(&aws.process(), &event, now.plus(GRACE)).await.is_done());
        }
        now = now.plus(2 * GRACE);
    }
    assert_eq!(notified(&aws), ["away", "back", "away", "back"]);
    assert_eq!(record(&aws)["awaySince"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn check_of_an_earlier_disconnect_ignores_a_later_one() {
    let aws = account();
    for event in [disconnected(3, NOW), connected(4, NOW), disconnected(4, NOW), check(3)] {
        assert!(deliver(&aws.process(), &event, NOW).await.is_done());
    }
    assert_eq!(notified(&aws), NOBODY);
    let checks: Vec<_> = sent_checks(&aws).iter().map(|(check, _)| check["version"].clone()).collect();
    assert_eq!(checks, [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn late_and_duplicate_events_are_counted_and_change_nothing() {
    let aws = account();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    deliver(&aws.process(), &connected(4, NOW), NOW).await;
    let held = record(&aws);
    assert_eq!(deliver(&aws.process(), &connected(4, NOW), NOW).await.count("Duplicate"), 1);
    assert_eq!(deliver(&aws.process(), &disconnected(3, NOW), NOW).await.count("OutOfOrder"), 1);
    assert_eq!(deliver(&aws.process(), &connected(3, NOW), NOW).await.count("OutOfOrder"), 1);
    assert_eq!(record(&aws), held);
    assert_eq!(sent_checks(&aws).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn event_from_the_far_future_does_not_make_later_ones_late() {
    let aws = account();
    let mut ahead = connected(1, NOW);
    ahead["payload"]["timestamp"] = json!(NOW.plus(Duration::from_hours(400 * 24)));
    assert_eq!(deliver(&aws.process(), &ahead, NOW).await.refusal_code(), "invalid-value");
    let delivered = deliver(&aws.process(), &disconnected(2, NOW), NOW).await;
    assert_eq!((delivered.is_done(), delivered.count("OutOfOrder")), (true, 0));
    assert_eq!(is_connected(&aws), false);
    // An hour is still within the allowed clock error.
    let mut ahead = connected(3, NOW);
    ahead["payload"]["timestamp"] = json!(NOW.plus(Duration::from_hours(1)));
    assert!(deliver(&aws.process(), &ahead, NOW).await.is_done());
    assert_eq!(is_connected(&aws), true);
}

#[tokio::test(start_paused = true)]
async fn early_disconnect_takes_the_address_from_its_late_connect() {
    let aws = account();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    assert!(deliver(&aws.process(), &connected(3, NOW), NOW).await.is_done());
    assert_eq!(is_connected(&aws), false);
    assert_eq!(record(&aws)["ipAddress"]["S"], "192.0.2.1");
}

#[tokio::test(start_paused = true)]
async fn retry_sends_the_check_that_a_crash_left_unsent() {
    let aws = account();
    let process = aws.process().fail(3, Fault::DiesBefore);
    assert_eq!(deliver(&process, &disconnected(3, NOW), NOW).await.response, None);
    assert_eq!((is_connected(&aws), sent_checks(&aws).len()), (json!(false), 0));
    let delivered = deliver(&aws.process(), &disconnected(3, NOW), NOW.plus(VISIBILITY_TIMEOUT)).await;
    assert!(delivered.is_done() && delivered.count("Duplicate") == 1);
    assert_eq!(sent_checks(&aws), [(check(3), 300)]);
}

#[tokio::test(start_paused = true)]
async fn next_event_sends_the_notification_that_a_crash_left_pending() {
    let aws = account();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    // The fourth call is the claim, after the read, the call that asks for the connection, and the write.
    let process = aws.process().fail(4, Fault::DiesBefore);
    assert_eq!(deliver(&process, &check(3), NOW).await.response, None);
    assert_eq!(notified(&aws), NOBODY);
    assert!(deliver(&aws.process(), &connected(4, NOW), NOW.plus(VISIBILITY_TIMEOUT)).await.is_done());
    assert_eq!(notified(&aws), ["away", "back"]);
    assert!(deliver(&aws.process(), &check(3), NOW.plus(VISIBILITY_TIMEOUT)).await.is_done());
    assert_eq!(notified(&aws), ["away", "back"]);
}

/// The result is the same if any single call fails, in any way.
#[tokio::test(start_paused = true)]
async fn one_fault_at_any_call_does_not_change_the_result() {
    let journey = [
        connected(3, NOW),
        ended(3, NOW.plus(GRACE), "DUPLICATE_CLIENTID"),
        check(3),
        connected(4, NOW.plus(3 * GRACE)),
    ];
    let whole = account();
    let mut calls = Vec::new();
    for event in &journey {
        let process = whole.process();
        assert!(deliver(&process, event, NOW).await.is_done());
        calls.push(process.call_count());
    }
    assert_eq!(notified(&whole), ["away", "back"]);
    assert_eq!(calls, [2, 5, 7, 6]);

    for (broken, calls) in calls.into_iter().enumerate() {
        for (call, fault) in (1..=calls).flat_map(|call| FAULTS.map(|fault| (call, fault))) {
            let (aws, mut now) = (account(), NOW);
            let mut calls = Vec::new();
            for (index, event) in journey.iter().enumerate() {
                let process = aws.process();
                let number = process.number;
                let process = if index == broken { process.fail(call, fault) } else { process };
                let (delivered, at) = deliver_until_done(process, event, now).await;
                now = at;
                assert!(delivered.is_done(), "{event} with {fault:?} at call {call}: {delivered:?}");
                if index == broken {
                    calls.extend(aws.state().calls_of(number).into_iter().take(call));
                }
            }
            let case = format!("{fault:?} at call {call} of {}: {calls:?}", journey[broken]);
            assert_eq!(record(&aws), record(&whole), "{case}");
            let checks: Vec<_> = sent_checks(&aws).iter().map(|(check, _)| check.clone()).collect();
            assert!(!checks.is_empty() && checks.iter().all(|sent| *sent == check(3)), "{case}: {checks:?}");
            let mut notified = notified(&aws);
            // SNS has no idempotency of its own: sent twice only if it accepted the message and that could not be
            // recorded.
            let is_unconfirmed = matches!(fault, Fault::DiesBefore | Fault::DiesAfter | Fault::Lost);
            if is_unconfirmed && calls.last().is_some_and(|last| last == "Publish") {
                assert_eq!(notified.len(), 3, "{case}");
                notified.dedup();
            }
            assert_eq!(notified, ["away", "back"], "{case}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn concurrent_check_and_return_notify_of_neither_or_both(
        turns in proptest::collection::vec(2..=3_usize, 0..18),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let aws = account();
            deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
            let (one, other) = (aws.process(), aws.process());
            aws.serve_in_order(turns);
            deliver_together([(one, check(3)), (other, connected(4, NOW.plus(GRACE)))], NOW.plus(GRACE)).await;
            let notified = notified(&aws);
            prop_assert!(notified.is_empty() || notified == ["away", "back"], "{notified:?}");
            prop_assert_eq!(&record(&aws)["owed"], &Value::Null);
            prop_assert_eq!(is_connected(&aws), true);
            Ok(())
        })?;
    }

    #[test]
    fn concurrent_checks_notify_once(turns in proptest::collection::vec(2..=3_usize, 0..18)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let aws = account();
            deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
            let (one, other) = (aws.process(), aws.process());
            aws.serve_in_order(turns);
            deliver_together([(one, check(3)), (other, check(3))], NOW.plus(GRACE)).await;
            prop_assert_eq!(notified(&aws), ["away"]);
            prop_assert_eq!(&record(&aws)["owed"], &Value::Null);
            Ok(())
        })?;
    }
}

fn calls_to(aws: &FakeAws, operation: &str) -> usize {
    aws.state().calls_to(operation).len()
}

/// Sets what AWS IoT says about the device.
fn set_connection(aws: &FakeAws, is_connected: bool) {
    aws.state().connections.insert("greenhouse-1".to_owned(), is_connected);
}

#[tokio::test(start_paused = true)]
async fn connected_device_is_not_announced_though_its_return_was_lost() {
    let aws = account();
    let logs = Logs::capture();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    let recorded = record(&aws);
    set_connection(&aws, true);
    let now = NOW.plus(GRACE);
    for _ in 0..2 {
        let delivered = deliver(&aws.process(), &check(3), now).await;
        assert!(delivered.is_done() && delivered.count("StillConnected") == 1, "{delivered:?}");
    }
    assert_eq!((notified(&aws), record(&aws)), (Vec::new(), recorded));
    let log = &logs.with_message("not announced as offline")[0];
    assert_eq!((&log["level"], &log["thing"]), (&json!("WARN"), &json!("greenhouse-1")));

    // Its next absence is announced.
    set_connection(&aws, false);
    for event in [disconnected(7, now.plus(GRACE)), check(7)] {
        assert!(deliver(&aws.process(), &event, now.plus(GRACE)).await.is_done());
    }
    assert_eq!(notified(&aws), ["away"]);
}

#[tokio::test(start_paused = true)]
async fn late_return_follows_an_unannounced_absence() {
    let aws = account();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    set_connection(&aws, true);
    for event in [check(3), connected(4, NOW), check(3)] {
        assert!(deliver(&aws.process(), &event, NOW.plus(GRACE)).await.is_done());
    }
    assert_eq!((notified(&aws), is_connected(&aws)), (Vec::new(), json!(true)));
    assert_eq!(calls_to(&aws, "GetConnection"), 1, "the record says that it is back");
}

#[tokio::test(start_paused = true)]
async fn return_while_aws_iot_is_asked_is_not_announced_as_absence() {
    let aws = account();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    let (checking, returning) = (aws.process(), aws.process());
    // The check reads and asks AWS IoT; the return reads and writes; then the check writes.
    aws.serve_in_order([2, 2, 3, 3, 2]);
    deliver_together([(checking, check(3)), (returning, connected(4, NOW.plus(GRACE)))], NOW.plus(GRACE)).await;
    assert_eq!((notified(&aws), is_connected(&aws)), (Vec::new(), json!(true)));
    assert_eq!(calls_to(&aws, "GetConnection"), 1);
}

#[tokio::test(start_paused = true)]
async fn unanswered_question_delays_the_notification_and_does_not_lose_it() {
    for fault in [Fault::Throttled, Fault::Hangs, Fault::Error(500, "InternalFailureException")] {
        let aws = account();
        deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
        let process = aws.process().fail_each("GetConnection", fault);
        let delivered = deliver(&process, &check(3), NOW.plus(GRACE)).await;
        assert!(delivered.is_retried(), "{fault:?}: {delivered:?}");
        assert_eq!(notified(&aws), NOBODY, "{fault:?}");
        let delivered = deliver(&aws.process(), &check(3), NOW.plus(GRACE)).await;
        assert!(delivered.is_done() && notified(&aws) == ["away"], "{fault:?}: {delivered:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn denied_question_is_logged_and_the_record_decides() {
    let aws = account();
    let logs = Logs::capture();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    let process = aws.process().fail_each("GetConnection", Fault::Denied);
    assert!(deliver(&process, &check(3), NOW.plus(GRACE)).await.is_done());
    assert_eq!(notified(&aws), ["away"]);
    let log = &logs.with_message("announced without confirmation")[0];
    assert_eq!((&log["level"], &log["thing"]), (&json!("ERROR"), &json!("greenhouse-1")));
    assert!(log["why"].as_str().unwrap().contains("iot:GetConnection"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn aws_iot_is_asked_at_most_twice_a_second_and_only_if_it_matters() {
    let aws = account();
    for version in [3, 4] {
        deliver(&aws.process(), &disconnected(version, NOW), NOW).await;
    }
    assert_eq!(calls_to(&aws, "GetConnection"), 0);
    set_connection(&aws, true);
    let checks: Vec<_> = [3, 4, 4, 4, 5].into_iter().map(check).collect();
    deliver(&aws.process(), &sqs_batch(&checks), NOW.plus(GRACE)).await;
    let at: Vec<_> = aws.state().calls_to("GetConnection").iter().map(|call| call.at).collect();
    assert_eq!(at.len(), 3, "the other checks are of other connections");
    let pace = Duration::from_millis(500);
    assert!(at.windows(2).all(|pair| pair[1].since(pair[0]) >= pace), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_if_the_operator_does_not_want_it() {
    let aws = account();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    set_connection(&aws, true);
    let process = aws.process().env("CONFIRM_OFFLINE", "false");
    assert!(deliver(&process, &check(3), NOW.plus(GRACE)).await.is_done());
    assert_eq!((notified(&aws), calls_to(&aws, "GetConnection")), (vec!["away".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn batch_in_the_wrong_order_gives_the_right_record() {
    let aws = account();
    let mut events: Vec<_> = (0..5).flat_map(|version| [connected(version, NOW), disconnected(version, NOW)]).collect();
    events.rotate_left(3);
    events.swap(1, 8);
    let delivered = deliver(&aws.process(), &sqs_batch(&events), NOW).await;
    assert_eq!(delivered.response, Some(Ok(json!({"batchItemFailures": []}))));
    assert_eq!((is_connected(&aws), &record(&aws)["versionNumber"]["N"]), (json!(false), &json!("4")));
    assert_eq!(record(&aws)["ipAddress"]["S"], "192.0.2.1");
    assert!(sent_checks(&aws).contains(&(check(4), 300)));
}

#[tokio::test(start_paused = true)]
async fn only_the_failed_event_of_a_batch_is_retried() {
    let aws = account();
    // The read of one of the two devices' records.
    let process = aws.process().fail(1, Fault::Denied);
    let mut other = connected(1, NOW);
    for (at, value) in [("/payload/clientId", "other"), ("/thing", "other")] {
        *other.pointer_mut(at).unwrap() = value.into();
    }
    other["topic"] = "$aws/events/presence/connected/other".into();
    let events = [connected(1, NOW), other, json!({"check": "everything"})];
    let delivered = deliver(&process, &sqs_batch(&events), NOW).await;
    let failed = |thing: &str| record_of(&aws.state(), thing) == Value::Null;
    let (first, second) = (failed("greenhouse-1"), failed("other"));
    assert!(first != second);
    let id = if first { "m-0" } else { "m-1" };
    assert_eq!(delivered.response, Some(Ok(json!({"batchItemFailures": [{"itemIdentifier": id}]}))));
}

#[tokio::test(start_paused = true)]
async fn duplicate_client_id_counts_once_per_event_even_late() {
    let aws = account();
    deliver(&aws.process(), &connected(4, NOW), NOW).await;
    let delivered = deliver(&aws.process(), &ended(3, NOW, "DUPLICATE_CLIENTID"), NOW).await;
    assert_eq!(delivered.counts, BTreeMap::from([("DuplicateClientId", 1), ("OutOfOrder", 1)]));
    let delivered = deliver(&aws.process(), &ended(3, NOW, "DUPLICATE_CLIENTID"), NOW).await;
    assert_eq!(delivered.counts, BTreeMap::from([("OutOfOrder", 1)]));
    let delivered = deliver(&aws.process(), &ended(4, NOW, "DUPLICATE_CLIENTID"), NOW).await;
    assert_eq!(delivered.count("DuplicateClientId"), 1);
}

#[tokio::test(start_paused = true)]
async fn rejected_client_is_counted_without_changing_the_record() {
    for reason in ["AUTH_ERROR", "FORBIDDEN_ACCESS"] {
        let aws = account();
        deliver(&aws.process(), &connected(3, NOW), NOW).await;
        for (version, is_still_there) in [(4, true), (3, false)] {
            let later = NOW.plus(2 * GRACE);
            let delivered = deliver(&aws.process(), &ended(version, later, reason), later).await;
            assert!(delivered.is_done() && delivered.count("AuthorizationFailures") == 1, "{reason}");
            assert_eq!(is_connected(&aws), is_still_there);
        }
        assert_eq!(sent_checks(&aws), [(check(3), 300)]);
    }
    let aws = account();
    let mut failed = event("connect_failed", 0, NOW, &json!({"connectFailureReason": "AUTHORIZATION_FAILED"}));
    failed["payload"].as_object_mut().unwrap().remove("versionNumber");
    for times in [1, 0] {
        let delivered = deliver(&aws.process(), &failed, NOW).await;
        assert!(delivered.is_done() && delivered.count("AuthorizationFailures") == times);
    }
    assert_eq!(record(&aws), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn early_rejection_is_checked_once_its_connect_arrives() {
    let aws = account();
    deliver(&aws.process(), &ended(3, NOW, "FORBIDDEN_ACCESS"), NOW).await;
    assert_eq!((is_connected(&aws), sent_checks(&aws).len()), (Value::Null, 0));
    deliver(&aws.process(), &connected(3, NOW), NOW).await;
    assert_eq!((is_connected(&aws), &sent_checks(&aws)), (json!(false), &vec![(check(3), 300)]));
}

#[tokio::test(start_paused = true)]
async fn unknown_disconnect_reason_is_accepted() {
    let aws = account();
    let delivered = deliver(&aws.process(), &ended(3, NOW, "GONE_FISHING"), NOW).await;
    assert!(delivered.is_done() && delivered.counts.is_empty());
    assert_eq!(record(&aws)["disconnectReason"]["S"], "GONE_FISHING");
}

#[tokio::test(start_paused = true)]
async fn anything_else_is_refused() {
    let with = |at: &str, value: Value| {
        let mut event = connected(3, NOW);
        let (parent, name) = at.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap()[name] = value;
        event
    };
    let mut without_version = connected(3, NOW);
    without_version["payload"].as_object_mut().unwrap().remove("versionNumber");
    for (event, reason) in [
        (with("/payload/clientId", json!("another")), "topic-mismatch"),
        (with("/topic", json!("$aws/events/presence/disconnected/greenhouse-1")), "topic-mismatch"),
        (with("/payload/eventType", json!("subscribed")), "unknown-value"),
        (with("/payload/versionNumber", json!(-1)), "number-out-of-range"),
        (with("/payload/versionNumber", json!("3")), "wrong-type"),
        (with("/payload/sessionIdentifier", json!("")), "invalid-value"),
        (with("/payload/timestamp", json!(NOW.plus(Duration::from_millis(3_600_001)))), "invalid-value"),
        (with("/payload/more", json!("x".repeat(9000))), "payload-too-large"),
        (with("/thing", json!("green/house")), "bad-thing-name"),
        (without_version, "missing-field"),
        (json!({"check": "away", "thing": "a+b", "version": 1, "session": "s"}), "bad-thing-name"),
        (json!({"check": "runs-out"}), "unknown-value"),
        (json!({"check": "away", "thing": "a", "version": 1, "session": "s", "now": true}), "unknown-field"),
    ] {
        let delivered = deliver(&account().process(), &event, NOW).await;
        assert_eq!(delivered.refusal_code(), reason, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn grace_period_beyond_the_queues_limit_is_rejected_at_start() {
    let handler = |grace: &str| handler(&account().process().env("GRACE_SECONDS", grace));
    assert!(handler("0").is_ok() && handler("900").is_ok());
    for grace in ["901", "-1", "soon"] {
        let error = handler(grace).unwrap_err().to_string();
        assert!(error.starts_with("environment variable GRACE_SECONDS is "), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn zero_grace_period_sends_the_check_immediately() {
    let aws = account();
    deliver(&aws.process().env("GRACE_SECONDS", "0"), &disconnected(3, NOW), NOW).await;
    assert_eq!(sent_checks(&aws), [(check(3), 0)]);
}

#[tokio::test(start_paused = true)]
async fn sample_events_have_the_outcome_that_their_name_says() {
    let refused = BTreeMap::from([
        ("another-client", "topic-mismatch"),
        ("bad-thing-name", "bad-thing-name"),
        ("missing-field", "missing-field"),
        ("not-json", "not-json"),
        ("unknown-check", "unknown-value"),
        ("unknown-event-type", "unknown-value"),
        ("wrong-type", "wrong-type"),
    ]);
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/presence");
    let mut found = 0;
    for entry in fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let event: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let delivered = deliver(&account().process(), &event, NOW).await;
        match refused.get(name.as_str()) {
            Some(reason) => {
                assert_eq!(delivered.refusal_code(), *reason, "{name}");
                found += 1;
            }
            None if name == "sqs-batch" => {
                assert_eq!(delivered.response, Some(Ok(json!({"batchItemFailures": []}))));
            }
            None => assert!(delivered.is_done(), "{name}: {delivered:?}"),
        }
    }
    assert_eq!(found, refused.len());
}
