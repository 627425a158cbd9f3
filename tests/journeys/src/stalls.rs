//! Detects when the machine or the local cloud is slow or stalls.
//!
//! A virtual machine may be paused, and a starved emulator may not respond for a while. The functions' timeouts
//! continue meanwhile, as they would in AWS, so pending events fail. That is no defect of Gatehouse: no journey starts
//! while the local cloud is slow and others run, and a journey that fails is repeated if there was a stall while it
//! ran.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use local_cloud::cloud::Cloud;
use tokio::time::{Instant, sleep};

/// Maximum stall that a journey must survive: the timeout of one attempt of an SDK's call.
const TOLERATED: Duration = Duration::from_secs(3);

/// Maximum latency of the local cloud at which further journeys start.
const PROMPT: Duration = Duration::from_millis(500);

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The stalls so far, and the number of running journeys.
#[derive(Debug)]
pub struct Stalls {
    seen: Mutex<Seen>,
    running: AtomicUsize,
}

#[derive(Debug)]
struct Seen {
    /// The end and the length of each stall.
    ended: Vec<(Instant, Duration)>,
    /// When the local cloud last responded; `None` while it is not watched.
    responded: Option<Instant>,
    /// The latency of its last response.
    latency: Duration,
}

/// A running journey, which ends when this is dropped.
#[derive(Debug)]
pub struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stalls {
    pub const fn new() -> Self {
        let seen = Mutex::new(Seen { ended: Vec::new(), responded: None, latency: Duration::ZERO });
        Self { seen, running: AtomicUsize::new(0) }
    }

    /// Waits until the local cloud responds promptly, or no other journey runs.
    pub async fn ready(&self) -> Running<'_> {
        let is_slow = || {
            let seen = self.seen();
            seen.latency.max(seen.responded.map_or(Duration::ZERO, |last| last.elapsed())) > PROMPT
        };
        while self.running.load(Ordering::Relaxed) > 0 && is_slow() {
            sleep(POLL_INTERVAL).await;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    /// Watches a local cloud until it no longer responds.
    pub async fn watch(&self, cloud: &Cloud) {
        loop {
            let asked_at = Instant::now();
            if cloud.ping().await.is_err() {
                self.seen().responded = None;
                return;
            }
            self.record(asked_at, Instant::now());
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Records that the local cloud has responded.
    fn record(&self, asked_at: Instant, now: Instant) {
        let mut seen = self.seen();
        seen.latency = now - asked_at;
        if let Some(length) = seen.responded.map(|last| now - last).filter(|length| *length > TOLERATED) {
            seen.ended.push((now, length));
        }
        seen.responded = Some(now);
    }

    /// Returns the length of the longest stall since `start`, including one that has not ended.
    pub fn longest_since(&self, start: Instant) -> Option<Duration> {
        let seen = self.seen();
        let current = seen.responded.map(|last| last.elapsed()).filter(|length| *length > TOLERATED);
        let ended = seen.ended.iter().filter(|(end, _)| *end > start).map(|(_, length)| *length);
        ended.chain(current).max()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
