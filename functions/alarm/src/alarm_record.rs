//! What the table holds about one device and one threshold: its status, and the notifications that are pending.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::{integer, number, string, text};
use gatehouse::{Item, Key, Number, ThingName, Timestamp, VersionedItem};

use crate::due_index;
use crate::error::AlarmError;
use crate::notification::{self, AlarmNotification, Audience, PendingNotification, Transition};
use crate::state_machine::{self, AlarmState, AlarmStatus, StateChange, Step};
use crate::thresholds::{Definition, Threshold};

/// How often a state other than OK is checked for whether its threshold still applies, even if no data arrives.
pub const RECHECK_INTERVAL: Duration = Duration::from_mins(10);

/// How long a record is kept after its last write: longer than the longest gap that a threshold may allow.
pub const RETENTION: Duration = Duration::from_hours(24 * 400);

/// The values that one event has in a threshold's field.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The event's id.
    pub event: &'a str,
    /// When it was received. All readings of an array share this time, and keep their order.
    pub at: Timestamp,
    /// The values, in the order of the readings that have one.
    pub values: Vec<Number>,
}

/// The threshold that applies to a device now.
#[derive(Debug, Clone, Copy)]
pub struct CurrentThreshold<'a> {
    /// Its name.
    pub name: &'a str,
    /// `None` if there is none of this name for the device any more.
    pub threshold: Option<&'a Threshold>,
    /// When the document was given that says so.
    pub given_at: Timestamp,
}

/// The effect of the threshold that applies now on a record that may be by an earlier definition.
#[derive(Debug, Clone, PartialEq)]
pub enum Adoption {
    /// None: the definition is the same, or the record has no state that would have to end.
    Unchanged,
    /// The record starts anew, with this transition if its state was another one than OK.
    Changed(Option<Transition>),
    /// None: a later document has changed the record.
    Outdated,
}

/// A device's record for a threshold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlarmRecord {
    /// `None` before the first value by the current definition.
    status: Option<AlarmStatus>,
    /// The definition that the status is by, as JSON; `None` if there is none, or if the record is older than this field.
    definition: Option<String>,
    /// When the document was given that the definition was first taken from.
    given_at: Timestamp,
    /// Until when an earlier definition decided.
    closed_at: Option<Timestamp>,
    /// When the newest value was received, by any definition.
    seen_at: Option<Timestamp>,
    /// The events received in the same millisecond as the newest value. A repeated one is recognized, and another one
    /// still counts.
    seen: Vec<String>,
    /// How many state changes there have been.
    changes: u64,
    pending: Vec<PendingNotification>,
    next_check_at: Option<Timestamp>,
}

/// The effect of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleEffect {
    /// It was applied, with these transitions.
    Applied(Vec<Transition>),
    /// None: its event was applied before.
    Duplicate,
    /// None: it was received before the latest decision.
    OutOfOrder,
}

/// The key of a device's record for a threshold.
pub fn key(thing: &str, threshold: &str) -> Key {
    Key::new(format!("thing#{thing}"), format!("threshold#{threshold}"))
}

/// Returns the device and the threshold of a record's key.
pub fn parse_key(key: &Key) -> Option<(ThingName, &str)> {
    let thing = ThingName::new(key.pk.strip_prefix("thing#")?).ok()?;
    Some((thing, key.sk.as_deref()?.strip_prefix("threshold#")?))
}

impl AlarmRecord {
    /// Parses a record; `None` if it is not valid.
    pub fn parse(record: &VersionedItem) -> Option<Self> {
        if record.version() == 0 {
            return Some(Self::default());
        }
        let item = &record.item;
        let time = |name: &str| integer(item, name).map(Timestamp::from_millis);
        let state = text(item, "state")?;
        let is_stale = state == AlarmState::Stale.as_str();
        let is_closed = state == AlarmState::Closed.as_str();
        let status = || -> Option<AlarmStatus> {
            Some(AlarmStatus {
                is_alarmed: text(item, if is_stale { "before" } else { "state" })? == AlarmState::Alarm.as_str(),
                is_stale,
                since: time("since")?,
                seen_at: time("seenAt")?,
                value: text(item, "value")?.parse().ok()?,
                condition_since: time("holdSince"),
            })
        };
        Some(Self {
            status: if is_closed { None } else { Some(status()?) },
            definition: text(item, "definition").map(str::to_owned),
            given_at: time("definedAt").unwrap_or(Timestamp::from_millis(0)),
            closed_at: if is_closed { Some(time("since")?) } else { None },
            seen_at: Some(time("seenAt")?),
            seen: item.get("seen")?.as_ss().ok()?.clone(),
            changes: integer(item, "changes")?,
            pending: notification::pending(item).ok()?,
            next_check_at: due_index::next_check_at(item),
        })
    }

    /// Returns the record's attributes as they are written at `now`.
    pub(crate) fn item(&self, thing: &ThingName, now: Timestamp) -> Result<Item, AlarmError> {
        let (Some(seen_at), Some(since)) =
            (self.seen_at, self.status.as_ref().map(|status| status.since).or(self.closed_at))
        else {
            return Ok(Item::new());
        };
        let state = self.status.as_ref().map_or(AlarmState::Closed, AlarmStatus::state);
        let mut item: Item = [
            ("state", string(state.as_str())),
            ("since", number(since.millis())),
            ("seenAt", number(seen_at.millis())),
            ("seen", AttributeValue::Ss(self.seen.clone())),
            ("changes", number(self.changes)),
            ("definedAt", number(self.given_at.millis())),
            ("expiration", number(now.plus(RETENTION).seconds())),
        ]
        .into_iter()
        .chain(self.definition.as_ref().map(|definition| ("definition", string(definition))))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(status) = &self.status {
            let mut set = |name: &str, value| item.insert(name.to_owned(), value);
            // A string, because DynamoDB's numbers have a smaller range.
            set("value", string(status.value.as_str()));
            if let Some(since) = status.condition_since {
                set("holdSince", number(since.millis()));
            }
            if status.is_stale {
                let before = if status.is_alarmed { AlarmState::Alarm } else { AlarmState::Ok };
                set("before", string(before.as_str()));
            }
        }
        notification::set_pending(&mut item, thing.as_str(), &self.pending, self.next_check_at)?;
        Ok(item)
    }

