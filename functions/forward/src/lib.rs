//! `Weather/Corp/+`: passes messages on to Amazon SQS queues, in other accounts and regions too.
//!
//! Which ones, a document says ([`Destinations`]); it is put by an order to the function, and as long as nobody has put
//! one, the template's parameters name the one destination. A message goes to **every** destination whose filter
//! matches its topic, as the device sent it, with what AWS IoT knows of it in message attributes ([`message`]). It is
//! done when all of them have taken it; where some have, that is noted, and the others alone are tried again
//! ([`taken`]).
//!
//! What a receiver is promised:
//!
//! - Each message at least once. Twice on a standard queue where an answer was lost, or a process died before it was
//!   heard: the attribute `traceId` is the same then. A FIFO queue drops the second within five minutes of the first:
//!   the template lets a second try come in that time, and a third comes after it.
//! - On a FIFO queue, the messages of one thing in the order of their receipt, as far as they reached the function in
//!   one batch. One that is not taken stops those behind it in the batch. More is not to be had: AWS IoT promises no
//!   order to a queue, and what is tried again comes later. The attribute `receivedAt` has the order.

pub mod destination;
pub mod filter;
pub mod message;
pub mod packing;
pub mod queue_url;
pub mod queues;
pub mod sending;
pub mod taken;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use futures_util::future::join_all;
use gatehouse::{
    Outcomes, BatchHandler, Invocation, Command, DeviceEvent, Document, DocumentError, Environment, EventId, Failure, Incoming,
    InitError, RecordError, Records, Refusal, Setup, chain,
};
use serde_json::value::RawValue;

use crate::destination::{Destination, Destinations};
use crate::message::Message;
use crate::packing::Piece;
use crate::queues::Queues;
use crate::sending::{NotTaken, Outgoing, send_all};
use crate::taken::{Note, Taken};

/// The handler of messages to be passed on.
#[derive(Debug)]
pub struct Forward {
    queues: Queues,
    document: Document<Destinations>,
    /// What holds where there is no document.
    default: Arc<Destinations>,
    taken: Taken,
}

