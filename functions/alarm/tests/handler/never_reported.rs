//! Things that were admitted and have never reported.

use serde_json::{Value, json};
use test_support::{FAULTS, FakeAws, Fault, Published};

use crate::setup::*;

const HOUR: u64 = 60 * MINUTE;

fn rule() -> Value {
    let mut rule = two_levels();
    rule["neverReported"] = "1 h".into();
    rule
}

/// Puts a thing's name into the devices table, and other items beside it.
fn admit(aws: &FakeAws, thing: &str, millis: u64) {
    let pk = format!("thing#{thing}");
    let mut state = aws.state();
    state.set_attributes("devices", &[&pk, "name"], &json!({"claimedAt": {"N": (START + millis).to_string()}}));
    state.set_attributes("devices", &[&pk, "presence"], &json!({"connected": {"BOOL": true}}));
    state.set_attributes("devices", &[&format!("certificate#{thing}"), "admission"], &json!({}));
}

/// The things that were found, and when they became stale.
fn found(aws: &FakeAws) -> Vec<(String, u64)> {
    let state = aws.state();
    let found = state.published.iter().map(Published::data).filter(|data| data["to"] == "STALE");
    let mut found: Vec<_> =
        found.map(|data| (data["thing"].as_str().unwrap().to_owned(), data["at"].as_u64().unwrap() - START)).collect();
    found.sort();
    found
}

async fn check_each(aws: &FakeAws, minutes: std::ops::RangeInclusive<u64>) {
    for minute in minutes {
        assert!(check(aws, minute * MINUTE).await.is_done());
    }
}

#[tokio::test(start_paused = true)]
async fn admitted_thing_that_never_reports_is_stale_once() {
    let aws = account_with_rule(rule()).await;
    for thing in ["greenhouse-1", "greenhouse-2", "greenhouse-3", "tank-1"] {
        admit(&aws, thing, 10 * MINUTE);
    }
    deliver(&aws, &[event("e-1", "greenhouse-2", HOUR, json!({"lux": 50}))], HOUR).await;
    check_each(&aws, 61..=69).await;
    assert_eq!(found(&aws), []);
    check_each(&aws, 70..=95).await;
    let due = 70 * MINUTE;
    assert_eq!(found(&aws), [("greenhouse-1".to_owned(), due), ("greenhouse-3".to_owned(), due)]);
    assert_eq!(aws.state().published[0].text(), "too-bright: no data from greenhouse-1 for 1 h; it has never reported");
    check_each(&aws, 96..=200).await;
    assert_eq!(found(&aws).len(), 2);
    assert_eq!(history(&aws.state()), [entry(due, "never-reported", "NORMAL", "NORMAL")]);
    // The first reading ends the stale state.
    deliver(&aws, &[reading("e-2", 4 * HOUR, 50)], 4 * HOUR).await;
    assert_eq!(transitions(&aws), [to("STALE", due), to("OK", 4 * HOUR)]);
    let text = aws.state().published.last().map(Published::text);
    assert_eq!(text.as_deref(), Some("too-bright: greenhouse-1 reports for the first time (now 50)"));
    assert!(!has_pending(&aws.state()));
}

#[tokio::test(start_paused = true)]
async fn rule_counts_from_its_upload_however_often_it_is_uploaded() {
    let aws = empty_account();
    admit(&aws, "greenhouse-1", 0);
    assert!(put_rules(&aws, json!([rule()]), 10 * MINUTE).await.is_done());
    check_each(&aws, 11..=12).await;
    assert!(put_rules(&aws, json!([rule()]), 50 * MINUTE).await.is_done());
    check_each(&aws, 51..=69).await;
    assert_eq!(found(&aws), []);
    check_each(&aws, 70..=85).await;
    assert_eq!(found(&aws), [("greenhouse-1".to_owned(), 70 * MINUTE)]);
}

#[tokio::test(start_paused = true)]
async fn devices_are_read_only_if_a_rule_asks_and_rarely() {
    let aws = account_with_rule(two_levels()).await;
    for n in 0..3 {
        admit(&aws, &format!("greenhouse-{n}"), 0);
    }
    check_each(&aws, 1..=30).await;
    assert_eq!(aws.state().calls_to("Scan").len(), 0);
    assert!(put_rules(&aws, json!([rule()]), 31 * MINUTE).await.is_done());
    aws.reset_calls();
    check_each(&aws, 32..=61).await;
    // Nine items in pages of two, every ten minutes.
    let scans = aws.state().calls_to("Scan").len();
    assert!((15..=20).contains(&scans), "{scans}");
}

#[tokio::test(start_paused = true)]
async fn scan_continues_at_the_page_that_failed() {
    let aws = account_with_rule(rule()).await;
    for n in 0..5 {
        admit(&aws, &format!("greenhouse-{n}"), 0);
    }
    aws.reset_calls();
    aws.fail_next("Scan", [None, None, Some(Fault::Denied)]);
    assert!(!check(&aws, 61 * MINUTE).await.is_done());
    check_each(&aws, 62..=66).await;
    assert_eq!(found(&aws).len(), 5);
    // Fifteen items in pages of two, at most five pages per check: the failed page is read once more, no other is.
    assert_eq!(aws.state().calls_to("Scan").len(), 8 + 1);
}

#[tokio::test(start_paused = true)]
async fn scan_for_a_new_rule_stays_due_if_its_first_page_fails() {
    let aws = account_with_rule(two_levels()).await;
    admit(&aws, "greenhouse-1", 0);
    assert!(put_rules(&aws, json!([rule()]), 0).await.is_done());
    check_each(&aws, 1..=1).await;
    let mut second = rule();
    second["name"] = "second".into();
    assert!(put_rules(&aws, json!([rule(), second]), MINUTE).await.is_done());
    aws.reset_calls();
    aws.fail_next("Scan", [Some(Fault::Denied)]);
    assert!(!check(&aws, 2 * MINUTE).await.is_done());
    assert_eq!(aws.state().calls_to("Scan").len(), 1);
    check_each(&aws, 3..=3).await;
    assert!(aws.state().calls_to("Scan").len() > 1, "it is not put off until the next scan");
}

#[tokio::test(start_paused = true)]
async fn any_failed_call_finds_the_thing_once() {
    let prepared = async || {
        let aws = account_with_rule(rule()).await;
        admit(&aws, "greenhouse-1", 0);
        aws
    };
    let calls = {
        let aws = prepared().await;
        let process = aws.process();
        deliver_to(&process, &check_command(), at(61 * MINUTE)).await;
        process.call_count()
    };
    // The queries of the due index come first.
    for call in 17..=calls {
        for fault in FAULTS {
            let aws = prepared().await;
            deliver_to(&aws.process().fail(call, fault), &check_command(), at(61 * MINUTE)).await;
            for minute in [63, 75, 90] {
                check_each(&aws, minute..=minute).await;
            }
            let name = format!("call {call} {fault:?}");
            let mut things = found(&aws);
            things.dedup();
            assert_eq!(things, [("greenhouse-1".to_owned(), HOUR)], "{name}");
            assert_eq!(history(&aws.state()).len(), 1, "{name}");
            assert!(!has_pending(&aws.state()), "{name}");
        }
    }
}
