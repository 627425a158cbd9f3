//! Two processes whose calls interleave in every order.

use std::fmt::Debug;
use std::iter;
use std::num::NonZeroUsize;
use std::time::Duration;

use gatehouse::Concurrent;
use iot_registry::Registry;
use jitr::DESCRIBES_PER_SECOND;
use proptest::prelude::*;
use test_support::pki::NOW;
use test_support::sqs_batch;
use tokio::runtime::Builder;

use crate::ADMISSION;
use crate::fleet::{Deliver, Fleet, handler_with, notified, record};

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

/// Two certificates with the same name reach two processes, whose calls are served in this order.
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

/// One process makes `first` calls, then the other makes `second`; then the first finishes, and then the other.
fn turns(first: usize, second: usize) -> impl Iterator<Item = usize> + Clone + Debug {
    iter::repeat_n(1, first)
        .chain(iter::repeat_n(2, second))
        .chain(iter::repeat_n(1, 200))
        .chain(iter::repeat_n(2, 200))
}

#[ignore = "exhaustive; `make test` runs it"]
#[tokio::test(start_paused = true)]
async fn same_event_twice_admits_once_however_the_calls_interleave() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_twice(turns(first, second)).await;
        }
    }
}

#[ignore = "exhaustive; `make test` runs it"]
#[tokio::test(start_paused = true)]
async fn one_of_two_certificates_with_one_name_is_admitted() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_two_of_one_name(turns(first, second)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn status_is_not_read_while_another_process_works_on_the_certificate() {
    let mut fleet = Fleet::new();
    fleet.aws = fleet.aws.latency("AttachPolicy", Duration::from_secs(4));
    let device = fleet.device("thermometer-1", 7);
    let (one, other) = (fleet.aws.process(), fleet.aws.process());
    let both = tokio::join!(one.deliver(&device.event, NOW), other.deliver(&device.event, NOW));
    let counted = |name| both.0.count(name) + both.1.count(name);
    assert_eq!((counted("Admitted"), counted("Duplicate")), (1, 1), "{both:?}");
    // Both may read the status before the first lease: an admission takes three calls, and the other event one or two.
    let calls = fleet.aws.state().calls_to("DescribeCertificate").len();
    assert!(calls <= 3 + 2, "{calls} calls");
}

#[tokio::test(start_paused = true)]
async fn first_connects_of_three_hundred_devices_stay_within_the_quota() {
    let mut fleet = Fleet::new();
    fleet.aws = fleet.aws.timeout(Duration::from_mins(10)).latency("DescribeCertificate", Duration::from_millis(5));
    let devices: Vec<_> = (1..=300_u16)
        .map(|number| {
            fleet.device_with(&format!("d-{number}"), |params| {
                params.serial_number = Some(rcgen::SerialNumber::from(u64::from(number)));
            })
        })
        .collect();
    for device in &devices {
        fleet.set_valid(&device.id, true);
    }
    // Each device connects twice, and the events of both attempts reach two processes.
    let batch = sqs_batch(devices.iter().chain(devices.iter().rev()).map(|device| device.event.clone()));
    let deliver = async |process: test_support::Process| {
        let registry = Registry::new(process.iot()).with_describe_limit(DESCRIBES_PER_SECOND);
        let handler = Concurrent::new(handler_with(&process, registry).unwrap(), NonZeroUsize::MIN);
        process.deliver_to(handler, &batch, NOW).await
    };
    let both = tokio::join!(deliver(fleet.aws.process()), deliver(fleet.aws.process()));
    assert_eq!(both.0.count("Admitted") + both.1.count("Admitted"), 300, "{both:?}");
    let state = fleet.aws.state();
    let times: Vec<_> = state.calls_to("DescribeCertificate").iter().map(|call| call.at).collect();
    let within =
        |start: usize| times[start..].iter().filter(|at| at.since(times[start]) < Duration::from_secs(1)).count();
    let most = (0..times.len()).map(within).max();
    assert!(most <= Some(10), "{most:?} calls within a second");
    // One call for each of 1,200 events, two more for an admission, and one more for a duplicate that lost the race for
    // the lease.
    assert!(times.len() <= 1200 + 300 * (2 + 1), "{} calls", times.len());
}

proptest! {
    #[ignore = "exhaustive; `make test` runs it"]
    #[test]
    fn any_order_of_two_processes_calls_admits_once(
        turns in prop::collection::vec(1..=2_usize, 0..80),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(deliver_twice(turns.clone()));
        runtime.block_on(deliver_two_of_one_name(turns));
    }
}
