//! Runs the operator tool, so that the same code as in AWS handles quarantine and dead letters.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::App;
use crate::isolation::{self, Inherit};
use crate::supervisor;

impl App {
    /// Runs `gatehouse --json` with these arguments, and returns its output. Failures that the output reports are not
    /// errors.
    pub async fn gatehouse(&self, arguments: &[&str]) -> Result<Value> {
        if !self.gatehouse.is_file() {
            bail!("{} is missing; `make operator` builds it", self.gatehouse.display());
        }
        let mut command = isolation::command(
            &self.gatehouse,
            Inherit::Minimal,
            self.cloud.endpoint,
            &self.account,
            &self.cloud.scratch,
        );
        command.args(["--json", "--prefix", &self.deployment.stack]).args(arguments);
        let mut tool = tokio::process::Command::from(supervisor::command(&command)?);
        let tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut tool = tool.context("failed to run the operator tool")?;
        // Closing this kills the tool.
        let pipe = tool.stdin.take();
        let output = tool.wait_with_output().await.context("failed to run the operator tool")?;
        drop(pipe);
        if output.stdout.is_empty() {
            let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("{}", error.strip_prefix("error: ").unwrap_or(&error));
        }
        serde_json::from_slice(&output.stdout).context("the operator tool printed no JSON")
    }
}
