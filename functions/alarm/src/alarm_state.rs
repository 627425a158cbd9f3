//! The state of an alarm as people work with it, as opposed to the state of the data.
//!
//! ```text
//!            ALARM begins            ACKNOWLEDGE
//!   NORMAL ───────────────▶ ACTIVE ───────────────▶ ACKNOWLEDGED      all but DISABLED ── SNOOZE ──▶ SNOOZE_DISABLED
//!     ▲                       │ ▲                       │             any ── DISABLE ─▶ DISABLED
//!     │◀── clears, or RESET ──┤ └── a higher severity ──┤             both ── ENABLE, or the snooze ends ──▶
//!     │◀──────────────────────┼── clears, or RESET ─────┘                     the state of the data
//!     │                       ▼ clears, if the rule latches
//!     └── ACKNOWLEDGE, RESET ── LATCHED ── ALARM begins ──▶ ACTIVE
//! ```

use std::time::Duration;

use gatehouse::{AlarmState, Refusal, Span, ThingName, Timestamp};
use serde::{Deserialize, Serialize};

/// The maximum duration of a snooze.
pub const MAX_SNOOZE: Duration = Duration::from_hours(24 * 7);

/// The number of commands that are remembered, so that one that is delivered again changes nothing.
const MAX_COMMANDS: usize = 10;

/// What a person does with an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Says that somebody is taking care of the alarm.
    Acknowledge,
    /// Suppresses notifications for a duration.
    Snooze,
    /// Suppresses notifications until the alarm is enabled.
    Disable,
    /// Ends a snooze, or enables a disabled alarm.
    Enable,
    /// Ends the alarm until the condition is raised again.
    Reset,
}

/// An action on one alarm, with who performed it and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionCommand {
    /// The id of the command.
    pub id: String,
    /// The action.
    pub action: Action,
    /// The thing.
    pub thing: ThingName,
    /// The rule's name.
    pub rule: String,
    /// Who performs it.
    pub by: String,
    /// Why.
    pub note: Option<String>,
    /// The duration of a snooze.
    pub duration: Option<Span>,
    /// When the command was given.
    pub at: Timestamp,
}

/// The state of one alarm, with who changed it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Handling {
    /// The state.
    pub state: AlarmState,
    /// Since when.
    pub since: Timestamp,
    /// Who changed it; `None` if the data did.
    pub by: Option<String>,
    /// Why.
    pub note: Option<String>,
    /// When the snooze ends.
    pub snoozed_until: Option<Timestamp>,
    /// The action that led to the state; `None` if the data did.
    pub action: Option<Action>,
    /// The ids of the last commands.
    pub commands: Vec<String>,
}

/// The severity level before and after a decision by the data, as an index into the rule's levels: lower is more
/// severe. `None` if the alarm is off.
pub type Levels = (Option<usize>, Option<usize>);

/// Returns the state that the data alone would give an alarm.
pub fn of_data(level: Option<usize>) -> AlarmState {
    if level.is_some() { AlarmState::Active } else { AlarmState::Normal }
}

/// Returns the state after the data has changed the severity.
pub fn after_data(state: AlarmState, (before, now): Levels, latch: bool) -> AlarmState {
    // A higher severity counts as a new alarm, even after a reset or an acknowledgment.
    let is_raised = match (before, now) {
        (Some(before), Some(now)) => now < before,
        (None, now) => now.is_some(),
        (Some(_), None) => false,
    };
    match state {
        AlarmState::SnoozeDisabled | AlarmState::Disabled => state,
        _ if is_raised => AlarmState::Active,
        AlarmState::Active if now.is_none() => {
            if latch {
                AlarmState::Latched
            } else {
                AlarmState::Normal
            }
        }
        AlarmState::Acknowledged if now.is_none() => AlarmState::Normal,
        AlarmState::Normal | AlarmState::Active | AlarmState::Acknowledged | AlarmState::Latched => state,
    }
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Acknowledge, Self::Snooze, Self::Disable, Self::Enable, Self::Reset];

    /// Its name in commands and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::Snooze => "snooze",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Reset => "reset",
        }
    }

    /// The action of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    /// The action in the past tense, for people.
    pub fn past(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledged",
            Self::Snooze => "snoozed",
            Self::Disable => "disabled",
            Self::Enable => "enabled",
            Self::Reset => "reset",
        }
    }
}

