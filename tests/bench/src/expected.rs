//! The expected effects of events.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{aws::Call, batch::Batch, event::QUARANTINE_TABLE, iot::UNKNOWN_CERTIFICATE};

/// The expected effect of an event.
#[derive(Debug)]
pub enum Expected {
    /// These calls, in order.
    Calls(Vec<ExpectedCall>),
    /// Every reading of the batch is stored, once.
    Stored(Batch),
    /// Every thing of the batch is evaluated against its threshold, and its state written once.
    Evaluated(Batch),
    /// Every message of the batch is sent to the destination, once.
    Forwarded(Batch),
}

/// An expected call, and texts that its body must contain.
#[derive(Debug)]
pub struct ExpectedCall {
    operation: &'static str,
    target: String,
    contains: Vec<String>,
}

impl ExpectedCall {
    /// Returns a call of this operation on a table, topic, queue, or AWS IoT resource.
    pub fn new(operation: &'static str, target: &str, contains: impl IntoIterator<Item = String>) -> Self {
        Self { operation, target: target.to_owned(), contains: contains.into_iter().collect() }
    }
}

/// An event of a benchmark and its expected effect.
#[derive(Debug)]
pub struct BenchEvent {
    /// The Lambda request id.
    pub request_id: String,
    /// The function's input.
    pub body: String,
    /// Whether it is an SQS batch.
    pub is_delivery: bool,
    /// The expected effect.
    pub expected: Expected,
}

impl BenchEvent {
    /// Ensures that the response and the calls are the expected ones. Calls that warm up connections may still be in
    /// flight and do not count.
    pub fn check(&self, response: &str, calls: &[Call]) -> Result<()> {
        let is_warm_up = |call: &&Call| {
            matches!(
                (call.operation.as_str(), call.target.as_str()),
                ("GetTopicAttributes" | "GetQueueAttributes", _)
                    | ("GetItem", QUARANTINE_TABLE)
                    | ("DescribeCertificate", UNKNOWN_CERTIFICATE)
            )
        };
        let calls: Vec<&Call> = calls.iter().filter(|call| !is_warm_up(call)).collect();
        if self.is_delivery {
            let response: Value = serde_json::from_str(response)?;
            ensure!(response == json!({ "batchItemFailures": [] }), "the response is {response}");
        }
        match &self.expected {
            Expected::Calls(expected) => ensure_calls(expected, &calls),
            Expected::Stored(batch) => batch.ensure_stored(&calls),
            Expected::Evaluated(batch) => batch.ensure_evaluated(&calls),
            Expected::Forwarded(batch) => batch.ensure_forwarded(&calls),
        }
    }
}

/// Ensures that the calls are the expected ones, in order, and no others.
fn ensure_calls(expected: &[ExpectedCall], calls: &[&Call]) -> Result<()> {
    let as_expected = calls.len() == expected.len()
        && calls.iter().zip(expected).all(|(call, expected)| {
            call.operation == expected.operation
                && call.target == expected.target
                && expected.contains.iter().all(|text| call.body.contains(text))
        });
    if as_expected {
        return Ok(());
    }
    let expected: Vec<String> =
        expected.iter().map(|call| format!("  {} {} {:?}\n", call.operation, call.target, call.contains)).collect();
    let actual: Vec<String> = calls
        .iter()
        .map(|call| format!("  {} {} {}\n", call.operation, call.target, call.body.escape_debug()))
        .collect();
    bail!("\nexpected calls:\n{}actual calls:\n{}", expected.concat(), actual.concat())
}
