//! The state of a device's data: a rule, a device's status, and a new reading (or none for too long) determine the next
//! status, and perhaps a state change.
//!
//! ```text
//!        `raise` is sustained                     no data for `stale`
//!   OK ──────────────────────────▶ ALARM     OK, ALARM ──────────▶ STALE
//!      ◀──────────────────────────           OK, ALARM ◀────────── STALE
//!        `clear` is sustained                     a reading
//! ```
//!
//! Each severity of a rule is on or off independently, by its own conditions. The state is ALARM while any of them is
//! on, with the most severe one as the alarm's severity.
//!
//! A reading that meets the condition starts or continues it. Any other reading ends it. Once the condition has been
//! sustained for its duration, from its first reading to the current one, the severity changes. Two readings further
//! apart than that duration do not sustain a condition, because the values between them are unknown: the condition
//! starts over at the later one. A condition with a count is met once `n` of the last `of` readings met it.
//!
//! A reading for which a condition is unknown, because a field is missing, neither meets nor ends it. A reading for
//! which every condition of the rule is unknown does not count as data.
//!
//! A STALE device returns to its previous state with its first reading, and conditions start over with that reading.
//! (If the duration is `0 s`, that reading alone can change the state, so that the device returns to the other state.)

use gatehouse::{DataState, Severity, Timestamp};

use crate::rules::operand::OperandState;
use crate::rules::rule::Sustained;
use crate::rules::{Hold, ThingRule, Value};

/// A device's state under a rule, with everything that the next decision depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct AlarmStatus {
    /// The rule's severities, in the rule's order.
    pub levels: Vec<LevelStatus>,
    /// The state of each operand of the rule, computed from earlier readings.
    pub operands: Vec<OperandState>,
    /// Whether there has been no data for too long.
    pub is_stale: bool,
    /// Whether there has never been data.
    pub is_unseen: bool,
    /// When the state last changed.
    pub since: Timestamp,
    /// When the newest reading was received.
    pub seen_at: Timestamp,
    /// The newest value of the rule's first field.
    pub value: Value,
}

/// One severity of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LevelStatus {
    /// Whether the device has it, or had it before it became stale.
    pub is_on: bool,
    /// The condition that would change that, if it has begun.
    pub condition: Option<ConditionStatus>,
}

/// A condition that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConditionStatus {
    /// When its first reading was received.
    pub since: Timestamp,
    /// When its newest reading was received.
    pub until: Timestamp,
    /// Which of the newest readings met it, the newest one in the lowest bit; zero unless readings are counted.
    pub met: u32,
}

/// A change of state, or of the alarm's severity.
#[derive(Debug, Clone, PartialEq)]
pub struct StateChange {
    /// The previous state.
    pub from: DataState,
    /// The new state.
    pub to: DataState,
    /// The previous severity; `None` if the alarm was off.
    pub previous_level: Option<usize>,
    /// The new severity; `None` if the alarm is off.
    pub level: Option<usize>,
    /// The cause.
    pub cause: Cause,
    /// When it happened: when the deciding reading was received, or the device became stale.
    pub at: Timestamp,
    /// When the deciding condition began, or when the last reading before the gap was received.
    pub since: Timestamp,
    /// The newest value.
    pub value: Value,
}

/// Why a state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The condition was sustained for long enough.
    Sustained,
    /// There was no data for too long.
    NoData,
    /// There has never been data.
    NeverReported,
    /// There is data again, or for the first time.
    DataResumed {
        /// Whether it is the first time.
        is_first: bool,
    },
}

/// The effect of a reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// None: the reading was received before the latest decision.
    OutOfOrder,
    /// None: every condition is unknown.
    Undecided,
    /// There is a next status, and perhaps a state change.
    Next(Option<StateChange>),
}

impl AlarmStatus {
    /// OK, ALARM or STALE.
    pub fn state(&self) -> DataState {
        match (self.is_stale, self.level()) {
            (true, _) => DataState::Stale,
            (false, Some(_)) => DataState::Alarm,
            (false, None) => DataState::Ok,
        }
    }

