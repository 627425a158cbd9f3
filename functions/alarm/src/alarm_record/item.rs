//! Conversion of a record to and from an item of the table.

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::{integer, is_true, number, string, text};
use gatehouse::{AlarmState, DataState, Item, Severity, ThingName, Timestamp, VersionedItem};

use super::announcement::Held;
use super::{AlarmRecord, RETENTION};
use crate::alarm_state::{Action, Handling, of_data};
use crate::due_index;
use crate::error::AlarmError;
use crate::notification;
use crate::rules::Value;
use crate::rules::operand::OperandState;
use crate::state_index;
use crate::state_machine::{AlarmStatus, ConditionStatus, LevelStatus};

/// A level in the attribute `levels`: whether it is on and, if a condition has begun, the times of its first and newest
/// readings, and which of the newest readings met it.
type StoredLevel = (bool, Option<(Timestamp, Timestamp, u32)>);

impl AlarmRecord {
    /// Parses a record; `None` if it is not valid.
    pub fn parse(record: &VersionedItem) -> Option<Self> {
        if record.version() == 0 {
            return Some(Self::default());
        }
        let item = &record.item;
        let time = |name: &str| integer(item, name).map(Timestamp::from_millis);
        let state = text(item, "state")?;
        let is_unseen = is_true(item, "neverReported");
        let is_closed = state == DataState::Closed.as_str();
        // A record without data exists only because a person gave a command.
        let is_without_data = is_unseen && state == DataState::Ok.as_str();
        let has_status = !is_closed && !is_without_data;
        let status = if has_status { Some(status(item, state, is_unseen)?) } else { None };
        let level = status.as_ref().and_then(AlarmStatus::level);
        let severity = match text(item, "severity") {
            Some(name) => Some(Severity::parse(name)?),
            // Records without a severity are from an older version of the function.
            None => level.map(|_| Severity::Major),
        };
        Some(Self {
            severity,
            handling: handling(item, level)?,
            definition: text(item, "definition").map(str::to_owned),
            given_at: time("definedAt").unwrap_or(Timestamp::from_millis(0)),
            closed_at: if is_closed { Some(time("since")?) } else { None },
            seen_at: if is_unseen { None } else { Some(time("seenAt")?) },
            seen: match item.get("seen") {
                Some(seen) => seen.as_ss().ok()?.clone(),
                None => Vec::new(),
            },
            changes: integer(item, "changes")?,
            held: match text(item, "held") {
                Some(held) => Some(serde_json::from_str::<Held>(held).ok()?),
                None => None,
            },
            notified_at: time("notifiedAt"),
            pending: notification::pending(item).ok()?,
            next_check_at: due_index::next_check_at(item),
            is_stored: true,
            status,
        })
    }

    /// Returns the attributes to write at `now`, under the document with this number.
    pub(crate) fn item(&self, thing: &ThingName, version: u64, now: Timestamp) -> Result<Item, AlarmError> {
        let status = self.status.as_ref();
        let is_unseen = self.closed_at.is_none() && status.is_none_or(|status| status.is_unseen);
        let Some(since) = status.map(|status| status.since).or(self.closed_at).or_else(|| {
            // No data yet, only people's commands.
            (!self.handling.commands.is_empty()).then_some(self.handling.since)
        }) else {
            return Ok(Item::new());
        };
        let state = match (status, self.closed_at) {
            (Some(status), _) => status.state(),
            (None, Some(_)) => DataState::Closed,
            (None, None) => DataState::Ok,
        };
        let seen_at = self.seen_at.or(status.map(|status| status.seen_at)).unwrap_or(since);
        let handling = &self.handling;
        let text = |text: &Option<String>| text.as_ref().map(string);
        let time = |at: Timestamp| number(at.millis());
        let is_notified_later = |at: &Timestamp| *at != handling.since;
        let attributes = [
            ("state", Some(string(state.as_str()))),
            ("since", Some(time(since))),
            ("seenAt", Some(time(seen_at))),
            ("seen", (!self.seen.is_empty()).then(|| AttributeValue::Ss(self.seen.clone()))),
            ("changes", Some(number(self.changes))),
            ("definedAt", Some(time(self.given_at))),
            ("expiration", Some(number(now.plus(RETENTION).seconds()))),
            ("definition", text(&self.definition)),
            ("neverReported", is_unseen.then_some(AttributeValue::Bool(true))),
            ("severity", self.severity.map(|severity| string(severity.as_str()))),
            ("alarmState", Some(string(handling.state.as_str()))),
            ("alarmStateSince", Some(time(handling.since))),
            ("by", text(&handling.by)),
            ("note", text(&handling.note)),
            ("snoozedUntil", handling.snoozed_until.map(time)),
            ("action", handling.action.map(|action| string(action.as_str()))),
            ("commands", (!handling.commands.is_empty()).then(|| list(&handling.commands))),
            ("held", self.held.as_ref().and_then(|held| serde_json::to_string(held).ok()).map(string)),
            ("notifiedAt", self.notified_at.filter(is_notified_later).map(time)),
            ("ruleVersion", Some(number(version))),
        ];
        let attributes = attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let mut item: Item = attributes.collect();
        if let Some(status) = status {
            set_status(&mut item, status);
        } else if state == DataState::Ok {
            item.insert("value".to_owned(), string(Value::Missing.to_json()));
        }
        state_index::set_state(&mut item, thing.as_str(), handling.state);
        notification::set_pending(&mut item, thing.as_str(), &self.pending, self.next_check_at)?;
        Ok(item)
    }
}

