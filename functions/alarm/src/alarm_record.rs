//! What the table holds about one device and one threshold: its status, and the notifications that are pending.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::{integer, number, string, text};
use gatehouse::{Item, Key, ThingName, Timestamp, VersionedItem};

use crate::due_index;
use crate::error::AlarmError;
use crate::notification::{self, AlarmNotification, Audience, PendingNotification, Transition};
use crate::state_machine::{self, AlarmState, AlarmStatus, StateChange, Step};
use crate::thresholds::Threshold;

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
    pub values: Vec<f64>,
}

/// A device's record for a threshold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlarmRecord {
    /// `None` before the first value.
    status: Option<AlarmStatus>,
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
        let is_stale = text(item, "state")? == AlarmState::Stale.as_str();
        let status = AlarmStatus {
            is_alarmed: text(item, if is_stale { "before" } else { "state" })? == AlarmState::Alarm.as_str(),
            is_stale,
            since: time("since")?,
            seen_at: time("seenAt")?,
            value: text(item, "value")?.parse().ok()?,
            condition_since: time("holdSince"),
        };
        Some(Self {
            status: Some(status),
            seen: item.get("seen")?.as_ss().ok()?.clone(),
            changes: integer(item, "changes")?,
            pending: notification::pending(item).ok()?,
            next_check_at: due_index::next_check_at(item),
        })
    }

    /// Returns the record's attributes as they are written at `now`.
    pub(crate) fn item(&self, thing: &ThingName, now: Timestamp) -> Result<Item, AlarmError> {
        let Some(status) = &self.status else { return Ok(Item::new()) };
        let before = AlarmStatus { is_stale: false, ..*status }.state();
        let mut item: Item = [
            ("state", string(status.state().as_str())),
            ("since", number(status.since.millis())),
            ("seenAt", number(status.seen_at.millis())),
            // A string, because DynamoDB's numbers have a smaller range.
            ("value", string(format!("{:?}", status.value))),
            ("seen", AttributeValue::Ss(self.seen.clone())),
            ("changes", number(self.changes)),
            ("expiration", number(now.plus(RETENTION).seconds())),
        ]
        .into_iter()
        .chain(status.condition_since.map(|since| ("holdSince", number(since.millis()))))
        .chain(status.is_stale.then(|| ("before", string(before.as_str()))))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        notification::set_pending(&mut item, thing.as_str(), &self.pending, self.next_check_at)?;
        Ok(item)
    }

    /// Applies an event's values. The transitions are not pending yet.
    pub fn apply(&mut self, threshold: &Threshold, thing: &ThingName, sample: &Sample<'_>) -> SampleEffect {
        let &Sample { event, at, ref values } = sample;
        let newest = self.status.map(|status| status.seen_at);
        if newest == Some(at) && self.seen.iter().any(|seen| seen == event) {
            return SampleEffect::Duplicate;
        }
        let mut transitions = Vec::new();
        for &value in values {
            let Step::Next(status, change) = state_machine::apply(threshold, self.status, at, value) else {
                return SampleEffect::OutOfOrder;
            };
            self.status = Some(status);
            transitions.extend(change.map(|change| self.transition(threshold, thing, &change)));
        }
        if newest != Some(at) {
            self.seen.clear();
        }
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

    /// Schedules the check for missing data; none if no threshold asks for it any more.
    ///
    /// A check that is scheduled already is kept unless it is much too early: an unnecessary check costs one read now
    /// and then, moving it with each sample would cost a write to the index each time.
    pub fn schedule_check(&mut self, threshold: Option<&Threshold>, now: Timestamp) {
        let stale = threshold.zip(self.status).and_then(|(threshold, status)| {
            Some((state_machine::stale_at(threshold, &status)?, threshold.stale?.duration()))
        });
        self.next_check_at = stale.map(|(stale_at, duration)| {
            let is_good_enough = |at: &Timestamp| *at > now && (stale_at.minus(duration / 2)..=stale_at).contains(at);
            self.next_check_at.filter(is_good_enough).unwrap_or(stale_at)
        });
    }

    /// When the device must be checked for missing data.
    pub fn next_check_at(&self) -> Option<Timestamp> {
        self.next_check_at
    }
}
