//! Whichever call fails, and wherever the process dies, the device ends up in the state of the newest transition.

use std::collections::BTreeSet;
use std::time::Duration;

use test_support::Fault;

use crate::account::{Account, is_done};
use crate::{bright, minutes, shade};

/// AWS denies the call, performs it without confirming it, or the process dies before or after it.
const FAULTS: [Fault; 4] = [Fault::Denied, Fault::Unconfirmed, Fault::DiesBefore, Fault::DiesAfter];

/// A story in which one command is sent, one delayed, one superseded, and one sent late.
fn story() -> Vec<(Duration, String)> {
    [(0, "ALARM"), (4, "OK"), (8, "ALARM"), (12, "OK")].map(|(at, to)| (minutes(at), bright(to, at))).into()
}

/// Plays the story, and returns the operations that the function called.
async fn play(fault: Option<(usize, Fault)>) -> (Account, Vec<String>) {
    let account = Account::with(&shade()).await;
    if let Some((call, fault)) = fault {
        account.aws.fail(call, fault);
    }
    let dead = account.play(&story()).await;
    assert!(dead.is_empty(), "{fault:?}: {dead:?}");
    let operations = account.operations();
    (account, operations)
}

#[tokio::test(start_paused = true)]
async fn every_call_may_fail_and_the_process_die_at_any() {
    let (_, operations) = play(None).await;
    assert_eq!(BTreeSet::from_iter(&operations).len(), 4, "{operations:?}");
    for fault in FAULTS {
        for (call, operation) in (1..).zip(&operations) {
            let (account, _) = play(Some((call, fault))).await;
            let at = format!("{fault:?} at {operation}, call {call}");
            let positions = account.positions();
            assert_eq!(positions.last().map(String::as_str), Some("open"), "{at}: {positions:?}");
            for pair in account.aws.state().shadow_updates.windows(2) {
                let gap = pair[1].at.since(pair[0].at);
                assert!(pair[0].document == pair[1].document || gap >= minutes(15), "{at}: {gap:?}");
            }
            assert!(account.aws.call_count() >= call, "{at} never happened");
            assert!(account.quarantined().is_empty(), "{at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn command_is_sent_again_only_if_its_result_is_unknown() {
    let operations = ["GetItem", "GetItem", "PutItem", "UpdateThingShadow", "PutItem"];
    for fault in FAULTS {
        for (call, operation) in (1..).zip(operations) {
            let account = Account::with(&shade()).await;
            account.aws.fail(call, fault);
            assert!(account.play(&[(minutes(0), bright("ALARM", 0))]).await.is_empty());
            let is_unknown = match fault {
                Fault::DiesBefore => call == 5,
                // Once the second write is in place, the result is recorded.
                Fault::Unconfirmed | Fault::DiesAfter => operation == "UpdateThingShadow",
                _ => false,
            };
            let times = if is_unknown { 2 } else { 1 };
            assert_eq!(account.positions().len(), times, "{fault:?} at {operation}, call {call}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sent_command_is_done_even_if_that_cannot_be_recorded() {
    let account = Account::with(&shade()).await;
    account.aws.fail(5, Fault::Denied);
    let delivered = account.deliver(&bright("ALARM", 0)).await;
    assert_eq!((is_done(&delivered), delivered.count("Unmarked")), (true, 1));
    // The record still says which command was started, and when.
    account.skip(minutes(5));
    assert_eq!(account.deliver(&bright("OK", 5)).await.count("Delayed"), 1);
}

#[tokio::test(start_paused = true)]
async fn record_that_changed_meanwhile_is_left_alone() {
    let account = Account::with(&shade()).await;
    account.aws.change(5, |state| {
        let record = serde_json::json!({"version": {"N": "7"}, "stage": {"S": "pending"}});
        state.set_attributes("actuator", &["device#greenhouse-1-shade", "command"], &record);
    });
    let delivered = account.deliver(&bright("ALARM", 0)).await;
    assert_eq!((is_done(&delivered), delivered.count("Unmarked")), (true, 1));
    assert_eq!(account.record("greenhouse-1-shade")["stage"]["S"], "pending");
}
