//! The function `telemetry`: stores every reading in DynamoDB.
//!
//! A payload is one JSON object, a *reading*, or an array of readings. Each reading becomes one item: the thing's name,
//! a sort key that stays the same however often the reading is delivered ([`reading`]), metadata, and all its fields as
//! DynamoDB's typed attributes ([`attributes`]). A redelivered reading writes the same item again, so that no reading
//! is lost or stored twice.
//!
//! A batch takes these steps:
//!
//! 1. Split payloads into readings, and determine each reading's key. Readings with the same key become one put.
//! 2. Write the puts, 25 per call, several calls concurrently. Payloads are converted straight into the request's text.
//! 3. Set each event's outcome as soon as all its readings are settled.
//!
//! A reading that DynamoDB cannot store does not affect the others in its event: they are stored, and then the whole
//! event is refused. If the process dies, the queue delivers the batch again, and the same items are written again.

pub mod attributes;
pub mod decimal;
mod handler;
mod puts;
pub mod reading;
pub mod sigfox;
mod table;

pub use handler::{MAX_PAYLOAD_BYTES, MAX_READINGS, TelemetryHandler};
