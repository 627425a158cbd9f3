//! The command line: subcommands, and the options that all of them have.

use clap::{Args, Parser, Subcommand};

use crate::{alarms, audit, ca, completions, cost, dead_letters, device, doctor, documents, quarantine, revoke, trace};

/// Operates a deployment of Gatehouse.
///
/// Reads credentials, region, profile and endpoint as the AWS CLI does: options, then AWS_… environment variables, then
/// the configuration files. Writes results to standard output, as tables or as JSON, and everything else to standard
/// error.
///
/// Exit codes: 0 success; 1 error, or a problem was found; 2 invalid usage; 3 the function refused an event again; 4 an
/// event was not accepted, or is not recognized; 5 what was named does not exist; 6 a difference was found; 130
/// interrupted.
#[derive(Debug, Parser)]
#[command(name = "gatehouse", version, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    /// The options that every subcommand has.
    #[command(flatten)]
    pub global: GlobalOptions,
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the deployment is, and how results are printed.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalOptions {
    /// What all names of the deployment start with: the STACK that it was deployed with.
    #[arg(long, visible_alias = "stack", env = "GATEHOUSE_PREFIX", default_value = "gatehouse", global = true)]
    pub prefix: String,
    /// AWS region.
    #[arg(long, global = true)]
    pub region: Option<String>,
    /// Profile of the AWS configuration and credentials files.
    #[arg(long, global = true)]
    pub profile: Option<String>,
    /// Sends all requests to this URL, such as that of the local cloud.
    #[arg(long, value_name = "URL", global = true)]
    pub endpoint_url: Option<String>,
    /// Prints results as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List, show, resend or discard refused events.
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// List, show, resend or discard what the dead-letter queues hold.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Show everything that is known about an event.
    Trace(trace::Arguments),
    /// Show everything that is known about a device.
    Device(device::Arguments),
    /// Validate, compare, upload or print what operators configure: alarm rules, actions and destinations.
    #[command(subcommand)]
    Documents(documents::Command),
    /// List alarms, act on them, show their history, or import rules.
    #[command(subcommand)]
    Alarms(alarms::Command),
    /// Check that everything that arrived has an outcome.
    Audit(audit::Arguments),
    /// Check the deployment, and say what to do.
    Doctor(doctor::Arguments),
    /// Create, register, list or deactivate certificate authorities (CAs), issue certificates and publish CRLs.
    #[command(subcommand)]
    Ca(ca::Command),
    /// Revoke a certificate, or all certificates of a CA, and wait until that is done.
    Revoke(revoke::Arguments),
    /// Estimate what a fleet costs in a month.
    Cost(cost::Arguments),
    /// Print a completion script for a shell.
    Completions(completions::Arguments),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
