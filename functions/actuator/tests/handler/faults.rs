//! Whatever call fails, and wherever the process dies, the device ends up where the newest transition wants it.

use std::collections::BTreeSet;

use crate::cloud::{Cloud, FAULTS, Fault};
use crate::{bright, minutes, shade};

/// A story in which a command is sent, one put off, one superseded, and one sent late.
fn story() -> Vec<(std::time::Duration, String)> {
    [(0, "ALARM"), (4, "OK"), (8, "ALARM"), (12, "OK")].map(|(at, to)| (minutes(at), bright(to, at))).into()
}

async fn play(fault: Option<(usize, Fault)>) -> (Cloud, Vec<&'static str>) {
    let cloud = Cloud::with(&shade()).await;
    cloud.change(|state| state.fault = fault);
    let dead = cloud.play(&story()).await;
    assert!(dead.is_empty(), "{fault:?}: {dead:?}");
    let calls = cloud.change(|state| state.calls.clone());
    (cloud, calls)
}

#[tokio::test(start_paused = true)]
async fn every_call_may_fail_and_the_process_die_at_every_one() {
    let (_, calls) = play(None).await;
    assert!(BTreeSet::from_iter(calls.clone()).len() == 4, "{calls:?}");
    for fault in FAULTS {
        for (number, invocation) in calls.iter().enumerate() {
            let (cloud, _) = play(Some((number, fault))).await;
            let sent = cloud.positions();
            assert_eq!(sent.last().map(String::as_str), Some("open"), "{fault:?} at {call} {number}: {sent:?}");
            cloud.change(|state| {
                for pair in state.desired.windows(2) {
                    let gap = pair[1].0.since(pair[0].0);
                    assert!(pair[0].2 == pair[1].2 || gap >= minutes(15), "{fault:?} at {call} {number}: {gap:?}");
                }
                assert!(state.fault.is_none(), "{fault:?} at {call} {number} never came");
            });
            assert!(cloud.quarantined().is_empty(), "{fault:?} at {call} {number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_sent_again_only_where_it_cannot_be_known_that_it_was_sent() {
    let calls = ["GetItem", "GetItem", "PutItem", "UpdateThingShadow", "PutItem"];
    for fault in FAULTS {
        for (number, invocation) in calls.into_iter().enumerate() {
            let cloud = Cloud::with(&shade()).await;
            cloud.change(|state| state.fault = Some((number, fault)));
            assert!(cloud.play(&[(minutes(0), bright("ALARM", 0))]).await.is_empty());
            let is_unknown = match fault {
                Fault::CrashBefore => number == 4,
                // Once the second write is there, it is known.
                Fault::LostAnswer | Fault::CrashAfter => invocation == "UpdateThingShadow",
                Fault::Error => false,
            };
            let times = if is_unknown { 2 } else { 1 };
            assert_eq!(cloud.positions().len(), times, "{fault:?} at {call} {number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_is_done_even_where_that_cannot_be_noted() {
    let cloud = Cloud::with(&shade()).await;
    cloud.change(|state| state.fault = Some((4, Fault::Error)));
    let delivered = cloud.deliver(&bright("ALARM", 0)).await;
    assert_eq!((delivered.is_done, delivered.count("Unmarked")), (true, 1));
    // And the next one still knows what was sent, and when.
    cloud.skip(minutes(5));
    assert_eq!(cloud.deliver(&bright("OK", 5)).await.count("Delayed"), 1);
}
