//! The commands that operators and the schedule send.

use gatehouse::{Refusal, Span, ThingName, Timestamp};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected};
use serde_json::value::RawValue;

use crate::alarm_state::{Action, ActionCommand, MAX_SNOOZE};
use crate::thresholds::not_null;

/// The maximum length, in characters, of the name of whoever performs an action, and of a note.
const MAX_BY_LENGTH: usize = 128;
const MAX_NOTE_LENGTH: usize = 500;

/// The fields of a command. They must make up exactly one command.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandFields {
    thresholds: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    version: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    groups: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    overrides: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    rules: Option<Box<RawValue>>,
    check: Option<Check>,
    #[serde(default, deserialize_with = "not_null")]
    acknowledge: Option<ActionFields>,
    #[serde(default, deserialize_with = "not_null")]
    snooze: Option<ActionFields>,
    #[serde(default, deserialize_with = "not_null")]
    disable: Option<ActionFields>,
    #[serde(default, deserialize_with = "not_null")]
    enable: Option<ActionFields>,
    #[serde(default, deserialize_with = "not_null")]
    reset: Option<ActionFields>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Check {
    Due,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionFields {
    #[serde(deserialize_with = "thing_name")]
    thing: ThingName,
    rule: String,
    by: String,
    #[serde(default, deserialize_with = "not_null")]
    note: Option<String>,
    #[serde(default, rename = "for", deserialize_with = "not_null")]
    duration: Option<Span>,
}

fn thing_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ThingName, D::Error> {
    const EXPECTED: &str = "1 to 128 of the characters a-z A-Z 0-9 : _ -";
    let text = String::deserialize(deserializer)?;
    ThingName::new(text.as_str()).map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlarmCommand {
    /// Put this document of thresholds into force.
    PutThresholds(String),
    /// Put this document of rules into force.
    PutRules(String),
    /// Check the records that are due.
    CheckDue,
    /// Perform an action on an alarm.
    Act(Box<ActionCommand>),
}

impl CommandFields {
    /// Returns the command that these fields make up, with this id and time. Refused with `bad-order` unless there is
    /// exactly one, and with `invalid-value`, `missing-field` or `unknown-field` if an action is invalid.
    pub fn command(&self, id: &str, at: Timestamp) -> Result<AlarmCommand, Refusal> {
        let mut commands = Vec::new();
        // Keeps a document's text as it was written, so that a refusal names the right place.
        if let Some(thresholds) = &self.thresholds {
            commands.push(Ok(AlarmCommand::PutThresholds(format!(r#"{{"thresholds":{thresholds}}}"#))));
        }
        let parts = [
            ("version", &self.version),
            ("groups", &self.groups),
            ("overrides", &self.overrides),
            ("rules", &self.rules),
        ];
        let parts = parts.into_iter().filter_map(|(name, part)| Some(format!(r#""{name}":{}"#, part.as_ref()?)));
        let parts: Vec<_> = parts.collect();
        if !parts.is_empty() {
            commands.push(Ok(AlarmCommand::PutRules(format!("{{{}}}", parts.join(",")))));
        }
        if let Some(Check::Due) = self.check {
            commands.push(Ok(AlarmCommand::CheckDue));
        }
        let actions = [
            (Action::Acknowledge, &self.acknowledge),
            (Action::Snooze, &self.snooze),
            (Action::Disable, &self.disable),
            (Action::Enable, &self.enable),
            (Action::Reset, &self.reset),
        ];
        for (action, fields) in actions {
            commands.extend(fields.as_ref().map(|fields| fields.command(action, id, at)));
        }
        let mut commands = commands.into_iter();
        match (commands.next(), commands.next()) {
            (Some(command), None) => command,
            _ => Err(Refusal::new(
                "bad-order",
                "A command must have exactly one of `thresholds`, `rules` with `version`, `check`, `acknowledge`, \
                 `snooze`, `disable`, `enable` and `reset`.",
            )),
        }
    }
}

impl ActionFields {
    fn command(&self, action: Action, id: &str, at: Timestamp) -> Result<AlarmCommand, Refusal> {
        let Self { thing, rule, by, note, duration } = self;
        let name = action.as_str();
        let has_length = |text: &str, max: usize| (1..=max).contains(&text.chars().count());
        if !has_length(by, MAX_BY_LENGTH) {
            let why = format!("Field `{name}.by` must have 1 to {MAX_BY_LENGTH} characters.");
            return Err(Refusal::new("invalid-value", why));
        }
        if note.as_ref().is_some_and(|note| !has_length(note, MAX_NOTE_LENGTH)) {
            let why = format!("Field `{name}.note` must have 1 to {MAX_NOTE_LENGTH} characters.");
            return Err(Refusal::new("invalid-value", why));
        }
        match (action, duration) {
            (Action::Snooze, None) => return Err(Refusal::new("missing-field", "Field `snooze.for` is missing.")),
            (Action::Snooze, Some(length)) if length.duration().is_zero() || length.duration() > MAX_SNOOZE => {
                let why = "Field `snooze.for` must be a duration from 1 s to 7 d.";
                return Err(Refusal::new("invalid-value", why));
            }
            (Action::Snooze, Some(_)) | (_, None) => {}
            (_, Some(_)) => {
                let why = format!("Field `{name}.for` is unknown; only a snooze has a duration.");
                return Err(Refusal::new("unknown-field", why));
            }
        }
        Ok(AlarmCommand::Act(Box::new(ActionCommand {
            id: id.to_owned(),
            action,
            thing: thing.clone(),
            rule: rule.clone(),
            by: by.clone(),
            note: note.clone(),
            duration: *duration,
            at,
        })))
    }
}
