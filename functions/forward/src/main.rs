//! The Lambda function `forward`.

use std::process::ExitCode;

use forward::ForwardHandler;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gatehouse::run(ForwardHandler::new).await
}
