//! The function and the schemas in `infra` agree on every document.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use alarm::rules::AlarmRules;
use alarm::thresholds::Thresholds;
use proptest::prelude::*;
use serde_json::{Value, json};
use test_support::{DocumentSchema, mutated, workspace_file};

/// Rules that a schema cannot express.
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

/// Rules that the schema of version 2 cannot express.
const BEYOND_RULES: [&str; 15] = [
    "Another rule has this name.",
    "both conditions would be met at once.",
    "It must be longer than every `for`.",
    "There is no group of this name.",
    "No rule has an override of this name.",
    "It must have the type of the defaults of this override.",
    "Severities must be listed with the most severe first",
    "It must be at least 10 min.",
    "It must be at least 1 min.",
    "A placeholder must be",
    "`from` and `to` must differ.",
    "It must not be greater than `of`.",
    "A rule must have at most 32 comparisons.",
    "The override has another default",
    "a number of at most 64 characters",
];

#[test]
fn sample_rules_are_valid_for_both() {
    let text = workspace_file("infra/alarm-rules.json");
    let sample: Value = serde_json::from_str(&text).unwrap();
    DocumentSchema::new("infra/alarm-rules.schema.json", &BEYOND_RULES).assert_agrees::<AlarmRules>(&sample);
    gatehouse::parse_document::<AlarmRules>(&text).unwrap();
}

#[test]
fn any_change_of_rules_is_judged_alike() {
    let schema = DocumentSchema::new("infra/alarm-rules.schema.json", &BEYOND_RULES);
    let sample: Value = serde_json::from_str(&workspace_file("infra/alarm-rules.json")).unwrap();
    let comparison = json!({"field": "/lux", "op": ">", "value": 10});
    let document = json!({"version": 2, "groups": {"all": ["*"]}, "overrides": {"a": {"limit": 3}}, "rules": [
        {"name": "one", "things": {"group": "all"}, "severities": [
            {"severity": "critical", "raise": {"when": comparison, "for": "0 s"}, "clear": {"when": {"field": "/lux", "op": "<", "value": 5}}},
            {"severity": "info", "raise": {"when": {"field": "/lux", "op": ">=", "override": "limit", "default": 4}, "count": {"n": 1, "of": 2}}}],
         "stale": "1 h", "latch": false, "notify": {"repeat": "5 min", "text": "{thing} {/lux}"}},
        {"name": "two", "things": "b-*", "severities": [{"severity": "minor", "raise": {"when": {"all": [
            {"field": "/a", "is": "present"}, {"any": [{"not": {"field": "/b", "op": "!=", "otherField": "/c"}}]},
            {"change": {"field": "/a", "per": "1 min"}, "op": "<", "value": -1},
            {"window": {"field": "/a", "of": "mean", "over": "10 min"}, "op": ">", "value": 1}]}}}]}]});
    for document in [document, sample] {
        schema.assert_agrees::<AlarmRules>(&document);
        proptest!(ProptestConfig::with_cases(4_000), |(changes in prop::collection::vec(any::<(u16, u16)>(), 1..4))| {
            schema.assert_agrees::<AlarmRules>(&mutated(&document, &changes));
        });
    }
}

#[test]
fn conditions_are_nested_equally_deep_for_both() {
    let schema = DocumentSchema::new("infra/alarm-rules.schema.json", &BEYOND_RULES);
    for depth in 0..130 {
        let leaf = json!({"field": "/a", "op": "==", "value": true});
        for wrap in [|inner: Value| json!({"not": inner}), |inner: Value| json!({"all": [inner]})] {
            let condition = (0..depth).fold(leaf.clone(), |inner, _| wrap(inner));
            let document = json!({"version": 2, "rules": [{"name": "one", "things": "*", "severities":
                [{"severity": "minor", "raise": {"when": condition}}]}]});
            schema.assert_agrees::<AlarmRules>(&document);
            assert_eq!(gatehouse::parse_document::<AlarmRules>(&document.to_string()).is_ok(), depth < 5, "{depth}");
        }
    }
}
