//! The Lambda function `button`.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use button::Button;
use gatehouse::Concurrent;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Ok(Concurrent::new(Button::new(setup).await?, NonZeroUsize::MIN))).await
}
