//! An AWS account behind the SDK's HTTP layer.
//!
//! Requests and responses are those of the real SDK, including its retries. All processes of the function share one
//! account. Any call can fail before or after AWS performs it, end its process, or be held back until another process's
//! call has been served.

mod connection;
mod dynamodb;
mod expression;
mod fault;
mod iot;
mod iot_data;
mod process;
mod request;
mod response;
mod signature;
mod sns;
mod sqs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use gatehouse::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use dynamodb::{Index, Item, ItemKey, Table, kind, label_by_kind, label_by_kind_and_sort_key};
pub use fault::{FAULTS, Fault};
pub use iot::{RegisteredCa, RegisteredCertificate, Registry, certificate_arn};
pub use iot_data::ShadowUpdate;
pub use process::{Delivered, Process};
pub use request::{Call, Service};
pub use sns::Published;
pub use sqs::{EntryFault, EntryFaults, Queue, SentMessage};

use fault::FaultPlan;

/// The time at which most tests start: 2025-11-21T09:00:00Z.
pub const NOW: Timestamp = Timestamp::from_millis(1_763_715_600_000);

/// How many times a queue delivers a message before it goes to the dead-letter queue.
pub const MAX_RECEIVES: usize = 5;

/// The pause between attempts to lock the account's state. Each test runs on one thread, so more attempts would not
/// help.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const MAX_LOCK_ATTEMPTS: usize = 200;

/// An account, and the configuration of the function under test in it.
///
/// Most methods that configure it can be chained. A clone is the same account.
#[derive(Clone)]
pub struct FakeAws(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    served: Notify,
    /// Messages of panics and of violated expectations, because a panic in a handler only becomes a retry.
    violations: Mutex<Vec<String>>,
}

type Observer = Box<dyn FnMut(&State, &Call) -> Result<(), String> + Send>;

/// The content of the account, and what has happened in it.
#[derive(Default)]
pub struct State {
    /// Items of all tables.
    pub tables: BTreeMap<ItemKey, Item>,
    /// How often each item was written.
    pub writes: BTreeMap<ItemKey, usize>,
    /// What was published to topics, in order.
    pub published: Vec<Published>,
    /// Queues by URL.
    pub queues: BTreeMap<String, Queue>,
    /// Chooses what goes wrong with an entry of `SendMessageBatch`.
    pub entry_fault: Option<EntryFaults>,
    /// AWS IoT's registry.
    pub iot: Registry,
    /// MQTT clients by id: `true` if they are connected, `false` if they have only a stored session.
    pub connections: BTreeMap<String, bool>,
    /// Updates of device shadows, in order.
    pub shadow_updates: Vec<ShadowUpdate>,
    /// The calls that were served, in order.
    pub calls: Vec<Call>,
    /// The maximum number of keys that one `BatchGetItem` reads; it leaves the others unprocessed.
    pub max_batch_get: Option<usize>,
    settings: Settings,
    plan: FaultPlan,
    observers: Vec<Observer>,
    clock: Option<(Timestamp, Instant)>,
    /// The numbers of the processes whose calls are served next, if the order is fixed.
    turns: VecDeque<usize>,
    finished: BTreeSet<usize>,
    processes: usize,
    in_flight: BTreeMap<String, (usize, usize)>,
}

/// How the function is deployed.
struct Settings {
    function: &'static str,
    timeout: Duration,
    visibility_timeout: Duration,
    environment: Vec<(&'static str, String)>,
    tables: Vec<Table>,
    page_size: usize,
    latencies: BTreeMap<String, Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        let environment = [("IDEMPOTENCY_TABLE", "idempotency"), ("QUARANTINE_TABLE", "quarantine")];
        Self {
            function: "function",
            timeout: Duration::from_secs(10),
            visibility_timeout: Duration::from_mins(6),
            environment: environment.map(|(name, value)| (name, value.to_owned())).into(),
            tables: dynamodb::COMMON.to_vec(),
            page_size: 1,
            latencies: BTreeMap::new(),
        }
    }
}

