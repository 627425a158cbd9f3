//! Evaluates rules for devices: reads their records, decides, writes the records, and notifies.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use gatehouse::{DataState, Invocation, Key, MessageKind, ThingName, Timestamp, Update, VersionedItem, VersionedTable};

use crate::alarm_record::{Adoption, AlarmRecord, Announcement, CurrentRule, Sample, SampleEffect};
use crate::alarm_state::ActionCommand;
use crate::error::AlarmError;
use crate::history::HistoryCause;
use crate::notification::{Audience, Transition};
use crate::notification_limit::NotificationLimiter;
use crate::notifier::Notifier;

/// The number of records per read call, and the maximum numbers of concurrent read calls and of concurrent writes, which
/// share calls.
const RECORDS_PER_READ: usize = 100;
const MAX_CONCURRENT_READS: usize = 8;
const MAX_CONCURRENT_WRITES: usize = 50;

/// The evaluation of one rule for one device.
#[derive(Debug)]
pub(crate) struct Evaluation<'a> {
    /// The key of its record.
    pub key: Key,
    /// The device.
    pub thing: &'a ThingName,
    /// The rule.
    pub current: CurrentRule<'a>,
    /// Why it is evaluated.
    pub trigger: Trigger<'a>,
    /// The events whose outcomes depend on it, by their indexes in the batch.
    pub events: &'a [usize],
}

/// Why a device is evaluated.
#[derive(Debug)]
pub(crate) enum Trigger<'a> {
    /// These samples have arrived, oldest first.
    Samples(&'a [Sample<'a>]),
    /// The schedule checks for what is due by this time.
    Schedule(Timestamp),
    /// The scheduled check at the second time finds that the device, expected since the first time, should have
    /// reported.
    NeverReported(Timestamp, Timestamp),
    /// A person performs an action.
    Action(&'a ActionCommand),
}

/// The result of an evaluation, before it is written.
#[derive(Debug)]
struct Evaluated {
    record: AlarmRecord,
    /// The announcements, which are not pending in the record yet.
    announcements: Vec<Announcement>,
    is_changed: bool,
    /// How many readings were received before the latest decision.
    out_of_order: usize,
    /// How many readings lacked the values to decide anything.
    undecided: usize,
}

impl Evaluation<'_> {
    fn evaluate(&self, record: &VersionedItem, now: Timestamp) -> Result<Evaluated, AlarmError> {
        let mut record = AlarmRecord::parse(record).ok_or_else(|| AlarmError::InvalidRecord(self.key.clone()))?;
        let Self { current, thing, .. } = *self;
        // The schedule and people change few records, so they are compared as a whole. For the other triggers, each step
        // reports whether it changed the record.
        let before = matches!(self.trigger, Trigger::Schedule(_) | Trigger::Action(_)).then(|| record.clone());
        let (mut announcements, mut is_changed, mut out_of_order, mut undecided) = (Vec::new(), false, 0, 0);
        match (record.adopt(current, thing), &self.trigger) {
            (Adoption::Unchanged, _) => {}
            (Adoption::Changed(closing), _) => {
                announcements.extend(closing.map(|closing| *closing));
                is_changed = true;
            }
            (Adoption::Outdated, Trigger::Samples(_) | Trigger::Action(_)) => return Err(AlarmError::Outdated),
            // The next check uses the later document.
            (Adoption::Outdated, Trigger::Schedule(_) | Trigger::NeverReported(..)) => {
                return Ok(Evaluated { record, announcements, is_changed: false, out_of_order, undecided });
            }
        }
        match (&self.trigger, current.rule) {
            (Trigger::Samples(samples), Some(rule)) => {
                for sample in *samples {
                    match record.apply(current, rule, thing, sample) {
                        SampleEffect::Applied { announcements: more, undecided: nothing, is_changed: changes } => {
                            announcements.extend(more);
                            undecided += nothing;
                            is_changed |= changes;
                        }
                        SampleEffect::Duplicate => {}
                        SampleEffect::OutOfOrder => out_of_order += sample.readings.len(),
                    }
                }
            }
            (Trigger::Schedule(until), _) => announcements.extend(record.check(current, thing, *until)),
            (Trigger::NeverReported(since, now), Some(rule)) => {
                announcements.extend(record.check_never_reported(current, rule, thing, (*since, *now)));
                is_changed |= !announcements.is_empty();
            }
            (Trigger::Action(command), _) => announcements.extend(record.perform(current, thing, command)?),
            (Trigger::Samples(_) | Trigger::NeverReported(..), None) => {}
        }
        record.schedule_check(current.rule, now);
        is_changed |= before.is_some_and(|before| before != record);
        Ok(Evaluated { record, announcements, is_changed, out_of_order, undecided })
    }
}

