//! The process may die between any two calls, and any call may fail.

use std::time::Duration;

use serde_json::json;
use test_support::{FAULTS, Fault, sqs_batch};

use crate::setup::*;

#[tokio::test(start_paused = true)]
async fn failed_publish_retries_its_own_event_only() {
    let aws = account(json!([too_bright(0)])).await;
    let events = [reading("e-1", 0, 150), event("e-2", "greenhouse-2", 0, json!({"lux": 50}))];
    let process = aws.process().fail_each("Publish", Fault::Throttled);
    let delivered = deliver_to(&process, &sqs_batch(&events), at(0)).await;
    assert_eq!(delivered.retried_messages(), Some(vec!["m-0"]));
    assert_eq!(transitions(&aws), []);
    assert_eq!(deliver(&aws, &events[..1], 360_000).await.retried_messages(), Some(vec![]));
    assert_eq!(transitions(&aws), [to("ALARM", 0)]);
    assert_eq!(aws.state().published.len(), 1);
    assert!(!has_pending(&aws.state()));
}

#[tokio::test(start_paused = true)]
async fn failed_write_retries_all_events_of_the_thing_only() {
    let aws = account(json!([too_bright(0)])).await;
    let events = [
        event("e-0", "tank-1", 0, json!({"lux": 50})),
        reading("e-1", 0, 150),
        event("e-2", "greenhouse-1", 1, json!(7)),
    ];
    let process = aws.process().fail_each("PutItem thing", Fault::Denied);
    let delivered = deliver_to(&process, &sqs_batch(&events), at(0)).await;
    assert_eq!(delivered.retried_messages(), Some(vec!["m-1", "m-2"]));
    assert_eq!(aws.state().published, []);
    assert_eq!(deliver(&aws, &events[1..], 360_000).await.retried_messages(), Some(vec![]));
    assert_eq!(transitions(&aws), [to("ALARM", 0)]);
}

#[tokio::test(start_paused = true)]
async fn any_failed_call_delays_the_alarm_but_does_not_lose_it() {
    let calls = {
        let aws = account(json!([too_bright(60)])).await;
        let process = aws.process();
        deliver_to(&process, &sqs_batch(raising()), at(MINUTE)).await;
        process.call_count()
    };
    assert_eq!(calls, 10);
    for fault in FAULTS {
        for call in 1..=calls {
            let aws = account(json!([too_bright(60)])).await;
            let mut now = at(MINUTE);
            let mut delivered = deliver_to(&aws.process().fail(call, fault), &sqs_batch(raising()), now).await;
            while delivered.retried_messages().is_none_or(|left| !left.is_empty()) {
                now = now.plus(VISIBILITY_TIMEOUT);
                assert!(now < at(60 * MINUTE), "call {call} {fault:?} is retried forever");
                delivered = deliver_to(&aws.process(), &sqs_batch(raising()), now).await;
            }
            for minute in 1..3 {
                let now = now.plus(Duration::from_mins(minute));
                assert!(deliver_to(&aws.process(), &check_command(), now).await.is_done());
            }
            let state = aws.state();
            let name = format!("call {call} {fault:?}: {:?}", state.call_counts());
            assert_eq!(transitions_of(&state, "greenhouse-1"), [to("ALARM", MINUTE)], "{name}");
            assert!(!has_pending(&state), "{name}");
            assert_eq!(attribute(&state, "state").as_deref(), Some("ALARM"), "{name}");
            let is_twice = state.published.len() == 2;
            // Only if the process dies, or the response is lost, after SNS has accepted the message and before it is
            // marked.
            let may_be_twice = (call, fault) == (8, Fault::DiesAfter)
                || (call, fault) == (8, Fault::Lost)
                || (call, fault) == (9, Fault::DiesBefore);
            assert_eq!(is_twice, may_be_twice, "{name}");
            assert!(state.published.len() <= 2, "{name}");
            assert!(state.published.iter().all(is_for_people), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn schedule_sends_what_a_crash_left_pending() {
    let aws = account(json!([too_bright(60)])).await;
    // The sixth call claims the notification, after the state was written.
    deliver_to(&aws.process().fail(6, Fault::DiesBefore), &sqs_batch(raising()), at(MINUTE)).await;
    assert_eq!((transitions(&aws), has_pending(&aws.state())), (vec![], true));
    check(&aws, 2 * MINUTE).await;
    assert_eq!(transitions(&aws), [], "the invocation that stored it may still be running");
    check(&aws, 3 * MINUTE).await;
    assert_eq!((transitions(&aws), has_pending(&aws.state())), (vec![to("ALARM", MINUTE)], false));
}

#[tokio::test(start_paused = true)]
async fn notification_is_left_to_the_invocation_that_sends_it() {
    let aws = account(json!([too_bright(60)])).await;
    // The process dies with the claim, which expires at the invocation's deadline.
    deliver_to(&aws.process().fail(8, Fault::DiesBefore), &sqs_batch(raising()), at(MINUTE)).await;
    let delivered = deliver(&aws, &[reading("e-3", MINUTE + 1, 150)], MINUTE + 1).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    assert_eq!(transitions(&aws), []);
    check(&aws, 4 * MINUTE).await;
    assert_eq!((transitions(&aws), has_pending(&aws.state())), (vec![to("ALARM", MINUTE)], false));
}

#[tokio::test(start_paused = true)]
async fn later_transition_waits_for_one_that_is_being_sent() {
    let aws = account(json!([too_bright(0)])).await;
    // The process dies with the claim of the first notification.
    deliver_to(&aws.process().fail(8, Fault::DiesBefore), &sqs_batch([reading("e-1", 0, 150)]), at(0)).await;
    deliver(&aws, &[reading("e-2", 1, 50)], 1).await;
    assert_eq!(transitions(&aws), [], "subscribers receive transitions in order");
    check(&aws, 3 * MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 0), to("OK", 1)]);
    assert!(!has_pending(&aws.state()));
}
