use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lambda_runtime::{LambdaEvent, service_fn};
use mimalloc::MiMalloc;

use crate::event::timestamp::Timestamp;
use crate::runtime::delivery::{Delivery, Function};
use crate::runtime::environment::{Environment, InitError};
use crate::runtime::handler::BatchHandler;
use crate::runtime::invocation::Invocation;
use crate::runtime::logging;
use crate::runtime::outcome::error_chain;
use crate::runtime::setup::Setup;
use crate::store::quarantine::Quarantine;

/// In place of the system's allocator: docs/performance.md compares them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The environment variable with the deployed version, for the log.
const VERSION: &str = "GATEHOUSE_VERSION";

/// The timeout in the templates, for a runtime that provides no deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs a function: INIT, then one delivery after another until Lambda ends the process.
///
/// `make` assembles the handler from the environment. If it fails, the process logs the error and exits.
pub async fn run<H: BatchHandler>(make: impl AsyncFnOnce(&Setup) -> Result<H, InitError>) -> ExitCode {
    let started_at = Instant::now();
    let environment = Environment::of_process();
    logging::init(&environment);
    let version = environment.get(VERSION).unwrap_or("unknown").to_owned();
    let function = match init(environment, make).await {
        Ok(function) => function,
        Err(error) => return fail("the function cannot start", &error),
    };
    let init_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(version, initMs = init_ms, "started");
    let is_first = AtomicBool::new(true);
    let handler = service_fn(async |event: LambdaEvent<Delivery>| {
        let (now, deadline) = (Timestamp::now(), Timestamp::from_millis(event.context.deadline));
        // cargo-lambda's emulator sends a deadline in 1970.
        let deadline = if deadline > now { deadline } else { now.plus(DEFAULT_TIMEOUT) };
        let is_cold_start = is_first.swap(false, Ordering::Relaxed);
        let invocation = Invocation::new(event.context.request_id, now, deadline).with_cold_start(is_cold_start);
        function.handle(&event.payload, &invocation).await
    });
    match lambda_runtime::run(handler).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("the Lambda runtime ended", error.as_ref()),
    }
}

async fn init<H: BatchHandler>(
    environment: Environment,
    make: impl AsyncFnOnce(&Setup) -> Result<H, InitError>,
) -> Result<Function<H>, InitError> {
    let setup = Setup::new(environment).await?;
    let quarantine = Quarantine::from_environment(setup.environment(), setup.dynamodb(), setup.function())?;
    let (handler, ()) = tokio::join!(make(&setup), setup.warm_up("DynamoDB", quarantine.warm_up()));
    Ok(Function::new(setup.function(), handler?, quarantine))
}

fn fail(what: impl Display, error: &dyn Error) -> ExitCode {
    tracing::error!(error = error_chain(error), "{what}");
    ExitCode::FAILURE
}
