use tracing::level_filters::LevelFilter;

use crate::runtime::environment::Environment;

/// Writes JSON lines to stdout, at the level of the function's `LoggingConfig`, but never finer than DEBUG: at TRACE
/// the runtime and the SDK log payloads.
pub(crate) fn init(environment: &Environment) {
    let level = environment.get("AWS_LAMBDA_LOG_LEVEL").and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        .with_max_level(level.unwrap_or(LevelFilter::INFO).min(LevelFilter::DEBUG))
        .init();
}
