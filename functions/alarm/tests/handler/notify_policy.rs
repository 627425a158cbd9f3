//! Repeats, quiet hours, and custom texts.

use serde_json::{Value, json};
use test_support::{FakeAws, Published};

use crate::setup::*;

const HOUR: u64 = 60 * MINUTE;

fn rule(notify: Value) -> Value {
    let mut rule = two_levels();
    rule["notify"] = notify;
    rule
}

fn lux(millis: u64, lux: u64) -> Value {
    reading(&format!("e-{millis}"), millis, lux)
}

/// What people received, without messages that are only for machines.
fn texts(aws: &FakeAws) -> Vec<String> {
    aws.state().published.iter().filter(|published| is_for_people(published)).map(Published::text).collect()
}

/// Delivers the schedule's command at each of these minutes.
async fn check_each(aws: &FakeAws, minutes: std::ops::RangeInclusive<u64>) {
    for minute in minutes {
        assert!(check(aws, minute * MINUTE).await.is_done());
    }
}

#[tokio::test(start_paused = true)]
async fn active_alarm_is_repeated_until_somebody_acknowledges_it() {
    let notify = json!({"repeat": "30 min", "severities": {"critical": {"repeat": "5 min"}}});
    let aws = account_with_rule(rule(notify)).await;
    deliver(&aws, &[lux(0, 150)], 0).await;
    check_each(&aws, 1..=62).await;
    let repeats: Vec<_> = messages(&aws.state()).into_iter().filter(|(_, kind, ..)| kind == "repeat").collect();
    assert_eq!(repeats.len(), 2, "{repeats:?}");
    assert_eq!(texts(&aws)[1], "too-bright: greenhouse-1 is still in alarm (warning) after 31 min (now 150)");
    deliver(&aws, &[lux(63 * MINUTE, 250)], 63 * MINUTE).await;
    check_each(&aws, 64..=75).await;
    assert_eq!(messages(&aws.state()).len(), 3 + 1 + 2, "{:?}", messages(&aws.state()));
    act(&aws, "acknowledge", 76 * MINUTE).await;
    let before = aws.state().published.len();
    check_each(&aws, 77..=150).await;
    assert_eq!(aws.state().published.len(), before);
    assert_eq!(history(&aws.state()).len(), 3, "a repeat is no change");
}

/// The clock is at 09:00 UTC when tests start: these quiet hours last until 13:00 UTC.
fn quiet(except: &[&str]) -> Value {
    json!({"quietHours": {"from": "23:00", "to": "15:00", "utcOffset": "+02:00", "except": except}})
}

#[tokio::test(start_paused = true)]
async fn quiet_hours_delay_what_people_receive() {
    let aws = account_with_rule(rule(quiet(&[]))).await;
    deliver(&aws, &[lux(HOUR, 150), lux(2 * HOUR, 250)], 2 * HOUR).await;
    assert_eq!((texts(&aws).len(), aws.state().published.len()), (0, 2), "machines receive everything at once");
    check_each(&aws, 235..=240).await;
    assert_eq!(texts(&aws), [""; 0]);
    check_each(&aws, 241..=245).await;
    assert_eq!(texts(&aws), ["too-bright: since the quiet hours, greenhouse-1 is in alarm (critical, now 250)"]);
    // After them, people are notified as usual.
    deliver(&aws, &[lux(5 * HOUR, 50)], 5 * HOUR).await;
    assert_eq!(texts(&aws).len(), 2);
    assert!(!has_pending(&aws.state()));
}

#[tokio::test(start_paused = true)]
async fn alarm_that_is_over_before_quiet_hours_end_disturbs_nobody() {
    let aws = account_with_rule(rule(quiet(&[]))).await;
    deliver(&aws, &[lux(HOUR, 150), lux(2 * HOUR, 50)], 2 * HOUR).await;
    check_each(&aws, 238..=250).await;
    assert_eq!((texts(&aws).len(), due(&aws)), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn excepted_severities_disturb_people_nevertheless() {
    let aws = account_with_rule(rule(quiet(&["critical"]))).await;
    deliver(&aws, &[lux(HOUR, 150), lux(2 * HOUR, 250)], 2 * HOUR).await;
    assert_eq!(texts(&aws), ["too-bright critical: greenhouse-1 lux above 200 (now 250)"]);
    check_each(&aws, 238..=250).await;
    assert_eq!(texts(&aws).len(), 1, "people know of it");
}

#[tokio::test(start_paused = true)]
async fn text_of_the_rule_replaces_the_standard_one() {
    let text = "{thing}: {/lux} lx, {severity}, by {rule}; {/battery} V";
    let aws = account_with_rule(rule(json!({"text": text}))).await;
    let payload = json!({"lux": 150, "battery": 3.5});
    deliver(&aws, &[event("e-1", "greenhouse-1", 1000, payload), lux(2000, 50)], 2000).await;
    assert_eq!(
        texts(&aws),
        [
            "greenhouse-1: 150 lx, warning, by too-bright; 3.5 V",
            "too-bright cleared: greenhouse-1 lux below 90 (now 50)",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn rate_limit_covers_changes_of_severity() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &storm(15, 0, 150), 0).await;
    let delivered = deliver(&aws, &storm(15, 1000, 250), 1000).await;
    assert_eq!((people(&aws), delivered.count("RateLimited")), (20, 10));
}
