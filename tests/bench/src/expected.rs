//! The expected effects of events.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{aws::Call, batch::Batch, event::QUARANTINE_TABLE, iot::UNKNOWN_CERTIFICATE};

/// The expected effect of an event.
#[derive(Debug)]
pub enum Expected {
    /// These calls, in order.
    Calls(Vec<ExpectedCall>),
    /// These calls, in any order.
    Unordered(Vec<ExpectedCall>),
    /// Every reading of the batch is stored, once.
    Stored(Batch),
    /// Every thing of the batch is evaluated against its thresholds, and its state is written once.
    Evaluated(Batch),
    /// Every message of the batch is sent to the destination, once.
    Forwarded(Batch),
}

/// An expected call and the texts that its body must contain.
#[derive(Debug)]
pub struct ExpectedCall {
    operation: &'static str,
    target: String,
    contains: Vec<String>,
}

impl ExpectedCall {
    /// Returns a call of this operation on a table, topic, queue, or AWS IoT resource. Its body contains these texts.
    pub fn new(operation: &'static str, target: &str, contains: impl IntoIterator<Item = String>) -> Self {
        Self { operation, target: target.to_owned(), contains: contains.into_iter().collect() }
    }

    fn matches(&self, call: &Call) -> bool {
        call.operation == self.operation
            && call.target == self.target
            && self.contains.iter().all(|text| call.body.contains(text))
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
                ("GetTopicAttributes" | "GetQueueAttributes" | "GetThingShadow", _)
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
            Expected::Unordered(expected) => ensure_unordered(expected, &calls),
            Expected::Stored(batch) => batch.ensure_stored(&calls),
            Expected::Evaluated(batch) => batch.ensure_evaluated(&calls),
            Expected::Forwarded(batch) => batch.ensure_forwarded(&calls),
        }
    }
}

/// Ensures that the calls are the expected ones, in order, and no others.
fn ensure_calls(expected: &[ExpectedCall], calls: &[&Call]) -> Result<()> {
    let as_expected = calls.len() == expected.len() && calls.iter().zip(expected).all(|(call, it)| it.matches(call));
    ensure!(as_expected, "{}", difference(expected, calls));
    Ok(())
}

/// Ensures that the calls are the expected ones, in any order, and no others.
fn ensure_unordered(expected: &[ExpectedCall], calls: &[&Call]) -> Result<()> {
    let mut missing: Vec<&ExpectedCall> = expected.iter().collect();
    for call in calls {
        let found = missing.iter().position(|it| it.matches(call));
        missing.swap_remove(found.with_context(|| difference(expected, calls))?);
    }
    ensure!(missing.is_empty(), "{}", difference(expected, calls));
    Ok(())
}

fn difference(expected: &[ExpectedCall], calls: &[&Call]) -> String {
    let expected: Vec<String> =
        expected.iter().map(|call| format!("  {} {} {:?}\n", call.operation, call.target, call.contains)).collect();
    let actual: Vec<String> = calls
        .iter()
        .map(|call| format!("  {} {} {}\n", call.operation, call.target, call.body.escape_debug()))
        .collect();
    format!("\nexpected calls:\n{}actual calls:\n{}", expected.concat(), actual.concat())
}
