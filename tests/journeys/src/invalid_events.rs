//! Invalid events are quarantined with a reason and do not affect others.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::Trial;
use local_cloud::device::{Device, Identity, Published};
use local_cloud::observer::{Effect, PATIENCE, Timed};
use local_cloud::tools;
use serde_json::Value;

use crate::events::device_event;
use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("button", "invalid_click_is_quarantined_and_the_next_is_notified", |suite| {
            invalid_payloads(suite, "button", "iotbutton", VALID_CLICK, &INVALID_CLICKS)
        }),
        suite.trial("doorbell", "invalid_ring_is_quarantined_and_the_next_is_notified", |suite| {
            invalid_payloads(suite, "doorbell", "doorbell", VALID_RING, &INVALID_RINGS)
        }),
        suite.trial("button+doorbell", "thing_name_that_is_a_wildcard_is_quarantined", wildcards),
        suite.trial("stack", "every_sample_event_is_accepted_by_its_function", samples),
        suite.trial("button", "device_cannot_publish_for_or_connect_as_another", other_things),
        suite.trial("button+doorbell", "function_without_its_topic_fails_to_start", missing_topic),
    ]
}

const VALID_CLICK: &[u8] = br#"{"serialNumber":"thing-1","batteryVoltage":"2000mV","clickType":"SINGLE"}"#;
const VALID_RING: &[u8] = br#"{"msg":"Somebody is at the door!"}"#;