/// Which transitions people receive individually, by their ids.
#[derive(Debug, Default)]
struct Admissions {
    audiences: HashMap<String, Audience>,
    /// The rules whose rate limit could not be updated.
    failed: HashMap<String, Arc<AlarmError>>,
}

/// Whether an announcement counts against the rate limit.
fn is_for_people(announcement: &Announcement) -> bool {
    announcement.audience == Audience::People
}

impl Admissions {
    /// Adds transitions of one rule. People receive the first `admitted` of them individually.
    fn insert(&mut self, transitions: &[&Transition], admitted: usize) {
        for (index, transition) in transitions.iter().enumerate() {
            let audience = if index < admitted { Audience::People } else { Audience::Machines };
            self.audiences.insert(transition.id.clone(), audience);
        }
    }

    /// Returns who receives an announcement; `None` if it counts against the rate limit, but has not been counted.
    fn audience(&self, announcement: &Announcement) -> Option<Audience> {
        match announcement.audience {
            Audience::People => self.audiences.get(&announcement.transition.id).copied(),
            other => Some(other),
        }
    }

    /// Returns the error if the transitions of this evaluation could not be counted.
    fn error(&self, evaluated: &Evaluated) -> Option<Arc<AlarmError>> {
        let first = evaluated.announcements.iter().find(|announcement| is_for_people(announcement))?;
        self.failed.get(&first.transition.threshold).cloned()
    }
}

/// Evaluates devices against the records in the alarms table.
#[derive(Debug)]
pub(crate) struct Evaluator {
    pub table: VersionedTable,
    pub limiter: NotificationLimiter,
    pub notifier: Notifier,
}

