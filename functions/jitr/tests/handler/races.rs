//! Two processes whose calls interleave in every order.

use std::fmt::Debug;
use std::iter;

use proptest::prelude::*;
use test_support::pki::NOW;
use tokio::runtime::Builder;

use crate::ADMISSION;
use crate::fleet::{Deliver, Fleet, notified, record};

/// The same event reaches two processes, whose calls are served in this order.
async fn deliver_twice(turns: impl IntoIterator<Item = usize> + Clone + Debug) {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    let (one, other) = (fleet.aws.process(), fleet.aws.process());
    fleet.aws.serve_in_order(turns.clone());
    let both =
        tokio::join!(one.deliver_until_settled(&device.event, NOW), other.deliver_until_settled(&device.event, NOW));
    assert!(both.0.is_done() && both.1.is_done(), "{turns:?}: {both:?}");
    let counted = |name| both.0.count(name) + both.1.count(name);
    assert_eq!((counted("Admitted"), counted("Duplicate")), (1, 1), "{turns:?}: {both:?}");
    let state = fleet.aws.state();
    assert_eq!(
        (state.iot.status(&device.id), record(&state, &device.id, "state").as_deref()),
        ("ACTIVE", Some("admitted"))
    );
    let activations = state.calls_to("UpdateCertificate ACTIVE").len();
    assert_eq!(activations, 1, "{turns:?}");
}

/// Two certificates of one name reach two processes, whose calls are served in this order.
async fn deliver_two_of_one_name(turns: impl IntoIterator<Item = usize> + Clone + Debug) {
    let fleet = Fleet::new();
    let devices = [fleet.device("thermometer-1", 1), fleet.device("thermometer-1", 2)];
    let (one, other) = (fleet.aws.process(), fleet.aws.process());
    fleet.aws.serve_in_order(turns.clone());
    let (one, other) = tokio::join!(
        one.deliver_until_settled(&devices[0].event, NOW),
        other.deliver_until_settled(&devices[1].event, NOW),
    );
    assert!(one.is_done() && other.is_done(), "{turns:?}: {one:?} {other:?}");
    let mut statuses = devices.each_ref().map(|device| fleet.status(device));
    statuses.sort_unstable();
    assert_eq!(statuses, ["ACTIVE", "INACTIVE"], "{turns:?}");
    let state = fleet.aws.state();
    let active = devices.iter().find(|device| state.iot.status(&device.id) == "ACTIVE").unwrap();
    assert_eq!(state.attribute("devices", &["thing#thermometer-1", "name"], "certificateId"), Some(active.id.clone()));
    let activations = state.calls_to("UpdateCertificate ACTIVE").len();
    assert_eq!(activations, 1, "{turns:?}");
    assert_eq!((notified(&state, "name-taken"), state.published.len()), (1, 1), "{turns:?}");
}

/// One process makes `first` calls, then the other `second`, then the one goes on to its end, and the other to its.
fn turns(first: usize, second: usize) -> impl Iterator<Item = usize> + Clone + Debug {
    iter::repeat_n(1, first)
        .chain(iter::repeat_n(2, second))
        .chain(iter::repeat_n(1, 200))
        .chain(iter::repeat_n(2, 200))
}

#[tokio::test(start_paused = true)]
async fn same_event_twice_admits_once_however_the_calls_interleave() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_twice(turns(first, second)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_certificates_with_one_name_is_admitted() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_two_of_one_name(turns(first, second)).await;
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_two_processes_calls_admits_once(
        turns in prop::collection::vec(1..=2_usize, 0..80),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(deliver_twice(turns.clone()));
        runtime.block_on(deliver_two_of_one_name(turns));
    }
}
