use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;

use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};

use crate::event::envelope::Input;
use crate::runtime::invocation::Invocation;
use crate::runtime::outcome::{Failure, Outcome};

/// Handles one event at a time.
pub trait EventHandler {
    /// What it takes as input.
    type Input: Input;
    /// The handler's error. Its conversion into [`Failure`] decides between Refused and Retry.
    type Error: Into<Failure>;

    /// Performs the event's effect. `Ok` is Done: the effect is in place, and doing it again changes nothing.
    fn handle(&self, input: &Self::Input, invocation: &Invocation) -> impl Future<Output = Result<(), Self::Error>>;
}

/// Handles a batch of events together, where that saves work.
pub trait BatchHandler {
    /// What it takes as input.
    type Input: Input;

    /// Handles the events, and sets each one's outcome by its index. An event whose outcome is not set is retried.
    fn handle_batch(
        &self,
        inputs: &[Self::Input],
        outcomes: &mut Outcomes,
        invocation: &Invocation,
    ) -> impl Future<Output = ()>;
}

/// The outcomes of a batch, one per event. Each starts as Retry, so that a forgotten event is not lost.
#[derive(Debug)]
pub struct Outcomes(Vec<Outcome>);

#[derive(Debug, thiserror::Error)]
#[error("the invocation ended before this event was handled")]
struct Unhandled;

#[derive(Debug, thiserror::Error)]
#[error("the handler panicked")]
struct Panicked;

impl Outcomes {
    /// This many outcomes, all Retry.
    pub fn new(events: usize) -> Self {
        Self((0..events).map(|_| Err(Failure::retry(Unhandled))).collect())
    }

    /// Sets the outcome of the event at `index`. An index beyond the batch is ignored.
    pub fn set(&mut self, index: usize, outcome: Outcome) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = outcome;
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Outcome> {
        self.0
    }
}

/// Turns an [`EventHandler`] into a [`BatchHandler`] that handles several events concurrently. An event whose handling
/// panics becomes a Retry; the others are not affected.
#[derive(Debug)]
pub struct Concurrent<H> {
    handler: H,
    limit: NonZeroUsize,
}

impl<H> Concurrent<H> {
    /// Handles at most `limit` events at the same time.
    pub const fn new(handler: H, limit: NonZeroUsize) -> Self {
        Self { handler, limit }
    }
}

impl<H: EventHandler> BatchHandler for Concurrent<H> {
    type Input = H::Input;

    async fn handle_batch(&self, inputs: &[Self::Input], outcomes: &mut Outcomes, invocation: &Invocation) {
        let mut handled = stream::iter(inputs.iter().enumerate())
            .map(async |(index, input)| {
                let result = AssertUnwindSafe(self.handler.handle(input, invocation)).catch_unwind().await;
                (index, result.map_or_else(|_| Err(Failure::retry(Panicked)), |result| result.map_err(Into::into)))
            })
            .buffer_unordered(self.limit.get());
        // Set one by one, so that every outcome known when time runs out is kept.
        while let Some((index, outcome)) = handled.next().await {
            outcomes.set(index, outcome);
        }
    }
}
