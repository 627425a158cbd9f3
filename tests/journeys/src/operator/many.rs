//! Many events at once: none is lost, and none is sent twice.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, TryStreamExt};
use libtest_mimic::Trial;
use local_cloud::observer::now;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    allow_serial_numbers, command, dead_letter_queue, dead_letters, gatehouse, invocation_record, put_in_quarantine,
    quarantined, rule_record, send,
};
use crate::events::{click, device_event, ring};
use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("operator", "interrupted_run_is_resumed_and_sends_nothing_twice", interrupted),
        suite.trial("operator", "killed_run_is_resumed_and_notifies_nobody_twice", killed),
        suite.trial("operator", "500_refused_events_and_500_dead_letters_are_resent_once", thousand),
    ]
}

/// Maximum number of concurrent requests of a test.
const CONCURRENCY: usize = 16;

async fn all<F: Future<Output = Result<()>>>(requests: impl IntoIterator<Item = F>) -> Result<()> {
    stream::iter(requests.into_iter().map(Ok)).try_for_each_concurrent(CONCURRENCY, |request| request).await
}

/// Waits until a function has reported these numbers of events, and ensures that it reported no others.
async fn ensure_done(stage: &Stage, function: &str, done: u64, refused: u64) -> Result<()> {
    let name = stage.name(function)?.to_owned();
    let reached = stage.observer.until(|observer| {
        let total = observer.total(&name);
        (total.done >= done && total.refused >= refused).then_some(())
    });
    let reached = reached.await;
    let total = stage.observer.total(&name);
    reached.with_context(|| format!("{function} reported {total:?}, not {done} done and {refused} refused"))?;
    stage.observer.catch_up().await?;
    let total = stage.observer.total(&name);
    ensure!((total.done, total.refused, total.retried) == (done, refused, 0), "{function} reported {total:?}");
    Ok(())
}

/// Sends clicks that `button` refuses. Returns their IDs.
async fn refuse_clicks(stage: &Stage, count: usize) -> Result<Vec<String>> {
    allow_serial_numbers(stage, "G030.*").await?;
    let ids: Vec<_> = (0..count).map(|number| format!("click-{number}")).collect();
    all(ids.iter().enumerate().map(async |(number, id)| {
        let response = stage.invoke("button", &click(id, &format!("button-{number}"))).await?;
        ensure!(response.get("outcome") == Some(&json!("refused")), "button returned {response}");
        Ok(())
    }))
    .await?;
    allow_serial_numbers(stage, ".*").await?;
    Ok(ids)
}

async fn interrupted(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let ids = refuse_clicks(&stage, 40).await?;
    let mut tool = command(&stage, &["quarantine", "resend", "--all", "--rate", "5"])?.spawn()?;
    let begun = stage.observer.poll(async || Ok((quarantined(&stage).await? < ids.len()).then_some(()))).await?;
    begun.context("the tool resends nothing")?;
    let pid = tool.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).context("the tool has ended")?;
    kill_process(pid, Signal::INT)?;
    let status = tool.wait().await?;
    ensure!(status.code() == Some(130), "the interrupted tool ended with {status}");
    let left = quarantined(&stage).await?;
    ensure!((1..ids.len()).contains(&left), "{left} events were left by the interrupted tool");

    let ran = gatehouse(&stage, &["quarantine", "resend", "--all", "--rate", "200"]).await?.ended_with(0)?;
    ran.contains(&[&format!("{left} selected: {left} accepted and removed")])?;
    ensure!(quarantined(&stage).await? == 0, "events are left in quarantine");
    let count = u64::try_from(ids.len())?;
    ensure_done(&stage, "button", count, count).await?;
    for id in ids {
        let notified = stage.notifications(&id).len();
        ensure!(notified == 1, "{id} was notified {notified} times");
    }
    Ok(())
}

