//! The Lambda function `actuator`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use actuator::Actuator;
use gatehouse::Concurrent;

/// A whole batch: one that waits for a gateway keeps nobody else waiting.
const AT_ONCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(Actuator::new(setup).await?, AT_ONCE))).await
}
