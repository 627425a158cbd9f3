//! The commands that operators and the schedule send.

use gatehouse::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The fields of a command. It must have exactly one of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandFields {
    thresholds: Option<Box<RawValue>>,
    check: Option<Check>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Check {
    Due,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlarmCommand {
    /// Put this document of thresholds into force.
    PutThresholds(String),
    /// Check the records that are due.
    CheckDue,
}

impl CommandFields {
    /// Returns the command; refused with `bad-order` unless there is exactly one field.
    pub fn command(&self) -> Result<AlarmCommand, Refusal> {
        match (&self.thresholds, self.check) {
            // Its text stays as it was written, so that a refusal names the right place.
            (Some(thresholds), None) => Ok(AlarmCommand::PutThresholds(format!(r#"{{"thresholds":{thresholds}}}"#))),
            (None, Some(Check::Due)) => Ok(AlarmCommand::CheckDue),
            _ => Err(Refusal::new(
                "bad-order",
                "A command must have exactly one of the fields `thresholds` and `check`.",
            )),
        }
    }
}
