//! The function and `infra/thresholds.schema.json` agree on every document.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use alarm::thresholds::Thresholds;
use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{DocumentSchema, mutated, workspace_file};

/// What a schema cannot express.
const BEYOND: [&str; 4] = [
    "Another threshold has this name.",
    "both conditions would be met at once.",
    "It must be longer than both `raise.for` and `clear.for`.",
    "a number of at most 64 characters",
];

#[test]
fn sample_is_valid_for_both() {
    let sample: Value = serde_json::from_str(&workspace_file("infra/thresholds.json")).unwrap();
    DocumentSchema::new("infra/thresholds.schema.json", &BEYOND).assert_agrees::<Thresholds>(&sample);
}

#[test]
fn any_change_is_judged_alike() {
    let schema = DocumentSchema::new("infra/thresholds.schema.json", &BEYOND);
    let document = json!({"thresholds": [
        {"name": "too-bright", "things": "greenhouse-*", "field": "/lux", "stale": "1 h",
         "raise": {"above": 35000, "for": "15 min"}, "clear": {"below": 35000, "for": "15 min"}},
        {"name": "frost", "things": "*", "field": "/air/temperature",
         "raise": {"below": 2.5, "for": "0 s"}, "clear": {"above": 4, "for": "1 d"}},
    ]});
    proptest!(ProptestConfig::with_cases(4_000), |(changes in prop::collection::vec(any::<(u16, u16)>(), 1..4))| {
        schema.assert_agrees::<Thresholds>(&mutated(&document, &changes));
    });
}
