//! The tasks that collect the observations in an account.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::log::FunctionLog;
use super::state::{Observed, State, lock};
use super::{Effect, Notification, PublishedMessage, Timed, now};
use crate::aws::Clients;
use crate::destination::DestinationQueue;

/// The pause after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// Delay before an event is redelivered. In AWS it is a minute.
const REDELIVERY_DELAY: Duration = Duration::from_secs(1);

/// Prefixes of the topics on which AWS IoT publishes, except those about new certificates.
const SYSTEM_TOPICS: [&str; 2] = ["$aws/events/presence/", "$aws/things/"];

/// The shared state of the watching tasks.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    pub(super) clients: Clients,
    state: Arc<Mutex<State>>,
    change: watch::Sender<()>,
}

impl Watcher {
    pub(super) fn new(clients: &Clients, state: &Arc<Mutex<State>>, change: watch::Sender<()>) -> Self {
        Self { clients: clients.clone(), state: Arc::clone(state), change }
    }

    pub(super) fn add<T>(&self, add: impl FnOnce(&mut State) -> T) {
        let mut state = lock(&self.state);
        add(&mut state);
        state.changed_at = Instant::now();
        drop(state);
        self.change.send_replace(());
    }

    /// Adds an effect that a function reported or, without a function, that a topic or a queue delivered.
    pub(super) fn add_effect(&self, event_id: &str, function: Option<&str>, effect: Effect, at: u64) {
        let (event_id, function) = (event_id.to_owned(), function.map(str::to_owned));
        self.add(|state| state.add_effect(Observed { event_id, function, timed: Timed { effect, at } }));
    }

    pub(super) fn add_error(&self, source: &str, error: &anyhow::Error) {
        self.add(|state| state.error = Some(format!("failed to read {source}: {error:#}")));
    }

    /// Observes the account's queue.
    pub(super) async fn watch_queue(self, url: String, logs: Vec<FunctionLog>) {
        loop {
            if let Err(error) = self.receive(&url, &logs).await {
                self.add_error(url.rsplit('/').next().unwrap_or_default(), &error);
                sleep(PAUSE).await;
            }
        }
    }

