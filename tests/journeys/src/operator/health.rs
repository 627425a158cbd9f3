//! `gatehouse doctor`, `ca` and `revoke`.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use libtest_mimic::Trial;
use local_cloud::isolation::{self, Inherit};
use serde_json::Value;

use super::{Ran, gatehouse, queue_url, send};
use crate::admission::Gate;
use crate::programs;
use crate::revocation::{register_active, set_rate};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("operator", "doctor_reports_each_problem_and_hides_none", doctor),
        suite.trial("operator", "revoke_waits_for_its_run_and_the_ca_is_listed_as_blocked", revoke),
    ]
}

/// Returns the check and the text of each finding with this level.
fn findings(ran: &Ran, level: &str) -> Result<Vec<(String, String)>> {
    let report = ran.json()?;
    let findings = report.get("findings").and_then(Value::as_array).context("no findings")?;
    let text = |finding: &Value, name: &str| finding.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let with_level = findings.iter().filter(|finding| text(finding, "level") == level);
    Ok(with_level.map(|finding| (text(finding, "check"), text(finding, "text"))).collect())
}

async fn doctor(suite: Arc<Suite>) -> Result<()> {
    const CHECKS: [&str; 13] = [
        "CAs",
        "alarms",
        "clock",
        "concurrency",
        "dead letters",
        "documents",
        "event sources",
        "functions",
        "quarantine",
        "rule logs",
        "rules",
        "subscriptions",
        "text messages",
    ];
    let stage = suite.stage().await?;
    let healthy = gatehouse(&stage, &["doctor", "--json"]).await?;
    let report = healthy.json()?;
    let all = report.get("findings").and_then(Value::as_array).context("no findings")?;
    let checks: BTreeSet<&str> = all.iter().filter_map(|finding| finding.get("check")?.as_str()).collect();
    ensure!(checks == BTreeSet::from(CHECKS), "the checks are {checks:?}: {report}");
    let ok: BTreeSet<String> = findings(&healthy, "ok")?.into_iter().map(|(check, _)| check).collect();
    for check in ["clock", "dead letters", "documents", "event sources", "functions", "quarantine", "rules"] {
        ensure!(ok.contains(check), "{check} is not ok: {report}");
    }

    send(&stage, &queue_url(&stage, "telemetry-dlq").await?, "{}", &[]).await?;
    let string = |value: &str| AttributeValue::S(value.to_owned());
    let put = stage.clients.dynamodb.put_item().table_name(format!("{}-alarms", stage.deployment.stack));
    let put = put.item("id", string("document#thresholds")).item("part", string("current"));
    let put = put.item("document", string(r#"{"thresholds": [{"name": "?"}]}"#));
    put.item("version", AttributeValue::N("1".to_owned())).send().await?;
    let broken = gatehouse(&stage, &["doctor", "--json"]).await?.ended_with(1)?;
    let problems = findings(&broken, "problem")?;
    for (check, part) in [("dead letters", "telemetry-dlq"), ("documents", "thresholds")] {
        let is_reported = problems.iter().any(|(found, text)| found == check && text.contains(part));
        ensure!(is_reported, "{check} is no problem: {problems:?}");
    }
    gatehouse(&stage, &["doctor", "--quiet"])
        .await?
        .ended_with(1)?
        .contains(&["problem", "gatehouse dead-letters resend"])?;

    // A deployment that does not exist: nothing fails, everything is reported.
    let tool = programs::gatehouse()?;
    let mut command =
        isolation::command(tool, Inherit::Minimal, stage.cloud.endpoint, &stage.account, &stage.cloud.scratch);
    command.args(["--prefix", "missing", "doctor", "--json"]);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await?;
    let missing = Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    };
    let missing = missing.ended_with(1)?;
    let problems = findings(&missing, "problem")?;
    ensure!(problems.iter().filter(|(check, _)| check == "functions").count() == 10, "{problems:?}");
    let unread = findings(&missing, "cannot-check")?;
    ensure!(unread.iter().any(|(check, _)| check == "quarantine"), "{unread:?}");
    Ok(())
}

async fn revoke(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    for name in ["one", "two", "three"] {
        register_active(&gate, name).await?;
    }
    set_rate(&gate, 1_000).await?;
    let (stage, ca) = (&gate.stage, gate.ca.id.as_str());
    gatehouse(stage, &["revoke", "--ca", ca]).await?.ended_with(2)?.contains(&["--yes"])?;
    let dry_run = gatehouse(stage, &["revoke", "--ca", ca, "--dry-run"]).await?.ended_with(0)?;
    dry_run.contains(&["3 found, 3 would be revoked"])?;
    gatehouse(stage, &["ca", "list"]).await?.ended_with(0)?.contains(&[ca, "ACTIVE"])?;

    let run = gatehouse(stage, &["revoke", "--ca", ca, "--reason", "its key leaked", "--yes", "--json"]).await?;
    let report = run.ended_with(0)?.json()?;
    let counts = report.get("counts").context("no counts")?;
    ensure!(counts.get("found").and_then(Value::as_u64) == Some(3), "unexpected counts: {report}");
    ensure!(report.get("isOver").and_then(Value::as_bool) == Some(true), "the run is not over: {report}");

    let cas = gatehouse(stage, &["ca", "list", "--json"]).await?.ended_with(0)?.json()?;
    let listed = cas.as_array().context("no list")?;
    let listed = listed.iter().find(|found| found.get("id").and_then(Value::as_str) == Some(ca));
    let listed = listed.with_context(|| format!("the CA is not listed: {cas}"))?;
    ensure!(listed.get("status").and_then(Value::as_str) == Some("INACTIVE"), "the CA is active: {listed}");
    ensure!(listed.get("blockReason").and_then(Value::as_str) == Some("its key leaked"), "no block: {listed}");
    Ok(())
}
