//! The whole function except for the Lambda runtime, against the fake AWS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_imports,
    reason = "a test fails by panicking, and shares one setup"
)]
#![recursion_limit = "256"]

mod concurrency;
mod crash_safety;
mod definitions;
mod due_checks;
mod evaluation;
mod handling;
mod history;
mod never_reported;
mod notification_limit;
mod notify_policy;
mod setup;
mod severities;
