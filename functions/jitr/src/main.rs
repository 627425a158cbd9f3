//! The Lambda function `jitr`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use jitr::JitrHandler;

/// One certificate at a time: each takes about twenty calls, which AWS IoT limits per account.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::MIN;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(JitrHandler::new(setup).await?, MAX_CONCURRENT))).await
}
