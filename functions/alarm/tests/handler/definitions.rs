//! Documents that change a threshold's definition, or remove the threshold.

use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{FAULTS, FakeAws, Published, sqs_batch};
use tokio::runtime::Builder;

use crate::setup::*;

/// The threshold on another field, with other limits.
fn redefined() -> Value {
    let mut threshold = too_bright(0);
    threshold["field"] = "/w".into();
    threshold["raise"]["above"] = 100.into();
    threshold["clear"]["below"] = 40.into();
    threshold
}

fn both(id: &str, millis: u64, lux: u64, w: u64) -> Value {
    event(id, "greenhouse-1", millis, json!({"lux": lux, "w": w}))
}

async fn put_at(aws: &FakeAws, thresholds: Value, millis: u64) {
    assert!(deliver_to(&aws.process(), &json!({"thresholds": thresholds}), at(millis)).await.is_done());
}

/// An account in which greenhouse-1 is in alarm.
async fn alarmed() -> FakeAws {
    let aws = account(json!([too_bright(0)])).await;
    deliver(&aws, &[both("e-1", 1000, 150, 50)], 1000).await;
    assert_eq!(transitions(&aws), [to("ALARM", 1000)]);
    aws
}

#[tokio::test(start_paused = true)]
async fn changed_definition_closes_the_alarm_and_starts_a_new_state() {
    let aws = alarmed().await;
    put_at(&aws, json!([redefined()]), 2000).await;
    let delivered = deliver(&aws, &[both("e-2", 3000, 1, 50)], 3000).await;
    assert_eq!(delivered.count("Closed"), 1);
    deliver(&aws, &[both("e-3", 4000, 1, 150)], 4000).await;
    assert_eq!(transitions(&aws), [to("ALARM", 1000), to("CLOSED", 1000), to("ALARM", 4000)]);
    let state = aws.state();
    let closing = &state.published[1];
    let text = "too-bright closed: its definition was changed; greenhouse-1 was in alarm (last value 150)";
    assert_eq!((closing.subject.as_str(), closing.text().as_str()), ("CLOSED too-bright: greenhouse-1", text));
    let id = format!("greenhouse-1#too-bright#{}#CLOSED#2", START + 1000);
    assert_eq!(
        closing.data(),
        json!({"transition": id, "threshold": "too-bright", "thing": "greenhouse-1", "from": "ALARM", "to": "CLOSED",
               "field": "/lux", "value": 150, "at": START + 1000, "since": START + 1000, "words": text,
               "rule": "too-bright", "ruleVersion": 2, "kind": "transition", "severity": "major", "state": "NORMAL",
               "previousState": "ACTIVE"})
    );
    assert_eq!(closing.attributes["to"], "CLOSED");
    assert_eq!(state.published[2].data()["field"], "/w");
}

#[tokio::test(start_paused = true)]
async fn each_part_of_a_definition_counts() {
    for (part, value) in [
        ("/field", json!("/w")),
        ("/raise/above", json!(101)),
        ("/clear/below", json!(99)),
        ("/raise", json!({"below": 10, "for": "0 s"})),
    ] {
        let aws = alarmed().await;
        let mut threshold = too_bright(0);
        *threshold.pointer_mut(part).unwrap() = value;
        if part == "/raise" {
            threshold["clear"] = json!({"above": 1000, "for": "0 s"});
        }
        put_at(&aws, json!([threshold]), 2000).await;
        deliver(&aws, &[both("e-2", 3000, 100, 50)], 3000).await;
        assert_eq!(transitions(&aws), [to("ALARM", 1000), to("CLOSED", 1000)], "{part}");
    }
}

#[tokio::test(start_paused = true)]
async fn ok_state_starts_anew_without_a_notification() {
    let aws = account(json!([too_bright(60)])).await;
    deliver(&aws, &[both("e-1", 0, 150, 150)], 0).await;
    let mut other = too_bright(60);
    other["field"] = "/w".into();
    put_at(&aws, json!([other]), 1000).await;
    deliver(&aws, &[both("e-2", MINUTE, 0, 150)], MINUTE).await;
    assert_eq!(transitions(&aws), [], "the condition of the other field does not count");
    deliver(&aws, &[both("e-3", 2 * MINUTE, 0, 150)], 2 * MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 2 * MINUTE)]);
}

#[tokio::test(start_paused = true)]
async fn removed_threshold_closes_its_alarm_within_minutes() {
    let mut elsewhere = too_bright(0);
    elsewhere["things"] = "tank-*".into();
    for thresholds in [json!([]), json!([elsewhere])] {
        let aws = alarmed().await;
        put_at(&aws, thresholds, 2000).await;
        let mut minute = 1;
        while !aws.state().published.iter().any(|published| published.attributes["to"] == "CLOSED") {
            assert!(minute <= 12, "it is still open");
            assert!(check(&aws, minute * MINUTE).await.is_done());
            minute += 1;
        }
        let text = "too-bright closed: its definition was removed, or no longer matches greenhouse-1; \
                    greenhouse-1 was in alarm (last value 150)";
        assert_eq!(aws.state().published.last().map(Published::text).as_deref(), Some(text));
        check(&aws, 60 * MINUTE).await;
        assert_eq!(transitions(&aws), [to("ALARM", 1000), to("CLOSED", 1000)]);
        assert_eq!((due(&aws), has_pending(&aws.state())), (vec![], false));
    }
}

