//! The whole function but for the Lambda runtime: an order goes in, calls to AWS come out, and the messages that the
//! function sends itself come back to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::result_large_err,
    reason = "a test says what it expects by failing there"
)]

mod cloud;
mod faults;
mod listed;

use std::path::Path;
use std::time::Duration;
use std::{collections::BTreeMap, fs};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iot::types::{CaCertificateStatus, CertificateStatus};
use aws_smithy_mocks::{RuleMode, mock_client};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cloud::{Cloud, Item, ca, id};

fn whole_ca() -> Value {
    json!({"caCertificateId": ca(), "reason": "its key leaked"})
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name).map(|value| value.as_s().unwrap().as_str())
}

fn counts(found: u64, revoked: u64, already_revoked: u64, failed: u64) -> BTreeMap<&'static str, u64> {
    [("Found", found), ("Revoked", revoked), ("AlreadyRevoked", already_revoked), ("Failed", failed)].into()
}

#[tokio::test(start_paused = true)]
async fn the_block_comes_before_the_ca_and_that_before_its_certificates() {
    let cloud = Cloud::with(2);
    let played = cloud.play(&whole_ca()).await;
    let revoked = |number| format!("REVOKED {}", id(number));
    cloud.change(|state| {
        assert_eq!(state.changes, ["blocked".to_owned(), "CA INACTIVE DISABLE".to_owned(), revoked(0), revoked(1)]);
    });
    let block = cloud.item(&format!("ca#{}", ca()), "status").unwrap();
    assert_eq!((&block["blocked"], text(&block, "blockReason")), (&AttributeValue::Bool(true), Some("its key leaked")));
    assert_eq!(played.counted, counts(2, 2, 0, 0));
    assert_eq!(cloud.subjects(), ["Revocation complete: 2 revoked"]);
    let told = cloud.change(|state| state.published[0].message_attributes().unwrap().clone());
    assert_eq!(told["caCertificateId"].string_value(), Some(&*ca()));
    assert_eq!(told["eventId"].string_value(), Some("message-0"));
}

