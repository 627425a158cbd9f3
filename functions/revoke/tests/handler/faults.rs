//! Each call of a run fails once, in each way: an error, a lost response, or the death of the process before or after
//! the call.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::Fault;

use crate::cloud::{Cloud, Played, VISIBILITY_TIMEOUT, ca, id};
use crate::{text, whole_ca};

const FAULTS: [Fault; 4] = [Fault::Denied, Fault::Unconfirmed, Fault::DiesBefore, Fault::DiesAfter];

/// Five certificates on three pages, two of them already revoked; an invocation has time for two.
fn small() -> Cloud {
    let mut cloud = Cloud::with(4);
    cloud.register(&id(4), "PENDING_ACTIVATION", "");
    cloud.timeout = Duration::from_millis(450);
    cloud.aws.state().iot.page_size = Some(2);
    cloud.set_status(&id(1), "REVOKED");
    cloud.set_status(&id(3), "REVOKED");
    cloud
}

/// Returns `None` if the run has fewer calls.
async fn play_with(command: &Value, cloud: Cloud, call: usize, fault: Fault) -> Option<(Cloud, Played)> {
    cloud.aws.fail(call, fault);
    let played = cloud.play(command).await;
    (cloud.aws.call_count() >= call).then_some((cloud, played))
}

#[tokio::test(start_paused = true)]
async fn run_ends_the_same_whichever_of_its_calls_fails() {
    for fault in FAULTS {
        let mut call = 1;
        while let Some((cloud, played)) = play_with(&whole_ca(), small(), call, fault).await {
            let what = format!("{fault:?} at call {call}");
            assert_eq!(played.dead_letters, Vec::<String>::new(), "{what}");
            let reports = cloud.reports();
            // SNS has no idempotency: a report whose response is lost is published again.
            assert!((1..=2).contains(&reports.len()), "{what}: {} reports", reports.len());
            for report in reports {
                let counts = "5 found, 3 revoked, 2 had been revoked, 0 failed.";
                assert!(report.contains(counts), "{what}: {report}");
            }
            let changes = cloud.changes();
            let block = changes.iter().position(|change| change == "blocked").unwrap();
            let deactivation = changes.iter().position(|change| change == "CA INACTIVE DISABLE").unwrap();
            let first = changes.iter().position(|change| change.starts_with("REVOKED")).unwrap();
            assert!(block < deactivation && deactivation < first, "{what}: {changes:?}");
            assert_eq!(cloud.aws.state().iot.cas[&ca()].status, "INACTIVE", "{what}");
            assert!(cloud.are_all_revoked(), "{what}");
            let runs = runs(&cloud);
            assert!(runs.len() == 1 && runs[0].contains(r#""phase":"over""#), "{what}: {runs:?}");
            for number in 0..5 {
                assert_eq!(text(&cloud.record_of(number), "state"), Some("revoked"), "{what}: {number}");
            }
            call += 1;
        }
        assert!(call > 40, "{fault:?}: {call} calls");
    }
}

fn runs(cloud: &Cloud) -> Vec<String> {
    let state = cloud.aws.state();
    let runs = state.items("devices").filter(|(key, _)| key[1].starts_with("revocation#"));
    runs.map(|(_, item)| text(item, "run").unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_certificate_is_blocked_first_whichever_call_fails() {
    let command = json!({"certificateId": id(0)});
    for fault in FAULTS {
        let mut call = 1;
        while let Some((cloud, played)) = play_with(&command, Cloud::with(1), call, fault).await {
            let what = format!("{fault:?} at call {call}");
            assert_eq!(played.dead_letters, Vec::<String>::new(), "{what}");
            assert_eq!(cloud.status(&id(0)), "REVOKED", "{what}");
            assert_eq!(cloud.changes()[0], "blocked", "{what}");
            let report = cloud.reports().pop().unwrap();
            assert!(report.contains("1 found, 1 revoked, 0 had been revoked, 0 failed"), "{what}: {report}");
            call += 1;
        }
        assert!(call > 10, "{fault:?}: {call} calls");
    }
}

/// DynamoDB stores the run, but the response is lost: the SDK repeats the request, and finds its own write.
#[tokio::test(start_paused = true)]
async fn lease_whose_response_was_lost_is_still_ours() {
    let cloud = Cloud::with(1);
    cloud.aws.fail_next("PutItem ca/revocation#message-0", [Fault::Lost, Fault::Lost]);
    let (is_deleted, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(is_deleted);
    assert_eq!(cloud.status(&id(0)), "REVOKED");
}

/// A continuation that was not sent is sent when the step's message is delivered again.
#[tokio::test(start_paused = true)]
async fn unsent_continuation_is_sent_by_the_next_delivery() {
    for fault in [Fault::Denied, Fault::DiesBefore] {
        let cloud = Cloud::with(1);
        cloud.aws.fail_next("SendMessage", [fault]);
        let command = whole_ca().to_string();
        let (is_deleted, _) = cloud.deliver("message-0", &command).await;
        assert!(!is_deleted && cloud.take_sent().is_empty(), "{fault:?}");
        tokio::time::sleep(VISIBILITY_TIMEOUT).await;
        let (is_deleted, counted) = cloud.deliver("message-0", &command).await;
        assert_eq!((is_deleted, counted["Duplicate"], cloud.take_sent().len()), (true, 1, 1), "{fault:?}");
        assert!(!cloud.item(&format!("ca#{}", ca()), "revocation#message-0").unwrap().contains_key("owed"));
    }
}

/// Older versions of the function stored the time at which the continuation is due in the run itself.
#[tokio::test(start_paused = true)]
async fn continuation_that_an_older_version_left_is_sent() {
    let cloud = Cloud::with(1);
    let run = json!({
        "job": {"onlyListed": false, "dryRun": false, "reason": null}, "step": 2, "owed": cloud.now().millis() + 60_000,
        "isShut": true, "at": {"phase": "sweeping", "sweep": 2, "marker": null, "after": null},
        "counts": {"found": 0, "revoked": 0, "alreadyRevoked": 0, "failed": 0}, "named": [], "isStuck": false,
        "before": {"found": 1, "revoked": 1, "alreadyRevoked": 0, "failed": 0}, "fewestFailed": null, "idle": 0,
    });
    let item = json!({"version": {"N": "3"}, "owner": {"S": "dead"}, "run": {"S": run.to_string()}});
    cloud.set(&format!("ca#{}", ca()), "revocation#message-0", &item);
    let (is_deleted, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(is_deleted);
    let sent = cloud.take_sent().pop().unwrap();
    assert_eq!(sent.delay, Duration::from_mins(1));
    let (is_deleted, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(is_deleted && cloud.take_sent().is_empty(), "it is pending no longer");
    let (is_deleted, counted) = cloud.deliver("message-1", &sent.body).await;
    assert_eq!((is_deleted, counted["Revoked"]), (true, 1));
}
