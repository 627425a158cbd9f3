//! The record of one device and one rule: the state of its data, the state of its alarm, and its pending notifications.

mod announcement;
mod item;

use std::sync::Arc;
use std::time::Duration;

use gatehouse::{AlarmState, DataState, Key, MessageKind, Refusal, Severity, ThingName, Timestamp};

pub use announcement::Announcement;
use announcement::{Change, Held};

use crate::alarm_state::{ActionCommand, Handling, after_data};
use crate::history::HistoryCause;
use crate::message_text;
use crate::notification::{Audience, PendingNotification};
use crate::rules::{ThingRule, Value};
use crate::state_machine::{self, AlarmStatus, Cause, LevelStatus, StateChange, Step, severity_of};
use crate::thresholds::Definition;

/// How often to check whether the rule of a state other than OK still applies, even if no data arrives.
pub const RECHECK_INTERVAL: Duration = Duration::from_mins(10);

/// How long a record is kept after its last write: longer than the longest gap that a rule may allow.
pub const RETENTION: Duration = Duration::from_hours(24 * 400);

/// The readings of one event that are relevant to a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The event's id.
    pub event: &'a str,
    /// When it was received. All readings in one event share this time, and keep their order.
    pub at: Timestamp,
    /// Each reading's values of the thing's fields.
    pub readings: Vec<Arc<[Value]>>,
}

/// The rule that applies to a device now.
#[derive(Debug, Clone, Copy)]
pub struct CurrentRule<'a> {
    /// Its name.
    pub name: &'a str,
    /// The rule; `None` if no rule of this name applies to the device any more.
    pub rule: Option<&'a ThingRule>,
    /// When the document in force was given.
    pub given_at: Timestamp,
    /// The number of that document.
    pub version: u64,
}

/// The effect of the current rule on a record that may be based on an earlier definition.
#[derive(Debug, Clone, PartialEq)]
pub enum Adoption {
    /// None: the definition is the same, or there is no state that must end.
    Unchanged,
    /// The record starts anew, with this announcement if there was anything to end.
    Changed(Option<Box<Announcement>>),
    /// None: a later document has changed the record.
    Outdated,
}

/// A device's record for a rule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlarmRecord {
    /// The status; `None` before the first reading under the current definition.
    status: Option<AlarmStatus>,
    /// The severity of the alarm, if it is on or latched.
    severity: Option<Severity>,
    /// The state of the alarm.
    handling: Handling,
    /// The definition that the status is based on, as JSON; `None` if there is none, or if the record is older than
    /// this field.
    definition: Option<String>,
    /// When the document that first had the definition was given.
    given_at: Timestamp,
    /// The time of the latest decision under an earlier definition.
    closed_at: Option<Timestamp>,
    /// When the newest reading was received, under any definition.
    seen_at: Option<Timestamp>,
    /// The ids of the events received in the same millisecond as the newest reading, so that a repeated event is
    /// recognized and a different one still counts.
    seen: Vec<String>,
    /// How many announcements there have been.
    changes: u64,
    /// What people know, while quiet hours withhold notifications.
    held: Option<Held>,
    /// When people were last notified that the alarm is ACTIVE.
    notified_at: Option<Timestamp>,
    pending: Vec<PendingNotification>,
    next_check_at: Option<Timestamp>,
    /// Whether it is in the table.
    is_stored: bool,
}

/// The effect of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleEffect {
    /// It was applied.
    Applied {
        /// The announcements.
        announcements: Vec<Announcement>,
        /// How many of its readings lacked the values to decide anything.
        undecided: usize,
        /// Whether the record has changed.
        is_changed: bool,
    },
    /// None: its event was applied before.
    Duplicate,
    /// None: it was received before the latest decision.
    OutOfOrder,
}

/// The key of a device's record for a rule.
pub fn key(thing: &str, rule: &str) -> Key {
    Key::new(format!("thing#{thing}"), format!("threshold#{rule}"))
}

/// Returns the device and the rule of a record's key; `None` for other records.
pub fn parse_key(key: &Key) -> Option<(ThingName, &str)> {
    let thing = ThingName::new(key.pk.strip_prefix("thing#")?).ok()?;
    Some((thing, key.sk.as_deref()?.strip_prefix("threshold#")?))
}

