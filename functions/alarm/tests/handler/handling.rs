//! People's actions on alarms.

use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{FAULTS, FakeAws, sqs_batch};
use tokio::runtime::Builder;

use crate::setup::*;

fn lux(second: u64, lux: u64) -> Value {
    reading(&format!("e-{second}"), second * 1000, lux)
}

fn latching() -> Value {
    let mut rule = two_levels();
    rule["latch"] = true.into();
    rule
}

fn alarm_state(aws: &FakeAws) -> String {
    attribute(&aws.state(), "alarmState").unwrap()
}

#[tokio::test(start_paused = true)]
async fn acknowledged_alarm_is_active_again_only_if_it_escalates() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 150)], 1000).await;
    let acknowledged = act(&aws, "acknowledge", 2000).await;
    assert_eq!((acknowledged.is_done(), acknowledged.count("Handled")), (true, 1));
    assert_eq!(attribute(&aws.state(), "by").as_deref(), Some("anna"));
    deliver(&aws, &[lux(3, 250)], 3000).await;
    assert_eq!(attribute(&aws.state(), "by"), None);
    assert!(act(&aws, "acknowledge", 4000).await.is_done());
    deliver(&aws, &[lux(5, 150), lux(6, 50)], 6000).await;
    assert_eq!(
        messages(&aws.state()),
        [
            message(1000, "transition", "warning", "ACTIVE"),
            message(2000, "state", "warning", "ACKNOWLEDGED"),
            message(3000, "severity", "critical", "ACTIVE"),
            message(4000, "state", "critical", "ACKNOWLEDGED"),
            message(5000, "severity", "warning", "ACKNOWLEDGED"),
            message(6000, "transition", "warning", "NORMAL"),
        ]
    );
    let is_for_people: Vec<_> = aws.state().published.iter().map(is_for_people).collect();
    assert_eq!(is_for_people, [true, false, true, false, false, true]);
    let data = aws.state().published[1].data();
    assert_eq!(
        (&data["by"], &data["previousState"], &data["from"], &data["to"]),
        (&json!("anna"), &json!("ACTIVE"), &json!("ALARM"), &json!("ALARM"))
    );
    assert_eq!(aws.state().published[1].text(), "too-bright acknowledged: greenhouse-1, by anna");
}

#[tokio::test(start_paused = true)]
async fn latched_alarm_waits_for_an_acknowledgment() {
    let aws = account_with_rule(latching()).await;
    deliver(&aws, &[lux(1, 250), lux(2, 50)], 2000).await;
    assert_eq!(alarm_state(&aws), "LATCHED");
    assert_eq!(attribute(&aws.state(), "severity").as_deref(), Some("critical"));
    deliver(&aws, &[lux(3, 150)], 3000).await;
    assert_eq!(alarm_state(&aws), "ACTIVE");
    deliver(&aws, &[lux(4, 50)], 4000).await;
    assert!(act(&aws, "acknowledge", 5000).await.is_done());
    assert_eq!((alarm_state(&aws), attribute(&aws.state(), "severity")), ("NORMAL".to_owned(), None));
    // Given again, it has no effect.
    assert!(act(&aws, "acknowledge", 6000).await.is_done());
    assert_eq!((alarm_state(&aws), messages(&aws.state()).len()), ("NORMAL".to_owned(), 5));
    assert_eq!(
        history(&aws.state()),
        [
            entry(1000, "condition", "NORMAL", "ACTIVE"),
            entry(2000, "condition", "ACTIVE", "LATCHED"),
            entry(3000, "condition", "LATCHED", "ACTIVE"),
            entry(4000, "condition", "ACTIVE", "LATCHED"),
            entry(5000, "action", "LATCHED", "NORMAL"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn snooze_is_silent_and_ends_with_what_the_data_says() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 150)], 1000).await;
    assert!(act(&aws, "snooze", 2000).await.is_done());
    assert_eq!(attribute(&aws.state(), "snoozedUntil"), Some((START + 2000 + 10 * MINUTE).to_string()));
    deliver(&aws, &[lux(3, 50), lux(4, 250)], 4000).await;
    assert_eq!(aws.state().published.len(), 2, "nobody is notified");
    check(&aws, 10 * MINUTE).await;
    assert_eq!(alarm_state(&aws), "SNOOZE_DISABLED");
    let ended = check(&aws, 11 * MINUTE).await;
    assert_eq!(ended.count("StateEnded"), 1);
    let end = 2000 + 10 * MINUTE;
    assert_eq!(messages(&aws.state()).last(), Some(&message(end, "state", "critical", "ACTIVE")));
    assert!(is_for_people(aws.state().published.last().unwrap()));
    assert_eq!(
        history(&aws.state()),
        [
            entry(1000, "condition", "NORMAL", "ACTIVE"),
            entry(2000, "action", "ACTIVE", "SNOOZE_DISABLED"),
            entry(3000, "condition", "SNOOZE_DISABLED", "SNOOZE_DISABLED"),
            entry(4000, "condition", "SNOOZE_DISABLED", "SNOOZE_DISABLED"),
            entry(end, "snooze-ended", "SNOOZE_DISABLED", "ACTIVE"),
        ]
    );
    assert!(!has_pending(&aws.state()));
}

