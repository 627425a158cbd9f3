//! Holds each threshold against each device, and tells of each change of state.
//!
//! How a device stands by a threshold is a record in a table, written under optimistic locking. A batch reads each
//! record that its readings touch once, decides ([`machine`]), and writes it once, however many readings there are. The
//! notice of a change is stored in the same write, sent, and struck off: between any two of these the process may die,
//! and whoever comes next (the same batch again, or the schedule's check of what is due) sends what is still owed. So a
//! change is told at least once, under an id that stays the same.
//!
//! Devices that have fallen silent are found by the same check, through an index of the moments at which somebody must
//! look.
//!
//! Time is the time of receipt. It is what a batch is sorted by; a device's own clock is not looked at.

pub mod batch;
pub mod board;
mod job;
pub mod machine;
pub mod notice;
pub mod order;
pub mod standing;
pub mod storm;
pub mod thresholds;
pub mod words;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use futures_util::stream::{self, StreamExt};
use gatehouse::{
    Outcomes, BatchHandler, Invocation, DeviceEvent, Document, DocumentError, Environment, Failure, Idempotency, Incoming, InitError,
    Key, PublishError, IdempotencyError, Record, RecordError, Records, Setup, ThingName, Timestamp, Topic,
};

use crate::board::{NotFound, SHARDS};
use crate::job::{Decision, Job, Matter};
use crate::machine::Status;
use crate::notice::{Audience, Transition};
use crate::order::{Order, Task};
use crate::storm::Storms;
use crate::thresholds::{Threshold, Thresholds};

/// How many records one call reads, how many such calls are made at once, and how many records are written at once.
const READ_TOGETHER: usize = 100;
const READS_AT_ONCE: usize = 8;
const WRITES_AT_ONCE: usize = 16;

/// How many partitions of the index are looked through at once.
const SHARDS_AT_ONCE: usize = 4;

/// How often a record that others keep changing is tried.
const TRIES: usize = 5;

/// The handler of readings.
#[derive(Debug)]
pub struct Alarm {
    records: Records,
    document: Document<Thresholds>,
    storms: Storms,
    idempotency: Idempotency,
    topic: Topic,
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document could not be read, or put.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What stands in a record is not what is written there: it was changed by hand, or by a newer version of the
    /// function.
    #[error("the record {0}, {1} cannot be read")]
    Unreadable(String, String),
    /// The index could not be read.
    #[error(transparent)]
    Due(#[from] NotFound),
    /// It was not told now; the next try may.
    #[error(transparent)]
    NotTold(#[from] IdempotencyError<PublishError>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Document(error) => error.into(),
            Error::NotTold(error) => error.into(),
            other @ (Error::Record(_) | Error::Unreadable(..) | Error::Due(_)) => Self::retry(other),
        }
    }
}

