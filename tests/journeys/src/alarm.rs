//! `alarm` limits the number of notifications to people.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use libtest_mimic::Trial;
use local_cloud::observer::{Notification, Observer};
use serde_json::json;

use crate::events::device_event;
use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![suite.trial("alarm", "limits_notifications_to_people_and_summarizes_the_rest", notifications_are_limited)]
}

/// Sets the length of the rate limit's window, in seconds.
async fn set_window(stage: &Stage, seconds: u32) -> Result<()> {
    let change = |variables: &mut HashMap<String, String>| {
        variables.insert("NOTIFICATION_WINDOW_SECONDS".to_owned(), seconds.to_string());
    };
    stage.configure("alarm", change).await
}

/// Makes the check of a threshold's window due now.
async fn make_check_due(stage: &Stage, threshold: &str) -> Result<()> {
    let update = stage.clients.dynamodb.update_item().table_name(stage.deployment.output("AlarmTable")?);
    let update = update.key("id", AttributeValue::S(format!("storm#{threshold}")));
    let update = update.key("part", AttributeValue::S("window".to_owned()));
    let update = update.condition_expression("attribute_exists(dueAt)").update_expression("SET dueAt = :past");
    update.expression_attribute_values(":past", AttributeValue::N("0".to_owned())).send().await?;
    Ok(())
}

async fn notifications_are_limited(suite: Arc<Suite>) -> Result<()> {
    const THINGS: usize = 120;
    const LIMIT: usize = 20;
    let stage = suite.stage().await?;
    // Long enough for all alarms, even on a slow machine.
    set_window(&stage, 86_400).await?;
    let threshold = json!({
        "name": "too-bright",
        "things": "house-*",
        "field": "/lux",
        "raise": {"above": 35000, "for": "0 s"},
        "clear": {"below": 35000, "for": "0 s"},
    });
    let response = stage.invoke("alarm", &json!({"thresholds": [threshold]})).await?;
    ensure!(response == json!({"outcome": "done"}), "alarm returned {response}");
    // Sent to the queue, as the rule does: real devices in this number would test the broker.
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
    let all = stage.observer.until(|observer| {
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
    // The window ends now.
    set_window(&stage, 1).await?;
    make_check_due(&stage, "too-bright").await?;
    stage.invoke("alarm", &json!({"check": "due"})).await?;
    let summary = stage.observer.until(|observer| {
        of(observer, "people").into_iter().find(|notification| !notification.attributes.contains_key("to"))
    });
    let summary = summary.await.context("there was no summary")?;
    ensure!(summary.message.contains(&format!("{} more", THINGS - LIMIT)), "the summary is {}", summary.message);
    // Nothing is published twice.
    stage.invoke("alarm", &json!({"check": "due"})).await?;
    stage.queue_shrinks_to("AlarmQueueUrl", 0).await?;
    ensure!(stage.observer.notifications().len() == THINGS + 1, "a notification was published twice");
    Ok(())
}
