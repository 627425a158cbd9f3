//! The sample events, with the sample document in force.

use std::fs;
use std::path::Path;

use serde_json::json;
use test_support::sample;

use crate::account::Account;

/// Each sample, and its result if it is the first event after the document.
const SAMPLES: [(&str, &str); 13] = [
    ("actions.json", "done"),
    ("actions-with-error.json", "bad-document"),
    ("alarm.json", "done"),
    ("ok.json", "done"),
    ("stale.json", "done"),
    ("unmatched.json", "done"),
    ("missing-field.json", "missing-field"),
    ("wrong-type.json", "wrong-type"),
    ("unknown-state.json", "unknown-value"),
    ("bad-thing-name.json", "bad-thing-name"),
    ("unknown-command.json", "bad-order"),
    ("not-json.json", "not-json"),
    ("sqs-batch.json", "invalid-value"),
];

#[tokio::test(start_paused = true)]
async fn each_sample_shows_what_its_name_says() {
    for (name, expected) in SAMPLES {
        let account = Account::with(&sample("actuator/actions.json")).await;
        let delivered = account.invoke(&sample(&format!("actuator/{name}"))).await;
        let response = delivered.response.unwrap().unwrap();
        let refused = account.quarantined();
        let reason = refused.first().map_or("done", |(reason, _)| reason);
        assert_eq!(reason, expected, "{name}: {refused:?}");
        let is_acknowledged = response["outcome"].is_string() || response["batchItemFailures"] == json!([]);
        assert!(is_acknowledged, "{name}: {response}");
    }
}

#[tokio::test(start_paused = true)]
async fn samples_are_acknowledged_in_any_order() {
    let names = SAMPLES.map(|(name, _)| name);
    for shift in 0..names.len() {
        let account = Account::new();
        for name in names.iter().cycle().skip(shift).take(names.len()) {
            let delivered = account.invoke(&sample(&format!("actuator/{name}"))).await;
            assert!(!delivered.is_retried(), "{name}: {delivered:?}");
        }
    }
}

#[test]
fn every_sample_is_tested() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/actuator");
    let mut found: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut known = SAMPLES.map(|(name, _)| name.to_owned());
    found.sort();
    known.sort();
    assert_eq!(found, known);
}
