//! `gatehouse quarantine`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{allow_serial_numbers, gatehouse, is_quarantined, quarantined};
use crate::events::{click, device_event};
use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("operator", "refused_event_is_listed_with_reason_and_shown_with_payload", list_and_show),
        suite.trial("operator", "refused_events_of_several_functions_are_filtered_and_resent", several_functions),
        suite.trial("operator", "resent_event_that_is_still_invalid_stays_in_quarantine", still_invalid),
        suite.trial("operator", "resent_command_that_is_still_invalid_is_kept_once", still_invalid_command),
        suite.trial("operator", "resent_event_stays_in_quarantine_when_its_function_fails", function_fails),
    ]
}

/// Sends a click of `thing-1` that `button` refuses, because its serial number is not allowed.
async fn refuse_click(suite: &Suite, event_id: &str) -> Result<Stage> {
    let stage = suite.stage().await?;
    allow_serial_numbers(&stage, "G030.*").await?;
    let response = stage.invoke("button", &click(event_id, "thing-1")).await?;
    let reason = response.get("reason").and_then(Value::as_str);
    ensure!(reason == Some("serial-number-not-allowed"), "button returned {response}");
    Ok(stage)
}

async fn list_and_show(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "listed").await?;
    let function = stage.name("button")?;
    for arguments in [&["quarantine", "list"][..], &["quarantine", "list", "--function", function]] {
        let ran = gatehouse(&stage, arguments).await?.ended_with(0)?;
        let ran = ran.contains(&["serial-number-not-allowed", function, "listed", "thing-1"])?;
        ensure!(ran.stdout.lines().count() == 2, "unexpected list: {}", ran.stdout);
    }
    let ran = gatehouse(&stage, &["quarantine", "list", "--function", "doorbell"]).await?.ended_with(0)?;
    ran.contains(&["Nothing is in quarantine"])?;
    let ran = gatehouse(&stage, &["quarantine", "list", "--function", "lamp"]).await?.ended_with(5)?;
    ran.contains(&["unknown function lamp", "actuator, alarm"])?;

    let ran = gatehouse(&stage, &["quarantine", "show", "listed"]).await?.ended_with(0)?;
    ran.contains(&["must match the pattern", "iotbutton/thing-1", r#""clickType":"SINGLE""#])?;
    for command in ["show", "resend"] {
        gatehouse(&stage, &["quarantine", command, "unknown"]).await?.ended_with(5)?;
    }
    Ok(())
}

/// Refused clicks, and messages without a destination.
async fn several_functions(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "click-1").await?;
    stage.invoke("button", &click("click-2", "other-thing")).await?;
    for id in ["rain-1", "rain-2"] {
        let response = stage.invoke("forward", &device_event(id, "station", "Weather/Corp/rain", b"{}")).await?;
        ensure!(
            response.get("reason").and_then(Value::as_str) == Some("no-destination"),
            "forward returned {response}"
        );
    }
    let count = async |arguments: &[&str]| -> Result<usize> {
        let ran = gatehouse(&stage, &[&["quarantine", "list", "--json"], arguments].concat()).await?.ended_with(0)?;
        Ok(ran.json()?.as_array().map_or(0, Vec::len))
    };
    ensure!(count(&[]).await? == 4, "not all are listed");
    ensure!(count(&["--function", "forward"]).await? == 2, "--function does not filter");
    ensure!(count(&["--reason", "serial-number-not-allowed"]).await? == 2, "--reason does not filter");
    ensure!(count(&["--thing", "thing-*"]).await? == 1, "--thing does not filter");
    ensure!(count(&["--until", "1 h"]).await? == 0, "--until does not filter");
    ensure!(count(&["--since", "1 h", "--function", "button", "--function", "forward"]).await? == 4, "--since filters");

    allow_serial_numbers(&stage, ".*").await?;
    let resend = ["quarantine", "resend", "--reason", "serial-number-not-allowed", "--rate", "100"];
    let ran = gatehouse(&stage, &[&resend[..], &["--dry-run"]].concat()).await?.ended_with(0)?;
    ran.contains(&["click-1", "click-2"])?;
    ensure!(quarantined(&stage).await? == 4, "--dry-run removed events");
    ensure!(stage.notifications("click-1").is_empty(), "--dry-run sent an event");

    gatehouse(&stage, &resend).await?.ended_with(0)?.contains(&["2 selected: 2 accepted and removed"])?;
    for id in ["click-1", "click-2"] {
        stage.done("button", id, 1).await?;
        ensure!(stage.notifications(id).len() == 1, "{id} was not notified once");
    }
    gatehouse(&stage, &["quarantine", "resend", "--all", "--rate", "100"]).await?.ended_with(3)?;
    ensure!(quarantined(&stage).await? == 2, "the messages without a destination are not in quarantine");

    gatehouse(&stage, &["quarantine", "discard", "--all"]).await?.ended_with(2)?.contains(&["--yes"])?;
    ensure!(quarantined(&stage).await? == 2, "events were discarded without --yes");
    gatehouse(&stage, &["quarantine", "discard", "rain-1", "--yes"]).await?.ended_with(0)?;
    ensure!(!is_quarantined(&stage, "forward", "rain-1").await?, "the event was not discarded");
    ensure!(is_quarantined(&stage, "forward", "rain-2").await?, "another event was discarded");
    Ok(())
}

async fn still_invalid(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "still-invalid").await?;
    let ran = gatehouse(&stage, &["quarantine", "resend", "still-invalid"]).await?.ended_with(3)?;
    ran.contains(&["serial-number-not-allowed", "1 refused again"])?;
    ensure!(is_quarantined(&stage, "button", "still-invalid").await?, "the event was removed");
    Ok(())
}

/// A command has no ID of its own, so it is refused under a new one each time.
async fn still_invalid_command(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    stage.invoke("revoke", &serde_json::json!({"reason": "its key leaked"})).await?;
    ensure!(quarantined(&stage).await? == 1, "the command was not refused");
    for _ in 0..2 {
        gatehouse(&stage, &["quarantine", "resend", "--all"]).await?.ended_with(3)?;
        let count = quarantined(&stage).await?;
        ensure!(count == 1, "{count} copies of the command are in quarantine");
    }
    Ok(())
}

/// The topic is deleted, so the function fails.
async fn function_fails(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "failing").await?;
    allow_serial_numbers(&stage, ".*").await?;
    let topic = stage.deployment.output("ButtonTopicArn")?;
    stage.clients.sns.delete_topic().topic_arn(topic).send().await?;
    gatehouse(&stage, &["quarantine", "resend", "failing"]).await?.ended_with(4)?;
    ensure!(is_quarantined(&stage, "button", "failing").await?, "the event was removed");
    Ok(())
}
