//! An AWS account with the function and its queue, which delivers messages until none are left.

use std::cell::Cell;
use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::time::Duration;

use actuator::{ActuatorHandler, Shadows};
use gatehouse::{Concurrent, Idempotency, InitError, Queue, Timestamp, Topic, VersionedTable};
use serde_json::Value;
use test_support::{Delivered, FakeAws, Item, MAX_RECEIVES, NOW, Process, Published, SentMessage, Table, sqs_batch};
use tokio::time::Instant;

const QUEUE_URL: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/gatehouse-actuator";

const VISIBILITY_TIMEOUT: Duration = Duration::from_mins(6);

/// The account, with a clock that tests can advance.
pub struct Account {
    pub aws: FakeAws,
    started: Instant,
    skipped: Cell<Duration>,
}

impl Account {
    /// An account without a document.
    pub fn new() -> Self {
        let aws = FakeAws::new("actuator")
            .timeout(Duration::from_mins(1))
            .table(Table::new("actuator", &["id", "part"], &["GetItem", "PutItem"]))
            .queue(QUEUE_URL)
            .env("QUEUE_URL", QUEUE_URL)
            .env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:operators");
        Self { aws, started: Instant::now(), skipped: Cell::default() }
    }

    /// An account in which this document is in force.
    pub async fn with(document: &Value) -> Self {
        let account = Self::new();
        let delivered = account.deliver(&document.to_string()).await;
        assert!(is_done(&delivered) && account.quarantined().is_empty(), "{:?}", account.quarantined());
        account.aws.reset_calls();
        account
    }

    pub fn env(self, name: &'static str, value: &str) -> Self {
        Self { aws: self.aws.env(name, value), ..self }
    }

    pub fn now(&self) -> Timestamp {
        NOW.plus(self.skipped.get()).plus(self.started.elapsed())
    }

    /// Advances the clock.
    pub fn skip(&self, time: Duration) {
        self.skipped.set(self.skipped.get() + time);
    }

    /// The handler in this process.
    pub fn handler(process: &Process) -> Result<ActuatorHandler, InitError> {
        let environment = process.environment();
        ActuatorHandler::from_environment(
            &environment,
            VersionedTable::new(process.dynamodb(), "actuator"),
            Shadows::new(process.iot_data()),
            Queue::from_environment(&environment, process.sqs())?,
            Idempotency::from_environment(&environment, process.dynamodb(), "actuator")?,
            Topic::from_environment(&environment, process.sns())?,
        )
    }

    /// Passes a delivery to a new process.
    pub async fn invoke(&self, delivery: &Value) -> Delivered {
        let process = self.aws.process();
        let handler = Concurrent::new(Self::handler(&process).unwrap(), NonZeroUsize::new(10).unwrap());
        process.deliver_to(handler, delivery, self.now()).await
    }

    /// Delivers one message in a batch.
    pub async fn deliver(&self, body: &str) -> Delivered {
        self.invoke(&sqs_batch([body])).await
    }

    /// Delivers each message at its time after the start, redelivers it if it must be retried, and delivers what the
    /// function sends to its own queue, until no messages are left. Returns the messages that failed too often.
    pub async fn play(&self, messages: &[(Duration, String)]) -> Vec<String> {
        let queued = messages.iter().map(|(after, body)| (NOW.plus(*after), body.clone(), 1));
        let (mut queue, mut dead): (Vec<_>, Vec<_>) = (queued.collect(), Vec::new());
        for _ in 0..200 {
            queue.sort_by_key(|(due, ..)| Reverse(*due));
            let Some((due, body, receives)) = queue.pop() else { return dead };
            self.skip(due.since(self.now()));
            if !is_done(&self.deliver(&body).await) {
                if receives == MAX_RECEIVES {
                    dead.push(body);
                } else {
                    queue.push((self.now().plus(VISIBILITY_TIMEOUT), body, receives + 1));
                }
            }
            for SentMessage { body, delay } in self.take_sent() {
                queue.push((self.now().plus(delay), body, 1));
            }
        }
        panic!("the queue never becomes empty");
    }

    /// Removes what the function sent to its own queue, and returns it.
    pub fn take_sent(&self) -> Vec<SentMessage> {
        self.aws.state().queues.get_mut(QUEUE_URL).unwrap().take()
    }

    /// The shadows whose desired states were set, as `thing` or `thing/name`, in order.
    pub fn desired(&self) -> Vec<(String, Value)> {
        let state = self.aws.state();
        let updates = state.shadow_updates.iter().map(|update| {
            let name = update.shadow.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
            (format!("{}{name}", update.thing), update.desired().clone())
        });
        updates.collect()
    }

    /// The positions that the shade was commanded to move to, in order.
    pub fn positions(&self) -> Vec<String> {
        let position = |(_, desired): (String, Value)| desired["position"].as_str().unwrap().to_owned();
        self.desired().into_iter().map(position).collect()
    }

    /// The time between the first and the second desired state.
    pub fn gap(&self) -> Duration {
        let state = self.aws.state();
        state.shadow_updates[1].at.since(state.shadow_updates[0].at)
    }

    /// The operations that the function called, in order.
    pub fn operations(&self) -> Vec<String> {
        self.aws.state().calls.iter().map(|call| call.operation.clone()).collect()
    }

    pub fn record(&self, device: &str) -> Item {
        let key = format!("device#{device}");
        self.aws.state().item("actuator", &[&key, "command"]).cloned().unwrap_or_default()
    }

    /// The reason codes and sentences of refused events.
    pub fn quarantined(&self) -> Vec<(String, String)> {
        let state = self.aws.state();
        state.quarantined().into_iter().map(|(_, reason, why)| (reason.to_owned(), why.to_owned())).collect()
    }

    /// The texts of the operators' notifications.
    pub fn notifications(&self) -> Vec<String> {
        self.aws.state().published.iter().map(Published::text).collect()
    }
}

/// Whether no message of a batch must be retried.
pub fn is_done(delivered: &Delivered) -> bool {
    delivered.retried_messages() == Some(Vec::new())
}
