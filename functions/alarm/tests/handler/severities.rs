//! Rules with several severities and with all kinds of conditions.

use serde_json::{Value, json};
use test_support::Published;

use crate::setup::*;

fn lux(second: u64, lux: u64) -> Value {
    reading(&format!("e-{second}"), second * 1000, lux)
}

#[tokio::test(start_paused = true)]
async fn alarm_escalates_and_deescalates_and_clears_once() {
    let aws = account_with_rule(two_levels()).await;
    let readings = [lux(1, 50), lux(2, 150), lux(3, 250), lux(4, 195), lux(5, 150), lux(6, 95), lux(7, 80)];
    let delivered = deliver(&aws, &readings, 7000).await;
    assert_eq!((delivered.count("SeverityChanged"), delivered.count("Raised"), delivered.count("Cleared")), (2, 1, 1));
    let state = aws.state();
    assert_eq!(
        messages(&state),
        [
            message(2000, "transition", "warning", "ACTIVE"),
            message(3000, "severity", "critical", "ACTIVE"),
            message(5000, "severity", "warning", "ACTIVE"),
            message(7000, "transition", "warning", "NORMAL"),
        ]
    );
    let escalation = &state.published[1];
    assert_eq!(escalation.data()["previousSeverity"], "warning");
    assert_eq!((&escalation.data()["from"], &escalation.data()["to"]), (&json!("ALARM"), &json!("ALARM")));
    assert_eq!(escalation.text(), "too-bright critical: greenhouse-1 lux above 200 (now 250)");
    let has_states = |published: &Published| ["from", "to"].map(|name| published.attributes.contains_key(name));
    assert_eq!(
        state.published.iter().map(has_states).collect::<Vec<_>>(),
        [[true; 2], [false; 2], [false; 2], [true; 2]]
    );
    assert_eq!(escalation.attributes["kind"], "severity");
    assert_eq!(
        history(&state),
        [
            entry(2000, "condition", "NORMAL", "ACTIVE"),
            entry(3000, "condition", "ACTIVE", "ACTIVE"),
            entry(5000, "condition", "ACTIVE", "ACTIVE"),
            entry(7000, "condition", "ACTIVE", "NORMAL"),
        ]
    );
    let key = ["thing#greenhouse-1", &format!("history#{}#too-bright#2", START + 3000)];
    for (name, value) in
        [("previousSeverity", "warning"), ("severity", "critical"), ("value", "250"), ("ruleVersion", "1")]
    {
        assert_eq!(state.attribute("alarms", &key, name).as_deref(), Some(value), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn record_names_severity_and_state_and_is_in_the_index() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 250)], 1000).await;
    {
        let state = aws.state();
        let found = |name: &str| attribute(&state, name);
        assert_eq!(found("alarmState").as_deref(), Some("ACTIVE"));
        assert_eq!(found("severity").as_deref(), Some("critical"));
        assert_eq!(found("alarmStateSince"), Some((START + 1000).to_string()));
        assert!(found("stateShard").unwrap().starts_with("ACTIVE#0"));
    }
    deliver(&aws, &[lux(2, 50)], 2000).await;
    let state = aws.state();
    assert_eq!(attribute(&state, "alarmState").as_deref(), Some("NORMAL"));
    assert_eq!((attribute(&state, "severity"), attribute(&state, "stateShard")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn conditions_combine_fields_of_a_reading() {
    let aws = account_with_rule(json!({"name": "too-bright", "things": "*", "severities": [{"severity": "minor", "raise":
        {"when": {"all": [{"field": "/door", "op": "==", "value": "open"},
                          {"any": [{"field": "/t", "op": "<", "otherField": "/inside"}, {"field": "/alarm", "is": "present"}]}]}}}]}))
    .await;
    let reading = |second: u64, payload| event(&format!("e-{second}"), "greenhouse-1", second * 1000, payload);
    let readings = [
        reading(1, json!({"door": "closed", "t": 1, "inside": 2})),
        reading(2, json!({"door": "open", "t": 3, "inside": 2})),
        // Whether it is cold is unknown.
        reading(3, json!({"door": "open"})),
        reading(4, json!({"door": "open", "t": 1, "inside": 2})),
        reading(5, json!({"door": "open", "t": "1", "inside": 2})),
        reading(6, json!({"door": "closed"})),
        reading(7, json!({"door": "open", "alarm": [1]})),
    ];
    let delivered = deliver(&aws, &readings, 7000).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    assert_eq!(transitions(&aws), [to("ALARM", 4000), to("OK", 6000), to("ALARM", 7000)]);
    assert_eq!(aws.state().published[0].data()["value"], "open");
}

#[tokio::test(start_paused = true)]
async fn count_needs_enough_of_the_last_readings() {
    let mut rule = two_levels();
    rule["severities"] = json!([{"severity": "major",
        "raise": {"when": {"field": "/lux", "op": ">", "value": 100}, "count": {"n": 3, "of": 5}},
        "clear": {"when": {"field": "/lux", "op": "<=", "value": 100}, "count": {"n": 2, "of": 2}}}]);
    let aws = account_with_rule(rule).await;
    let values = [150, 50, 50, 150, 50, 150, 50, 150, 50, 50, 50];
    for (second, value) in (1..).zip(values) {
        deliver(&aws, &[lux(second, value)], second * 1000).await;
    }
    assert_eq!(transitions(&aws), [to("ALARM", 8000), to("OK", 10_000)]);
}

#[tokio::test(start_paused = true)]
async fn groups_and_overrides_apply_to_their_things() {
    let aws = empty_account();
    let document = json!({"version": 2, "groups": {"north": ["greenhouse-1", "boiler-*"]},
        "overrides": {"greenhouse-1": {"limit": 200}},
        "rules": [{"name": "too-bright", "things": {"group": "north"}, "severities": [{"severity": "major", "raise":
            {"when": {"field": "/lux", "op": ">", "override": "limit", "default": 100}}}]}]});
    assert!(deliver_to(&aws.process(), &document, at(0)).await.is_done());
    let things = ["greenhouse-1", "greenhouse-2", "boiler-7"];
    for (second, value) in [(1, 150), (2, 250)] {
        let readings =
            things.map(|thing| event(&format!("{thing}-{second}"), thing, second * 1000, json!({"lux": value})));
        deliver(&aws, &readings, second * 1000).await;
    }
    let state = aws.state();
    assert_eq!(transitions_of(&state, "greenhouse-1"), [to("ALARM", 2000)]);
    assert_eq!(transitions_of(&state, "greenhouse-2"), []);
    assert_eq!(transitions_of(&state, "boiler-7"), [to("ALARM", 1000)]);
    assert!(state.published.iter().any(|published| published.text().contains("lux above 200 (now 250)")));
}

#[tokio::test(start_paused = true)]
async fn change_and_window_are_kept_between_batches() {
    let severity = |severity: &str, condition: Value| json!({"severity": severity, "raise": {"when": condition}});
    let aws = account_with_rule(json!({"name": "too-bright", "things": "*", "severities": [
        severity("critical", json!({"window": {"field": "/lux", "of": "mean", "over": "10 min"}, "op": ">", "value": 100})),
        severity("minor", json!({"change": {"field": "/lux", "per": "1 min"}, "op": ">=", "value": 30}))]}))
    .await;
    let values = [90, 90, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120];
    for (minute, value) in (0..).zip(values) {
        deliver(&aws, &[reading(&format!("e-{minute}"), minute * MINUTE, value)], minute * MINUTE).await;
    }
    assert_eq!(
        messages(&aws.state()),
        [
            message(2 * MINUTE, "transition", "minor", "ACTIVE"),
            message(3 * MINUTE, "transition", "minor", "NORMAL"),
            message(9 * MINUTE, "transition", "critical", "ACTIVE"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn rule_that_a_threshold_could_express_keeps_its_states() {
    let aws = account(json!([too_bright(0)])).await;
    deliver(&aws, &[lux(1, 150)], 1000).await;
    let rule = json!({"name": "too-bright", "things": "*", "severities": [{"severity": "major",
        "raise": {"when": {"field": "/lux", "op": ">", "value": 100.0}},
        "clear": {"when": {"field": "/lux", "op": "<", "value": 100}}}]});
    assert!(put_rules(&aws, json!([rule]), 2000).await.is_done());
    deliver(&aws, &[lux(3, 50)], 3000).await;
    assert_eq!(transitions(&aws), [to("ALARM", 1000), to("OK", 3000)]);
    assert_eq!(aws.state().published[1].data()["ruleVersion"], 2);
}

#[tokio::test(start_paused = true)]
async fn changed_severities_close_the_alarm_and_start_anew() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 250)], 1000).await;
    let mut rule = two_levels();
    rule["severities"][0]["raise"]["when"]["value"] = 300.into();
    assert!(put_rules(&aws, json!([rule]), 2000).await.is_done());
    deliver(&aws, &[lux(3, 250)], 3000).await;
    assert_eq!(
        messages(&aws.state()),
        [
            message(1000, "transition", "critical", "ACTIVE"),
            message(1000, "transition", "critical", "NORMAL"),
            message(3000, "transition", "warning", "ACTIVE"),
        ]
    );
    assert_eq!(transitions(&aws), [to("ALARM", 1000), to("CLOSED", 1000), to("ALARM", 3000)]);
}

#[tokio::test(start_paused = true)]
async fn removed_rule_closes_its_alarm() {
    let aws = account_with_rule(two_levels()).await;
    deliver(&aws, &[lux(1, 250)], 1000).await;
    assert!(act(&aws, "acknowledge", 2000).await.is_done());
    assert!(put_rules(&aws, json!([]), 3000).await.is_done());
    check(&aws, 12 * MINUTE).await;
    assert_eq!(transitions(&aws).last(), Some(&to("CLOSED", 1000)));
    assert_eq!(attribute(&aws.state(), "alarmState").as_deref(), Some("NORMAL"));
    assert_eq!((due(&aws), has_pending(&aws.state())), (vec![], false));
}

#[tokio::test(start_paused = true)]
async fn rule_reads_no_record_of_a_thing_that_lacks_its_fields() {
    let rule = |n: usize| {
        json!({"name": format!("r-{n}"), "things": "*", "severities": [{"severity": "info", "raise":
            {"when": {"field": format!("/f{n}"), "op": "==", "value": true}}}]})
    };
    let aws = empty_account();
    assert!(put_rules(&aws, (0..200).map(rule).collect(), 0).await.is_done());
    aws.reset_calls();
    let delivered = deliver(&aws, &[event("e-1", "greenhouse-1", 0, json!({"f7": true, "f8": 1}))], 0).await;
    assert_eq!((delivered.count("Raised"), delivered.count("MissingValue")), (1, 199));
    let gets = aws.state().calls_to("BatchGetItem").len();
    assert_eq!(gets, 1);
    assert_eq!(aws.state().items("alarms").filter(|(key, _)| key[1].starts_with("threshold#")).count(), 1);
}
