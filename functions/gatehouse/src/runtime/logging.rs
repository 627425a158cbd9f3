//! The function's log: JSON lines, whose fields are described in `docs/operations.md`.

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::runtime::environment::Environment;

/// The only crate whose DEBUG lines are written: the SDK and its HTTP client write many, and may log what a device
/// sent.
const DEBUG_TARGET: &str = "gatehouse";

/// Starts logging to stdout, at the level of the function's `LoggingConfig`.
pub(crate) fn init(environment: &Environment) {
    let level = environment.get("AWS_LAMBDA_LOG_LEVEL").and_then(|level| level.parse().ok());
    let subscriber = subscriber(level.unwrap_or(LevelFilter::INFO), std::io::stdout);
    // Fails only if a subscriber is already set; this is the first thing that a process does.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Returns the subscriber that writes the log at this level, or at DEBUG if the level is more verbose.
pub fn subscriber<W>(level: LevelFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let is_written = |metadata: &Metadata<'_>| {
        *metadata.level() <= Level::INFO || metadata.target().split("::").next() == Some(DEBUG_TARGET)
    };
    let level = level.min(LevelFilter::DEBUG);
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        .with_max_level(level)
        .with_writer(writer)
        .finish()
        // The hint keeps disabled lines as cheap as they are without the filter.
        .with(filter_fn(is_written).with_max_level_hint(level))
}
