//! The calls to DynamoDB, and their failures.

use std::collections::BTreeSet;

use serde_json::json;
use test_support::{Fault, sqs_batch};

use crate::setup::*;

#[tokio::test(start_paused = true)]
async fn many_readings_are_written_25_per_call_concurrently() {
    let table = account();
    let delivered = deliver(&table, &numbered(1003)).await;
    assert!(retried(&delivered).is_empty());
    assert_eq!(stored(&table), 1003);
    let sizes = call_sizes(&table);
    assert_eq!(sizes.len(), 41);
    assert!(sizes.iter().all(|size| *size <= 25));
    assert_eq!(table.state().max_in_flight(WRITE), 8);
}

#[tokio::test(start_paused = true)]
async fn large_readings_are_fewer_per_call() {
    let table = account();
    let large = format!(r#"{{"zeros":[{}0]}}"#, "0,".repeat(50_000));
    let bodies: Vec<_> = (0..30).map(|n| event(&format!("e-{n}"), &large)).collect();
    assert!(retried(&deliver(&table, &sqs_batch(&bodies)).await).is_empty());
    assert_eq!(stored(&table), 30);
    let largest = table.state().calls_to(WRITE).iter().map(|call| call.size).max().unwrap();
    assert!(largest <= 2 * 1024 * 1024 + 30_000, "a call has {largest} bytes");
}

#[tokio::test(start_paused = true)]
async fn only_unprocessed_readings_are_sent_again() {
    let table = account();
    table.fail_next(WRITE, [Fault::Unprocessed(10), Fault::Unprocessed(4)]);
    let delivered = deliver(&table, &numbered(25)).await;
    assert!(retried(&delivered).is_empty());
    assert_eq!(delivered.counts, [("Stored", 25), ("Unprocessed", 14)].into());
    assert_eq!(call_sizes(&table), [25, 10, 4]);
    assert!(table.state().writes.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn readings_left_unprocessed_at_the_end_are_retried() {
    let table = account();
    table.fail_next(WRITE, [Fault::Unprocessed(3)]);
    table.fail_each(WRITE, Fault::Unprocessed(1));
    let delivered = deliver(&table, &numbered(25)).await;
    // Two of the three were stored by the second and third call; the last one never was.
    assert_eq!(retried(&delivered).len(), 25 - stored(&table));
    assert_eq!(retried(&delivered), ids([24]));
}

#[tokio::test(start_paused = true)]
async fn everything_is_sent_again_if_it_is_unclear_what_was_left() {
    let table = account();
    table.fail_next(WRITE, [Fault::UnknownUnprocessed]);
    let delivered = deliver(&table, &numbered(25)).await;
    assert!(retried(&delivered).is_empty());
    assert_eq!(call_sizes(&table), [25, 25]);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_nothing_is_processed() {
    let table = account();
    table.fail_each(WRITE, Fault::Unprocessed(25));
    let delivered = deliver(&table, &numbered(25)).await;
    assert_eq!(retried(&delivered), ids(0..25));
    let calls = call_sizes(&table).len();
    assert!((8..60).contains(&calls), "{calls} calls in 19 seconds");
}

#[tokio::test(start_paused = true)]
async fn failed_call_retries_its_own_events_only() {
    let table = account();
    fail_next_call_of(&table, "e-30", Fault::Denied);
    let delivered = deliver(&table, &numbered(75)).await;
    assert_eq!(retried(&delivered), ids(25..50));
    assert_eq!(stored(&table), 50);
}

#[tokio::test(start_paused = true)]
async fn throttled_call_is_made_again() {
    let table = account();
    table.fail_next(WRITE, [Fault::Throttled; 2]);
    let delivered = deliver(&table, &numbered(25)).await;
    assert!(retried(&delivered).is_empty());
    assert_eq!(call_sizes(&table).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn permanently_throttled_table_retries_everything() {
    let table = account();
    table.fail_each(WRITE, Fault::Throttled);
    let delivered = deliver(&table, &numbered(60)).await;
    assert_eq!(retried(&delivered), ids(0..60));
    assert!(items(&table).is_empty());
}

#[tokio::test(start_paused = true)]
async fn hanging_call_does_not_affect_other_calls() {
    let table = account();
    fail_next_call_of(&table, "e-30", Fault::Hangs);
    let delivered = deliver(&table, &numbered(75)).await;
    assert_eq!(retried(&delivered), ids(25..50));
    assert_eq!(stored(&table), 50);
}

#[tokio::test(start_paused = true)]
async fn event_is_done_only_when_all_its_readings_are_written() {
    let readings: Vec<_> = (0..30).map(|n| json!({"n": n})).collect();
    let array = json!(readings).to_string();
    // The array's last five readings are in the call that fails, with another event's reading.
    let table = account();
    fail_next_call_of(&table, "e-2", Fault::Denied);
    let delivered = deliver(&table, &sqs_batch(&[event("e-1", &array), event("e-2", r#"{"n":1}"#)])).await;
    assert_eq!(retried(&delivered), ids([0, 1]));
    assert_eq!(stored(&table), 25);
    // Both events are delivered again.
    deliver(&table, &sqs_batch(&[event("e-1", &array), event("e-2", r#"{"n":1}"#)])).await;
    assert_eq!(stored(&table), 31);
}

#[tokio::test(start_paused = true)]
async fn next_process_completes_what_a_dead_one_left() {
    let (whole, table) = (account(), account());
    table.fail_next(WRITE, [None, None, Some(Fault::DiesAfter)]);
    let delivery = numbered(300);
    deliver(&whole, &delivery).await;
    assert!(deliver(&table, &delivery).await.response.is_none(), "the process is still alive");
    assert!((1..300).contains(&stored(&table)));
    assert!(retried(&deliver(&table, &delivery).await).is_empty());
    assert_eq!(items(&table), items(&whole));
}

#[tokio::test(start_paused = true)]
async fn item_that_dynamodb_rejects_is_refused_alone() {
    for poisoned in [vec![0], vec![24], vec![7, 8], (0..25).collect()] {
        let table = account();
        let payload = |n| if poisoned.contains(&n) { r#"{"poison":1}"#.to_owned() } else { format!(r#"{{"n":{n}}}"#) };
        let bodies: Vec<_> = (0..50).map(|n| event(&format!("e-{n}"), &payload(n))).collect();
        let delivered = deliver(&table, &sqs_batch(&bodies)).await;
        assert!(retried(&delivered).is_empty());
        assert_eq!(stored(&table), 50 - poisoned.len());
        let state = table.state();
        let refused: BTreeSet<_> = poisoned.iter().map(|n| format!("e-{n}")).collect();
        assert_eq!(state.quarantined().iter().map(|(id, ..)| (*id).to_owned()).collect::<BTreeSet<_>>(), refused);
        assert!(state.quarantined().iter().all(|(_, reason, _)| *reason == "not-storable"));
    }
}