    /// The most severe level that is on, or was before the device became stale.
    pub fn level(&self) -> Option<usize> {
        self.levels.iter().position(|level| level.is_on)
    }

    /// The severity of that level.
    pub fn severity(&self, rule: &ThingRule) -> Option<Severity> {
        severity_of(rule, self.level())
    }

    /// The time of the latest decision. Earlier readings change nothing. This includes `since` of a stale device:
    /// people were notified that there was no data until then, and a late reading does not retract that.
    pub fn decided_until(&self) -> Timestamp {
        if self.is_stale { self.seen_at.max(self.since) } else { self.seen_at }
    }

    /// The status of a device before its first reading.
    fn initial(rule: &ThingRule, at: Timestamp) -> Self {
        Self {
            levels: vec![LevelStatus::default(); rule.levels.len()],
            operands: vec![OperandState::default(); rule.operands.len()],
            is_stale: false,
            is_unseen: false,
            since: at,
            seen_at: at,
            value: Value::Missing,
        }
    }
}

/// Returns the severity of a level of this rule.
pub fn severity_of(rule: &ThingRule, level: Option<usize>) -> Option<Severity> {
    level.and_then(|level| rule.levels.get(level)).map(|level| level.severity)
}

/// Applies a reading that was received at `at`, with these values of the thing's fields, to a status, which is `None`
/// before the device's first reading.
pub fn apply(rule: &ThingRule, status: &mut Option<AlarmStatus>, at: Timestamp, values: &[Value]) -> Step {
    if status.as_ref().is_some_and(|status| at < status.decided_until()) {
        return Step::OutOfOrder;
    }
    let is_new = status.is_none();
    let current = status.get_or_insert_with(|| AlarmStatus::initial(rule, at));
    let operands = add_to_operands(rule, current, at, values);
    let context = rule.context(values, &operands);
    let evaluate = |sustained: &Sustained| sustained.when.evaluate(&context);
    let mut is_data = has_operand(rule, values);
    let (previous_level, from, seen_at) = (current.level(), current.state(), current.seen_at);
    // When the condition began that turned the most severe of the new levels on, and the one that turned the previous
    // level off.
    let (mut begun, mut ended) = (None, None);
    for (index, (level, status)) in rule.levels.iter().zip(&mut current.levels).enumerate() {
        let sustained = if status.is_on { &level.clear } else { &level.raise };
        let met = evaluate(sustained);
        is_data |= met.is_some();
        let since = met.and_then(|met| status.advance(sustained.hold, met, at));
        let Some(since) = since else { continue };
        status.is_on = !status.is_on;
        if status.is_on {
            begun = begun.or(Some((index, since)));
        } else if previous_level == Some(index) {
            ended = Some(since);
        }
    }
    // Conditions in the other direction do not matter for the decision, but if one is known, the reading counts as
    // data.
    let mut sides = rule.levels.iter().flat_map(|level| [&level.raise, &level.clear]);
    if !is_data && !sides.any(|sustained| evaluate(sustained).is_some()) {
        if is_new {
            *status = None;
        }
        return Step::Undecided;
    }
    let was_unseen = current.is_unseen;
    (current.is_stale, current.is_unseen, current.seen_at) = (false, false, at);
    current.value = rule.value(values);
    let (level, to) = (current.level(), current.state());
    let change = (from != to || previous_level != level).then(|| {
        // Decided by the severity that has begun or, if none has, by the one that has ended.
        let begun = begun.filter(|(index, _)| level == Some(*index)).map(|(_, since)| since);
        let deciding = begun.or(ended).filter(|_| level != previous_level);
        let (cause, since) = match deciding {
            Some(since) => (Cause::Sustained, since),
            None => (Cause::DataResumed { is_first: was_unseen }, seen_at),
        };
        if from != to {
            current.since = at;
        }
        StateChange { from, to, previous_level, level, cause, at, since, value: current.value.clone() }
    });
    Step::Next(change)
}

