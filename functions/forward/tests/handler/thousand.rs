//! A thousand messages, many of which fail at first.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};
use test_support::{EntryFault, FakeAws, Fault, NOW};

use crate::account::{FIFO, QUEUE, aws, batch, bodies, deliver_to, event, quarantined, template, to};

/// Pseudo-random numbers, the same every time.
struct Chance(u64);

impl Chance {
    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Delivers a thousand messages of seven things until the queue is empty. Many calls fail in the first rounds.
async fn deliver_thousand(queue: &str, failing_rounds: u32) -> FakeAws {
    let aws = aws().queue(queue);
    let mut chance = Chance(1);
    aws.state().entry_fault = Some(Box::new(move |_| match chance.next() % 20 {
        0 => Some(EntryFault::Failed("InternalError", false)),
        1 => Some(EntryFault::Failed("RequestThrottled", true)),
        2 => Some(EntryFault::AcceptedAndFailed),
        3 => Some(EntryFault::Omitted),
        _ => None,
    }));
    let mut chance = Chance(2);
    let mut pending: Vec<Value> =
        (0..1000).map(|n| event(&format!("e-{n:03}"), &format!("station-{}", n % 7), n, &json!(n))).collect();
    for round in 0..60 {
        let now = NOW.plus(round * template("VisibilityTimeout"));
        if round == failing_rounds {
            aws.state().entry_fault = None;
        }
        let mut retried = HashSet::new();
        for events in pending.chunks(50) {
            let mut process = aws.process();
            if round < failing_rounds && chance.one_in(3) {
                // The response to the second batch, after the document was read.
                process = process.fail(3, Fault::Lost);
            }
            let delivered = deliver_to(process, &to(queue), &batch(events), now).await;
            retried.extend(delivered.retried_messages().unwrap().into_iter().map(str::to_owned));
        }
        pending.retain(|event| retried.contains(event["traceId"].as_str().unwrap()));
        // The queue delivers them in any order.
        for index in 1..pending.len() {
            pending.swap(index, usize::try_from(chance.next()).unwrap() % (index + 1));
        }
    }
    assert!(pending.is_empty(), "{} are still pending", pending.len());
    aws
}

/// A duplicate on a FIFO queue takes a third attempt.
#[tokio::test(start_paused = true)]
async fn none_is_lost_and_none_duplicated_on_fifo_within_two_tries() {
    let all: BTreeSet<String> = (0..1000).map(|n| n.to_string()).collect();
    for (queue, failing_rounds, is_once) in [(FIFO, 1, true), (FIFO, 60, false), (QUEUE, 1, false)] {
        let aws = deliver_thousand(queue, failing_rounds).await;
        let bodies = bodies(&aws, queue);
        assert_eq!(bodies.iter().cloned().collect::<BTreeSet<_>>(), all);
        assert_eq!(bodies.len() == 1000, is_once, "{queue} has {}", bodies.len());
        assert!(quarantined(&aws).is_empty());
    }
}
