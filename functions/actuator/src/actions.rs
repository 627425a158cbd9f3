//! The operator's document: which transition triggers which command.

use std::collections::HashSet;

use gatehouse::{
    AlarmState, DataState, MessageKind, Refusal, Severity, ThingName, ThingPattern, Validate, ValidationError,
};
use serde::Deserialize;

use crate::device_command::{DeviceCommand, not_null};
use crate::input::Transition;

/// The placeholder in [`Action::device`] for the thing that the transition is about.
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

/// A command that a device receives when an alarm of some thing enters a state.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The alarm: the name of its threshold or rule.
    pub alarm: String,
    /// The kind of message that triggers the action.
    #[serde(default)]
    pub kind: MessageKind,
    /// The state that the data enters; required for a transition.
    #[serde(default, deserialize_with = "not_null")]
    pub to: Option<DataState>,
    /// The alarm's severity, or its last one if it is over; required for the kind `severity`.
    #[serde(default, deserialize_with = "not_null")]
    pub severity: Option<Severity>,
    /// The alarm's state; required for the kind `state`.
    #[serde(default, deserialize_with = "not_null")]
    pub state: Option<AlarmState>,
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
    /// Whether a transition triggers the action. Fields that the action does not specify match any value, except for
    /// the kind, which is `transition` by default. A snoozed or disabled alarm triggers nothing.
    fn is_triggered_by(&self, transition: &Transition) -> bool {
        let Transition { id: _, threshold, thing, kind, to, severity, state, at: _ } = transition;
        self.alarm == *threshold
            && self.kind == *kind
            && (self.to.is_none() || self.to == *to)
            && (self.severity.is_none() || self.severity == *severity)
            && (self.state.is_none() || self.state == *state)
            && !state.is_some_and(AlarmState::is_silenced)
            && self.things.as_ref().is_none_or(|things| things.matches(thing))
    }

    /// Checks that the action specifies the field that its kind requires. Returns the invalid field, and why it is
    /// invalid.
    fn validate_trigger(&self) -> Result<(), (&'static str, &'static str)> {
        let Self { kind, to, severity, state, .. } = self;
        if state.is_some_and(AlarmState::is_silenced) {
            let why = "It must be NORMAL, ACTIVE, ACKNOWLEDGED or LATCHED: a silenced alarm commands nothing.";
            return Err((".state", why));
        }
        match kind {
            MessageKind::Transition if to.is_none() => {
                Err((".to", "It is required, unless `kind` is `severity` or `state`."))
            }
            MessageKind::Severity if severity.is_none() => {
                Err((".severity", "It is required if `kind` is `severity`."))
            }
            MessageKind::State if state.is_none() => Err((".state", "It is required if `kind` is `state`.")),
            MessageKind::Repeat => {
                Err((".kind", "It must be transition, severity or state: a reminder commands nothing."))
            }
            MessageKind::Transition | MessageKind::Severity | MessageKind::State => Ok(()),
        }
    }
}

impl Validate for Actions {
    const ENTRY_NAME: &'static str = "alarm";

    fn validate(&self) -> Result<(), ValidationError> {
        let mut triggers = HashSet::new();
        for (index, action) in self.actions.iter().enumerate() {
            let path = |field: &str| format!("actions[{index}]{field}");
            let Action { alarm, kind, to, severity, state, things, device, command } = action;
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if !(1..=MAX_ALARM_NAME).contains(&alarm.len()) || !alarm.bytes().all(allowed) {
                let why = format!("It must be 1 to {MAX_ALARM_NAME} of the characters a-z 0-9 -.");
                return Err(ValidationError::new(path(".alarm"), why));
            }
            action.validate_trigger().map_err(|(field, why)| ValidationError::new(path(field), why))?;
            if ThingName::new(device.replace(THING, "-")).is_err() {
                let why = "It must be 1 to 128 of the characters a-z A-Z 0-9 : _ -, and may contain {thing}.";
                return Err(ValidationError::new(path(".device"), why));
            }
            command.validate(&path(".command"))?;
            let things = things.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
            if !triggers.insert((alarm, *kind, *to, *severity, *state, things, device)) {
                let why = "An earlier action has the same alarm, states, severity, kind, things and device.";
                return Err(ValidationError::new(path(""), why));
            }
        }
        Ok(())
    }
}
