//! `$aws/things/+/shadow/…/update/documents` and `…/delete/accepted`: keeps the newest reported and desired state of
//! each shadow, classic or named, whatever order events arrive in.
//!
//! Each event is compared with the shadow's record, and only a newer one replaces it. The state is stored as the JSON
//! text that arrived, because a number in it may have more digits than Amazon DynamoDB stores.
//!
//! With a history table, each event first becomes an item there, also a late one. A retry or a duplicate writes the same
//! item again, so a process that dies between the two writes loses nothing.

mod change;
mod handler;
mod history;
mod revision;

pub use handler::ShadowHandler;
