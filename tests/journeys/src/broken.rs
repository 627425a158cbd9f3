//! What is broken is kept with its reason, and harms nothing else.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::Trial;
use serde_json::Value;
use local_cloud::device::{Device, Identity, Published};
use local_cloud::observer::{Effect, Timed};
use local_cloud::tools;
use tokio::time::Instant;

use crate::stage::{LIMIT, Stage, Suite, device_event};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("a broken click ends in quarantine with its reason, and the next is told", |suite| {
            broken(suite, "button", "iotbutton", GOOD_CLICK, &BROKEN_CLICKS)
        }),
        suite.trial("a broken ring ends in quarantine with its reason, and the next is told", |suite| {
            broken(suite, "doorbell", "doorbell", GOOD_RING, &BROKEN_RINGS)
        }),
        suite.trial("a thing name that would be a wildcard ends in quarantine", wildcards),
        suite.trial("every sample event is taken by its function", samples),
        suite.trial("a device may not publish for another, nor connect as another", strangers),
        suite.trial("a function without its topic says so when it starts", no_topic),
    ]
}

const GOOD_CLICK: &[u8] = br#"{"serialNumber":"thing-1","batteryVoltage":"2000mV","clickType":"SINGLE"}"#;
const GOOD_RING: &[u8] = br#"{"msg":"Somebody is at the door!"}"#;