/// Kills the tool while it resends, possibly between the acceptance of an event and the deletion of its message.
async fn killed(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let url = dead_letter_queue(&stage, "button-dlq").await?;
    let ids: Vec<_> = (0..40).map(|number| format!("dead-click-{number}")).collect();
    all(ids.iter().map(async |id| {
        send(&stage, &url, &invocation_record(&stage, "button", &click(id, id))?.to_string(), &[]).await
    }))
    .await?;
    let mut tool = command(&stage, &["dead-letters", "resend", "--all", "--rate", "20"])?.spawn()?;
    let begun = stage.observer.until(|observer| (!observer.notifications().is_empty()).then_some(())).await;
    begun.context("the tool resends nothing")?;
    tool.kill().await?;

    // The messages that the killed process had received stay hidden for two minutes.
    let finished = stage.observer.poll(async || {
        gatehouse(&stage, &["dead-letters", "resend", "--all", "--rate", "200"]).await?.ended_with(0)?;
        let left = stage.queue_length("ButtonDeadLetterQueueUrl").await?;
        if left > 0 {
            // An observation extends the wait for the hidden messages.
            stage.observer.catch_up().await?;
            sleep(Duration::from_secs(5)).await;
        }
        Ok((left == 0).then_some(()))
    });
    finished.await?.context("dead letters are left")?;
    for id in ids {
        stage.done("button", &id, 1).await?;
        let notified = stage.notifications(&id).len();
        ensure!(notified == 1, "{id} was notified {notified} times");
    }
    Ok(())
}