    async fn receive(&self, url: &str, logs: &[FunctionLog]) -> Result<()> {
        let receive =
            self.clients.sqs.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(20);
        let received = receive.message_system_attribute_names(MessageSystemAttributeName::SentTimestamp).send().await?;
        if received.messages().is_empty() {
            return Ok(());
        }
        let mut delete = self.clients.sqs.delete_message_batch().queue_url(url);
        for (id, message) in received.messages().iter().enumerate() {
            let sent = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::SentTimestamp));
            let at = sent.and_then(|millis| millis.parse().ok()).unwrap_or_else(now);
            if let Err(error) = self.add_observed(message.body().unwrap_or_default(), at, logs).await {
                self.add_error("an observed message", &error);
            }
            let entry = DeleteMessageBatchRequestEntry::builder().id(id.to_string());
            delete = delete.entries(entry.set_receipt_handle(message.receipt_handle.clone()).build()?);
        }
        let deleted = delete.send().await?;
        ensure!(deleted.failed().is_empty(), "failed to delete a message");
        Ok(())
    }

    /// Sends a marker to the queue. It is received after everything that was sent before it.
    pub(super) async fn send_marker(&self, url: &str, marker: u64) -> Result<()> {
        let body = json!({"marker": marker}).to_string();
        self.clients.sqs.send_message().queue_url(url).message_body(body).send().await?;
        Ok(())
    }

    /// Adds the observation in a message of the queue, whose fields show its kind.
    async fn add_observed(&self, body: &str, at: u64, logs: &[FunctionLog]) -> Result<()> {
        let fields: Value = serde_json::from_str(body)?;
        if let Some(marker) = fields.get("marker").and_then(Value::as_u64) {
            self.add(|state| state.last_marker = marker);
            Ok(())
        } else if fields.get("logGroup").is_some() {
            self.add_log(body, logs).await
        } else if fields.get("TopicArn").is_some() {
            self.add_notification(body, at)
        } else if fields.get("observedAt").is_some() {
            self.add_message(body)
        } else {
            self.add_event(body)
        }
    }

    /// Adds a mirrored message.
    fn add_message(&self, body: &str) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Mirrored {
            #[serde(default)]
            payload_base64: String,
            topic: String,
            #[serde(default)]
            client_id: String,
            trace_id: String,
            observed_at: u64,
        }
        let Mirrored { payload_base64, topic, client_id, trace_id, observed_at: at } = serde_json::from_str(body)?;
        let payload = BASE64_STANDARD.decode(payload_base64)?;
        let is_system = SYSTEM_TOPICS.iter().any(|prefix| topic.starts_with(prefix));
        let message = PublishedMessage { trace_id, topic, client_id, payload, at };
        self.add(|state| {
            if let Some(journal) = &mut state.journal {
                journal.add_message(&message, is_system);
            }
            if is_system { &mut state.system_messages } else { &mut state.messages }.push(message);
        });
        Ok(())
    }

    /// Adds a function input that a rule built.
    fn add_event(&self, body: &str) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event {
            trace_id: String,
        }
        let Event { trace_id } = serde_json::from_str(body)?;
        self.add(|state| {
            if let Some(journal) = &mut state.journal {
                journal.add_envelope(&trace_id, body);
            }
            state.events.push((trace_id, body.to_owned()));
        });
        Ok(())
    }

    /// Adds a notification.
    fn add_notification(&self, body: &str, at: u64) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Envelope {
            topic_arn: String,
            message: String,
            subject: Option<String>,
            #[serde(default)]
            message_attributes: BTreeMap<String, Attribute>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Attribute {
            value: String,
        }
        let Envelope { topic_arn, message, subject, message_attributes } = serde_json::from_str(body)?;
        let topic = topic_arn.rsplit(':').next().unwrap_or_default().to_owned();
        let attributes: BTreeMap<_, _> =
            message_attributes.into_iter().map(|(name, attribute)| (name, attribute.value)).collect();
        // An alarm's notification, for example, belongs to no single event.
        let event_id = attributes.get("eventId").cloned().unwrap_or_default();
        // A queue gets the structured message, which contains the text.
        let data = serde_json::from_str(&message).ok().filter(Value::is_object);
        let text = data.as_ref().and_then(|data| data.get("words")?.as_str().map(str::to_owned));
        let message = text.unwrap_or(message);
        let notification = Notification { topic, message, data, subject, attributes };
        self.add_effect(&event_id, None, Effect::Notified(notification), at);
        Ok(())
    }

    /// Observes a queue of another account. A message's trace id is the event id.
    pub(super) async fn watch_destination(self, queue: DestinationQueue) {
        loop {
            match queue.receive().await {
                Ok(received) => {
                    for message in received {
                        let event_id = message.attributes.get("traceId").cloned().unwrap_or_default();
                        self.add_effect(&event_id, None, Effect::Forwarded(message), now());
                    }
                }
                Err(error) => {
                    self.add_error("the destination queue", &error);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Redelivers an event that a function wants to retry. AWS does so, but the local cloud's rules engine does not.
    pub(super) fn redeliver(&self, function: &str, event_id: &str) {
        let Some((_, event)) = lock(&self.state).events.take(|(id, _)| id == event_id) else { return };
        let invoke = self.clients.lambda.invoke().function_name(function).invocation_type(InvocationType::Event);
        let (watcher, invoke) = (self.clone(), invoke.payload(Blob::new(event)));
        tokio::spawn(async move {
            sleep(REDELIVERY_DELAY).await;
            if let Err(error) = invoke.send().await {
                watcher.add_error("an event to redeliver", &error.into());
            }
        });
    }
}
