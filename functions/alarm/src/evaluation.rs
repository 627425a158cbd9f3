//! Evaluates devices by thresholds: reads their records, decides, writes them, and notifies.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use gatehouse::{Invocation, Key, ThingName, Timestamp, Update, VersionedItem, VersionedTable};

use crate::alarm_record::{Adoption, AlarmRecord, CurrentThreshold, Sample, SampleEffect};
use crate::due_index;
use crate::error::AlarmError;
use crate::notification::{Audience, Transition};
use crate::notification_limit::NotificationLimiter;
use crate::notifier::Notifier;
use crate::state_machine::AlarmState;

/// How many records one call reads, how many such calls run concurrently, and how many records are written
/// concurrently.
const RECORDS_PER_READ: usize = 100;
const MAX_CONCURRENT_READS: usize = 8;
const MAX_CONCURRENT_WRITES: usize = 16;

/// One device to be evaluated by one threshold.
#[derive(Debug)]
pub(crate) struct Evaluation<'a> {
    /// The key of its record.
    pub key: Key,
    /// The device.
    pub thing: &'a ThingName,
    /// The threshold.
    pub current: CurrentThreshold<'a>,
    /// Why it is evaluated.
    pub trigger: Trigger<'a>,
    /// The events that wait for it, by their indexes in the batch.
    pub events: &'a [usize],
}

/// Why a device is evaluated.
#[derive(Debug)]
pub(crate) enum Trigger<'a> {
    /// These samples have arrived, oldest first.
    Samples(&'a [Sample<'a>]),
    /// The schedule checks for missing data until this time.
    Schedule(Timestamp),
}

/// The result of an evaluation, before it is written.
#[derive(Debug)]
struct Evaluated {
    record: AlarmRecord,
    /// The transitions, which are not pending in the record yet.
    transitions: Vec<Transition>,
    is_changed: bool,
    /// How many values were received before the latest decision.
    out_of_order: usize,
}

impl Evaluation<'_> {
    fn evaluate(&self, record: &VersionedItem, now: Timestamp) -> Result<Evaluated, AlarmError> {
        let parsed = AlarmRecord::parse(record).ok_or_else(|| AlarmError::InvalidRecord(self.key.clone()))?;
        let mut evaluated = Evaluated { record: parsed, transitions: Vec::new(), is_changed: false, out_of_order: 0 };
        let threshold = self.current.threshold;
        match (evaluated.record.adopt(self.current, self.thing), &self.trigger) {
            (Adoption::Unchanged, _) => {}
            (Adoption::Changed(closing), _) => {
                evaluated.transitions.extend(closing);
                evaluated.is_changed = true;
            }
            (Adoption::Outdated, Trigger::Samples(_)) => return Err(AlarmError::Outdated),
            // The next check is by the later document.
            (Adoption::Outdated, Trigger::Schedule(_)) => return Ok(evaluated),
        }
        match (&self.trigger, threshold) {
            (Trigger::Samples(samples), Some(threshold)) => {
                for sample in *samples {
                    match evaluated.record.apply(threshold, self.thing, sample) {
                        SampleEffect::Applied(transitions) => {
                            evaluated.transitions.extend(transitions);
                            evaluated.is_changed = true;
                        }
                        SampleEffect::Duplicate => {}
                        SampleEffect::OutOfOrder => evaluated.out_of_order += sample.values.len(),
                    }
                }
                evaluated.record.schedule_check(Some(threshold), now);
            }
            (Trigger::Schedule(until), threshold) => {
                let stale = threshold.and_then(|found| evaluated.record.check_stale(found, self.thing, *until));
                evaluated.transitions.extend(stale);
                evaluated.record.schedule_check(threshold, now);
                let is_rescheduled = evaluated.record.next_check_at() != due_index::next_check_at(&record.item);
                evaluated.is_changed |= is_rescheduled || !evaluated.transitions.is_empty();
            }
            (Trigger::Samples(_), None) => {}
        }
        Ok(evaluated)
    }
}

/// Who receives each transition, by its id.
#[derive(Debug, Default)]
struct Admissions {
    audiences: HashMap<String, Audience>,
    /// The thresholds whose rate limit could not be updated.
    failed: HashMap<String, Arc<AlarmError>>,
}

