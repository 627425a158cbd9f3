//! Alarm rules: severities, operators' actions, snoozes, quiet hours, devices that never report, and changed rules.

mod import;
mod readings;

use std::sync::Arc;

use crate::alarm_rules::readings::Readings;
use crate::suite::Suite;
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::observer::now;
use serde_json::{Value, json};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("alarm_rules", "alarm_escalates_de_escalates_and_clears_once", escalation),
        suite.trial("alarm_rules", "latched_alarm_waits_for_its_acknowledgment", latch),
        suite.trial("alarm_rules", "acknowledged_alarm_is_active_again_once_it_escalates", acknowledged_escalation),
        suite.trial("alarm_rules", "snoozed_alarm_is_silent_until_the_snooze_ends", snooze),
        suite.trial("alarm_rules", "disabled_alarm_commands_nothing_until_it_is_enabled", disabled),
        suite.trial("alarm_rules", "device_that_never_reported_is_noticed", never_reported),
        suite.trial("alarm_rules", "quiet_hours_delay_people_and_not_machines", quiet_hours),
        suite.trial("alarm_rules", "changed_and_removed_rules_close_their_alarms", changed_rule),
        suite.trial("alarm_rules", "imported_alarm_models_behave_as_before", import::behave),
    ]
}

/// Two severities for the temperature of the greenhouses; one reading is enough.
fn too_hot() -> Value {
    let level = |severity: &str, limit: u32| {
        let when = |op: &str| json!({"field": "/t", "op": op, "value": limit});
        json!({"severity": severity, "raise": {"when": when(">"), "for": "0 s"},
               "clear": {"when": when("<="), "for": "0 s"}})
    };
    json!({"name": "too-hot", "things": "greenhouse-*", "severities": [level("critical", 40), level("warning", 30)]})
}

fn with(mut rule: Value, fields: &Value) -> Value {
    if let (Some(rule), Some(fields)) = (rule.as_object_mut(), fields.as_object()) {
        rule.extend(fields.clone());
    }
    rule
}

async fn escalation(suite: Arc<Suite>) -> Result<()> {
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[too_hot()]).await?;
    for t in [20, 35, 45, 35, 20] {
        house.report(&json!({"t": t})).await?;
    }
    let messages = house.messages(4).await?;
    let expected = [
        json!({"kind": "transition", "from": "OK", "to": "ALARM", "severity": "warning", "state": "ACTIVE"}),
        json!({"kind": "severity", "severity": "critical", "previousSeverity": "warning", "state": "ACTIVE"}),
        json!({"kind": "severity", "severity": "warning", "previousSeverity": "critical", "state": "ACTIVE"}),
        json!({"kind": "transition", "from": "ALARM", "to": "OK", "state": "NORMAL", "previousState": "ACTIVE"}),
    ];
    house.assert_messages(&messages, &expected)?;
    // Only transitions match existing subscription filters on `from` and `to`.
    for message in &messages {
        let is_transition = message.attributes.get("kind").is_some_and(|kind| kind == "transition");
        ensure!(message.attributes.contains_key("to") == is_transition, "{:?}", message.attributes);
    }
    let history = house.gatehouse(&["alarms", "history", "--thing", "greenhouse-1", "--json"]).await?;
    let history: Vec<Value> = serde_json::from_str(&history)?;
    ensure!(history.len() == 4, "the history is {history:?}");
    let severities: Vec<_> = history.iter().filter_map(|entry| entry.get("severity")?.as_str()).collect();
    ensure!(severities.starts_with(&["warning", "critical", "warning"]), "the severities are {severities:?}");
    Ok(())
}

