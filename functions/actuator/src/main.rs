//! The Lambda function `actuator`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use actuator::ActuatorHandler;
use gatehouse::Concurrent;

/// A whole batch, so that an event that waits for a gateway does not delay the others.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(ActuatorHandler::new(setup).await?, MAX_CONCURRENT))).await
}
