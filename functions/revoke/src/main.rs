//! The Lambda function `revoke`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use revoke::RevokeHandler;

/// One run at a time, because AWS IoT limits how fast an account may revoke certificates.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::MIN;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(RevokeHandler::new(setup).await?, MAX_CONCURRENT))).await
}