impl Evaluator {
    /// Performs many evaluations together, each device and rule once. Calls `on_settled` for each as soon as its record
    /// is written and its notifications are sent, or one of the two has failed.
    pub async fn evaluate_all(
        &self,
        evaluations: &[Evaluation<'_>],
        invocation: &Invocation,
        mut on_settled: impl FnMut(&Evaluation<'_>, Result<(), Arc<AlarmError>>),
    ) {
        let mut to_write = Vec::with_capacity(evaluations.len());
        let mut reads = stream::iter(evaluations.chunks(RECORDS_PER_READ))
            .map(async |chunk| (chunk, self.table.get_all(chunk.iter().map(|evaluation| &evaluation.key)).await))
            .buffered(MAX_CONCURRENT_READS);
        while let Some((chunk, records)) = reads.next().await {
            let mut records = records.map_err(|error| Arc::new(AlarmError::from(error)));
            for evaluation in chunk {
                let evaluated = records.as_mut().map_err(|error| Arc::clone(error)).and_then(|records| {
                    let record = records.remove(&evaluation.key).unwrap_or_default();
                    let evaluated = evaluation.evaluate(&record, invocation.now()).map_err(Arc::new)?;
                    Ok((evaluation, record, evaluated))
                });
                match evaluated {
                    Ok(evaluated) => to_write.push(evaluated),
                    Err(error) => on_settled(evaluation, Err(error)),
                }
            }
        }

        let announcements = to_write.iter().flat_map(|(.., evaluated)| &evaluated.announcements);
        let transitions = announcements.filter(|one| is_for_people(one)).map(|one| &one.transition);
        let admissions = self.admit_all(transitions, invocation).await;
        let mut writes = stream::iter(to_write)
            .map(async |(evaluation, record, evaluated)| {
                let result = if let Some(error) = admissions.error(&evaluated) {
                    Err(error)
                } else {
                    let written = self.write(evaluation, record, evaluated, &admissions, invocation).await;
                    written.map_err(Arc::new)
                };
                (evaluation, result)
            })
            .buffer_unordered(MAX_CONCURRENT_WRITES);
        while let Some((evaluation, result)) = writes.next().await {
            on_settled(evaluation, result);
        }
    }

    /// Counts transitions against the rate limits, in one update per rule.
    async fn admit_all<'a>(
        &self,
        transitions: impl Iterator<Item = &'a Transition>,
        invocation: &Invocation,
    ) -> Admissions {
        let mut by_rule: BTreeMap<&str, Vec<&Transition>> = BTreeMap::new();
        for transition in transitions {
            by_rule.entry(&transition.threshold).or_default().push(transition);
        }
        let mut counted = stream::iter(by_rule)
            .map(async |(rule, transitions)| {
                let admitted = self.limiter.admit(rule, &transitions, invocation).await;
                (rule, transitions, admitted)
            })
            .buffered(MAX_CONCURRENT_READS);
        let mut admissions = Admissions::default();
        while let Some((rule, transitions, admitted)) = counted.next().await {
            match admitted {
                Ok(admitted) => admissions.insert(&transitions, admitted),
                Err(error) => drop(admissions.failed.insert(rule.to_owned(), Arc::new(error))),
            }
        }
        admissions
    }

    /// Writes the evaluated record in place of `record`, and sends its pending notifications.
    async fn write(
        &self,
        evaluation: &Evaluation<'_>,
        record: VersionedItem,
        evaluated: Evaluated,
        admissions: &Admissions,
        invocation: &Invocation,
    ) -> Result<(), AlarmError> {
        let Evaluation { key, thing, current, .. } = evaluation;
        let mut evaluated = Some(evaluated);
        let mut late_admissions = Admissions::default();
        let updated = self.table.update_from(record, key, invocation, async |record| {
            let now = invocation.now();
            let evaluated = match evaluated.take() {
                Some(evaluated) => evaluated,
                None => evaluation.evaluate(record, now)?,
            };
            let Evaluated { record: mut new, announcements, is_changed, out_of_order, undecided } = evaluated;
            let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            let mut counts = vec![("OutOfOrder", number(out_of_order)), ("MissingValue", number(undecided))];
            if !is_changed {
                return Ok::<_, AlarmError>(Update::Keep(counts));
            }
            // After a conflict, the transitions may differ from those that were counted.
            let audience = |one: &Announcement| admissions.audience(one).or_else(|| late_admissions.audience(one));
            let uncounted = announcements.iter().filter(|one| audience(one).is_none()).map(|one| &one.transition);
            let uncounted: Vec<_> = uncounted.collect();
            if let Some(first) = uncounted.first() {
                let admitted = self.limiter.admit(&first.threshold, &uncounted, invocation).await?;
                late_admissions.insert(&uncounted, admitted);
            }
            for announcement in announcements {
                let audience = admissions.audience(&announcement).or_else(|| late_admissions.audience(&announcement));
                let audience = audience.unwrap_or(Audience::People);
                counts.push((metric(&announcement), 1));
                let is_limited = announcement.audience == Audience::People && audience == Audience::Machines;
                counts.push(("RateLimited", u64::from(is_limited)));
                new.enqueue(announcement, audience, now);
            }
            Ok(Update::Write(new.item(thing, current.version, now)?, counts))
        });
        let updated = updated.await?;
        for (metric, number) in updated.value {
            invocation.add(metric, number);
        }
        Ok(self.notifier.send_pending(key, thing.as_str(), updated.record, invocation).await?)
    }
}

fn metric(announcement: &Announcement) -> &'static str {
    let transition = &announcement.transition;
    match (transition.kind, transition.from, transition.to) {
        (MessageKind::Repeat, ..) => "Repeated",
        (MessageKind::State, ..) if announcement.cause() == Some(HistoryCause::Action) => "Handled",
        (MessageKind::State, ..) => "StateEnded",
        (MessageKind::Severity, ..) => "SeverityChanged",
        (MessageKind::Transition, _, DataState::Closed) => "Closed",
        (MessageKind::Transition, DataState::Stale, _) => "Recovered",
        (MessageKind::Transition, _, DataState::Stale) => "Stale",
        (MessageKind::Transition, _, DataState::Alarm) => "Raised",
        (MessageKind::Transition, _, DataState::Ok) => "Cleared",
    }
}
