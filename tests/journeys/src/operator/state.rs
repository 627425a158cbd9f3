//! `gatehouse documents`, `alarms`, `trace`, `device` and `audit`.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::scenario::Scenario;
use local_cloud::tools;
use serde_json::{Value, json};

use super::{allow_serial_numbers, dead_letter_queue, gatehouse, invocation_record, send};
use crate::events::{click, device_event};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("operator", "documents_are_validated_compared_and_put_into_force", documents),
        suite.trial("operator", "event_is_traced_across_functions", trace),
        suite.trial("operator", "device_is_described_with_alarms_and_refusals", device),
        suite.trial("operator", "audit_finds_the_event_that_has_no_outcome", audit),
    ]
}

async fn documents(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let directory = tempfile::tempdir()?;
    for (name, change) in [("thresholds", "frost"), ("actions", "too-bright"), ("destinations", "forecast-corp")] {
        let shipped = tools::root().join(format!("infra/{name}.json"));
        let shipped = shipped.to_str().context("the path is not UTF-8")?;
        gatehouse(&stage, &["documents", "get", name]).await?.ended_with(5)?;
        gatehouse(&stage, &["documents", "validate", shipped]).await?.ended_with(0)?;
        gatehouse(&stage, &["documents", "put", shipped, "--dry-run"]).await?.ended_with(0)?.contains(&[change])?;
        gatehouse(&stage, &["documents", "get", name]).await?.ended_with(5)?;
        gatehouse(&stage, &["documents", "put", shipped]).await?.ended_with(0)?.contains(&["version 1"])?;
        gatehouse(&stage, &["documents", "diff", shipped]).await?.ended_with(0)?;
        gatehouse(&stage, &["documents", "put", shipped]).await?.ended_with(0)?.contains(&["are the same"])?;
        gatehouse(&stage, &["documents", "get", name]).await?.ended_with(0)?.contains(&[change])?;

        let changed = directory.path().join(name);
        std::fs::write(&changed, std::fs::read_to_string(shipped)?.replace(change, "renamed"))?;
        let changed = changed.to_str().context("the path is not UTF-8")?;
        let ran = gatehouse(&stage, &["documents", "diff", changed]).await?.ended_with(6)?;
        ran.contains(&["-", change, "renamed"])?;
        std::fs::write(changed, json!({name: [{"name": "a name"}, {}]}).to_string())?;
        for command in [&["documents", "validate", changed][..], &["documents", "put", changed]] {
            let ran = gatehouse(&stage, command).await?;
            ensure!(matches!(ran.code, Some(2 | 6)), "the exit code is {:?}: {}", ran.code, ran.stderr);
            ran.contains(&[&format!("{name}[0]"), &format!("{name}[1]")])?;
        }
    }
    Ok(())
}

