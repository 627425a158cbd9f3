//! `alarm` limits the notifications to people.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::observer::{Notification, Observer};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::events::device_event;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![suite.trial("alarm_limits_notifications_to_people_and_summarizes_the_rest", notifications_are_limited)]
}

/// How long everything may take on a busy machine.
const LONG_TIMEOUT: Duration = Duration::from_mins(3);

async fn notifications_are_limited(suite: Arc<Suite>) -> Result<()> {
    const THINGS: usize = 120;
    const LIMIT: usize = 20;
    let stage = suite.stage().await?;
    stage
        .configure("alarm", |variables| drop(variables.insert("NOTIFICATION_WINDOW_SECONDS".into(), "60".into())))
        .await?;
    let threshold = json!({
        "name": "too-bright",
        "things": "house-*",
        "field": "/lux",
        "raise": {"above": 35000, "for": "0 s"},
        "clear": {"below": 35000, "for": "0 s"},
    });
    let response = stage.invoke("alarm", &json!({"thresholds": [threshold]})).await?;
    ensure!(response == json!({"outcome": "done"}), "alarm returned {response}");
    // Sent as the rule sends them: this many devices would be a test of the broker.
    let queue = stage.output("alarm", "QueueUrl")?;
    for number in 0..THINGS {
        let thing = format!("house-{number}");
        let event = device_event(&format!("bright-{number}"), &thing, "t", br#"{"lux": 36000}"#);
        stage.clients.sqs.send_message().queue_url(queue).message_body(event.to_string()).send().await?;
    }
    let audience = |notification: &Notification| notification.attributes.get("audience").cloned().unwrap_or_default();
    let of = |observer: &Observer, wanted: &str| {
        let notifications = observer.notifications().into_iter();
        notifications.filter(|notification| audience(notification) == wanted).collect::<Vec<_>>()
    };
    let all = stage.observer.until(Instant::now() + LONG_TIMEOUT, |observer| {
        let (people, machines) = (of(observer, "people"), of(observer, "machines"));
        (people.len() + machines.len() >= THINGS).then_some((people, machines))
    });
    let (people, machines) = all.await.context("not every alarm was published")?;
    ensure!(
        people.len() == LIMIT && machines.len() == THINGS - LIMIT,
        "{} for people and {} for machines only",
        people.len(),
        machines.len()
    );
    // Check now instead of waiting for the schedule.
    sleep(Duration::from_secs(61)).await;
    stage.invoke("alarm", &json!({"check": "due"})).await?;
    let summary = stage.observer.until(Instant::now() + LONG_TIMEOUT, |observer| {
        of(observer, "people").into_iter().find(|notification| !notification.attributes.contains_key("to"))
    });
    let summary = summary.await.context("there was no summary")?;
    ensure!(summary.message.contains(&format!("{} more", THINGS - LIMIT)), "the summary is {}", summary.message);
    // Nothing is published twice.
    stage.invoke("alarm", &json!({"check": "due"})).await?;
    sleep(Duration::from_secs(1)).await;
    ensure!(stage.observer.notifications().len() == THINGS + 1, "a notification was published twice");
    Ok(())
}
