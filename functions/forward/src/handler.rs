use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures_util::future::join_all;
use gatehouse::{
    BatchHandler, Command, DeviceEvent, Document, DocumentError, Environment, Failure, Incoming, InitError, Invocation,
    Outcome, Outcomes, Refusal, Setup, VersionedTable, error_chain,
};
use serde_json::value::RawValue;

use crate::batch::BatchItem;
use crate::delivery_record::{DeliveryRecord, DeliveryRecords};
use crate::destination::{Destination, Destinations};
use crate::error::ForwardError;
use crate::message::Message;
use crate::regional_clients::RegionalClients;
use crate::sender::{OutgoingMessage, send_all};

/// Forwards messages, and stores documents of destinations.
#[derive(Debug)]
pub struct ForwardHandler {
    clients: RegionalClients,
    document: Document<Destinations>,
    /// The destinations that apply until a document is uploaded.
    default: Arc<Destinations>,
    records: DeliveryRecords,
}

struct MessageDelivery<'a> {
    /// The event's index in the batch.
    index: usize,
    event: &'a DeviceEvent,
    /// The destinations that accepted it in earlier attempts.
    record: DeliveryRecord,
    /// The destinations that have accepted it by now.
    accepted: BTreeSet<&'a str>,
    /// Why others have not.
    failures: Vec<ForwardError>,
}

impl ForwardHandler {
    /// Assembles the handler during INIT, and opens its connections.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let table: String = setup.environment().required("DEVICES_TABLE")?;
        let table = VersionedTable::new(setup.dynamodb(), table);
        Self::from_environment(setup.environment(), RegionalClients::connect(setup).await, table)
    }

    /// Reads `DESTINATION_QUEUE_URL`, `DESTINATION_TOPICS` and `DESTINATION_BINARY`, as
    /// [`Destinations::from_environment`] does.
    pub fn from_environment(
        environment: &Environment,
        clients: RegionalClients,
        table: VersionedTable,
    ) -> Result<Self, InitError> {
        Ok(Self {
            clients,
            default: Arc::new(Destinations::from_environment(environment)?),
            document: Document::new(table.clone(), "destinations"),
            records: DeliveryRecords::new(table),
        })
    }

    async fn put_document(
        &self,
        command: &Command<Box<RawValue>>,
        invocation: &Invocation,
    ) -> Result<(), DocumentError> {
        if !self.document.put(command.body.get(), command.received_at, invocation).await? {
            tracing::warn!(eventId = command.id.as_str(), "a later document of destinations is already in force");
        }
        Ok(())
    }

    /// Forwards messages. Returns each event's index with its outcome, or the reason why no message was sent.
    async fn forward(
        &self,
        events: &[(usize, &DeviceEvent)],
        invocation: &Invocation,
    ) -> Result<Vec<(usize, Outcome)>, ForwardError> {
        let document = self.document.current().await;
        let document = document.map_err(|error| ForwardError::Destinations(Arc::new(error)))?;
        // Without a document there is at most one destination, which cannot have accepted a message that is being
        // retried, so no records are needed. A document may have replaced others under which the message was sent, so
        // it needs the records even if it has only one destination.
        let ids = document.is_some().then_some(events).into_iter().flatten().map(|(_, event)| &event.id);
        let records = self.records.get_all(ids).await;
        let records = records.map_err(|error| ForwardError::DeliveryRecords(Arc::new(error)))?;

        let destinations = &document.as_ref().unwrap_or(&self.default).destinations;
        let mut deliveries: Vec<MessageDelivery> = events
            .iter()
            .map(|&(index, event)| MessageDelivery {
                index,
                event,
                record: records.get(&event.id).cloned().unwrap_or_default(),
                accepted: BTreeSet::new(),
                failures: Vec::new(),
            })
            .collect();
        let sends = destinations.iter().map(|destination| self.send(destination, &deliveries, invocation));
        for (destination, results) in destinations.iter().zip(join_all(sends).await) {
            for (position, result) in results {
                if let Some(delivery) = deliveries.get_mut(position) {
                    delivery.add(&destination.name, result);
                }
            }
        }
        let failed = deliveries.iter().filter(|delivery| !delivery.failures.is_empty());
        join_all(failed.map(|delivery| self.record(delivery, invocation))).await;
        Ok(deliveries.into_iter().map(|delivery| (delivery.index, delivery.outcome())).collect())
    }

    /// Sends a destination the messages that match its topics and that it has not accepted yet. Returns the position
    /// and the result of each delivery that is for it.
    async fn send(
        &self,
        destination: &Destination,
        deliveries: &[MessageDelivery<'_>],
        invocation: &Invocation,
    ) -> Vec<(usize, Result<(), ForwardError>)> {
        let is_fifo = destination.queue_url.is_fifo();
        let (mut results, mut items) = (Vec::new(), Vec::new());
        for (position, MessageDelivery { event, record, .. }) in deliveries.iter().enumerate() {
            if !destination.matches(&event.topic) {
                continue;
            }
            if record.contains(&destination.name) {
                results.push((position, Ok(())));
                continue;
            }
            match Message::new(event, destination) {
                Ok(message) => items.push((
                    event.received_at,
                    BatchItem {
                        bytes: message.bytes(),
                        group: is_fifo.then(|| event.thing.as_str()),
                        content: OutgoingMessage { position, deduplication_id: event.id.as_str(), message },
                    },
                )),
                Err(refusal) => results.push((position, Err(refusal.into()))),
            }
        }
        if is_fifo {
            items.sort_by_key(|(received_at, _)| *received_at);
        }
        let pending: VecDeque<_> = items.into_iter().map(|(_, item)| item).collect();
        let client = self.clients.for_queue(&destination.queue_url);
        let sent = send_all(&client, &destination.queue_url, pending, invocation).await;
        invocation.add("Forwarded", sent.iter().map(|(_, result)| u64::from(result.is_ok())).sum());
        results.extend(sent);
        results
    }

    /// Records which destinations have accepted a message that others have not.
    async fn record(&self, delivery: &MessageDelivery<'_>, invocation: &Invocation) {
        let MessageDelivery { event, record, accepted, .. } = delivery;
        if let Err(error) = self.records.add(&event.id, accepted, record.clone(), invocation).await {
            // The outcome does not change: at worst, these destinations receive the message twice.
            let (event_id, error) = (event.id.as_str(), error_chain(&error));
            tracing::warn!(eventId = event_id, error, "failed to record which destinations accepted the message");
        }
    }
}

