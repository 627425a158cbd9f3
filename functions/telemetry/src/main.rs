//! The Lambda function `telemetry`.

use std::process::ExitCode;

use telemetry::Telemetry;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| Telemetry::new(setup)).await
}