/// Why a message is not passed on, or not yet.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It can never be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Where it goes is not known now.
    #[error("the destinations could not be read")]
    Destinations(#[from] Arc<DocumentError>),
    /// Which destinations have taken it already is not known now.
    #[error("what the destinations have taken already could not be read")]
    Taken(#[from] Arc<RecordError>),
    /// A queue did not take it.
    #[error(transparent)]
    NotTaken(NotTaken),
}

impl From<NotTaken> for Error {
    fn from(error: NotTaken) -> Self {
        match error {
            NotTaken::Refused(refusal) => Self::Refused(refusal),
            other => Self::NotTaken(other),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            other @ (Error::Destinations(_) | Error::Taken(_) | Error::NotTaken(_)) => Self::retry(other),
        }
    }
}

impl Forward {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let table: String = setup.environment().required("DEVICES_TABLE")?;
        let records = Records::new(setup.dynamodb(), table);
        Self::from(setup.environment(), Queues::connect(setup).await, records)
    }

    /// Reads `DESTINATION_QUEUE_URL`, `DESTINATION_TOPICS` and `DESTINATION_BINARY`, as [`Destinations::from`] does.
    pub fn from(environment: &Environment, queues: Queues, records: Records) -> Result<Self, InitError> {
        Ok(Self {
            queues,
            default: Arc::new(Destinations::from(environment)?),
            document: Document::new(records.clone(), "destinations"),
            taken: Taken::new(records),
        })
    }

    async fn put(&self, order: &Command<Box<RawValue>>) -> Result<(), DocumentError> {
        if !self.document.put(order.order.get(), order.received_at).await? {
            tracing::warn!(eventId = order.id.as_str(), "a later document of destinations is in force already");
        }
        Ok(())
    }

    /// Passes events on; the fate of each, in their order.
    async fn pass_on(&self, events: &[&DeviceEvent], invocation: &Invocation) -> Vec<Result<(), Error>> {
        let document = match self.document.current().await {
            Ok(found) => found,
            Err(error) => return vec![Err(Arc::new(error).into()); events.len()],
        };
        // The template's one destination has not taken what comes again. Before this document, others may have been in
        // force, and have sent it.
        let ids = document.is_some().then_some(events).into_iter().flatten().map(|event| &event.id);
        let notes = match self.taken.read(ids).await {
            Ok(notes) => notes,
            Err(error) => return vec![Err(Arc::new(error).into()); events.len()],
        };

        let destinations = &document.as_ref().unwrap_or(&self.default).destinations;
        let mut fates: Vec<Fate> = events.iter().map(|_| Fate::default()).collect();
        let sent = join_all(destinations.iter().map(|to| self.send(to, events, &notes, invocation))).await;
        for (to, sent) in destinations.iter().zip(sent) {
            for (index, taken) in sent {
                if let Some(fate) = fates.get_mut(index) {
                    fate.add(to, taken);
                }
            }
        }
        join_all(events.iter().zip(fates).map(|(event, fate)| self.conclude(event, fate, &notes, invocation))).await
    }

    /// Sends a destination what it takes and has not taken yet: what became of each event that is for it, by its index.
    async fn send(
        &self,
        to: &Destination,
        events: &[&DeviceEvent],
        notes: &HashMap<&EventId, Note>,
        invocation: &Invocation,
    ) -> Vec<(usize, Result<(), NotTaken>)> {
        let (mut fates, mut pieces) = (Vec::new(), Vec::new());
        for (index, &event) in events.iter().enumerate().filter(|(_, event)| to.takes(&event.topic)) {
            if notes.get(&event.id).is_some_and(|note| note.names.contains(&to.name)) {
                fates.push((index, Ok(())));
                continue;
            }
            match Message::new(event, to) {
                Ok(message) => pieces.push((
                    event.received_at,
                    Piece {
                        bytes: message.bytes(),
                        group: to.queue_url.is_fifo().then(|| event.thing.as_str()),
                        content: Outgoing { event: index, deduplication_id: event.id.as_str(), message },
                    },
                )),
                Err(refusal) => fates.push((index, Err(refusal.into()))),
            }
        }
        if to.queue_url.is_fifo() {
            pieces.sort_by_key(|(received_at, _)| *received_at);
        }
        let waiting: VecDeque<_> = pieces.into_iter().map(|(_, piece)| piece).collect();
        let sent = send_all(&self.queues.client(&to.queue_url), &to.queue_url, waiting, invocation).await;
        invocation.add("Forwarded", sent.iter().map(|(_, taken)| u64::from(taken.is_ok())).sum());
        fates.extend(sent);
        fates
    }

    /// What became of an event; where only some destinations have taken it, that is noted first.
    async fn conclude(
        &self,
        event: &DeviceEvent,
        fate: Fate,
        notes: &HashMap<&EventId, Note>,
        invocation: &Invocation,
    ) -> Result<(), Error> {
        let Fate { taken, failure, refusal } = fate;
        let result = match (failure, refusal) {
            (Some(failure), _) => Err(failure),
            (None, Some(refusal)) => Err(refusal.into()),
            (None, None) if taken.is_empty() => {
                let why = "No destination takes messages of this topic.";
                Err(Refusal::new("no-destination", why).into())
            }
            (None, None) => Ok(()),
        };
        let nothing = Note::default();
        let was = notes.get(&event.id).unwrap_or(&nothing);
        if result.is_err()
            && let Err(error) = self.taken.note(&event.id, taken, was, invocation.now()).await
        {
            // They may get it a second time, which at least once allows; the event itself is not at stake.
            tracing::warn!(eventId = event.id.as_str(), error = chain(&error), "what was taken could not be noted");
        }
        result
    }
}

/// What became of an event at all its destinations.
#[derive(Debug, Default)]
struct Fate {
    /// The destinations that have taken it.
    taken: BTreeSet<String>,
    /// Why one of the others may take it later,
    failure: Option<Error>,
    /// and why one of them never will.
    refusal: Option<Refusal>,
}

impl Fate {
    fn add(&mut self, to: &Destination, taken: Result<(), NotTaken>) {
        match taken {
            Ok(()) => drop(self.taken.insert(to.name.clone())),
            Err(NotTaken::Refused(refusal)) => self.refusal = Some(refusal),
            Err(error) => self.failure = Some(error.into()),
        }
    }
}

impl BatchHandler for Forward {
    type Input = Incoming<Box<RawValue>>;

    async fn handle_batch(&self, inputs: &[Self::Input], answers: &mut Outcomes, invocation: &Invocation) {
        let (mut indices, mut events) = (Vec::new(), Vec::new());
        for (index, input) in inputs.iter().enumerate() {
            match input {
                Incoming::Command(order) => answers.set(index, self.put(order).await.map_err(Failure::from)),
                Incoming::Event(event) => {
                    indices.push(index);
                    events.push(event);
                }
            }
        }
        if events.is_empty() {
            return;
        }
        for (index, fate) in indices.into_iter().zip(self.pass_on(&events, invocation).await) {
            answers.set(index, fate.map_err(Failure::from));
        }
    }
}
