//! The whole function but for the Lambda runtime, against a small AWS: lifecycle events and checks go in, and whatever
//! happens in between, the record is right and each absence is told once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod aws;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use aws::{Aws, Delivered, FAULTS, Fault, Process, VISIBILITY};
use gatehouse::{Idempotency, InitError, Concurrent, Queue, Records, Timestamp, Topic};
use presence::Handler;
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_763_715_600_000);
const GRACE: Duration = Duration::from_mins(5);

fn handler(process: &Process) -> Result<Concurrent<Handler>, InitError> {
    let (environment, dynamodb) = (process.environment(), client!(aws_sdk_dynamodb, process));
    let handler = Handler::from(
        &environment,
        Records::new(dynamodb.clone(), "devices"),
        Queue::from(&environment, client!(aws_sdk_sqs, process))?,
        Topic::from(&environment, client!(aws_sdk_sns, process))?,
        Idempotency::from(&environment, dynamodb, "presence")?,
    )?;
    Ok(Concurrent(handler, NonZeroUsize::new(10).unwrap()))
}

/// Hands an event to a process, by this clock.
async fn deliver(process: &Process, event: &Value, now: Timestamp) -> Delivered {
    process.deliver(handler(process).unwrap(), event, now).await
}

/// Hands an event to this process, and as long as it comes back, to others, as the queue does: the last answer, and
/// when.
async fn deliver_until_done(mut process: Process, event: &Value, mut now: Timestamp) -> (Delivered, Timestamp) {
    for _ in 0..5 {
        let delivered = deliver(&process, event, now).await;
        if !delivered.is_handed_back() {
            return (delivered, now);
        }
        now = now.plus(VISIBILITY);
        process = process.aws.process();
    }
    panic!("the event came back five times");
}

