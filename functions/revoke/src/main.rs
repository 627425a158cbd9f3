//! The Lambda function `revoke`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use revoke::Revoke;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(Revoke::new(setup).await?, NonZeroUsize::MIN))).await
}
