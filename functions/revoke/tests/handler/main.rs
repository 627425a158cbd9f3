//! The whole function without the Lambda runtime, against the fake AWS: a command goes in, and the messages that the
//! function sends itself are delivered to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod cloud;
mod faults;
mod listed;
mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use test_support::{Call, Fault, Item, SentMessage, workspace_file};
use tokio::time::sleep;

use crate::cloud::{Cloud, ca, handler, id};

fn whole_ca() -> Value {
    json!({"caCertificateId": ca(), "reason": "its key leaked"})
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name).map(|value| value["S"].as_str().unwrap())
}

fn counts_with_sessions(
    found: u64,
    revoked: u64,
    already_revoked: u64,
    failed: u64,
    disconnected: u64,
) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("Found", found),
        ("Revoked", revoked),
        ("AlreadyRevoked", already_revoked),
        ("Failed", failed),
        ("Disconnected", disconnected),
    ])
}

fn counts(found: u64, revoked: u64, already_revoked: u64, failed: u64) -> BTreeMap<&'static str, u64> {
    counts_with_sessions(found, revoked, already_revoked, failed, 0)
}

#[tokio::test(start_paused = true)]
async fn block_precedes_the_ca_and_its_certificates() {
    let cloud = Cloud::with(2);
    let played = cloud.play(&whole_ca()).await;
    let revoked = |number| format!("REVOKED {}", id(number));
    let expected = ["blocked".to_owned(), "CA INACTIVE DISABLE".to_owned(), revoked(0), revoked(1)];
    assert_eq!(cloud.changes(), expected);
    let block = cloud.item(&format!("ca#{}", ca()), "status").unwrap();
    assert_eq!((&block["blocked"], text(&block, "blockReason")), (&json!({"BOOL": true}), Some("its key leaked")));
    assert_eq!(played.counts, counts(2, 2, 0, 0));
    assert_eq!(cloud.subjects(), ["Revocation complete: 2 revoked"]);
    let attributes = cloud.aws.state().published[0].attributes.clone();
    assert_eq!((&attributes["caCertificateId"], attributes["eventId"].as_str()), (&ca(), "message-0"));
}

#[tokio::test(start_paused = true)]
async fn ca_that_aws_iot_does_not_know_is_reported_as_unknown() {
    for dry_run in [false, true] {
        let cloud = Cloud::with(0);
        cloud.aws.state().iot.cas.clear();
        cloud.play(&json!({"caCertificateId": ca(), "dryRun": dry_run})).await;
        let report = cloud.reports().remove(0);
        assert!(report.contains("It is not registered with AWS IoT: check the ID."), "{report}");
        assert!(report.contains("0 found"), "{report}");
        assert!(cloud.subjects()[0].ends_with("AWS IoT does not know the CA"), "{:?}", cloud.subjects());
        // It may be registered later.
        assert_eq!(cloud.item(&format!("ca#{}", ca()), "status").is_some(), !dry_run);
    }
}

