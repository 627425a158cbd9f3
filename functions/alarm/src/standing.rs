//! How a device stands by a threshold, with what is owed for it: what a record holds.

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::item::{Item, integer, number, string, text};
use gatehouse::{Record, ThingName, Timestamp};

use crate::board::KEPT;
use crate::machine::{self, Reading, State, Status, Step};
use crate::notice::{self, Audience, Notice, Owed, Transition};
use crate::thresholds::Threshold;

/// An event's readings, as far as a threshold looks at them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting<'a> {
    /// The event's id.
    pub event: &'a str,
    /// When it was received. An array's readings share it, and come one after the other at the same moment.
    pub at: Timestamp,
    /// The values in the threshold's field, in the order of the readings that have one.
    pub values: Vec<f64>,
}

/// What a record holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// None where no reading has ever come.
    state: Option<State>,
    /// The events that were received in the very millisecond of the newest reading: each is known again when it comes
    /// again, and another one is still taken.
    seen: Vec<String>,
    /// How many changes there have been.
    changes: u64,
    owed: Vec<Owed>,
    look_at: Option<Timestamp>,
}

/// What became of a sighting.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// Its readings count; these are the changes that they made.
    Counts(Vec<Transition>),
    /// Its event had been seen.
    Again,
    /// It was received before what has been decided by.
    TooLate,
}

impl Standing {
    /// What this record holds; `None` where it cannot be read.
    pub fn read(record: &Record) -> Option<Self> {
        if record.version() == 0 {
            return Some(Self::default());
        }
        let item = &record.item;
        let moment = |name: &str| integer(item, name).map(Timestamp::from_millis);
        let is_stale = text(item, "state")? == Status::Stale.as_str();
        let state = State {
            is_alarmed: text(item, if is_stale { "before" } else { "state" })? == Status::Alarm.as_str(),
            is_stale,
            since: moment("since")?,
            seen_at: moment("seenAt")?,
            value: text(item, "value")?.parse().ok()?,
            hold_since: moment("holdSince"),
        };
        Some(Self {
            state: Some(state),
            seen: item.get("seen")?.as_ss().ok()?.clone(),
            changes: integer(item, "changes")?,
            owed: notice::owed(item)?,
            look_at: notice::look_at(item),
        })
    }

    /// The record's attributes. `now` is when it is written.
    pub fn item(&self, thing: &ThingName, now: Timestamp) -> Item {
        let Some(state) = &self.state else { return Item::new() };
        let before = State { is_stale: false, ..*state }.status();
        let mut item: Item = [
            ("state", string(state.status().as_str())),
            ("since", number(state.since.millis())),
            ("seenAt", number(state.seen_at.millis())),
            // A text: a number of DynamoDB's has a smaller range.
            ("value", string(format!("{:?}", state.value))),
            ("seen", AttributeValue::Ss(self.seen.clone())),
            ("changes", number(self.changes)),
            ("expiration", number(now.plus(KEPT).seconds())),
        ]
        .into_iter()
        .chain(state.hold_since.map(|since| ("holdSince", number(since.millis()))))
        .chain(state.is_stale.then(|| ("before", string(before.as_str()))))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        notice::set_owed(&mut item, thing.as_str(), &self.owed, self.look_at);
        item
    }

    /// Takes an event's readings in. The changes that they make are not owed yet.
    pub fn see(&mut self, threshold: &Threshold, thing: &ThingName, sighting: &Sighting<'_>) -> Seen {
        let &Sighting { event, at, ref values } = sighting;
        let newest = self.state.map(|state| state.seen_at);
        if newest == Some(at) && self.seen.iter().any(|seen| seen == event) {
            return Seen::Again;
        }
        let mut transitions = Vec::new();
        for &value in values {
            let Step::Now(state, change) = machine::step(threshold, self.state, Reading { at, value }) else {
                return Seen::TooLate;
            };
            self.state = Some(state);
            transitions.extend(change.map(|change| self.transition(threshold, thing, &change)));
        }
        if newest != Some(at) {
            self.seen.clear();
        }
        self.seen.push(event.to_owned());
        Seen::Counts(transitions)
    }

    /// Holds the silence until `now` against the threshold.
    pub fn hear_nothing(&mut self, threshold: &Threshold, thing: &ThingName, now: Timestamp) -> Option<Transition> {
        let (state, change) = machine::silence(threshold, self.state.as_ref()?, now)?;
        self.state = Some(state);
        Some(self.transition(threshold, thing, &change))
    }

    fn transition(&mut self, threshold: &Threshold, thing: &ThingName, change: &machine::Change) -> Transition {
        self.changes += 1;
        Transition::new(threshold, thing, change, self.changes)
    }

    /// Notes that a change is to be told.
    pub fn owe(&mut self, audience: Audience, transition: Transition, since: Timestamp) {
        self.owed.push(Owed { since, notice: Notice::Transition(audience, transition) });
    }

    /// Sets when somebody must look whether the device has fallen silent: never, where no threshold asks for it any
    /// more.
    ///
    /// A mark that stands in the table already is kept where it is not much too early: to look in vain costs a read now
    /// and then, to move the mark with each reading would cost a write of the index each time.
    pub fn watch(&mut self, threshold: Option<&Threshold>, now: Timestamp) {
        let silent_at = threshold.zip(self.state).and_then(|(threshold, state)| {
            let at = machine::silent_at(threshold, &state)?;
            Some((at, threshold.stale?.duration()))
        });
        self.look_at = silent_at.map(|(at, length)| {
            let is_good_enough = |mark: &Timestamp| *mark > now && (at.minus(length / 2)..=at).contains(mark);
            self.look_at.filter(is_good_enough).unwrap_or(at)
        });
    }

    /// When somebody must look whether the device has fallen silent.
    pub fn look_at(&self) -> Option<Timestamp> {
        self.look_at
    }
}