impl Handling {
    /// Enters a state because of the data or the end of a snooze, not because of a person.
    pub fn enter(&mut self, state: AlarmState, at: Timestamp) {
        if state != self.state {
            (self.state, self.since) = (state, at);
            (self.by, self.note, self.snoozed_until, self.action) = (None, None, None, None);
        }
    }

    /// When the snooze ended, if it has ended by `now`.
    pub fn snooze_ended(&self, now: Timestamp) -> Option<Timestamp> {
        self.snoozed_until.filter(|until| self.state == AlarmState::SnoozeDisabled && *until <= now)
    }

    /// Performs an action on an alarm with this severity level, and remembers the command. Returns the previous state,
    /// or `None` if the action changed nothing. Refused with `invalid-action` if the state does not allow the action.
    pub fn perform(&mut self, command: &ActionCommand, level: Option<usize>) -> Result<Option<AlarmState>, Refusal> {
        if self.commands.contains(&command.id) {
            return Ok(None);
        }
        let until = command.duration.map(|length| command.at.plus(length.duration()));
        let Some(next) = self.next(command.action, until, level) else {
            let ActionCommand { action, thing, rule, .. } = command;
            let (state, past) = (self.state, action.past());
            let why = format!("Alarm `{rule}` of {thing} is {state}, so it cannot be {past}.");
            return Err(Refusal::new("invalid-action", why));
        };
        // Even if it has no effect now: delivered again, it must not undo a later command.
        self.commands.push(command.id.clone());
        let excess = self.commands.len().saturating_sub(MAX_COMMANDS);
        self.commands.drain(..excess);
        if next == self.state && (command.action != Action::Snooze || self.snoozed_until == until) {
            return Ok(None);
        }
        let previous = self.state;
        if next != previous {
            (self.state, self.since) = (next, command.at);
        }
        (self.by, self.note, self.action) = (Some(command.by.clone()), command.note.clone(), Some(command.action));
        self.snoozed_until = until.filter(|_| next == AlarmState::SnoozeDisabled);
        Ok(Some(previous))
    }

