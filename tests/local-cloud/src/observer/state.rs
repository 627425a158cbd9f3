//! The observations so far.

use std::collections::{VecDeque, vec_deque};
use std::ops::Add;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::journal::Journal;
use super::{Effect, Timed};

/// Maximum number of observations of each kind to keep if there is a journal.
const KEPT: usize = 5_000;

/// A message that reached AWS IoT.
#[derive(Debug, Clone)]
pub struct PublishedMessage {
    /// The trace id that AWS IoT assigned, which is the event id.
    pub trace_id: String,
    /// The topic.
    pub topic: String,
    /// The client that published it.
    pub client_id: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// When it was received, in milliseconds since 1970.
    pub at: u64,
}

/// The outcomes that a function reported for an invocation.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct InvocationCounts {
    /// Number of events that are done.
    pub done: u64,
    /// Number of events that were refused.
    pub refused: u64,
    /// Number of events that were returned to be retried.
    pub retried: u64,
}

impl Add for InvocationCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            refused: self.refused + other.refused,
            retried: self.retried + other.retried,
        }
    }
}

/// An effect, the event that it belongs to, and the function that reported it.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) event_id: String,
    /// The function that logged it; `None` if a topic or a queue delivered it. Several functions may receive the same
    /// event.
    pub(super) function: Option<String>,
    pub(super) timed: Timed,
}

/// The observations so far.
#[derive(Debug)]
pub(super) struct State {
    /// The time of the last observation.
    pub(super) changed_at: Instant,
    pub(super) messages: Newest<PublishedMessage>,
    /// Messages of AWS IoT about connections and shadows.
    pub(super) system_messages: Newest<PublishedMessage>,
    /// The function inputs that rules built, by event id, until they are redelivered.
    pub(super) events: Newest<(String, String)>,
    /// All effects.
    pub(super) effects: Newest<Observed>,
    /// Counts per invocation, with the function and, if the invocation had a single event, the event id.
    pub(super) invocations: Newest<(String, Option<String>, InvocationCounts)>,
    /// Log lines with their functions, without the platform's lines.
    pub(super) lines: Newest<(String, String)>,
    /// The paths of the newest events, if requested.
    pub(super) journal: Option<Journal>,
    /// The last error of a watcher.
    pub(super) error: Option<String>,
    /// The number of markers sent.
    pub(super) sent_markers: u64,
    /// The last marker received.
    pub(super) last_marker: u64,
}

impl State {
    /// Returns a state without observations. With a journal, it keeps only the newest ones.
    pub(super) fn new(journal: Option<Journal>) -> Self {
        let limit = if journal.is_some() { KEPT } else { usize::MAX };
        Self {
            changed_at: Instant::now(),
            messages: Newest::new(limit),
            system_messages: Newest::new(limit),
            events: Newest::new(limit),
            effects: Newest::new(limit),
            invocations: Newest::new(limit),
            lines: Newest::new(limit),
            journal,
            error: None,
            sent_markers: 0,
            last_marker: 0,
        }
    }

    /// Returns the number of a marker to send.
    pub(super) fn next_marker(&mut self) -> u64 {
        self.sent_markers += 1;
        self.sent_markers
    }

    /// Adds an effect.
    pub(super) fn add_effect(&mut self, observed: Observed) {
        if let Some(journal) = &mut self.journal {
            let Observed { event_id, function, timed } = &observed;
            journal.add_effect(event_id, function.as_deref(), &timed.effect, timed.at);
        }
        self.effects.push(observed);
    }

    /// Returns the effects of an event, without those that other functions reported, and with notifications of state
    /// changes that it caused.
    pub(super) fn effects(&self, event_id: &str, function: &str) -> Vec<Timed> {
        let message =
            self.messages.iter().chain(self.system_messages.iter()).find(|message| message.trace_id == event_id);
        let is_caused = |effect: &Effect| message.is_some_and(|message| effect.is_state_change_by(message));
        let of_event = self.effects.iter().filter(|observed| {
            let is_of_function = observed.function.as_deref().is_none_or(|reported_by| reported_by == function);
            (observed.event_id == event_id && is_of_function) || is_caused(&observed.timed.effect)
        });
        of_event.map(|observed| observed.timed.clone()).collect()
    }

    /// Returns the first effect of an event that is not a retry.
    pub(super) fn outcome(&self, event_id: &str, function: &str) -> Option<Timed> {
        let is_outcome = |timed: &Timed| !matches!(timed.effect, Effect::Retried { .. });
        self.effects(event_id, function).into_iter().find(is_outcome)
    }
}

/// The newest items of a series, and the number of dropped ones.
#[derive(Debug)]
pub(super) struct Newest<T> {
    items: VecDeque<T>,
    dropped: usize,
    limit: usize,
}

impl<T> Newest<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { items: VecDeque::new(), dropped: 0, limit }
    }

    pub(super) fn push(&mut self, item: T) {
        self.items.push_back(item);
        if self.items.len() > self.limit {
            self.items.pop_front();
            self.dropped += 1;
        }
    }

    /// Returns the total number of items, including dropped ones.
    pub(super) fn count(&self) -> usize {
        self.dropped + self.items.len()
    }

    pub(super) fn iter(&self) -> vec_deque::Iter<'_, T> {
        self.items.iter()
    }

    /// Returns the items after the first `count` of all, unless they were dropped.
    pub(super) fn after(&self, count: usize) -> impl Iterator<Item = &T> {
        self.items.iter().skip(count.saturating_sub(self.dropped))
    }

    /// Removes the first item that matches.
    pub(super) fn take(&mut self, matches: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.items.iter().position(matches)?;
        self.items.remove(at)
    }
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
