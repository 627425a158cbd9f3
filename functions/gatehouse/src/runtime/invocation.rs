use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::timestamp::Timestamp;

/// Time reserved at the end of an invocation, after the handler, to quarantine and to respond.
const RESPONSE_RESERVE: Duration = Duration::from_secs(1);

/// One invocation of the function: when it started, when it must end, and what it counted.
#[derive(Debug)]
pub struct Invocation {
    request_id: String,
    is_cold_start: bool,
    started: (Timestamp, Instant),
    deadline: Timestamp,
    cutoff: Timestamp,
    counters: Mutex<BTreeMap<&'static str, u64>>,
}

impl Invocation {
    /// An invocation that starts at `now` and that Lambda ends at `deadline`.
    pub fn new(request_id: impl Into<String>, now: Timestamp, deadline: Timestamp) -> Self {
        let cutoff = now.plus(deadline.since(now).mul_f32(0.8)).max(deadline.minus(RESPONSE_RESERVE));
        Self {
            request_id: request_id.into(),
            is_cold_start: false,
            started: (now, Instant::now()),
            deadline,
            cutoff,
            counters: Mutex::default(),
        }
    }

    /// Sets whether this is the first invocation of its process.
    #[must_use]
    pub fn with_cold_start(mut self, is_cold_start: bool) -> Self {
        self.is_cold_start = is_cold_start;
        self
    }

    /// Whether this is the first invocation of its process.
    pub fn is_cold_start(&self) -> bool {
        self.is_cold_start
    }

    /// Lambda's request id. It stays the same when Lambda retries an asynchronous invocation.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        let (at, instant) = self.started;
        at.plus(instant.elapsed())
    }

    /// When Lambda ends this invocation, whatever it is doing.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// How long handlers may continue. The last second before the deadline, or the last fifth of the invocation if that
    /// is less, is reserved to quarantine and to respond.
    pub fn time_left(&self) -> Duration {
        self.cutoff.since(self.now())
    }

    /// Whether a new effect should be left to the next attempt, because there may be too little time to perform and
    /// record it. True in the last third of the handlers' time.
    pub fn is_running_late(&self) -> bool {
        let (started, _) = self.started;
        self.time_left() < self.cutoff.since(started) / 3
    }

    /// Adds one to a metric. The invocation's metric record carries the sum.
    pub fn count(&self, metric: &'static str) {
        self.add(metric, 1);
    }

    /// Adds a number to a metric.
    pub fn add(&self, metric: &'static str, number: u64) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner).entry(metric).or_default() += number;
    }

    /// The metrics counted so far.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
