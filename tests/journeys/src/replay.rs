//! Runs the programs `replay` and `local` as a user does.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use crate::process_cleanup::WatchedCommand;
use crate::programs::{local, replay};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite
            .trial("replay", "shipped_scenarios_succeed_and_the_report_fits_80_columns", async |_| shipped_scenarios()),
        suite.trial("replay", "fails_and_names_the_step_with_another_outcome", async |_| unexpected_outcome()),
        suite.trial("replay", "names_the_file_and_field_of_an_invalid_scenario", async |_| invalid_scenario()),
        suite.trial("replay", "mosquitto_pub_commands_of_the_local_cloud_work", async |_| mosquitto_pub()),
    ]
}

fn shipped_scenarios() -> Result<()> {
    let output = WatchedCommand::run(&mut replay()?)?;
    let report = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "replay failed: {report}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(report.matches('✓').count() >= 8, "fewer than 8 events are reported: {report}");
    ensure!(!report.contains('\x1b') && !report.contains('\r'), "the report has terminal codes");
    for line in report.lines() {
        ensure!(line.width() <= 80, "this line is wider than 80 columns: {line}");
    }
    for part in ["gatehouse_button → gatehouse-button", "gatehouse_doorbell → gatehouse-doorbell", " ms", "suppressed"]
    {
        ensure!(report.contains(part), "`{part}` is not in the report: {report}");
    }
    Ok(())
}

/// Returns a scenario with a correct and a wrong expectation.
fn scenario() -> Value {
    let click = |thing: &str, click_type: &str| json!({"serialNumber": thing, "batteryVoltage": "2000mV", "clickType": click_type});
    json!({
        "about": "a scenario with a wrong expectation",
        "steps": [
            {
                "what": "a valid click",
                "thing": "good",
                "topic": "iotbutton/good",
                "payload": click("good", "SINGLE"),
                "expect": {"notification": {"attributes": {"clickType": "SINGLE"}}},
            },
            {
                "what": "an invalid click",
                "thing": "bad",
                "topic": "iotbutton/bad",
                "payload": click("bad", "TRIPLE"),
                "expect": {"quarantine": {"reason": "wrong-type"}},
            },
        ],
    })
}

fn unexpected_outcome() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("mine.json");
    std::fs::write(&path, scenario().to_string())?;

    let output = WatchedCommand::run(replay()?.arg(&path))?;
    let report = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(1), "the exit status is {}", output.status);
    for part in ["✓ a valid click", "✗ an invalid click", "wrong-type", "unknown-value"] {
        ensure!(report.contains(part), "`{part}` is not in the report: {report}");
    }
    ensure!(report.contains("mine steps[1]"), "the report does not name the step: {report}");

    let output = WatchedCommand::run(replay()?.arg("--json").arg(&path))?;
    ensure!(output.status.code() == Some(1), "the exit status is {} when asked for JSON", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).context("standard output is not one JSON document")?;
    let is_ok: Vec<_> =
        report.get("events").and_then(Value::as_array).into_iter().flatten().map(|event| event.get("ok")).collect();
    ensure!(report.get("ok") == Some(&json!(false)), "the report is ok: {report}");
    ensure!(is_ok == [Some(&json!(true)), Some(&json!(false))], "the report names another step: {report}");
    let effect = report.pointer("/events/0/effect/kind").and_then(Value::as_str);
    ensure!(effect == Some("notification"), "the report has another effect: {report}");
    Ok(())
}

fn invalid_scenario() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("mine.json");
    let mut scenario = scenario();
    if let Some(step) = scenario.pointer_mut("/steps/1/expect/quarantine") {
        *step = json!({"reson": "wrong-type"});
    }
    std::fs::write(&path, scenario.to_string())?;
    let output = WatchedCommand::run(replay()?.arg(&path))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "the exit status is {}", output.status);
    ensure!(output.stdout.is_empty(), "standard output is not empty");
    for part in ["mine.json", "steps[1].expect.quarantine.reson", "reason"] {
        ensure!(errors.contains(part), "`{part}` is not in the error: {errors}");
    }
    Ok(())
}

fn mosquitto_pub() -> Result<()> {
    if Command::new("mosquitto_pub").arg("--help").output().is_err() {
        eprintln!("mosquitto_pub is not installed; its commands are not tested");
        return Ok(());
    }
    let mut watched = WatchedCommand::spawn(local()?.stdout(Stdio::piped()).stderr(Stdio::null()))?;
    let mut lines = BufReader::new(watched.stdout()?).lines();
    let mut commands = Vec::new();
    for line in lines.by_ref() {
        let line = line?;
        if line.trim_start().starts_with("mosquitto_pub ") {
            commands.push(line);
        } else if line.contains("Ctrl-C") {
            break;
        }
    }
    ensure!(commands.len() == 2, "local prints {} mosquitto_pub commands", commands.len());
    for command in commands {
        let status = Command::new("sh").arg("-c").arg(&command).current_dir("/").status()?;
        ensure!(status.success(), "this command failed: {command}");
        let notified = lines.by_ref().map_while(Result::ok).find(|line| line.contains("notified"));
        ensure!(notified.is_some(), "there was no notification after: {command}");
    }
    watched.end(rustix::process::Signal::INT, Duration::ZERO)
}
