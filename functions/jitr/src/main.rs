//! The Lambda function `jitr`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use jitr::JitrHandler;

/// A certificate takes about twenty calls, which AWS IoT limits per account: one certificate after the other.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::MIN;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(JitrHandler::new(setup).await?, MAX_CONCURRENT))).await
}
