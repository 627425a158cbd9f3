//! `gatehouse quarantine`: lists, shows, resends and discards refused events.

mod item;
mod resend;
mod table;

use std::fmt::Write as _;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

pub use item::{RefusedEvent, RefusedEventSummary, payload};
pub use resend::with_trace_id;
pub use table::QuarantineTable;

use crate::context::Context;
use crate::output::{self, Output, escape_line, utc};
use crate::pace::Pace;
use crate::quarantine::resend::{Resend, Resent};
use crate::selection::{Batch, Selection};
use crate::status::{MissingError, Status, UsageError};

/// The arguments of `gatehouse quarantine`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List refused events, oldest first.
    List(Selection),
    /// Show an event in full, with its payload decoded.
    Show {
        /// The event's ID.
        event_id: String,
        /// The function that refused it, if several did.
        #[arg(long)]
        function: Option<String>,
    },
    /// Send events to the function that refused them.
    ///
    /// Invokes the function, not the rule. An event is removed once the function has accepted it. If the function fails,
    /// it stays; if the function refuses it again, it stays under the new reason. It is safe to interrupt this and run
    /// it again: what was accepted is removed, and a function recognizes an event by its ID.
    Resend(Batch),
    /// Remove events without sending them.
    Discard {
        /// Which events, and how fast.
        #[command(flatten)]
        batch: Batch,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the subcommand.
pub async fn run(command: Command, context: &Context) -> Result<Status> {
    let table = QuarantineTable::new(context);
    match command {
        Command::List(selection) => list(&table, &selection, context).await,
        Command::Show { event_id, function } => show(&table, &event_id, function.as_deref(), context).await,
        Command::Resend(batch) => resend(&table, &batch, context).await,
        Command::Discard { batch, yes } => discard(&table, &batch, yes, context).await,
    }
}

async fn list(table: &QuarantineTable, selection: &Selection, context: &Context) -> Result<Status> {
    let events = table.list(selection, &context.names).await?;
    print_list(&events, "Nothing is in quarantine.", context.output)?;
    Ok(Status::Success)
}

fn print_list(events: &[RefusedEventSummary], none: &str, output: Output) -> Result<()> {
    if events.is_empty() && output == Output::Text {
        eprintln!("{none}");
    }
    output.print(&events, || RefusedEventSummary::table(events))
}

async fn show(table: &QuarantineTable, event_id: &str, function: Option<&str>, context: &Context) -> Result<Status> {
    let function = function.map(|name| context.names.function(name)).transpose()?;
    let events = table.find(event_id, function, &context.names).await?;
    if events.is_empty() {
        let of = function.map_or_else(String::new, |function| format!(" of {function}"));
        return Err(MissingError(format!("no refused event{of} has the ID {event_id}")).into());
    }
    context.output.print(&events, || events.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(Status::Success)
}

/// Returns the events of a batch, oldest first. An ID that is not in quarantine is an error.
async fn select(table: &QuarantineTable, batch: &Batch, context: &Context) -> Result<Vec<RefusedEventSummary>> {
    batch.check()?;
    let mut events = table.list(&batch.selection, &context.names).await?;
    if !batch.ids.is_empty() {
        if let Some(missing) = batch.ids.iter().find(|id| !events.iter().any(|event| event.event_id == **id)) {
            return Err(MissingError(format!("no refused event that was selected has the ID {missing}")).into());
        }
        events.retain(|event| batch.ids.contains(&event.event_id));
    }
    Ok(events)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResendReport {
    selected: usize,
    accepted: usize,
    refused_again: usize,
    failed: usize,
    not_begun: usize,
    results: Vec<ResendResult>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResendResult {
    function: String,
    event_id: String,
    #[serde(flatten)]
    result: Resent,
}

async fn resend(table: &QuarantineTable, batch: &Batch, context: &Context) -> Result<Status> {
    let events = select(table, batch, context).await?;
    if batch.pace.dry_run {
        print_list(&events, "Nothing was selected.", context.output)?;
        return Ok(Status::Success);
    }
    let resend = Resend::new(table.clone(), context.lambda());
    let pace = Pace::start(&batch.pace, events.len())?;
    let selected = events.len();
    let results = pace
        .for_each(events, async |event| ResendResult {
            result: resend.resend(&event).await,
            function: event.function,
            event_id: event.event_id,
        })
        .await;
    let count = |is: fn(&Resent) -> bool| results.iter().filter(|result| is(&result.result)).count();
    let report = ResendReport {
        selected,
        accepted: count(|result| matches!(result, Resent::Accepted { .. })),
        refused_again: count(|result| matches!(result, Resent::RefusedAgain { .. })),
        failed: count(|result| matches!(result, Resent::Failed { .. })),
        not_begun: selected.saturating_sub(results.len()),
        results,
    };
    context.output.print(&report, || report.text())?;
    Ok(if pace.is_interrupted() && report.not_begun > 0 {
        Status::Interrupted
    } else if report.failed > 0 {
        Status::NotAccepted
    } else if report.refused_again > 0 {
        Status::RefusedAgain
    } else {
        Status::Success
    })
}

impl ResendReport {
    fn text(&self) -> String {
        let mut table = output::table(["FUNCTION", "EVENT ID", "RESULT"]);
        let rest = self.results.iter().filter(|result| !matches!(result.result, Resent::Accepted { note: None }));
        for ResendResult { function, event_id, result } in rest {
            table.add_row([function, event_id, &result.to_string()].map(|cell| escape_line(cell)));
        }
        let mut text = if table.is_empty() { String::new() } else { output::text(&table) + "\n" };
        let _ = write!(
            text,
            "{} selected: {} accepted and removed, {} refused again, {} failed",
            self.selected, self.accepted, self.refused_again, self.failed
        );
        if self.not_begun > 0 {
            let _ = write!(text, ", {} not begun; run it again to continue", self.not_begun);
        }
        text
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiscardReport {
    selected: usize,
    discarded: usize,
    /// Events that were refused again, resent or expired since they were selected.
    changed: usize,
    failed: Vec<String>,
}

async fn discard(table: &QuarantineTable, batch: &Batch, yes: bool, context: &Context) -> Result<Status> {
    let events = select(table, batch, context).await?;
    if batch.pace.dry_run {
        print_list(&events, "Nothing was selected.", context.output)?;
        return Ok(Status::Success);
    }
    if !events.is_empty() && !yes && !output::confirm(&format!("Discard {} refused events permanently?", events.len()))?
    {
        return Err(UsageError("nothing was discarded; confirm with --yes".to_owned()).into());
    }
    let selected = events.len();
    let pace = Pace::start(&batch.pace, selected)?;
    let results = pace
        .for_each(events, async |event| {
            let removed = table.remove(&event.function, &event.event_id, event.refused_at).await;
            removed.map_err(|error| format!("{}: {error:#}", event.event_id))
        })
        .await;
    let failed: Vec<String> = results.iter().filter_map(|result| result.clone().err()).collect();
    let report = DiscardReport {
        selected,
        discarded: results.iter().filter(|result| **result == Ok(true)).count(),
        changed: results.iter().filter(|result| **result == Ok(false)).count(),
        failed,
    };
    context.output.print(&report, || {
        let mut text = String::new();
        for error in &report.failed {
            let _ = writeln!(text, "{}", escape_line(error));
        }
        text + &format!(
            "{} selected: {} discarded, {} changed meanwhile and kept, {} failed",
            report.selected,
            report.discarded,
            report.changed,
            report.failed.len()
        )
    })?;
    Ok(if pace.is_interrupted() {
        Status::Interrupted
    } else if report.failed.is_empty() {
        Status::Success
    } else {
        Status::NotAccepted
    })
}

impl RefusedEventSummary {
    fn table(events: &[Self]) -> String {
        if events.is_empty() {
            return String::new();
        }
        let mut table = output::table(["REFUSED (UTC)", "REASON", "FUNCTION", "EVENT ID", "THING"]);
        for event in events {
            let thing = event.thing.as_deref().unwrap_or("-");
            let cells = [&utc(event.refused_at), &event.reason, &event.function, &event.event_id, thing];
            table.add_row(cells.map(escape_line));
        }
        output::text(&table)
    }
}
