//! The daily expiry check.

use std::time::Duration;

use gatehouse::Timestamp;
use serde_json::json;
use test_support::State;
use test_support::pki::{DAY, NOW};

use crate::fleet::{Deliver, Fleet, set};

fn expiring(state: &mut State, id: &str, part: &str, on: &str) {
    set(state, id, part, &json!({"runsOutOn": {"S": on}, "thing": {"S": "thermometer-1"}}));
}

#[tokio::test]
async fn daily_check_counts_what_expires_and_notifies_once_a_day() {
    let fleet = Fleet::new();
    let command = json!({"check": "runs-out"});
    let (certificate, ca) = (format!("certificate#{}", "c".repeat(64)), fleet.ca_key());
    let process = || fleet.aws.process().env("EXPIRY_WARNING_DAYS", "10");
    for (id, part, on) in [
        (&*certificate, "admission", "2026-01-25"),
        (&ca, "status", "2026-01-15"),
        (&ca, "certificate", "2026-01-16"),
        // Not within ten days, and not something that expires.
        ("certificate#later", "admission", "2026-01-26"),
        ("certificate#long-ago", "admission", "2026-01-04"),
        ("revocation#x", "part", "2026-01-16"),
    ] {
        expiring(&mut fleet.aws.state(), id, part, on);
    }
    for _ in 0..2 {
        let delivered = process().deliver(&command, NOW).await;
        assert!(delivered.is_done() && delivered.count("Expiring") == 3, "{delivered:?}");
    }
    {
        let state = fleet.aws.state();
        let [message] = &state.published[..] else { panic!("{} messages", state.published.len()) };
        assert_eq!(message.subject, "3 certificates or revocation lists expire soon");
        let expected = format!(
            "3 to renew within 10 days, the first by 2026-01-15:\n2026-01-15: the revocation list of CA {ca}\n\
             2026-01-16: the certificate of CA {ca}\n2026-01-25: the certificate {} of thing thermometer-1",
            "c".repeat(64),
            ca = fleet.ca_id,
        );
        assert_eq!(message.message, expected);
    }
    // The next day, the first has expired, which does not end the alarm, and another is due.
    let delivered = process().deliver(&command, NOW.plus(DAY)).await;
    assert_eq!(delivered.count("Expiring"), 4);
    let state = fleet.aws.state();
    let expired = format!("\n2026-01-15 (expired): the revocation list of CA {}\n", fleet.ca_id);
    assert!(state.published.len() == 2 && state.published[1].message.contains(&expired), "{:?}", state.published);
}

#[tokio::test]
async fn daily_check_counts_zero_and_notifies_nobody() {
    let fleet = Fleet::new();
    let delivered = fleet.aws.process().deliver(&json!({"check": "runs-out"}), NOW).await;
    assert!(delivered.is_done() && delivered.count("Expiring") == 0, "{delivered:?}");
    assert_eq!(fleet.aws.state().published.len(), 0);
    let queries = fleet.aws.state().calls_to("Query runs-out").len();
    assert_eq!(queries, 61, "today, and thirty days before and after it");
}

#[tokio::test]
async fn daily_check_lists_twenty_and_counts_all() {
    let fleet = Fleet::new();
    for n in 0..45 {
        expiring(&mut fleet.aws.state(), &format!("certificate#{n:064x}"), "admission", "2026-01-20");
    }
    let delivered = fleet.aws.process().deliver(&json!({"check": "runs-out"}), NOW).await;
    assert_eq!(delivered.count("Expiring"), 45);
    let message = fleet.aws.state().published[0].message.clone();
    assert_eq!(message.lines().count(), 22);
    assert!(message.ends_with("\nand 25 more."), "{message}");
}

#[tokio::test]
async fn unknown_command_is_quarantined() {
    for (command, reason) in [
        (json!({"check": "all"}), "unknown-value"),
        (json!({"admit": "everybody"}), "missing-field"),
        (json!(["runs-out"]), "not-an-object"),
    ] {
        let fleet = Fleet::new();
        let delivered = fleet.aws.process().deliver(&command, NOW).await;
        assert_eq!(delivered.refusal_code(), reason, "{command}");
        assert_eq!(fleet.aws.state().calls.len(), 1, "only quarantine is written");
    }
}

#[test]
fn day_is_in_utc() {
    for (at, day) in [(NOW, "2026-01-15"), (NOW.minus(Duration::from_millis(1)), "2026-01-14")] {
        assert_eq!(jitr::expiry::day(at), day);
    }
    assert_eq!(jitr::expiry::day(Timestamp::from_millis(u64::MAX)), "9999-12-31");
}
