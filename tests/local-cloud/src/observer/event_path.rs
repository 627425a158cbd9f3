//! The path of one event.

use super::{Effect, Notification, PublishedMessage, QueueMessage};

/// Maximum number of attempts of a function to keep per event: the newest ones.
const MAX_ATTEMPTS: usize = 10;

/// Maximum number of log lines to keep per attempt.
const MAX_LINES: usize = 50;

/// The path of one event: the message, and its way through rules, functions and topics.
#[derive(Debug, Clone)]
pub struct EventPath {
    /// Its number, from 1, in the order in which events were observed.
    pub number: u64,
    /// The journal's version when it last changed.
    pub version: u64,
    /// The message.
    pub message: PublishedMessage,
    /// Whether AWS IoT published it, about a connection or a shadow.
    pub is_system: bool,
    /// The rules that matched.
    pub rules: Vec<String>,
    /// The inputs that rules built for functions.
    pub envelopes: Vec<String>,
    /// The functions that receive it.
    pub functions: Vec<FunctionPath>,
    /// The notifications about it, with the time of each.
    pub notifications: Vec<(u64, Notification)>,
    /// The messages in queues of other accounts, with the time of each.
    pub forwarded: Vec<(u64, QueueMessage)>,
    /// The calls about it into which a fault was injected.
    pub strikes: Vec<FaultStrike>,
}

impl EventPath {
    /// Returns whether every function has finished.
    pub fn is_finished(&self) -> bool {
        self.functions.iter().all(FunctionPath::is_finished)
    }

    /// Returns the size of its payload and envelopes.
    pub(super) fn bytes(&self) -> usize {
        self.message.payload.len() + self.envelopes.iter().map(String::len).sum::<usize>()
    }

    /// Returns when the last function finished, in milliseconds since 1970; `None` before that.
    pub fn finished_at(&self) -> Option<u64> {
        if self.is_finished() { self.functions.iter().filter_map(|path| path.finished_at).max() } else { None }
    }

    /// Changes a function's part of the path. Adds one if no rule names the function.
    pub(super) fn change_function<T>(&mut self, function: &str, change: impl FnOnce(&mut FunctionPath) -> T) -> T {
        if let Some(path) = self.functions.iter_mut().find(|path| path.function == function) {
            return change(path);
        }
        let mut path = FunctionPath { is_counted: false, ..FunctionPath::new(function, "", None) };
        let result = change(&mut path);
        self.functions.push(path);
        result
    }

    /// Returns the function that published a notification: the one that the topic names, or the only one.
    pub(super) fn notifier(&self, notification: &Notification) -> Option<String> {
        let name = |path: &&FunctionPath| {
            let short = path.function.rsplit('-').next().unwrap_or_default();
            notification.topic.contains(short)
        };
        let named = self.functions.iter().find(name);
        let only = || if let [only] = self.functions.as_slice() { Some(only) } else { None };
        named.or_else(only).map(|path| path.function.clone())
    }

    pub(super) fn add_strike(&mut self, strike: &FaultStrike) {
        if !self.strikes.contains(strike) {
            self.strikes.push(strike.clone());
        }
    }
}

/// A function's part of an event's path.
#[derive(Debug, Clone)]
pub struct FunctionPath {
    /// The function's name.
    pub function: String,
    /// The rule through which it receives the event; empty if no rule names the function.
    pub rule: String,
    /// The URL of the queue between rule and function, if there is one.
    pub queue: Option<String>,
    /// The last outcome.
    pub outcome: Option<Effect>,
    /// When the function finished, in milliseconds since 1970.
    pub finished_at: Option<u64>,
    /// Its newest invocations with this event, oldest first.
    pub attempts: Vec<Attempt>,
    /// The total number of invocations.
    pub attempt_count: usize,
    /// Whether the journal has counted it.
    is_counted: bool,
}

impl FunctionPath {
    pub(super) fn new(function: &str, rule: &str, queue: Option<&str>) -> Self {
        Self {
            function: function.to_owned(),
            rule: rule.to_owned(),
            queue: queue.map(str::to_owned),
            outcome: None,
            finished_at: None,
            attempts: Vec::new(),
            attempt_count: 0,
            is_counted: true,
        }
    }

    /// Returns the name of the outcome.
    pub fn kind(&self) -> &'static str {
        self.outcome.as_ref().map_or("pending", Effect::kind)
    }

    /// Returns the outcome that the journal has counted, if it has.
    pub(super) fn known_kind(&self) -> Option<&'static str> {
        self.is_counted.then(|| self.kind())
    }

    /// Returns whether the function will not handle the event again.
    pub fn is_finished(&self) -> bool {
        !matches!(self.outcome, None | Some(Effect::Retried { .. }))
    }

    /// Sets the outcome, unless a more specific one is known, such as a notification instead of `done`. A retry does
    /// not replace the outcome of an attempt that finished.
    pub(super) fn add_outcome(&mut self, effect: &Effect, at: u64) {
        self.is_counted = true;
        let rank = |effect: &Effect| match effect {
            Effect::Retried { .. } => 0,
            Effect::Duplicate => 1,
            Effect::Done => 2,
            _ => 3,
        };
        let is_better = self.outcome.as_ref().is_none_or(|known| rank(effect) > rank(known) || rank(effect) == 0);
        let would_undo = matches!(effect, Effect::Retried { .. }) && self.is_finished();
        if is_better && !would_undo {
            self.outcome = Some(effect.clone());
        }
        if self.is_finished() && self.finished_at.is_none() {
            self.finished_at = Some(at);
        }
    }

    pub(super) fn add_attempt(&mut self, attempt: Attempt) {
        self.attempt_count += 1;
        self.attempts.push(attempt);
        if self.attempts.len() > MAX_ATTEMPTS {
            self.attempts.remove(0);
        }
    }
}

/// One invocation of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The id of the request to Lambda.
    pub request_id: String,
    /// When it started, in milliseconds since 1970.
    pub started_at: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_at: u64,
    /// The function's log lines.
    pub lines: Vec<LogLine>,
}

/// A line that a function logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The id of the event that it names, if any.
    pub event_id: Option<String>,
    /// The line.
    pub text: String,
}

impl Attempt {
    /// Returns whether a fault was injected during this invocation of `function`.
    pub(super) fn contains(&self, function: &str, strike: &FaultStrike) -> bool {
        strike.function == function && (self.started_at..=self.ended_at).contains(&strike.at)
    }

    /// Returns the attempt with the lines about this event, and those that name no event.
    pub(super) fn of_event(&self, event_id: &str) -> Self {
        let is_shown = |line: &&LogLine| line.event_id.as_deref().is_none_or(|id| id == event_id);
        Self { lines: self.lines.iter().filter(is_shown).take(MAX_LINES).cloned().collect(), ..self.clone() }
    }
}

/// A call of a function into which a fault was injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultStrike {
    /// The function that made the call.
    pub function: String,
    /// The service, such as `SNS`.
    pub service: String,
    /// The operation, such as `Publish`.
    pub operation: String,
    /// The name of the fault.
    pub fault: String,
    /// When it happened, in milliseconds since 1970.
    pub at: u64,
    /// Ids of events that are in the request.
    pub ids: Vec<String>,
}
