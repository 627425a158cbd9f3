//! `telemetry` stores each reading once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iotdataplane::primitives::Blob;
use libtest_mimic::Trial;
use local_cloud::device::{Device, Published};
use local_cloud::fault_proxy::{Fault, FaultProxy};
use local_cloud::observer::{Observer, now};
use serde_json::json;
use tokio::task::JoinSet;

use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("telemetry", "stores_every_reading_once_despite_faults", readings_despite_faults),
        suite.trial("telemetry", "stores_repeated_readings_once", duplicate_readings),
        suite.trial("telemetry", "stores_a_repeated_sigfox_callback_once", sigfox_callback),
        suite.trial("telemetry", "accepts_readings_over_basic_ingest", basic_ingest),
    ]
}

/// Number of devices.
const DEVICES: usize = 20;

/// Returns a device's numbered readings. Every `repeat`th is repeated a few readings later.
fn readings(device: usize, count: usize, repeat: usize) -> Vec<Vec<u8>> {
    let started_at = now();
    let reading = |seq: usize| {
        let lux = 20_000 + seq * 37 + device;
        json!({"seq": seq, "time": started_at + seq as u64, "lux": lux, "battery": {"millivolts": 2950}})
            .to_string()
            .into_bytes()
    };
    let mut readings = Vec::new();
    for seq in 0..count {
        readings.push(reading(seq));
        if let Some(repeated) = seq.checked_sub(5).filter(|seq| seq % repeat == 0) {
            readings.push(reading(repeated));
        }
    }
    readings
}

/// Publishes `count` readings of each device concurrently. Returns the number of messages.
async fn publish(stage: &Stage, devices: usize, count: usize, repeat: usize) -> Result<usize> {
    let mut all = JoinSet::new();
    for number in 0..devices {
        let mut device = stage.device(&format!("sensor-{number}")).await?;
        all.spawn(async move {
            let topic = format!("telemetry/sensor-{number}");
            let readings = readings(number, count, repeat);
            for chunk in readings.chunks(50) {
                let chunk: Vec<&[u8]> = chunk.iter().map(Vec::as_slice).collect();
                let (_, published) = device.publish(&topic, &chunk).await?;
                ensure!(published == Published::Accepted, "AWS IoT denied readings");
            }
            Ok(readings.len())
        });
    }
    let mut published = 0;
    while let Some(device) = all.join_next().await {
        published += device??;
    }
    Ok(published)
}

/// Returns the thing and number of each reading in the table.
async fn stored(stage: &Stage) -> Result<Vec<(String, u64)>> {
    let table = stage.deployment.output("TelemetryTable")?;
    let items = stage.clients.dynamodb.scan().table_name(table).consistent_read(true).into_paginator().items().send();
    let items: Vec<_> = items.collect::<Result<_, _>>().await?;
    items
        .iter()
        .map(|item| {
            let thing = item.get("thing").and_then(|thing| thing.as_s().ok()).context("an item has no thing")?;
            let reading =
                item.get("reading").and_then(|reading| reading.as_m().ok()).context("an item has no reading")?;
            let number = reading.get("seq").and_then(|seq| seq.as_n().ok()).context("a reading has no number")?;
            Ok((thing.clone(), number.parse()?))
        })
        .collect()
}

/// Waits until the table has this many readings and the queue is empty.
pub async fn settled(stage: &Stage, readings: usize) -> Result<Vec<(String, u64)>> {
    // AWS IoT sends a message to the queue before it acknowledges it.
    stage.queue_shrinks_to("TelemetryQueueUrl", 0).await?;
    let dead = stage.queue_length("TelemetryDeadLetterQueueUrl").await?;
    ensure!(dead == 0, "{dead} messages are in the dead-letter queue");
    let stored = stored(stage).await?;
    ensure!(stored.len() >= readings, "{} of {readings} readings are in the table", stored.len());
    Ok(stored)
}

/// Ensures that each device has every reading exactly once.
pub fn ensure_each_once(stored: &[(String, u64)], devices: usize, count: usize) -> Result<()> {
    let mut numbers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (thing, number) in stored {
        ensure!(numbers.entry(thing).or_default().insert(*number), "reading {number} of {thing} is stored twice");
    }
    ensure!(numbers.len() == devices, "there are readings of {} devices", numbers.len());
    for (thing, numbers) in numbers {
        let expected = 0..u64::try_from(count)?;
        ensure!(numbers.iter().copied().eq(expected), "the readings of {thing} are {numbers:?}");
    }
    Ok(())
}

async fn duplicate_readings(suite: Arc<Suite>) -> Result<()> {
    const EACH: usize = 100;
    let stage = suite.stage().await?;
    set_identity_field(&stage).await?;
    let published = publish(&stage, DEVICES, EACH, 20).await?;
    ensure!(published == DEVICES * EACH * 21 / 20, "{published} messages were published");
    let stored = settled(&stage, DEVICES * EACH).await?;
    ensure_each_once(&stored, DEVICES, EACH)?;
    let total = stage.observer.total(stage.name("telemetry")?);
    ensure!(total.refused == 0 && total.retried == 0, "some were refused or retried: {total:?}");
    Ok(())
}

/// Makes the field `seq` the identity of a reading.
async fn set_identity_field(stage: &Stage) -> Result<()> {
    stage.configure("telemetry", |variables| drop(variables.insert("IDENTITY_FIELD".into(), "seq".into()))).await
}