/// Adds a reading to the operands' state. Returns each operand's value; `None` if the reading lacks its field.
fn add_to_operands(rule: &ThingRule, status: &mut AlarmStatus, at: Timestamp, values: &[Value]) -> Vec<Option<f64>> {
    let context = rule.context(values, &[]);
    let operands = rule.operands.iter().zip(&mut status.operands);
    operands
        .map(|(operand, state)| {
            let value = context.field(operand.field).nearest()?;
            state.add(operand.kind, at, value);
            state.value(operand.kind)
        })
        .collect()
}

fn has_operand(rule: &ThingRule, values: &[Value]) -> bool {
    let context = rule.context(values, &[]);
    rule.operands.iter().any(|operand| context.field(operand.field).nearest().is_some())
}

impl LevelStatus {
    /// Applies a reading that meets the condition or does not. Returns when the condition began, if it has now been
    /// sustained.
    fn advance(&mut self, hold: Hold, met: bool, at: Timestamp) -> Option<Timestamp> {
        let old = self.condition.take();
        match hold {
            Hold::For(span) => {
                let duration = span.duration();
                if !met {
                    return None;
                }
                let continued = old.filter(|old| at.since(old.until) <= duration);
                let since = continued.map_or(at, |old| old.since);
                if at.since(since) >= duration {
                    return Some(since);
                }
                self.condition = Some(ConditionStatus { since, until: at, met: 0 });
                None
            }
            Hold::Count { n, of } => {
                let kept = u32::MAX >> 32_u32.saturating_sub(of).min(31);
                let readings = ((old.map_or(0, |old| old.met) << 1) | u32::from(met)) & kept;
                let since = old.map_or(at, |old| old.since);
                if readings.count_ones() >= n {
                    return Some(since);
                }
                self.condition = (readings != 0).then_some(ConditionStatus { since, until: at, met: readings });
                None
            }
        }
    }
}

/// When the device becomes stale unless there is data; `None` if the rule allows any gap, or the device is stale
/// already.
pub fn stale_at(rule: &ThingRule, status: &AlarmStatus) -> Option<Timestamp> {
    rule.stale.filter(|_| !status.is_stale).map(|stale| status.seen_at.plus(stale.duration()))
}

/// Makes a device stale if it has sent nothing for too long by `now`. Returns the change.
pub fn check_stale(rule: &ThingRule, status: &mut AlarmStatus, now: Timestamp) -> Option<StateChange> {
    let at = stale_at(rule, status).filter(|at| *at < now)?;
    let level = status.level();
    let change = StateChange {
        from: status.state(),
        to: DataState::Stale,
        previous_level: level,
        level,
        cause: Cause::NoData,
        at,
        since: status.seen_at,
        value: status.value.clone(),
    };
    (status.is_stale, status.since) = (true, at);
    for level in &mut status.levels {
        level.condition = None;
    }
    Some(change)
}

/// When a thing that is expected to report since `expected_since` has not reported for too long.
pub fn never_reported_at(rule: &ThingRule, expected_since: Timestamp) -> Option<Timestamp> {
    rule.never_reported.map(|span| expected_since.plus(span.duration()))
}

/// Returns the status of a thing that has never reported, although expected since `expected_since`, and the change;
/// `None` if that is not due by `now`.
pub fn check_never_reported(
    rule: &ThingRule,
    expected_since: Timestamp,
    now: Timestamp,
) -> Option<(AlarmStatus, StateChange)> {
    let at = never_reported_at(rule, expected_since).filter(|at| *at < now)?;
    let status = AlarmStatus {
        is_stale: true,
        is_unseen: true,
        since: at,
        seen_at: expected_since,
        ..AlarmStatus::initial(rule, at)
    };
    let change = StateChange {
        from: DataState::Ok,
        to: DataState::Stale,
        previous_level: None,
        level: None,
        cause: Cause::NeverReported,
        at,
        since: expected_since,
        value: Value::Missing,
    };
    Some((status, change))
}