    /// Returns the state after an action, which may be the same; `None` if the state does not allow the action.
    fn next(&self, action: Action, until: Option<Timestamp>, level: Option<usize>) -> Option<AlarmState> {
        use AlarmState::{Acknowledged, Active, Disabled, Latched, Normal, SnoozeDisabled};
        match (action, self.state) {
            (Action::Acknowledge, Active | Acknowledged) => Some(Acknowledged),
            // Repeats the acknowledgment of a latched alarm.
            (Action::Acknowledge, Normal) => (self.action == Some(Action::Acknowledge)).then_some(Normal),
            (Action::Acknowledge | Action::Reset, Latched) | (Action::Reset, Normal | Active | Acknowledged) => {
                Some(Normal)
            }
            (Action::Snooze, Disabled) | (Action::Acknowledge | Action::Reset, SnoozeDisabled | Disabled) => None,
            (Action::Snooze, _) => until.map(|_| SnoozeDisabled),
            (Action::Disable, _) => Some(Disabled),
            (Action::Enable, SnoozeDisabled | Disabled) => Some(of_data(level)),
            (Action::Enable, state) => Some(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AlarmState::{Acknowledged, Active, Disabled, Latched, Normal, SnoozeDisabled};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn command(action: Action, id: &str, seconds: u64) -> ActionCommand {
        ActionCommand {
            id: id.to_owned(),
            action,
            thing: ThingName::new("boiler-1").expect("a name"),
            rule: "too-hot".to_owned(),
            by: "anna".to_owned(),
            note: None,
            duration: (action == Action::Snooze).then(|| Span::from_secs(60)),
            at: at(seconds),
        }
    }

    /// The state after an action on an alarm in this state; `Err` if the action is refused.
    fn result(state: AlarmState, action: Action, level: Option<usize>) -> Result<AlarmState, String> {
        let mut handling = Handling { state, since: at(1), ..Handling::default() };
        let before = handling.clone();
        let done = handling.perform(&command(action, "c-1", 10), level).map_err(|refusal| refusal.why.into_owned())?;
        if done.is_none() {
            let after = Handling { commands: Vec::new(), ..handling.clone() };
            assert_eq!(after, before, "only the command is remembered");
        }
        Ok(handling.state)
    }

    #[test]
    fn actions_follow_the_table() {
        use Action::{Acknowledge, Disable, Enable, Reset, Snooze};
        for (state, expected) in [
            (Normal, [None, Some(SnoozeDisabled), Some(Disabled), Some(Normal), Some(Normal)]),
            (Active, [Some(Acknowledged), Some(SnoozeDisabled), Some(Disabled), Some(Active), Some(Normal)]),
            (
                Acknowledged,
                [Some(Acknowledged), Some(SnoozeDisabled), Some(Disabled), Some(Acknowledged), Some(Normal)],
            ),
            (Latched, [Some(Normal), Some(SnoozeDisabled), Some(Disabled), Some(Latched), Some(Normal)]),
            (SnoozeDisabled, [None, Some(SnoozeDisabled), Some(Disabled), Some(Active), None]),
            (Disabled, [None, None, Some(Disabled), Some(Active), None]),
        ] {
            for (action, expected) in [Acknowledge, Snooze, Disable, Enable, Reset].into_iter().zip(expected) {
                assert_eq!(result(state, action, Some(0)).ok(), expected, "{action:?} in {state}");
            }
        }
        assert_eq!(result(Disabled, Enable, None), Ok(Normal));
        let why = "Alarm `too-hot` of boiler-1 is SNOOZE_DISABLED, so it cannot be reset.";
        assert_eq!(result(SnoozeDisabled, Reset, None), Err(why.to_owned()));
    }

    #[test]
    fn data_follows_the_table() {
        for (state, levels, latch, expected) in [
            (Normal, (None, Some(1)), false, Active),
            (Normal, (Some(1), Some(0)), false, Active),
            (Normal, (Some(0), Some(1)), false, Normal),
            (Normal, (Some(0), None), true, Normal),
            (Active, (Some(0), Some(1)), false, Active),
            (Active, (Some(0), None), false, Normal),
            (Active, (Some(0), None), true, Latched),
            (Acknowledged, (Some(1), Some(0)), false, Active),
            (Acknowledged, (Some(0), Some(1)), false, Acknowledged),
            (Acknowledged, (Some(0), None), true, Normal),
            (Latched, (None, Some(1)), true, Active),
            (SnoozeDisabled, (None, Some(0)), false, SnoozeDisabled),
            (Disabled, (Some(0), None), true, Disabled),
        ] {
            assert_eq!(after_data(state, levels, latch), expected, "{state} with {levels:?}");
        }
    }

    #[test]
    fn repeated_commands_change_nothing() {
        let mut handling = Handling { state: Latched, since: at(1), ..Handling::default() };
        let acknowledge = command(Action::Acknowledge, "c-1", 10);
        assert_eq!(handling.perform(&acknowledge, None), Ok(Some(Latched)));
        let after = handling.clone();
        assert_eq!(handling.perform(&acknowledge, None), Ok(None));
        assert_eq!(handling, after);
        assert_eq!(handling.perform(&command(Action::Acknowledge, "c-2", 11), None), Ok(None), "given a second time");
        assert_eq!(Handling { commands: after.commands.clone(), ..handling.clone() }, after);
        // Later commands do not make an earlier one new.
        assert_eq!(handling.perform(&command(Action::Disable, "c-3", 12), None), Ok(Some(Normal)));
        assert_eq!(handling.perform(&command(Action::Enable, "c-4", 13), None), Ok(Some(Disabled)));
        assert_eq!(handling.perform(&command(Action::Disable, "c-3", 12), None), Ok(None));
        assert_eq!(handling.state, Normal);
    }

    #[test]
    fn late_repeat_of_a_command_without_effect_changes_nothing() {
        let mut handling = Handling::default();
        let enable = command(Action::Enable, "c-1", 10);
        assert_eq!(handling.perform(&enable, None), Ok(None));
        assert_eq!(handling.perform(&command(Action::Disable, "c-2", 11), None), Ok(Some(Normal)));
        assert_eq!(handling.perform(&enable, None), Ok(None));
        assert_eq!(handling.state, Disabled);
    }

    #[test]
    fn snooze_ends_at_its_time_and_may_be_changed() {
        let mut handling = Handling::default();
        assert_eq!(handling.perform(&command(Action::Snooze, "c-1", 10), None), Ok(Some(Normal)));
        assert_eq!((handling.snooze_ended(at(69)), handling.snooze_ended(at(70))), (None, Some(at(70))));
        assert_eq!(handling.perform(&command(Action::Snooze, "c-2", 20), None), Ok(Some(SnoozeDisabled)));
        assert_eq!((handling.since, handling.snoozed_until), (at(10), Some(at(80))));
        handling.enter(Active, at(80));
        assert_eq!((handling.by, handling.snoozed_until), (None, None));
    }
}