#[tokio::test(start_paused = true)]
async fn each_record_says_that_its_certificate_is_revoked_and_runs_out_no_more() {
    let cloud = Cloud::with(1);
    cloud.register(&id(7), CertificateStatus::Inactive, "");
    cloud.play(&whole_ca()).await;
    for number in [0, 7] {
        let record = cloud.item(&format!("certificate#{}", id(number)), "admission").unwrap();
        assert_eq!((text(&record, "state"), text(&record, "reason")), (Some("revoked"), Some("ca-blocked")));
        assert_eq!((text(&record, "why"), text(&record, "revokedBy")), (Some("its key leaked"), Some("message-0")));
        assert_eq!((text(&record, "runsOutOn"), text(&record, "ownedUntil")), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_revoked_before_is_only_counted_and_its_record_put_right_where_it_is_wrong() {
    let cloud = Cloud::with(0);
    for (number, state) in [(1, "admitted"), (2, "refused"), (3, "revoked")] {
        cloud.register(&id(number), CertificateStatus::Revoked, "");
        cloud.record(&id(number), state);
    }
    cloud.register(&id(4), CertificateStatus::Revoked, "");
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(played.counted, counts(4, 0, 4, 0));
    let state =
        |number| cloud.item(&format!("certificate#{}", id(number)), "admission").map(|item| item["state"].clone());
    let says = |text: &str| Some(AttributeValue::S(text.to_owned()));
    assert_eq!([state(1), state(2), state(3), state(4)], [says("revoked"), says("refused"), says("revoked"), None]);
    assert_eq!(cloud.change(|state| state.made.get("UpdateCertificate").copied()), None);
}

#[tokio::test(start_paused = true)]
async fn a_second_order_finds_everything_revoked_and_keeps_the_day_of_the_first_block() {
    let cloud = Cloud::with(3);
    cloud.play(&whole_ca()).await;
    let blocked_at = |cloud: &Cloud| cloud.item(&format!("ca#{}", ca()), "status").unwrap()["blockedAt"].clone();
    let first = blocked_at(&cloud);
    sleep(Duration::from_hours(1)).await;
    let again = json!({"caCertificateId": ca()});
    let (is_done, _) = cloud.deliver("message-of-another-day", &again.to_string()).await;
    assert!(is_done);
    let (next, _) = cloud.take_sent().pop().unwrap();
    let (_, invocation) = cloud.deliver("its-second-step", &next).await;
    assert_eq!(invocation.counts(), counts(3, 0, 3, 0));
    assert_eq!(blocked_at(&cloud), first);
    assert_eq!(cloud.subjects().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn five_thousand_certificates_over_more_than_16_continuations_are_revoked_each_once_and_counted_right() {
    let mut cloud = Cloud::with(5_000);
    cloud.deadline = Duration::from_secs(40);
    for number in (0..5_000).step_by(50) {
        cloud.change(|state| state.devices[number].status = CertificateStatus::Revoked);
    }
    let played = cloud.play(&whole_ca()).await;
    assert!(played.messages.len() > 16, "{} continuations", played.messages.len());
    assert_eq!(played.dead_letters, Vec::<String>::new());
    assert_eq!(played.counted, counts(5_000, 4_900, 100, 0));
    assert!(cloud.reports()[0].contains("5000 found, 4900 revoked, 100 had been revoked, 0 failed"));
    cloud.change(|state| {
        assert!(state.devices.iter().all(|device| device.status == CertificateStatus::Revoked));
        assert_eq!(state.made["UpdateCertificate"], 4_900);
        // Eight a second, within each invocation.
        let pace = Duration::from_millis(125);
        let too_fast = |pair: &&[(usize, tokio::time::Instant)]| pair[0].0 == pair[1].0 && pair[1].1 - pair[0].1 < pace;
        assert_eq!(state.revocations.windows(2).filter(too_fast).count(), 0);
    });
}

#[tokio::test(start_paused = true)]
async fn an_invocation_hands_on_while_a_third_of_its_time_is_left() {
    let mut cloud = Cloud::with(1_000);
    cloud.deadline = Duration::from_secs(40);
    let began = cloud.now();
    cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(cloud.now().since(began) < Duration::from_secs(27), "{:?}", cloud.now().since(began));
    let (message, delay) = cloud.take_sent().pop().unwrap();
    let expected = json!({"caCertificateId": ca(), "run": "message-0", "step": 2});
    assert_eq!((serde_json::from_str::<Value>(&message).unwrap(), delay), (expected, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_twice_do_not_make_two_of_a_run() {
    let mut cloud = Cloud::with(600);
    cloud.deadline = Duration::from_secs(40);
    let played = cloud.play_each(&whole_ca(), 2, |_, _| {}).await;
    let steps: Vec<_> =
        played.messages.iter().map(|body| serde_json::from_str::<Value>(body).unwrap()["step"].clone()).collect();
    assert_eq!(steps, (2..2 + steps.len()).map(Value::from).collect::<Vec<_>>());
    assert_eq!(played.deliveries, 2 * (1 + steps.len()));
    assert_eq!(played.counted["Revoked"], 600);
    assert_eq!((cloud.reports().len(), cloud.change(|state| state.made["UpdateCertificate"])), (1, 600));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_another_process_is_at_is_handed_back_until_that_ones_time_is_over() {
    let cloud = Cloud::with(3);
    cloud.change(|state| state.fault = Some((8, cloud::Fault::CrashAfter)));
    let (is_done, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(!is_done);
    let (is_done, invocation) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert_eq!((is_done, invocation.counts()), (false, BTreeMap::new()));
    sleep(cloud.deadline + Duration::from_millis(1)).await;
    let (is_done, _) = cloud.deliver("message-0", &whole_ca().to_string()).await;
    assert!(is_done);
}

#[tokio::test(start_paused = true)]
async fn the_second_sweep_catches_a_certificate_that_was_activated_behind_the_first() {
    let cloud = Cloud::with(3);
    let began = cloud.now();
    // What an admission does that was under way, and whose process died before it looked again.
    let activate = |cloud: &Cloud, deliveries| {
        if deliveries == 1 {
            assert_eq!(cloud.status(&id(1)), CertificateStatus::Revoked);
            cloud.change(|state| state.devices[1].status = CertificateStatus::Active);
            cloud.register(&id(9), CertificateStatus::Active, "");
        }
    };
    let played = cloud.play_each(&whole_ca(), 1, activate).await;
    assert_eq!((cloud.status(&id(1)), cloud.status(&id(9))), (CertificateStatus::Revoked, CertificateStatus::Revoked));
    assert_eq!((played.deliveries, played.counted), (2, counts(4, 4, 0, 0)));
    assert!(cloud.now().since(began) >= Duration::from_mins(2));
}

#[tokio::test(start_paused = true)]
async fn what_is_throttled_is_counted_as_failed_and_caught_by_a_later_sweep() {
    let cloud = Cloud::with(6);
    cloud.change(|state| state.throttled = [(id(1), 1), (id(2), 2), (id(3), 3)].into());
    let played = cloud.play(&whole_ca()).await;
    assert_eq!((played.deliveries, played.counted), (4, counts(6, 6, 0, 0)));
    assert_eq!(cloud.subjects(), ["Revocation complete: 6 revoked"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_good_is_named_in_the_report_and_counted_for_the_alarm() {
    let cloud = Cloud::with(4);
    cloud.change(|state| state.throttled = [(id(1), 1), (id(2), usize::MAX)].into());
    let played = cloud.play(&whole_ca()).await;
    assert_eq!((played.deliveries, played.counted), (3, counts(4, 3, 0, 1)));
    let report = &cloud.reports()[0];
    assert!(report.contains("1 could not be revoked and may still connect"), "{report}");
    assert!(report.ends_with(&format!("Failed:\n{}", id(2))), "{report}");
    assert_eq!(cloud.status(&id(3)), CertificateStatus::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing_but_its_own_progress_and_names_what_it_would_revoke() {
    let cloud = Cloud::with(25);
    cloud.register(&id(100), CertificateStatus::Revoked, "");
    let records = |cloud: &Cloud| {
        let of_run = |(_, part): &(String, String)| part.starts_with("revocation#");
        let all = cloud.change(|state| state.table("devices").clone());
        all.into_iter().filter(|(key, _)| !of_run(key)).collect::<Vec<_>>()
    };
    let before = records(&cloud);
    let played = cloud.play(&json!({"caCertificateId": ca(), "dryRun": true})).await;
    assert_eq!((played.deliveries, played.counted), (1, BTreeMap::new()));
    assert_eq!(records(&cloud), before);
    cloud.change(|state| {
        assert_eq!(state.changes, Vec::<String>::new());
        let written = state.made.keys().filter(|invocation| invocation.starts_with("Update")).collect::<Vec<_>>();
        // The idempotency table's mark.
        assert_eq!((written, state.made["UpdateItem"]), (vec![&"UpdateItem"], 1));
    });
    let report = &cloud.reports()[0];
    assert!(report.contains("26 found, 25 would be revoked, 1 had been revoked"), "{report}");
    assert_eq!(report.lines().filter(|line| line.len() == 64).count(), 20);
    assert!(report.ends_with("and 5 more; the function's log names them."), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_gets_no_further_is_ended_told_and_counted_as_failed() {
    let cloud = Cloud::with(3);
    cloud.change(|state| state.is_listing_broken = true);
    let played = cloud.play(&whole_ca()).await;
    assert_eq!((played.deliveries, played.dead_letters), (4, Vec::new()));
    assert_eq!(played.counted["Failed"], 1);
    assert_eq!(cloud.subjects(), ["Revocation stopped before its end"]);
    assert_eq!(cloud.quarantined()[0].0, "no-progress");
    cloud.change(|state| state.is_listing_broken = false);
    let (is_done, _) = cloud.deliver("another-order", &whole_ca().to_string()).await;
    assert!(is_done);
    assert_eq!(cloud.status(&id(2)), CertificateStatus::Revoked);
}

#[tokio::test(start_paused = true)]
async fn items_that_dynamodb_leaves_unread_are_asked_for_again() {
    let cloud = Cloud::with(4);
    cloud.change(|state| {
        state.batch = Some(1);
        state.devices[3].status = CertificateStatus::Revoked;
    });
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(played.counted, counts(4, 3, 1, 0));
    let record = cloud.item(&format!("certificate#{}", id(3)), "admission").unwrap();
    assert_eq!((text(&record, "state"), text(&record, "reason")), (Some("revoked"), Some("found-revoked")));
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_aws_iot_does_not_know_is_blocked_all_the_same() {
    let cloud = Cloud::with(0);
    cloud.change(|state| state.ca = None);
    let played = cloud.play(&whole_ca()).await;
    assert_eq!(played.counted, counts(0, 0, 0, 0));
    assert!(cloud.item(&format!("ca#{}", ca()), "status").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_deleted_meanwhile_is_not_counted() {
    let cloud = Cloud::with(2);
    let forget = |cloud: &Cloud, _| cloud.change(|state| state.devices.truncate(1));
    let played = cloud.play_each(&whole_ca(), 1, forget).await;
    assert_eq!(played.counted, counts(1, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_certificate_is_blocked_then_revoked_and_looked_at_again() {
    let cloud = Cloud::with(3);
    let order = json!({"certificateId": id(1).to_uppercase(), "reason": "the device was stolen"});
    let activate = |cloud: &Cloud, deliveries| {
        if deliveries == 1 {
            cloud.change(|state| state.devices[1].status = CertificateStatus::Active);
        }
    };
    let played = cloud.play_each(&order, 1, activate).await;
    assert_eq!((played.deliveries, played.counted), (2, counts(1, 1, 0, 0)));
    let revoked = format!("REVOKED {}", id(1));
    cloud.change(|state| assert_eq!(state.changes, ["blocked".to_owned(), revoked.clone(), revoked]));
    let record = cloud.item(&format!("certificate#{}", id(1)), "admission").unwrap();
    assert_eq!((&record["blocked"], text(&record, "state")), (&AttributeValue::Bool(true), Some("revoked")));
    assert_eq!((text(&record, "reason"), text(&record, "why")), (Some("blocked"), Some("the device was stolen")));
    assert_eq!(cloud.status(&id(0)), CertificateStatus::Active);
    assert_eq!(cloud.change(|state| state.ca.clone().unwrap().0), CaCertificateStatus::Active);
    assert!(cloud.reports()[0].starts_with(&format!("Certificate {} is blocked and revoked.", id(1))));
    let told = cloud.change(|state| state.published[0].message_attributes().unwrap().clone());
    assert_eq!(told["certificateId"].string_value(), Some(&*id(1)));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_has_never_knocked_is_blocked_before_it_can() {
    let cloud = Cloud::with(0);
    let played = cloud.play(&json!({"certificateId": id(5)})).await;
    assert_eq!(played.counted, counts(0, 0, 0, 0));
    let record = cloud.item(&format!("certificate#{}", id(5)), "admission").unwrap();
    assert_eq!(record["blocked"], AttributeValue::Bool(true));
    assert!(cloud.reports()[0].contains("AWS IoT does not know it"));
}

#[tokio::test(start_paused = true)]
async fn a_bare_invocation_begins_a_run_as_a_message_does() {
    let cloud = Cloud::with(1);
    let (answer, _) = cloud.invoke(&whole_ca()).await;
    assert_eq!(answer, Ok(json!({"outcome": "done"})));
    let (message, delay) = cloud.take_sent().pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&message).unwrap()["run"], "request-1");
    assert_eq!(delay, Duration::from_mins(2));
    let (is_done, invocation) = cloud.deliver("message-1", &message).await;
    assert_eq!((is_done, invocation.counts()), (true, counts(1, 1, 0, 0)));
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/revoke").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test(start_paused = true)]
async fn every_bad_sample_goes_to_quarantine_with_its_reason_and_changes_nothing() {
    for (name, reason, why) in [
        ("no-subject.json", "bad-order", "exactly one of `caCertificateId` and `certificateId`"),
        ("both.json", "bad-order", "exactly one of `caCertificateId` and `certificateId`"),
        ("bad-id.json", "invalid-value", "Field `caCertificateId` must be 64 hexadecimal digits."),
        ("unknown-field.json", "unknown-field", "A field that is not known stands there; it must be one of `ca"),
        ("wrong-type.json", "wrong-type", "Field `dryRun` must be a boolean."),
        ("unknown-run.json", "unknown-run", "There is no run of this id at this step."),
    ] {
        let cloud = Cloud::with(1);
        let (is_done, _) = cloud.deliver("message-0", &sample(name)).await;
        assert!(is_done, "{name}");
        let quarantined = cloud.quarantined();
        assert_eq!((quarantined.len(), &*quarantined[0].0), (1, reason), "{name}");
        assert!(quarantined[0].1.contains(why), "{name}: {}", quarantined[0].1);
        assert_eq!(cloud.change(|state| state.changes.len()), 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_good_sample_is_an_order() {
    for name in ["ca.json", "dry-run.json", "crl.json", "certificate.json"] {
        let order: revoke::order::Order = serde_json::from_str(&sample(name)).unwrap();
        assert!(order.read().is_ok(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_in_the_environment_is_named() {
    let cloud = Cloud::with(0);
    let dynamodb = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, &cloud.dynamodb());
    for (name, value) in
        [("REVOCATIONS_PER_SECOND", "0"), ("REVOCATIONS_PER_SECOND", "1001"), ("SWEEP_AGAIN_AFTER_SECONDS", "901")]
    {
        let error = cloud.revoke(dynamodb.clone(), &[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("environment variable {name} is \"{value}\"")), "{error}");
    }
    assert!(cloud.revoke(dynamodb, &[("QUEUE_URL", "")]).unwrap_err().to_string().contains("QUEUE_URL is missing"));
}
