use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;

use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};

use crate::call::Call;
use crate::event::Input;
use crate::outcome::Failure;

/// Handles one event at a time.
pub trait Each {
    /// What it takes in.
    type Input: Input;
    /// What can go wrong; maps to Refused or Retry in one place.
    type Error: Into<Failure>;

    /// Carries the event's effect out. `Ok` is Done: the effect is in place, and doing it again changes nothing.
    fn handle(&self, input: &Self::Input, call: &Call) -> impl Future<Output = Result<(), Self::Error>>;
}

/// Handles a batch of events together, where that saves work.
pub trait Bulk {
    /// What it takes in.
    type Input: Input;

    /// Sets each event's answer by its index. One that is not set is handed back.
    fn handle_all(&self, inputs: &[Self::Input], answers: &mut Answers, call: &Call) -> impl Future<Output = ()>;
}

/// The answers to a batch, one an event. Each starts as Retry, so that an event that was forgotten is not lost.
#[derive(Debug)]
pub struct Answers(Vec<Result<(), Failure>>);

#[derive(Debug, thiserror::Error)]
#[error("the invocation ended before this event was handled")]
struct Unanswered;

#[derive(Debug, thiserror::Error)]
#[error("the handler panicked")]
struct Panicked;

impl Answers {
    /// `events` answers, all Retry.
    pub fn new(events: usize) -> Self {
        Self((0..events).map(|_| Err(Failure::retry(Unanswered))).collect())
    }

    /// Sets the answer to the event at `index`; an index beyond the batch is ignored.
    pub fn set(&mut self, index: usize, answer: Result<(), Failure>) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = answer;
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Result<(), Failure>> {
        self.0
    }
}

/// A [`Bulk`] of any [`Each`]: handles so many events at once. A panic is that event's Retry and nobody else's.
#[derive(Debug)]
pub struct OneByOne<H>(pub H, pub NonZeroUsize);

impl<H: Each> Bulk for OneByOne<H> {
    type Input = H::Input;

    async fn handle_all(&self, inputs: &[Self::Input], answers: &mut Answers, call: &Call) {
        let Self(handler, at_once) = self;
        let mut answered = stream::iter(inputs.iter().enumerate())
            .map(async |(index, input)| {
                let answer = AssertUnwindSafe(handler.handle(input, call)).catch_unwind().await;
                (index, answer.map_or_else(|_| Err(Failure::retry(Panicked)), |answer| answer.map_err(Into::into)))
            })
            .buffer_unordered(at_once.get());
        // Set one by one: when time runs out, what was answered by then stays answered.
        while let Some((index, answer)) = answered.next().await {
            answers.set(index, answer);
        }
    }
}