/// Hands one event each to two processes at the same moment, and what comes back to others, once the queue lets it.
async fn deliver_together([one, other]: [(Process, Value); 2], now: Timestamp) {
    let aws = one.0.aws.clone();
    let delivered = tokio::join!(deliver(&one.0, &one.1, now), deliver(&other.0, &other.1, now));
    for (delivered, (_, event)) in [(delivered.0, one), (delivered.1, other)] {
        if delivered.is_handed_back() {
            deliver_until_done(aws.process(), &event, now.plus(VISIBILITY)).await;
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

fn record(aws: &Aws) -> Value {
    aws.state().record("thing#greenhouse-1", "presence")
}

fn is_connected(aws: &Aws) -> Value {
    record(aws)["connected"]["BOOL"].clone()
}

/// The subjects of what was told, in order.
fn told(aws: &Aws) -> Vec<String> {
    aws.state().published.iter().map(|form| form["Subject"].replace("greenhouse-1 is ", "")).collect()
}

const NOBODY: [&str; 0] = [];

#[tokio::test(start_paused = true)]
async fn a_connection_and_its_end_are_recorded_and_a_check_is_sent_for_after_the_grace_period() {
    let aws = Aws::default();
    assert!(deliver(&aws.process(), &connected(3, NOW), NOW).await.is_done());
    let connection = json!({
        "connected": {"BOOL": true}, "since": {"N": NOW.to_string()}, "versionNumber": {"N": "3"},
        "sessionIdentifier": {"S": "session-3"}, "ipAddress": {"S": "192.0.2.1"},
    });
    assert_eq!(record(&aws), connection);
    assert!(aws.state().sent.is_empty());

    let later = NOW.plus(GRACE);
    assert!(deliver(&aws.process(), &disconnected(3, later), later).await.is_done());
    let end = json!({
        "connected": {"BOOL": false}, "since": {"N": later.to_string()}, "versionNumber": {"N": "3"},
        "sessionIdentifier": {"S": "session-3"}, "ipAddress": {"S": "192.0.2.1"},
        "disconnectReason": {"S": "CONNECTION_LOST"},
    });
    assert_eq!(record(&aws), end);
    assert_eq!(aws.state().sent, [(check(3), 300)]);
    assert_eq!(told(&aws), NOBODY);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_stays_away_is_told_once_however_often_it_is_checked() {
    let aws = Aws::default();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    let now = NOW.plus(GRACE);
    let delivered = deliver(&aws.process(), &check(3), now).await;
    assert!(delivered.is_done() && delivered.count("Told") == 1);
    let delivered = deliver(&aws.process(), &check(3), now).await;
    assert!(delivered.is_done() && delivered.count("Told") == 0);
    assert_eq!(told(&aws), ["away"]);
    assert_eq!((&record(&aws)["awaySince"]["N"], &record(&aws)["owed"]), (&json!(NOW.to_string()), &Value::Null));

    let form = aws.state().published[0].clone();
    let message: Value = serde_json::from_str(&form["Message"]).unwrap();
    let data: Value = serde_json::from_str(message["sqs"].as_str().unwrap()).unwrap();
    assert_eq!((&data["thing"], &data["presence"]), (&json!("greenhouse-1"), &json!("away")));
}

#[tokio::test(start_paused = true)]
async fn a_return_within_the_grace_period_is_told_to_nobody() {
    let aws = Aws::default();
    for event in [disconnected(3, NOW), connected(4, NOW.plus(GRACE)), check(3)] {
        assert!(deliver(&aws.process(), &event, NOW.plus(GRACE)).await.is_done());
    }
    assert_eq!(told(&aws), NOBODY);
    assert_eq!(is_connected(&aws), true);
}

#[tokio::test(start_paused = true)]
async fn a_return_from_what_was_told_is_told_too_and_the_next_absence_again() {
    let aws = Aws::default();
    let mut now = NOW;
    for version in 0..2 {
        for event in [disconnected(2 * version, now), check(2 * version), connected(2 * version + 1, now.plus(GRACE))] {
            assert!(deliver(&aws.process(), &event, now.plus(GRACE)).await.is_done());
        }
        now = now.plus(2 * GRACE);
    }
    assert_eq!(told(&aws), ["away", "back", "away", "back"]);
    assert_eq!(record(&aws)["awaySince"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn the_check_of_an_earlier_disconnect_tells_nobody_of_a_later_one() {
    let aws = Aws::default();
    for event in [disconnected(3, NOW), connected(4, NOW), disconnected(4, NOW), check(3)] {
        assert!(deliver(&aws.process(), &event, NOW).await.is_done());
    }
    assert_eq!(told(&aws), NOBODY);
    let checks: Vec<_> = aws.state().sent.iter().map(|(check, _)| check["version"].clone()).collect();
    assert_eq!(checks, [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn late_and_repeated_events_change_nothing_and_are_counted() {
    let aws = Aws::default();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    deliver(&aws.process(), &connected(4, NOW), NOW).await;
    let held = record(&aws);
    assert_eq!(deliver(&aws.process(), &connected(4, NOW), NOW).await.count("Repeated"), 1);
    assert_eq!(deliver(&aws.process(), &disconnected(3, NOW), NOW).await.count("Late"), 1);
    assert_eq!(deliver(&aws.process(), &connected(3, NOW), NOW).await.count("Late"), 1);
    assert_eq!(record(&aws), held);
    assert_eq!(aws.state().sent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_that_comes_before_its_connect_stands_and_learns_the_address_from_it() {
    let aws = Aws::default();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    assert!(deliver(&aws.process(), &connected(3, NOW), NOW).await.is_done());
    assert_eq!(is_connected(&aws), false);
    assert_eq!(record(&aws)["ipAddress"]["S"], "192.0.2.1");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_between_the_record_and_the_check_leaves_the_check_to_the_next() {
    let aws = Aws::default();
    let process = aws.process().fail(3, Fault::DiesBefore);
    assert_eq!(deliver(&process, &disconnected(3, NOW), NOW).await.answer, None);
    assert_eq!((is_connected(&aws), aws.state().sent.len()), (json!(false), 0));
    let delivered = deliver(&aws.process(), &disconnected(3, NOW), NOW.plus(VISIBILITY)).await;
    assert!(delivered.is_done() && delivered.count("Repeated") == 1);
    assert_eq!(aws.state().sent, [(check(3), 300)]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_between_the_record_and_the_topic_leaves_the_notice_to_whatever_comes_next() {
    let aws = Aws::default();
    deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
    // Read, written, and then the claim.
    let process = aws.process().fail(3, Fault::DiesBefore);
    assert_eq!(deliver(&process, &check(3), NOW).await.answer, None);
    assert_eq!(told(&aws), NOBODY);
    assert!(deliver(&aws.process(), &connected(4, NOW), NOW.plus(VISIBILITY)).await.is_done());
    assert_eq!(told(&aws), ["away", "back"]);
    assert!(deliver(&aws.process(), &check(3), NOW.plus(VISIBILITY)).await.is_done());
    assert_eq!(told(&aws), ["away", "back"]);
}

/// Whatever goes wrong once, at whichever call: all ends as if nothing had.
#[tokio::test(start_paused = true)]
async fn any_one_fault_at_any_call_changes_nothing_in_the_end() {
    let journey = [
        connected(3, NOW),
        ended(3, NOW.plus(GRACE), "DUPLICATE_CLIENTID"),
        check(3),
        connected(4, NOW.plus(3 * GRACE)),
    ];
    let whole = Aws::default();
    let mut calls = Vec::new();
    for event in &journey {
        let process = whole.process();
        assert!(deliver(&process, event, NOW).await.is_done());
        calls.push(process.calls());
    }
    assert_eq!(told(&whole), ["away", "back"]);
    assert_eq!(calls, [2, 5, 6, 6]);

    for (broken, calls) in calls.into_iter().enumerate() {
        for (invocation, fault) in (1..=calls).flat_map(|invocation| FAULTS.map(|fault| (invocation, fault))) {
            let (aws, mut now) = (Aws::default(), NOW);
            let mut calls = Vec::new();
            for (index, event) in journey.iter().enumerate() {
                let process = aws.process();
                let number = process.number;
                let process = if index == broken { process.fail(invocation, fault) } else { process };
                let (delivered, at) = deliver_until_done(process, event, now).await;
                now = at;
                assert!(delivered.is_done(), "{event} with {fault:?} at call {call}: {delivered:?}");
                if index == broken {
                    calls.extend(aws.state().calls_of(number).into_iter().take(invocation).map(str::to_owned));
                }
            }
            let case = format!("{fault:?} at call {call} of {}: {calls:?}", journey[broken]);
            assert_eq!(record(&aws), record(&whole), "{case}");
            let checks: Vec<_> = aws.state().sent.iter().map(|(check, _)| check.clone()).collect();
            assert!(!checks.is_empty() && checks.iter().all(|sent| *sent == check(3)), "{case}: {checks:?}");
            let mut told = told(&aws);
            // SNS has no idempotency of its own: twice only where it took the message and that could not be noted.
            let is_unheard = matches!(fault, Fault::DiesBefore | Fault::DiesAfter | Fault::Lost);
            if is_unheard && calls.last().is_some_and(|last| last == "Publish") {
                assert_eq!(told.len(), 3, "{case}");
                told.dedup();
            }
            assert_eq!(told, ["away", "back"], "{case}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_check_and_a_return_at_the_same_moment_tell_nobody_or_both_in_order(
        turns in proptest::collection::vec(2..=3_usize, 0..16),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let aws = Aws::default();
            deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
            let (one, other) = (aws.process(), aws.process());
            aws.serve_in_order(turns);
            deliver_together([(one, check(3)), (other, connected(4, NOW.plus(GRACE)))], NOW.plus(GRACE)).await;
            let told = told(&aws);
            prop_assert!(told.is_empty() || told == ["away", "back"], "{told:?}");
            prop_assert_eq!(&record(&aws)["owed"], &Value::Null);
            prop_assert_eq!(is_connected(&aws), true);
            Ok(())
        })?;
    }

    #[test]
    fn two_checks_at_the_same_moment_tell_it_once(turns in proptest::collection::vec(2..=3_usize, 0..16)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let aws = Aws::default();
            deliver(&aws.process(), &disconnected(3, NOW), NOW).await;
            let (one, other) = (aws.process(), aws.process());
            aws.serve_in_order(turns);
            deliver_together([(one, check(3)), (other, check(3))], NOW.plus(GRACE)).await;
            prop_assert_eq!(told(&aws), ["away"]);
            prop_assert_eq!(&record(&aws)["owed"], &Value::Null);
            Ok(())
        })?;
    }
}

fn batch(events: &[Value]) -> Value {
    let record = |(index, event): (usize, &Value)| {
        let (id, body) = (format!("m-{index}"), event.to_string());
        json!({"eventSource": "aws:sqs", "messageId": id, "body": body, "attributes": {}})
    };
    json!({"Records": events.iter().enumerate().map(record).collect::<Vec<_>>()})
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_one_device_in_the_wrong_order_ends_as_the_true_order_does() {
    let aws = Aws::default();
    let mut events: Vec<_> = (0..5).flat_map(|version| [connected(version, NOW), disconnected(version, NOW)]).collect();
    events.rotate_left(3);
    events.swap(1, 8);
    let delivered = deliver(&aws.process(), &batch(&events), NOW).await;
    assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": []}))));
    assert_eq!((is_connected(&aws), &record(&aws)["versionNumber"]["N"]), (json!(false), &json!("4")));
    assert_eq!(record(&aws)["ipAddress"]["S"], "192.0.2.1");
    assert!(aws.state().sent.contains(&(check(4), 300)));
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_of_a_batch_comes_again() {
    let aws = Aws::default();
    // The read of one of the two.
    let process = aws.process().fail(1, Fault::Denied);
    let mut other = connected(1, NOW);
    for (at, value) in [("/payload/clientId", "other"), ("/thing", "other")] {
        *other.pointer_mut(at).unwrap() = value.into();
    }
    other["topic"] = "$aws/events/presence/connected/other".into();
    let events = [connected(1, NOW), other, json!({"check": "everything"})];
    let delivered = deliver(&process, &batch(&events), NOW).await;
    let failed = |thing: &str| aws.state().record(thing, "presence") == Value::Null;
    let (first, second) = (failed("thing#greenhouse-1"), failed("thing#other"));
    assert!(first != second);
    let id = if first { "m-0" } else { "m-1" };
    assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": [{"itemIdentifier": id}]}))));
}

#[tokio::test(start_paused = true)]
async fn two_devices_with_one_client_id_are_counted_once_for_each_meeting_also_when_it_comes_late() {
    let aws = Aws::default();
    deliver(&aws.process(), &connected(4, NOW), NOW).await;
    let delivered = deliver(&aws.process(), &ended(3, NOW, "DUPLICATE_CLIENTID"), NOW).await;
    assert_eq!(delivered.counted, BTreeMap::from([("DuplicateClientId", 1), ("Late", 1)]));
    let delivered = deliver(&aws.process(), &ended(3, NOW, "DUPLICATE_CLIENTID"), NOW).await;
    assert_eq!(delivered.counted, BTreeMap::from([("Late", 1)]));
    let delivered = deliver(&aws.process(), &ended(4, NOW, "DUPLICATE_CLIENTID"), NOW).await;
    assert_eq!(delivered.count("DuplicateClientId"), 1);
}

#[tokio::test(start_paused = true)]
async fn authorisation_failures_are_counted_and_one_at_the_door_leaves_the_record_alone() {
    for reason in ["AUTH_ERROR", "FORBIDDEN_ACCESS"] {
        let aws = Aws::default();
        deliver(&aws.process(), &connected(3, NOW), NOW).await;
        for (version, is_still_there) in [(4, true), (3, false)] {
            let later = NOW.plus(2 * GRACE);
            let delivered = deliver(&aws.process(), &ended(version, later, reason), later).await;
            assert!(delivered.is_done() && delivered.count("AuthorisationFailures") == 1, "{reason}");
            assert_eq!(is_connected(&aws), is_still_there);
        }
        assert_eq!(aws.state().sent, [(check(3), 300)]);
    }
    let aws = Aws::default();
    let mut failed = event("connect_failed", 0, NOW, &json!({"connectFailureReason": "AUTHORIZATION_FAILED"}));
    failed["payload"].as_object_mut().unwrap().remove("versionNumber");
    for times in [1, 0] {
        let delivered = deliver(&aws.process(), &failed, NOW).await;
        assert!(delivered.is_done() && delivered.count("AuthorisationFailures") == times);
    }
    assert_eq!(record(&aws), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_overtakes_its_own_connect_is_checked_once_that_has_come() {
    let aws = Aws::default();
    deliver(&aws.process(), &ended(3, NOW, "FORBIDDEN_ACCESS"), NOW).await;
    assert_eq!((is_connected(&aws), aws.state().sent.len()), (Value::Null, 0));
    deliver(&aws.process(), &connected(3, NOW), NOW).await;
    assert_eq!((is_connected(&aws), &aws.state().sent), (json!(false), &vec![(check(3), 300)]));
}

#[tokio::test(start_paused = true)]
async fn a_reason_that_is_not_known_is_taken() {
    let aws = Aws::default();
    let delivered = deliver(&aws.process(), &ended(3, NOW, "GONE_FISHING"), NOW).await;
    assert!(delivered.is_done() && delivered.counted.is_empty());
    assert_eq!(record(&aws)["disconnectReason"]["S"], "GONE_FISHING");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_lifecycle_event_or_check_is_refused() {
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
        (with("/payload/versionNumber", json!(-1)), "invalid-value"),
        (with("/payload/versionNumber", json!("3")), "wrong-type"),
        (with("/payload/sessionIdentifier", json!("")), "invalid-value"),
        (with("/payload/more", json!("x".repeat(9000))), "payload-too-large"),
        (with("/thing", json!("green/house")), "bad-thing-name"),
        (without_version, "missing-field"),
        (json!({"check": "away", "thing": "a+b", "version": 1, "session": "s"}), "bad-thing-name"),
        (json!({"check": "runs-out"}), "unknown-value"),
        (json!({"check": "away", "thing": "a", "version": 1, "session": "s", "now": true}), "unknown-field"),
    ] {
        let delivered = deliver(&Aws::default().process(), &event, NOW).await;
        assert_eq!(delivered.quarantined(), reason, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_that_the_queue_cannot_wait_for_is_refused_at_the_start() {
    let handler = |grace: &str| handler(&Aws::default().process().with("GRACE_SECONDS", grace));
    assert!(handler("0").is_ok() && handler("900").is_ok());
    for grace in ["901", "-1", "soon"] {
        let error = handler(grace).unwrap_err().to_string();
        assert!(error.starts_with("environment variable GRACE_SECONDS is "), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_period_the_check_comes_at_once() {
    let aws = Aws::default();
    deliver(&aws.process().with("GRACE_SECONDS", "0"), &disconnected(3, NOW), NOW).await;
    assert_eq!(aws.state().sent, [(check(3), 0)]);
}

#[tokio::test(start_paused = true)]
async fn every_sample_event_is_taken_as_its_name_says() {
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
        let delivered = deliver(&Aws::default().process(), &event, NOW).await;
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
