//! The library that every Gatehouse function is built on.
//!
//! A Gatehouse function is a small program on AWS Lambda that AWS IoT Core triggers. These words mean the same
//! throughout the project:
//!
//! - An **event** is one thing that happened: a device published a message ([`DeviceEvent`]), or an operator, a
//!   schedule or another function sent a [`Command`]. Each has an [`EventId`] that stays the same over every retry.
//! - An **envelope** is the JSON object around a device's bytes. AWS IoT writes it, in the rule's SQL. What the
//!   envelope says (thing, topic, time) can be trusted; what the device says cannot.
//! - A **delivery** is how events reach the function: one bare event, or a batch of Amazon SQS records. A handler
//!   does not see the difference.
//! - An [`Outcome`] is the result of handling one event. *Done*: the effect is in place, and doing it again changes
//!   nothing. *Refused*: the event can never succeed; it goes to quarantine, whole, with a [`Refusal`] that says why.
//!   *Retry*: it may succeed later; only this event is returned for redelivery. No event is logged and dropped.
//! - The **quarantine** is the DynamoDB table of refused events. An operator can list and resend them.
//! - A **record** is an item of a [`VersionedTable`], which several processes update under optimistic locking. A
//!   [`Document`] is configuration that an operator uploads as JSON.
//! - A **claim** is one invocation's temporary right to perform an effect that must not happen twice ([`Idempotency`]).
//!   A [`Lease`] is its exclusive right to work on a record.
//! - An [`Outbox`] holds messages that are stored together with a state change and sent afterwards.
//!
//! A function implements [`EventHandler`] (one event at a time) or [`BatchHandler`] (many together), and its `main`
//! calls [`run`]:
//!
//! ```no_run
//! use gatehouse::{Concurrent, DeviceEvent, EventHandler, Failure, Invocation};
//! # use std::num::NonZeroUsize;
//! # use std::process::ExitCode;
//!
//! struct Lamp;
//!
//! impl EventHandler for Lamp {
//!     type Input = DeviceEvent;
//!     type Error = Failure;
//!
//!     async fn handle(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Failure> {
//!         tracing::info!(requestId = invocation.request_id(), thing = event.thing.as_str(), "the lamp is on");
//!         Ok(())
//!     }
//! }
//!
//! # async fn main_of_lamp() -> ExitCode {
//! gatehouse::run(async |_setup| Ok(Concurrent::new(Lamp, NonZeroUsize::MIN))).await
//! # }
//! ```
//!
//! The modules:
//!
//! - [`runtime`]: everything around a handler: INIT, deliveries, outcomes, metrics, logs.
//! - [`aws`]: SDK configuration, and clients of the services that several functions call.
//! - [`store`]: tables and the guarantees built on them.
//! - [`pki`]: X.509 certificates and revocation lists.
//! - [`event`]: what functions take as input.

pub mod aws;
pub mod event;
pub mod pki;
pub mod runtime;
pub mod store;

pub use aws::{Attribute, Notification, PublishError, Queue, SendError, Topic};
pub use event::{
    AlarmState, Command, DataState, DeviceEvent, Envelope, EventId, Incoming, Input, MessageKind, Number, ObjectFields,
    ParseNumberError, ParseSpanError, Severity, Span, ThingName, ThingPattern, Timestamp, array_elements, json_child,
    object_fields, parse_object,
};
pub use runtime::{
    BatchHandler, BoxError, Concurrent, Environment, EventHandler, Failure, Function, InitError, Invocation, Outcome,
    Outcomes, PartialOutcomes, Refusal, Setup, error_chain, run,
};
pub use store::{
    CaStatus, CurrentDocument, Devices, Document, DocumentError, Execution, Idempotency, IdempotencyError, Item, Key,
    Lease, LeaseError, MAX_DOCUMENT_BYTES, Outbox, OutboxError, PublishedCrl, Quarantine, TableError, Update, Updated,
    Validate, ValidationError, VersionedItem, VersionedTable, parse_document, run_claimed,
};
