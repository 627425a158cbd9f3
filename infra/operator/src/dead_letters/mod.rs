//! `gatehouse dead-letters`: lists, shows, resends and discards messages in the dead-letter queues.

mod delivery;
mod discard;
mod letter;
mod list;
mod queue;
mod resend;
mod rule;
mod sweep;

use anyhow::Result;
use clap::Subcommand;
use futures_util::future::join_all;

pub use delivery::Delivered;
pub use letter::{DeadLetter, Kind, Target};
pub use queue::{DeadLetterQueue, Depth, Received, depth, discover};

use crate::context::Context;
use crate::selection::{Batch, Selection, Subject};
use crate::status::{MissingError, Status};

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

fn selects(selection: &Selection, letter: &DeadLetter) -> bool {
    selection.matches(Subject { reason: letter.kind.as_str(), thing: letter.thing.as_deref(), at: letter.sent_at })
}

fn is_in(batch: &Batch, letter: &DeadLetter) -> bool {
    (batch.ids.is_empty() || batch.ids.iter().any(|id| has_id(letter, id))) && selects(&batch.selection, letter)
}

fn has_id(letter: &DeadLetter, id: &str) -> bool {
    letter.message_id == id || letter.event_id.as_deref() == Some(id)
}

/// Runs the subcommand.
pub async fn run(command: Command, context: &Context) -> Result<Status> {
    match command {
        Command::List { selection, limit } => list::list(&selection, limit, context).await,
        Command::Show { id } => list::show(&id, context).await,
        Command::Resend(batch) => resend::resend(&batch, context).await,
        Command::Discard { batch, yes } => discard::discard(&batch, yes, context).await,
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
    let listed = list::listed(&queues, usize::MAX, context, |letter| letter.thing.as_deref() == Some(thing)).await?;
    Ok(listed.into_iter().flat_map(|queue| queue.letters).collect())
}
