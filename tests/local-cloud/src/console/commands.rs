//! `POST /api/v1/commands`: sends operators' commands to functions, as `gatehouse` does, and keeps them for recordings.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use aws_sdk_lambda::primitives::Blob;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;

use super::App;
use super::error::{ApiError, ApiResult};
use crate::observer::now;

/// Maximum number of commands to keep.
const KEPT: usize = 200;

/// The functions that accept commands.
const FUNCTIONS: [&str; 4] = ["actuator", "alarm", "forward", "revoke"];

/// A command to a function.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The function's crate name.
    pub function: String,
    /// Its input.
    pub input: Value,
}

/// A command that was sent.
#[derive(Debug, Clone)]
pub struct SentCommand {
    /// The command.
    pub command: Command,
    /// When it was sent, in milliseconds since 1970.
    pub at: u64,
    /// The function's response.
    pub response: Value,
}

/// The newest commands.
#[derive(Debug, Default)]
pub struct Commands {
    sent: Mutex<VecDeque<SentCommand>>,
}

impl Commands {
    fn lock(&self) -> MutexGuard<'_, VecDeque<SentCommand>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the commands since a time in milliseconds since 1970.
    pub fn since(&self, at: u64) -> Vec<SentCommand> {
        self.lock().iter().filter(|sent| sent.at >= at).cloned().collect()
    }
}

/// Sends a command and returns the function's response.
pub async fn send(State(app): State<Arc<App>>, Json(command): Json<Command>) -> ApiResult<Json<Value>> {
    Ok(Json(app.command(command).await?))
}

impl App {
    /// Sends a command and keeps it for recordings.
    pub async fn command(&self, command: Command) -> ApiResult<Value> {
        if !FUNCTIONS.contains(&command.function.as_str()) {
            let known = FUNCTIONS.join(", ");
            return Err(ApiError::invalid(format!("{} has no commands; these have: {known}.", command.function)));
        }
        let at = now();
        let response = self.invoke(&command).await?;
        let mut sent = self.commands.lock();
        sent.push_back(SentCommand { command, at, response: response.clone() });
        if sent.len() > KEPT {
            sent.pop_front();
        }
        Ok(response)
    }

    async fn invoke(&self, command: &Command) -> Result<Value> {
        let function = self.deployment.function(&command.function)?;
        let invoke = self.clients.lambda.invoke().function_name(function);
        let invoked = invoke.payload(Blob::new(command.input.to_string())).send().await?;
        let response = invoked.payload().map(|blob| String::from_utf8_lossy(blob.as_ref()).into_owned());
        let response = response.unwrap_or_default();
        ensure!(invoked.function_error().is_none(), "{function} failed: {response}");
        serde_json::from_str(&response).with_context(|| format!("{function} returned {response}"))
    }
}