impl FakeAws {
    /// Returns an account with the idempotency table, the quarantine, and a function of this name, whose timeout is ten
    /// seconds.
    pub fn new(function: &'static str) -> Self {
        let settings = Settings { function, ..Settings::default() };
        let clock = Some((NOW, Instant::now()));
        let state = Mutex::new(State { settings, clock, ..State::default() });
        Self(Arc::new(Shared { state, served: Notify::new(), violations: Mutex::default() }))
    }

    /// Sets an environment variable of the function.
    #[must_use]
    pub fn env(self, name: &'static str, value: impl Into<String>) -> Self {
        self.state().settings.environment.push((name, value.into()));
        self
    }

    /// Sets how long an invocation may take.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.state().settings.timeout = timeout;
        self
    }

    /// Sets how long the queue waits before it delivers a message again.
    #[must_use]
    pub fn visibility_timeout(self, timeout: Duration) -> Self {
        self.state().settings.visibility_timeout = timeout;
        self
    }

    /// Creates a table, or replaces the one of this name.
    #[must_use]
    pub fn table(self, table: Table) -> Self {
        self.state().settings.tables.push(table);
        self
    }

    /// Creates an empty queue.
    #[must_use]
    pub fn queue(self, url: &str) -> Self {
        self.state().queues.insert(url.to_owned(), Queue::default());
        self
    }

    /// Sets how many items are on a page of a query. The default is one, so that tests need several pages.
    #[must_use]
    pub fn page_size(self, items: usize) -> Self {
        self.state().settings.page_size = items;
        self
    }

    /// Sets how long AWS takes for calls of this name or operation.
    #[must_use]
    pub fn latency(self, name: &str, latency: Duration) -> Self {
        self.state().settings.latencies.insert(name.to_owned(), latency);
        self
    }

    /// Returns the account's state, to be read or changed. Only one guard may exist at a time, even within one
    /// statement.
    #[track_caller]
    pub fn state(&self) -> MutexGuard<'_, State> {
        for _ in 0..MAX_LOCK_ATTEMPTS {
            match self.0.state.try_lock() {
                Ok(state) => return state,
                // A panic inside a handler must not hide its cause.
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            }
        }
        panic!("the account's state is already borrowed");
    }

    /// A new process of the function.
    pub fn process(&self) -> Process {
        let number = {
            let mut state = self.state();
            state.processes += 1;
            state.processes
        };
        Process::new(self.clone(), number)
    }

    /// Serves calls in the order of these processes' numbers, one call per number, and later calls as they arrive.
    pub fn serve_in_order(&self, turns: impl IntoIterator<Item = usize>) {
        self.state().turns = turns.into_iter().collect();
    }

    /// Makes this call fail, counted from 1 over all processes since [`Self::reset_calls`].
    pub fn fail(&self, call: usize, fault: Fault) {
        self.state().plan.numbered.insert(call, fault);
    }

    /// Makes every call of this name or operation fail.
    pub fn fail_each(&self, name: &str, fault: Fault) {
        self.state().plan.always.insert(name.to_owned(), fault);
    }

    /// Makes the next calls of this name or operation fail, one after the other; `None` lets one succeed.
    pub fn fail_next<F: Into<Option<Fault>>>(&self, name: &str, faults: impl IntoIterator<Item = F>) {
        let faults = faults.into_iter().map(Into::into).collect();
        self.state().plan.next.push((name.to_owned(), faults));
    }

    /// Makes the calls of this name or operation fail for which `condition` returns a fault.
    pub fn fail_when(&self, name: &str, condition: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.state().plan.conditions.push((name.to_owned(), Box::new(condition)));
    }

    /// Changes the state just before this call is served. Calls are counted as for [`Self::fail`].
    pub fn change(&self, call: usize, change: impl FnOnce(&mut State) + Send + 'static) {
        self.state().plan.changes.insert(call, Box::new(change));
    }

    /// Discards the recorded calls, and restarts counting.
    pub fn reset_calls(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.plan.calls = 0;
    }

    /// The number of calls that AWS received since [`Self::reset_calls`], failed ones included.
    pub fn call_count(&self) -> usize {
        self.state().plan.calls
    }

    /// Calls `observer` after each call that AWS performs. An error fails the test.
    pub fn observe(&self, observer: impl FnMut(&State, &Call) -> Result<(), String> + Send + 'static) {
        self.state().observers.push(Box::new(observer));
    }

    /// The current time in the account: that of the last delivery ([`NOW`] before the first) plus the time elapsed
    /// since.
    pub fn now(&self) -> Timestamp {
        self.state().now()
    }

    /// Fails the test if the fake did not support a request, or if an observer returned an error.
    #[track_caller]
    pub fn assert_no_violations(&self) {
        let violations = self.0.violations.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }

    fn report_violation(&self, violation: String) {
        self.0.violations.lock().unwrap_or_else(PoisonError::into_inner).push(violation);
    }
}

