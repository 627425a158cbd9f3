//! One event leads to one notification, however often it is delivered.

use std::sync::Arc;

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use libtest_mimic::Trial;
use local_cloud::fault_proxy::FaultProxy;
use local_cloud::observer::{Effect, now};
use serde_json::Value;

use crate::events::{click, ring};
use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("button", "click_delivered_three_times_is_notified_once", |suite| {
            delivered_three_times(suite, "button", click)
        }),
        suite.trial("doorbell", "ring_delivered_three_times_is_notified_once", |suite| {
            delivered_three_times(suite, "doorbell", ring)
        }),
        suite.trial("doorbell", "two_rings_at_the_same_moment_are_notified_once", concurrent_rings),
        suite.trial("button", "event_is_notified_again_after_its_idempotency_record_expired", expired_record),
    ]
}

async fn delivered_three_times(suite: Arc<Suite>, function: &str, event: fn(&str, &str) -> Value) -> Result<()> {
    let stage = suite.stage().await?;
    let event = event("delivered-again", "thing-1");
    for _ in 0..3 {
        stage.invoke(function, &event).await?;
    }
    ensure_notified_once(&stage, function, "delivered-again", 3).await?;

    // Concurrently, in two processes that both find the event unclaimed: the second one waits or is retried until the
    // first one is done.
    let proxy = FaultProxy::start(&stage.cloud).await?;
    stage.put_behind(&proxy, function).await?;
    proxy.wait_for_second_caller("PutItem");
    let mut event = event;
    if let Some(id) = event.get_mut("traceId") {
        *id = "delivered-together".into();
    }
    if let Some(thing) = event.get_mut("thing").filter(|_| function == "doorbell") {
        *thing = "thing-2".into();
    }
    for _ in 0..3 {
        stage.invoke_async(function, &event).await?;
    }
    ensure_notified_once(&stage, function, "delivered-together", 3).await?;
    ensure_concurrent(&stage, &proxy, function)
}

/// Ensures that two processes tried to claim before either published.
fn ensure_concurrent(stage: &Stage, proxy: &FaultProxy, function: &str) -> Result<()> {
    let processes = stage.processes(function)?.len();
    ensure!(processes >= 2, "{function} has {processes} processes");
    let calls: Vec<_> = proxy.calls().into_iter().map(|call| call.operation).collect();
    let before = calls.iter().take_while(|operation| *operation != "Publish");
    let claims = before.filter(|operation| *operation == "PutItem").count();
    ensure!(claims >= 2, "the invocations were not concurrent: {}", calls.join(", "));
    Ok(())
}

async fn ensure_notified_once(stage: &Stage, function: &str, event_id: &str, times: usize) -> Result<()> {
    stage.done(function, event_id, times).await?;
    let notifications = stage.notifications(event_id);
    ensure!(notifications.len() == 1, "the notifications about {event_id} are {notifications:?}");
    let effects = stage.observer.effects(event_id, stage.name(function)?).into_iter();
    ensure!(
        effects.filter(|timed| timed.effect == Effect::Duplicate).count() == times - 1,
        "{event_id} was not a duplicate every other time"
    );
    Ok(())
}

async fn concurrent_rings(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let proxy = FaultProxy::start(&stage.cloud).await?;
    stage.put_behind(&proxy, "doorbell").await?;
    for round in 0..3 {
        proxy.wait_for_second_caller("PutItem");
        let door = format!("door-{round}");
        let ids = [format!("ring-{round}-a"), format!("ring-{round}-b")];
        let events = ids.clone().map(|id| ring(&id, &door));
        let [first, second] = &events;
        tokio::try_join!(stage.invoke_async("doorbell", first), stage.invoke_async("doorbell", second))?;
        for id in &ids {
            stage.done("doorbell", id, 1).await?;
        }
        let notified: usize = ids.iter().map(|id| stage.notifications(id).len()).sum();
        ensure!(notified == 1, "two rings led to {notified} notifications");
        let doorbell = stage.name("doorbell")?;
        let effects = ids.iter().flat_map(|id| stage.observer.effects(id, doorbell));
        let suppressed = effects.filter(|timed| timed.effect == Effect::Suppressed);
        ensure!(suppressed.count() == 1, "the other ring was not suppressed");
        ensure_concurrent(&stage, &proxy, "doorbell")?;
    }
    Ok(())
}

async fn expired_record(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let table = stage.deployment.output("IdempotencyTable")?;
    let now = now() / 1000;
    for (event_id, expiration, notified) in [("not-expired", now + 3600, 0), ("expired", now - 10, 1)] {
        let id = AttributeValue::S(format!("{}#{event_id}", stage.name("button")?));
        let put = stage.clients.dynamodb.put_item().table_name(table).item("id", id.clone());
        let put = put.item("owner", AttributeValue::S("another-owner".to_owned()));
        let put = put.item("status", AttributeValue::S("COMPLETED".to_owned()));
        put.item("expiration", AttributeValue::N(expiration.to_string())).send().await?;
        // DynamoDB may delete expired items days late.
        let get = stage.clients.dynamodb.get_item().table_name(table).key("id", id).consistent_read(true);
        ensure!(get.send().await?.item().is_some(), "{event_id} is not in the table");

        stage.invoke("button", &click(event_id, "thing-1")).await?;
        stage.done("button", event_id, 1).await?;
        let found = stage.notifications(event_id).len();
        ensure!(found == notified, "{event_id} was notified {found} times");
        let effects = stage.observer.effects(event_id, stage.name("button")?);
        let is_duplicate = effects.iter().any(|timed| timed.effect == Effect::Duplicate);
        ensure!(is_duplicate == (notified == 0), "the effects of {event_id} are {effects:?}");
    }
    Ok(())
}
