//! The Lambda function `button`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use button::ButtonHandler;
use gatehouse::Concurrent;

/// AWS IoT invokes the function with one event at a time.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::MIN;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(ButtonHandler::new(setup).await?, MAX_CONCURRENT))).await
}
