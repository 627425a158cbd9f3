//! Everything around a handler: INIT, deliveries, outcomes, metrics and logs.
//!
//! Everything that knows about AWS Lambda belongs here. A handler sees an event and an [`Invocation`], never Lambda.

pub(crate) mod delivery;
pub(crate) mod environment;
pub(crate) mod handler;
pub(crate) mod invocation;
pub mod logging;
mod metrics;
pub(crate) mod outcome;
mod partial_outcomes;
mod run;
pub(crate) mod setup;

pub use delivery::{Function, RetryError};
pub use environment::{Environment, InitError};
pub use handler::{BatchHandler, Concurrent, EventHandler, Outcomes};
pub use invocation::Invocation;
pub use outcome::{BoxError, Failure, Outcome, Refusal, error_chain};
pub use partial_outcomes::PartialOutcomes;
pub use run::run;
pub use setup::Setup;
