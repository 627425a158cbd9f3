//! The Lambda function `presence`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use presence::PresenceHandler;

/// A whole batch. Concurrent events of one device are serialized by optimistic locking.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(PresenceHandler::new(setup).await?, MAX_CONCURRENT))).await
}