impl Alarm {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        Self::from(setup.environment(), setup.dynamodb(), setup.idempotency()?, Topic::connect(setup).await?)
    }

    /// Reads `ALARMS_TABLE`, `STORM_NOTICES` (the changes of one threshold that people are told of within a window,
    /// default 20) and `STORM_WINDOW_SECONDS` (1 to 86,400, default 300).
    pub fn from(
        environment: &Environment,
        dynamodb: Client,
        idempotency: Idempotency,
        topic: Topic,
    ) -> Result<Self, InitError> {
        const DAY: u64 = 86_400;
        let seconds = environment.optional("STORM_WINDOW_SECONDS")?.unwrap_or(300);
        if !(1..=DAY).contains(&seconds) {
            return Err(Environment::invalid("STORM_WINDOW_SECONDS", seconds, &"it must be from 1 to 86400"));
        }
        let most = environment.optional("STORM_NOTICES")?.unwrap_or(20);
        let records = Records::new(dynamodb, environment.required::<String>("ALARMS_TABLE")?);
        Ok(Self {
            document: Document::new(records.clone(), "thresholds"),
            storms: Storms::new(records.clone(), most, Duration::from_secs(seconds)),
            records,
            idempotency,
            topic,
        })
    }

    /// Holds readings against the thresholds. A thing's events are answered once all that they touch is in place.
    async fn hold(
        &self,
        thresholds: &Thresholds,
        events: Vec<(usize, &DeviceEvent)>,
        answers: &mut Outcomes,
        invocation: &Invocation,
    ) {
        let mut groups = batch::group(thresholds, events);
        invocation.add("WithoutValue", groups.iter().map(|group| group.without_value).sum());
        let events: Vec<_> = groups.iter_mut().map(|group| std::mem::take(&mut group.events)).collect();
        let mut left: Vec<_> = groups.iter().map(|group| (group.held.len(), None)).collect();

        let mut jobs = Vec::new();
        let mut of_group = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            for (threshold, number) in &group.held {
                let Some(sightings) = group.series.get(*number) else { continue };
                let key = board::key(group.thing.as_str(), &threshold.name);
                let matter = Matter::Readings(sightings);
                jobs.push(Job { key, thing: group.thing, threshold: Some(threshold), matter });
                of_group.push(index);
            }
        }

        let mut events: Vec<_> = events.into_iter().map(Some).collect();
        let mut answer = |group: usize, failure: Option<Arc<Error>>| {
            for (index, refused) in events.get_mut(group).and_then(Option::take).into_iter().flatten() {
                let answer = match (&failure, refused) {
                    (Some(error), _) => Err(Failure::retry(Arc::clone(error))),
                    (None, Some(refusal)) => Err(refusal.into()),
                    (None, None) => Ok(()),
                };
                answers.set(index, answer);
            }
        };
        for (group, _) in left.iter().enumerate().filter(|(_, (jobs, _))| *jobs == 0) {
            answer(group, None);
        }
        self.settle_all(&jobs, invocation, |job, settled| {
            let Some(&group) = of_group.get(job) else { return };
            let Some((jobs, failure)) = left.get_mut(group) else { return };
            *jobs -= 1;
            if let Err(error) = settled {
                failure.get_or_insert(error);
            }
            if *jobs == 0 {
                answer(group, failure.take());
            }
        })
        .await;
    }

    /// Reads each job's record, decides, writes, and sends what is owed; `settled` hears of each job once.
    async fn settle_all(&self, jobs: &[Job<'_>], invocation: &Invocation, mut settled: impl FnMut(usize, Result<(), Arc<Error>>)) {
        let mut decided = Vec::with_capacity(jobs.len());
        let mut reads = stream::iter(jobs.chunks(READ_TOGETHER))
            .map(async |jobs| {
                let keys = jobs.iter().map(|Job { key: (id, part), .. }| (id.as_str(), part.as_str()));
                (jobs, self.records.get_all(keys).await)
            })
            .buffered(READS_AT_ONCE);
        let mut index = 0;
        while let Some((jobs, read)) = reads.next().await {
            let mut read = read.map_err(|error| Arc::new(Error::from(error)));
            for job in jobs {
                let decision = match &mut read {
                    Ok(records) => {
                        let record = records.remove(&job.key).unwrap_or_default();
                        job.decide(&record, invocation.now()).map(|decision| (record, decision)).map_err(Arc::new)
                    }
                    Err(error) => Err(Arc::clone(error)),
                };
                match decision {
                    Ok((record, decision)) => decided.push((index, job, record, decision)),
                    Err(error) => settled(index, Err(error)),
                }
                index += 1;
            }
        }

        let transitions = decided.iter().flat_map(|(.., decision)| &decision.transitions);
        let admitted = self.admit_all(transitions, invocation).await;
        let mut writes = stream::iter(decided)
            .map(async |(index, job, record, decision)| {
                (index, self.settle(job, record, decision, &admitted, invocation).await)
            })
            .buffer_unordered(WRITES_AT_ONCE);
        while let Some((index, result)) = writes.next().await {
            settled(index, result);
        }
    }

    /// Who is told of each of these changes, decided for all those of one threshold together.
    async fn admit_all<'a>(&self, transitions: impl Iterator<Item = &'a Transition>, invocation: &Invocation) -> Admitted {
        let mut by_threshold: BTreeMap<&str, Vec<&Transition>> = BTreeMap::new();
        for transition in transitions {
            by_threshold.entry(&transition.threshold).or_default().push(transition);
        }
        let mut admissions = stream::iter(by_threshold)
            .map(async |(threshold, transitions)| {
                let told = self.storms.admit(threshold, transitions.iter().copied(), invocation.now()).await;
                (threshold, transitions, told)
            })
            .buffered(READS_AT_ONCE);
        let mut admitted = Admitted::default();
        while let Some((threshold, transitions, told)) = admissions.next().await {
            match told {
                Ok(told) => admitted.told(&transitions, told),
                Err(error) => drop(admitted.failed.insert(threshold.to_owned(), Arc::new(error.into()))),
            }
        }
        admitted
    }

    async fn settle(
        &self,
        job: &Job<'_>,
        mut record: Record,
        mut decision: Decision,
        admitted: &Admitted,
        invocation: &Invocation,
    ) -> Result<(), Arc<Error>> {
        let (id, part) = &job.key;
        let mut later = Admitted::default();
        for _ in 0..TRIES {
            let Decision { mut standing, transitions, is_changed, too_late } = decision;
            if !is_changed {
                invocation.add("OutOfOrder", u64::try_from(too_late).unwrap_or(u64::MAX));
                return Ok(self.send_owed(&job.key, job.thing.as_str(), record, invocation).await?);
            }
            // Decided anew after a conflict, a change may be another one.
            let unknown: Vec<_> = transitions.iter().filter(|one| !admitted.knows(one) && !later.knows(one)).collect();
            if let Some(first) = unknown.first() {
                if let Some(error) = admitted.failed.get(&first.threshold) {
                    return Err(Arc::clone(error));
                }
                let told = self.storms.admit(&first.threshold, unknown.iter().copied(), invocation.now()).await;
                later.told(&unknown, told.map_err(Error::from)?);
            }
            let mut counts = vec![("OutOfOrder", u64::try_from(too_late).unwrap_or(u64::MAX))];
            for transition in transitions {
                let audience = admitted.audience(&transition).or(later.audience(&transition));
                let audience = audience.unwrap_or(Audience::People);
                counts.push((name_of(&transition), 1));
                counts.push(("Capped", u64::from(audience == Audience::Machines)));
                standing.owe(audience, transition, invocation.now());
            }
            let now = invocation.now();
            match self.records.put(id, part, standing.item(job.thing, now), &record).await {
                Ok(written) => {
                    for (metric, number) in counts {
                        invocation.add(metric, number);
                    }
                    return Ok(self.send_owed(&job.key, job.thing.as_str(), written, invocation).await?);
                }
                Err(RecordError::Conflict) => invocation.count("Conflicts"),
                Err(other) => return Err(Arc::new(other.into())),
            }
            record = self.records.get(id, part).await.map_err(Error::from)?;
            decision = job.decide(&record, invocation.now())?;
        }
        Err(Arc::new(RecordError::Conflict.into()))
    }

    /// Sends what a record owes, and strikes off what is sent. `name` is what the record is about.
    async fn send_owed(&self, key: &Key, name: &str, record: Record, invocation: &Invocation) -> Result<(), Error> {
        let unreadable = || Error::Unreadable(key.0.clone(), key.1.clone());
        let mut sent = HashSet::new();
        let mut outcome = Ok(());
        for owed in notice::owed(&record.item).ok_or_else(unreadable)? {
            let publish = self.topic.publish(owed.notice.notification());
            match self.idempotency.run_once(owed.notice.id(), invocation, publish).await {
                Ok(_) => drop(sent.insert(owed.notice.id().to_owned())),
                // Another invocation is sending it. Should that one fail, the notice is still owed, and found by the
                // check.
                Err(IdempotencyError::AlreadyInProgress) => {}
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        if !sent.is_empty() {
            self.strike_off(key, name, record, &sent).await?;
        }
        outcome
    }

    async fn strike_off(&self, key: &Key, name: &str, mut record: Record, sent: &HashSet<String>) -> Result<(), Error> {
        let (id, part) = key;
        for _ in 0..TRIES {
            let unreadable = || Error::Unreadable(id.clone(), part.clone());
            let mut owed = notice::owed(&record.item).ok_or_else(unreadable)?;
            let before = owed.len();
            owed.retain(|owed| !sent.contains(owed.notice.id()));
            if owed.len() == before {
                return Ok(());
            }
            let mut item = record.item.clone();
            let look_at = notice::look_at(&item);
            notice::set_owed(&mut item, name, &owed, look_at);
            match self.records.put(id, part, item, &record).await {
                Ok(_) => return Ok(()),
                Err(RecordError::Conflict) => record = self.records.get(id, part).await?,
                Err(other) => return Err(other.into()),
            }
        }
        Err(RecordError::Conflict.into())
    }

    /// Looks at all that is due: devices that may have fallen silent, notices that are still owed, storms that are
    /// over. `now` is when the schedule asked, so that readings that wait in the same queue are not taken for silence.
    ///
    /// What there is no time for is still due in a minute, when the schedule asks again.
    async fn check(&self, thresholds: &Thresholds, now: Timestamp, invocation: &Invocation) -> Result<(), Arc<Error>> {
        // Another partition comes first each minute: none is always the one that there is no time for.
        let first = now.seconds() / 60;
        let shards = (0..u64::from(SHARDS)).filter_map(|n| u8::try_from((first + n) % u64::from(SHARDS)).ok());
        let mut checks = stream::iter(shards)
            .map(async |shard| self.check_shard(&board::shard(shard), thresholds, now, invocation).await)
            .buffer_unordered(SHARDS_AT_ONCE);
        let mut outcome = Ok(());
        while let Some(checked) = checks.next().await {
            outcome = outcome.and(checked);
        }
        outcome
    }

    async fn check_shard(
        &self,
        shard: &str,
        thresholds: &Thresholds,
        now: Timestamp,
        invocation: &Invocation,
    ) -> Result<(), Arc<Error>> {
        let mut outcome = Ok(());
        let mut from = None;
        while !invocation.is_running_late() {
            let page = board::due(&self.records, shard, now, from).await.map_err(Error::from)?;
            outcome = outcome.and(self.check_page(page.keys, thresholds, now, invocation).await);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        outcome
    }

    async fn check_page(
        &self,
        keys: Vec<Key>,
        thresholds: &Thresholds,
        now: Timestamp,
        invocation: &Invocation,
    ) -> Result<(), Arc<Error>> {
        let mut outcome = Ok(());
        let mut devices = Vec::new();
        for key in keys {
            let (id, part) = &key;
            if let Some(threshold) = id.strip_prefix("storm#") {
                outcome = outcome.and(self.end_storm(&key, threshold, now, invocation).await.map_err(Arc::new));
                continue;
            }
            let thing = id.strip_prefix("thing#").and_then(|thing| ThingName::new(thing).ok());
            let threshold = part.strip_prefix("threshold#").map(str::to_owned);
            match thing.zip(threshold) {
                Some((thing, threshold)) => devices.push((key, thing, threshold)),
                None => outcome = outcome.and(Err(Arc::new(Error::Unreadable(key.0, key.1)))),
            }
        }
        let held = |thing: &ThingName, name: &str| -> Option<&Threshold> {
            thresholds.of(thing).find(|threshold| threshold.name == name)
        };
        let jobs: Vec<_> = devices
            .iter()
            .map(|(key, thing, name)| Job {
                key: key.clone(),
                thing,
                threshold: held(thing, name),
                matter: Matter::Silence(now),
            })
            .collect();
        let mut settled = Ok(());
        self.settle_all(&jobs, invocation, |_, result| {
            if settled.is_ok() {
                settled = result;
            }
        })
        .await;
        outcome.and(settled)
    }

    /// Sums a storm up if it is over, and sends the summary.
    async fn end_storm(&self, key: &Key, threshold: &str, now: Timestamp, invocation: &Invocation) -> Result<(), Error> {
        let (id, part) = key;
        for _ in 0..TRIES {
            let record = self.records.get(id, part).await?;
            let Some(item) = self.storms.end(threshold, &record, now) else {
                return self.send_owed(key, threshold, record, invocation).await;
            };
            match self.records.put(id, part, item, &record).await {
                Ok(written) => return self.send_owed(key, threshold, written, invocation).await,
                Err(RecordError::Conflict) => invocation.count("Conflicts"),
                Err(other) => return Err(other.into()),
            }
        }
        Err(RecordError::Conflict.into())
    }
}

/// The metric that counts a change.
fn name_of(transition: &Transition) -> &'static str {
    match (transition.from, transition.to) {
        (Status::Stale, _) => "Recovered",
        (_, Status::Stale) => "Stale",
        (_, Status::Alarm) => "Raised",
        (_, Status::Ok) => "Cleared",
    }
}

/// Who is told of which change, by its id.
#[derive(Debug, Default)]
struct Admitted {
    audiences: HashMap<String, Audience>,
    /// The thresholds for which it could not be decided.
    failed: HashMap<String, Arc<Error>>,
}

impl Admitted {
    /// People are told of the first so many, machines of all.
    fn told(&mut self, transitions: &[&Transition], people: usize) {
        for (index, transition) in transitions.iter().enumerate() {
            let audience = if index < people { Audience::People } else { Audience::Machines };
            self.audiences.insert(transition.id.clone(), audience);
        }
    }

    fn audience(&self, transition: &Transition) -> Option<Audience> {
        self.audiences.get(&transition.id).copied()
    }

    fn knows(&self, transition: &Transition) -> bool {
        self.audiences.contains_key(&transition.id)
    }
}

impl BatchHandler for Alarm {
    type Input = Incoming<Order>;

    async fn handle_batch(&self, inputs: &[Incoming<Order>], answers: &mut Outcomes, invocation: &Invocation) {
        let mut events = Vec::new();
        let mut checks = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            match input {
                Incoming::Event(event) => events.push((index, event)),
                Incoming::Command(command) => match command.order.read() {
                    Ok(Task::Check) => checks.push((index, command.received_at)),
                    Ok(Task::Put(document)) => {
                        let put = self.document.put(&document, command.received_at).await;
                        answers.set(index, put.map(drop).map_err(|error| Error::from(error).into()));
                    }
                    Err(refusal) => answers.set(index, Err(refusal.into())),
                },
            }
        }
        if events.is_empty() && checks.is_empty() {
            return;
        }
        let thresholds = match self.document.current().await {
            Ok(document) => document.unwrap_or_default(),
            Err(error) => {
                let error = Arc::new(Error::from(error));
                let indexes = events.iter().map(|(index, _)| index).chain(checks.iter().map(|(index, _)| index));
                indexes.for_each(|index| answers.set(*index, Err(Failure::retry(Arc::clone(&error)))));
                return;
            }
        };
        self.hold(&thresholds, events, answers, invocation).await;
        // After the readings, so that these are not taken for silence; and once, by the latest of the schedule's ticks.
        if let Some(now) = checks.iter().map(|(_, at)| *at).max() {
            let checked = self.check(&thresholds, now, invocation).await;
            for (index, _) in checks {
                answers.set(index, checked.clone().map_err(Failure::retry));
            }
        }
    }
}
