//! What is announced about a change, and to whom.

use gatehouse::{AlarmState, DataState, MessageKind, Severity, ThingName, Timestamp};
use serde::{Deserialize, Serialize};

use super::{AlarmRecord, CurrentRule, field_of};
use crate::alarm_state::of_data;
use crate::history::{HistoryCause, HistoryMark};
use crate::message_text;
use crate::notification::{AlarmNotification, Audience, PendingNotification, Transition, message_id};
use crate::rules::{ThingRule, Value};
use crate::state_machine::AlarmStatus;

/// A message that is not pending yet, and who receives it unless there are too many.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// Who receives it.
    pub audience: Audience,
    /// The message.
    pub transition: Transition,
    history: Option<HistoryMark>,
}

/// What people knew about an alarm when quiet hours began to withhold notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// The state of the data.
    pub state: DataState,
    /// The severity.
    pub severity: Option<Severity>,
    /// When the quiet hours end.
    pub until: Timestamp,
}

/// A change to be announced.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub kind: MessageKind,
    /// The cause for the history; `None` if nothing has changed.
    pub cause: Option<HistoryCause>,
    pub from: DataState,
    pub to: DataState,
    pub at: Timestamp,
    pub since: Timestamp,
    pub value: Value,
    pub previous_severity: Option<Severity>,
    pub severity: Option<Severity>,
    pub previous_state: AlarmState,
    pub by: Option<String>,
    pub note: Option<String>,
    pub message: String,
}

impl Announcement {
    /// Converts it to a pending notification for an audience.
    pub(super) fn pending(self, audience: Audience, since: Timestamp) -> PendingNotification {
        let Self { transition, history, .. } = self;
        PendingNotification { since, notification: AlarmNotification::Transition(audience, transition), history }
    }

    /// Why the alarm has changed; `None` if it has not.
    pub fn cause(&self) -> Option<HistoryCause> {
        self.history.as_ref().map(|history| history.cause)
    }
}

impl Change {
    /// A change of the alarm's state alone.
    pub(super) fn of_state(cause: HistoryCause, at: Timestamp, previous_state: AlarmState, message: String) -> Self {
        Self {
            kind: MessageKind::State,
            cause: Some(cause),
            from: DataState::Ok,
            to: DataState::Ok,
            at,
            since: at,
            value: Value::Missing,
            previous_severity: None,
            severity: None,
            previous_state,
            by: None,
            note: None,
            message,
        }
    }
}

impl AlarmRecord {
    fn data_state(&self) -> DataState {
        match (&self.status, self.closed_at) {
            (Some(status), _) => status.state(),
            (None, Some(_)) => DataState::Closed,
            (None, None) => DataState::Ok,
        }
    }

    fn value(&self) -> Value {
        self.status.as_ref().map_or(Value::Missing, |status| status.value.clone())
    }

    /// The severity while the condition is met.
    fn severity_on(&self) -> Option<Severity> {
        self.severity.filter(|_| self.status.as_ref().and_then(AlarmStatus::level).is_some())
    }

    pub(super) fn field(&self, current: CurrentRule<'_>) -> String {
        current.rule.map_or_else(|| field_of(self.definition.as_deref()), |rule| rule.field())
    }

    /// Returns the change with the current state of the data, which it leaves unchanged.
    pub(super) fn with_data(&self, change: Change) -> Change {
        let state = self.data_state();
        let severity = self.severity_on();
        let value = self.value();
        Change { from: state, to: state, previous_severity: severity, severity, value, ..change }
    }

