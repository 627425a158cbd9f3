//! The Lambda function `forward`.

use std::process::ExitCode;

use forward::Forward;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(Forward::new).await
}
