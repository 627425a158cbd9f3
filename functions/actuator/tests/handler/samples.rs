//! The sample events, with the sample document in force.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::cloud::Cloud;

fn sample(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/actuator").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// What each sample is for: what becomes of it when it is the first after the document.
const SAMPLES: [(&str, &str); 13] = [
    ("answers.json", "done"),
    ("answers-with-a-fault.json", "bad-document"),
    ("alarm.json", "done"),
    ("ok.json", "done"),
    ("stale.json", "done"),
    ("unanswered.json", "done"),
    ("missing-field.json", "missing-field"),
    ("wrong-type.json", "wrong-type"),
    ("unknown-state.json", "unknown-value"),
    ("bad-thing-name.json", "bad-thing-name"),
    ("unknown-order.json", "bad-order"),
    ("not-json.json", "not-json"),
    ("sqs-batch.json", "invalid-value"),
];

#[tokio::test(start_paused = true)]
async fn each_sample_shows_what_its_name_says() {
    for (name, expected) in SAMPLES {
        let cloud = Cloud::with(&sample("answers.json")).await;
        let (answer, _) = cloud.invoke(&sample(name)).await;
        let answer = answer.unwrap();
        let refused = cloud.quarantined();
        let reason = refused.first().map_or("done", |(reason, _)| reason);
        assert_eq!(reason, expected, "{name}: {refused:?}");
        let is_taken = answer["outcome"].is_string() || answer["batchItemFailures"] == json!([]);
        assert!(is_taken, "{name} was answered {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_samples_are_taken_in_whatever_order_they_come() {
    let names = SAMPLES.map(|(name, _)| name);
    for shift in 0..names.len() {
        let cloud = Cloud::new();
        for name in names.iter().cycle().skip(shift).take(names.len()) {
            let (answer, _) = cloud.invoke(&sample(name)).await;
            assert!(answer.is_ok(), "{name} was answered {answer:?}");
        }
    }
}

#[test]
fn no_sample_is_left_out() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/actuator");
    let mut found: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut known = SAMPLES.map(|(name, _)| name.to_owned());
    found.sort();
    known.sort();
    assert_eq!(found, known);
}