    /// Announces a change that the record has made. `field` is the one that the message names.
    pub(super) fn announce(
        &mut self,
        current: CurrentRule<'_>,
        thing: &ThingName,
        field: String,
        change: Change,
    ) -> Announcement {
        self.changes += 1;
        let Change { kind, cause, from, to, at, since, value, previous_severity, severity, .. } = change;
        let Change { previous_state, by, note, message, .. } = change;
        let state = self.handling.state;
        // The severity of an alarm that has just ended still counts.
        let shown = severity.or(self.severity).or(previous_severity);
        let mut audience = match kind {
            MessageKind::State if state == AlarmState::Active => Audience::People,
            MessageKind::State => Audience::Machines,
            _ if state.is_silenced() => Audience::Nobody,
            MessageKind::Severity if state == AlarmState::Acknowledged => Audience::Machines,
            _ => Audience::People,
        };
        let quiet_until = current.rule.and_then(|rule| rule.notify.quiet_until(shown, at));
        match (audience, quiet_until) {
            (Audience::People, None) => self.held = None,
            (Audience::People, Some(until)) => {
                audience = Audience::Machines;
                if kind != MessageKind::Repeat {
                    // People know nothing about an alarm that was silenced.
                    let known = match kind {
                        MessageKind::State => (DataState::Ok, None),
                        _ => (from, previous_severity),
                    };
                    let (state, severity) = self.held.take().map_or(known, |held| (held.state, held.severity));
                    self.held = Some(Held { state, severity, until });
                }
            }
            _ => {}
        }
        self.notified_at = Some(at).filter(|_| state == AlarmState::Active);
        let what = match kind {
            MessageKind::Transition => to.as_str(),
            MessageKind::Severity => shown.map_or("severity", Severity::as_str),
            MessageKind::State => state.as_str(),
            MessageKind::Repeat => "REPEAT",
        };
        let history = cause.map(|cause| HistoryMark { number: self.changes, cause, previous_severity, severity });
        let transition = Transition {
            id: message_id(thing, current.name, at, what, self.changes),
            threshold: current.name.to_owned(),
            thing: thing.to_string(),
            from,
            to,
            field,
            value,
            at,
            since,
            message,
            rule: current.name.to_owned(),
            rule_version: current.version,
            kind,
            severity: shown,
            previous_severity: previous_severity.filter(|_| kind == MessageKind::Severity),
            state,
            previous_state,
            by,
            note,
        };
        Announcement { audience, transition, history }
    }

    /// Ends a snooze that is over by `now`.
    pub(super) fn end_snooze(
        &mut self,
        current: CurrentRule<'_>,
        thing: &ThingName,
        now: Timestamp,
    ) -> Option<Announcement> {
        let at = self.handling.snooze_ended(now)?;
        let state = of_data(self.status.as_ref().and_then(AlarmStatus::level));
        self.handling.enter(state, at);
        self.severity = self.severity_on();
        let message = message_text::snooze_ended(current.name, thing, state, &self.value());
        let change = Change::of_state(HistoryCause::SnoozeEnded, at, AlarmState::SnoozeDisabled, message);
        let (change, field) = (self.with_data(change), self.field(current));
        Some(self.announce(current, thing, field, change))
    }

    /// Notifies people of the current state once quiet hours have ended, if it differs from what they know.
    pub(super) fn end_quiet_hours(
        &mut self,
        current: CurrentRule<'_>,
        thing: &ThingName,
        now: Timestamp,
    ) -> Option<Announcement> {
        let held = self.held.take_if(|held| held.until <= now)?;
        let severity = self.severity_on();
        // The hours may have been changed meanwhile.
        let quiet_until = current.rule.and_then(|rule| rule.notify.quiet_until(severity.or(held.severity), now));
        if let Some(until) = quiet_until {
            self.held = Some(Held { until, ..held });
            return None;
        }
        let state = self.data_state();
        let is_known = (state, severity) == (held.state, held.severity);
        // Somebody knows about an acknowledged alarm: the person who acknowledged it.
        let is_acknowledged = self.handling.state == AlarmState::Acknowledged && state == DataState::Alarm;
        if is_known || is_acknowledged || self.handling.state.is_silenced() {
            return None;
        }
        let message = message_text::after_quiet_hours(current.name, thing, state, severity, &self.value());
        Some(self.announce_repeat(current, thing, now, message))
    }

    /// When the notification of an ACTIVE alarm must be repeated.
    pub(super) fn repeat_at(&self, rule: &ThingRule) -> Option<Timestamp> {
        let repeat = self.severity.and_then(|severity| rule.notify.repeat(severity))?;
        let notified_at = self.notified_at.unwrap_or(self.handling.since);
        (self.handling.state == AlarmState::Active).then(|| notified_at.plus(repeat))
    }

    /// Repeats the notification of an ACTIVE alarm, if that is due by `now`.
    pub(super) fn repeat(
        &mut self,
        current: CurrentRule<'_>,
        thing: &ThingName,
        now: Timestamp,
    ) -> Option<Announcement> {
        self.repeat_at(current.rule?).filter(|due_at| *due_at <= now)?;
        let length = now.since(self.handling.since);
        let message = message_text::repeated(current.name, thing, self.severity, length, &self.value());
        Some(self.announce_repeat(current, thing, now, message))
    }

    fn announce_repeat(
        &mut self,
        current: CurrentRule<'_>,
        thing: &ThingName,
        now: Timestamp,
        message: String,
    ) -> Announcement {
        let state = self.handling.state;
        let change = Change::of_state(HistoryCause::Condition, now, state, message);
        let change = self.with_data(Change { kind: MessageKind::Repeat, cause: None, ..change });
        let change = Change { since: self.handling.since, ..change };
        let field = self.field(current);
        self.announce(current, thing, field, change)
    }
}
