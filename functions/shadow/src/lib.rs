//! `$aws/things/+/shadow/…/update/documents` and `…/delete/accepted`: keeps the newest reported and desired state of
//! each shadow, classic or named, regardless of the order in which events arrive.
//!
//! Each event is compared with the shadow's record, and only a newer one replaces it. The state is stored as the JSON
//! text that arrived, because a number in it may have more digits than Amazon DynamoDB stores.
//!
//! With a history table, each event, even a late one, is first stored as an item there. A retry or a duplicate writes
//! the same item again, so nothing is lost if the process dies between the two writes.

mod change;
mod handler;
mod history;
mod revision;

pub use handler::ShadowHandler;