fn list(texts: &[String]) -> AttributeValue {
    AttributeValue::L(texts.iter().map(string).collect())
}

fn handling(item: &Item, level: Option<usize>) -> Option<Handling> {
    let time = |name: &str| integer(item, name).map(Timestamp::from_millis);
    let owned = |name: &str| text(item, name).map(str::to_owned);
    let commands = item.get("commands").and_then(|commands| commands.as_l().ok()).into_iter().flatten();
    Some(Handling {
        state: match text(item, "alarmState") {
            Some(state) => AlarmState::parse(state)?,
            // Records without an alarm state are from an older version of the function.
            None => of_data(level),
        },
        since: time("alarmStateSince").or_else(|| time("since"))?,
        by: owned("by"),
        note: owned("note"),
        snoozed_until: time("snoozedUntil"),
        action: match text(item, "action") {
            Some(action) => Some(Action::parse(action)?),
            None => None,
        },
        commands: commands.filter_map(|command| command.as_s().ok().cloned()).collect(),
    })
}

fn status(item: &Item, state: &str, is_unseen: bool) -> Option<AlarmStatus> {
    let time = |name: &str| integer(item, name).map(Timestamp::from_millis);
    let is_stale = state == DataState::Stale.as_str();
    let seen_at = time("seenAt")?;
    let levels = match text(item, "levels") {
        Some(levels) => {
            let levels: Vec<StoredLevel> = serde_json::from_str(levels).ok()?;
            let condition = |(since, until, met)| ConditionStatus { since, until, met };
            levels.into_iter().map(|(is_on, status)| LevelStatus { is_on, condition: status.map(condition) }).collect()
        }
        None => vec![LevelStatus {
            is_on: text(item, if is_stale { "before" } else { "state" })? == DataState::Alarm.as_str(),
            condition: time("holdSince").map(|since| ConditionStatus { since, until: seen_at, met: 0 }),
        }],
    };
    let operands = match text(item, "operands") {
        Some(operands) => serde_json::from_str::<Vec<OperandState>>(operands).ok()?,
        None => Vec::new(),
    };
    Some(AlarmStatus {
        levels,
        operands,
        is_stale,
        is_unseen,
        since: time("since")?,
        seen_at,
        value: Value::from_json(text(item, "value")?)?,
    })
}

fn set_status(item: &mut Item, status: &AlarmStatus) {
    let mut set = |name: &str, value| drop(item.insert(name.to_owned(), value));
    // A string, because DynamoDB's numbers have a smaller range.
    set("value", string(status.value.to_json()));
    if status.is_stale {
        let before = if status.level().is_some() { DataState::Alarm } else { DataState::Ok };
        set("before", string(before.as_str()));
    }
    match &status.levels[..] {
        // The form for thresholds of version 1.
        [LevelStatus { condition, .. }]
            if condition.is_none_or(|condition| condition.met == 0 && condition.until == status.seen_at) =>
        {
            if let Some(condition) = condition {
                set("holdSince", number(condition.since.millis()));
            }
        }
        levels => {
            let stored = |level: &LevelStatus| -> StoredLevel {
                (level.is_on, level.condition.map(|condition| (condition.since, condition.until, condition.met)))
            };
            let levels: Vec<_> = levels.iter().map(stored).collect();
            if let Ok(levels) = serde_json::to_string(&levels) {
                set("levels", string(levels));
            }
        }
    }
    if !status.operands.is_empty()
        && let Ok(operands) = serde_json::to_string(&status.operands)
    {
        set("operands", string(operands));
    }
}