impl fmt::Debug for FakeAws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeAws").finish_non_exhaustive()
    }
}

impl State {
    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.map_or(NOW, |(at, instant)| at.plus(instant.elapsed()))
    }

    /// The calls that this process made, by [`Call::label`], in order.
    pub fn calls_of(&self, process: usize) -> Vec<String> {
        self.calls.iter().filter(|call| call.process == process).map(Call::label).collect()
    }

    /// The calls of this name or operation, in order.
    pub fn calls_to(&self, name: &str) -> Vec<&Call> {
        self.calls.iter().filter(|call| call.is(name)).collect()
    }

    /// How often each call was made, by [`Call::label`].
    pub fn call_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in &self.calls {
            *counts.entry(call.label()).or_default() += 1;
        }
        counts
    }

    /// The maximum number of calls of this operation that were open at the same time.
    pub fn max_in_flight(&self, operation: &str) -> usize {
        self.in_flight.get(operation).map_or(0, |(_, max)| *max)
    }

    /// An item by its table and key values.
    pub fn item(&self, table: &str, key: &[&str]) -> Option<&Item> {
        self.tables.get(&item_key(table, key))
    }

    /// All items of a table, in the order of their keys.
    pub fn items(&self, table: &str) -> impl Iterator<Item = (&[String], &Item)> {
        self.tables.iter().filter(move |((of, _), _)| of == table).map(|((_, key), item)| (key.as_slice(), item))
    }

    /// The value of an item's attribute as text, whatever its type.
    pub fn attribute(&self, table: &str, key: &[&str], name: &str) -> Option<String> {
        let value = self.item(table, key)?.get(name)?.as_object()?.values().next()?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// Sets attributes of an item (in DynamoDB's JSON), and creates it if there is none.
    pub fn set_attributes(&mut self, table: &str, key: &[&str], attributes: &Value) {
        let names = self.table_named(table).key;
        let item = self.tables.entry(item_key(table, key)).or_default();
        item.extend(names.iter().zip(key).map(|(name, value)| ((*name).to_owned(), json!({"S": value}))));
        item.extend(attributes.as_object().unwrap().clone());
    }

    /// The events in quarantine: id, reason code and sentence.
    pub fn quarantined(&self) -> Vec<(&str, &str, &str)> {
        self.items("quarantine")
            .map(|(_, item)| {
                let [id, reason, why] = ["eventId", "reason", "why"].map(|name| item[name]["S"].as_str().unwrap());
                (id, reason, why)
            })
            .collect()
    }
}

fn item_key(table: &str, key: &[&str]) -> ItemKey {
    (table.to_owned(), key.iter().map(|part| (*part).to_owned()).collect())
}
