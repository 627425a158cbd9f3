//! The operator's tool: what was refused is seen, and gets another chance.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use libtest_mimic::Trial;
use serde_json::Value;
use local_cloud::isolation::{self, Inherit};
use local_cloud::tools;

use crate::stage::{Stage, Suite, click};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("a refused event is listed with its reason and shown with its payload", seen),
        suite.trial("a refused event that is sent again and still bad is kept", still_bad),
        suite.trial("a refused event that is sent again and good by now is told once, and gone", good_by_now),
        suite.trial("a refused event that is sent again to a function that fails is kept", failed),
    ]
}

/// Refuses a click of `thing-1`, for only other serial numbers are allowed.
async fn refused(suite: &Suite, event_id: &str) -> Result<Stage> {
    let stage = suite.stage().await?;
    allow(&stage, "G030.*").await?;
    let answer = stage.invoke("button", &click(event_id, "thing-1")).await?;
    let reason = answer.get("reason").and_then(Value::as_str);
    ensure!(reason == Some("serial-number-not-allowed"), "button answered {answer}");
    Ok(stage)
}

/// Allows the serial numbers that match a pattern, and no others.
async fn allow(stage: &Stage, pattern: &str) -> Result<()> {
    let change = |variables: &mut HashMap<_, _>| {
        variables.insert("SERIAL_NUMBER_PATTERN".to_owned(), pattern.to_owned());
    };
    stage.configure("button", change).await
}

/// Runs the tool as an operator does whose AWS CLI is the local cloud's; how it ended, and all that it said.
async fn quarantine(stage: &Stage, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let cli = tools::aws()?;
    let directory = cli.parent().context("the AWS CLI is in no directory")?;
    let mut path = OsString::from(directory);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let program = tools::root().join("infra/quarantine");
    let mut command =
        isolation::command(program, Inherit::Minimal, stage.cloud.endpoint, &stage.account, &stage.cloud.scratch);
    command.env("PATH", path).args(["--table", stage.deployment.output("QuarantineTable")?]).args(arguments);
    let Output { status, stdout, stderr } =
        tokio::process::Command::from(command).kill_on_drop(true).output().await.context("cannot run it")?;
    Ok((status.code(), String::from_utf8(stdout)? + &String::from_utf8(stderr)?))
}

async fn is_kept(stage: &Stage, event_id: &str) -> Result<bool> {
    let key = |value: &str| AttributeValue::S(value.to_owned());
    let get = stage.clients.dynamodb.get_item().table_name(stage.deployment.output("QuarantineTable")?);
    let get = get.key("function", key(stage.name("button")?)).key("eventId", key(event_id)).consistent_read(true);
    Ok(get.send().await?.item().is_some())
}

async fn seen(suite: Arc<Suite>) -> Result<()> {
    let stage = refused(&suite, "seen").await?;
    let function = stage.name("button")?;
    let says = |said: &str, parts: &[&str]| {
        let missing = parts.iter().find(|part| !said.contains(**part));
        missing.map_or(Ok(()), |part| Err(anyhow::anyhow!("it does not say `{part}`: {said}")))
    };
    for arguments in [&["list"][..], &["list", function]] {
        let (code, said) = quarantine(&stage, arguments).await?;
        ensure!(code == Some(0), "it ended with {code:?}: {said}");
        ensure!(said.lines().count() == 2, "it lists something else: {said}");
        says(&said, &["serial-number-not-allowed", function, "seen", "thing-1"])?;
    }
    let (code, said) = quarantine(&stage, &["list", stage.name("doorbell")?]).await?;
    ensure!(code == Some(0) && said.lines().count() == 1, "the doorbell has refused something: {said}");
    says(&said, &["Nothing is in quarantine"])?;

    let (code, said) = quarantine(&stage, &["show", function, "seen"]).await?;
    ensure!(code == Some(0), "it ended with {code:?}: {said}");
    says(&said, &["does not match the pattern", "iotbutton/thing-1", r#""clickType":"SINGLE""#])?;
    let (code, said) = quarantine(&stage, &["show", function, "unseen"]).await?;
    ensure!(code == Some(1), "it shows what is not there, and ended with {code:?}: {said}");
    Ok(())
}

async fn still_bad(suite: Arc<Suite>) -> Result<()> {
    let stage = refused(&suite, "still-bad").await?;
    let (code, said) = quarantine(&stage, &["resend", stage.name("button")?, "still-bad"]).await?;
    ensure!(code == Some(3), "it ended with {code:?}: {said}");
    ensure!(said.contains("serial-number-not-allowed"), "it does not say why: {said}");
    ensure!(is_kept(&stage, "still-bad").await?, "the event is gone");
    Ok(())
}

async fn good_by_now(suite: Arc<Suite>) -> Result<()> {
    let stage = refused(&suite, "good-by-now").await?;
    let function = stage.name("button")?;
    allow(&stage, ".*").await?;
    let (code, said) = quarantine(&stage, &["resend", function, "good-by-now"]).await?;
    ensure!(code == Some(0), "it ended with {code:?}: {said}");
    ensure!(!is_kept(&stage, "good-by-now").await?, "the event is still there");
    let (code, said) = quarantine(&stage, &["resend", function, "good-by-now"]).await?;
    ensure!(code == Some(1), "it sends what is not there, and ended with {code:?}: {said}");
    stage.done("good-by-now", 1).await?;
    let told = stage.notifications("good-by-now").len();
    ensure!(told == 1, "it was told {told} times");
    Ok(())
}

/// A topic that is gone, and so nothing can be told.
async fn failed(suite: Arc<Suite>) -> Result<()> {
    let stage = refused(&suite, "failed").await?;
    allow(&stage, ".*").await?;
    let topic = stage.deployment.output("ButtonTopicArn")?;
    stage.clients.sns.delete_topic().topic_arn(topic).send().await?;
    let (code, said) = quarantine(&stage, &["resend", stage.name("button")?, "failed"]).await?;
    ensure!(code == Some(4), "it ended with {code:?}: {said}");
    ensure!(is_kept(&stage, "failed").await?, "the event is gone");
    Ok(())
}
