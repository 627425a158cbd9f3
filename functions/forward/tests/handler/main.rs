//! The whole function except for the Lambda runtime: whatever fails on the way, each message finally arrives in its
//! queues or in quarantine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failing test panics")]

mod account;
mod destinations;
mod failures;
mod thousand;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use test_support::NOW;

use crate::account::{FIFO, QUEUE, assert_done, aws, bodies, deliver, event, hosts, quarantined, reading, reasons, to};

#[tokio::test(start_paused = true)]
async fn message_arrives_with_its_attributes() {
    let aws = aws().queue(QUEUE);
    let delivered = deliver(&aws, &to(QUEUE), &event("e-1", "station-1", 5, &json!({"celsius": 22.5})), NOW).await;
    assert_done(&delivered);
    assert_eq!(delivered.counts["Forwarded"], 1);
    let text = |value: &str| json!({"DataType": "String", "StringValue": value});
    let expected = json!({
        "Id": "0",
        "MessageBody": r#"{"celsius":22.5}"#,
        "MessageAttributes": {
            "topic": text("Weather/Corp/temperature"),
            "thing": text("station-1"),
            "traceId": text("e-1"),
            "receivedAt": {"DataType": "Number", "StringValue": "1763715600005"},
            "contentType": text("application/json"),
        },
    });
    assert_eq!(aws.state().queues[QUEUE].messages, [expected]);
}

#[tokio::test(start_paused = true)]
async fn fifo_message_has_the_thing_as_group_and_the_trace_id() {
    let aws = aws().queue(FIFO);
    for _ in 0..2 {
        assert_done(&deliver(&aws, &to(FIFO), &reading("e-1"), NOW).await);
    }
    let state = aws.state();
    let [message] = state.queues[FIFO].messages.as_slice() else { panic!("not one message") };
    assert_eq!((&message["MessageGroupId"], &message["MessageDeduplicationId"]), (&json!("station-1"), &json!("e-1")));
}

#[tokio::test(start_paused = true)]
async fn message_without_a_destination_is_refused() {
    let aws = aws().queue(QUEUE);
    let elsewhere = [("DESTINATION_QUEUE_URL", QUEUE), ("DESTINATION_TOPICS", "Weather/+/humidity")];
    for variables in [&[][..], &elsewhere] {
        let response = deliver(&aws, variables, &reading("e-1"), NOW).await.response.unwrap().unwrap();
        assert_eq!(response["reason"], "no-destination");
    }
    assert_eq!(quarantined(&aws), reasons([("e-1", "no-destination")]));
    assert_eq!(hosts(&aws), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn payload_other_than_json_is_sent_in_base64_or_refused() {
    let aws = aws().queue(QUEUE);
    let mut event = reading("e-1");
    event.as_object_mut().unwrap().remove("payload");
    event["payloadBase64"] = "/wA=".into();
    assert_eq!(deliver(&aws, &to(QUEUE), &event, NOW).await.response.unwrap().unwrap()["reason"], "not-json");
    let base64 = [("DESTINATION_QUEUE_URL", QUEUE), ("DESTINATION_BINARY", "base64")];
    assert_done(&deliver(&aws, &base64, &event, NOW).await);
    assert_eq!(bodies(&aws, QUEUE), ["/wA="]);
}

#[tokio::test(start_paused = true)]
async fn every_sample_has_the_outcome_that_its_name_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/forward");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let sample: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let aws = aws().queue(QUEUE);
        let response = deliver(&aws, &to(QUEUE), &sample, NOW).await.response.unwrap().unwrap();
        let outcome = match response["reason"].as_str().or(response["outcome"].as_str()) {
            Some(outcome) => outcome.to_owned(),
            None => response.to_string(),
        };
        found.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), outcome);
    }
    let expected = [
        ("bad-document", "bad-document"),
        ("bad-queue-url", "invalid-value"),
        ("bad-thing-name", "bad-thing-name"),
        ("destinations", "done"),
        ("empty", "empty-payload"),
        ("no-destination", "no-destination"),
        ("not-json", "not-json"),
        ("sqs-batch", r#"{"batchItemFailures":[]}"#),
        ("temperature", "done"),
        ("unknown-field", "unknown-field"),
        ("without-trace-id", "done"),
        ("wrong-type", "wrong-type"),
    ];
    assert_eq!(found, expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).into());
}
