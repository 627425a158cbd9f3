//! `gatehouse dead-letters`: lists, shows, resends and discards what the dead-letter queues hold.

mod delivery;
mod letter;
mod queue;
mod rule;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;

pub use delivery::Delivered;
pub use letter::{DeadLetter, Kind, Target};
pub use queue::{DeadLetterQueue, Depth, Received, depth, discover};

use crate::context::Context;
use crate::dead_letters::delivery::Delivery;
use crate::output::{self, escape, escape_bytes, escape_line, utc};
use crate::pace::{Pace, PaceOptions};
use crate::quarantine::payload;
use crate::selection::{Selection, Subject};
use crate::status::{MissingError, Status, UsageError};

/// How many events of one queue are sent concurrently.
const CONCURRENCY: usize = 4;

/// How long messages that were received may wait for their turn: less than they are hidden from others.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// The arguments of `gatehouse dead-letters`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List dead letters, by queue.
    ///
    /// Receives each message and hands it back, because SQS cannot show a message otherwise.
    List {
        /// Which dead letters. A reason is a kind: rule, invocation, event, topic, schedule or unrecognized.
        #[command(flatten)]
        selection: Selection,
        /// How many messages of each queue to read at most.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show a dead letter in full: the message, the event that is rebuilt from it, and who did not get it.
    Show {
        /// The ID of the event or of the message.
        id: String,
    },
    /// Send events to the functions and queues that did not get them.
    ///
    /// A message is deleted once the event is accepted: by a work queue, or by the function itself, which ends it as done
    /// or refused. An event of a rule goes to those only whose action failed. Messages that are not recognized are left
    /// alone. It is safe to interrupt this and run it again: a function recognizes an event by its ID.
    Resend(Batch),
    /// Delete dead letters without sending them.
    Discard {
        /// Which dead letters, and how fast.
        #[command(flatten)]
        batch: Batch,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters, and how fast.
#[derive(Debug, Args)]
pub struct Batch {
    /// IDs of events or of messages.
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// All dead letters.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    pace: PaceOptions,
}

impl Batch {
    fn selects(&self, letter: &DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| has_id(letter, id))) && selects(&self.selection, letter)
    }

    fn check(&self) -> Result<(), UsageError> {
        if self.ids.is_empty() && self.selection.is_empty() && !self.all {
            let why = "name IDs, select dead letters with options such as --function, or use --all";
            return Err(UsageError(why.to_owned()));
        }
        Ok(())
    }
}

fn selects(selection: &Selection, letter: &DeadLetter) -> bool {
    selection.matches(Subject { reason: letter.kind.as_str(), thing: letter.thing.as_deref(), at: letter.sent_at })
}

fn has_id(letter: &DeadLetter, id: &str) -> bool {
    letter.message_id == id || letter.event_id.as_deref() == Some(id)
}

/// Runs the subcommand.
pub async fn run(command: Command, context: &Context) -> Result<Status> {
    match command {
        Command::List { selection, limit } => list(&selection, limit, context).await,
        Command::Show { id } => show(&id, context).await,
        Command::Resend(batch) => resend(&batch, context).await,
        Command::Discard { batch, yes } => discard(&batch, yes, context).await,
    }
}

