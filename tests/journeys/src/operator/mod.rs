//! The operator tool `gatehouse` on the local cloud.

mod dead_letters;
mod health;
mod many;
mod quarantine;
mod state;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use libtest_mimic::Trial;
use local_cloud::isolation::{self, Inherit};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::programs;
use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trials = many::trials(suite);
    trials.extend(quarantine::trials(suite));
    trials.extend(dead_letters::trials(suite));
    trials.extend(health::trials(suite));
    trials.extend(state::trials(suite));
    trials
}

/// The output of the tool, and its exit code.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Ensures the exit code.
    fn ended_with(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == Some(code),
            "the exit code is {:?}, not {code}: {}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Ensures that the output contains these parts.
    fn contains(self, parts: &[&str]) -> Result<Self> {
        let output = format!("{}{}", self.stdout, self.stderr);
        let missing = parts.iter().find(|part| !output.contains(**part));
        ensure!(missing.is_none(), "{missing:?} is not in the output: {output}");
        Ok(self)
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("the output is not JSON: {}", self.stdout))
    }
}

/// Runs the tool, which must succeed. Returns its standard output.
pub async fn output(stage: &Stage, arguments: &[&str]) -> Result<String> {
    Ok(gatehouse(stage, arguments).await?.ended_with(0)?.stdout)
}

/// Returns the tool's command for a stage.
fn command(stage: &Stage, arguments: &[&str]) -> Result<Command> {
    let program = programs::gatehouse()?;
    let mut command =
        isolation::command(program, Inherit::Minimal, stage.cloud.endpoint, &stage.account, &stage.cloud.scratch);
    command.args(["--prefix", &stage.deployment.stack]).args(arguments);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    Ok(command)
}

/// Runs the tool.
async fn gatehouse(stage: &Stage, arguments: &[&str]) -> Result<Ran> {
    let output = command(stage, arguments)?.output().await.context("failed to run the tool")?;
    Ok(Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// Allows only serial numbers that match a pattern.
async fn allow_serial_numbers(stage: &Stage, pattern: &str) -> Result<()> {
    let change = |variables: &mut HashMap<_, _>| {
        variables.insert("SERIAL_NUMBER_PATTERN".to_owned(), pattern.to_owned());
    };
    stage.configure("button", change).await
}

/// Returns how many events are in quarantine.
async fn quarantined(stage: &Stage) -> Result<usize> {
    let scan = stage.clients.dynamodb.scan().table_name(stage.deployment.output("QuarantineTable")?);
    let items: Vec<_> = scan.consistent_read(true).into_paginator().items().send().collect::<Result<_, _>>().await?;
    Ok(items.len())
}

async fn is_quarantined(stage: &Stage, function: &str, event_id: &str) -> Result<bool> {
    let key = |value: &str| AttributeValue::S(value.to_owned());
    let get = stage.clients.dynamodb.get_item().table_name(stage.deployment.output("QuarantineTable")?);
    let get = get.key("function", key(stage.name(function)?)).key("eventId", key(event_id)).consistent_read(true);
    Ok(get.send().await?.item().is_some())
}

/// Puts an event into quarantine as a function does, as if an earlier version of it had refused the event.
async fn put_in_quarantine(stage: &Stage, function: &str, event_id: &str, event: &Value) -> Result<()> {
    let string = |value: &str| AttributeValue::S(value.to_owned());
    let millis = |value: u64| AttributeValue::N(value.to_string());
    let now = local_cloud::observer::now();
    let put = stage.clients.dynamodb.put_item().table_name(stage.deployment.output("QuarantineTable")?);
    let put = put.item("function", string(stage.name(function)?)).item("eventId", string(event_id));
    let put = put.item("event", string(&event.to_string())).item("reason", string("unknown-field"));
    let put = put.item("why", string("An earlier version refused it.")).item("requestId", string("a-request"));
    let put = put.item("receivedAt", millis(now)).item("refusedAt", millis(now));
    put.item("expiration", millis(now / 1000 + 86_400)).send().await?;
    Ok(())
}

/// Returns the URL of a dead-letter queue by its name after the prefix. The test sends to it in place of an AWS
/// service, so this removes the policy that allows only that service.
async fn dead_letter_queue(stage: &Stage, name: &str) -> Result<String> {
    let url = queue_url(stage, name).await?;
    let set = stage.clients.sqs.set_queue_attributes().queue_url(&url);
    set.attributes(QueueAttributeName::Policy, "").send().await.context("failed to take away a queue's policy")?;
    Ok(url)
}

/// Sends a message to a queue, as AWS does.
async fn send(stage: &Stage, queue_url: &str, body: &str, attributes: &[(&str, &str)]) -> Result<()> {
    let mut send = stage.clients.sqs.send_message().queue_url(queue_url).message_body(body);
    for (name, value) in attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(*value).build()?;
        send = send.message_attributes(*name, value);
    }
    send.send().await.with_context(|| format!("failed to send to {queue_url}"))?;
    Ok(())
}

/// Returns the URL of a queue by its name after the prefix.
async fn queue_url(stage: &Stage, name: &str) -> Result<String> {
    let name = format!("{}-{name}", stage.deployment.stack);
    let found = stage.clients.sqs.get_queue_url().queue_name(&name).send().await;
    found.with_context(|| format!("queue {name} is missing"))?.queue_url.context("it has no URL")
}

/// Returns the report of AWS IoT about a rule's failed actions.
fn rule_record(stage: &Stage, rule: &str, topic: &str, payload: &[u8], trace_id: &str, queues: &[&str]) -> Value {
    use base64::Engine;
    let failures: Vec<_> = queues
        .iter()
        .map(|queue| {
            let is_direct = ["button", "doorbell"].contains(queue);
            json!({
                "failedAction": if is_direct { "LambdaAction" } else { "SqsAction" },
                "failedResource": format!("{}-{queue}", stage.deployment.stack),
                "errorMessage": "Access denied"
            })
        })
        .collect();
    json!({
        "ruleName": format!("{}_{rule}", stage.deployment.stack.replace('-', "_")),
        "topic": topic,
        "cloudwatchTraceId": trace_id,
        "clientId": "a-client",
        "sourceIp": "192.0.2.1",
        "base64OriginalPayload": base64::prelude::BASE64_STANDARD.encode(payload),
        "failures": failures
    })
}

/// Returns Lambda's report of a failed asynchronous invocation.
fn invocation_record(stage: &Stage, function: &str, input: &Value) -> Result<Value> {
    let (account, name) = (stage.account.id(), stage.name(function)?);
    Ok(json!({
        "version": "1.0",
        "timestamp": "2026-11-29T13:00:00.000Z",
        "requestContext": {
            "requestId": format!("request-{function}"),
            "functionArn": format!("arn:aws:lambda:us-east-1:{account}:function:{name}:$LATEST"),
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3
        },
        "requestPayload": input,
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorType": "Retry", "errorMessage": "the event could not be handled"}
    }))
}

/// Returns the number of messages in all dead-letter queues.
async fn dead_letters(stage: &Stage) -> Result<usize> {
    let ran = gatehouse(stage, &["dead-letters", "list", "--json"]).await?.ended_with(0)?;
    let queues = ran.json()?;
    let queues = queues.as_array().context("the output is no list")?;
    let hidden: u64 = queues.iter().filter_map(|queue| queue.get("inFlight")?.as_u64()).sum();
    ensure!(hidden == 0, "{hidden} dead letters are hidden");
    Ok(queues.iter().filter_map(|queue| queue.get("letters")?.as_array()).map(Vec::len).sum())
}