impl Admissions {
    /// Adds transitions of one threshold. People receive the first `admitted` of them.
    fn insert(&mut self, transitions: &[&Transition], admitted: usize) {
        for (index, transition) in transitions.iter().enumerate() {
            let audience = if index < admitted { Audience::People } else { Audience::Machines };
            self.audiences.insert(transition.id.clone(), audience);
        }
    }

    fn audience(&self, transition: &Transition) -> Option<Audience> {
        self.audiences.get(&transition.id).copied()
    }

    /// The error for an evaluation whose transitions could not be counted.
    fn error(&self, evaluated: &Evaluated) -> Option<Arc<AlarmError>> {
        evaluated.transitions.first().and_then(|first| self.failed.get(&first.threshold)).cloned()
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
    /// Evaluates many devices together, each of them once. Calls `on_settled` for each as soon as its record is written
    /// and its notifications are sent, or one of the two has failed.
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

        let transitions = to_write.iter().flat_map(|(.., evaluated)| &evaluated.transitions);
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

    /// Counts transitions against the rate limit, those of each threshold together.
    async fn admit_all<'a>(
        &self,
        transitions: impl Iterator<Item = &'a Transition>,
        invocation: &Invocation,
    ) -> Admissions {
        let mut by_threshold: BTreeMap<&str, Vec<&Transition>> = BTreeMap::new();
        for transition in transitions {
            by_threshold.entry(&transition.threshold).or_default().push(transition);
        }
        let mut counted = stream::iter(by_threshold)
            .map(async |(threshold, transitions)| {
                let admitted = self.limiter.admit(threshold, &transitions, invocation).await;
                (threshold, transitions, admitted)
            })
            .buffered(MAX_CONCURRENT_READS);
        let mut admissions = Admissions::default();
        while let Some((threshold, transitions, admitted)) = counted.next().await {
            match admitted {
                Ok(admitted) => admissions.insert(&transitions, admitted),
                Err(error) => drop(admissions.failed.insert(threshold.to_owned(), Arc::new(error))),
            }
        }
        admissions
    }

    /// Writes a record that was read as `record`, and sends its pending notifications.
    async fn write(
        &self,
        evaluation: &Evaluation<'_>,
        record: VersionedItem,
        evaluated: Evaluated,
        admissions: &Admissions,
        invocation: &Invocation,
    ) -> Result<(), AlarmError> {
        let Evaluation { key, thing, .. } = evaluation;
        let mut evaluated = Some(evaluated);
        let mut late_admissions = Admissions::default();
        let updated = self.table.update_from(record, key, invocation, async |record| {
            let now = invocation.now();
            let Evaluated { record: mut new, transitions, is_changed, out_of_order } = match evaluated.take() {
                Some(evaluated) => evaluated,
                None => evaluation.evaluate(record, now)?,
            };
            let mut counts = vec![("OutOfOrder", u64::try_from(out_of_order).unwrap_or(u64::MAX))];
            if !is_changed {
                return Ok::<_, AlarmError>(Update::Keep(counts));
            }
            // After a conflict there may be other transitions than those that were counted.
            let audience = |one: &Transition| admissions.audience(one).or_else(|| late_admissions.audience(one));
            let uncounted: Vec<_> = transitions.iter().filter(|one| audience(one).is_none()).collect();
            if let Some(first) = uncounted.first() {
                let admitted = self.limiter.admit(&first.threshold, &uncounted, invocation).await?;
                late_admissions.insert(&uncounted, admitted);
            }
            for transition in transitions {
                let audience = admissions.audience(&transition).or_else(|| late_admissions.audience(&transition));
                let audience = audience.unwrap_or(Audience::People);
                counts.push((metric(&transition), 1));
                counts.push(("RateLimited", u64::from(audience == Audience::Machines)));
                new.enqueue(audience, transition, now);
            }
            Ok(Update::Write(new.item(thing, now)?, counts))
        });
        let updated = updated.await?;
        for (metric, number) in updated.value {
            invocation.add(metric, number);
        }
        Ok(self.notifier.send_pending(key, thing.as_str(), updated.record, invocation).await?)
    }
}

/// The metric that counts a transition.
fn metric(transition: &Transition) -> &'static str {
    match (transition.from, transition.to) {
        (_, AlarmState::Closed) => "Closed",
        (AlarmState::Stale, _) => "Recovered",
        (_, AlarmState::Stale) => "Stale",
        (_, AlarmState::Alarm) => "Raised",
        (_, AlarmState::Ok) => "Cleared",
    }
}
