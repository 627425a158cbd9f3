//! The path of each event through the rules, queues and functions, for the console and reports.
//!
//! It keeps the newest events, and counts all of them: of an older event whose functions have not finished, it keeps
//! only the id and the outcomes until they have.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::event_path::{Attempt, EventPath, FaultStrike, FunctionPath};
use super::{Effect, Notification, PublishedMessage, QueueMessage, Rule};

/// Maximum number of unfinished older events.
const MAX_UNFINISHED: usize = 100_000;

/// Maximum size of the payloads and envelopes to keep.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Maximum number of strikes to keep that belong to no known event.
const MAX_STRIKES: usize = 1_000;

/// Counts of everything that was observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages of clients.
    pub messages: u64,
    /// Messages of AWS IoT itself.
    pub system_messages: u64,
    /// Messages that each rule matched.
    pub rules: BTreeMap<String, u64>,
    /// Number of events by function and latest outcome; `pending` if the function has not reported the event.
    pub outcomes: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Notifications that each topic delivered.
    pub notifications: BTreeMap<String, u64>,
    /// Calls into which a fault was injected.
    pub strikes: u64,
}

impl Totals {
    fn count(&mut self, function: &str, outcome: &'static str, is_added: bool) {
        let counts = self.outcomes.entry(function.to_owned()).or_default();
        let count = counts.entry(outcome).or_default();
        *count = if is_added { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            counts.remove(outcome);
        }
    }
}

/// The newest events, and the counts of all.
#[derive(Debug)]
pub struct Journal {
    /// Maximum number of events to keep.
    limit: usize,
    rules: Arc<Vec<Rule>>,
    events: VecDeque<EventPath>,
    /// The number of each event that is kept.
    numbers: HashMap<String, u64>,
    /// The latest outcomes of unfinished older events, by function.
    unfinished: HashMap<String, BTreeMap<String, &'static str>>,
    strikes: VecDeque<FaultStrike>,
    totals: Totals,
    last_number: u64,
    version: u64,
    /// The size of the payloads and envelopes that are kept.
    bytes: usize,
}

impl Journal {
    /// Returns an empty journal that keeps this many events.
    pub fn new(limit: usize, rules: Arc<Vec<Rule>>) -> Self {
        Self {
            limit: limit.max(1),
            rules,
            events: VecDeque::new(),
            numbers: HashMap::new(),
            unfinished: HashMap::new(),
            strikes: VecDeque::new(),
            totals: Totals::default(),
            last_number: 0,
            version: 0,
            bytes: 0,
        }
    }

