//! The decision: a threshold, a device's status and a new value (or none for too long) give the next status, and
//! perhaps a state change.
//!
//! ```text
//!        `raise` is sustained                     no data for `stale`
//!   OK ──────────────────────────▶ ALARM     OK, ALARM ──────────▶ STALE
//!      ◀──────────────────────────           OK, ALARM ◀────────── STALE
//!        `clear` is sustained                     a value
//! ```
//!
//! A value beyond the limit starts the condition, or continues it. Any other value ends it, also one that equals the
//! limit. Once the condition has been sustained for the limit's duration, from its first value to this one, the state
//! changes. Two values further apart than that duration do not sustain a condition, because what was between them is
//! unknown: the condition starts over at the later one.
//!
//! A STALE device returns to its previous state with its first value, and conditions start over with that value. (If
//! the duration is `0 s`, that value alone can change the state, and the device returns to the other one.)

use gatehouse::{Number, Timestamp};
use serde::{Deserialize, Serialize};

use crate::thresholds::Threshold;

/// The state of a device by a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AlarmState {
    /// The value was beyond the limit of `raise` for long enough, and since then not beyond that of `clear`.
    Alarm,
    /// Neither of the others.
    Ok,
    /// No data for too long.
    Stale,
    /// None any more: the threshold's definition, by which the device was in another state than OK, was changed or
    /// removed. What follows is a new state.
    Closed,
}

impl AlarmState {
    /// The state's name in messages and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Alarm => "ALARM",
            Self::Stale => "STALE",
            Self::Closed => "CLOSED",
        }
    }
}

/// A device's state by a threshold, with what the next decision depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct AlarmStatus {
    /// Whether the device is in alarm, or was before it became stale.
    pub is_alarmed: bool,
    /// Whether there has been no data for too long.
    pub is_stale: bool,
    /// When the state last changed.
    pub since: Timestamp,
    /// When the newest value was received.
    pub seen_at: Timestamp,
    /// The newest value.
    pub value: Number,
    /// When the first value of the current condition was received, if there is one.
    pub condition_since: Option<Timestamp>,
}

/// A change of state.
#[derive(Debug, Clone, PartialEq)]
pub struct StateChange {
    /// The previous state.
    pub from: AlarmState,
    /// The new state.
    pub to: AlarmState,
    /// The cause.
    pub cause: Cause,
    /// When it happened: when the deciding value was received, or the device became stale.
    pub at: Timestamp,
    /// When the deciding condition began, or when the last value before the gap was received.
    pub since: Timestamp,
    /// The newest value.
    pub value: Number,
}

/// Why a state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The condition was sustained for long enough.
    Sustained,
    /// There was no data for too long.
    NoData,
    /// There is data again.
    DataResumed,
}

/// The effect of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// None: the value was received before the latest decision.
    OutOfOrder,
    /// The next status, and the state change if there is one.
    Next(AlarmStatus, Option<StateChange>),
}

impl AlarmStatus {
    /// OK, ALARM or STALE.
    pub fn state(&self) -> AlarmState {
        match (self.is_stale, self.is_alarmed) {
            (true, _) => AlarmState::Stale,
            (false, true) => AlarmState::Alarm,
            (false, false) => AlarmState::Ok,
        }
    }

    /// Until when it is decided: an earlier value changes nothing. People were notified that there was no data until
    /// `since`, and an earlier value does not retract that.
    pub fn decided_until(&self) -> Timestamp {
        if self.is_stale { self.seen_at.max(self.since) } else { self.seen_at }
    }

    /// The status of a device before its first value.
    fn initial(at: Timestamp, value: Number) -> Self {
        Self { is_alarmed: false, is_stale: false, since: at, seen_at: at, value, condition_since: None }
    }
}

/// Applies a value that was received at `at` to a status; `None` if it is the device's first.
pub fn apply(threshold: &Threshold, status: Option<&AlarmStatus>, at: Timestamp, value: &Number) -> Step {
    let initial;
    let old = if let Some(status) = status {
        status
    } else {
        initial = AlarmStatus::initial(at, value.clone());
        &initial
    };
    if at < old.decided_until() {
        return Step::OutOfOrder;
    }
    let limit = if old.is_alarmed { &threshold.clear } else { &threshold.raise };
    let duration = limit.for_duration.duration();
    let continues = !old.is_stale && at.since(old.seen_at) <= duration;
    let condition_since = limit.is_exceeded_by(value).then(|| old.condition_since.filter(|_| continues).unwrap_or(at));
    let sustained_since = condition_since.filter(|since| at.since(*since) >= duration);
    let mut new = AlarmStatus {
        is_alarmed: old.is_alarmed != sustained_since.is_some(),
        is_stale: false,
        since: old.since,
        seen_at: at,
        value: value.clone(),
        condition_since: condition_since.filter(|_| sustained_since.is_none()),
    };
    let (from, to) = (old.state(), new.state());
    if from == to {
        return Step::Next(new, None);
    }
    new.since = at;
    let (cause, since) = sustained_since.map_or((Cause::DataResumed, old.seen_at), |since| (Cause::Sustained, since));
    Step::Next(new, Some(StateChange { from, to, cause, at, since, value: value.clone() }))
}

/// When the device becomes stale unless there is data; `None` if the threshold allows any gap, or it is stale already.
pub fn stale_at(threshold: &Threshold, status: &AlarmStatus) -> Option<Timestamp> {
    threshold.stale.filter(|_| !status.is_stale).map(|stale| status.seen_at.plus(stale.duration()))
}

/// Returns the status and the change of a device that has become stale by `now`.
pub fn check_stale(threshold: &Threshold, status: &AlarmStatus, now: Timestamp) -> Option<(AlarmStatus, StateChange)> {
    let at = stale_at(threshold, status).filter(|at| *at < now)?;
    let change = StateChange {
        from: status.state(),
        to: AlarmState::Stale,
        cause: Cause::NoData,
        at,
        since: status.seen_at,
        value: status.value.clone(),
    };
    Some((AlarmStatus { is_stale: true, since: at, condition_since: None, ..status.clone() }, change))
}
