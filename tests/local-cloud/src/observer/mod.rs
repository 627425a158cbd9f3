//! Observes an account of the local cloud: what devices publish, what topics deliver, and what functions log.
//!
//! It adds rules to the account that mirror messages to a queue, and a queue that subscribes to every topic. It also
//! stands in for AWS where the local cloud falls short: it redelivers an event that the function of a rule wants to
//! retry. If there is a queue between the two, that queue redelivers it.

mod effect;
mod log;
mod mirror;
mod rule;
mod state;
#[cfg(test)]
mod tests;
mod watcher;

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::aws::Clients;
use crate::destination::DestinationQueue;

pub use effect::{Effect, Notification, QueueMessage, Timed};
pub use rule::Rule;
pub use state::{InvocationCounts, PublishedMessage};

use state::{State, lock};
use watcher::Watcher;

/// Prefix of everything that the observer adds to an account.
const PREFIX: &str = "observer";

/// Observes an account until it is dropped.
#[derive(Debug)]
pub struct Observer {
    /// The account's rules.
    pub rules: Vec<Rule>,
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<()>,
    watcher: Watcher,
    tasks: JoinSet<()>,
}

impl Observer {
    /// Starts to observe everything that is deployed in the account.
    pub async fn start(clients: &Clients) -> Result<Self> {
        let rules = rule::list(clients).await.context("failed to list the rules of AWS IoT")?;
        let notifications = mirror::subscribe(clients).await.context("failed to subscribe to the topics")?;
        let mirror = mirror::add_rules(clients, &rules).await.context("failed to add rules that mirror messages")?;
        let logs = log::list(clients, &rules).await.context("failed to list the functions")?;

        let (change, changed) = watch::channel(());
        let state = Arc::new(Mutex::new(State::default()));
        let watcher = Watcher::new(clients, &state, change);
        let mut tasks = JoinSet::new();
        tasks.spawn(watcher.clone().watch_queue(mirror.messages, Watcher::add_message));
        tasks.spawn(watcher.clone().watch_queue(mirror.events, Watcher::add_event));
        tasks.spawn(watcher.clone().watch_queue(notifications, Watcher::add_notification));
        for log in logs {
            tasks.spawn(watcher.clone().watch_log(log));
        }
        Ok(Self { rules, state, changed, watcher, tasks })
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
        lock(&self.state).messages.iter().skip(skip).cloned().collect()
    }

    /// Returns what AWS IoT published about connections and shadows, without the first `skip`.
    pub fn system_messages(&self, skip: usize) -> Vec<PublishedMessage> {
        lock(&self.state).system_messages.iter().skip(skip).cloned().collect()
    }

    /// Returns the effects of an event so far.
    pub fn effects(&self, event_id: &str) -> Vec<Timed> {
        lock(&self.state).effects(event_id)
    }

    /// Returns the counts of each invocation that had this event and no other.
    pub fn invocation_counts(&self, event_id: &str) -> Vec<InvocationCounts> {
        let state = lock(&self.state);
        let of_event = state.invocations.iter().filter(|(_, id, _)| id.as_deref() == Some(event_id));
        of_event.map(|(_, _, counts)| *counts).collect()
    }

    /// Returns the sum of a function's counts over all invocations. An invocation with several events reports counts
    /// only, so their effects show in tables and topics alone.
    pub fn total(&self, function: &str) -> InvocationCounts {
        let state = lock(&self.state);
        let of_function = state.invocations.iter().filter(|(name, _, _)| name == function);
        of_function.fold(InvocationCounts::default(), |total, (_, _, counts)| total + *counts)
    }

    /// Waits for the outcome of an event.
    pub async fn outcome(&self, event_id: &str, deadline: Instant) -> Option<Timed> {
        self.effect(event_id, deadline, |effect| !matches!(effect, Effect::Retried { .. })).await
    }

    /// Waits for a wanted effect. Returns any other effect if that one does not come.
    pub async fn effect(
        &self,
        event_id: &str,
        deadline: Instant,
        is_wanted: impl Fn(&Effect) -> bool,
    ) -> Option<Timed> {
        let find = |observer: &Self| {
            let mut effects = observer.effects(event_id).into_iter();
            effects.find(|timed| is_wanted(&timed.effect))
        };
        let found = self.until(deadline, find).await;
        found.or_else(|| self.effects(event_id).into_iter().next())
    }

    /// Returns the notifications about all events so far.
    pub fn notifications(&self) -> Vec<Notification> {
        let notification = |(_, timed): &(String, Timed)| match &timed.effect {
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

    /// Calls `find` after each change until it returns something, or until the deadline.
    pub async fn until<T>(&self, deadline: Instant, mut find: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(found) = find(self) {
                return Some(found);
            }
            if !matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))) {
                return find(self);
            }
        }
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
