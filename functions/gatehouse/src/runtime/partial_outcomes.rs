use crate::runtime::handler::Outcomes;
use crate::runtime::outcome::{Failure, Outcome, Refusal};

/// Collects the outcomes of events that consist of several parts, such as the readings of one message that are written
/// by different calls.
///
/// An event's outcome is set as soon as all its parts are settled, so that when time runs out, every event that is
/// complete by then stays acknowledged. A retry takes precedence over a refusal: a refused event would not be delivered
/// again, and the part to be retried would be lost. Among several refusals or retries, the first is kept.
#[derive(Debug)]
pub struct PartialOutcomes<'a> {
    outcomes: &'a mut Outcomes,
    events: Vec<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    unsettled: usize,
    refusal: Option<Refusal>,
    retry: Option<Failure>,
}

impl<'a> PartialOutcomes<'a> {
    /// The outcomes of this many events, none of which has any parts yet.
    pub fn new(events: usize, outcomes: &'a mut Outcomes) -> Self {
        Self { outcomes, events: std::iter::repeat_with(Parts::default).take(events).collect() }
    }

    /// Sets how many parts an event has. An event without parts is done.
    pub fn expect(&mut self, event: usize, parts: usize) {
        if let Some(event) = self.events.get_mut(event) {
            event.unsettled = parts;
        }
        self.complete(event);
    }

    /// Settles one part of an event.
    pub fn settle(&mut self, event: usize, outcome: Outcome) {
        let Some(parts) = self.events.get_mut(event) else { return };
        parts.unsettled = parts.unsettled.saturating_sub(1);
        match outcome {
            Ok(()) => {}
            Err(Failure::Refused(refusal)) => drop(parts.refusal.get_or_insert(refusal)),
            Err(retry @ Failure::Retry(_)) => drop(parts.retry.get_or_insert(retry)),
        }
        self.complete(event);
    }

    fn complete(&mut self, event: usize) {
        let Some(parts) = self.events.get_mut(event).filter(|parts| parts.unsettled == 0) else { return };
        let failure = parts.retry.take().or_else(|| parts.refusal.take().map(Failure::Refused));
        self.outcomes.set(event, failure.map_or(Ok(()), Err));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &'static str) -> Outcome {
        Err(Refusal::new(code, "It is refused.").into())
    }

    fn retry() -> Outcome {
        Err(Failure::retry("throttled"))
    }

    /// The outcomes of one event with two parts.
    fn outcome_of(parts: [Outcome; 2]) -> Outcome {
        let mut outcomes = Outcomes::new(1);
        let mut partial = PartialOutcomes::new(1, &mut outcomes);
        partial.expect(0, 2);
        for part in parts {
            partial.settle(0, part);
        }
        outcomes.into_vec().pop().expect("one outcome")
    }

    #[test]
    fn event_is_done_once_all_its_parts_are() {
        assert!(outcome_of([Ok(()), Ok(())]).is_ok());
        let mut outcomes = Outcomes::new(1);
        let mut partial = PartialOutcomes::new(1, &mut outcomes);
        partial.expect(0, 2);
        partial.settle(0, Ok(()));
        assert!(matches!(outcomes.into_vec()[..], [Err(Failure::Retry(_))]), "one part is not settled");
    }

    #[test]
    fn event_without_parts_is_done() {
        let mut outcomes = Outcomes::new(1);
        PartialOutcomes::new(1, &mut outcomes).expect(0, 0);
        assert!(outcomes.into_vec()[0].is_ok());
    }

    #[test]
    fn first_refusal_is_kept() {
        let outcome = outcome_of([refused("first"), refused("second")]);
        assert!(matches!(outcome, Err(Failure::Refused(Refusal { code: "first", .. }))));
    }

    #[test]
    fn retry_takes_precedence_over_refusal() {
        for parts in [[refused("bad"), retry()], [retry(), refused("bad")]] {
            assert!(matches!(outcome_of(parts), Err(Failure::Retry(_))));
        }
    }
}