impl AlarmRecord {
    /// Starts anew if the record is based on a definition other than the rule's current one, or if its rule no longer
    /// applies. The announcement is not pending yet.
    ///
    /// The result does not depend on the trigger or the time. Readings that were received before the last decision
    /// under the earlier definition still change nothing, and events that were applied are still recognized. A disabled
    /// alarm stays disabled.
    pub fn adopt(&mut self, current: CurrentRule<'_>, thing: &ThingName) -> Adoption {
        let CurrentRule { name, rule, given_at, .. } = current;
        let definition = rule.map(|rule| rule.definition.as_str());
        let old = self.definition.as_deref();
        let is_same = if let Some(new) = definition {
            old == Some(new) || is_same_threshold(old, new)
        } else {
            // An OK state that is NORMAL or DISABLED has nothing to end, and the rule may come back.
            let is_ok = self.status.as_ref().is_none_or(|status| status.state() == DataState::Ok);
            is_ok && matches!(self.handling.state, AlarmState::Normal | AlarmState::Disabled)
        };
        if is_same {
            return Adoption::Unchanged;
        }
        if given_at < self.given_at {
            return Adoption::Outdated;
        }
        let is_new = old.is_none() && definition.is_some() && self.closed_at.is_none();
        let field = field_of(old);
        self.definition = definition.map(str::to_owned);
        self.given_at = given_at;
        // A record without a definition is new, or older than definitions.
        if is_new {
            return Adoption::Unchanged;
        }
        let is_removed = rule.is_none();
        let (previous_state, previous_severity) = (self.handling.state, self.severity.take());
        let at = self.status.as_ref().map_or(given_at, AlarmStatus::decided_until);
        let next = match previous_state {
            AlarmState::Disabled => AlarmState::Disabled,
            AlarmState::SnoozeDisabled if !is_removed => AlarmState::SnoozeDisabled,
            _ => AlarmState::Normal,
        };
        self.handling.enter(next, at);
        let Some(status) = self.status.take() else {
            return Adoption::Changed((next != previous_state).then(|| {
                let message = message_text::ended(name, thing, previous_state, is_removed);
                let change = Change::of_state(HistoryCause::Definition, at, previous_state, message);
                Box::new(self.announce(current, thing, field, change))
            }));
        };
        self.closed_at = Some(status.decided_until());
        let from = status.state();
        if from == DataState::Ok && next == previous_state {
            return Adoption::Changed(None);
        }
        let change = Change {
            previous_severity,
            value: status.value.clone(),
            since: status.since,
            ..Change::of_state(
                HistoryCause::Definition,
                at,
                previous_state,
                message_text::ended(name, thing, previous_state, is_removed),
            )
        };
        let change = if from == DataState::Ok {
            change
        } else {
            let message = message_text::closing(name, thing, &status, is_removed);
            Change { kind: MessageKind::Transition, from, to: DataState::Closed, message, ..change }
        };
        Adoption::Changed(Some(Box::new(self.announce(current, thing, field, change))))
    }

    /// Applies an event's readings. The announcements are not pending yet.
    pub fn apply(
        &mut self,
        current: CurrentRule<'_>,
        rule: &ThingRule,
        thing: &ThingName,
        sample: &Sample<'_>,
    ) -> SampleEffect {
        let &Sample { event, at, ref readings } = sample;
        let newest = self.seen_at;
        if newest == Some(at) && self.seen.iter().any(|seen| seen == event) {
            return SampleEffect::Duplicate;
        }
        let decided_until = self.status.as_ref().map(AlarmStatus::decided_until).or(self.closed_at);
        if decided_until.is_some_and(|decided_until| at < decided_until) {
            return SampleEffect::OutOfOrder;
        }
        self.begin(rule, at);
        let mut announcements: Vec<_> = self.end_snooze(current, thing, at).into_iter().collect();
        let (mut undecided, mut is_changed) = (0, !announcements.is_empty());
        for values in readings {
            match state_machine::apply(rule, &mut self.status, at, values) {
                Step::OutOfOrder => return SampleEffect::OutOfOrder,
                Step::Undecided => undecided += 1,
                Step::Next(change) => {
                    is_changed = true;
                    announcements
                        .extend(change.map(|change| self.announce_data(current, rule, thing, &change, values)));
                }
            }
        }
        if undecided < readings.len() {
            if newest != Some(at) {
                self.seen.clear();
            }
            (self.seen_at, self.closed_at) = (Some(at), None);
            self.seen.push(event.to_owned());
        }
        SampleEffect::Applied { announcements, undecided, is_changed }
    }

