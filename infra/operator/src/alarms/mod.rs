//! `gatehouse alarms`: the alarms of devices, operators' actions on them, and tools for writing rules.

mod action;
mod groups;
mod history;
mod import;
mod record;
mod table;
mod value_parser;

use anyhow::Result;
use clap::{Args, Subcommand};
use gatehouse::{AlarmState, DataState, Severity};

pub use record::{DeviceAlarm, Filter};
pub use table::of_thing;

use crate::alarms::action::{Action, ActionArguments, SnoozeArguments};
use crate::alarms::record::has_data_state;
use crate::context::Context;
use crate::output::{self, Output, escape_line, utc};
use crate::status::Status;

/// The arguments of `gatehouse alarms`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List alarms, those first that need attention.
    List(ListArguments),
    /// Acknowledge alarms: somebody takes care of them.
    ///
    /// An alarm that is ACTIVE becomes ACKNOWLEDGED, and is not repeated; one that is LATCHED becomes NORMAL.
    Ack(ActionArguments),
    /// Silence alarms for a time.
    Snooze(SnoozeArguments),
    /// Silence alarms until they are enabled.
    Disable(ActionArguments),
    /// End the silence of alarms: they have the state that the data implies.
    Enable(ActionArguments),
    /// Set alarms to NORMAL; they are raised again once their condition is met anew.
    Reset(ActionArguments),
    /// Show what has happened to the alarms of a thing, oldest first.
    History(history::Arguments),
    /// Fill a document's groups from AWS IoT: from thing groups, or from things with an attribute.
    Groups(groups::Arguments),
    /// Print rules for alarm models and detector models of AWS IoT Events. Needs no access to AWS.
    ///
    /// Lists on standard error what cannot be carried over. Ends with 1 if there is no rule for a model.
    Import(import::Arguments),
}

impl Command {
    /// Runs a subcommand that needs no access to AWS; `None` for the others.
    pub fn run_offline(&self) -> Option<Result<Status>> {
        match self {
            Self::Import(arguments) => Some(import::run(arguments)),
            _ => None,
        }
    }
}

/// Which alarms.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Which alarms.
    #[command(flatten)]
    filter: Filter,
    /// Only alarms whose data says this (may be repeated).
    #[arg(long, value_parser = value_parser::data_state())]
    data: Vec<DataState>,
}

/// Runs the subcommand.
pub async fn run(command: Command, context: &Context) -> Result<Status> {
    match command {
        Command::List(arguments) => list(&arguments, context).await,
        Command::Ack(arguments) => action::run(Action::Acknowledge, &arguments, context).await,
        Command::Snooze(SnoozeArguments { arguments, duration }) => {
            action::run(Action::Snooze(duration), &arguments, context).await
        }
        Command::Disable(arguments) => action::run(Action::Disable, &arguments, context).await,
        Command::Enable(arguments) => action::run(Action::Enable, &arguments, context).await,
        Command::Reset(arguments) => action::run(Action::Reset, &arguments, context).await,
        Command::History(arguments) => history::run(&arguments, context).await,
        Command::Groups(arguments) => groups::run(&arguments, context).await,
        Command::Import(arguments) => import::run(&arguments),
    }
}

async fn list(arguments: &ListArguments, context: &Context) -> Result<Status> {
    let mut alarms = table::select(&arguments.filter, context).await?;
    alarms.retain(|alarm| has_data_state(alarm, &arguments.data));
    print_list(&alarms, context.output)?;
    Ok(Status::Success)
}

fn print_list(alarms: &[DeviceAlarm], output: Output) -> Result<()> {
    if alarms.is_empty() && output == Output::Text {
        eprintln!("There is no such alarm.");
    }
    output.print(&alarms, || text(alarms))
}

fn text(alarms: &[DeviceAlarm]) -> String {
    if alarms.is_empty() {
        return String::new();
    }
    let mut table = output::table([
        "STATE",
        "SEVERITY",
        "RULE",
        "THING",
        "SINCE (UTC)",
        "DATA",
        "VALUE",
        "RECEIVED (UTC)",
        "PENDING",
        "BY",
        "NOTE",
    ]);
    for alarm in alarms {
        let state = match alarm.snoozed_until {
            Some(until) if alarm.alarm_state == AlarmState::SnoozeDisabled => {
                format!("{} until {}", alarm.alarm_state.as_str(), utc(until))
            }
            _ => alarm.alarm_state.as_str().to_owned(),
        };
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let cells = [
            state,
            alarm.severity.map_or("-", Severity::as_str).to_owned(),
            alarm.rule.clone(),
            alarm.thing.clone(),
            utc(alarm.alarm_state_since),
            alarm.state.clone(),
            or_dash(&alarm.value),
            alarm.seen_at.map_or_else(|| "-".to_owned(), utc),
            alarm.pending.to_string(),
            or_dash(&alarm.by),
            or_dash(&alarm.note),
        ];
        table.add_row(cells.map(|cell| escape_line(&cell)));
    }
    output::text(&table)
}