impl<'a> MessageDelivery<'a> {
    fn add(&mut self, destination: &'a str, result: Result<(), ForwardError>) {
        match result {
            Ok(()) => drop(self.accepted.insert(destination)),
            Err(error) => self.failures.push(error),
        }
    }

    fn outcome(self) -> Outcome {
        if self.accepted.is_empty() && self.failures.is_empty() {
            let why = "No destination receives messages of this topic.";
            return Err(Refusal::new("no-destination", why).into());
        }
        // A retry takes precedence: a refused event would not be delivered again.
        let failures = self.failures.into_iter().map(Failure::from);
        failures.max_by_key(|failure| matches!(failure, Failure::Retry(_))).map_or(Ok(()), Err)
    }
}

impl BatchHandler for ForwardHandler {
    type Input = Incoming<Box<RawValue>>;

    async fn handle_batch(&self, inputs: &[Self::Input], outcomes: &mut Outcomes, invocation: &Invocation) {
        let mut events = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            match input {
                Incoming::Command(command) => {
                    outcomes.set(index, self.put_document(command, invocation).await.map_err(Failure::from));
                }
                Incoming::Event(event) => events.push((index, event)),
            }
        }
        if events.is_empty() {
            return;
        }
        match self.forward(&events, invocation).await {
            Ok(results) => results.into_iter().for_each(|(index, outcome)| outcomes.set(index, outcome)),
            Err(error) => events.iter().for_each(|(index, _)| outcomes.set(*index, Err(error.clone().into()))),
        }
    }
}