    /// Performs everything that is due by `now`: makes the device stale, ends a snooze, notifies people after quiet
    /// hours, and repeats a notification.
    pub fn check(&mut self, current: CurrentRule<'_>, thing: &ThingName, now: Timestamp) -> Vec<Announcement> {
        let mut announcements = Vec::new();
        let stale_at = current.rule.zip(self.status.as_ref());
        let stale_at = stale_at.and_then(|(rule, status)| state_machine::stale_at(rule, status));
        // In chronological order.
        if self.handling.snooze_ended(now).is_some_and(|ended| stale_at.is_none_or(|stale_at| ended < stale_at)) {
            announcements.extend(self.end_snooze(current, thing, now));
        }
        if let Some((rule, status)) = current.rule.zip(self.status.as_mut())
            && let Some(change) = state_machine::check_stale(rule, status, now)
        {
            announcements.push(self.announce_data(current, rule, thing, &change, &[]));
        }
        announcements.extend(self.end_snooze(current, thing, now));
        announcements.extend(self.end_quiet_hours(current, thing, now));
        announcements.extend(self.repeat(current, thing, now));
        announcements
    }

    /// Makes a device stale that has never reported, although expected since `expected_since`, if that is due by `now`.
    pub fn check_never_reported(
        &mut self,
        current: CurrentRule<'_>,
        rule: &ThingRule,
        thing: &ThingName,
        (expected_since, now): (Timestamp, Timestamp),
    ) -> Option<Announcement> {
        if self.status.is_some() || self.closed_at.is_some() || self.seen_at.is_some() {
            return None;
        }
        let (status, change) = state_machine::check_never_reported(rule, expected_since, now)?;
        self.begin(rule, change.at);
        self.status = Some(status);
        Some(self.announce_data(current, rule, thing, &change, &[]))
    }

    /// Performs a person's action. Returns the announcements; none if nothing changed. Refused with `invalid-action` if
    /// there is no such alarm, or its state does not allow the action.
    pub fn perform(
        &mut self,
        current: CurrentRule<'_>,
        thing: &ThingName,
        command: &ActionCommand,
    ) -> Result<Vec<Announcement>, Refusal> {
        if !self.is_stored {
            let Some(rule) = current.rule else {
                let why = format!("There is no alarm `{}` of {thing}, and no such rule applies to it.", current.name);
                return Err(Refusal::new("invalid-action", why));
            };
            self.begin(rule, command.at);
            self.handling.since = command.at;
        }
        let mut announcements: Vec<_> = self.end_snooze(current, thing, command.at).into_iter().collect();
        let level = self.status.as_ref().and_then(AlarmStatus::level);
        let Some(previous_state) = self.handling.perform(command, level)? else { return Ok(announcements) };
        let state = self.handling.state;
        if level.is_none() && state != AlarmState::Latched {
            self.severity = None;
        }
        let message = message_text::action(command, state);
        let change = Change::of_state(HistoryCause::Action, command.at, previous_state, message);
        let (by, note) = (Some(command.by.clone()), command.note.clone());
        let change = self.with_data(Change { by, note, ..change });
        let field = self.field(current);
        announcements.push(self.announce(current, thing, field, change));
        Ok(announcements)
    }

    /// Adds an announcement to the pending notifications.
    pub fn enqueue(&mut self, announcement: Announcement, audience: Audience, since: Timestamp) {
        self.pending.push(announcement.pending(audience, since));
    }

