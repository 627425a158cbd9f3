//! Alarm models of AWS IoT Events are imported as rules, and readings raise the same alarms.

use std::sync::Arc;

use anyhow::{Result, ensure};
use local_cloud::tools;
use serde_json::{Value, json};

use crate::alarm_rules::readings::Readings;
use crate::suite::Suite;

/// A model, a thing, a reading that raises its alarm, one that clears it, and the states after them.
const MODELS: [(&str, &str, &str, [&str; 3]); 4] = [
    (
        "boiler-too-hot",
        r#"{"water": {"temperature": 90.5}}"#,
        r#"{"water": {"temperature": 90}}"#,
        ["ACTIVE", "LATCHED", "critical"],
    ),
    ("cold-room", r#"{"air": {"celsius": -18.50}}"#, r#"{"air": {"celsius": -18.4}}"#, ["ACTIVE", "NORMAL", "minor"]),
    (
        "pump-pressure",
        r#"{"pressure": 5, "limits": {"maximum": 5}}"#,
        r#"{"pressure": 4.9, "limits": {"maximum": 5}}"#,
        ["ACTIVE", "LATCHED", "major"],
    ),
    ("hatch-open", r#"{"position": "ajar"}"#, r#"{"position": "closed"}"#, ["DISABLED", "DISABLED", "major"]),
];

/// Imports the models with the tool, uploads its output, and reports readings.
pub async fn behave(suite: Arc<Suite>) -> Result<()> {
    let house = Readings::begin(&suite, "plant-1", "boiler-too-hot", &[]).await?;
    let models = tools::root().join("infra/operator/tests/iot-events");
    let files = MODELS.map(|(model, ..)| models.join(format!("{model}.json")).display().to_string());
    let arguments = ["alarms", "import", "--things", "plant-*"].into_iter().chain(files.iter().map(String::as_str));
    let document = house.gatehouse(&arguments.collect::<Vec<_>>()).await?;
    let file = house.stage.cloud.scratch.join(format!("{}-imported.json", house.stage.deployment.stack));
    std::fs::write(&file, &document)?;
    let put = house.gatehouse(&["documents", "put", &file.display().to_string()]).await?;
    ensure!(put.contains("are in force"), "{put}");
    let rules = serde_json::from_str::<Value>(&document)?;
    ensure!(rules.pointer("/rules/3/startDisabled") == Some(&json!(true)), "{rules}");

    for (model, raises, clears, [raised, cleared, severity]) in MODELS {
        let alarm = house.of_rule(model);
        alarm.report_text(raises).await?;
        alarm.has_state(raised).await?;
        if raised == "ACTIVE" {
            let listed = alarm.gatehouse(&["alarms", "list", "--rule", model, "--severity", severity]).await?;
            ensure!(listed.contains("plant-1"), "{model}: {listed}");
        }
        alarm.report_text(clears).await?;
        alarm.has_state(cleared).await?;
    }
    Ok(())
}
