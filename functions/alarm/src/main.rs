//! The Lambda function `alarm`.

use std::process::ExitCode;

use alarm::AlarmHandler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| AlarmHandler::new(setup).await).await
}
