//! Deliveries, as AWS Lambda passes them to a function.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// An SQS record with this message id and body.
pub fn sqs_record(message_id: &str, body: &(impl ToString + ?Sized)) -> Value {
    json!({"messageId": message_id, "eventSource": "aws:sqs", "body": body.to_string(), "attributes": {}})
}

/// A batch that SQS delivers. The messages' ids are `m-0`, `m-1` and so on.
pub fn sqs_batch<B: ToString>(bodies: impl IntoIterator<Item = B>) -> Value {
    let record = |(index, body): (usize, B)| sqs_record(&format!("m-{index}"), &body);
    json!({"Records": bodies.into_iter().enumerate().map(record).collect::<Vec<_>>()})
}

/// A sample event: the JSON of `events/<path>`.
pub fn sample(path: &str) -> Value {
    let text = workspace_file(&format!("events/{path}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text of a file in the workspace.
pub fn workspace_file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
