//! An operator's action on an alarm.

use serde::Deserialize;
use serde_json::{Value, json};

/// An action on the alarm of the step's thing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OperatorAction {
    /// The kind of action.
    pub action: Action,
    /// The alarm's rule.
    pub rule: String,
    /// The operator's name.
    pub by: String,
    /// The operator's note.
    pub note: Option<String>,
    /// The duration of a snooze, such as `30 min`.
    #[serde(rename = "for")]
    pub duration: Option<String>,
}

/// An action of the function `alarm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Records that somebody takes care of the alarm.
    Acknowledge,
    /// Silences the alarm for a time.
    Snooze,
    /// Silences the alarm.
    Disable,
    /// Ends the silence.
    Enable,
    /// Sets the alarm to NORMAL.
    Reset,
}

impl Action {
    /// Returns the name of the command's field.
    pub fn field(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::Snooze => "snooze",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Reset => "reset",
        }
    }
}

impl OperatorAction {
    /// Returns the function's command for the alarm of this thing.
    pub fn command(&self, thing: &str) -> Value {
        let Self { action, rule, by, note, duration } = self;
        let fields = [
            ("thing", Some(thing)),
            ("rule", Some(rule)),
            ("by", Some(by)),
            ("note", note.as_deref()),
            ("for", duration.as_deref()),
        ];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
        json!({ action.field(): Value::Object(fields.collect()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_has_the_fields_that_are_given() {
        let action = json!({"action": "snooze", "rule": "too-bright", "by": "anna", "for": "30 min"});
        let action: OperatorAction = serde_json::from_value(action).expect("an action");
        let fields = json!({"thing": "house", "rule": "too-bright", "by": "anna", "for": "30 min"});
        assert_eq!(action.command("house"), json!({"snooze": fields}));
    }
}