#[tokio::test(start_paused = true)]
async fn each_record_says_revoked_and_no_longer_expires() {
    let cloud = Cloud::with(1);
    cloud.register(&id(7), "INACTIVE", "");
    cloud.play(&whole_ca()).await;
    for number in [0, 7] {
        let record = cloud.record_of(number);
        assert_eq!((text(&record, "state"), text(&record, "reason")), (Some("revoked"), Some("ca-blocked")));
        assert_eq!((text(&record, "why"), text(&record, "revokedBy")), (Some("its key leaked"), Some("message-0")));
        assert_eq!((text(&record, "runsOutOn"), text(&record, "ownedUntil")), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn already_revoked_certificate_is_only_counted_and_recorded() {
    let cloud = Cloud::with(0);
    for (number, state) in [(1, "admitted"), (2, "refused"), (3, "revoked")] {
        cloud.register(&id(number), "REVOKED", "");
        cloud.record(&id(number), state);
    }
    cloud.register(&id(4), "REVOKED", "");
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(played.counts, counts(4, 0, 4, 0));
    let state =
        |number| cloud.item(&format!("certificate#{}", id(number)), "admission").map(|item| item["state"].clone());
    let says = |text: &str| Some(json!({"S": text}));
    assert_eq!([state(1), state(2), state(3), state(4)], [says("revoked"), says("refused"), says("revoked"), None]);
    assert_eq!(cloud.calls_to("UpdateCertificate"), 0);
}

#[tokio::test(start_paused = true)]
async fn second_command_finds_everything_revoked() {
    let cloud = Cloud::with(3);
    cloud.play(&whole_ca()).await;
    let blocked_at = |cloud: &Cloud| cloud.item(&format!("ca#{}", ca()), "status").unwrap()["blockedAt"].clone();
    let first = blocked_at(&cloud);
    sleep(Duration::from_hours(1)).await;
    let again = json!({"caCertificateId": ca()});
    let (is_deleted, _) = cloud.deliver("message-of-another-day", &again.to_string()).await;
    assert!(is_deleted);
    let next = cloud.take_sent().pop().unwrap();
    let (_, counted) = cloud.deliver("its-second-step", &next.body).await;
    assert_eq!(counted, counts(3, 0, 3, 0));
    assert_eq!(blocked_at(&cloud), first);
    assert_eq!(cloud.subjects().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn five_thousand_certificates_are_each_revoked_once() {
    let mut cloud = Cloud::with(5_000);
    cloud.timeout = Duration::from_secs(40);
    for number in (0..5_000).step_by(50) {
        cloud.set_status(&id(number), "REVOKED");
    }
    let played = cloud.play(&whole_ca()).await;
    assert!(played.messages.len() > 16, "{} continuations", played.messages.len());
    assert_eq!(played.dead_letters, Vec::<String>::new());
    assert_eq!(played.counts, counts(5_000, 4_900, 100, 0));
    assert!(cloud.reports()[0].contains("5000 found, 4900 revoked, 100 had been revoked, 0 failed"));
    assert!(cloud.are_all_revoked());
    let state = cloud.aws.state();
    let revocations = state.calls_to("UpdateCertificate");
    assert_eq!(revocations.len(), 4_900);
    // Eight per second, within each invocation.
    let pace = Duration::from_millis(125);
    let too_fast = |pair: &&[&Call]| pair[0].process == pair[1].process && pair[1].at.since(pair[0].at) < pace;
    assert_eq!(revocations.windows(2).filter(too_fast).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn step_hands_over_while_a_third_of_its_time_is_left() {
    let mut cloud = Cloud::with(1_000);
    cloud.timeout = Duration::from_secs(40);
    let began = cloud.now();
    cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(cloud.now().since(began) < Duration::from_secs(27), "{:?}", cloud.now().since(began));
    let SentMessage { body, delay } = cloud.take_sent().pop().unwrap();
    let expected = json!({"caCertificateId": ca(), "run": "message-0", "step": 2});
    assert_eq!((serde_json::from_str::<Value>(&body).unwrap(), delay), (expected, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_delivered_twice_do_not_fork_a_run() {
    let mut cloud = Cloud::with(600);
    cloud.timeout = Duration::from_secs(40);
    let played = cloud.play_each(&whole_ca(), 2, |_, _| {}).await;
    let steps: Vec<_> =
        played.messages.iter().map(|body| serde_json::from_str::<Value>(body).unwrap()["step"].clone()).collect();
    assert_eq!(steps, (2..2 + steps.len()).map(Value::from).collect::<Vec<_>>());
    assert_eq!(played.deliveries, 2 * (1 + steps.len()));
    assert_eq!(played.counts["Revoked"], 600);
    assert_eq!((cloud.reports().len(), cloud.calls_to("UpdateCertificate")), (1, 600));
}

#[tokio::test(start_paused = true)]
async fn leased_step_is_retried_until_the_lease_expires() {
    let cloud = Cloud::with(3);
    cloud.aws.fail(9, Fault::DiesAfter);
    let (is_deleted, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(!is_deleted);
    let (is_deleted, counted) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert_eq!((is_deleted, counted), (false, BTreeMap::new()));
    sleep(cloud.timeout + Duration::from_millis(1)).await;
    let (is_deleted, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(is_deleted);
}

#[tokio::test(start_paused = true)]
async fn second_sweep_catches_what_was_activated_during_the_first() {
    let cloud = Cloud::with(3);
    let began = cloud.now();
    // Admissions in progress activate certificates, but their processes die before the last check.
    let activate = |cloud: &Cloud, deliveries| {
        if deliveries == 1 {
            assert_eq!(cloud.status(&id(1)), "REVOKED");
            cloud.set_status(&id(1), "ACTIVE");
            cloud.register(&id(9), "ACTIVE", "");
        }
    };
    let played = cloud.play_each(&whole_ca(), 1, activate).await;
    assert_eq!((cloud.status(&id(1)), cloud.status(&id(9))), ("REVOKED".to_owned(), "REVOKED".to_owned()));
    assert_eq!((played.deliveries, played.counts), (2, counts(4, 4, 0, 0)));
    assert!(cloud.now().since(began) >= Duration::from_mins(2));
}

#[tokio::test(start_paused = true)]
async fn failed_revocations_are_caught_by_a_later_sweep() {
    let cloud = Cloud::with(6);
    cloud.fail_revocations([(id(1), 1), (id(2), 2), (id(3), 3)]);
    let played = cloud.play(&whole_ca()).await;
    assert_eq!((played.deliveries, played.counts), (4, counts(6, 6, 0, 0)));
    assert_eq!(cloud.subjects(), ["Revocation complete: 6 revoked"]);
}

#[tokio::test(start_paused = true)]
async fn permanent_failure_is_listed_in_the_report_and_counted() {
    let cloud = Cloud::with(4);
    cloud.fail_revocations([(id(1), 1), (id(2), usize::MAX)]);
    let played = cloud.play(&whole_ca()).await;
    assert_eq!((played.deliveries, played.counts), (3, counts(4, 3, 0, 1)));
    let report = &cloud.reports()[0];
    assert!(report.contains("1 could not be revoked and may still connect"), "{report}");
    assert!(report.ends_with(&format!("Failed:\n{}", id(2))), "{report}");
    assert_eq!(cloud.status(&id(3)), "REVOKED");
}

#[tokio::test(start_paused = true)]
async fn dry_run_changes_nothing_and_lists_what_it_would_revoke() {
    let cloud = Cloud::with(25);
    cloud.register(&id(100), "REVOKED", "");
    let records = |cloud: &Cloud| {
        let state = cloud.aws.state();
        let all = state.items("devices").map(|(key, item)| (key.to_vec(), item.clone()));
        all.filter(|(key, _)| !key[1].starts_with("revocation#")).collect::<Vec<_>>()
    };
    let before = records(&cloud);
    let played = cloud.play(&json!({"caCertificateId": ca(), "dryRun": true})).await;
    assert_eq!((played.deliveries, played.counts), (1, BTreeMap::new()));
    assert_eq!(records(&cloud), before);
    assert_eq!(cloud.changes(), Vec::<String>::new());
    let state = cloud.aws.state();
    let updates: Vec<_> = state.calls.iter().filter(|call| call.operation.starts_with("Update")).collect();
    assert_eq!(updates.iter().map(|call| call.name.as_str()).collect::<Vec<_>>(), ["UpdateItem idempotency"]);
    drop(state);
    let report = &cloud.reports()[0];
    assert!(report.contains("26 found, 25 would be revoked, 1 had been revoked"), "{report}");
    assert_eq!(report.lines().filter(|line| line.len() == 64).count(), 20);
    assert!(report.ends_with("and 5 more; the function's log names them."), "{report}");
}

#[tokio::test(start_paused = true)]
async fn run_without_progress_is_stopped_and_counted_as_failed() {
    let cloud = Cloud::with(3);
    let is_broken = Arc::new(AtomicBool::new(true));
    let breaks = Arc::clone(&is_broken);
    cloud.aws.fail_when("ListCertificatesByCA", move |_| breaks.load(Relaxed).then_some(Fault::Denied));
    let played = cloud.play(&whole_ca()).await;
    assert_eq!((played.deliveries, played.dead_letters), (4, Vec::new()));
    assert_eq!(played.counts["Failed"], 1);
    assert_eq!(cloud.subjects(), ["Revocation stopped: no progress"]);
    assert_eq!(cloud.quarantined()[0].0, "no-progress");
    is_broken.store(false, Relaxed);
    let (is_deleted, _) = cloud.deliver("another-order", &whole_ca().to_string()).await;
    assert!(is_deleted);
    assert_eq!(cloud.status(&id(2)), "REVOKED");
}

#[tokio::test(start_paused = true)]
async fn unprocessed_keys_are_read_again() {
    let cloud = Cloud::with(4);
    cloud.aws.state().max_batch_get = Some(1);
    cloud.set_status(&id(3), "REVOKED");
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(played.counts, counts(4, 3, 1, 0));
    let record = cloud.record_of(3);
    assert_eq!((text(&record, "state"), text(&record, "reason")), (Some("revoked"), Some("found-revoked")));
}

#[tokio::test(start_paused = true)]
async fn unregistered_ca_is_blocked_all_the_same() {
    let cloud = Cloud::with(0);
    cloud.aws.state().iot.cas.clear();
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(played.counts, counts(0, 0, 0, 0));
    assert!(cloud.item(&format!("ca#{}", ca()), "status").is_some());
}

#[tokio::test(start_paused = true)]
async fn certificate_that_is_deleted_meanwhile_is_not_counted() {
    let cloud = Cloud::with(2);
    let forget = |cloud: &Cloud, _| drop(cloud.aws.state().iot.certificates.remove(&id(1)));
    let played = cloud.play_each(&whole_ca(), 1, forget).await;
    assert_eq!(played.counts, counts(1, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_certificate_is_blocked_revoked_and_checked_again() {
    let cloud = Cloud::with(3);
    let command = json!({"certificateId": id(1).to_uppercase(), "reason": "the device was stolen"});
    let activate = |cloud: &Cloud, deliveries| {
        if deliveries == 1 {
            cloud.set_status(&id(1), "ACTIVE");
        }
    };
    let played = cloud.play_each(&command, 1, activate).await;
    assert_eq!((played.deliveries, played.counts), (2, counts(1, 1, 0, 0)));
    let revoked = format!("REVOKED {}", id(1));
    assert_eq!(cloud.changes(), ["blocked".to_owned(), revoked.clone(), revoked]);
    let record = cloud.record_of(1);
    assert_eq!((&record["blocked"], text(&record, "state")), (&json!({"BOOL": true}), Some("revoked")));
    assert_eq!((text(&record, "reason"), text(&record, "why")), (Some("blocked"), Some("the device was stolen")));
    assert_eq!(cloud.status(&id(0)), "ACTIVE");
    assert_eq!(cloud.aws.state().iot.cas[&ca()].status, "ACTIVE");
    assert!(cloud.reports()[0].starts_with(&format!("Certificate {} is blocked and revoked.", id(1))));
    assert_eq!(cloud.aws.state().published[0].attributes["certificateId"], id(1));
}

#[tokio::test(start_paused = true)]
async fn unregistered_certificate_is_blocked_in_advance() {
    let cloud = Cloud::with(0);
    let played = cloud.play(&json!({"certificateId": id(5)})).await;
    assert_eq!(played.counts, counts(0, 0, 0, 0));
    let record = cloud.record_of(5);
    assert_eq!(record["blocked"], json!({"BOOL": true}));
    assert!(cloud.reports()[0].contains("It is not registered with AWS IoT"));
}

#[tokio::test(start_paused = true)]
async fn bare_invocation_starts_a_run_like_a_message() {
    let cloud = Cloud::with(1);
    assert!(cloud.invoke(&whole_ca()).await.is_done());
    let SentMessage { body, delay } = cloud.take_sent().pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["run"], "request-1");
    assert_eq!(delay, Duration::from_mins(2));
    let (is_deleted, counted) = cloud.deliver("message-1", &body).await;
    assert_eq!((is_deleted, counted), (true, counts(1, 1, 0, 0)));
}

fn sample(name: &str) -> String {
    workspace_file(&format!("events/revoke/{name}"))
}

#[tokio::test(start_paused = true)]
async fn every_bad_sample_is_quarantined_and_changes_nothing() {
    for (name, reason, why) in [
        ("no-subject.json", "bad-order", "exactly one of `caCertificateId` and `certificateId`"),
        ("both.json", "bad-order", "exactly one of `caCertificateId` and `certificateId`"),
        ("bad-id.json", "invalid-value", "Field `caCertificateId` must be 64 hexadecimal digits."),
        ("unknown-field.json", "unknown-field", "Field `dryrun` is unknown; the name must be one of `caCertificateId`"),
        ("wrong-type.json", "wrong-type", "Field `dryRun` must be a boolean."),
        ("unknown-run.json", "unknown-run", "There is no run of this id at this step."),
    ] {
        let cloud = Cloud::with(1);
        let (is_deleted, _) = cloud.deliver("message-0", &sample(name)).await;
        assert!(is_deleted, "{name}");
        let quarantined = cloud.quarantined();
        assert_eq!((quarantined.len(), &*quarantined[0].0), (1, reason), "{name}");
        assert!(quarantined[0].1.contains(why), "{name}: {}", quarantined[0].1);
        assert_eq!(cloud.changes(), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_good_sample_is_a_command() {
    for name in ["ca.json", "dry-run.json", "crl.json", "certificate.json"] {
        let command: revoke::command::RevocationCommand = serde_json::from_str(&sample(name)).unwrap();
        assert!(command.parse().is_ok(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_environment_variable_is_named() {
    let cloud = Cloud::with(0);
    let error = |name, value| handler(&cloud.aws.process().env(name, value)).unwrap_err().to_string();
    for (name, value) in
        [("REVOCATIONS_PER_SECOND", "0"), ("REVOCATIONS_PER_SECOND", "1001"), ("RESWEEP_DELAY_SECONDS", "901")]
    {
        let error = error(name, value);
        assert!(error.starts_with(&format!("environment variable {name} is \"{value}\"")), "{error}");
    }
    assert!(error("QUEUE_URL", "").contains("QUEUE_URL is missing"));
}
