use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use aws_types::SdkConfig;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use tokio::time::timeout;
use tracing::level_filters::LevelFilter;

use crate::call::Call;
use crate::delivery::{Delivery, Function, Retry};
use crate::environment::{Environment, InitError};
use crate::handler::Bulk;
use crate::idempotency::Idempotency;
use crate::outcome::{BoxError, chain};
use crate::quarantine::Quarantine;
use crate::sdk;
use crate::timestamp::Timestamp;

/// Lambda gives INIT ten seconds; one slow endpoint may not use them up.
const WARM_UP_LIMIT: Duration = Duration::from_secs(3);

/// The templates' time-out, for a runtime that names no deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// What a function is put together from during INIT.
#[derive(Debug)]
pub struct Setup {
    environment: Environment,
    function: String,
    sdk: SdkConfig,
    dynamodb: aws_sdk_dynamodb::Client,
}

impl Setup {
    fn new(environment: Environment) -> Result<Self, InitError> {
        let sdk = sdk::config(&environment)?;
        let dynamodb = aws_sdk_dynamodb::Client::new(&sdk);
        Ok(Self { function: environment.required("AWS_LAMBDA_FUNCTION_NAME")?, environment, sdk, dynamodb })
    }

    /// The function's environment variables.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The function's name, as it is deployed.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The process's one SDK configuration, to make clients from.
    pub fn sdk(&self) -> &SdkConfig {
        &self.sdk
    }

    /// The process's DynamoDB client.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        self.dynamodb.clone()
    }

    /// The idempotency table, as the environment names it.
    pub fn idempotency(&self) -> Result<Idempotency, InitError> {
        Idempotency::from(&self.environment, self.dynamodb(), &self.function)
    }

    /// Makes one cheap call, so that the connection to an endpoint stands before the first event comes.
    ///
    /// INIT runs at full CPU speed, an invocation at a fraction of it, and a TLS handshake is what hurts there. A
    /// failure is logged and no more: the endpoint may be well by the time it is needed.
    pub async fn warm<T, E: Into<BoxError>>(&self, endpoint: &str, call: impl Future<Output = Result<T, E>>) {
        let failure = match timeout(WARM_UP_LIMIT, call).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => chain(error.into().as_ref()),
            Err(elapsed) => elapsed.to_string(),
        };
        tracing::warn!(endpoint, error = failure, "could not be warmed up; going on without");
    }
}

/// Runs a function: INIT, then one delivery after the other until Lambda ends the process.
///
/// `make` puts the handler together from the environment; an error from it ends the process with a log line that says
/// what is missing.
pub async fn run<H: Bulk>(make: impl AsyncFnOnce(&Setup) -> Result<H, InitError>) -> ExitCode {
    let environment = Environment::of_process();
    log_to_stdout(&environment);
    let function = match init(environment, make).await {
        Ok(function) => function,
        Err(error) => return fail("the function cannot start", &error),
    };
    let handler = service_fn(async |event: LambdaEvent<Delivery>| {
        let (now, deadline) = (Timestamp::now(), Timestamp::from_millis(event.context.deadline));
        // cargo-lambda's emulator names a deadline in 1970.
        let deadline = if deadline > now { deadline } else { now.plus(DEFAULT_TIMEOUT) };
        let call = Call::new(event.context.request_id, now, deadline);
        function.take(&event.payload, &call).await
    });
    match lambda_runtime::run(handler).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("the Lambda runtime ended", error.as_ref()),
    }
}

async fn init<H: Bulk>(
    environment: Environment,
    make: impl AsyncFnOnce(&Setup) -> Result<H, InitError>,
) -> Result<Function<H>, InitError> {
    let setup = Setup::new(environment)?;
    let quarantine = Quarantine::from(&setup.environment, setup.dynamodb(), &setup.function)?;
    let (handler, ()) = tokio::join!(make(&setup), setup.warm("DynamoDB", quarantine.warm()));
    Ok(Function::new(setup.function, handler?, quarantine))
}

fn fail(what: impl Display, error: &dyn Error) -> ExitCode {
    tracing::error!(error = chain(error), "{what}");
    ExitCode::FAILURE
}

/// JSON lines on stdout, at the level of the function's `LoggingConfig`, but never finer than DEBUG: at TRACE the runtime
/// and the SDK log payloads.
fn log_to_stdout(environment: &Environment) {
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

impl From<Retry> for Diagnostic {
    fn from(error: Retry) -> Self {
        Self { error_type: "Retry".to_owned(), error_message: error.to_string() }
    }
}