async fn latch(suite: Arc<Suite>) -> Result<()> {
    let rule = with(too_hot(), &json!({"latch": true}));
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[rule]).await?;
    house.report(&json!({"t": 45})).await?;
    house.report(&json!({"t": 20})).await?;
    house.has_state("LATCHED").await?;
    let listed = house.gatehouse(&["alarms", "list", "--state", "latched", "--severity", "critical"]).await?;
    ensure!(listed.contains("LATCHED") && listed.contains("greenhouse-1"), "{listed}");

    let acknowledge = ["alarms", "ack", "--thing", "greenhouse-1", "--rule", "too-hot", "--note", "fan repaired"];
    house.gatehouse(&acknowledge).await?;
    house.has_state("NORMAL").await?;
    let listed = house.gatehouse(&["alarms", "list"]).await?;
    ensure!(!listed.contains("greenhouse-1"), "{listed}");
    let history = house.gatehouse(&["alarms", "history", "--thing", "greenhouse-1"]).await?;
    ensure!(history.contains("LATCHED → NORMAL") && history.contains("fan repaired"), "{history}");
    // Actions whose result is already in place are accepted, and change nothing.
    house.act("acknowledge", &json!({})).await?;
    house.act("enable", &json!({})).await?;
    house.report(&json!({"t": 45})).await?;
    house.has_state("ACTIVE").await
}

async fn acknowledged_escalation(suite: Arc<Suite>) -> Result<()> {
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[too_hot()]).await?;
    house.report(&json!({"t": 35})).await?;
    house.act("acknowledge", &json!({"note": "on my way"})).await?;
    house.has_state("ACKNOWLEDGED").await?;
    house.report(&json!({"t": 36})).await?;
    house.has_state("ACKNOWLEDGED").await?;
    house.report(&json!({"t": 45})).await?;
    house.has_state("ACTIVE").await?;
    let messages = house.messages(3).await?;
    let expected = [
        json!({"kind": "transition", "to": "ALARM", "severity": "warning"}),
        json!({"kind": "state", "state": "ACKNOWLEDGED", "previousState": "ACTIVE"}),
        json!({"kind": "severity", "severity": "critical", "state": "ACTIVE", "previousState": "ACKNOWLEDGED"}),
    ];
    house.assert_messages(&messages, &expected)
}

async fn snooze(suite: Arc<Suite>) -> Result<()> {
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[too_hot()]).await?;
    house.report(&json!({"t": 35})).await?;
    house.act("snooze", &json!({"for": "7 d"})).await?;
    house.has_state("SNOOZE_DISABLED").await?;
    // The alarm is evaluated, but nobody is notified.
    let before = house.messages(1).await?.len();
    house.report(&json!({"t": 20})).await?;
    house.report(&json!({"t": 45})).await?;
    let heard = house.messages(before).await?;
    ensure!(
        !heard.iter().any(|message| message.attributes.get("severity").is_some_and(|it| it == "critical")),
        "{heard:?}"
    );
    house.act("snooze", &json!({"for": "1 s"})).await?;
    house.check_until_state("ACTIVE").await?;
    let after = house.messages(before + 2).await?;
    let last = after.last().and_then(|message| message.data.clone()).context("there is no message")?;
    ensure!(last.get("state") == Some(&json!("ACTIVE")) && last.get("severity") == Some(&json!("critical")), "{last}");
    Ok(())
}

async fn disabled(suite: Arc<Suite>) -> Result<()> {
    let rule = with(too_hot(), &json!({"startDisabled": true}));
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[rule]).await?;
    house.stage.device("greenhouse-1-shade").await?;
    let action = json!({"alarm": "too-hot", "to": "ALARM", "device": "{thing}-shade",
                        "command": {"shadow": {"desired": {"position": "closed"}}}});
    let mut by_state = with(action.clone(), &json!({"kind": "state", "state": "ACTIVE"}));
    by_state.as_object_mut().and_then(|action| action.remove("to"));
    house.stage.invoke("actuator", &json!({"actions": [action, by_state]})).await?;
    house.report(&json!({"t": 45})).await?;
    house.has_state("DISABLED").await?;
    house.stage.queue_shrinks_to("ActuatorQueueUrl", 0).await?;
    ensure!(house.shade("greenhouse-1-shade").await?.is_none(), "a disabled alarm commanded the shade");
    house.gatehouse(&["alarms", "enable", "--thing", "greenhouse-*", "--yes"]).await?;
    house.has_state("ACTIVE").await?;
    let closed = house.stage.observer.poll(async || house.shade("greenhouse-1-shade").await);
    ensure!(closed.await?.as_deref() == Some("closed"), "the enabled alarm did not command the shade");
    Ok(())
}

