//! The Lambda function `alarm`.

use std::process::ExitCode;

use alarm::Alarm;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Alarm::new(setup).await).await
}
