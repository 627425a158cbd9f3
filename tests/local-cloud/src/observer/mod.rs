//! Observes an account of the local cloud: messages of devices, notifications of topics, and logs of functions.
//!
//! All of them come through one queue, in order: rules mirror messages to it, it subscribes to every topic, and the
//! local cloud sends the functions' logs to it. So an event's notifications are always seen before the log of the
//! function that handled it. The observer also compensates for a gap of the local cloud: it redelivers an event that
//! a function wants to retry, unless there is a queue between rule and function, which redelivers it.

mod effect;
mod event_json;
mod event_path;
mod journal;
mod log;
mod mirror;
mod rule;
mod state;
#[cfg(test)]
mod tests;
mod watcher;

use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::aws::Clients;
use crate::destination::DestinationQueue;

pub use effect::{Effect, Notification, QueueMessage, Timed};
pub use event_json::payload;
pub use event_path::{Attempt, EventPath, FaultStrike, FunctionPath, LogLine};
pub use journal::{Journal, Totals};
pub use rule::{Rule, RuleTarget};
pub use state::{InvocationCounts, PublishedMessage};

use state::{Observed, State, lock};
use watcher::Watcher;

/// The name of the queue. The local cloud sends the functions' logs to it.
pub(crate) const QUEUE: &str = "observer";

/// How long to wait after the last observation. Even on a slow machine, pending work shows itself more often than this.
///
/// `PATIENCE_SECONDS` shortens it for runs in which waits are expected to time out.
pub static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("PATIENCE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(Duration::from_mins(2), Duration::from_secs)
});

/// Maximum wait, even if observations never stop, for example because of a schedule.
const MAX_WAIT: Duration = Duration::from_mins(15);

/// How often a table or queue is read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Prefix of the rules that the observer adds to an account.
const PREFIX: &str = "observer";

/// Observes an account until it is dropped.
#[derive(Debug)]
pub struct Observer {
    /// The account's rules.
    pub rules: Arc<Vec<Rule>>,
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<()>,
    watcher: Watcher,
    /// The URL of the queue.
    queue: String,
    tasks: JoinSet<()>,
}

impl Observer {
    /// Starts to observe the account's deployed resources.
    pub async fn start(clients: &Clients) -> Result<Self> {
        Self::start_with(clients, None).await
    }

    /// Starts to observe the account's deployed resources, with a journal of the newest `limit` events.
    pub async fn start_with_journal(clients: &Clients, limit: usize) -> Result<Self> {
        Self::start_with(clients, Some(limit)).await
    }

    async fn start_with(clients: &Clients, journal_limit: Option<usize>) -> Result<Self> {
        let rules = Arc::new(rule::list(clients).await.context("failed to list the rules of AWS IoT")?);
        let logs = log::list(clients, &rules).await.context("failed to list the functions")?;
        let queue = mirror::subscribe(clients).await.context("failed to subscribe to the topics")?;
        let is_mirrored = |rule: &&Rule| rule.invokes_directly() || journal_limit.is_some();
        let mirrored = rules.iter().filter(is_mirrored);
        mirror::add_rules(clients, &rules, mirrored, &queue)
            .await
            .context("failed to add rules that mirror messages")?;

        let (change, changed) = watch::channel(());
        let journal = journal_limit.map(|limit| Journal::new(limit, Arc::clone(&rules)));
        let state = Arc::new(Mutex::new(State::new(journal)));
        let watcher = Watcher::new(clients, &state, change);
        let mut tasks = JoinSet::new();
        tasks.spawn(watcher.clone().watch_queue(queue.clone(), logs));
        Ok(Self { rules, state, changed, watcher, queue, tasks })
    }

    /// Also observes a queue in another account.
    pub fn watch_destination(&mut self, queue: DestinationQueue) {
        self.tasks.spawn(self.watcher.clone().watch_destination(queue));
    }

