//! SDK configuration, and clients of the AWS services that several functions call.

pub(crate) mod config;
mod queue;
mod topic;

pub use queue::{Queue, SendError};
pub use topic::{Attribute, Notification, PublishError, Topic};
