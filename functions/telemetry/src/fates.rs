//! What becomes of each event of a delivery: of one reading or of many, which are written by different calls.

use gatehouse::{Outcomes, Refusal};

use crate::Error;

/// The answers, each set as soon as all the readings of its event are settled: when time runs out, what is written by
/// then stays answered.
#[derive(Debug)]
pub struct Fates<'a> {
    answers: &'a mut Outcomes,
    events: Vec<Fate>,
}

#[derive(Debug, Default)]
struct Fate {
    /// How many readings are not settled yet.
    open: usize,
    refused: Option<Refusal>,
    failed: Option<Error>,
}

impl<'a> Fates<'a> {
    /// So many events, of which nothing is settled.
    pub fn new(events: usize, answers: &'a mut Outcomes) -> Self {
        Self { answers, events: std::iter::repeat_with(Fate::default).take(events).collect() }
    }

    /// An event has so many readings. One that has none is done.
    pub fn expect(&mut self, event: usize, readings: usize) {
        if let Some(fate) = self.events.get_mut(event) {
            fate.open = readings;
        }
        self.answer(event);
    }

    /// One of an event's readings is settled.
    pub fn settle(&mut self, event: usize, result: Result<(), Error>) {
        let Some(fate) = self.events.get_mut(event) else { return };
        fate.open = fate.open.saturating_sub(1);
        match result {
            Ok(()) => {}
            // Of several reasons one is told.
            Err(Error::Refused(refusal)) => drop(fate.refused.get_or_insert(refusal)),
            Err(failed) => drop(fate.failed.get_or_insert(failed)),
        }
        self.answer(event);
    }

    /// Answers for an event with which there is nothing left to do.
    fn answer(&mut self, event: usize) {
        let Some(fate) = self.events.get_mut(event).filter(|fate| fate.open == 0) else { return };
        // Refused, it would not come again: what could not be written now comes first.
        let error = fate.failed.take().or_else(|| fate.refused.take().map(Error::Refused));
        self.answers.set(event, error.map_or(Ok(()), |error| Err(error.into())));
    }
}