const BROKEN_CLICKS: [(&[u8], &str); 13] = [
    (b"", "empty-payload"),
    (b"{\"serialNumber\":", "not-json"),
    (b"\x00", "not-json"),
    (b"{\"serialNumber\":\"\xff\"}", "invalid-utf8"),
    (b"[]", "not-an-object"),
    (b"null", "not-an-object"),
    (br#""thing-1""#, "not-an-object"),
    (br#"{"serialNumber":"thing-1","batteryVoltage":"2000mV"}"#, "missing-field"),
    (br#"{"serialNumber":["thing-1"],"batteryVoltage":"2000mV","clickType":"SINGLE"}"#, "wrong-type"),
    (br#"{"serialNumber":"thing-1","batteryVoltage":"2000mV","clickType":"single"}"#, "unknown-value"),
    (br#"{"serialNumber":"thing-1","batteryVoltage":"full","clickType":"SINGLE"}"#, "invalid-value"),
    (br#"{"serialNumber":"thing-2","batteryVoltage":"2000mV","clickType":"SINGLE"}"#, "serial-number-mismatch"),
    (&[b'x'; 128 * 1024], "payload-too-large"),
];

const BROKEN_RINGS: [(&[u8], &str); 8] = [
    (b"", "empty-payload"),
    (b"ding dong", "not-json"),
    (b"{\"msg\":\"\xf0\x9f\x94\"}", "invalid-utf8"),
    (b"[{\"msg\":\"hello\"}]", "not-an-object"),
    (b"{}", "missing-field"),
    (br#"{"msg":null}"#, "wrong-type"),
    (br#"{"msg":" \n\t "}"#, "invalid-value"),
    (&[b'{'; 128 * 1024], "payload-too-large"),
];

async fn broken(
    suite: Arc<Suite>,
    function: &str,
    topic: &str,
    good: &[u8],
    broken: &[(&'static [u8], &'static str)],
) -> Result<()> {
    let stage = suite.stage().await?;
    let mut device = stage.device("thing-1").await?;
    let topic = format!("{topic}/thing-1");
    let mut serving = Vec::new();
    for (index, (payload, reason)) in broken.iter().enumerate() {
        let event_id = stage.publish(&mut device, &topic, payload).await?;
        let shown = String::from_utf8_lossy(payload.get(..60).unwrap_or(payload)).into_owned();
        refused(&stage, function, &event_id, reason).await.with_context(|| shown.clone())?;
        whole(&stage, function, &event_id, &topic, payload).await.with_context(|| shown.clone())?;
        let processes = stage.processes(function)?;
        if index == 0 {
            serving = processes;
        } else {
            ensure!(!serving.is_empty() && processes == serving, "{shown}: the function did not stay alive");
        }
    }
    let event_id = stage.publish(&mut device, &topic, good).await?;
    stage.done(&event_id, 1).await?;
    ensure!(stage.notifications(&event_id).len() == 1, "the good event after the broken ones was not told once");
    ensure!(stage.processes(function)? == serving, "the function did not stay alive");
    Ok(())
}

/// Waits until an event is in quarantine for this reason.
async fn refused(stage: &Stage, function: &str, event_id: &str, reason: &str) -> Result<()> {
    let outcome = stage.observer.outcome(event_id, Instant::now() + LIMIT).await;
    let Some(Timed { effect: Effect::Quarantined { reason: found, why }, .. }) = outcome else {
        anyhow::bail!("{function} did not quarantine it: {outcome:?}");
    };
    ensure!(found == reason, "it is quarantined as {found} ({why}), not as {reason}");
    ensure!(why.ends_with('.') && why.len() < 200, "this is not one sentence: {why}");
    ensure!(stage.notifications(event_id).is_empty(), "it was told too");
    Ok(())
}

/// Whether a quarantined event is there as the device sent it, with what AWS IoT knew of it.
async fn whole(stage: &Stage, function: &str, event_id: &str, topic: &str, payload: &[u8]) -> Result<()> {
    let key = |value: &str| AttributeValue::S(value.to_owned());
    let get = stage.clients.dynamodb.get_item().table_name(stage.deployment.output("QuarantineTable")?);
    let found = get.key("function", key(stage.name(function)?)).key("eventId", key(event_id)).send().await?;
    let item = found.item().context("it is not in the table")?;
    let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).with_context(|| format!("no {name}"));
    let number = |name: &str| -> Result<u64> {
        Ok(item.get(name).and_then(|value| value.as_n().ok()).with_context(|| format!("no {name}"))?.parse()?)
    };
    let event: Value = serde_json::from_str(text("event")?)?;
    let kept = event.get("payloadBase64").and_then(Value::as_str).unwrap_or_default();
    ensure!(kept == BASE64_STANDARD.encode(payload), "its payload is not as it was sent");
    ensure!(text("thing")? == "thing-1" && text("topic")? == topic, "thing or topic is not what AWS IoT knew");
    ensure!(number("receivedAt")? <= number("refusedAt")?, "it was refused before it was received");
    ensure!(number("expiration")? > number("refusedAt")? / 1000, "it expires at once");
    Ok(())
}

async fn wildcards(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    for function in ["button", "doorbell"] {
        for (index, thing) in ["+", "#", "a/b", "$aws", "", "a b", "*"].into_iter().enumerate() {
            let event_id = format!("wildcard-{function}-{index}");
            let event = device_event(&event_id, thing, &format!("any/{thing}"), b"{}");
            let answer = stage.invoke(function, &event).await?;
            let reason = answer.get("reason").and_then(Value::as_str);
            ensure!(reason == Some("bad-thing-name"), "{function} answered {answer} for {thing:?}");
        }
        let last = stage.observer.outcome(&format!("wildcard-{function}-6"), Instant::now() + LIMIT).await;
        ensure!(last.is_some_and(|last| matches!(last.effect, Effect::Quarantined { .. })), "it is not in quarantine");
    }
    Ok(())
}

async fn samples(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    for function in tools::functions()? {
        let directory = tools::root().join("events").join(&function);
        let mut count = 0;
        for entry in std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let path = entry?.path();
            let event = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let answer = stage.invoke_with(&function, &event).await.with_context(|| path.display().to_string())?;
            let outcome = answer.get("outcome").and_then(Value::as_str);
            let failures = answer.get("batchItemFailures").and_then(Value::as_array);
            let is_taken = matches!(outcome, Some("done" | "refused")) || failures.is_some_and(Vec::is_empty);
            ensure!(is_taken, "{} was answered {answer}", path.display());
            count += 1;
        }
        ensure!(count > 0, "{} has no samples", directory.display());
    }
    Ok(())
}

async fn strangers(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let policy = stage.deployment.output("DevicePolicy")?;
    let identity = Identity::register(&stage.clients, "thing-1", policy).await?;
    let mut other = stage.device("thing-2").await?;
    let mut device = Device::new(&stage.cloud, identity.clone());
    // On the last two, AWS IoT alone speaks.
    let [told, deleted] =
        ["update/documents", "name/lamp/delete/accepted"].map(|it| format!("$aws/things/thing-1/shadow/{it}"));
    for topic in
        ["iotbutton/thing-2", "doorbell/thing-2", "iotbutton/thing-1/more", "elsewhere/thing-1", &told, &deleted]
    {
        let (_, published) = device.publish(topic, &[GOOD_CLICK]).await?;
        ensure!(published == Published::Denied, "thing-1 may publish on {topic}");
    }
    let mut disguised = Device::new(&stage.cloud, Identity { thing: "thing-2".to_owned(), ..identity });
    ensure!(disguised.connect().await.is_err(), "thing-1 may connect as thing-2");

    // Whatever had come of these would be here before what is published now.
    stage.publish(&mut device, "iotbutton/thing-1", GOOD_CLICK).await?;
    stage.publish(&mut other, "iotbutton/thing-2", b"{}").await?;
    let topics: Vec<_> = stage.observer.messages(0).into_iter().map(|arrived| arrived.topic).collect();
    ensure!(topics == ["iotbutton/thing-1", "iotbutton/thing-2"], "these arrived: {topics:?}");
    Ok(())
}

async fn no_topic(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    for function in ["button", "doorbell"] {
        stage.configure(function, |variables| drop(variables.remove("TOPIC_ARN"))).await?;
        let Err(error) = stage.invoke(function, &device_event("e", "t", "t", b"{}")).await else {
            anyhow::bail!("{function} runs without its topic");
        };
        ensure!(format!("{error:#}").contains("TOPIC_ARN"), "this does not name the variable: {error:#}");
    }
    Ok(())
}
