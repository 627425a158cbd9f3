//! What every Gatehouse function stands on.
//!
//! A Gatehouse function is a small program on AWS Lambda that is woken by AWS IoT Core. These words mean the same
//! throughout the project:
//!
//! - An **event** is one thing that happened: a device published a message ([`DeviceEvent`]), or somebody gave an
//!   order ([`Command`]). Both are an [`Input`], and [`Incoming`] is either; each has an [`EventId`] that stays the same
//!   over every retry.
//! - An **envelope** is the JSON object around a device's bytes. AWS IoT writes it, in the rule's SQL; what it says
//!   (who, which topic, when) can be trusted, what the device says cannot.
//! - A **delivery** is how events reach the function: one bare event, or a batch of Amazon SQS records. A handler
//!   does not see the difference.
//! - An **outcome** is what became of an event. There are three. *Done*: the effect is in place, and doing it again
//!   changes nothing. *Refused*: this event can never succeed; it goes to quarantine, whole, with a [`Refusal`] that
//!   says why. *Retry*: it may succeed later; only this event is handed back. No event is logged and dropped.
//! - The **quarantine** is the DynamoDB table of refused events. They can be listed, and sent again.
//! - A **record** is an item in a table that several processes change, each only what it has read ([`Records`]); a
//!   **document** is what an operator has set down for a function in JSON ([`Document`]).
//! - A **claim** is a function's temporary right to carry out an effect that must not happen twice
//!   ([`Idempotency`]).
//!
//! A function implements [`Each`] (one event at a time) or [`Bulk`] (many together), and its `main` calls [`run`].

mod call;
mod crl;
mod delivery;
mod devices;
mod document;
mod environment;
mod event;
mod handler;
mod idempotency;
pub mod item;
mod metrics;
mod outcome;
mod payload;
mod quarantine;
mod queue;
mod records;
mod runtime;
mod sdk;
mod span;
mod things;
mod timestamp;
mod topic;
pub mod x509;

pub use call::Call;
pub use crl::{Crl, CrlError, LARGEST_CRL};
pub use delivery::Function;
pub use devices::{CertificateId, Devices, FetchError, Publication, Standing};
pub use document::{Checked, Document, DocumentError, Fault, LARGEST_DOCUMENT, read_document};
pub use environment::{Environment, InitError};
pub use event::{Command, DeviceEvent, Envelope, EventId, Incoming, Input, ThingName};
pub use handler::{Answers, Bulk, Each, OneByOne};
pub use idempotency::{Idempotency, Once, OnceError, carry_out};
pub use outcome::{BoxError, Failure, Refusal, chain};
pub use payload::read_object;
pub use quarantine::Quarantine;
pub use queue::{NotSent, Queue};
pub use records::{Key, Record, RecordError, Records};
pub use runtime::{Setup, run};
pub use span::{NotASpan, Span};
pub use things::ThingPattern;
pub use timestamp::Timestamp;
pub use topic::{Attribute, NotPublished, Notification, Topic};