#[tokio::test(start_paused = true)]
async fn snooze_before_the_first_reading_ends() {
    let aws = account_with_rule(two_levels()).await;
    assert!(act(&aws, "snooze", 2000).await.is_done());
    assert_eq!(check(&aws, 11 * MINUTE).await.count("StateEnded"), 1);
    assert_eq!(alarm_state(&aws), "NORMAL");
    let delivered = deliver(&aws, &[reading("e-1", 20 * MINUTE, 150)], 20 * MINUTE).await;
    assert_eq!((delivered.retried_messages(), alarm_state(&aws).as_str()), (Some(vec![]), "ACTIVE"));
}

#[tokio::test(start_paused = true)]
async fn reading_after_a_snooze_ends_it_like_the_schedule() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 150)], 1000).await;
    act(&aws, "snooze", 2000).await;
    deliver(&aws, &[reading("late", 20 * MINUTE, 50)], 20 * MINUTE).await;
    let published = messages(&aws.state());
    let end = 2000 + 10 * MINUTE;
    assert_eq!(
        published[2..],
        [message(end, "state", "warning", "ACTIVE"), message(20 * MINUTE, "transition", "warning", "NORMAL")]
    );
}

#[tokio::test(start_paused = true)]
async fn disabled_alarm_is_evaluated_but_notifies_nobody() {
    let mut rule = two_levels();
    rule["startDisabled"] = true.into();
    let aws = account_with_rule(rule).await;
    deliver(&aws, &[lux(1, 250)], 1000).await;
    assert_eq!((alarm_state(&aws).as_str(), aws.state().published.len()), ("DISABLED", 0));
    assert_eq!(attribute(&aws.state(), "state").as_deref(), Some("ALARM"));
    assert_eq!(due(&aws).len(), 1, "whether the rule still applies is checked");
    assert!(act(&aws, "enable", 2000).await.is_done());
    assert_eq!(messages(&aws.state()), [message(2000, "state", "critical", "ACTIVE")]);
    assert_eq!(
        history(&aws.state()),
        [entry(1000, "condition", "DISABLED", "DISABLED"), entry(2000, "action", "DISABLED", "ACTIVE")]
    );
}

#[tokio::test(start_paused = true)]
async fn late_repeat_of_an_enable_without_effect_does_not_undo_a_disable() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 50)], 1000).await;
    let mut enable = sqs_batch([action_command("enable")]);
    enable["Records"][0]["messageId"] = "enable-1".into();
    assert_eq!(deliver_to(&aws.process(), &enable, at(2000)).await.retried_messages(), Some(vec![]));
    assert!(act(&aws, "disable", 3000).await.is_done());
    let before = record(&aws);
    assert_eq!(deliver_to(&aws.process(), &enable, at(4000)).await.retried_messages(), Some(vec![]));
    assert_eq!((alarm_state(&aws).as_str(), record(&aws)), ("DISABLED", before));
}

#[tokio::test(start_paused = true)]
async fn reset_alarm_is_raised_by_a_new_crossing_only() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 150)], 1000).await;
    assert!(act(&aws, "reset", 2000).await.is_done());
    assert_eq!(alarm_state(&aws), "NORMAL");
    deliver(&aws, &[lux(3, 150), lux(4, 160)], 4000).await;
    assert_eq!(alarm_state(&aws), "NORMAL");
    deliver(&aws, &[lux(5, 50), lux(6, 150)], 6000).await;
    assert_eq!(alarm_state(&aws), "ACTIVE");
    assert!(act(&aws, "reset", 7000).await.is_done());
    deliver(&aws, &[lux(8, 250)], 8000).await;
    assert_eq!(alarm_state(&aws), "ACTIVE", "a higher severity is a new crossing");
}

