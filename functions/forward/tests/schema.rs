//! The function and `infra/destinations.schema.json` agree on every document.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use forward::Destinations;
use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{DocumentSchema, mutated, workspace_file};

/// Rules that a schema cannot express.
const BEYOND: [&str; 2] = ["Another destination has the same name.", "Another destination has the same queue"];

#[test]
fn sample_is_valid_for_both() {
    let sample: Value = serde_json::from_str(&workspace_file("infra/destinations.json")).unwrap();
    DocumentSchema::new("infra/destinations.schema.json", &BEYOND).assert_agrees::<Destinations>(&sample);
}

#[test]
fn any_change_is_judged_alike() {
    let schema = DocumentSchema::new("infra/destinations.schema.json", &BEYOND);
    let document = json!({"destinations": [
        {"name": "forecast", "topics": "Weather/Corp/+", "binary": "refuse",
         "queueUrl": "https://sqs.eu-west-1.amazonaws.com/222222222222/weather"},
        {"name": "archive", "topics": ["Weather/#", "a/b"],
         "queueUrl": "https://sqs.eu-west-1.amazonaws.com/222222222222/archive.fifo"},
    ]});
    proptest!(ProptestConfig::with_cases(4_000), |(changes in prop::collection::vec(any::<(u16, u16)>(), 1..4))| {
        schema.assert_agrees::<Destinations>(&mutated(&document, &changes));
    });
}
