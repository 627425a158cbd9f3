//! What functions take as input: device events and commands, their envelopes, payloads and ids.
//!
//! Everything here is parsing and validation, without I/O: whatever is wrong with an input becomes a
//! [`Refusal`](crate::Refusal) with one sentence for the operator.

mod alarm_message;
pub(crate) mod command;
pub(crate) mod device_event;
pub(crate) mod envelope;
pub(crate) mod ids;
mod number;
pub(crate) mod payload;
mod span;
pub(crate) mod strict_json;
mod thing_pattern;
pub(crate) mod timestamp;

pub use alarm_message::{AlarmState, DataState, MessageKind, Severity};
pub use command::{Command, Incoming};
pub use device_event::DeviceEvent;
pub use envelope::{Envelope, Input};
pub use ids::{EventId, ThingName};
pub use number::{Number, ParseNumberError};
pub use payload::{ObjectFields, array_elements, json_child, object_fields, parse_object};
pub use span::{ParseSpanError, Span};
pub use thing_pattern::ThingPattern;
pub use timestamp::Timestamp;