#[tokio::test(start_paused = true)]
async fn actions_that_make_no_sense_are_refused() {
    let aws = account_with_rule(two_levels()).await;
    let refused = act(&aws, "acknowledge", 1000).await;
    let why = "Alarm `too-bright` of greenhouse-1 is NORMAL, so it cannot be acknowledged.";
    assert_eq!(refused.refusal(), Some(("invalid-action", why)));
    assert!(record(&aws).is_none());
    let elsewhere = json!({"disable": {"thing": "tank-1", "rule": "too-bright", "by": "anna"}});
    let refused = deliver_to(&aws.process(), &elsewhere, at(1000)).await;
    assert_eq!(refused.refusal_code(), "invalid-action");
    for (command, code) in [
        (json!({"snooze": {"thing": "greenhouse-1", "rule": "r", "by": "anna"}}), "missing-field"),
        (json!({"snooze": {"thing": "greenhouse-1", "rule": "r", "by": "anna", "for": "8 d"}}), "invalid-value"),
        (json!({"reset": {"thing": "greenhouse-1", "rule": "r", "by": "anna", "for": "1 d"}}), "unknown-field"),
        (json!({"reset": {"thing": "greenhouse-1", "rule": "r"}}), "missing-field"),
        (json!({"reset": {"thing": "a/b", "rule": "r", "by": "anna"}}), "invalid-value"),
        (json!({"reset": {"thing": "greenhouse-1", "rule": "r", "by": ""}}), "invalid-value"),
        (
            json!({"reset": {"thing": "a", "rule": "r", "by": "b"}, "enable": {"thing": "a", "rule": "r", "by": "b"}}),
            "bad-order",
        ),
        (json!({"version": 2}), "missing-field"),
        (json!({"rules": []}), "missing-field"),
        (json!({"version": 2, "rules": [], "thresholds": []}), "bad-order"),
    ] {
        let refused = deliver_to(&aws.process(), &command, at(1000)).await;
        assert_eq!(refused.refusal_code(), code, "{command}");
    }
}

#[tokio::test(start_paused = true)]
async fn alarm_can_be_disabled_before_there_is_data() {
    let aws = account_with_rule(two_levels()).await;
    assert!(act(&aws, "disable", 1000).await.is_done());
    assert_eq!((alarm_state(&aws).as_str(), attribute(&aws.state(), "state").as_deref()), ("DISABLED", Some("OK")));
    assert!(act(&aws, "disable", 2000).await.is_done());
    deliver(&aws, &[lux(3, 250)], 3000).await;
    assert_eq!(alarm_state(&aws), "DISABLED");
    assert_eq!(messages(&aws.state()), [message(1000, "state", "-", "DISABLED")]);
}

#[tokio::test(start_paused = true)]
async fn action_in_the_batch_of_its_alarm_succeeds() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[action_command("acknowledge"), lux(1, 250)], 1000).await;
    assert_eq!(alarm_state(&aws), "ACKNOWLEDGED");
}

#[tokio::test(start_paused = true)]
async fn version_1_alarms_are_acknowledged_too() {
    let aws = account(json!([too_bright(0)])).await;
    deliver(&aws, &[lux(1, 150)], 1000).await;
    // As an earlier version of the function wrote it.
    for item in aws.state().tables.values_mut() {
        for name in ["alarmState", "alarmStateSince", "severity", "ruleVersion", "stateShard"] {
            item.remove(name);
        }
    }
    assert!(act(&aws, "acknowledge", 2000).await.is_done());
    deliver(&aws, &[lux(3, 50)], 3000).await;
    assert_eq!(
        messages(&aws.state()),
        [
            message(1000, "transition", "major", "ACTIVE"),
            message(2000, "state", "major", "ACKNOWLEDGED"),
            message(3000, "transition", "major", "NORMAL"),
        ]
    );
}

/// A batch with readings that raise an alarm, and a person's action on it.
fn delivery() -> Value {
    sqs_batch([lux(1, 250), action_command("acknowledge"), lux(2, 50)])
}

