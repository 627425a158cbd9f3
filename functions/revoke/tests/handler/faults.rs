//! Each call of a run goes wrong once, in each way: an error, a lost answer, the process's death before and after it.

use std::time::Duration;

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemOutput};
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_iot::types::{CaCertificateStatus, CertificateStatus};
use aws_smithy_mocks::{RuleMode, mock, mock_client};
use gatehouse::{Invocation, Devices, Environment};
use revoke::journal::{Journal, Taken};
use revoke::order::{Job, Subject};
use serde_json::{Value, json};

use crate::cloud::{Cloud, FAULTS, Fault, ca, id};
use crate::whole_ca;

/// Five certificates on three pages, two of them revoked before, in an invocation that has time for two.
fn small() -> Cloud {
    let mut cloud = Cloud::with(4);
    cloud.register(&id(4), CertificateStatus::PendingActivation, "");
    cloud.deadline = Duration::from_millis(450);
    cloud.change(|state| {
        state.page = Some(2);
        state.devices[1].status = CertificateStatus::Revoked;
        state.devices[3].status = CertificateStatus::Revoked;
    });
    cloud
}

/// A fault that is not there is told by its number: the run has fewer calls.
async fn play_with(order: &Value, cloud: Cloud, at: usize, fault: Fault) -> Option<(Cloud, crate::cloud::Played)> {
    cloud.change(|state| state.fault = Some((at, fault)));
    let played = cloud.play(order).await;
    cloud.change(|state| state.fault.is_none()).then_some((cloud, played))
}

#[tokio::test(start_paused = true)]
async fn whatever_call_of_a_run_goes_wrong_the_end_is_the_same_and_the_counts_are_right() {
    for fault in FAULTS {
        let mut at = 0;
        while let Some((cloud, played)) = play_with(&whole_ca(), small(), at, fault).await {
            let what = format!("{fault:?} at call {at}");
            assert_eq!(played.dead_letters, Vec::<String>::new(), "{what}");
            let reports = cloud.reports();
            // SNS has no idempotency: a publication whose answer is lost is made again.
            assert!((1..=2).contains(&reports.len()), "{what}: {} reports", reports.len());
            for report in reports {
                let counts = "5 found, 3 revoked, 2 had been revoked, 0 failed.";
                assert!(report.contains(counts), "{what}: {report}");
            }
            cloud.change(|state| {
                let block = state.changes.iter().position(|change| change == "blocked").unwrap();
                let shut = state.changes.iter().position(|change| change == "CA INACTIVE DISABLE").unwrap();
                let first = state.changes.iter().position(|change| change.starts_with("REVOKED")).unwrap();
                assert!(block < shut && shut < first, "{what}: {:?}", state.changes);
                assert_eq!(state.ca.as_ref().unwrap().0, CaCertificateStatus::Inactive, "{what}");
                assert!(state.devices.iter().all(|device| device.status == CertificateStatus::Revoked), "{what}");
                let runs = state.table("devices").iter().filter(|((_, part), _)| part.starts_with("revocation#"));
                let runs: Vec<_> = runs.map(|(_, item)| item["run"].as_s().unwrap().clone()).collect();
                assert!(runs.len() == 1 && runs[0].contains(r#""phase":"over""#), "{what}: {runs:?}");
            });
            for number in 0..5 {
                let record = cloud.item(&format!("certificate#{}", id(number)), "admission").unwrap();
                assert_eq!(record["state"].as_s().unwrap(), "revoked", "{what}: {number}");
            }
            at += 1;
        }
        assert!(at >= 40, "{fault:?}: {at} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_call_of_a_run_about_one_certificate_goes_wrong_it_is_blocked_before_it_is_revoked() {
    let order = json!({"certificateId": id(0)});
    for fault in FAULTS {
        let mut at = 0;
        while let Some((cloud, played)) = play_with(&order, Cloud::with(1), at, fault).await {
            let what = format!("{fault:?} at call {at}");
            assert_eq!(played.dead_letters, Vec::<String>::new(), "{what}");
            assert_eq!(cloud.status(&id(0)), CertificateStatus::Revoked, "{what}");
            assert_eq!(cloud.change(|state| state.changes[0].clone()), "blocked", "{what}");
            let report = cloud.reports().pop().unwrap();
            assert!(report.contains("1 found, 1 revoked, 0 had been revoked, 0 failed"), "{what}: {report}");
            at += 1;
        }
        assert!(at > 10, "{fault:?}: {at} calls");
    }
}

/// The table takes the run, but the answer is lost: the SDK sends the request again, and meets what it had put itself.
#[tokio::test(start_paused = true)]
async fn a_step_whose_answer_was_lost_is_recognised_as_our_own_by_its_owner() {
    let cloud = Cloud::with(0);
    let [get, ..] = cloud.dynamodb();
    let (puts, shown) = (cloud.clone(), cloud.clone());
    let key = (format!("ca#{}", ca()), "revocation#run-1".to_owned());
    let put = mock!(DynamoDb::put_item)
        .match_requests(move |input| puts.change(|state| state.put(input).is_ok()))
        .sequence()
        .http_status(500, None)
        .error(move || {
            let item = shown.change(|state| state.table("devices").get(&key).cloned());
            let refused = ConditionalCheckFailedException::builder().set_item(item).build();
            PutItemError::ConditionalCheckFailedException(refused)
        })
        .output(|| PutItemOutput::builder().build())
        .build();
    let client = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, [&get, &put]);
    let environment: Environment = [("DEVICES_TABLE", "devices")].into_iter().collect();
    let journal = Journal::new(Devices::from(&environment, client).unwrap());
    let invocation = Invocation::new("request-1", cloud.now(), cloud.now().plus(cloud.deadline));
    let subject = Subject::CaCertificate(gatehouse::CertificateId::new(&ca()).unwrap());
    let taken = journal.take(&subject, "run-1", 1, Some(&Job::default()), &invocation).await.unwrap();
    let Taken::Ours(mut entry) = taken else { panic!("it is not ours") };
    assert_eq!(put.num_calls(), 2);
    journal.keep(&mut entry, &invocation).await.unwrap();
}
