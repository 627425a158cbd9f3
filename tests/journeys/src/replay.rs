//! The programs that people run, as they run them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use crate::processes::Watched;
use crate::stage::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("all comes of the shipped scenarios that they promise, and is told in 80 columns", async |_| {
            shipped()
        }),
        suite.trial("replay fails and names the step of which something else came", async |_| broken_expectation()),
        suite.trial("replay names the file and the field of a scenario that it cannot read", async |_| unreadable()),
        suite.trial("the mosquitto_pub lines of a local cloud work as they stand", async |_| mosquitto()),
    ]
}

/// The replay program.
pub fn replay() -> Command {
    Command::new(env!("CARGO_BIN_EXE_replay"))
}

/// The program that leaves a local cloud running.
pub fn local() -> Command {
    Command::new(env!("CARGO_BIN_EXE_local"))
}

fn shipped() -> Result<()> {
    let output = Watched::run(&mut replay())?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "it failed: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(said.matches('✓').count() >= 8, "it shows fewer than 8 events: {said}");
    ensure!(!said.contains('\x1b') && !said.contains('\r'), "it is coloured where nobody sees it");
    for line in said.lines() {
        ensure!(line.width() <= 80, "this line is wider than 80 columns: {line}");
    }
    for part in ["gatehouse_button → gatehouse-button", "gatehouse_doorbell → gatehouse-doorbell", " ms", "let go"]
    {
        ensure!(said.contains(part), "it does not say `{part}`: {said}");
    }
    Ok(())
}

/// A scenario with a click that is told, and one of which something else comes than it says.
fn scenario() -> Value {
    let click = |thing: &str, click_type: &str| json!({"serialNumber": thing, "batteryVoltage": "2000mV", "clickType": click_type});
    json!({
        "about": "a scenario with a wrong expectation",
        "steps": [
            {
                "what": "a click that is told",
                "thing": "good",
                "topic": "iotbutton/good",
                "payload": click("good", "SINGLE"),
                "expect": {"notification": {"attributes": {"clickType": "SINGLE"}}},
            },
            {
                "what": "a click of which another thing comes",
                "thing": "bad",
                "topic": "iotbutton/bad",
                "payload": click("bad", "TRIPLE"),
                "expect": {"quarantine": {"reason": "wrong-type"}},
            },
        ],
    })
}

fn broken_expectation() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("mine.json");
    std::fs::write(&path, scenario().to_string())?;

    let output = Watched::run(replay().arg(&path))?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(1), "it ended with {}", output.status);
    for part in ["✓ a click that is told", "✗ a click of which another thing comes", "wrong-type", "unknown-value"]
    {
        ensure!(said.contains(part), "it does not say `{part}`: {said}");
    }
    ensure!(said.contains("mine steps[1]"), "it does not name the step: {said}");

    let output = Watched::run(replay().arg("--json").arg(&path))?;
    ensure!(output.status.code() == Some(1), "it ended with {} when asked for JSON", output.status);
    let said: Value = serde_json::from_slice(&output.stdout).context("standard output is not one JSON document")?;
    let oks: Vec<_> =
        said.get("events").and_then(Value::as_array).into_iter().flatten().map(|event| event.get("ok")).collect();
    ensure!(said.get("ok") == Some(&json!(false)), "it says that all is well: {said}");
    ensure!(oks == [Some(&json!(true)), Some(&json!(false))], "it does not say which: {said}");
    let effect = said.pointer("/events/0/effect/kind").and_then(Value::as_str);
    ensure!(effect == Some("notification"), "it does not say what came: {said}");
    Ok(())
}

fn unreadable() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("mine.json");
    let mut scenario = scenario();
    if let Some(step) = scenario.pointer_mut("/steps/1/expect/quarantine") {
        *step = json!({"reson": "wrong-type"});
    }
    std::fs::write(&path, scenario.to_string())?;
    let output = Watched::run(replay().arg(&path))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "it ended with {}", output.status);
    ensure!(output.stdout.is_empty(), "it says something on standard output");
    for part in ["mine.json", "steps[1].expect.quarantine.reson", "reason"] {
        ensure!(said.contains(part), "it does not say `{part}`: {said}");
    }
    Ok(())
}

fn mosquitto() -> Result<()> {
    if Command::new("mosquitto_pub").arg("--help").output().is_err() {
        eprintln!("mosquitto_pub is not installed; its lines are not tried");
        return Ok(());
    }
    let mut watched = Watched::spawn(local().stdout(Stdio::piped()).stderr(Stdio::null()))?;
    let mut lines = BufReader::new(watched.stdout()?).lines();
    let mut publish = Vec::new();
    for line in lines.by_ref() {
        let line = line?;
        if line.trim_start().starts_with("mosquitto_pub ") {
            publish.push(line);
        } else if line.contains("Ctrl-C") {
            break;
        }
    }
    ensure!(publish.len() == 2, "it prints {} mosquitto_pub lines", publish.len());
    for line in publish {
        let status = Command::new("sh").arg("-c").arg(&line).current_dir("/").status()?;
        ensure!(status.success(), "this line failed: {line}");
        let told = lines.by_ref().map_while(Result::ok).find(|line| line.contains("told"));
        ensure!(told.is_some(), "nothing was told of: {line}");
    }
    watched.end(rustix::process::Signal::INT, Duration::ZERO)
}
