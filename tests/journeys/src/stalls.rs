//! Notices when the machine or the local cloud stands still.
//!
//! A virtual machine may be paused, and a starved emulator may answer nothing for a while. The functions' timeouts go on
//! meanwhile, as they would in AWS, so whatever is in flight fails. That says nothing about Gatehouse: a journey that
//! fails is repeated if there was such a stall while it ran.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use local_cloud::cloud::Cloud;
use tokio::time::{Instant, sleep};

/// The longest stall that a journey must survive: the timeout of one attempt of an SDK's call.
const TOLERATED: Duration = Duration::from_secs(3);

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The stalls so far.
#[derive(Debug)]
pub struct Stalls(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// When each stall ended, and how long it was.
    ended: Vec<(Instant, Duration)>,
    /// When the local cloud last responded, once it is watched.
    responded: Option<Instant>,
}

impl Stalls {
    pub const fn new() -> Self {
        Self(Mutex::new(Seen { ended: Vec::new(), responded: None }))
    }

    /// Watches a local cloud until it responds no more.
    pub async fn watch(&self, cloud: &Cloud) {
        self.record(Instant::now());
        loop {
            sleep(POLL_INTERVAL).await;
            if cloud.ping().await.is_err() {
                self.seen().responded = None;
                return;
            }
            self.record(Instant::now());
        }
    }

    /// Records that the local cloud has responded.
    fn record(&self, now: Instant) {
        let mut seen = self.seen();
        if let Some(length) = seen.responded.map(|last| now - last).filter(|length| *length > TOLERATED) {
            seen.ended.push((now, length));
        }
        seen.responded = Some(now);
    }

    /// Returns the length of the longest stall since `start`, also of one that has not ended.
    pub fn longest_since(&self, start: Instant) -> Option<Duration> {
        let seen = self.seen();
        let current = seen.responded.map(|last| last.elapsed()).filter(|length| *length > TOLERATED);
        let ended = seen.ended.iter().filter(|(end, _)| *end > start).map(|(_, length)| *length);
        ended.chain(current).max()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