async fn trace(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let reading = device_event("a-reading", "lux-1", "telemetry/lux-1", br#"{"lux": 1}"#);
    stage.invoke("telemetry", &reading).await?;
    let ran = gatehouse(&stage, &["trace", "a-reading"]).await?.ended_with(0)?;
    ran.contains(&["telemetry table", "reading of lux-1"])?;

    stage.invoke("button", &click("a-click", "b-1")).await?;
    let record = invocation_record(&stage, "button", &click("a-click", "b-1"))?;
    send(&stage, &dead_letter_queue(&stage, "button-dlq").await?, &record.to_string(), &[]).await?;
    let ran = gatehouse(&stage, &["trace", "a-click"]).await?.ended_with(0)?;
    ran.contains(&["effect of button: COMPLETED", "log of button", "dead letter (invocation)"])?;
    let ran = gatehouse(&stage, &["trace", "unknown"]).await?.ended_with(5)?;
    ran.contains(&["nothing is known about this event"])?;

    let bad = device_event("a-bad-click", "b-1", "iotbutton/b-1", b"not JSON");
    stage.invoke("button", &bad).await?;
    let directory = tempfile::tempdir()?;
    for (arguments, expected) in [
        (&["a-bad-click"][..], json!({"quarantine": {"reason": "not-json"}})),
        (&["a-click"], json!({"notification": {}})),
        (&["a-reading", "--thing", "lux-1"], json!({"stored": {"readings": 1}})),
    ] {
        let file = directory.path().join("exported.json");
        let export = ["trace", "--export", file.to_str().context("the path is not UTF-8")?];
        gatehouse(&stage, &[&export[..], arguments].concat()).await?.ended_with(0)?;
        // The scenario is valid, and expects the event's outcome.
        let scenario = Scenario::read(&file)?;
        let expects: Vec<_> = scenario.steps.iter().map(|step| json!(step.expect)).collect();
        ensure!(expects == [expected], "the scenario of {arguments:?} expects {expects:?}");
    }
    gatehouse(&stage, &["trace", "--export", "unused", "unknown"]).await?.ended_with(5)?;
    Ok(())
}

async fn device(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    stage.device("lux-1").await?;
    let thresholds = json!({"thresholds": [{
        "name": "too-bright", "things": "lux-*", "field": "/lux",
        "raise": {"above": 10, "for": "0 s"}, "clear": {"below": 10, "for": "0 s"}
    }]});
    stage.invoke("alarm", &thresholds).await?;
    stage.invoke("alarm", &device_event("bright", "lux-1", "telemetry/lux-1", br#"{"lux": 11}"#)).await?;
    allow_serial_numbers(&stage, "G030.*").await?;
    stage.invoke("button", &click("refused", "lux-1")).await?;

    let ran = gatehouse(&stage, &["alarms", "list", "--data", "alarm"]).await?.ended_with(0)?;
    ran.contains(&["ACTIVE", "ALARM", "too-bright", "lux-1", "11"])?;
    let ran = gatehouse(&stage, &["alarms", "list", "--state", "normal"]).await?.ended_with(0)?;
    ran.contains(&["There is no such alarm."])?;

    let ran = gatehouse(&stage, &["device", "lux-1"]).await?.ended_with(0)?;
    ran.contains(&[
        "the thing is registered",
        "is ACTIVE",
        "ALARM by too-bright",
        "event refused was refused",
        "logs were searched",
    ])?;
    gatehouse(&stage, &["device", "unknown"]).await?.ended_with(0)?.contains(&["no such thing is registered"])?;
    gatehouse(&stage, &["device", "a/b"]).await?.ended_with(2)?;
    Ok(())
}

async fn audit(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let mut device = stage.device("lux-1").await?;
    for payload in [&br#"{"lux": 1}"#[..], br#"{"lux": 2}"#, b"not JSON"] {
        stage.publish(&mut device, "telemetry/lux-1", payload).await?;
    }
    // `alarm` ignores a payload that is not JSON, which `telemetry` refuses, and has no thresholds here.
    let functions = [("telemetry", 2, 1), ("alarm", 3, 0)];
    for (function, done, refused) in functions {
        let name = stage.name(function)?;
        let reported = stage.observer.until(|observer| {
            let total = observer.total(name);
            (total.done == done && total.refused == refused).then_some(())
        });
        reported.await.with_context(|| format!("{function} reported {:?}", stage.observer.total(name)))?;
    }
    let ran = gatehouse(&stage, &["audit", "--since", "1 h", "--json"]).await?.ended_with(0)?;
    let report = ran.json()?;
    let rows = report.get("rows").and_then(Value::as_array).context("there are no rows")?;
    for (function, done, refused) in functions {
        let row = rows.iter().find(|row| row.get("function") == Some(&json!(function))).context("a row is missing")?;
        let expected = json!({
            "function": function, "matched": 3, "ruleFailures": 0, "arrived": 3, "queued": 0, "deadLetters": 0,
            "outcomes": {"source": "metrics", "done": done, "refused": refused, "retried": 0},
            "quarantined": refused, "difference": 0
        });
        ensure!(*row == expected, "{row}");
    }

    // An event that the queue received, and that was deleted there.
    let lambda = &stage.clients.lambda;
    let sources = lambda.list_event_source_mappings().function_name(stage.name("telemetry")?).send().await?;
    let source = sources.event_source_mappings().first().and_then(|source| source.uuid()).context("no event source")?;
    lambda.delete_event_source_mapping().uuid(source).send().await?;
    stage.publish(&mut device, "telemetry/lux-1", br#"{"lux": 3}"#).await?;
    let url = stage.deployment.output("TelemetryQueueUrl")?;
    let arrived = stage.observer.poll(async || Ok((stage.queue_length("TelemetryQueueUrl").await? == 1).then_some(())));
    arrived.await?.context("the event is not in the queue")?;
    stage.clients.sqs.purge_queue().queue_url(url).send().await?;
    let ran = gatehouse(&stage, &["audit", "--since", "1 h"]).await?.ended_with(6)?;
    ran.contains(&["telemetry: 1 events have no outcome"])?;
    Ok(())
}
