//! `gatehouse dead-letters resend`.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::context::Context;
use crate::dead_letters::delivery::Delivery;
use crate::dead_letters::sweep::{self, Sweep};
use crate::dead_letters::{Delivered, is_in, list, queues};
use crate::output::{self, escape_line};
use crate::selection::Batch;
use crate::status::Status;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResendReport {
    accepted: usize,
    refused: usize,
    failed: usize,
    left_alone: usize,
    interrupted: bool,
    results: Vec<ResendResult>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResendResult {
    queue: String,
    message_id: String,
    event_id: Option<String>,
    #[serde(flatten)]
    delivered: Delivered,
}

/// Runs the subcommand.
pub(super) async fn resend(batch: &Batch, context: &Context) -> Result<Status> {
    batch.check()?;
    let queues = queues(&batch.selection, context).await?;
    if batch.pace.dry_run {
        let listed = list::listed(&queues, usize::MAX, context, |letter| is_in(batch, letter)).await?;
        context.output.print(&listed, || list::text(&listed))?;
        return Ok(Status::Success);
    }
    let delivery = Delivery::new(context);
    let sweep = Sweep::start(&queues, batch, context).await?;
    let (results, error) = sweep
        .run(async |queue, message| {
            let delivered = delivery.deliver(queue, message).await?;
            let letter = &message.letter;
            Some((
                matches!(delivered, Delivered::Accepted | Delivered::Refused { .. }),
                ResendResult {
                    queue: queue.name.clone(),
                    message_id: letter.message_id.clone(),
                    event_id: letter.event_id.clone(),
                    delivered,
                },
            ))
        })
        .await;
    let count = |is: fn(&Delivered) -> bool| results.iter().filter(|result| is(&result.delivered)).count();
    let report = ResendReport {
        accepted: count(|result| matches!(result, Delivered::Accepted)),
        refused: count(|result| matches!(result, Delivered::Refused { .. })),
        failed: count(|result| matches!(result, Delivered::Failed { .. })),
        left_alone: count(|result| matches!(result, Delivered::LeftAlone { .. })),
        interrupted: sweep.is_interrupted(),
        results,
    };
    drop(sweep);
    context.output.print(&report, || report.text())?;
    if let Some(error) = error {
        return Err(error);
    }
    if !report.interrupted {
        sweep::ensure_found(
            batch,
            report.results.iter().map(|result| (result.message_id.as_str(), result.event_id.as_deref())),
        )?;
    }
    Ok(if report.interrupted {
        Status::Interrupted
    } else if report.failed + report.left_alone > 0 {
        Status::NotAccepted
    } else if report.refused > 0 {
        Status::RefusedAgain
    } else {
        Status::Success
    })
}

impl ResendReport {
    fn text(&self) -> String {
        let mut table = output::table(["QUEUE", "EVENT ID", "RESULT"]);
        let rest: Vec<_> =
            self.results.iter().filter(|result| !matches!(result.delivered, Delivered::Accepted)).collect();
        for ResendResult { queue, message_id, event_id, delivered } in &rest {
            let id = event_id.as_ref().unwrap_or(message_id);
            table.add_row([queue, id, &delivered.to_string()].map(|cell| escape_line(cell)));
        }
        let mut text = if rest.is_empty() { String::new() } else { output::text(&table) + "\n" };
        let _ = write!(
            text,
            "{} accepted and deleted, {} refused (now in quarantine), {} failed, {} left alone",
            self.accepted, self.refused, self.failed, self.left_alone
        );
        if self.interrupted {
            text += "; interrupted: run it again to continue";
        }
        text
    }
}
