//! `GET /api/v1/samples`: payloads to publish, from `events/`.

use std::path::Path;

use axum::Json;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::observer::payload;
use crate::tools;

/// The functions whose input devices publish.
const FUNCTIONS: [&str; 3] = ["button", "doorbell", "telemetry"];

/// A sample of a function's input.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sample<'a> {
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    payload_base64: Option<String>,
    thing: String,
    topic: String,
}

/// Lists the samples.
pub async fn list() -> Json<Value> {
    Json(json!({"samples": read(&tools::root().join("events"))}))
}

fn read(events: &Path) -> Vec<Value> {
    let mut samples = Vec::new();
    for function in FUNCTIONS {
        let entries = std::fs::read_dir(events.join(function)).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            // Some files are batches, or intentionally invalid.
            let Ok(sample) = serde_json::from_str::<Sample>(&text) else { continue };
            let name = file.file_stem().unwrap_or_default().to_string_lossy().replace('-', " ");
            samples.extend(sample.json(function, &name));
        }
    }
    // Samples that succeed come first.
    samples.sort_by_key(|sample| {
        !sample["name"].as_str().is_some_and(|name| matches!(name, "single" | "ring" | "reading"))
    });
    samples
}

impl Sample<'_> {
    fn json(self, function: &str, name: &str) -> Option<Value> {
        use base64::Engine;
        let payload = match (self.payload, self.payload_base64) {
            (Some(json), None) => json!({"text": json.get()}),
            (None, Some(encoded)) => payload(&base64::prelude::BASE64_STANDARD.decode(encoded).ok()?),
            _ => return None,
        };
        let topic = self.topic.replace(&self.thing, "{thing}");
        // A button's serial number must be the thing's name.
        let text = payload.get("text").and_then(Value::as_str).map(|text| text.replace(&self.thing, "{thing}"));
        let payload = text.map_or(payload, |text| json!({"text": text}));
        Some(json!({"function": function, "name": name, "topic": topic, "payload": payload}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_topics_of_any_thing() {
        let samples = read(&tools::root().join("events"));
        let click = samples.iter().find(|sample| sample["name"] == "single").expect("a click");
        assert_eq!(click["topic"], "iotbutton/{thing}");
        assert!(click["payload"]["text"].as_str().is_some_and(|text| text.contains("{thing}")), "{click}");
        assert!(samples.iter().any(|sample| sample["name"] == "not json"), "{samples:?}");
        for function in FUNCTIONS {
            assert!(samples.iter().any(|sample| sample["function"] == function), "{function}");
        }
    }
}
