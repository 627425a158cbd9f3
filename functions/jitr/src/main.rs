//! The Lambda function `jitr`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::Concurrent;
use jitr::Jitr;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(Jitr::new(setup).await?, NonZeroUsize::MIN))).await
}
