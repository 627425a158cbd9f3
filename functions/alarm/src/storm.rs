//! Hundreds of things crossing at once do not make hundreds of texts: people are told of so many changes of a threshold
//! within a window, machines of all. What people were not told of is summed up for them when the window has ended.
//!
//! A threshold's window is a record of its own. Changes are counted in it before they are stored with the device's
//! state: where a process dies in between, the summary may count one that comes again twice, but none is ever missing.

use std::collections::BTreeMap;
use std::time::Duration;

use gatehouse::item::{Item, number, string, text};
use gatehouse::{Key, Record, RecordError, Records, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::board::KEPT;
use crate::machine::Status;
use crate::notice::{self, Notice, Owed, Summary, Transition};
use crate::words;

/// How many things a summary names.
const NAMED: usize = 10;

/// How often a window that others keep changing is tried.
const TRIES: usize = 20;

const WINDOW: &str = "window";

/// The caps.
#[derive(Debug, Clone)]
pub struct Storms {
    records: Records,
    /// The changes of one threshold that people are told of within a window.
    most: usize,
    length: Duration,
}

/// A threshold's window, and what is owed from earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Window {
    count: Count,
    owed: Vec<Owed>,
}

/// What is counted in a window.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Count {
    began: Timestamp,
    told: usize,
    capped: BTreeMap<Status, u64>,
    things: Vec<String>,
    has_more: bool,
}

/// One that has long ended.
impl Default for Count {
    fn default() -> Self {
        Self { began: Timestamp::from_millis(0), told: 0, capped: BTreeMap::new(), things: Vec::new(), has_more: false }
    }
}

/// The record of a threshold's window.
pub fn key(threshold: &str) -> Key {
    (format!("storm#{threshold}"), WINDOW.to_owned())
}

impl Storms {
    /// Told to people are at most so many changes of one threshold within a window of this length.
    pub fn new(records: Records, most: usize, length: Duration) -> Self {
        Self { records, most, length }
    }

    /// Of how many of these changes of a threshold, from the first on, people are told one by one. The others are
    /// counted.
    pub async fn admit<'a>(
        &self,
        threshold: &str,
        transitions: impl IntoIterator<Item = &'a Transition> + Clone,
        now: Timestamp,
    ) -> Result<usize, RecordError> {
        let (id, part) = key(threshold);
        for _ in 0..TRIES {
            let record = self.records.get(&id, &part).await?;
            let mut window = Window::read(&record);
            window.end(threshold, self.length, now);
            let told = window.count(transitions.clone(), self.most, self.length, now);
            match self.records.put(&id, &part, window.item(threshold, self.length, now), &record).await {
                Ok(_) => return Ok(told),
                Err(RecordError::Conflict) => {}
                Err(other) => return Err(other),
            }
        }
        Err(RecordError::Conflict)
    }

    /// Sums up what this window counted, if it is over: the record's attributes then.
    pub fn end(&self, threshold: &str, record: &Record, now: Timestamp) -> Option<Item> {
        let mut window = Window::read(record);
        window.end(threshold, self.length, now).then(|| window.item(threshold, self.length, now))
    }
}

impl Window {
    /// A record that cannot be read counts as none: what it counted is lost, and no change of state with it.
    fn read(record: &Record) -> Self {
        let count = text(&record.item, WINDOW).and_then(|text| serde_json::from_str(text).ok());
        Self { count: count.unwrap_or_default(), owed: notice::owed(&record.item).unwrap_or_default() }
    }

    fn item(&self, threshold: &str, length: Duration, now: Timestamp) -> Item {
        let mut item = Item::from([
            (WINDOW.to_owned(), string(json!(self.count).to_string())),
            ("expiration".to_owned(), number(now.plus(KEPT).seconds())),
        ]);
        let look_at = (!self.count.capped.is_empty()).then(|| self.count.began.plus(length));
        notice::set_owed(&mut item, threshold, &self.owed, look_at);
        item
    }

    /// Ends the window if it is over. Whether there is a summary of it to tell.
    fn end(&mut self, threshold: &str, length: Duration, now: Timestamp) -> bool {
        let until = self.count.began.plus(length);
        if until > now || self.count.capped.is_empty() {
            return false;
        }
        let Count { began: from, capped: changes, things, has_more, .. } = std::mem::take(&mut self.count);
        let summary = Summary {
            id: format!("storm#{threshold}#{from}"),
            threshold: threshold.to_owned(),
            words: words::of_storm(threshold, &changes, &things, has_more, (from, until)),
            changes,
            things,
            has_more,
            from,
            until,
        };
        self.owed.push(Owed { since: now, notice: Notice::Summary(summary) });
        true
    }

    /// Counts changes, and says of how many people are told.
    fn count<'a>(
        &mut self,
        transitions: impl IntoIterator<Item = &'a Transition>,
        most: usize,
        length: Duration,
        now: Timestamp,
    ) -> usize {
        if self.count.began.plus(length) <= now {
            self.count = Count { began: now, ..Count::default() };
        }
        let count = &mut self.count;
        let before = count.told;
        for transition in transitions {
            if count.told < most {
                count.told += 1;
                continue;
            }
            *count.capped.entry(transition.to).or_default() += 1;
            if count.things.contains(&transition.thing) {
                continue;
            }
            if count.things.len() < NAMED {
                count.things.push(transition.thing.clone());
            } else {
                count.has_more = true;
            }
        }
        count.told - before
    }
}
