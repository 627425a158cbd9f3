//! The operator's document: which transition triggers which command.

use std::collections::HashSet;

use gatehouse::{Refusal, ThingName, ThingPattern, Validate, ValidationError};
use serde::Deserialize;

use crate::device_command::{DeviceCommand, not_null};
use crate::input::{AlarmState, Transition};

/// What [`Action::device`] contains for the thing that the transition is about.
const THING: &str = "{thing}";

/// The maximum length of a threshold's name.
const MAX_ALARM_NAME: usize = 64;

/// The document.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actions {
    /// All actions. If a transition triggers several for the same device, the first applies.
    #[serde(alias = "answers")]
    pub actions: Vec<Action>,
}

/// When an alarm enters a state for some thing, a device receives a command.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The alarm: the name of its threshold.
    pub alarm: String,
    /// The state that it enters.
    pub to: AlarmState,
    /// The things whose alarms trigger the action; all if `None`.
    #[serde(default, deserialize_with = "not_null")]
    pub things: Option<ThingPattern>,
    /// The thing that receives the command. `{thing}`, the default, is replaced by the thing that the transition is
    /// about.
    #[serde(default = "same_thing")]
    pub device: String,
    /// The command.
    pub command: DeviceCommand,
}

fn same_thing() -> String {
    THING.to_owned()
}

impl Actions {
    /// Returns the commands that a transition triggers, at most one per device.
    ///
    /// Refused with `bad-device` if the thing's name makes a device's name too long.
    pub fn commands_for(&self, transition: &Transition) -> Result<Vec<(ThingName, &DeviceCommand)>, Refusal> {
        let mut commands: Vec<(ThingName, &DeviceCommand)> = Vec::new();
        for action in self.actions.iter().filter(|action| action.is_triggered_by(transition)) {
            let device = ThingName::new(action.device.replace(THING, transition.thing.as_str())).map_err(|_| {
                Refusal::new("bad-device", "The name of the device to be commanded has more than 128 characters.")
            })?;
            if commands.iter().all(|(other, _)| *other != device) {
                commands.push((device, &action.command));
            }
        }
        Ok(commands)
    }
}

impl Action {
    fn is_triggered_by(&self, transition: &Transition) -> bool {
        let Transition { threshold, thing, to, .. } = transition;
        self.alarm == *threshold && self.to == *to && self.things.as_ref().is_none_or(|things| things.matches(thing))
    }
}

impl Validate for Actions {
    const ENTRY_NAME: &'static str = "alarm";

    fn validate(&self) -> Result<(), ValidationError> {
        let mut triggers = HashSet::new();
        for (index, action) in self.actions.iter().enumerate() {
            let path = |field: &str| format!("actions[{index}]{field}");
            let Action { alarm, to, things, device, command } = action;
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if !(1..=MAX_ALARM_NAME).contains(&alarm.len()) || !alarm.bytes().all(allowed) {
                let why = format!("It must be 1 to {MAX_ALARM_NAME} of the characters a-z 0-9 -.");
                return Err(ValidationError::new(path(".alarm"), why));
            }
            if ThingName::new(device.replace(THING, "-")).is_err() {
                let why = "It must be 1 to 128 of the characters a-z A-Z 0-9 : _ -, and may contain {thing}.";
                return Err(ValidationError::new(path(".device"), why));
            }
            command.validate(&path(".command"))?;
            let things = things.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
            if !triggers.insert((alarm, *to, things, device)) {
                let why = "An earlier action has the same alarm, state, things and device.";
                return Err(ValidationError::new(path(""), why));
            }
        }
        Ok(())
    }
}
