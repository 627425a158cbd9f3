use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::timestamp::Timestamp;

/// One invocation of the function: when it began, when it must end, and what it counted.
#[derive(Debug)]
pub struct Call {
    request_id: String,
    began: (Timestamp, Instant),
    deadline: Timestamp,
    counters: Mutex<BTreeMap<&'static str, u64>>,
}

impl Call {
    /// An invocation that begins now, by this clock, and that Lambda ends at `deadline`.
    pub fn new(request_id: impl Into<String>, now: Timestamp, deadline: Timestamp) -> Self {
        Self { request_id: request_id.into(), began: (now, Instant::now()), deadline, counters: Mutex::default() }
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

    /// How long handlers may go on, so that there is time left to quarantine and to answer: a fifth of what remains,
    /// one second at most.
    pub(crate) fn time_to_handle(&self) -> Duration {
        let remaining = self.deadline.since(self.now());
        remaining.saturating_sub(Duration::from_secs(1).min(remaining / 5))
    }

    /// Counts one under this name; the invocation's metric record carries the sum.
    pub fn count(&self, metric: &'static str) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner).entry(metric).or_default() += 1;
    }

    /// What was counted so far.
    pub fn counted(&self) -> BTreeMap<&'static str, u64> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
