//! One event, one notification, however often it is delivered.

use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use tests::observe::Effect;

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
    ]
}

async fn delivered_three_times(suite: Arc<Suite>, function: &str, event: fn(&str, &str) -> Value) -> Result<()> {
    let stage = suite.stage().await?;
    let event = event("delivered-again", "thing-1");
    for _ in 0..3 {
        stage.invoke(function, &event).await?;
    }
    told_once(&stage, "delivered-again", 3).await?;

    // And at the same moment: whoever comes second is handed back until the first is done.
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
    told_once(&stage, "delivered-together", 3).await
}

async fn told_once(stage: &Stage, event_id: &str, times: usize) -> Result<()> {
    stage.done(event_id, times).await?;
    let told = stage.told(event_id);
    ensure!(told.len() == 1, "{event_id} was told {} times: {told:?}", told.len());
    let duplicates = stage.observer.effects(event_id).into_iter().filter(|timed| timed.effect == Effect::Duplicate);
    ensure!(duplicates.count() == times - 1, "{event_id} was not a duplicate each other time");
    Ok(())
}

async fn two_rings_at_the_same_moment(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    for round in 0..3 {
        let door = format!("door-{round}");
        let ids = [format!("ring-{round}-a"), format!("ring-{round}-b")];
        let events = ids.clone().map(|id| ring(&id, &door));
        let [first, second] = &events;
        tokio::try_join!(stage.invoke_later("doorbell", first), stage.invoke_later("doorbell", second))?;
        for id in &ids {
            stage.done(id, 1).await?;
        }
        let told: usize = ids.iter().map(|id| stage.told(id).len()).sum();
        ensure!(told == 1, "two rings made {told} messages");
        let quieted =
            ids.iter().flat_map(|id| stage.observer.effects(id)).filter(|timed| timed.effect == Effect::Quieted);
        ensure!(quieted.count() == 1, "the other ring was not let go");
    }
    Ok(())
}
