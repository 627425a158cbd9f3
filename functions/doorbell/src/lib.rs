//! `doorbell/+`: one ring, one short text message.
//!
//! Rings of one doorbell within a debounce window result in one message. Each doorbell has an item in the idempotency
//! table with its recent rings. A ring is claimed there before it is sent and marked as sent afterwards, so that a
//! retry does not send it twice. Only a process that dies in between makes the retry send it again.
//!
//! A ring is suppressed only once another ring within its window has been sent. While the other ring is being sent, and
//! may still fail, the function polls the item, but only for a while; then the ring is retried.

mod debounce;
mod handler;
mod ring_table;
mod sms;

pub use handler::DoorbellHandler;
pub use ring_table::RingTable;
