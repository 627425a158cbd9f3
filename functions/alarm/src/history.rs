//! The history of alarms: one item in the alarms table for each change, kept for a configurable number of days.
//!
//! An entry is first stored in the alarm's record, as part of the pending notification of the same change, and is
//! written to its own item before that notification is published. Its key and contents are the same every time, so it
//! is neither lost nor duplicated.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use gatehouse::store::item::{number, string};
use gatehouse::{Item, Severity, VersionedTable};
use serde::{Deserialize, Serialize};

use crate::notification::Transition;

/// Why an alarm changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HistoryCause {
    /// A condition was sustained.
    Condition,
    /// There was no data for too long.
    Stale,
    /// There is data again.
    Resumed,
    /// The rule was changed or removed.
    Definition,
    /// A person performed an action.
    Action,
    /// A snooze has ended.
    SnoozeEnded,
    /// The thing has never reported.
    NeverReported,
}

impl HistoryCause {
    /// Its name in items.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Condition => "condition",
            Self::Stale => "stale",
            Self::Resumed => "resumed",
            Self::Definition => "definition",
            Self::Action => "action",
            Self::SnoozeEnded => "snooze-ended",
            Self::NeverReported => "never-reported",
        }
    }
}

/// The data of an entry that is not in the transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryMark {
    /// The sequence number of the change among the alarm's changes.
    pub number: u64,
    /// The cause.
    pub cause: HistoryCause,
    /// The severity before; `None` if the alarm was off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_severity: Option<Severity>,
    /// The severity after; `None` if the alarm is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

/// The table that the entries are written to, and how long they are kept.
#[derive(Debug, Clone)]
pub struct History {
    table: VersionedTable,
    retention: Duration,
}

/// An entry could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write an entry of the history")]
pub struct HistoryError(#[from] Box<SdkError<PutItemError>>);

impl History {
    /// The history in this table.
    pub fn new(table: VersionedTable, retention: Duration) -> Self {
        Self { table, retention }
    }

    /// Writes an entry. Writing it again changes nothing.
    pub async fn write(&self, transition: &Transition, mark: &HistoryMark) -> Result<(), HistoryError> {
        let put = self.table.client().put_item().table_name(self.table.name());
        Box::pin(put.set_item(Some(self.item(transition, mark))).send()).await.map_err(Box::new)?;
        Ok(())
    }

    fn item(&self, transition: &Transition, mark: &HistoryMark) -> Item {
        let Transition { threshold: rule, thing, from, to, value, at, state, previous_state, by, note, .. } =
            transition;
        let severity = |severity: Option<Severity>| severity.map(|severity| string(severity.as_str()));
        let attributes = [
            ("id", Some(string(format!("thing#{thing}")))),
            ("part", Some(string(format!("history#{:013}#{rule}#{}", at.millis(), mark.number)))),
            ("rule", Some(string(rule))),
            ("at", Some(number(at.millis()))),
            ("cause", Some(string(mark.cause.as_str()))),
            ("from", Some(string(from.as_str()))),
            ("to", Some(string(to.as_str()))),
            ("previousState", Some(string(previous_state.as_str()))),
            ("alarmState", Some(string(state.as_str()))),
            ("previousSeverity", severity(mark.previous_severity)),
            ("severity", severity(mark.severity)),
            ("value", Some(string(value.to_json()))),
            ("by", by.as_ref().map(string)),
            ("note", note.as_ref().map(string)),
            ("ruleVersion", Some(number(transition.rule_version))),
            ("expiration", Some(number(at.plus(self.retention).seconds()))),
        ];
        attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
