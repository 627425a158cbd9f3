//! `presence` tracks connections and notifies of devices that stay offline.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::observer::{self, Notification, Observer};
use serde_json::{Value, json};

use crate::stage::{Stage, is_true, text};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("presence", "notifies_once_when_offline_and_once_when_back", offline_and_back),
        suite.trial("presence", "connected_device_is_not_announced_though_its_return_was_lost", lost_return),
    ]
}

/// Returns the presence notifications about a device.
fn presence_notifications(observer: &Observer, thing: &str) -> Vec<Notification> {
    let is_presence = |notification: &Notification| {
        notification.attributes.contains_key("presence")
            && notification.attributes.get("thing").is_some_and(|name| name == thing)
    };
    observer.notifications().into_iter().filter(is_presence).collect()
}

/// Sets how long a device may be offline, in seconds.
async fn set_grace_period(stage: &Stage, seconds: u32) -> Result<()> {
    stage.configure("presence", |variables| drop(variables.insert("GRACE_SECONDS".into(), seconds.to_string()))).await
}

async fn offline_and_back(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let changes = || {
        let notifications = presence_notifications(&stage.observer, "buoy").into_iter();
        notifications.map(|it| it.attributes.get("presence").cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let until_notified = async |count: usize| {
        let is_notified = |observer: &Observer| (presence_notifications(observer, "buoy").len() >= count).then_some(());
        stage.observer.until(is_notified).await.context("there was no notification")
    };
    let mut buoy = stage.device("buoy").await?;
    buoy.connect().await?;
    let first = stage.record("buoy", "presence", |item| is_true(item, "connected")).await?;
    ensure!(text(&first, "sessionIdentifier").is_some() && first.contains_key("since"), "the record is {first:?}");

    // Offline for less than the grace period, even on a slow machine.
    set_grace_period(&stage, 900).await?;
    buoy.disconnect();
    let disconnected = stage.record("buoy", "presence", |item| !is_true(item, "connected")).await?;
    ensure!(text(&disconnected, "disconnectReason") == Some("CONNECTION_LOST"), "the record is {disconnected:?}");
    buoy.connect().await?;
    let second = stage.record("buoy", "presence", |item| is_true(item, "connected")).await?;
    ensure!(text(&second, "sessionIdentifier") != text(&first, "sessionIdentifier"), "the session is the same");
    let queue = stage.output("presence", "QueueUrl")?;
    // Only the delayed check is left. Send it again at once instead of waiting for it.
    stage.queue_shrinks_to("PresenceQueueUrl", 1).await?;
    ensure!(stage.queue_length("PresenceQueueUrl").await? == 1, "there is no delayed check");
    stage.clients.sqs.purge_queue().queue_url(queue).send().await?;
    let check = json!({
        "check": "away",
        "thing": "buoy",
        "version": disconnected.get("versionNumber").and_then(|it| it.as_n().ok()?.parse::<u64>().ok()),
        "session": text(&disconnected, "sessionIdentifier"),
    });
    stage.clients.sqs.send_message().queue_url(queue).message_body(check.to_string()).send().await?;
    stage.queue_shrinks_to("PresenceQueueUrl", 0).await?;
    ensure!(changes().is_empty(), "there were notifications: {:?}", changes());

    // Offline for longer than the grace period.
    set_grace_period(&stage, 1).await?;
    let skip = stage.observer.system_messages(0).len();
    buoy.disconnect();
    until_notified(1).await?;
    ensure!(changes() == ["away"], "the notifications are {:?}", changes());
    let away = stage.record("buoy", "presence", |item| item.contains_key("awaySince")).await?;
    ensure!(!is_true(&away, "connected"), "the record is {away:?}");

    // Duplicate and late events change nothing.
    let events = stage.observer.system_messages(0);
    let is_presence = |topic: &str| topic.starts_with("$aws/events/presence/") && topic.ends_with("/buoy");
    ensure!(events.iter().skip(skip).any(|event| is_presence(&event.topic)), "AWS IoT published no presence event");
    for event in events.iter().filter(|event| is_presence(&event.topic)) {
        let payload: Value = serde_json::from_slice(&event.payload)?;
        let duplicate = json!({
            "payload": payload,
            "thing": "buoy",
            "topic": event.topic,
            "traceId": format!("{}-again", event.trace_id),
            "receivedAt": observer::now(),
        });
        stage.clients.sqs.send_message().queue_url(queue).message_body(duplicate.to_string()).send().await?;
    }
    stage.queue_shrinks_to("PresenceQueueUrl", 0).await?;
    ensure!(changes() == ["away"], "the notifications are {:?}", changes());
    let still = stage.record("buoy", "presence", |item| !is_true(item, "connected")).await?;
    ensure!(text(&still, "sessionIdentifier") == text(&away, "sessionIdentifier"), "the record is {still:?}");

    buoy.connect().await?;
    until_notified(2).await?;
    stage.record("buoy", "presence", |item| is_true(item, "connected") && !item.contains_key("awaySince")).await?;
    stage.queue_shrinks_to("PresenceQueueUrl", 0).await?;
    ensure!(changes() == ["away", "back"], "the notifications are {:?}", changes());
    ensure!(stage.queue_length("PresenceDeadLetterQueueUrl").await? == 0, "an event is in the dead-letter queue");
    Ok(())
}

async fn lost_return(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    set_grace_period(&stage, 1).await?;
    let mut buoy = stage.device("buoy").await?;
    buoy.connect().await?;
    let connected = stage.record("buoy", "presence", |item| is_true(item, "connected")).await?;
    // It was offline for a moment, and the event of its return was lost.
    let payload = json!({
        "clientId": "buoy",
        "timestamp": observer::now(),
        "eventType": "disconnected",
        "versionNumber": connected.get("versionNumber").and_then(|it| it.as_n().ok()?.parse::<u64>().ok()),
        "sessionIdentifier": text(&connected, "sessionIdentifier"),
        "clientInitiatedDisconnect": false,
        "disconnectReason": "CONNECTION_LOST",
    });
    let topic = "$aws/events/presence/disconnected/buoy";
    let event = json!({"payload": payload, "thing": "buoy", "topic": topic, "traceId": "the-last-event"});
    let queue = stage.output("presence", "QueueUrl")?;
    stage.clients.sqs.send_message().queue_url(queue).message_body(event.to_string()).send().await?;
    stage.record("buoy", "presence", |item| !is_true(item, "connected")).await?;
    let is_logged = |observer: &Observer| {
        let lines = observer.last_lines(stage.name("presence").ok()?);
        lines.iter().any(|line| line.contains("not announced as offline")).then_some(())
    };
    stage.observer.until(is_logged).await.context("AWS IoT was not asked")?;
    stage.queue_shrinks_to("PresenceQueueUrl", 0).await?;
    let notifications = presence_notifications(&stage.observer, "buoy");
    ensure!(notifications.is_empty(), "there were notifications: {notifications:?}");
    Ok(())
}
