//! The Lambda function `shadow`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use shadow::ShadowHandler;

/// A whole batch. Concurrent events of one shadow are serialized by optimistic locking.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(ShadowHandler::new(setup)?, MAX_CONCURRENT))).await
}
