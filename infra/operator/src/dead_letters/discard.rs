//! `gatehouse dead-letters discard`.

use std::collections::HashSet;
use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::context::Context;
use crate::dead_letters::sweep::{self, Sweep};
use crate::dead_letters::{is_in, list, queues};
use crate::output::{self, escape_line};
use crate::selection::Batch;
use crate::status::{Status, UsageError};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiscardReport {
    discarded: usize,
    failed: Vec<String>,
    interrupted: bool,
}

/// Runs the subcommand.
pub(super) async fn discard(batch: &Batch, yes: bool, context: &Context) -> Result<Status> {
    batch.check()?;
    let queues = queues(&batch.selection, context).await?;
    let listed = list::listed(&queues, usize::MAX, context, |letter| is_in(batch, letter)).await?;
    if batch.pace.dry_run {
        context.output.print(&listed, || list::text(&listed))?;
        return Ok(Status::Success);
    }
    let selected: HashSet<String> =
        listed.iter().flat_map(|queue| &queue.letters).map(|letter| letter.message_id.clone()).collect();
    let letters = listed.iter().flat_map(|queue| &queue.letters);
    sweep::ensure_found(batch, letters.map(|letter| (letter.message_id.as_str(), letter.event_id.as_deref())))?;
    if !selected.is_empty()
        && !yes
        && !output::confirm(&format!("Discard {} dead letters permanently?", selected.len()))?
    {
        return Err(UsageError("nothing was discarded; confirm with --yes".to_owned()).into());
    }
    let sweep = Sweep::start(&queues, batch, context).await?;
    let (results, error) = sweep
        .run(async |queue, message| {
            // The question did not include messages that arrived after it.
            if !selected.contains(&message.letter.message_id) {
                return Some((false, None));
            }
            let deleted = queue.delete(message).await;
            Some((deleted.is_ok(), Some(deleted.map_err(|error| format!("{error:#}")))))
        })
        .await;
    let report = DiscardReport {
        discarded: results.iter().filter(|result| matches!(result, Some(Ok(())))).count(),
        failed: results.into_iter().flatten().filter_map(Result::err).collect(),
        interrupted: sweep.is_interrupted(),
    };
    drop(sweep);
    context.output.print(&report, || {
        let mut text: String = report.failed.iter().map(|error| escape_line(error) + "\n").collect();
        let _ = write!(text, "{} discarded, {} failed", report.discarded, report.failed.len());
        text
    })?;
    if let Some(error) = error {
        return Err(error);
    }
    Ok(if report.interrupted {
        Status::Interrupted
    } else if report.failed.is_empty() {
        Status::Success
    } else {
        Status::NotAccepted
    })
}