#[tokio::test(start_paused = true)]
async fn any_failed_call_loses_no_action_and_no_history() {
    let calls = {
        let aws = account_with_rule(latching()).await;
        let process = aws.process();
        deliver_to(&process, &delivery(), at(2000)).await;
        process.call_count()
    };
    for fault in FAULTS {
        for call in 1..=calls {
            let aws = account_with_rule(latching()).await;
            let mut now = at(2000);
            let mut delivered = deliver_to(&aws.process().fail(call, fault), &delivery(), now).await;
            while delivered.retried_messages().is_none_or(|left| !left.is_empty()) {
                now = now.plus(VISIBILITY_TIMEOUT);
                assert!(now < at(100 * MINUTE), "call {call} {fault:?} is retried forever");
                delivered = deliver_to(&aws.process(), &delivery(), now).await;
            }
            check(&aws, 110 * MINUTE).await;
            let name = format!("call {call} {fault:?}");
            let state = aws.state();
            assert!(!has_pending(&state), "{name}");
            let causes: Vec<_> = history(&state).into_iter().map(|(_, cause, from, to)| (cause, from, to)).collect();
            let expected = [
                ("condition", "NORMAL", "ACTIVE"),
                ("condition", "ACTIVE", "LATCHED"),
                ("action", "LATCHED", "NORMAL"),
            ];
            let expected = expected.map(|(cause, from, to)| (cause.to_owned(), from.to_owned(), to.to_owned()));
            assert_eq!(causes, expected, "{name}");
            assert_eq!(messages(&state).len(), 3, "{name}");
            assert!(state.published.len() <= 4, "{name}");
            assert!(
                state
                    .writes
                    .iter()
                    .all(|((_, key), count)| !key.last().unwrap().starts_with("history#") || *count <= 2)
            );
        }
    }
}

/// A message, or a history entry.
type Message = (u64, String, String, String);

/// Readings, and a person's action after them.
type Segment = (Vec<u64>, Option<&'static str>);

/// Delivers segments to a new account. With `sizes`, readings arrive in batches of these sizes, and everything arrives
/// twice. Returns the messages, the history, and the record.
async fn deliver_segments(
    segments: &[Segment],
    sizes: Option<&[usize]>,
) -> (Vec<Message>, Vec<Message>, Vec<Option<String>>) {
    let aws = account_with_rule(latching()).await;
    let mut second = 0;
    for (number, (values, action)) in segments.iter().enumerate() {
        let mut readings = Vec::new();
        for value in values {
            second += 1;
            readings.push(lux(second, *value));
        }
        let now = (second + 1) * 1000;
        let mut sizes = sizes.into_iter().flatten().copied().cycle();
        while !readings.is_empty() {
            let size = sizes.next();
            let rest = readings.split_off(size.unwrap_or(readings.len()).min(readings.len()));
            let batch = std::mem::replace(&mut readings, rest);
            for _ in 0..size.map_or(1, |_| 2) {
                assert_eq!(deliver(&aws, &batch, now).await.retried_messages(), Some(vec![]));
            }
        }
        if let Some(action) = action {
            second += 1;
            let mut delivery = sqs_batch([action_command(action)]);
            delivery["Records"][0]["messageId"] = format!("action-{number}").into();
            for _ in 0..sizes.next().map_or(1, |_| 2) {
                assert_eq!(deliver_to(&aws.process(), &delivery, at(now)).await.retried_messages(), Some(vec![]));
            }
        }
    }
    let state = aws.state();
    let attributes = ["state", "alarmState", "severity", "changes", "value", "levels"];
    (messages(&state), history(&state), attributes.map(|name| attribute(&state, name)).into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn split_and_repetition_of_readings_and_actions_change_nothing(
        segments in prop::collection::vec((
            prop::collection::vec(prop::sample::select(vec![50_u64, 95, 150, 195, 250]), 0..6),
            prop::option::of(prop::sample::select(vec!["acknowledge", "snooze", "disable", "enable", "enable", "reset"])),
        ), 1..6),
        sizes in prop::collection::vec(1_usize..4, 1..5),
    ) {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            assert_eq!(deliver_segments(&segments, Some(&sizes)).await, deliver_segments(&segments, None).await);
        });
    }
}
