//! Readings are kept, each once, whatever happens; and alarms are told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iotdataplane::primitives::Blob;
use aws_sdk_sqs::types::QueueAttributeName;
use libtest_mimic::Trial;
use serde_json::json;
use local_cloud::device::{Device, Published};
use local_cloud::fault_proxy::{Fault, FaultProxy};
use local_cloud::observer::{Observer, now};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::stage::{Stage, Suite};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("no reading is lost or kept twice while the table throttles, fails, hangs and leaves half", faults),
        suite.trial("of 2,000 readings, one in twenty sent twice, exactly the distinct ones are kept", numbered),
        suite.trial("what hundreds of greenhouses tell at once is told to people as a few texts and a sum", storm),
        suite.trial("a Sigfox callback is kept once, as its device's reading, however often it is repeated", sigfox),
        suite.trial("a device publishes readings past the broker where Basic Ingest is switched on", basic_ingest),
    ]
}

/// How long everything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// Numbered readings.
const DEVICES: usize = 20;

/// A device's numbered readings, and each `twice`th of them once more, some readings later.
fn readings(device: usize, count: usize, twice: usize) -> Vec<Vec<u8>> {
    let begin = now();
    let reading = |seq: usize| {
        let lux = 20_000 + seq * 37 + device;
        json!({"seq": seq, "time": begin + seq as u64, "lux": lux, "battery": {"millivolts": 2950}})
            .to_string()
            .into_bytes()
    };
    let mut readings = Vec::new();
    for seq in 0..count {
        readings.push(reading(seq));
        if let Some(again) = seq.checked_sub(5).filter(|again| again % twice == 0) {
            readings.push(reading(again));
        }
    }
    readings
}

