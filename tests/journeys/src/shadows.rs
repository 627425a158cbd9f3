//! `shadow` records the newest state of device shadows.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_iotdataplane::primitives::Blob;
use libtest_mimic::Trial;
use local_cloud::device::{Device, Identity, Published, Subscribed};
use local_cloud::observer;
use serde_json::{Value, json};

use crate::stage::{Item, is_true, text};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![suite.trial("shadow", "records_updates_and_deletions_in_any_order", newest_state)]
}

async fn newest_state(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let mut lamp = stage.device("lamp").await?;
    let subscribed = lamp.subscribe("$aws/things/lamp/shadow/update/delta").await?;
    ensure!(subscribed == Subscribed::Granted, "the device may not subscribe to its delta");
    let all = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]});
    stage.clients.iot.create_policy().policy_name("all").policy_document(all.to_string()).send().await?;
    let mut listener = Device::new(&stage.cloud, Identity::register(&stage.clients, "listener", "all").await?);
    let subscribed = listener.subscribe("shadow/${topic(3)}/delta").await?;
    ensure!(subscribed == Subscribed::Granted, "the device may not subscribe to the compact delta");
    let is = |item: &Item, name: &str, state: &Value| {
        text(item, name).and_then(|text| serde_json::from_str::<Value>(text).ok()).as_ref() == Some(state)
    };
    let publish = async |lamp: &mut Device, topic: &str, state: Value| {
        let payload = state.to_string();
        let (_, published) = lamp.publish(&format!("$aws/things/lamp/shadow/{topic}"), &[payload.as_bytes()]).await?;
        ensure!(published == Published::Accepted, "AWS IoT denied an update");
        Ok(())
    };
    let off = json!({"lamp": "off"});
    let on = json!({"lamp": "on"});

    publish(&mut lamp, "update", json!({"state": {"reported": off}})).await?;
    let record = stage.record("lamp", "shadow#", |item| is(item, "reported", &off)).await?;
    ensure!(!record.contains_key("desired"), "the record is {record:?}");

    // An operator sets the desired state; the device receives the delta and reports.
    let desired = Blob::new(json!({"state": {"desired": on}}).to_string());
    stage.clients.iot_data.update_thing_shadow().thing_name("lamp").payload(desired).send().await?;
    let delta = lamp.receive().await.context("the device did not receive the delta")?;
    let delta: Value = serde_json::from_slice(&delta.payload)?;
    ensure!(delta.get("state") == Some(&on), "the delta is {delta}");
    // The local cloud does not substitute the thing name in the topic of the compact delta.
    let compact = listener.receive().await.context("there was no compact delta")?;
    let compact: Value = serde_json::from_slice(&compact.payload)?;
    ensure!(compact == json!({"state": on, "version": 2}), "the compact delta is {compact}");
    let subscribed = lamp.subscribe("shadow/lamp/delta").await?;
    ensure!(subscribed == Subscribed::Granted, "the device may not subscribe to the compact delta");
    stage.record("lamp", "shadow#", |item| is(item, "desired", &on) && is(item, "reported", &off)).await?;
    publish(&mut lamp, "update", json!({"state": {"reported": on}})).await?;
    let record = stage.record("lamp", "shadow#", |item| is(item, "desired", &on) && is(item, "reported", &on)).await?;
    let version = |item: &Item| item.get("shadowVersion").and_then(|version| version.as_n().ok()?.parse::<u64>().ok());
    ensure!(version(&record) == Some(3), "the record is {record:?}");

    // A named shadow has its own record.
    let firmware = json!({"version": "1.4.2"});
    publish(&mut lamp, "name/firmware/update", json!({"state": {"reported": firmware}})).await?;
    let named = stage.record("lamp", "shadow#firmware", |item| is(item, "reported", &firmware)).await?;
    ensure!(version(&named) == Some(1), "the record is {named:?}");

    // A late event changes nothing.
    let updates = stage
        .observer
        .system_messages(0)
        .into_iter()
        .filter(|message| message.topic == "$aws/things/lamp/shadow/update/documents");
    let first = updates.min_by_key(|message| message.at).context("AWS IoT published no shadow update")?;
    let late = json!({
        "payload": serde_json::from_slice::<Value>(&first.payload)?,
        "thing": "lamp",
        "topic": first.topic,
        "traceId": "late",
        "receivedAt": observer::now(),
    });
    let send = stage.clients.sqs.send_message().queue_url(stage.output("shadow", "QueueUrl")?);
    send.message_body(late.to_string()).send().await?;
    stage.done("shadow", "late", 1).await?;
    let record = stage.record("lamp", "shadow#", |_| true).await?;
    ensure!(is(&record, "reported", &on) && version(&record) == Some(3), "the record is {record:?}");

    // Deletions, and a shadow that is created again.
    let (_, published) = lamp.publish("$aws/things/lamp/shadow/delete", &[b""]).await?;
    ensure!(published == Published::Accepted, "AWS IoT denied a deletion");
    let deleted = stage.record("lamp", "shadow#", |item| is_true(item, "deleted")).await?;
    ensure!(!deleted.contains_key("desired") && !deleted.contains_key("reported"), "the record is {deleted:?}");
    let (_, published) = lamp.publish("$aws/things/lamp/shadow/name/firmware/delete", &[b""]).await?;
    ensure!(published == Published::Accepted, "AWS IoT denied a deletion");
    stage.record("lamp", "shadow#firmware", |item| is_true(item, "deleted")).await?;
    publish(&mut lamp, "update", json!({"state": {"reported": off}})).await?;
    let recreated = stage.record("lamp", "shadow#", |item| !is_true(item, "deleted")).await?;
    ensure!(is(&recreated, "reported", &off) && version(&recreated) > version(&record), "the record is {recreated:?}");
    ensure!(stage.queue_length("ShadowDeadLetterQueueUrl").await? == 0, "an event is in the dead-letter queue");
    Ok(())
}
