//! The operator tool `infra/quarantine` lists and resends refused events.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use libtest_mimic::Trial;
use local_cloud::isolation::{self, Inherit};
use local_cloud::tools;
use serde_json::Value;

use crate::events::click;
use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("button", "refused_event_is_listed_with_reason_and_shown_with_payload", list_and_show),
        suite.trial("button", "resent_event_that_is_still_invalid_stays_in_quarantine", still_invalid),
        suite.trial("button", "resent_event_that_is_now_valid_is_notified_once_and_removed", now_valid),
        suite.trial("button", "resent_event_stays_in_quarantine_when_its_function_fails", function_fails),
    ]
}

/// Has a click of `thing-1` refused, because its serial number is not allowed.
async fn refuse_click(suite: &Suite, event_id: &str) -> Result<Stage> {
    let stage = suite.stage().await?;
    allow_serial_numbers(&stage, "G030.*").await?;
    let response = stage.invoke("button", &click(event_id, "thing-1")).await?;
    let reason = response.get("reason").and_then(Value::as_str);
    ensure!(reason == Some("serial-number-not-allowed"), "button returned {response}");
    Ok(stage)
}

/// Allows only serial numbers that match a pattern.
async fn allow_serial_numbers(stage: &Stage, pattern: &str) -> Result<()> {
    let change = |variables: &mut HashMap<_, _>| {
        variables.insert("SERIAL_NUMBER_PATTERN".to_owned(), pattern.to_owned());
    };
    stage.configure("button", change).await
}

/// Runs the tool against the local cloud. Returns its exit code and output.
async fn quarantine(stage: &Stage, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let cli = tools::aws()?;
    let directory = cli.parent().context("the AWS CLI has no directory")?;
    let mut path = OsString::from(directory);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let program = tools::root().join("infra/quarantine");
    let mut command =
        isolation::command(program, Inherit::Minimal, stage.cloud.endpoint, &stage.account, &stage.cloud.scratch);
    command.env("PATH", path).args(["--table", stage.deployment.output("QuarantineTable")?]).args(arguments);
    let Output { status, stdout, stderr } =
        tokio::process::Command::from(command).kill_on_drop(true).output().await.context("failed to run the tool")?;
    Ok((status.code(), String::from_utf8(stdout)? + &String::from_utf8(stderr)?))
}

async fn is_quarantined(stage: &Stage, event_id: &str) -> Result<bool> {
    let key = |value: &str| AttributeValue::S(value.to_owned());
    let get = stage.clients.dynamodb.get_item().table_name(stage.deployment.output("QuarantineTable")?);
    let get = get.key("function", key(stage.name("button")?)).key("eventId", key(event_id)).consistent_read(true);
    Ok(get.send().await?.item().is_some())
}

async fn list_and_show(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "listed").await?;
    let function = stage.name("button")?;
    let ensure_contains = |output: &str, parts: &[&str]| {
        let missing = parts.iter().find(|part| !output.contains(**part));
        missing.map_or(Ok(()), |part| Err(anyhow::anyhow!("`{part}` is not in the output: {output}")))
    };
    for arguments in [&["list"][..], &["list", function]] {
        let (code, output) = quarantine(&stage, arguments).await?;
        ensure!(code == Some(0), "the exit code is {code:?}: {output}");
        ensure!(output.lines().count() == 2, "unexpected list: {output}");
        ensure_contains(&output, &["serial-number-not-allowed", function, "listed", "thing-1"])?;
    }
    let (code, output) = quarantine(&stage, &["list", stage.name("doorbell")?]).await?;
    ensure!(code == Some(0) && output.lines().count() == 1, "the list is not empty: {output}");
    ensure_contains(&output, &["Nothing is in quarantine"])?;

    let (code, output) = quarantine(&stage, &["show", function, "listed"]).await?;
    ensure!(code == Some(0), "the exit code is {code:?}: {output}");
    ensure_contains(&output, &["must match the pattern", "iotbutton/thing-1", r#""clickType":"SINGLE""#])?;
    let (code, output) = quarantine(&stage, &["show", function, "unknown"]).await?;
    ensure!(code == Some(1), "an unknown event is shown; the exit code is {code:?}: {output}");
    Ok(())
}

async fn still_invalid(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "still-invalid").await?;
    let (code, output) = quarantine(&stage, &["resend", stage.name("button")?, "still-invalid"]).await?;
    ensure!(code == Some(3), "the exit code is {code:?}: {output}");
    ensure!(output.contains("serial-number-not-allowed"), "the reason is not in the output: {output}");
    ensure!(is_quarantined(&stage, "still-invalid").await?, "the event was removed");
    Ok(())
}

async fn now_valid(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "now-valid").await?;
    let function = stage.name("button")?;
    allow_serial_numbers(&stage, ".*").await?;
    let (code, output) = quarantine(&stage, &["resend", function, "now-valid"]).await?;
    ensure!(code == Some(0), "the exit code is {code:?}: {output}");
    ensure!(!is_quarantined(&stage, "now-valid").await?, "the event was not removed");
    let (code, output) = quarantine(&stage, &["resend", function, "now-valid"]).await?;
    ensure!(code == Some(1), "an unknown event is sent; the exit code is {code:?}: {output}");
    stage.done("button", "now-valid", 1).await?;
    let notified = stage.notifications("now-valid").len();
    ensure!(notified == 1, "it was notified {notified} times");
    Ok(())
}

/// The topic is deleted, so the function fails.
async fn function_fails(suite: Arc<Suite>) -> Result<()> {
    let stage = refuse_click(&suite, "failing").await?;
    allow_serial_numbers(&stage, ".*").await?;
    let topic = stage.deployment.output("ButtonTopicArn")?;
    stage.clients.sns.delete_topic().topic_arn(topic).send().await?;
    let (code, output) = quarantine(&stage, &["resend", stage.name("button")?, "failing"]).await?;
    ensure!(code == Some(4), "the exit code is {code:?}: {output}");
    ensure!(is_quarantined(&stage, "failing").await?, "the event was removed");
    Ok(())
}