    /// Schedules the next check: for missing data, if the rule asks for it; for a snooze, quiet hours or a repeat that
    /// becomes due; and for whether the rule of a state other than OK still applies.
    ///
    /// A check that is scheduled already is kept unless it is much too early: an unnecessary check costs one occasional
    /// read, while moving it with each sample would cost a write to the index each time.
    pub fn schedule_check(&mut self, rule: Option<&ThingRule>, now: Timestamp) {
        let stale = rule
            .zip(self.status.as_ref())
            .and_then(|(rule, status)| Some((state_machine::stale_at(rule, status)?, rule.stale?.duration())));
        let is_open = self.status.as_ref().is_some_and(|status| status.state() != DataState::Ok);
        let is_handled = !matches!(self.handling.state, AlarmState::Normal | AlarmState::Disabled);
        let recheck = (is_open || is_handled).then(|| (now.plus(RECHECK_INTERVAL), RECHECK_INTERVAL));
        let exactly = |at: Option<Timestamp>| at.map(|at| (at, Duration::ZERO));
        let snooze = exactly(self.handling.snoozed_until);
        let quiet = exactly(self.held.as_ref().map(|held| held.until));
        let repeat = exactly(rule.and_then(|rule| self.repeat_at(rule)));
        let all = [stale, recheck, snooze, quiet, repeat];
        self.next_check_at = all.into_iter().flatten().min().map(|(due_at, interval)| {
            let is_good_enough = |at: &Timestamp| *at > now && (due_at.minus(interval / 2)..=due_at).contains(at);
            self.next_check_at.filter(is_good_enough).unwrap_or(due_at)
        });
    }

    /// When the record must be checked next.
    pub fn next_check_at(&self) -> Option<Timestamp> {
        self.next_check_at
    }

    /// Prepares the record for a decision by this rule, which may be the first one, or have a different number of
    /// levels.
    fn begin(&mut self, rule: &ThingRule, at: Timestamp) {
        if !self.is_stored && rule.start_disabled && self.handling == Handling::default() {
            self.handling.enter(AlarmState::Disabled, at);
        }
        if let Some(status) = &mut self.status {
            status.levels.resize(rule.levels.len(), LevelStatus::default());
            status.operands.resize_with(rule.operands.len(), Default::default);
        }
    }

    /// Announces a change of the data's state or severity.
    fn announce_data(
        &mut self,
        current: CurrentRule<'_>,
        rule: &ThingRule,
        thing: &ThingName,
        change: &StateChange,
        reading: &[Value],
    ) -> Announcement {
        let previous_state = self.handling.state;
        let state = after_data(previous_state, (change.previous_level, change.level), rule.latch);
        self.handling.enter(state, change.at);
        let severity = severity_of(rule, change.level);
        let latched = self.severity.filter(|_| state == AlarmState::Latched);
        self.severity = severity.or(latched);
        let cause = match change.cause {
            Cause::Sustained => HistoryCause::Condition,
            Cause::NoData => HistoryCause::Stale,
            Cause::NeverReported => HistoryCause::NeverReported,
            Cause::DataResumed { .. } => HistoryCause::Resumed,
        };
        let kind = if change.from == change.to { MessageKind::Severity } else { MessageKind::Transition };
        let change = Change {
            kind,
            cause: Some(cause),
            from: change.from,
            to: change.to,
            at: change.at,
            since: change.since,
            value: change.value.clone(),
            previous_severity: severity_of(rule, change.previous_level),
            severity,
            previous_state,
            by: None,
            note: None,
            message: message_text::transition(rule, thing, change, reading),
        };
        self.announce(current, thing, rule.field(), change)
    }
}

/// Whether two definitions are of the same threshold, with numbers that differ only in spelling.
fn is_same_threshold(old: Option<&str>, new: &str) -> bool {
    let parse = |definition: &str| serde_json::from_str::<Definition>(definition).ok();
    old.and_then(parse).is_some_and(|old| parse(new) == Some(old))
}

fn field_of(definition: Option<&str>) -> String {
    #[derive(serde::Deserialize)]
    struct Field {
        field: String,
    }
    let field = definition.and_then(|definition| serde_json::from_str::<Field>(definition).ok());
    field.map_or_else(String::new, |found| found.field)
}
