//! Limits how many transitions of one threshold people are notified of individually, so that an event that affects
//! hundreds of devices does not flood them. Machines receive every transition. When the window has ended, people
//! receive a summary of the rest.
//!
//! Each threshold has a window, which is a record. Transitions are counted there before they are stored with the
//! device's state. If the process dies in between, the summary may count a transition twice, but never misses one.

use std::collections::BTreeMap;
use std::time::Duration;

use gatehouse::store::item::{number, string, text};
use gatehouse::{DataState, Invocation, Item, Key, Timestamp, Update, VersionedItem, VersionedTable};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::alarm_record::RETENTION;
use crate::error::AlarmError;
use crate::message_text;
use crate::notification::{self, AlarmNotification, PendingNotification, Summary, Transition};

/// The maximum number of things that a summary names.
const MAX_NAMES: usize = 10;

const WINDOW: &str = "window";

/// Notifies people of at most `max` transitions per threshold and window.
#[derive(Debug, Clone)]
pub struct NotificationLimiter {
    table: VersionedTable,
    max: usize,
    window: Duration,
}

/// A threshold's window, and the summaries of earlier ones that are still pending.
#[derive(Debug, Clone, Default)]
struct Window {
    counts: WindowCounts,
    pending: Vec<PendingNotification>,
}

/// What happened within a window.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WindowCounts {
    began: Timestamp,
    /// The transitions that people were notified of individually.
    #[serde(rename = "told")]
    admitted: usize,
    /// The number of other transitions, by their new state.
    #[serde(rename = "capped")]
    limited: BTreeMap<DataState, u64>,
    /// The first things with such other transitions.
    things: Vec<String>,
    has_more: bool,
}

/// A window that has ended long ago.
impl Default for WindowCounts {
    fn default() -> Self {
        Self {
            began: Timestamp::from_millis(0),
            admitted: 0,
            limited: BTreeMap::new(),
            things: Vec::new(),
            has_more: false,
        }
    }
}

fn key(threshold: &str) -> Key {
    Key::new(format!("storm#{threshold}"), WINDOW)
}

/// Returns the threshold of a window's key.
pub fn parse_key(key: &Key) -> Option<&str> {
    key.pk.strip_prefix("storm#")
}

impl NotificationLimiter {
    /// A limit of `max` transitions per threshold and `window`.
    pub fn new(table: VersionedTable, max: usize, window: Duration) -> Self {
        Self { table, max, window }
    }

    /// Counts these transitions of a threshold.
    ///
    /// Returns how many of them, starting with the first, may be sent to people individually; the rest are summarized.
    pub(crate) async fn admit(
        &self,
        threshold: &str,
        transitions: &[&Transition],
        invocation: &Invocation,
    ) -> Result<usize, AlarmError> {
        let key = key(threshold);
        let updated = self.table.update(&key, invocation, async |record| {
            let now = invocation.now();
            let mut window = Window::parse(record);
            window.end(threshold, self.window, now);
            let admitted = window.count(transitions, self.max, self.window, now);
            Ok::<_, AlarmError>(Update::Write(window.item(threshold, self.window, now)?, admitted))
        });
        Ok(updated.await?.value)
    }

    /// Adds the summary of a threshold's window to its pending notifications, if the window has ended by `now`.
    ///
    /// Returns the window's record.
    pub(crate) async fn end_window(
        &self,
        threshold: &str,
        now: Timestamp,
        invocation: &Invocation,
    ) -> Result<VersionedItem, AlarmError> {
        let key = key(threshold);
        let updated = self.table.update(&key, invocation, async |record| {
            let mut window = Window::parse(record);
            Ok::<_, AlarmError>(if window.end(threshold, self.window, now) {
                Update::Write(window.item(threshold, self.window, now)?, ())
            } else {
                Update::Keep(())
            })
        });
        Ok(updated.await?.record)
    }
}

impl Window {
    /// Parses a record. An invalid one counts as empty: its summary is lost, but no transition is.
    fn parse(record: &VersionedItem) -> Self {
        let counts = text(&record.item, WINDOW).and_then(|text| serde_json::from_str(text).ok());
        let pending = notification::pending(&record.item);
        Self { counts: counts.unwrap_or_default(), pending: pending.unwrap_or_default() }
    }

    fn item(&self, threshold: &str, length: Duration, now: Timestamp) -> Result<Item, AlarmError> {
        let mut item = Item::from([
            (WINDOW.to_owned(), string(json!(self.counts).to_string())),
            ("expiration".to_owned(), number(now.plus(RETENTION).seconds())),
        ]);
        let ends_at = (!self.counts.limited.is_empty()).then(|| self.counts.began.plus(length));
        notification::set_pending(&mut item, threshold, &self.pending, ends_at)?;
        Ok(item)
    }

    /// Ends a window whose time is over, and adds its summary to the pending notifications.
    ///
    /// Returns whether there is a summary.
    fn end(&mut self, threshold: &str, length: Duration, now: Timestamp) -> bool {
        let until = self.counts.began.plus(length);
        if until > now || self.counts.limited.is_empty() {
            return false;
        }
        let WindowCounts { began: from, limited: changes, things, has_more, .. } = std::mem::take(&mut self.counts);
        let summary = Summary {
            id: format!("storm#{threshold}#{from}"),
            threshold: threshold.to_owned(),
            message: message_text::summary(threshold, &changes, &things, has_more, (from, until)),
            changes,
            things,
            has_more,
            from,
            until,
        };
        let notification = AlarmNotification::Summary(summary);
        self.pending.push(PendingNotification { since: now, notification, history: None });
        true
    }

    /// Counts transitions, in a new window if this one has ended. Returns how many are within the limit.
    fn count(&mut self, transitions: &[&Transition], max: usize, length: Duration, now: Timestamp) -> usize {
        if self.counts.began.plus(length) <= now {
            self.counts = WindowCounts { began: now, ..WindowCounts::default() };
        }
        let counts = &mut self.counts;
        let before = counts.admitted;
        for transition in transitions {
            if counts.admitted < max {
                counts.admitted += 1;
                continue;
            }
            *counts.limited.entry(transition.to).or_default() += 1;
            if counts.things.contains(&transition.thing) {
                continue;
            }
            if counts.things.len() < MAX_NAMES {
                counts.things.push(transition.thing.clone());
            } else {
                counts.has_more = true;
            }
        }
        counts.admitted - before
    }
}
