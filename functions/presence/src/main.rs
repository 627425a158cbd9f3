//! The Lambda function `presence`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use presence::Handler;

/// A whole batch; events of one device that meet are taken one after the other, whichever comes first.
const AT_ONCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(Handler::new(setup).await?, AT_ONCE))).await
}
