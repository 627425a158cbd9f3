//! The decision: a threshold, a device's state and a reading of it (or no reading for long) make the next state, and
//! perhaps a change to tell of.
//!
//! ```text
//!        raise holds long enough              nothing for `stale`
//!   OK ──────────────────────────▶ ALARM     OK, ALARM ──────────▶ STALE
//!      ◀──────────────────────────           OK, ALARM ◀────────── STALE
//!        clear holds long enough              a reading
//! ```
//!
//! Time is the time of receipt. A reading beyond the limit begins a hold, or goes on with it; any other reading, one
//! that is equal to the limit too, ends it. When a hold has lasted for as long as the limit says, from its first
//! reading to this one, the state changes. Readings that lie further apart than that do not hold together: nobody knows
//! what was between them, and the hold begins anew at the later one.
//!
//! A device that was STALE returns, with its first reading, to the state that it had before, and holds begin anew with
//! that reading. (Where a hold is `0 s`, that reading is enough to change the state, and the device comes back into the
//! other one at once.)

use gatehouse::Timestamp;
use serde::{Deserialize, Serialize};

use crate::thresholds::Threshold;

/// The three states in which a device can be by a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// The value stayed beyond the limit that raises, and has not yet stayed beyond the one that clears.
    Alarm,
    /// Nothing to tell of.
    Ok,
    /// Nothing has come for too long.
    Stale,
}

impl Status {
    /// As messages and records have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Alarm => "ALARM",
            Self::Stale => "STALE",
        }
    }
}

/// Where a device stands by a threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State {
    /// Whether an alarm is on, or was on before nothing came any more.
    pub is_alarmed: bool,
    /// Whether nothing has come for too long.
    pub is_stale: bool,
    /// Since when the state is what it is.
    pub since: Timestamp,
    /// When the newest reading was received.
    pub seen_at: Timestamp,
    /// Its value.
    pub value: f64,
    /// When the first reading of the hold that is under way was received, if one is.
    pub hold_since: Option<Timestamp>,
}

/// One reading, as far as a threshold looks at it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// When it was received.
    pub at: Timestamp,
    /// The value in the threshold's field.
    pub value: f64,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The state before.
    pub from: Status,
    /// The state from now on.
    pub to: Status,
    /// Why.
    pub cause: Cause,
    /// When it happened: the time of receipt of the reading that decided it, or the moment at which silence had lasted
    /// too long.
    pub at: Timestamp,
    /// When that began which decided it: the hold, or the silence.
    pub since: Timestamp,
    /// The newest value.
    pub value: f64,
}

/// Why a state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A limit was passed for long enough.
    Held,
    /// Nothing came for too long.
    Silent,
    /// Something came again.
    Back,
}

/// What a reading makes of a state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// It is older than what has been decided by, and rewrites nothing.
    Older,
    /// The state from now on, and the change that this is, if it is one.
    Now(State, Option<Change>),
}

impl State {
    /// OK, or ALARM, or STALE.
    pub fn status(&self) -> Status {
        match (self.is_stale, self.is_alarmed) {
            (true, _) => Status::Stale,
            (false, true) => Status::Alarm,
            (false, false) => Status::Ok,
        }
    }

    /// A device that was never heard of until now.
    fn first(reading: Reading) -> Self {
        let Reading { at, value } = reading;
        Self { is_alarmed: false, is_stale: false, since: at, seen_at: at, value, hold_since: None }
    }
}

/// What this reading makes of this state; of none, where it is the first.
pub fn step(threshold: &Threshold, state: Option<State>, reading: Reading) -> Step {
    let Reading { at, value } = reading;
    let was = state.unwrap_or_else(|| State::first(reading));
    // That nothing came until a moment was told: what was received before it, and comes now, does not untell it.
    let decided_until = if was.is_stale { was.seen_at.max(was.since) } else { was.seen_at };
    if at < decided_until {
        return Step::Older;
    }
    let limit = if was.is_alarmed { &threshold.clear } else { &threshold.raise };
    let length = limit.held.duration();
    let goes_on = !was.is_stale && at.since(was.seen_at) <= length;
    let hold = limit.is_passed_by(value).then(|| was.hold_since.filter(|_| goes_on).unwrap_or(at));
    let held_since = hold.filter(|since| at.since(*since) >= length);
    let mut state = State {
        is_alarmed: was.is_alarmed != held_since.is_some(),
        is_stale: false,
        since: was.since,
        seen_at: at,
        value,
        hold_since: hold.filter(|_| held_since.is_none()),
    };
    let (from, to) = (was.status(), state.status());
    if from == to {
        return Step::Now(state, None);
    }
    state.since = at;
    let (cause, since) = held_since.map_or((Cause::Back, was.seen_at), |since| (Cause::Held, since));
    Step::Now(state, Some(Change { from, to, cause, at, since, value }))
}

/// The moment after which silence has lasted too long; `None` where it may last, and where it is told already.
pub fn silent_at(threshold: &Threshold, state: &State) -> Option<Timestamp> {
    threshold.stale.filter(|_| !state.is_stale).map(|stale| state.seen_at.plus(stale.duration()))
}

/// What silence until `now` makes of this state, if it has lasted too long.
pub fn silence(threshold: &Threshold, state: &State, now: Timestamp) -> Option<(State, Change)> {
    let at = silent_at(threshold, state).filter(|at| *at < now)?;
    let change = Change {
        from: state.status(),
        to: Status::Stale,
        cause: Cause::Silent,
        at,
        since: state.seen_at,
        value: state.value,
    };
    Some((State { is_stale: true, since: at, hold_since: None, ..*state }, change))
}
