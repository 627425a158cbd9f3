//! The operator tool `gatehouse`, for a deployment of Gatehouse on AWS or on the local cloud.
//!
//! Each subcommand is a module with its arguments, `Arguments`, and a function `run` that returns the [`Status`] with
//! which the program exits. To add one: write the module, then add it to [`cli::Command`] and to the `match` below.
//!
//! Shared modules:
//!
//! - [`cli`]: the command line, with the options that every subcommand has.
//! - [`context`]: SDK clients, names and output, from these options.
//! - [`findings`]: findings about an event or a device, with their sources.
//! - [`invoke`]: invocations of functions.
//! - [`logs`]: log lines of the functions.
//! - [`names`]: the functions of a deployment, and the names of its resources.
//! - [`output`]: tables, JSON, times, and text that cannot control a terminal.
//! - [`pace`]: many steps at a limited rate, with progress, that an operator can interrupt.
//! - [`selection`]: the options that select events.
//! - [`status`]: exit codes.

pub mod alarms;
pub mod audit;
pub mod ca;
pub mod cli;
pub mod completions;
pub mod context;
pub mod cost;
pub mod dead_letters;
pub mod device;
pub mod doctor;
pub mod documents;
pub mod findings;
pub mod invoke;
pub mod logs;
pub mod names;
pub mod output;
pub mod pace;
pub mod quarantine;
pub mod revoke;
pub mod selection;
pub mod status;
pub mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::output::Output;
use crate::status::Status;

/// Runs the tool with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return status::report(&anyhow::Error::from(error).context("failed to start")),
    };
    match runtime.block_on(run(cli)) {
        Ok(status) => status.into(),
        Err(error) => status::report(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<Status> {
    // These need neither credentials nor a region.
    match &cli.command {
        Command::Alarms(command) => {
            if let Some(result) = command.run_offline() {
                return result;
            }
        }
        Command::Ca(command) => {
            if let Some(result) = command.run_offline() {
                return result;
            }
        }
        Command::Completions(arguments) => return completions::run(arguments),
        Command::Cost(arguments) => {
            return cost::run(arguments, cli.global.region.as_deref(), Output::of(&cli.global));
        }
        Command::Documents(documents::Command::Validate { files }) => {
            return documents::validate(files, Output::of(&cli.global));
        }
        _ => {}
    }
    let context = Context::connect(&cli.global).await?;
    match cli.command {
        Command::Alarms(command) => alarms::run(command, &context).await,
        Command::Audit(arguments) => audit::run(arguments, &context).await,
        Command::Ca(command) => ca::run(command, &context).await,
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Cost(arguments) => cost::run(&arguments, Some(context.region()), context.output),
        Command::DeadLetters(command) => dead_letters::run(command, &context).await,
        Command::Device(arguments) => device::run(arguments, &context).await,
        Command::Doctor(arguments) => doctor::run(&arguments, &context).await,
        Command::Documents(command) => documents::run(command, &context).await,
        Command::Quarantine(command) => quarantine::run(command, &context).await,
        Command::Revoke(arguments) => revoke::run(&arguments, &context).await,
        Command::Trace(arguments) => trace::run(arguments, &context).await,
    }
}