    /// Returns the rule that matches a topic.
    pub fn rule(&self, topic: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(topic))
    }

    /// Returns the messages that clients published, without the first `skip`, and the events about new certificates.
    pub fn messages(&self, skip: usize) -> Vec<PublishedMessage> {
        lock(&self.state).messages.after(skip).cloned().collect()
    }

    /// Returns how many messages clients published.
    pub fn message_count(&self) -> usize {
        lock(&self.state).messages.count()
    }

    /// Returns the messages of AWS IoT about connections and shadows, without the first `skip`.
    pub fn system_messages(&self, skip: usize) -> Vec<PublishedMessage> {
        lock(&self.state).system_messages.after(skip).cloned().collect()
    }

    /// Returns how many messages AWS IoT published about connections and shadows.
    pub fn system_message_count(&self) -> usize {
        lock(&self.state).system_messages.count()
    }

    /// Reads the journal. Returns `None` if the observer was started without one.
    pub fn read_journal<T>(&self, read: impl FnOnce(&Journal) -> T) -> Option<T> {
        lock(&self.state).journal.as_ref().map(read)
    }

    /// Adds a call into which a fault was injected.
    pub fn add_strike(&self, strike: &FaultStrike) {
        self.watcher.add(|state| {
            if let Some(journal) = &mut state.journal {
                journal.add_strike(strike);
            }
        });
    }

    /// Returns a receiver that changes with each observation.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }

    /// Returns the effects of an event so far: those that this function reported, and that topics and queues delivered.
    pub fn effects(&self, event_id: &str, function: &str) -> Vec<Timed> {
        lock(&self.state).effects(event_id, function)
    }

    /// Returns the counts of each invocation of a function with this event only.
    pub fn invocation_counts(&self, event_id: &str, function: &str) -> Vec<InvocationCounts> {
        let state = lock(&self.state);
        let of_event =
            state.invocations.iter().filter(|(name, id, _)| name == function && id.as_deref() == Some(event_id));
        of_event.map(|(_, _, counts)| *counts).collect()
    }

    /// Returns the sum of a function's counts over all invocations, including those with several events, which report
    /// counts but no effects.
    pub fn total(&self, function: &str) -> InvocationCounts {
        let state = lock(&self.state);
        let of_function = state.invocations.iter().filter(|(name, _, _)| name == function);
        of_function.fold(InvocationCounts::default(), |total, (_, _, counts)| total + *counts)
    }

    /// Waits for the outcome of an event in a function. Gives up once nothing was observed for `patience`.
    pub async fn outcome(&self, event_id: &str, function: &str, patience: Duration) -> Option<Timed> {
        let wait = Wait::start(self, patience);
        let find = |observer: &Self| lock(&observer.state).outcome(event_id, function);
        self.until_deadline(|_| wait.deadline(), find).await
    }

    /// Returns the notifications about all events so far.
    pub fn notifications(&self) -> Vec<Notification> {
        let notification = |observed: &Observed| match &observed.timed.effect {
            Effect::Notified(notification) => Some(notification.clone()),
            _ => None,
        };
        lock(&self.state).effects.iter().filter_map(notification).collect()
    }

    /// Returns the number of invocations that a function has reported.
    pub fn invocations(&self, function: &str) -> usize {
        let is_metric = |line: &str| line.contains("\"_aws\"");
        lock(&self.state).lines.iter().filter(|(name, line)| name == function && is_metric(line)).count()
    }

    /// Returns the last lines that a function logged.
    pub fn last_lines(&self, function: &str) -> Vec<String> {
        let state = lock(&self.state);
        let of_function = state.lines.iter().rev().filter(|(name, _)| name == function);
        let mut lines: Vec<_> = of_function.take(5).map(|(_, line)| line.clone()).collect();
        lines.reverse();
        lines
    }

    /// Returns the last error of a watcher, if any.
    pub fn error(&self) -> Option<String> {
        lock(&self.state).error.clone()
    }

    /// Waits until everything that has happened so far has been observed.
    pub async fn catch_up(&self) -> Result<()> {
        let marker = lock(&self.state).next_marker();
        self.watcher.send_marker(&self.queue, marker).await.context("failed to send a marker")?;
        let is_back = |observer: &Self| (lock(&observer.state).last_marker >= marker).then_some(());
        self.until(is_back).await.context("the marker was not received")
    }

    /// Calls `find` after each change until it returns something. Gives up once nothing was observed for [`PATIENCE`].
    pub async fn until<T>(&self, find: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let wait = Wait::start(self, *PATIENCE);
        self.until_deadline(|_| wait.deadline(), find).await
    }

    /// Calls `find` after each change until it returns something, or until a deadline, which changes may extend.
    pub async fn until_deadline<T>(
        &self,
        deadline: impl Fn(&Self) -> Instant,
        mut find: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(found) = find(self) {
                return Some(found);
            }
            if !matches!(timeout_at(deadline(self), changed.changed()).await, Ok(Ok(()))) {
                return find(self);
            }
        }
    }

    /// Calls `find` until it returns something, to look for changes in tables and queues. Returns `None` once nothing
    /// has been observed for [`PATIENCE`].
    pub async fn poll<T>(&self, mut find: impl AsyncFnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let wait = Wait::start(self, *PATIENCE);
        loop {
            let is_last = wait.is_over();
            let found = find().await?;
            if found.is_some() || is_last {
                return Ok(found);
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// A wait that is over once nothing has been observed for a while. Each observation extends it, so it does not depend
/// on how fast the machine is.
#[derive(Debug)]
pub struct Wait<'a> {
    observer: &'a Observer,
    started_at: Instant,
    patience: Duration,
}

impl<'a> Wait<'a> {
    /// Starts a wait.
    pub fn start(observer: &'a Observer, patience: Duration) -> Self {
        Self { observer, started_at: Instant::now(), patience }
    }

    /// Returns when the wait is over if nothing is observed until then.
    pub fn deadline(&self) -> Instant {
        let changed_at = lock(&self.observer.state).changed_at.max(self.started_at);
        (changed_at + self.patience).min(self.started_at + MAX_WAIT)
    }

    /// Returns whether the wait is over.
    pub fn is_over(&self) -> bool {
        Instant::now() > self.deadline()
    }
}

/// Returns the current time in milliseconds since 1970.
pub fn now() -> u64 {
    millis(SystemTime::now())
}

/// Converts a time to milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
