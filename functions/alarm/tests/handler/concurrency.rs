//! Several invocations at the same time.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{Delivered, FakeAws, Process, sqs_batch};
use tokio::runtime::Builder;

use crate::setup::*;

/// Delivers to all processes at once, and serves their calls in this order.
async fn race(aws: &FakeAws, deliveries: Vec<(Process, Value)>, order: Vec<usize>) -> Vec<Delivered> {
    let numbers: Vec<_> = deliveries.iter().map(|(process, _)| process.number).collect();
    aws.serve_in_order(order.into_iter().map(|turn| numbers[turn % numbers.len()]));
    let all = deliveries.iter().map(|(process, delivery)| deliver_to(process, delivery, at(2 * MINUTE)));
    futures_util::future::join_all(all).await
}

#[tokio::test(start_paused = true)]
async fn conflict_is_evaluated_again_in_the_same_process() {
    let aws = account(json!([too_bright(60)])).await;
    let first = (aws.process(), sqs_batch([reading("e-1", 0, 150)]));
    let second = (aws.process(), sqs_batch([reading("e-2", MINUTE, 150)]));
    // Both read; then the first writes, then the second.
    let delivered = race(&aws, vec![first, second], vec![0, 1, 0, 1, 0, 1]).await;
    assert!(delivered.iter().all(|delivered| delivered.retried_messages() == Some(vec![])));
    assert_eq!((delivered[0].count("Conflicts"), delivered[1].count("Conflicts")), (0, 1));
    assert_eq!(transitions(&aws), [to("ALARM", MINUTE)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn two_processes_with_the_same_batch_raise_once(
        order in prop::collection::vec(0_usize..2, 0..30),
    ) {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            let aws = account(json!([too_bright(60)])).await;
            let deliveries = vec![(aws.process(), sqs_batch(raising())), (aws.process(), sqs_batch(raising()))];
            let delivered = race(&aws, deliveries, order).await;
            assert!(delivered.iter().all(|delivered| delivered.retried_messages() == Some(vec![])));
            check(&aws, 4 * MINUTE).await;
            let state = aws.state();
            assert_eq!(state.published.len(), 1, "{:?}", state.call_counts());
            assert!(!has_pending(&state), "{:?}", state.call_counts());
            assert_eq!(attribute(&state, "changes").as_deref(), Some("1"));
        });
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_invocations_share_one_rate_limit() {
    const THINGS: usize = 120;
    // DynamoDB is slow, so that invocations read between another one's read and write.
    let latency = Duration::from_millis(5);
    let aws = account(json!([too_bright(0)])).await.latency("GetItem", latency).latency("PutItem", latency);
    let deliveries: Vec<_> = storm(THINGS, 0, 150).into_iter().map(|body| (aws.process(), sqs_batch([body]))).collect();
    let delivered = race(&aws, deliveries, vec![]).await;
    let retried = delivered.iter().filter(|delivered| delivered.retried_messages() != Some(vec![])).count();
    let conflicts: u64 = delivered.iter().map(|delivered| delivered.count("Conflicts")).sum();
    assert_eq!(retried, 0, "after {conflicts} conflicts");
    assert_eq!((people(&aws), aws.state().published.len()), (20, THINGS));
}
