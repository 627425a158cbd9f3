//! Devices whose certificates are revoked are disconnected.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use test_support::{Call, Fault};

use crate::cloud::{Cloud, id};
use crate::{counts_with_sessions, whole_ca};

/// The things whose sessions were ended or not found, in order.
fn disconnected(cloud: &Cloud) -> Vec<String> {
    let state = cloud.aws.state();
    state.calls_to("DeleteConnection").iter().filter(|call| !call.is_refused).map(|call| call.path[1].clone()).collect()
}

/// What a certificate's record says about its session.
fn recorded(cloud: &Cloud, number: usize) -> Option<bool> {
    cloud.record_of(number).get("disconnected").map(|value| value["BOOL"].as_bool().unwrap())
}

#[tokio::test(start_paused = true)]
async fn session_ends_once_after_the_revocation() {
    let cloud = Cloud::with(4);
    cloud.admit(0, "online", true);
    cloud.admit(1, "offline", false);
    cloud.admit(2, "revoked-before", true);
    cloud.set_status(&id(2), "REVOKED");
    cloud.aws.observe(|state, call| {
        let is_early = call.operation == "DeleteConnection" && state.iot.status(&id(0)) != "REVOKED";
        if is_early { Err("disconnected before the revocation".to_owned()) } else { Ok(()) }
    });
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(disconnected(&cloud), ["online", "offline"]);
    assert_eq!((recorded(&cloud, 0), recorded(&cloud, 1)), (Some(true), Some(false)));
    assert_eq!((recorded(&cloud, 2), recorded(&cloud, 3)), (None, None));
    // The last sweep counts what the first one did.
    assert_eq!(played.counts, counts_with_sessions(4, 3, 1, 0, 1));
    assert!(cloud.reports()[0].contains("0 failed.\n1 disconnected.\n"), "{}", cloud.reports()[0]);
    let state = cloud.aws.state();
    assert!(state.calls_to("DeleteConnection").iter().all(|call| call.query["preventWillMessage"] == "true"));
}

#[tokio::test(start_paused = true)]
async fn rejected_certificate_does_not_disconnect_the_thing_that_it_names() {
    let cloud = Cloud::with(1);
    cloud.admit(0, "victim", true);
    let rejected = json!({"state": {"S": "refused"}, "refusedStatus": {"S": "INACTIVE"}});
    cloud.set(&format!("certificate#{}", id(0)), "admission", &rejected);
    cloud.set_status(&id(0), "INACTIVE");
    cloud.play(&whole_ca()).await;
    assert_eq!((cloud.status(&id(0)).as_str(), disconnected(&cloud).len()), ("REVOKED", 0));
}

#[tokio::test(start_paused = true)]
async fn dry_run_disconnects_nobody() {
    let cloud = Cloud::with(1);
    cloud.admit(0, "online", true);
    cloud.play(&json!({"certificateId": id(0), "dryRun": true})).await;
    assert_eq!(disconnected(&cloud).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn session_that_could_not_be_ended_is_ended_by_the_next_sweep() {
    // It fails once, or in each sweep.
    for (failures, is_ended) in [(1, true), (2, false)] {
        let cloud = Cloud::with(1);
        cloud.admit(0, "online", true);
        cloud.aws.fail_next("DeleteConnection", vec![Fault::Denied; failures]);
        let played = cloud.play(&json!({"certificateId": id(0)})).await;
        assert_eq!((cloud.status(&id(0)), played.counts["Failed"]), ("REVOKED".to_owned(), 0));
        assert_eq!(recorded(&cloud, 0), is_ended.then_some(true));
        assert_eq!(played.counts["Disconnected"], u64::from(is_ended));
        let report = &cloud.reports()[0];
        assert_eq!(report.contains("1 could not be disconnected"), !is_ended, "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn revocations_do_not_wait_for_a_data_plane_that_is_silent() {
    let cloud = Cloud::with(40);
    (0..40).for_each(|number| cloud.admit(number, &format!("thing-{number}"), true));
    cloud.aws.fail_each("DeleteConnection", Fault::Hangs);
    let (is_deleted, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(is_deleted && cloud.are_all_revoked());
    let clients: BTreeSet<_> =
        cloud.aws.state().calls_to("DeleteConnection").iter().map(|call| call.path[1].clone()).collect();
    assert_eq!(clients.len(), 1, "{clients:?}");
}

#[tokio::test(start_paused = true)]
async fn sessions_end_no_faster_than_certificates_are_revoked() {
    let cloud = Cloud::with(30);
    (0..30).for_each(|number| cloud.admit(number, &format!("thing-{number}"), true));
    cloud.aws.fail_next("DeleteConnection", [Fault::Error(500, "InternalFailureException"); 30]);
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(played.counts["Disconnected"], 30);
    let state = cloud.aws.state();
    let served: Vec<&Call> = state.calls_to("DeleteConnection").into_iter().filter(|call| !call.is_refused).collect();
    let pace = Duration::from_millis(100);
    assert!(served.windows(2).all(|pair| pair[1].at.since(pair[0].at) >= pace));
}

/// Whichever call fails or ends the process, the device is revoked and disconnected, and the revocation comes first.
#[tokio::test(start_paused = true)]
async fn device_is_disconnected_whichever_call_fails() {
    for fault in [Fault::Denied, Fault::Lost, Fault::Unconfirmed, Fault::DiesBefore, Fault::DiesAfter] {
        let mut call = 1;
        loop {
            let cloud = Cloud::with(1);
            cloud.admit(0, "online", true);
            cloud.aws.fail(call, fault);
            let played = cloud.play(&json!({"certificateId": id(0)})).await;
            if cloud.aws.call_count() < call {
                break;
            }
            let case = format!("{fault:?} at call {call}");
            assert_eq!(played.dead_letters, Vec::<String>::new(), "{case}");
            assert_eq!(cloud.status(&id(0)), "REVOKED", "{case}");
            assert!(cloud.aws.state().connections.is_empty(), "{case}");
            assert!(recorded(&cloud, 0).is_some(), "{case}");
            call += 1;
        }
        assert!(call > 12, "{fault:?}: {call} calls");
    }
}
