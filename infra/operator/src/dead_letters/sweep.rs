//! Runs a step for each selected message of dead-letter queues.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};

use crate::context::Context;
use crate::dead_letters::{DeadLetterQueue, Received, is_in, queue};
use crate::pace::{Pace, PaceOptions};
use crate::selection::Batch;
use crate::status::MissingError;

/// Maximum number of concurrent steps per queue.
const CONCURRENCY: usize = 4;

/// Maximum time that a received message waits for its step; less than its visibility timeout.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// The results of the steps, and the first error that ended the sweep of a queue.
pub(super) type Swept<R> = (Vec<R>, Option<anyhow::Error>);

/// A sweep through the selected messages of queues, at the batch's pace.
pub(super) struct Sweep<'a> {
    queues: &'a [DeadLetterQueue],
    batch: &'a Batch,
    pace: Pace,
    context: &'a Context,
}

impl<'a> Sweep<'a> {
    /// Starts the progress bar.
    pub async fn start(queues: &'a [DeadLetterQueue], batch: &'a Batch, context: &'a Context) -> Result<Self> {
        let depths = join_all(queues.iter().map(DeadLetterQueue::depth)).await;
        let total = depths.into_iter().map(|depth| depth.map(|depth| depth.visible)).sum::<Result<usize>>()?;
        Ok(Self { queues, batch, pace: Pace::start(&batch.pace, total)?, context })
    }

    /// Returns whether the operator has interrupted it.
    pub fn is_interrupted(&self) -> bool {
        self.pace.is_interrupted()
    }

    /// Runs a step for each selected message, until there are no more. A step returns whether it deleted the message
    /// and a result, or `None` to leave the message for a later run.
    ///
    /// Messages that are not deleted stay hidden until the end, so that each is received once.
    pub async fn run<R>(&self, step: impl AsyncFn(&DeadLetterQueue, &Received) -> Option<(bool, R)>) -> Swept<R> {
        let (concurrent, count) = shares(&self.batch.pace, self.queues.len());
        let runs = self.queues.iter().map(|queue| self.run_queue(queue, count, &step));
        let mut runs = stream::iter(runs).buffer_unordered(concurrent);
        let (mut results, mut first) = (Vec::new(), None);
        while let Some((some, error)) = runs.next().await {
            results.extend(some);
            first = first.or(error);
        }
        (results, first)
    }

    async fn run_queue<R>(
        &self,
        queue: &DeadLetterQueue,
        count: usize,
        step: &impl AsyncFn(&DeadLetterQueue, &Received) -> Option<(bool, R)>,
    ) -> Swept<R> {
        let (mut results, mut kept, mut error) = (Vec::new(), Vec::new(), None);
        // Messages with a result, and the deleted ones among them. A standard queue can redeliver a message, which then
        // gets no second result.
        let (mut settled, mut gone) = (HashSet::new(), HashSet::new());
        while !self.pace.is_interrupted() {
            let messages = match queue.receive(count, &self.context.names).await {
                Ok(messages) => messages,
                Err(failed) => {
                    error = Some(failed);
                    break;
                }
            };
            let (chosen, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| {
                is_in(self.batch, &message.letter) && !settled.contains(&message.letter.message_id)
            });
            // The queue is exhausted once it returns only messages that were received before.
            let is_at_end =
                chosen.is_empty() && rest.iter().all(|message| settled.contains(&message.letter.message_id));
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
                let result = if self.pace.next().await { step(queue, &message).await } else { None };
                self.pace.advance();
                (message, result)
            });
            let mut steps = stream::iter(steps).buffer_unordered(CONCURRENCY);
            let mut late = Vec::new();
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
                    None => late.push(message),
                }
            }
            drop(steps);
            // Their time was nearly over: they are received once more.
            queue.hand_back(&late).await;
        }
        queue.hand_back(&kept).await;
        (results, error)
    }
}

/// Returns how many queues to read concurrently, and how many messages to receive from each at once, so that each
/// message's step starts within [`MAX_WAIT`] at this rate.
fn shares(pace: &PaceOptions, queues: usize) -> (usize, usize) {
    let in_time = MAX_WAIT.as_millis() / pace.interval().as_millis().max(1);
    let in_time = usize::try_from(in_time).unwrap_or(usize::MAX);
    let concurrent = in_time.clamp(1, queues.max(1));
    (concurrent, (in_time / concurrent).clamp(1, queue::BATCH))
}

/// Returns an error unless each ID in the batch was found.
pub(super) fn ensure_found<'a>(
    batch: &Batch,
    found: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<(), MissingError> {
    let found: Vec<_> = found.collect();
    let is_missing =
        |id: &&String| !found.iter().any(|(message, event)| *message == **id || *event == Some(id.as_str()));
    match batch.ids.iter().find(is_missing) {
        Some(id) => Err(MissingError(format!("no dead letter that was selected has the ID {id}"))),
        None => Ok(()),
    }
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
