//! Events that are refused.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;
use test_support::{Fault, sample, sqs_batch};

use crate::setup::*;

#[tokio::test(start_paused = true)]
async fn invalid_reading_does_not_fail_its_neighbors() {
    let table = account();
    let digits = "1".repeat(39);
    let array = format!(r#"[{{"lux":1}},{{"lux":{digits}}},{{"lux":3}},{{"lux":4}}]"#);
    let delivered = deliver(&table, &sqs_batch(&[event("e-1", &array), event("e-2", r#"{"lux":6}"#)])).await;
    assert!(retried(&delivered).is_empty());
    assert_eq!(
        keys(&table),
        ["1763715600000#e-1#000000", "1763715600000#e-1#000002", "1763715600000#e-1#000003", "1763715600000#e-2",]
    );
    let why = "In item 1, value 0 is a number of 39 significant digits; DynamoDB stores at most 38.";
    assert_eq!(refused(&table), ("too-many-digits".to_owned(), why.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn valid_readings_are_written_before_their_event_is_refused() {
    let table = account();
    table.fail_next(WRITE, [Fault::Denied]);
    let delivery = sqs_batch(&[event("e-1", r#"[{"lux":1},2]"#)]);
    assert_eq!(retried(&deliver(&table, &delivery).await), ids([0]));
    assert!(table.state().quarantined().is_empty());
    assert!(retried(&deliver(&table, &delivery).await).is_empty());
    assert_eq!(refused(&table), ("not-an-object".to_owned(), "Item 1 is not a JSON object.".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn invalid_payload_is_refused_with_its_reason() {
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(31), "]".repeat(31));
    let wide = json!([{}].repeat(1001)).to_string();
    for (payload, reason, why) in [
        ("", "empty-payload", "The payload is empty."),
        ("{", "not-json", "The payload is not JSON: syntax error at line 1 column 1."),
        ("7", "not-an-object", "The payload is a number, not an object or an array of objects."),
        (
            r#"{"a":1,"b":[0,{"c":1e126}]}"#,
            "number-out-of-range",
            "Value 1.1.0 is a number outside DynamoDB's range, 1E-130 to 9.9E+125.",
        ),
        (r#"{"a":{"":1}}"#, "empty-name", "The name of value 0.0 is empty."),
        (r#"{"a":1,"b":2,"\u0061":3}"#, "duplicate-field", "The name of value 2 appears twice."),
        (r#"{"a":"\ud83d"}"#, "not-json", "Value 0 is not JSON that can be parsed."),
        (
            &deep,
            "too-deep",
            &format!("Value 0{} is nested too deep; DynamoDB stores at most 31 levels.", ".0".repeat(30)),
        ),
        (&wide, "too-many-readings", "The payload has 1001 readings; the limit is 1000."),
        (&"x".repeat(128 * 1024 + 1), "payload-too-large", "The payload has 131073 bytes; the limit is 131072."),
    ] {
        let table = account();
        deliver(&table, &event("e-1", payload)).await;
        assert_eq!(refused(&table), (reason.to_owned(), why.to_owned()));
        assert!(items(&table).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn sample_events_have_the_expected_outcomes() {
    let outcomes = BTreeMap::from([
        ("array-with-a-bad-reading.json", "too-many-digits"),
        ("array-with-own-times.json", "done"),
        ("array.json", "done"),
        ("bad-thing-name.json", "bad-thing-name"),
        ("duplicate-field.json", "duplicate-field"),
        ("empty-array.json", "done"),
        ("empty-name.json", "empty-name"),
        ("empty.json", "empty-payload"),
        ("exact-number.json", "done"),
        ("half-a-character.json", "not-json"),
        ("invalid-utf8.json", "invalid-utf8"),
        ("item-that-is-no-object.json", "not-an-object"),
        ("nested.json", "done"),
        ("not-json.json", "not-json"),
        ("number-out-of-range.json", "number-out-of-range"),
        ("number.json", "not-an-object"),
        ("reading.json", "done"),
        ("sigfox.json", "done"),
        ("sqs-batch.json", "batch"),
        ("too-deep.json", "too-deep"),
        ("too-many-digits.json", "too-many-digits"),
        ("too-many-readings.json", "too-many-readings"),
        ("truncated.json", "not-json"),
        ("wild-clock.json", "done"),
        ("with-identity.json", "done"),
    ]);
    let mut found = BTreeMap::new();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/telemetry")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let delivered = deliver(&account(), &sample(&format!("telemetry/{name}"))).await;
        let response = delivered.response.unwrap().unwrap();
        let outcome = response["reason"].as_str().or(response["outcome"].as_str()).unwrap_or("batch");
        found.insert(name, outcome.to_owned());
    }
    assert_eq!(found, outcomes.into_iter().map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect());
}
