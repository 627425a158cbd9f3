//! One device by one threshold: what there is to decide, and the decision.

use gatehouse::{Key, Record, ThingName, Timestamp};

use crate::Error;
use crate::notice::{self, Transition};
use crate::standing::{Seen, Sighting, Standing};
use crate::thresholds::Threshold;

/// What there is to decide.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// Where the record stands.
    pub key: Key,
    /// The thing.
    pub thing: &'a ThingName,
    /// The threshold; `None` where it is not held against the thing any more.
    pub threshold: Option<&'a Threshold>,
    /// By what it is decided.
    pub matter: Matter<'a>,
}

/// By what is decided.
#[derive(Debug)]
pub(crate) enum Matter<'a> {
    /// By readings, the oldest first.
    Readings(&'a [Sighting<'a>]),
    /// By there having been none until this moment.
    Silence(Timestamp),
}

/// What was decided.
#[derive(Debug)]
pub(crate) struct Decision {
    /// How the device stands from now on.
    pub standing: Standing,
    /// The changes, which are not owed yet.
    pub transitions: Vec<Transition>,
    /// Whether there is anything to write.
    pub is_changed: bool,
    /// The readings that came too late to be decided by.
    pub too_late: usize,
}

impl Job<'_> {
    /// Decides by what the record says.
    pub fn decide(&self, record: &Record, now: Timestamp) -> Result<Decision, Error> {
        let unreadable = || Error::Unreadable(self.key.0.clone(), self.key.1.clone());
        let standing = Standing::read(record).ok_or_else(unreadable)?;
        let mut decision = Decision { standing, transitions: Vec::new(), is_changed: false, too_late: 0 };
        match (&self.matter, self.threshold) {
            (Matter::Readings(sightings), Some(threshold)) => {
                for sighting in *sightings {
                    match decision.standing.see(threshold, self.thing, sighting) {
                        Seen::Counts(transitions) => {
                            decision.transitions.extend(transitions);
                            decision.is_changed = true;
                        }
                        Seen::Again => {}
                        Seen::TooLate => decision.too_late += sighting.values.len(),
                    }
                }
                decision.standing.watch(Some(threshold), now);
            }
            (Matter::Silence(until), threshold) => {
                let silence = threshold.and_then(|held| decision.standing.hear_nothing(held, self.thing, *until));
                decision.transitions.extend(silence);
                decision.standing.watch(threshold, now);
                let is_moved = decision.standing.look_at() != notice::look_at(&record.item);
                decision.is_changed = is_moved || !decision.transitions.is_empty();
            }
            (Matter::Readings(_), None) => {}
        }
        Ok(decision)
    }
}