async fn queues(selection: &Selection, context: &Context) -> Result<Vec<DeadLetterQueue>> {
    let functions = selection.functions(&context.names)?;
    let queues = discover(context, &functions).await?;
    if queues.is_empty() {
        let why = format!("no dead-letter queue starts with {}-; is the prefix right?", context.names.prefix());
        return Err(MissingError(why).into());
    }
    Ok(queues)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedQueue {
    queue: String,
    /// Messages that another process has received, or that an interrupted one has not handed back.
    in_flight: usize,
    letters: Vec<DeadLetter>,
}

async fn list(selection: &Selection, limit: usize, context: &Context) -> Result<Status> {
    let queues = queues(selection, context).await?;
    let listed = listed(&queues, limit, context, |letter| selects(selection, letter)).await?;
    context.output.print(&listed, || text_of_list(&listed))?;
    Ok(Status::Success)
}

async fn listed(
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

fn text_of_list(queues: &[ListedQueue]) -> String {
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

/// The start of an error, which may be long.
fn shorten(error: &str) -> String {
    const MAX_CHARACTERS: usize = 80;
    if error.chars().count() <= MAX_CHARACTERS {
        return error.to_owned();
    }
    error.chars().take(MAX_CHARACTERS).chain(['…']).collect()
}

/// Returns the dead letters with this event or message ID, in any queue.
pub async fn find(id: &str, context: &Context) -> Result<Vec<(String, Received)>> {
    let queues = queues(&Selection::default(), context).await?;
    let found = join_all(queues.iter().map(async |queue| queue.peek(&context.names, usize::MAX).await)).await;
    let mut letters = Vec::new();
    for (queue, messages) in queues.iter().zip(found) {
        let named = messages?.into_iter().filter(|message| has_id(&message.letter, id));
        letters.extend(named.map(|message| (queue.name.clone(), message)));
    }
    Ok(letters)
}

/// Returns the dead letters of this thing, in any queue.
pub async fn of_thing(thing: &str, context: &Context) -> Result<Vec<DeadLetter>> {
    let queues = queues(&Selection::default(), context).await?;
    let listed = listed(&queues, usize::MAX, context, |letter| letter.thing.as_deref() == Some(thing)).await?;
    Ok(listed.into_iter().flat_map(|queue| queue.letters).collect())
}

async fn show(id: &str, context: &Context) -> Result<Status> {
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

async fn resend(batch: &Batch, context: &Context) -> Result<Status> {
    batch.check()?;
    let queues = queues(&batch.selection, context).await?;
    if batch.pace.dry_run {
        let listed = listed(&queues, usize::MAX, context, |letter| batch.selects(letter)).await?;
        context.output.print(&listed, || text_of_list(&listed))?;
        return Ok(Status::Success);
    }
    let delivery = Delivery::new(context);
    let pace = start(batch, &queues).await?;
    let (concurrent, count) = shares(&batch.pace, queues.len());
    let runs = queues.iter().map(|queue| {
        run_queue(queue, count, batch, &pace, context, async |message: &Received| {
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
    });
    let runs = stream::iter(runs).buffer_unordered(concurrent).collect().await;
    let (results, errors) = collect(runs);
    let count = |is: fn(&Delivered) -> bool| results.iter().filter(|result| is(&result.delivered)).count();
    let report = ResendReport {
        accepted: count(|result| matches!(result, Delivered::Accepted)),
        refused: count(|result| matches!(result, Delivered::Refused { .. })),
        failed: count(|result| matches!(result, Delivered::Failed { .. })),
        left_alone: count(|result| matches!(result, Delivered::LeftAlone { .. })),
        interrupted: pace.is_interrupted(),
        results,
    };
    drop(pace);
    context.output.print(&report, || report.text())?;
    if let Some(error) = errors {
        return Err(error);
    }
    if !report.interrupted {
        missing(batch, report.results.iter().map(|result| (result.message_id.as_str(), result.event_id.as_deref())))?;
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiscardReport {
    discarded: usize,
    failed: Vec<String>,
    interrupted: bool,
}

async fn discard(batch: &Batch, yes: bool, context: &Context) -> Result<Status> {
    batch.check()?;
    let queues = queues(&batch.selection, context).await?;
    let listed = listed(&queues, usize::MAX, context, |letter| batch.selects(letter)).await?;
    if batch.pace.dry_run {
        context.output.print(&listed, || text_of_list(&listed))?;
        return Ok(Status::Success);
    }
    let selected: HashSet<String> =
        listed.iter().flat_map(|queue| &queue.letters).map(|letter| letter.message_id.clone()).collect();
    let letters = listed.iter().flat_map(|queue| &queue.letters);
    missing(batch, letters.map(|letter| (letter.message_id.as_str(), letter.event_id.as_deref())))?;
    if !selected.is_empty()
        && !yes
        && !output::confirm(&format!("Discard {} dead letters permanently?", selected.len()))?
    {
        return Err(UsageError("nothing was discarded; confirm with --yes".to_owned()).into());
    }
    let pace = start(batch, &queues).await?;
    let (concurrent, count) = shares(&batch.pace, queues.len());
    let selected = &selected;
    let runs = queues.iter().map(|queue| {
        run_queue(queue, count, batch, &pace, context, async |message: &Received| {
            // One that arrived after the question was not asked about.
            if !selected.contains(&message.letter.message_id) {
                return Some((false, None));
            }
            let deleted = queue.delete(message).await;
            Some((deleted.is_ok(), Some(deleted.map_err(|error| format!("{error:#}")))))
        })
    });
    let runs = stream::iter(runs).buffer_unordered(concurrent).collect().await;
    let (results, errors) = collect(runs);
    let report = DiscardReport {
        discarded: results.iter().filter(|result| matches!(result, Some(Ok(())))).count(),
        failed: results.into_iter().flatten().filter_map(Result::err).collect(),
        interrupted: pace.is_interrupted(),
    };
    drop(pace);
    context.output.print(&report, || {
        let mut text: String = report.failed.iter().map(|error| escape_line(error) + "\n").collect();
        let _ = write!(text, "{} discarded, {} failed", report.discarded, report.failed.len());
        text
    })?;
    if let Some(error) = errors {
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

/// An ID that was named and not found is an error.
fn missing<'a>(batch: &Batch, found: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Result<(), MissingError> {
    let found: Vec<_> = found.collect();
    let is_missing =
        |id: &&String| !found.iter().any(|(message, event)| *message == **id || *event == Some(id.as_str()));
    match batch.ids.iter().find(is_missing) {
        Some(id) => Err(MissingError(format!("no dead letter that was selected has the ID {id}"))),
        None => Ok(()),
    }
}

async fn start(batch: &Batch, queues: &[DeadLetterQueue]) -> Result<Pace> {
    let depths = join_all(queues.iter().map(DeadLetterQueue::depth)).await;
    let total = depths.into_iter().map(|depth| depth.map(|depth| depth.visible)).sum::<Result<usize>>()?;
    Pace::start(&batch.pace, total)
}

/// Returns how many queues are read concurrently, and how many messages of each are received at once, so that at this
/// rate each message is sent in time.
fn shares(pace: &PaceOptions, queues: usize) -> (usize, usize) {
    let in_time = MAX_WAIT.as_millis() / pace.interval().as_millis().max(1);
    let in_time = usize::try_from(in_time).unwrap_or(usize::MAX);
    let concurrent = in_time.clamp(1, queues.max(1));
    (concurrent, (in_time / concurrent).clamp(1, queue::BATCH))
}

/// The results of a queue, and the error that ended it.
type Run<R> = (Vec<R>, Option<anyhow::Error>);

fn collect<R>(runs: Vec<Run<R>>) -> Run<R> {
    let (mut results, mut first) = (Vec::new(), None);
    for (some, error) in runs {
        results.extend(some);
        first = first.or(error);
    }
    (results, first)
}

/// Runs a step for each selected message of a queue, until there are no more. A step returns whether the message is gone,
/// and a result; nothing if the message will be received again.
///
/// Messages that are not gone stay hidden until the end, so that each is received once, and are handed back then.
async fn run_queue<R>(
    queue: &DeadLetterQueue,
    count: usize,
    batch: &Batch,
    pace: &Pace,
    context: &Context,
    step: impl AsyncFn(&Received) -> Option<(bool, R)>,
) -> Run<R> {
    let (mut results, mut kept, mut error) = (Vec::new(), Vec::new(), None);
    // Messages with a result, and those of them that are gone. A standard queue can deliver one again, which gets no
    // second result.
    let (mut settled, mut gone) = (HashSet::new(), HashSet::new());
    while !pace.is_interrupted() {
        let messages = match queue.receive(count, &context.names).await {
            Ok(messages) => messages,
            Err(failed) => {
                error = Some(failed);
                break;
            }
        };
        let (chosen, rest): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|message| batch.selects(&message.letter) && !settled.contains(&message.letter.message_id));
        // Only messages that were received before: the queue has nothing else.
        let is_at_end = chosen.is_empty() && rest.iter().all(|message| settled.contains(&message.letter.message_id));
        for message in rest {
            if gone.contains(&message.letter.message_id) {
                if let Err(failed) = queue.delete(&message).await {
                    error = Some(failed);
                }
            } else {
                settled.insert(message.letter.message_id.clone());
                kept.push(message);
            }
        }
        if is_at_end {
            break;
        }
        let steps = chosen.into_iter().map(|message| async {
            let result = if pace.next().await { step(&message).await } else { None };
            pace.advance();
            (message, result)
        });
        let mut steps = stream::iter(steps).buffer_unordered(CONCURRENCY);
        while let Some((message, result)) = steps.next().await {
            match result {
                Some((is_gone, result)) => {
                    settled.insert(message.letter.message_id.clone());
                    results.push(result);
                    if is_gone {
                        gone.insert(message.letter.message_id);
                    } else {
                        kept.push(message);
                    }
                }
                None => kept.push(message),
            }
        }
    }
    queue.hand_back(&kept).await;
    (results, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sent_while_they_are_hidden_from_others() {
        let shares = |rate| shares(&PaceOptions { rate, dry_run: false }, 17);
        assert_eq!(shares(1000.0), (17, 10));
        assert_eq!(shares(10.0), (17, 10));
        assert_eq!(shares(1.0), (17, 3));
        assert_eq!(shares(0.1), (6, 1));
    }
}
