//! The function and `infra/actions.schema.json` agree on every document.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use actuator::Actions;
use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{DocumentSchema, mutated, workspace_file};

/// Rules that a schema cannot express.
const BEYOND: [&str; 3] = [
    "An earlier action has the same alarm, states, severity, kind, things and device.",
    "Field connectTimeout, plus readTimeout for each code, must be at most 15 s.",
    "and at most 8192 bytes.",
];

#[test]
fn sample_is_valid_for_both() {
    let sample: Value = serde_json::from_str(&workspace_file("infra/actions.json")).unwrap();
    DocumentSchema::new("infra/actions.schema.json", &BEYOND).assert_agrees::<Actions>(&sample);
}

#[test]
fn any_change_is_judged_alike() {
    let schema = DocumentSchema::new("infra/actions.schema.json", &BEYOND);
    let document = json!({"actions": [
        {"alarm": "too-bright", "to": "ALARM", "things": "greenhouse-*", "device": "{thing}-shade",
         "command": {"shadow": {"name": "shade", "desired": {"position": "closed", "speed": [1, {"a": {"b": 2}}]}}}},
        {"alarm": "pressure", "kind": "severity", "severity": "critical",
         "command": {"shadow": {"desired": {"valve": "closed"}}}},
        {"alarm": "pressure", "kind": "state", "state": "NORMAL", "to": "OK", "severity": "minor",
         "command": {"shadow": {"desired": {"valve": "open"}}}},
        {"alarm": "frost", "to": "OK", "command": {"infrared": {"host": "192.0.2.10", "port": 4998,
         "send": ["sendir,1:1,1,38000,1,1,96,24"], "connectTimeout": "2 s", "readTimeout": "3 s"}}},
    ]});
    proptest!(ProptestConfig::with_cases(4_000), |(changes in prop::collection::vec(any::<(u16, u16)>(), 1..4))| {
        schema.assert_agrees::<Actions>(&mutated(&document, &changes));
    });
}
