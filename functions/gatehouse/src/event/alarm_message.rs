//! The vocabulary of alarm messages, which `alarm` publishes, and `actuator` and operators read.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// What a message reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageKind {
    /// The state of the data has changed. The default for a message that names no kind.
    #[default]
    Transition,
    /// The alarm has become more severe, or less.
    Severity,
    /// A person has changed the state of the alarm, or a snooze has ended.
    State,
    /// Nothing has changed since an earlier message: a reminder for people, which commands no device.
    Repeat,
}

/// The state of a device's data according to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataState {
    /// A severity's `raise` condition was met for long enough, and its `clear` condition has not been met since.
    Alarm,
    /// The data is current, and no severity is raised.
    Ok,
    /// No data for too long.
    Stale,
    /// There is no state any more: the device was not OK when the rule's definition was changed or removed. Whatever
    /// follows is a new state.
    Closed,
}

/// The state of an alarm as people work with it, as opposed to the state of the data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AlarmState {
    /// There is nothing to do.
    #[default]
    Normal,
    /// The condition is met, and nobody has acknowledged it.
    Active,
    /// The condition is met, and somebody has acknowledged it.
    Acknowledged,
    /// The condition is over, and nobody has acknowledged it.
    Latched,
    /// Notifies nobody for a time.
    SnoozeDisabled,
    /// Notifies nobody.
    Disabled,
}

/// How severe an alarm is. More severe is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information.
    Info,
    /// A warning.
    Warning,
    /// A minor alarm.
    Minor,
    /// A major alarm. Thresholds of version 1 raise it.
    Major,
    /// A critical alarm.
    Critical,
}

impl MessageKind {
    /// Its name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Severity => "severity",
            Self::State => "state",
            Self::Repeat => "repeat",
        }
    }
}

impl DataState {
    /// Its name in messages and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Alarm => "ALARM",
            Self::Stale => "STALE",
            Self::Closed => "CLOSED",
        }
    }
}

impl AlarmState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Normal, Self::Active, Self::Acknowledged, Self::Latched, Self::SnoozeDisabled, Self::Disabled];

    /// Its name in messages and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Active => "ACTIVE",
            Self::Acknowledged => "ACKNOWLEDGED",
            Self::Latched => "LATCHED",
            Self::SnoozeDisabled => "SNOOZE_DISABLED",
            Self::Disabled => "DISABLED",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether nobody is notified.
    pub fn is_silenced(self) -> bool {
        matches!(self, Self::SnoozeDisabled | Self::Disabled)
    }
}

impl Severity {
    /// All of them, most severe first.
    pub const ALL: [Self; 5] = [Self::Critical, Self::Major, Self::Minor, Self::Warning, Self::Info];

    /// Its name in documents, messages and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Major => "major",
            Self::Minor => "minor",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }

    /// The severity of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == name)
    }
}

impl Display for DataState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Display for AlarmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