/// Returns a valid event of a function, with this number in its ID.
fn event(function: &str, number: usize) -> Value {
    let (id, thing) = (format!("{function}-{number}"), format!("{function}-thing-{number}"));
    let millis = now();
    match function {
        "button" => click(&id, &thing),
        "doorbell" => ring(&id, &thing),
        "telemetry" | "alarm" => device_event(&id, &thing, &format!("telemetry/{thing}"), br#"{"lux": 22.50}"#),
        "forward" => device_event(&id, &thing, "Weather/Corp/rain", b"{}"),
        "presence" => {
            let (topic, payload) = presence(&thing, millis);
            aws_event(&id, &thing, &topic, &payload)
        }
        "shadow" => {
            let (topic, payload) = shadow(&thing, millis);
            aws_event(&id, &thing, &topic, &payload)
        }
        "jitr" => {
            let (topic, payload) = registration(number, millis);
            aws_event(&id, &certificate(number), &topic, &payload)
        }
        "actuator" => json!({
            "transition": format!("{thing}#too-bright#{millis}#ALARM"), "threshold": "too-bright", "thing": thing,
            "from": "OK", "to": "ALARM", "field": "/lux", "value": 1, "at": millis, "since": millis, "words": "too-bright"
        }),
        // `revoke` refuses it: without a CA there is no valid command.
        _ => json!({"reason": format!("number {number}")}),
    }
}

fn aws_event(id: &str, thing: &str, topic: &str, payload: &Value) -> Value {
    json!({
        "payload": payload, "thing": thing, "topic": topic, "clientId": "AWS IoT", "traceId": id, "receivedAt": now()
    })
}

fn presence(thing: &str, millis: u64) -> (String, Value) {
    let payload = json!({
        "clientId": thing, "timestamp": millis, "eventType": "connected", "sessionIdentifier": "a-session",
        "principalIdentifier": certificate(0), "ipAddress": "192.0.2.17", "versionNumber": 1
    });
    (format!("$aws/events/presence/connected/{thing}"), payload)
}

fn shadow(thing: &str, millis: u64) -> (String, Value) {
    let payload = json!({
        "current": {"state": {"reported": {"lamp": "on"}}, "metadata": {}, "version": 1}, "timestamp": millis / 1000
    });
    (format!("$aws/things/{thing}/shadow/update/documents"), payload)
}

fn certificate(number: usize) -> String {
    format!("{number:064x}")
}

/// Returns the topic and payload of an event about a certificate that is not in the registry.
fn registration(number: usize, millis: u64) -> (String, Value) {
    let (certificate, ca) = (certificate(number), "ca11ab1e".repeat(8));
    let payload = json!({
        "certificateId": certificate, "caCertificateId": ca, "timestamp": millis,
        "certificateStatus": "PENDING_ACTIVATION", "awsAccountId": "123456789012",
        "certificateRegistrationTimestamp": millis.to_string()
    });
    (format!("$aws/events/certificates/registered/{ca}"), payload)
}

/// Returns the dead letter of a function's rule, with this number in the event's ID.
fn rule_letter(stage: &Stage, function: &str, number: usize) -> Value {
    let (id, thing) = (format!("{function}-by-rule-{number}"), format!("{function}-rule-thing-{number}"));
    let millis = now();
    let click = json!({"serialNumber": thing, "batteryVoltage": "2000mV", "clickType": "SINGLE"});
    let (topic, payload) = match function {
        "button" => (format!("iotbutton/{thing}"), click),
        "doorbell" => (format!("doorbell/{thing}"), json!({"msg": "Somebody is at the door!"})),
        "telemetry" => (format!("telemetry/{thing}"), json!({"lux": 1})),
        "forward" => ("Weather/Corp/rain".to_owned(), json!({})),
        "presence" => presence(&thing, millis),
        "shadow" => shadow(&thing, millis),
        _ => registration(1_000_000 + number, millis),
    };
    // A rule that feeds two queues failed for both.
    let queues: &[&str] = if function == "telemetry" { &["telemetry", "alarm"] } else { &[function] };
    rule_record(stage, function, &topic, payload.to_string().as_bytes(), &id, queues)
}

/// Number of events of each kind.
const REFUSED_BY_EACH: usize = 100;
const DEAD_LETTERS_OF_EACH: usize = 30;

const REFUSING: [&str; 5] = ["button", "doorbell", "telemetry", "presence", "shadow"];
const WITH_QUEUE: [&str; 8] = ["actuator", "alarm", "forward", "jitr", "presence", "revoke", "shadow", "telemetry"];
const WITH_RULE: [&str; 7] = ["button", "doorbell", "forward", "jitr", "presence", "shadow", "telemetry"];

/// 500 refused events of five functions, and 510 dead letters in all seventeen queues.
async fn thousand(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    // `button` refuses the clicks. The other events are as if earlier versions had refused them.
    refuse_clicks(&stage, REFUSED_BY_EACH).await?;
    for function in REFUSING.into_iter().filter(|function| *function != "button") {
        all((0..REFUSED_BY_EACH).map(async |number| {
            let event = event(function, 1000 + number);
            let id = event.get("traceId").and_then(Value::as_str).context("the event has no ID")?.to_owned();
            put_in_quarantine(&stage, function, &id, &event).await
        }))
        .await?;
    }
    for function in WITH_QUEUE {
        let url = dead_letter_queue(&stage, &format!("{function}-dlq")).await?;
        all((0..DEAD_LETTERS_OF_EACH)
            .map(async |number| send(&stage, &url, &event(function, number).to_string(), &[]).await))
        .await?;
    }
    for function in ["button", "doorbell"] {
        let url = dead_letter_queue(&stage, &format!("{function}-dlq")).await?;
        all((0..DEAD_LETTERS_OF_EACH).map(async |number| {
            let record = invocation_record(&stage, function, &event(function, number))?;
            send(&stage, &url, &record.to_string(), &[]).await
        }))
        .await?;
    }
    for function in WITH_RULE {
        let url = dead_letter_queue(&stage, &format!("{function}-rule-dlq")).await?;
        all((0..DEAD_LETTERS_OF_EACH)
            .map(async |number| send(&stage, &url, &rule_letter(&stage, function, number).to_string(), &[]).await))
        .await?;
    }
    ensure!(quarantined(&stage).await? == REFUSING.len() * REFUSED_BY_EACH, "not all refused events are in quarantine");
    ensure!(dead_letters(&stage).await? == 17 * DEAD_LETTERS_OF_EACH, "not all dead letters are there");

    let ran = gatehouse(&stage, &["quarantine", "resend", "--all", "--rate", "200"]).await?.ended_with(0)?;
    ran.contains(&["500 selected: 500 accepted and removed, 0 refused again, 0 failed"])?;
    let ran = gatehouse(&stage, &["dead-letters", "resend", "--all", "--rate", "200"]).await?.ended_with(0)?;
    ran.contains(&["510 accepted and deleted, 0 refused (now in quarantine), 0 failed, 0 left alone"])?;
    ensure!(dead_letters(&stage).await? == 0, "dead letters are left");

    let (refused, each) = (u64::try_from(REFUSED_BY_EACH)?, u64::try_from(DEAD_LETTERS_OF_EACH)?);
    // Events from both dead-letter queues, and from quarantine.
    ensure_done(&stage, "button", refused + 2 * each, refused).await?;
    ensure_done(&stage, "doorbell", refused + 2 * each, 0).await?;
    ensure_done(&stage, "telemetry", refused + 2 * each, 0).await?;
    ensure_done(&stage, "presence", refused + 2 * each, 0).await?;
    ensure_done(&stage, "shadow", refused + 2 * each, 0).await?;
    // Its own events, and those of the telemetry rule.
    ensure_done(&stage, "alarm", 2 * each, 0).await?;
    ensure_done(&stage, "actuator", each, 0).await?;
    // Without a destination, a registered certificate or a CA, these events are refused, and are in quarantine now.
    ensure_done(&stage, "forward", 0, 2 * each).await?;
    ensure_done(&stage, "jitr", 0, 2 * each).await?;
    ensure_done(&stage, "revoke", 0, each).await?;
    let left = quarantined(&stage).await?;
    ensure!(left == 5 * DEAD_LETTERS_OF_EACH, "{left} events are in quarantine");

    // Every event that was sent to a queue has an outcome. Events from quarantine were sent to the function itself.
    let audit = gatehouse(&stage, &["audit", "--since", "1 h", "--json"]).await?.ended_with(0)?.json()?;
    let rows = audit.get("rows").and_then(Value::as_array).context("there are no rows")?;
    for row in rows {
        let function = row.get("function").and_then(Value::as_str).context("a row has no function")?;
        let (arrived, difference) = match function {
            "button" | "doorbell" => (None, None),
            "telemetry" | "presence" | "shadow" => (Some(2 * each), Some(-100)),
            "alarm" | "forward" | "jitr" => (Some(2 * each), Some(0)),
            _ => (Some(each), Some(0)),
        };
        let expected = (&json!(arrived), &json!(difference));
        ensure!((&row["arrived"], &row["difference"]) == expected, "{row}");
    }

    let notifications = stage.observer.notifications();
    for function in ["button", "doorbell"] {
        for number in 0..DEAD_LETTERS_OF_EACH {
            for id in [format!("{function}-{number}"), format!("{function}-by-rule-{number}")] {
                let notified = stage.notifications(&id).len();
                ensure!(notified == 1, "{id} was notified {notified} times");
            }
        }
    }
    ensure!(notifications.len() >= 2 * (REFUSED_BY_EACH + 2 * DEAD_LETTERS_OF_EACH), "notifications are missing");
    let readings = stage.clients.dynamodb.scan().table_name(stage.deployment.output("TelemetryTable")?);
    let readings: Vec<_> = readings.into_paginator().items().send().collect::<Result<_, _>>().await?;
    ensure!(readings.len() == REFUSED_BY_EACH + 2 * DEAD_LETTERS_OF_EACH, "{} readings are stored", readings.len());
    Ok(())
}
