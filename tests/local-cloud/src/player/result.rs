//! The result of a step.

use crate::observer::Effect;
use crate::scenario::{Expectation, Step};

/// The result of one message, connection, command, or shadow read or update.
#[derive(Debug, Clone)]
pub struct StepResult {
    /// The scenario's name.
    pub scenario: String,
    /// The index of the step.
    pub step: usize,
    /// The step's description, and which of its copies this is.
    pub what: String,
    /// The device.
    pub thing: String,
    /// The topic that it published on, or on which AWS IoT reported the connection.
    pub topic: Option<String>,
    /// The event id; `None` if AWS IoT denied the message.
    pub event_id: Option<String>,
    /// The rule that matched.
    pub rule: Option<String>,
    /// The function that the rule invoked.
    pub function: Option<String>,
    /// The observed effect.
    pub effect: Option<Effect>,
    /// Whether AWS IoT denied it and invoked no function.
    pub denied: bool,
    /// Milliseconds from publish to effect.
    pub millis: Option<u64>,
    /// The expected outcome.
    pub expected: Expectation,
    /// How the outcome differs from the expected one, if it does.
    pub problem: Option<String>,
}

impl StepResult {
    /// Returns a result without any outcome yet.
    pub(super) fn new(scenario: &str, index: usize, step: &Step) -> Self {
        Self {
            scenario: scenario.to_owned(),
            step: index,
            what: step.what.clone(),
            thing: step.thing.clone(),
            topic: None,
            event_id: None,
            rule: None,
            function: None,
            effect: None,
            denied: false,
            millis: None,
            expected: step.expect.clone(),
            problem: None,
        }
    }
}
