//! The rate limit of notifications to people, and its summaries.

use serde_json::json;
use test_support::{Fault, Published, State, sqs_batch};

use crate::setup::*;

fn summaries(state: &State) -> Vec<String> {
    let summaries = state.published.iter().filter(|published| published.data()["summary"].is_string());
    summaries.map(Published::text).collect()
}

#[tokio::test(start_paused = true)]
async fn storm_sends_twenty_messages_and_a_summary_to_people() {
    let aws = account(json!([too_bright(0)])).await;
    let delivered = deliver(&aws, &storm(300, 0, 150), 0).await;
    assert_eq!((delivered.count("Raised"), delivered.count("RateLimited")), (300, 280));
    assert_eq!((people(&aws), aws.state().published.len()), (20, 300));
    // Alarms that clear within the window are counted with the others.
    deliver(&aws, &storm(7, MINUTE, 50), MINUTE).await;
    check(&aws, 4 * MINUTE).await;
    assert_eq!(people(&aws), 20);
    for minute in 6..9 {
        assert!(check(&aws, minute * MINUTE).await.is_done());
    }
    assert_eq!((people(&aws), aws.state().published.len()), (21, 308));
    let summary = aws.state().published.last().cloned().unwrap();
    let data = summary.data();
    let names: Vec<_> = data["things"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names.len(), 10);
    let text = format!("too-bright: 287 more changes in 5 min: 280 ALARM, 7 OK; {}, …", names.join(", "));
    assert_eq!((summary.text(), summary.subject), (text, "too-bright: 287 more".to_owned()));
    assert!(!summary.attributes.contains_key("to"), "no actuator may take it for a transition");
    assert_eq!(data["changes"], json!({"ALARM": 280, "OK": 7}));
    // The next window starts at zero.
    deliver(&aws, &storm(1, 10 * MINUTE, 150), 10 * MINUTE).await;
    assert_eq!(people(&aws), 22);
    assert!(!has_pending(&aws.state()));
}

#[tokio::test(start_paused = true)]
async fn next_transition_sends_the_summary_of_an_ended_window() {
    let aws = account(json!([too_bright(0)])).await;
    let process = || aws.process().env("MAX_NOTIFICATIONS", "1").env("NOTIFICATION_WINDOW_SECONDS", "60");
    deliver_to(&process(), &sqs_batch(storm(3, 0, 150)), at(0)).await;
    deliver_to(&process(), &sqs_batch(storm(3, 2 * MINUTE, 50)), at(2 * MINUTE)).await;
    deliver_to(&process(), &check_command(), at(5 * MINUTE)).await;
    assert_eq!(
        summaries(&aws.state()),
        [
            "too-bright: 2 more changes in 1 min: 2 ALARM; greenhouse-1, greenhouse-2",
            "too-bright: 2 more changes in 1 min: 2 OK; greenhouse-1, greenhouse-2",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn any_failed_call_of_a_check_does_not_lose_the_summary() {
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied, Fault::Lost] {
        // There are sixteen queries, some of them before the first record is checked.
        for call in 1..=24 {
            let aws = account(json!([too_bright(0)])).await;
            let process = || aws.process().env("MAX_NOTIFICATIONS", "1");
            deliver_to(&process(), &sqs_batch(storm(3, 0, 150)), at(0)).await;
            deliver_to(&process().fail(call, fault), &check_command(), at(6 * MINUTE)).await;
            for minute in 8..12 {
                deliver_to(&process(), &check_command(), at(minute * MINUTE)).await;
            }
            let state = aws.state();
            let name = format!("call {call} {fault:?}: {:?}", state.call_counts());
            let mut summaries = summaries(&state);
            summaries.dedup();
            let text = "too-bright: 2 more changes in 5 min: 2 ALARM; greenhouse-1, greenhouse-2";
            assert_eq!(summaries, [text], "{name}");
            assert!(state.published.len() <= 5, "{name}");
            assert!(!has_pending(&state), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn devices_that_become_stale_together_are_limited_too() {
    let aws = account(json!([too_bright(60)])).await;
    deliver(&aws, &storm(100, 0, 50), 0).await;
    check(&aws, 62 * MINUTE).await;
    assert_eq!((people(&aws), aws.state().published.len()), (20, 100));
}