async fn readings_despite_faults(suite: Arc<Suite>) -> Result<()> {
    use Fault::{
        Hangs, KilledAfter, KilledBefore, LostRequest, LostResponse, ServerError, Throttled, UnprocessedItems,
    };
    const EACH: usize = 60;
    const UNSTORABLE: usize = 12;
    let stage = suite.stage().await?;
    let proxy = FaultProxy::start(&stage.cloud).await?;
    set_identity_field(&stage).await?;
    stage.put_behind(&proxy, "telemetry").await?;
    // Longer than the function's timeout.
    stage.redeliver_after("telemetry", 8).await?;
    let series = [
        [Throttled, UnprocessedItems, LostResponse, ServerError, LostRequest, UnprocessedItems].as_slice(),
        &[KilledAfter],
        &[Throttled, Throttled, Hangs, LostResponse, UnprocessedItems],
        &[KilledBefore],
        &[ServerError, UnprocessedItems, Throttled, LostRequest, Hangs],
    ];
    proxy.fail_alternate_calls("BatchWriteItem", series.concat());

    let mut unstorable = stage.device("poison").await?;
    let published = publish(&stage, DEVICES, EACH, 20).await?;
    publish_unstorable(&mut unstorable, UNSTORABLE).await?;
    let stored = settled(&stage, DEVICES * EACH).await?;
    ensure_each_once(&stored, DEVICES, EACH)?;
    let refused = quarantined(&stage).await?;
    ensure!(refused == UNSTORABLE, "{refused} readings are in quarantine");

    // Publish more until all faults are injected. These readings must not be lost either.
    let mut rounds = 1;
    while !proxy.is_exhausted() {
        rounds += 1;
        ensure!(rounds < 12, "not all faults were injected");
        publish(&stage, DEVICES, EACH, 20).await?;
        settled(&stage, DEVICES * EACH).await?;
    }
    let failed = proxy.calls().iter().filter(|call| call.fault.is_some()).count();
    ensure!(failed == series.concat().len(), "{failed} calls failed");
    let total = stage.observer.total(stage.name("telemetry")?);
    // Invocations that were killed report no counts.
    eprintln!(
        "telemetry: {published} readings and {UNSTORABLE} unstorable ones published, {} more rounds; {} stored, \
         {refused} refused, {failed} of {} calls failed, {} messages retried",
        rounds - 1,
        stored.len(),
        proxy.calls().len(),
        total.retried,
    );
    Ok(())
}

async fn publish_unstorable(device: &mut Device, count: usize) -> Result<()> {
    for number in 0..count {
        // DynamoDB cannot store 39 digits exactly.
        let payload = format!(r#"{{"seq": {number}, "lux": 123456789012345678901234567890123456789}}"#);
        let (_, published) = device.publish("telemetry/poison", &[payload.as_bytes()]).await?;
        ensure!(published == Published::Accepted, "AWS IoT denied a reading");
    }
    Ok(())
}

/// Returns how many events of `telemetry` are in quarantine.
async fn quarantined(stage: &Stage) -> Result<usize> {
    let query = stage.clients.dynamodb.query().table_name(stage.deployment.output("QuarantineTable")?);
    let query = query
        .key_condition_expression("#function = :function")
        .expression_attribute_names("#function", "function")
        .expression_attribute_values(":function", AttributeValue::S(stage.name("telemetry")?.to_owned()));
    Ok(query.send().await?.items().len())
}

/// The Sigfox cloud publishes over HTTP, with strings in all fields.
async fn sigfox_callback(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let callback = |seq: u64| {
        json!({
            "device": "1D8A2B",
            "data": "0a1b2c",
            "time": (now() / 1000 + seq).to_string(),
            "seqNumber": seq.to_string(),
            "rssi": "-114.00",
        })
    };
    let (first, second) = (callback(1).to_string(), callback(2).to_string());
    for payload in [&first, &second, &first, &first] {
        let publish = stage.clients.iot_data.publish().topic("sigfox").qos(1);
        publish.payload(Blob::new(payload.as_bytes())).send().await?;
    }
    let function = stage.name("telemetry")?;
    let all_done = |observer: &Observer| (observer.total(function).done >= 4).then_some(());
    stage.observer.until(all_done).await.context("the callbacks were not done")?;
    let table = stage.deployment.output("TelemetryTable")?;
    let stored = stage.clients.dynamodb.scan().table_name(table).consistent_read(true).send().await?;
    let of_device =
        |item: &HashMap<String, AttributeValue>| item.get("thing") == Some(&AttributeValue::S("1D8A2B".into()));
    ensure!(stored.items().len() == 2 && stored.items().iter().all(of_device), "the items are {:?}", stored.items());
    Ok(())
}

async fn basic_ingest(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage_with(&[("BasicIngest", "true")]).await?;
    let rule = stage.deployment.output("TelemetryRule")?;
    let mut device = stage.device("sensor-1").await?;
    let topic = |thing: &str| format!("$aws/rules/{rule}/telemetry/{thing}");
    let (_, published) = device.publish(&topic("sensor-2"), &[br#"{"seq": 1}"#]).await?;
    ensure!(published == Published::Denied, "a device may publish for another");
    let (_, published) = device.publish(&topic("sensor-1"), &[br#"{"seq": 2}"#]).await?;
    ensure!(published == Published::Accepted, "AWS IoT denied the reading");
    let stored = settled(&stage, 1).await?;
    ensure!(stored == [("sensor-1".to_owned(), 2)], "the readings are {stored:?}");
    Ok(())
}
