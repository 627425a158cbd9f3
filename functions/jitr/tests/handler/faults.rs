//! Every call of an admission or a rejection fails once, or its process dies.

use std::iter;

use serde_json::Value;
use test_support::pki::{DAY, NOW, date};
use test_support::{Fault, Process};

use crate::fleet::{CA, Deliver, Device, Fleet, LATER, crl, lasting, publish};
use crate::rejections::{EDWARDS, beside, of, with};
use crate::{last, renewed};

/// A fleet with a device, and the variables of the processes that handle its event.
type Scenario = (&'static str, fn() -> (Fleet, Device), &'static [(&'static str, &'static str)]);

fn good() -> (Fleet, Device) {
    let fleet = Fleet::new();
    fleet.publish(&crl(&[&[1]], 1));
    let device = fleet.device("thermometer-1", 7);
    (fleet, device)
}

fn bad(device: (Fleet, Device)) -> (Fleet, Device) {
    device.0.set_valid(&device.1.id, false);
    device
}

const SCENARIOS: [Scenario; 6] = [
    ("admitted", good, &[]),
    ("admitted after another", renewed, &[("ALLOW_ROTATION", "true")]),
    ("expired", || bad(with(|params| params.not_after = date(NOW.minus(DAY)))), &[]),
    ("unsupported algorithm", || of(&EDWARDS), &[]),
    ("name taken", || bad(renewed()), &[]),
    ("on the list", || beside(|state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &crl(&[&[7]], 1))), &[]),
];

fn process(fleet: &Fleet, variables: &[(&'static str, &'static str)]) -> Process {
    variables.iter().fold(fleet.aws.process(), |process, (name, value)| process.env(name, *value))
}

/// The lasting state, the number of notifications, and the calls of an undisturbed delivery.
async fn undisturbed(
    make: fn() -> (Fleet, Device),
    variables: &[(&'static str, &'static str)],
) -> (Value, usize, Vec<String>) {
    let (fleet, device) = make();
    assert!(process(&fleet, variables).deliver(&device.event, NOW).await.is_done());
    let state = fleet.aws.state();
    (lasting(&state), state.published.len(), state.calls.iter().map(test_support::Call::label).collect())
}

/// A process dies before or after each of its calls, and the event is delivered again: to a process that dies as well,
/// after each of its calls in turn, and once more.
#[ignore = "exhaustive; `make test` runs it"]
#[tokio::test]
async fn crash_between_any_two_steps_leaves_nothing_half_active() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        let deaths = |calls: usize| (1..=calls).flat_map(|call| [(call, Fault::DiesBefore), (call, Fault::DiesAfter)]);
        for (first, fault) in deaths(calls.len()) {
            // A second death is tried at every step of an admission, and at none of the other scenarios'.
            let seconds: Vec<_> = iter::once(None)
                .chain((1..=calls.len()).map(Some).filter(|_| what == "admitted" && fault == Fault::DiesAfter))
                .collect();
            for second in seconds {
                let (fleet, device) = make();
                let dying = process(&fleet, variables).fail(first, fault);
                assert_eq!(dying.deliver(&device.event, NOW).await.response, None, "{what} {first} {fault:?}");
                if let Some(call) = second {
                    process(&fleet, variables).fail(call, fault).deliver(&device.event, NOW.plus(LATER)).await;
                }
                let last = process(&fleet, variables).deliver(&device.event, NOW.plus(2 * LATER)).await;
                assert!(last.is_done(), "{what} {first} {fault:?} {second:?}: {last:?}");
                let state = fleet.aws.state();
                assert_eq!(lasting(&state), expected, "{what} {first} {fault:?} {second:?}");
                // Notified at least once, and twice if the process died after SNS's response and before the mark.
                let is_published_twice = matches!((calls[first - 1].as_str(), fault), ("Publish", Fault::DiesAfter))
                    || matches!((calls[first - 1].as_str(), fault), ("UpdateItem idempotency", Fault::DiesBefore));
                assert_eq!(
                    state.published.len(),
                    messages + usize::from(is_published_twice),
                    "{what} {first} {fault:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn failed_call_is_retried_with_the_same_end() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        for (index, name) in calls.iter().enumerate() {
            let (fleet, device) = make();
            let failing = process(&fleet, variables).fail(index + 1, Fault::Denied);
            let delivered = failing.deliver(&device.event, NOW).await;
            // The message is published. A retry because of the mark would certainly publish it again.
            let is_mark = name == "UpdateItem idempotency";
            assert_eq!(delivered.is_retried(), !is_mark, "{what} {name}: {delivered:?}");
            // Immediately, because the failed invocation has released its lease and its claim.
            let next = process(&fleet, variables).deliver(&device.event, NOW).await;
            assert!(next.is_done(), "{what} {name}: {next:?}");
            let state = fleet.aws.state();
            assert_eq!(lasting(&state), expected, "{what} {name}");
            assert_eq!(state.published.len(), messages, "{what} {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lost_response_or_throttling_is_retried_in_the_same_invocation() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        for (index, name) in calls.iter().enumerate() {
            for fault in [Fault::Lost, Fault::Throttled] {
                let (fleet, device) = make();
                let delivered = process(&fleet, variables).fail(index + 1, fault).deliver(&device.event, NOW).await;
                assert!(delivered.is_done(), "{what} {name} {fault:?}: {delivered:?}");
                let state = fleet.aws.state();
                assert_eq!(lasting(&state), expected, "{what} {name} {fault:?}");
                // SNS has no idempotency.
                let is_published_twice = name == "Publish" && fault == Fault::Lost;
                assert_eq!(
                    state.published.len(),
                    messages + usize::from(is_published_twice),
                    "{what} {name} {fault:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lasting_throttling_retries_the_event_and_changes_no_status() {
    for call in 1..=last("UpdateCertificate ACTIVE") {
        let fleet = Fleet::new();
        let device = fleet.device("thermometer-1", 7);
        let throttled =
            (call..call + 3).fold(fleet.aws.process(), |process, call| process.fail(call, Fault::Throttled));
        let delivered = throttled.deliver(&device.event, NOW).await;
        assert!(delivered.is_retried(), "{call}: {delivered:?}");
        assert_eq!(fleet.status(&device), "PENDING_ACTIVATION", "{call}");
        assert!(fleet.deliver(&device).await.is_done(), "{call}");
        assert_eq!(fleet.status(&device), "ACTIVE", "{call}");
    }
}