    /// Starts anew if the record is by another definition than the threshold's current one, or if its threshold no
    /// longer applies. The transition is not pending yet.
    ///
    /// The result is the same whatever triggers it and when. Values that were received before the last decision by the
    /// earlier definition still change nothing, and events that were applied are still recognized.
    pub fn adopt(&mut self, current: CurrentThreshold<'_>, thing: &ThingName) -> Adoption {
        let CurrentThreshold { name, threshold, given_at } = current;
        let definition = threshold.map(Threshold::definition);
        let old = self.definition.as_deref();
        let parse = |definition: Option<&str>| serde_json::from_str::<Definition>(definition?).ok();
        let is_same = match definition {
            // The texts differ, too, if a number is only spelled in another way.
            Some(new) => old == Some(new) || parse(old).is_some_and(|old| parse(Some(new)) == Some(old)),
            // An OK state need not end: the threshold may come back.
            None => self.status.as_ref().is_none_or(|status| status.state() == AlarmState::Ok),
        };
        if is_same {
            return Adoption::Unchanged;
        }
        if given_at < self.given_at {
            return Adoption::Outdated;
        }
        let is_new = old.is_none() && definition.is_some() && self.closed_at.is_none();
        let field = parse(old).map_or_else(String::new, |old| old.field);
        self.definition = definition.map(str::to_owned);
        self.given_at = given_at;
        // A record without a definition is new, or older than definitions.
        if is_new {
            return Adoption::Unchanged;
        }
        let Some(status) = self.status.take() else { return Adoption::Changed(None) };
        self.closed_at = Some(status.decided_until());
        let is_removed = threshold.is_none();
        let closing = (status.state() != AlarmState::Ok).then(|| {
            self.changes += 1;
            Transition::closing((name, field), thing, &status, is_removed, self.changes)
        });
        Adoption::Changed(closing)
    }

    /// Applies an event's values. The transitions are not pending yet.
    pub fn apply(&mut self, threshold: &Threshold, thing: &ThingName, sample: &Sample<'_>) -> SampleEffect {
        let &Sample { event, at, ref values } = sample;
        let newest = self.seen_at;
        if newest == Some(at) && self.seen.iter().any(|seen| seen == event) {
            return SampleEffect::Duplicate;
        }
        if self.status.is_none() && self.closed_at.is_some_and(|closed_at| at < closed_at) {
            return SampleEffect::OutOfOrder;
        }
        let mut transitions = Vec::new();
        for value in values {
            let Step::Next(status, change) = state_machine::apply(threshold, self.status.as_ref(), at, value) else {
                return SampleEffect::OutOfOrder;
            };
            self.status = Some(status);
            transitions.extend(change.map(|change| self.transition(threshold, thing, &change)));
        }
        if newest != Some(at) {
            self.seen.clear();
        }
        (self.seen_at, self.closed_at) = (Some(at), None);
        self.seen.push(event.to_owned());
        SampleEffect::Applied(transitions)
    }

    /// Makes the device stale if there has been no data for too long by `now`.
    pub fn check_stale(&mut self, threshold: &Threshold, thing: &ThingName, now: Timestamp) -> Option<Transition> {
        let (status, change) = state_machine::check_stale(threshold, self.status.as_ref()?, now)?;
        self.status = Some(status);
        Some(self.transition(threshold, thing, &change))
    }

    fn transition(&mut self, threshold: &Threshold, thing: &ThingName, change: &StateChange) -> Transition {
        self.changes += 1;
        Transition::new(threshold, thing, change, self.changes)
    }

    /// Adds a transition to the pending notifications.
    pub fn enqueue(&mut self, audience: Audience, transition: Transition, since: Timestamp) {
        let notification = AlarmNotification::Transition(audience, transition);
        self.pending.push(PendingNotification { since, notification });
    }

    /// Schedules the check for missing data, if the threshold asks for it, and for whether a state other than OK still
    /// has a threshold.
    ///
    /// A check that is scheduled already is kept unless it is much too early: an unnecessary check costs one read now
    /// and then, moving it with each sample would cost a write to the index each time.
    pub fn schedule_check(&mut self, threshold: Option<&Threshold>, now: Timestamp) {
        let stale = threshold.zip(self.status.as_ref()).and_then(|(threshold, status)| {
            Some((state_machine::stale_at(threshold, status)?, threshold.stale?.duration()))
        });
        let is_open = self.status.as_ref().is_some_and(|status| status.state() != AlarmState::Ok);
        let recheck = is_open.then(|| (now.plus(RECHECK_INTERVAL), RECHECK_INTERVAL));
        self.next_check_at = stale.into_iter().chain(recheck).min().map(|(due_at, interval)| {
            let is_good_enough = |at: &Timestamp| *at > now && (due_at.minus(interval / 2)..=due_at).contains(at);
            self.next_check_at.filter(is_good_enough).unwrap_or(due_at)
        });
    }

    /// When the device must be checked for missing data.
    pub fn next_check_at(&self) -> Option<Timestamp> {
        self.next_check_at
    }
}
