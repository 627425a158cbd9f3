//! The Lambda function `telemetry`.

use std::process::ExitCode;

use telemetry::TelemetryHandler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(async |setup| TelemetryHandler::new(setup)).await
}
