use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::timestamp::Timestamp;

/// What an invocation keeps back to quarantine and to answer.
const ANSWERING: Duration = Duration::from_secs(1);

/// One invocation of the function: when it began, when it must end, and what it counted.
#[derive(Debug)]
pub struct Call {
    request_id: String,
    began: (Timestamp, Instant),
    deadline: Timestamp,
    cutoff: Timestamp,
    counters: Mutex<BTreeMap<&'static str, u64>>,
}

impl Call {
    /// An invocation that begins now, by this clock, and that Lambda ends at `deadline`.
    pub fn new(request_id: impl Into<String>, now: Timestamp, deadline: Timestamp) -> Self {
        let cutoff = now.plus(deadline.since(now).mul_f32(0.8)).max(deadline.minus(ANSWERING));
        Self {
            request_id: request_id.into(),
            began: (now, Instant::now()),
            deadline,
            cutoff,
            counters: Mutex::default(),
        }
    }

    /// Lambda's request id. It stays the same when Lambda retries an asynchronous invocation.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        let (at, instant) = self.began;
        at.plus(instant.elapsed())
    }

    /// When Lambda ends this invocation, whatever it is doing.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// How long handlers may go on: until a second before the deadline, or a fifth of the whole time if that is less,
    /// so that there is time left to quarantine and to answer.
    pub fn time_left(&self) -> Duration {
        self.cutoff.since(self.now())
    }

    /// Whether an effect is better left to the next try: too little time may be left to carry it out and to mark it.
    /// That is so in the last third of an invocation.
    pub fn is_late(&self) -> bool {
        let (began, _) = self.began;
        self.time_left() < self.cutoff.since(began) / 3
    }

    /// Counts one under this name; the invocation's metric record carries the sum.
    pub fn count(&self, metric: &'static str) {
        self.add(metric, 1);
    }

    /// Counts so many under this name.
    pub fn add(&self, metric: &'static str, number: u64) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner).entry(metric).or_default() += number;
    }

    /// What was counted so far.
    pub fn counted(&self) -> BTreeMap<&'static str, u64> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
