//! The whole function except for the Lambda runtime: however the table behaves, each reading is finally stored once, or
//! its event is retried or quarantined.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_imports,
    reason = "a test fails by panicking, and shares one setup"
)]
#![recursion_limit = "256"]

mod calls;
mod items;
mod properties;
mod refusals;
mod setup;
