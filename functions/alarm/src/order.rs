//! What the function is asked to do beside holding readings against thresholds.

use gatehouse::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;

/// An order: exactly one of the two.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    thresholds: Option<Box<RawValue>>,
    check: Option<Check>,
}

/// What a schedule asks for.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Check {
    /// What is due: devices that have fallen silent, and notices that are still owed.
    Due,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Put this document of thresholds into force.
    Put(String),
    /// Look at what is due.
    Check,
}

impl Order {
    /// Refused with `bad-order` where it asks for both, or neither.
    pub fn read(&self) -> Result<Task, Refusal> {
        match (&self.thresholds, self.check) {
            // As it was written, so that what is wrong with it is where the reason says.
            (Some(thresholds), None) => Ok(Task::Put(format!(r#"{{"thresholds":{thresholds}}}"#))),
            (None, Some(Check::Due)) => Ok(Task::Check),
            _ => Err(Refusal::new("bad-order", "An order holds exactly one of `thresholds` and `check`.")),
        }
    }
}