async fn never_reported(suite: Arc<Suite>) -> Result<()> {
    let rule = with(too_hot(), &json!({"neverReported": "10 min"}));
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[rule]).await?;
    // The rule has been in force for an hour, and the device was admitted before it.
    house.put_before(now() - 3_600_000).await?;
    house.admit("greenhouse-1", now() - 7_200_000).await?;
    house
        .check_until(|item| item.get("state").is_some_and(|state| state.as_s().is_ok_and(|state| state == "STALE")))
        .await?;
    let history = house.gatehouse(&["alarms", "history", "--thing", "greenhouse-1"]).await?;
    ensure!(history.contains("never-reported"), "{history}");
    house.report(&json!({"t": 20})).await?;
    let found = house.record().await?.context("there is no record")?;
    ensure!(found.get("state").and_then(|state| state.as_s().ok()).is_some_and(|state| state == "OK"), "{found:?}");
    Ok(())
}

async fn quiet_hours(suite: Arc<Suite>) -> Result<()> {
    let minute = now() / 60_000;
    let clock = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let quiet = |from: u64, to: u64| {
        let hours = json!({"from": clock(minute + from), "to": clock(minute + to), "utcOffset": "+00:00"});
        with(too_hot(), &json!({"notify": {"quietHours": hours}}))
    };
    // The quiet hours began an hour ago, and last longer than any journey.
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[quiet(23 * 60, 6 * 60)]).await?;
    house.report(&json!({"t": 35})).await?;
    let messages = house.messages(1).await?;
    ensure!(readings::audiences(&messages) == ["machines"], "{messages:?}");
    // The quiet hours are over.
    house.put(&[quiet(6 * 60, 8 * 60)]).await?;
    house.end_quiet_hours().await?;
    house.check_until_messages(2).await?;
    let messages = house.messages(2).await?;
    ensure!(readings::audiences(&messages) == ["machines", "people"], "{messages:?}");
    Ok(())
}

async fn changed_rule(suite: Arc<Suite>) -> Result<()> {
    let house = Readings::begin(&suite, "greenhouse-1", "too-hot", &[too_hot()]).await?;
    house.report(&json!({"t": 35})).await?;
    house.has_state("ACTIVE").await?;
    // The same name with another condition: the alarm ends, and a new one begins.
    let mut changed = too_hot();
    for level in changed.get_mut("severities").and_then(Value::as_array_mut).into_iter().flatten() {
        for direction in ["raise", "clear"] {
            if let Some(field) = level.pointer_mut(&format!("/{direction}/when/field")) {
                *field = json!("/air/t");
            }
        }
    }
    house.put(&[changed]).await?;
    house.report(&json!({"t": 35, "air": {"t": 31}})).await?;
    let messages = house.messages(3).await?;
    let expected = [
        json!({"kind": "transition", "to": "ALARM"}),
        json!({"kind": "transition", "from": "ALARM", "to": "CLOSED"}),
        json!({"kind": "transition", "from": "OK", "to": "ALARM"}),
    ];
    house.assert_messages(&messages, &expected)?;
    house.put(&[]).await?;
    house.make_check_due().await?;
    house.check_until_messages(4).await?;
    let messages = house.messages(4).await?;
    let closed = messages.last().and_then(|message| message.data.as_ref()?.get("to").cloned());
    ensure!(closed == Some(json!("CLOSED")), "{messages:?}");
    Ok(())
}
