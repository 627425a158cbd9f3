//! The Lambda function `doorbell`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use doorbell::Doorbell;
use gatehouse::Concurrent;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(Doorbell::new(setup).await?, NonZeroUsize::MIN))).await
}