#[tokio::test(start_paused = true)]
async fn threshold_that_comes_back_starts_anew_after_it_was_closed() {
    let aws = alarmed().await;
    put_at(&aws, json!([]), 2000).await;
    check(&aws, 20 * MINUTE).await;
    put_at(&aws, json!([too_bright(0)]), 21 * MINUTE).await;
    // The event that raised the alarm is delivered again, then a new one.
    deliver(&aws, &[both("e-1", 1000, 150, 50)], 22 * MINUTE).await;
    assert_eq!(transitions(&aws).len(), 2);
    deliver(&aws, &[both("e-2", 23 * MINUTE, 150, 50)], 23 * MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 1000), to("CLOSED", 1000), to("ALARM", 23 * MINUTE)]);
}

#[tokio::test(start_paused = true)]
async fn threshold_that_is_back_before_the_check_keeps_its_state() {
    let aws = alarmed().await;
    put_at(&aws, json!([]), 2000).await;
    put_at(&aws, json!([too_bright(0)]), 3000).await;
    check(&aws, 20 * MINUTE).await;
    deliver(&aws, &[both("e-2", 21 * MINUTE, 50, 50)], 21 * MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 1000), to("OK", 21 * MINUTE)]);
}

#[tokio::test(start_paused = true)]
async fn stale_state_is_closed_too() {
    let aws = alarmed().await;
    check(&aws, 62 * MINUTE).await;
    put_at(&aws, json!([redefined()]), 63 * MINUTE).await;
    check(&aws, 80 * MINUTE).await;
    let stale_at = 60 * MINUTE + 1000;
    assert_eq!(transitions(&aws), [to("ALARM", 1000), to("STALE", stale_at), to("CLOSED", stale_at)]);
    assert!(aws.state().published[2].text().ends_with("was in alarm and sent no data (last value 150)"));
}

#[tokio::test(start_paused = true)]
async fn record_from_before_definitions_keeps_its_state() {
    let aws = alarmed().await;
    for item in aws.state().tables.values_mut() {
        item.remove("definition");
        item.remove("definedAt");
    }
    deliver(&aws, &[both("e-2", 2000, 50, 50)], 2000).await;
    assert_eq!(transitions(&aws), [to("ALARM", 1000), to("OK", 2000)]);
    assert!(attribute(&aws.state(), "definition").is_some());
}

#[tokio::test(start_paused = true)]
async fn earlier_document_does_not_undo_a_later_definition() {
    let aws = alarmed().await;
    put_at(&aws, json!([redefined()]), 2000).await;
    deliver(&aws, &[both("e-2", 3000, 1, 150)], 3000).await;
    let before = record(&aws);
    // An invocation that read the earlier document is delayed until now.
    let document = json!({"thresholds": [too_bright(0)]}).to_string();
    let earlier = json!({"document": {"S": document}, "givenAt": {"N": START.to_string()}, "version": {"N": "1"}});
    aws.state().set_attributes("alarms", &["document#thresholds", "current"], &earlier);
    let delivered = deliver(&aws, &[both("e-3", 4000, 50, 50)], 4000).await;
    assert_eq!(delivered.retried_messages(), Some(vec!["m-0"]));
    assert!(check(&aws, 60 * MINUTE).await.is_done());
    assert_eq!(record(&aws), before);
}

#[tokio::test(start_paused = true)]
async fn any_failed_call_closes_the_alarm_once() {
    let second = || sqs_batch([both("e-2", 3000, 1, 150)]);
    let calls = {
        let aws = alarmed().await;
        put_at(&aws, json!([redefined()]), 2000).await;
        let process = aws.process();
        deliver_to(&process, &second(), at(3000)).await;
        process.call_count()
    };
    for fault in FAULTS {
        for call in 1..=calls {
            let aws = alarmed().await;
            put_at(&aws, json!([redefined()]), 2000).await;
            let mut now = at(3000);
            let mut delivered = deliver_to(&aws.process().fail(call, fault), &second(), now).await;
            while delivered.retried_messages().is_none_or(|left| !left.is_empty()) {
                now = now.plus(VISIBILITY_TIMEOUT);
                assert!(now < at(100 * MINUTE), "call {call} {fault:?} is retried forever");
                delivered = deliver_to(&aws.process(), &second(), now).await;
            }
            check(&aws, 110 * MINUTE).await;
            let name = format!("call {call} {fault:?}");
            let expected = [to("ALARM", 1000), to("CLOSED", 1000), to("ALARM", 3000)];
            assert_eq!(transitions(&aws)[..3], expected, "{name}");
            assert!(!has_pending(&aws.state()), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// The same transitions are published under the same ids, whether a reading or the schedule notices the change
    /// first, and however often events are repeated.
    #[test]
    fn whoever_notices_the_change_publishes_the_same(
        checks in prop::collection::vec(0_u64..30, 0..4),
        repeats in prop::collection::vec(0_usize..2, 0..3),
        w in prop::sample::select(vec![50_u64, 150]),
    ) {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            let aws = alarmed().await;
            put_at(&aws, json!([redefined()]), 2000).await;
            let mut checks = checks;
            checks.sort_unstable();
            for minute in checks {
                check(&aws, minute * MINUTE + 3000).await;
            }
            let readings = [both("e-1", 1000, 150, 50), both("e-2", 40 * MINUTE, 1, w)];
            deliver(&aws, &readings[1..], 40 * MINUTE).await;
            for which in repeats {
                deliver(&aws, &readings[which..=which], 41 * MINUTE).await;
            }
            let mut expected = vec![to("ALARM", 1000), to("CLOSED", 1000)];
            if w > 100 {
                expected.push(to("ALARM", 40 * MINUTE));
            }
            assert_eq!(transitions(&aws), expected);
            assert_eq!(aws.state().published.len(), expected.len());
            let closing = format!("greenhouse-1#too-bright#{}#CLOSED#2", START + 1000);
            assert_eq!(aws.state().published[1].attributes["eventId"], closing);
        });
    }
}
