//! `gatehouse dead-letters list` and `show`.

use std::fmt::Write as _;

use anyhow::Result;
use futures_util::future::join_all;
use serde::Serialize;

use crate::context::Context;
use crate::dead_letters::{DeadLetter, DeadLetterQueue, Depth, find, queues, selects};
use crate::output::{self, escape, escape_bytes, escape_line, utc};
use crate::quarantine::payload;
use crate::selection::Selection;
use crate::status::{MissingError, Status};

/// A queue and its dead letters.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListedQueue {
    queue: String,
    /// Messages that another process has received, or that an interrupted one did not make visible again.
    in_flight: usize,
    pub(super) letters: Vec<DeadLetter>,
}

/// Runs `list`.
pub(super) async fn list(selection: &Selection, limit: usize, context: &Context) -> Result<Status> {
    let queues = queues(selection, context).await?;
    let listed = listed(&queues, limit, context, |letter| selects(selection, letter)).await?;
    context.output.print(&listed, || text(&listed))?;
    Ok(Status::Success)
}

/// Returns the selected dead letters in these queues, oldest first. Reads at most `limit` messages of each queue.
pub(super) async fn listed(
    queues: &[DeadLetterQueue],
    limit: usize,
    context: &Context,
    selects: impl Fn(&DeadLetter) -> bool,
) -> Result<Vec<ListedQueue>> {
    let selects = &selects;
    let listed = queues.iter().map(|queue| async move {
        let Depth { in_flight, .. } = queue.depth().await?;
        let mut letters: Vec<_> =
            queue.peek(&context.names, limit).await?.into_iter().map(|message| message.letter).collect();
        letters.retain(selects);
        letters.sort_by(|a, b| (a.sent_at, &a.message_id).cmp(&(b.sent_at, &b.message_id)));
        anyhow::Ok(ListedQueue { queue: queue.name.clone(), in_flight, letters })
    });
    join_all(listed).await.into_iter().collect()
}

/// Formats a table of dead letters, with their number.
pub(super) fn text(queues: &[ListedQueue]) -> String {
    let mut table = output::table(["SENT (UTC)", "QUEUE", "KIND", "EVENT ID", "THING", "FOR", "ERROR"]);
    let letters = queues.iter().flat_map(|queue| queue.letters.iter().map(move |letter| (&queue.queue, letter)));
    for (queue, letter) in letters {
        let targets: Vec<_> = letter.targets.iter().map(ToString::to_string).collect();
        let error = letter.problem.as_ref().or(letter.error.as_ref());
        let cells = [
            &utc(letter.sent_at),
            queue,
            letter.kind.as_str(),
            letter.event_id.as_deref().unwrap_or(&letter.message_id),
            letter.thing.as_deref().unwrap_or("-"),
            &if targets.is_empty() { "-".to_owned() } else { targets.join(", ") },
            &shorten(error.map_or("-", |error| error)),
        ];
        table.add_row(cells.map(escape_line));
    }
    let count = table.row_count();
    let mut text = if table.is_empty() { String::new() } else { output::text(&table) + "\n" };
    let _ = write!(text, "{count} dead letters in {} queues", queues.len());
    let in_flight: usize = queues.iter().map(|queue| queue.in_flight).sum();
    if in_flight > 0 {
        let _ = write!(text, "; {in_flight} more are hidden, because a process has received them");
    }
    text
}

/// Truncates a long error.
fn shorten(error: &str) -> String {
    const MAX_CHARACTERS: usize = 80;
    if error.chars().count() <= MAX_CHARACTERS {
        return error.to_owned();
    }
    error.chars().take(MAX_CHARACTERS).chain(['…']).collect()
}

/// Runs `show`.
pub(super) async fn show(id: &str, context: &Context) -> Result<Status> {
    #[derive(Serialize)]
    struct Shown<'a> {
        queue: &'a str,
        #[serde(flatten)]
        letter: &'a DeadLetter,
        message: &'a str,
    }
    let found = find(id, context).await?;
    if found.is_empty() {
        return Err(MissingError(format!("no dead letter has the ID {id}, or another process has received it")).into());
    }
    let shown: Vec<_> =
        found.iter().map(|(queue, message)| Shown { queue, letter: &message.letter, message: &message.body }).collect();
    context.output.print(&shown, || {
        let mut text = String::new();
        for Shown { queue, letter, message } in &shown {
            let targets: Vec<_> = letter.targets.iter().map(ToString::to_string).collect();
            for (name, value) in [
                ("queue", *queue),
                ("message ID", &letter.message_id),
                ("kind", letter.kind.as_str()),
                ("event ID", letter.event_id.as_deref().unwrap_or("-")),
                ("thing", letter.thing.as_deref().unwrap_or("-")),
                ("topic", letter.topic.as_deref().unwrap_or("-")),
                ("sent", &utc(letter.sent_at)),
                ("error", letter.error.as_deref().unwrap_or("-")),
                ("problem", letter.problem.as_deref().unwrap_or("-")),
                ("for", &targets.join(", ")),
                ("message", message),
                ("event", letter.event.as_deref().unwrap_or("-")),
            ] {
                let _ = writeln!(text, "{name:<12}{}", escape(value));
            }
            if let Some(payload) = letter.event.as_deref().and_then(payload) {
                let _ = writeln!(text, "{:<12}{}", "payload", escape_bytes(&payload));
            }
            text.push('\n');
        }
        text
    })?;
    Ok(Status::Success)
}
