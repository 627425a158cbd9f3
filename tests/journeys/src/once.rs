//! One event, one notification, however often it is delivered.

use std::sync::Arc;

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use libtest_mimic::Trial;
use serde_json::Value;
use local_cloud::fault_proxy::FaultProxy;
use local_cloud::observer::{Effect, now};

use crate::stage::{Stage, Suite, click, ring};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("a click that is delivered three times is told once", |suite| {
            delivered_three_times(suite, "button", click)
        }),
        suite.trial("a ring that is delivered three times is told once", |suite| {
            delivered_three_times(suite, "doorbell", ring)
        }),
        suite.trial("two rings at the same moment make one message", two_rings_at_the_same_moment),
        suite.trial("what was done so long ago that it has expired is told again", told_again),
    ]
}

async fn delivered_three_times(suite: Arc<Suite>, function: &str, event: fn(&str, &str) -> Value) -> Result<()> {
    let stage = suite.stage().await?;
    let event = event("delivered-again", "thing-1");
    for _ in 0..3 {
        stage.invoke(function, &event).await?;
    }
    told_once(&stage, "delivered-again", 3).await?;

    // And at the same moment, in two processes that both found it not yet claimed: whoever comes second is handed back,
    // or waits, until the first is done.
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
        stage.invoke_later(function, &event).await?;
    }
    told_once(&stage, "delivered-together", 3).await?;
    both_at_it(&stage, &proxy, function)
}

/// Whether two processes wrote a claim before anything was told.
fn both_at_it(stage: &Stage, proxy: &FaultProxy, function: &str) -> Result<()> {
    let processes = stage.processes(function)?.len();
    ensure!(processes >= 2, "{processes} processes of {function} are there");
    let calls: Vec<_> = proxy.calls().into_iter().map(|call| call.operation).collect();
    let before = calls.iter().take_while(|operation| *operation != "Publish");
    let claims = before.filter(|operation| *operation == "PutItem").count();
    ensure!(claims >= 2, "they were not at it together: {}", calls.join(", "));
    Ok(())
}

async fn told_once(stage: &Stage, event_id: &str, times: usize) -> Result<()> {
    stage.done(event_id, times).await?;
    let told = stage.notifications(event_id);
    ensure!(told.len() == 1, "{event_id} was told {} times: {told:?}", told.len());
    let duplicates = stage.observer.effects(event_id).into_iter().filter(|timed| timed.effect == Effect::Duplicate);
    ensure!(duplicates.count() == times - 1, "{event_id} was not a duplicate each other time");
    Ok(())
}

async fn two_rings_at_the_same_moment(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let proxy = FaultProxy::start(&stage.cloud).await?;
    stage.put_behind(&proxy, "doorbell").await?;
    for round in 0..3 {
        proxy.wait_for_second_caller("PutItem");
        let door = format!("door-{round}");
        let ids = [format!("ring-{round}-a"), format!("ring-{round}-b")];
        let events = ids.clone().map(|id| ring(&id, &door));
        let [first, second] = &events;
        tokio::try_join!(stage.invoke_later("doorbell", first), stage.invoke_later("doorbell", second))?;
        for id in &ids {
            stage.done(id, 1).await?;
        }
        let told: usize = ids.iter().map(|id| stage.notifications(id).len()).sum();
        ensure!(told == 1, "two rings made {told} messages");
        let quieted =
            ids.iter().flat_map(|id| stage.observer.effects(id)).filter(|timed| timed.effect == Effect::Suppressed);
        ensure!(quieted.count() == 1, "the other ring was not let go");
        both_at_it(&stage, &proxy, "doorbell")?;
    }
    Ok(())
}

async fn told_again(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let table = stage.deployment.output("IdempotencyTable")?;
    let now = now() / 1000;
    for (event_id, expiration, told) in [("still-known", now + 3600, 0), ("expired", now - 10, 1)] {
        let id = AttributeValue::S(format!("{}#{event_id}", stage.name("button")?));
        let put = stage.clients.dynamodb.put_item().table_name(table).item("id", id.clone());
        let put = put.item("owner", AttributeValue::S("somebody".to_owned()));
        let put = put.item("status", AttributeValue::S("COMPLETED".to_owned()));
        put.item("expiration", AttributeValue::N(expiration.to_string())).send().await?;
        // DynamoDB's time to live, which may come days late, has not come yet.
        let get = stage.clients.dynamodb.get_item().table_name(table).key("id", id).consistent_read(true);
        ensure!(get.send().await?.item().is_some(), "{event_id} is not in the table");

        stage.invoke("button", &click(event_id, "thing-1")).await?;
        stage.done(event_id, 1).await?;
        let found = stage.notifications(event_id).len();
        ensure!(found == told, "{event_id} was told {found} times");
        let effects = stage.observer.effects(event_id);
        let is_duplicate = effects.iter().any(|timed| timed.effect == Effect::Duplicate);
        ensure!(is_duplicate == (told == 0), "{event_id} was taken for something else: {effects:?}");
    }
    Ok(())
}
