//! `gatehouse completions`: prints a completion script.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;
use crate::status::Status;

/// The arguments of `gatehouse completions`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: &Arguments) -> anyhow::Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "gatehouse", &mut script);
    output::write(&String::from_utf8_lossy(&script))?;
    Ok(Status::Success)
}
