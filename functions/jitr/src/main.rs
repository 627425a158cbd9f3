//! The Lambda function `jitr`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use gatehouse::OneByOne;
use jitr::Jitr;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(OneByOne(Jitr::new(setup).await?, NonZeroUsize::MIN))).await
}