const INVALID_CLICKS: [(&[u8], &str); 13] = [
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

const INVALID_RINGS: [(&[u8], &str); 8] = [
    (b"", "empty-payload"),
    (b"ding dong", "not-json"),
    (b"{\"msg\":\"\xf0\x9f\x94\"}", "invalid-utf8"),
    (b"[{\"msg\":\"hello\"}]", "not-an-object"),
    (b"{}", "missing-field"),
    (br#"{"msg":null}"#, "wrong-type"),
    (br#"{"msg":" \n\t "}"#, "invalid-value"),
    (&[b'{'; 128 * 1024], "payload-too-large"),
];

async fn invalid_payloads(
    suite: Arc<Suite>,
    function: &str,
    topic: &str,
    valid: &[u8],
    invalid: &[(&'static [u8], &'static str)],
) -> Result<()> {
    let stage = suite.stage().await?;
    let mut device = stage.device("thing-1").await?;
    let topic = format!("{topic}/thing-1");
    let mut first_processes = Vec::new();
    for (index, (payload, reason)) in invalid.iter().enumerate() {
        let event_id = stage.publish(&mut device, &topic, payload).await?;
        let shown = String::from_utf8_lossy(payload.get(..60).unwrap_or(payload)).into_owned();
        await_quarantine(&stage, function, &event_id, reason).await.with_context(|| shown.clone())?;
        ensure_unmodified(&stage, function, &event_id, &topic, payload).await.with_context(|| shown.clone())?;
        let processes = stage.processes(function)?;
        if index == 0 {
            first_processes = processes;
        } else {
            ensure!(!first_processes.is_empty() && processes == first_processes, "{shown}: the function was restarted");
        }
    }
    let event_id = stage.publish(&mut device, &topic, valid).await?;
    stage.done(function, &event_id, 1).await?;
    ensure!(stage.notifications(&event_id).len() == 1, "the valid event was not notified once");
    ensure!(stage.processes(function)? == first_processes, "the function was restarted");
    Ok(())
}

/// Waits until an event is in quarantine for this reason.
async fn await_quarantine(stage: &Stage, function: &str, event_id: &str, reason: &str) -> Result<()> {
    let outcome = stage.observer.outcome(event_id, stage.name(function)?, *PATIENCE).await;
    let Some(Timed { effect: Effect::Quarantined { reason: found, why }, .. }) = outcome else {
        anyhow::bail!("{function} did not quarantine the event: {outcome:?}");
    };
    ensure!(found == reason, "the event is quarantined as {found} ({why}), not as {reason}");
    ensure!(why.ends_with('.') && why.len() < 200, "the explanation is not one sentence: {why}");
    ensure!(stage.notifications(event_id).is_empty(), "the event was notified");
    Ok(())
}

/// Ensures that a quarantined event has the payload that the device sent, and the fields that AWS IoT added.
async fn ensure_unmodified(stage: &Stage, function: &str, event_id: &str, topic: &str, payload: &[u8]) -> Result<()> {
    let key = |value: &str| AttributeValue::S(value.to_owned());
    let get = stage.clients.dynamodb.get_item().table_name(stage.deployment.output("QuarantineTable")?);
    let found = get.key("function", key(stage.name(function)?)).key("eventId", key(event_id)).send().await?;
    let item = found.item().context("the event is not in the table")?;
    let text = |name: &str| {
        item.get(name).and_then(|value| value.as_s().ok()).with_context(|| format!("the item has no {name}"))
    };
    let number = |name: &str| -> Result<u64> {
        Ok(item
            .get(name)
            .and_then(|value| value.as_n().ok())
            .with_context(|| format!("the item has no {name}"))?
            .parse()?)
    };
    let event: Value = serde_json::from_str(text("event")?)?;
    let stored = event.get("payloadBase64").and_then(Value::as_str).unwrap_or_default();
    ensure!(stored == BASE64_STANDARD.encode(payload), "the payload was modified");
    ensure!(text("thing")? == "thing-1" && text("topic")? == topic, "the thing or topic differs");
    ensure!(number("receivedAt")? <= number("refusedAt")?, "refusedAt is before receivedAt");
    ensure!(number("expiration")? > number("refusedAt")? / 1000, "the item has expired");
    Ok(())
}

async fn wildcards(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    for function in ["button", "doorbell"] {
        for (index, thing) in ["+", "#", "a/b", "$aws", "", "a b", "*"].into_iter().enumerate() {
            let event_id = format!("wildcard-{function}-{index}");
            let event = device_event(&event_id, thing, &format!("any/{thing}"), b"{}");
            let response = stage.invoke(function, &event).await?;
            let reason = response.get("reason").and_then(Value::as_str);
            ensure!(reason == Some("bad-thing-name"), "{function} returned {response} for {thing:?}");
        }
        let last = stage.observer.outcome(&format!("wildcard-{function}-6"), stage.name(function)?, *PATIENCE).await;
        ensure!(
            last.is_some_and(|last| matches!(last.effect, Effect::Quarantined { .. })),
            "the event is not in quarantine"
        );
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
            let response =
                stage.invoke_with_text(&function, &event).await.with_context(|| path.display().to_string())?;
            let outcome = response.get("outcome").and_then(Value::as_str);
            let failures = response.get("batchItemFailures").and_then(Value::as_array);
            let is_accepted = matches!(outcome, Some("done" | "refused")) || failures.is_some_and(Vec::is_empty);
            ensure!(is_accepted, "the response to {} was {response}", path.display());
            count += 1;
        }
        ensure!(count > 0, "{} has no samples", directory.display());
    }
    Ok(())
}

async fn other_things(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let policy = stage.deployment.output("DevicePolicy")?;
    let identity = Identity::register(&stage.clients, "thing-1", policy).await?;
    let mut other = stage.device("thing-2").await?;
    let mut device = Device::new(&stage.cloud, identity.clone());
    // Only AWS IoT may publish on the last two.
    let [updated, deleted] =
        ["update/documents", "name/lamp/delete/accepted"].map(|it| format!("$aws/things/thing-1/shadow/{it}"));
    for topic in
        ["iotbutton/thing-2", "doorbell/thing-2", "iotbutton/thing-1/more", "elsewhere/thing-1", &updated, &deleted]
    {
        let (_, published) = device.publish(topic, &[VALID_CLICK]).await?;
        ensure!(published == Published::Denied, "thing-1 may publish on {topic}");
    }
    let mut disguised = Device::new(&stage.cloud, Identity { thing: "thing-2".to_owned(), ..identity });
    ensure!(disguised.connect().await.is_err(), "thing-1 may connect as thing-2");

    // Any earlier message would arrive before these.
    stage.publish(&mut device, "iotbutton/thing-1", VALID_CLICK).await?;
    stage.publish(&mut other, "iotbutton/thing-2", b"{}").await?;
    let topics: Vec<_> = stage.observer.messages(0).into_iter().map(|message| message.topic).collect();
    ensure!(topics == ["iotbutton/thing-1", "iotbutton/thing-2"], "the messages are on {topics:?}");
    Ok(())
}

async fn missing_topic(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    for function in ["button", "doorbell"] {
        stage.configure(function, |variables| drop(variables.remove("TOPIC_ARN"))).await?;
        let Err(error) = stage.invoke(function, &device_event("e", "t", "t", b"{}")).await else {
            anyhow::bail!("{function} started without its topic");
        };
        ensure!(format!("{error:#}").contains("TOPIC_ARN"), "the error does not name the variable: {error:#}");
    }
    Ok(())
}