    /// Returns the counts.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Returns the number of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the events that are kept, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &EventPath> {
        self.events.iter()
    }

    /// Returns an event that is kept.
    pub fn event(&self, id: &str) -> Option<&EventPath> {
        let first = self.events.front()?.number;
        self.events.get(usize::try_from(self.numbers.get(id)?.checked_sub(first)?).ok()?)
    }

    /// Changes an event that is kept.
    fn change(&mut self, id: &str, change: impl FnOnce(&mut EventPath)) -> bool {
        let first = self.events.front().map_or(0, |event| event.number);
        let at = self.numbers.get(id).and_then(|number| usize::try_from(number.checked_sub(first)?).ok());
        let Some(event) = at.and_then(|at| self.events.get_mut(at)) else { return false };
        self.version += 1;
        event.version = self.version;
        change(event);
        true
    }

    /// Adds a message.
    pub(super) fn add_message(&mut self, message: &PublishedMessage, is_system: bool) {
        let count = if is_system { &mut self.totals.system_messages } else { &mut self.totals.messages };
        *count += 1;
        let mut functions: Vec<FunctionPath> = Vec::new();
        let mut rules = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.matches(&message.topic)) {
            *self.totals.rules.entry(rule.name.clone()).or_default() += 1;
            rules.push(rule.name.clone());
            for target in &rule.targets {
                if !functions.iter().any(|known| known.function == target.function) {
                    functions.push(FunctionPath::new(&target.function, &rule.name, target.queue.as_deref()));
                }
            }
        }
        for function in &functions {
            self.totals.count(&function.function, "pending", true);
        }
        self.last_number += 1;
        self.version += 1;
        self.numbers.insert(message.trace_id.clone(), self.last_number);
        self.events.push_back(EventPath {
            number: self.last_number,
            version: self.version,
            message: message.clone(),
            is_system,
            rules,
            envelopes: Vec::new(),
            functions,
            notifications: Vec::new(),
            forwarded: Vec::new(),
            strikes: Vec::new(),
        });
        self.bytes += message.payload.len();
        while self.events.len() > self.limit || (self.bytes > MAX_BYTES && self.events.len() > 1) {
            self.evict();
        }
    }

    /// Stops keeping the oldest event.
    fn evict(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.bytes = self.bytes.saturating_sub(event.bytes());
        // A trace id may be used again.
        if self.numbers.get(&event.message.trace_id) == Some(&event.number) {
            self.numbers.remove(&event.message.trace_id);
        }
        if !event.is_finished() && self.unfinished.len() < MAX_UNFINISHED {
            let outcomes = event.functions.iter().map(|function| (function.function.clone(), function.kind()));
            self.unfinished.insert(event.message.trace_id, outcomes.collect());
        }
    }

    /// Adds the input that a rule built for a function.
    pub(super) fn add_envelope(&mut self, event_id: &str, envelope: &str) {
        let mut added = 0;
        self.change(event_id, |event| {
            if !event.envelopes.iter().any(|known| known == envelope) {
                event.envelopes.push(envelope.to_owned());
                added = envelope.len();
            }
        });
        self.bytes += added;
    }

    /// Adds an effect that a function reported or, without a function, that a topic or a queue delivered.
    pub(super) fn add_effect(&mut self, event_id: &str, function: Option<&str>, effect: &Effect, at: u64) {
        match (function, effect) {
            (Some(function), effect) => self.add_outcome(event_id, function, effect, at),
            (None, Effect::Notified(notification)) => self.add_notification(event_id, notification, at),
            (None, Effect::Forwarded(message)) => self.add_forwarded(event_id, message, at),
            (None, _) => {}
        }
    }

    fn add_outcome(&mut self, event_id: &str, function: &str, effect: &Effect, at: u64) {
        let mut kinds = None;
        let is_kept = self.change(event_id, |event| {
            kinds = Some(event.change_function(function, |path| {
                let before = path.known_kind();
                path.add_outcome(effect, at);
                (before, path.kind())
            }));
        });
        if !is_kept && let Some(outcomes) = self.unfinished.get_mut(event_id) {
            let before = outcomes.insert(function.to_owned(), effect.kind());
            kinds = Some((before, effect.kind()));
            let is_finished = |kind: &&'static str| !matches!(*kind, "pending" | "retried");
            if outcomes.values().all(is_finished) {
                self.unfinished.remove(event_id);
            }
        }
        if let Some((before, after)) = kinds
            && before != Some(after)
        {
            if let Some(before) = before {
                self.totals.count(function, before, false);
            }
            self.totals.count(function, after, true);
        }
    }

    /// Adds a notification to the event that it names, or to the one that caused the announced state change.
    fn add_notification(&mut self, event_id: &str, notification: &Notification, at: u64) {
        *self.totals.notifications.entry(notification.topic.clone()).or_default() += 1;
        let effect = Effect::Notified(notification.clone());
        let id = if self.numbers.contains_key(event_id) {
            event_id.to_owned()
        } else {
            let cause = self.events.iter().rev().find(|event| effect.is_state_change_by(&event.message));
            let Some(cause) = cause else { return };
            cause.message.trace_id.clone()
        };
        let mut notifier = None;
        self.change(&id, |event| {
            event.notifications.push((at, notification.clone()));
            notifier = event.notifier(notification);
        });
        if let Some(function) = notifier {
            self.add_outcome(&id, &function, &effect, at);
        }
    }

    fn add_forwarded(&mut self, event_id: &str, message: &QueueMessage, at: u64) {
        let mut forwarder = None;
        self.change(event_id, |event| {
            event.forwarded.push((at, message.clone()));
            forwarder = event.functions.first().map(|path| path.function.clone());
        });
        if let Some(function) = forwarder {
            self.add_outcome(event_id, &function, &Effect::Forwarded(message.clone()), at);
        }
    }

    /// Adds an invocation of a function to the events that its log names.
    pub(super) fn add_attempt(&mut self, function: &str, event_ids: &[String], attempt: &Attempt) {
        let strikes: Vec<_> =
            self.strikes.iter().filter(|strike| attempt.contains(function, strike)).cloned().collect();
        for id in event_ids {
            self.change(id, |event| {
                event.change_function(function, |path| path.add_attempt(attempt.of_event(id)));
                for strike in &strikes {
                    event.add_strike(strike);
                }
            });
        }
    }

    /// Adds a call into which a fault was injected to the events whose ids are in the request. If there are none, the
    /// log of the invocation shows later which events the function was handling.
    pub(super) fn add_strike(&mut self, strike: &FaultStrike) {
        self.totals.strikes += 1;
        self.version += 1;
        let mut is_of_event = false;
        for id in &strike.ids {
            is_of_event |= self.change(id, |event| event.add_strike(strike));
        }
        if !is_of_event {
            self.strikes.push_back(strike.clone());
            if self.strikes.len() > MAX_STRIKES {
                self.strikes.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests;