/// Has devices publish so many numbered readings each, at the same time; how many messages that were.
async fn publish(stage: &Stage, devices: usize, count: usize, twice: usize) -> Result<usize> {
    let mut all = JoinSet::new();
    for number in 0..devices {
        let mut device = stage.device(&format!("sensor-{number}")).await?;
        all.spawn(async move {
            let topic = format!("telemetry/sensor-{number}");
            let readings = readings(number, count, twice);
            for some in readings.chunks(50) {
                let some: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
                let (_, published) = device.publish(&topic, &some).await?;
                ensure!(published == Published::Accepted, "AWS IoT turned readings away");
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

/// Every item of the table: the thing, and the number of the reading.
async fn kept(stage: &Stage) -> Result<Vec<(String, u64)>> {
    let table = stage.deployment.output("TelemetryTable")?;
    let items = stage.clients.dynamodb.scan().table_name(table).consistent_read(true).into_paginator().items().send();
    let items: Vec<_> = items.collect::<Result<_, _>>().await?;
    items
        .iter()
        .map(|item| {
            let thing = item.get("thing").and_then(|thing| thing.as_s().ok()).context("an item without a thing")?;
            let reading = item.get("reading").and_then(|reading| reading.as_m().ok()).context("no reading")?;
            let number = reading.get("seq").and_then(|seq| seq.as_n().ok()).context("a reading without a number")?;
            Ok((thing.clone(), number.parse()?))
        })
        .collect()
}

/// Waits until a table holds so many readings and the queue is empty.
async fn settled(stage: &Stage, readings: usize) -> Result<Vec<(String, u64)>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let kept = kept(stage).await?;
        let waiting = waiting(stage, "TelemetryQueueUrl").await?;
        if (kept.len() >= readings && waiting == 0) || Instant::now() >= deadline {
            ensure!(waiting == 0, "{waiting} messages are still in the queue; {} readings are kept", kept.len());
            let dead = self::waiting(stage, "TelemetryDeadLetterQueueUrl").await?;
            ensure!(dead == 0, "{dead} messages are in the dead-letter queue");
            return Ok(kept);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// How many messages a queue has, those that a function works on among them.
async fn waiting(stage: &Stage, queue: &str) -> Result<u64> {
    let names =
        [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible];
    let asked = stage.clients.sqs.get_queue_attributes().queue_url(stage.deployment.output(queue)?);
    let answer = asked.set_attribute_names(Some(names.to_vec())).send().await?;
    let number = |name| -> Result<u64> {
        Ok(answer.attributes().and_then(|all| all.get(name)).context("a queue without a number")?.parse()?)
    };
    names.iter().map(number).sum()
}

/// Each device's readings by number, every one and no other.
fn ensure_each_once(kept: &[(String, u64)], devices: usize, count: usize) -> Result<()> {
    let mut numbers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for (thing, number) in kept {
        ensure!(numbers.entry(thing).or_default().insert(*number), "reading {number} of {thing} is kept twice");
    }
    ensure!(numbers.len() == devices, "there are readings of {} devices", numbers.len());
    for (thing, numbers) in numbers {
        let expected = 0..u64::try_from(count)?;
        ensure!(numbers.iter().copied().eq(expected), "of {thing}, these readings are kept: {numbers:?}");
    }
    Ok(())
}

async fn numbered(suite: Arc<Suite>) -> Result<()> {
    const EACH: usize = 100;
    let stage = suite.stage().await?;
    identify(&stage).await?;
    let published = publish(&stage, DEVICES, EACH, 20).await?;
    ensure!(published == DEVICES * EACH * 21 / 20, "{published} messages were published");
    let kept = settled(&stage, DEVICES * EACH).await?;
    ensure_each_once(&kept, DEVICES, EACH)?;
    let total = stage.observer.total(stage.name("telemetry")?);
    ensure!(total.refused == 0 && total.retried == 0, "some were refused or handed back: {total:?}");
    Ok(())
}

/// Lets readings be told apart by their number.
async fn identify(stage: &Stage) -> Result<()> {
    stage.configure("telemetry", |variables| drop(variables.insert("IDENTITY_FIELD".into(), "seq".into()))).await
}

async fn faults(suite: Arc<Suite>) -> Result<()> {
    use Fault::{Failed, Hangs, KilledAfter, KilledBefore, LostResponse, LostRequest, Throttled, UnprocessedItems};
    const EACH: usize = 60;
    const POISON: usize = 12;
    let stage = suite.stage().await?;
    let proxy = FaultProxy::start(&stage.cloud).await?;
    identify(&stage).await?;
    stage.put_behind(&proxy, "telemetry").await?;
    // Longer than the function's time-out, and short enough to see the end of it.
    stage.clients.redeliver_after(stage.output("telemetry", "QueueUrl")?, 8).await?;
    let series = [
        [Throttled, UnprocessedItems, LostResponse, Failed, LostRequest, UnprocessedItems].as_slice(),
        &[KilledAfter],
        &[Throttled, Throttled, Hangs, LostResponse, UnprocessedItems],
        &[KilledBefore],
        &[Failed, UnprocessedItems, Throttled, LostRequest, Hangs],
    ];
    proxy.fail_alternate_calls("BatchWriteItem", series.concat());

    let mut poison = stage.device("poison").await?;
    let published = publish(&stage, DEVICES, EACH, 20).await?;
    publish_poison(&mut poison, POISON).await?;
    let kept = settled(&stage, DEVICES * EACH).await?;
    ensure_each_once(&kept, DEVICES, EACH)?;
    let refused = quarantined(&stage).await?;
    ensure!(refused == POISON, "{refused} readings are in quarantine");

    // Whatever of the plan is left meets more readings; none of these may be lost either.
    let mut rounds = 1;
    while !proxy.is_exhausted() {
        rounds += 1;
        ensure!(rounds < 12, "the faults do not come to an end");
        publish(&stage, DEVICES, EACH, 20).await?;
        settled(&stage, DEVICES * EACH).await?;
    }
    let struck = proxy.calls().iter().filter(|call| call.fault.is_some()).count();
    ensure!(struck == series.concat().len(), "{struck} calls went wrong");
    let total = stage.observer.total(stage.name("telemetry")?);
    // Those of invocations that were killed are not among the function's own counts.
    eprintln!(
        "fault run: {published} messages with readings and {POISON} without sense published, {} more rounds; {} readings \
         kept, {refused} refused, {struck} of {} calls struck, {} messages handed back",
        rounds - 1,
        kept.len(),
        proxy.calls().len(),
        total.retried,
    );
    Ok(())
}

async fn publish_poison(device: &mut Device, count: usize) -> Result<()> {
    for number in 0..count {
        // 39 digits: nothing that the table could hold exactly.
        let payload = format!(r#"{{"seq": {number}, "lux": 123456789012345678901234567890123456789}}"#);
        let (_, published) = device.publish("telemetry/poison", &[payload.as_bytes()]).await?;
        ensure!(published == Published::Accepted, "AWS IoT turned a reading away");
    }
    Ok(())
}

/// How many events of `telemetry` are in quarantine.
async fn quarantined(stage: &Stage) -> Result<usize> {
    let query = stage.clients.dynamodb.query().table_name(stage.deployment.output("QuarantineTable")?);
    let query = query
        .key_condition_expression("#function = :function")
        .expression_attribute_names("#function", "function")
        .expression_attribute_values(":function", AttributeValue::S(stage.name("telemetry")?.to_owned()));
    Ok(query.send().await?.items().len())
}

async fn storm(suite: Arc<Suite>) -> Result<()> {
    const THINGS: usize = 120;
    const TOLD: usize = 20;
    let stage = suite.stage().await?;
    stage.configure("alarm", |variables| drop(variables.insert("STORM_WINDOW_SECONDS".into(), "60".into()))).await?;
    let threshold = json!({
        "name": "too-bright",
        "things": "house-*",
        "field": "/lux",
        "raise": {"above": 35000, "for": "0 s"},
        "clear": {"below": 35000, "for": "0 s"},
    });
    let answer = stage.invoke("alarm", &json!({"thresholds": [threshold]})).await?;
    ensure!(answer == json!({"outcome": "done"}), "alarm answered {answer}");
    // As the rule hands them over; so many devices at once would be a test of the broker.
    let queue = stage.output("alarm", "QueueUrl")?;
    for number in 0..THINGS {
        let thing = format!("house-{number}");
        let event = crate::stage::device_event(&format!("bright-{number}"), &thing, "t", br#"{"lux": 36000}"#);
        stage.clients.sqs.send_message().queue_url(queue).message_body(event.to_string()).send().await?;
    }
    let audience = |told: &local_cloud::observer::Notification| told.attributes.get("audience").cloned().unwrap_or_default();
    let of = |observer: &Observer, wanted: &str| {
        let told = observer.notifications();
        told.into_iter().filter(|told| audience(told) == wanted).collect::<Vec<_>>()
    };
    let all = stage.observer.until(Instant::now() + PATIENCE, |observer| {
        let (people, machines) = (of(observer, "people"), of(observer, "machines"));
        (people.len() + machines.len() >= THINGS).then_some((people, machines))
    });
    let (people, machines) = all.await.context("not every alarm was told to machines")?;
    ensure!(people.len() == TOLD && machines.len() == THINGS - TOLD, "{} and {}", people.len(), machines.len());
    // Not to wait for the schedule's next tick.
    sleep(Duration::from_secs(61)).await;
    stage.invoke("alarm", &json!({"check": "due"})).await?;
    let sum = stage.observer.until(Instant::now() + PATIENCE, |observer| {
        of(observer, "people").into_iter().find(|told| !told.attributes.contains_key("to"))
    });
    let sum = sum.await.context("no sum was told")?;
    ensure!(sum.message.contains(&format!("{} more", THINGS - TOLD)), "the sum says: {}", sum.message);
    // And neither a second time.
    stage.invoke("alarm", &json!({"check": "due"})).await?;
    sleep(Duration::from_secs(1)).await;
    ensure!(stage.observer.notifications().len() == THINGS + 1, "something was told twice");
    Ok(())
}

/// As the Sigfox cloud publishes: over HTTP, every field a text.
async fn sigfox(suite: Arc<Suite>) -> Result<()> {
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
    stage.observer.until(Instant::now() + PATIENCE, all_done).await.context("the callbacks are not done")?;
    let table = stage.deployment.output("TelemetryTable")?;
    let kept = stage.clients.dynamodb.scan().table_name(table).consistent_read(true).send().await?;
    let of_device =
        |item: &HashMap<String, AttributeValue>| item.get("thing") == Some(&AttributeValue::S("1D8A2B".into()));
    ensure!(kept.items().len() == 2 && kept.items().iter().all(of_device), "these are kept: {:?}", kept.items());
    Ok(())
}

async fn basic_ingest(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage_with(&[("BasicIngest", "true")]).await?;
    let rule = stage.deployment.output("TelemetryRule")?;
    let mut device = stage.device("sensor-1").await?;
    let topic = |thing: &str| format!("$aws/rules/{rule}/telemetry/{thing}");
    let (_, published) = device.publish(&topic("sensor-2"), &[br#"{"seq": 1}"#]).await?;
    ensure!(published == Published::Denied, "it may publish in another's name");
    let (_, published) = device.publish(&topic("sensor-1"), &[br#"{"seq": 2}"#]).await?;
    ensure!(published == Published::Accepted, "AWS IoT turned it away");
    let kept = settled(&stage, 1).await?;
    ensure!(kept == [("sensor-1".to_owned(), 2)], "these readings are kept: {kept:?}");
    Ok(())
}
