//! Whether a ring is told: one message for all rings of one doorbell within a quiet window.

use std::time::Duration;

use gatehouse::Timestamp;
use serde::{Deserialize, Serialize};

/// How long a ring that was told is remembered beyond its quiet window: three times the five minutes for which a ring
/// is news, so that a ring which comes late, or again, still meets the one that was told.
pub const REMEMBERED: Duration = Duration::from_mins(15);

/// One press of a doorbell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ring {
    /// The event's id.
    pub event_id: String,
    /// When AWS IoT received it.
    pub received_at: Timestamp,
}

/// The ring that is being told just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The ring.
    pub ring: Ring,
    /// Who is telling it.
    pub owner: String,
    /// When the claim ends, if it is neither marked nor given back before.
    pub expires: Timestamp,
}

/// What is known of one doorbell's rings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    told: Vec<Ring>,
    claim: Option<Claim>,
}

/// What is to be done about a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Claim it, and tell it.
    Tell,
    /// It has been told before.
    AlreadyTold,
    /// Another ring within its quiet window has been told.
    Quiet,
    /// Another invocation is telling a ring, and may fail: it cannot be let go yet.
    Wait,
}

impl Rings {
    /// Decides about a ring.
    ///
    /// The window counts both ways, because rings may arrive in any order.
    pub fn decide(&self, ring: &Ring, window: Duration, now: Timestamp) -> Verdict {
        if self.is_told(ring) {
            Verdict::AlreadyTold
        } else if self.told.iter().any(|told| told.received_at.distance(ring.received_at) < window) {
            Verdict::Quiet
        } else if self.claim.as_ref().is_some_and(|claim| claim.expires > now) {
            Verdict::Wait
        } else {
            Verdict::Tell
        }
    }

    /// Whether this very ring has been told.
    pub fn is_told(&self, ring: &Ring) -> bool {
        self.told.iter().any(|told| told.event_id == ring.event_id)
    }

    /// Whether `owner` holds the claim.
    pub fn is_claimed_by(&self, owner: &str) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.owner == owner)
    }

    /// The same with the ring claimed, and without what need not be remembered any longer.
    #[must_use]
    pub fn with_claim(&self, claim: Claim, window: Duration, now: Timestamp) -> Self {
        let remembered = |told: &&Ring| now.since(told.received_at) < window + REMEMBERED;
        Self { told: self.told.iter().filter(remembered).cloned().collect(), claim: Some(claim) }
    }

    /// The same with the ring told, and `owner`'s claim gone.
    #[must_use]
    pub fn with_told(&self, ring: &Ring, owner: &str) -> Self {
        let mut rings = self.without_claim(owner);
        rings.told.push(ring.clone());
        rings
    }

    /// The same with `owner`'s claim gone.
    #[must_use]
    pub fn without_claim(&self, owner: &str) -> Self {
        Self { told: self.told.clone(), claim: self.claim.clone().filter(|claim| claim.owner != owner) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(10);
    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn ring(id: &str, millis: u64) -> Ring {
        Ring { event_id: id.to_owned(), received_at: Timestamp::from_millis(1_000_000_000 + millis) }
    }

    fn claim(ring: Ring, expires: Timestamp) -> Claim {
        Claim { ring, owner: "owner".to_owned(), expires }
    }

    fn told(rings: &[Ring]) -> Rings {
        Rings { told: rings.to_vec(), claim: None }
    }

    #[test]
    fn a_first_ring_is_told() {
        assert_eq!(Rings::default().decide(&ring("a", 0), WINDOW, NOW), Verdict::Tell);
    }

    #[test]
    fn a_ring_that_was_told_is_not_told_again_even_after_the_window() {
        let later = NOW.plus(Duration::from_mins(1));
        assert_eq!(told(&[ring("a", 0)]).decide(&ring("a", 0), Duration::ZERO, later), Verdict::AlreadyTold);
    }

    #[test]
    fn a_ring_within_the_window_of_a_told_one_is_quiet_and_one_at_its_end_is_told() {
        let rings = told(&[ring("a", 0)]);
        assert_eq!(rings.decide(&ring("b", 9_999), WINDOW, NOW), Verdict::Quiet);
        assert_eq!(rings.decide(&ring("b", 10_000), WINDOW, NOW), Verdict::Tell);
    }

    #[test]
    fn a_ring_that_arrives_after_a_later_one_was_told_is_quiet_too() {
        assert_eq!(told(&[ring("b", 9_000)]).decide(&ring("a", 0), WINDOW, NOW), Verdict::Quiet);
    }

    #[test]
    fn the_window_is_measured_from_the_ring_that_was_told_not_from_one_that_was_quiet() {
        let rings = told(&[ring("a", 0)]);
        assert_eq!(rings.decide(&ring("b", 9_000), WINDOW, NOW), Verdict::Quiet);
        assert_eq!(rings.decide(&ring("c", 12_000), WINDOW, NOW), Verdict::Tell);
    }

    #[test]
    fn a_ring_waits_while_another_is_being_told_and_takes_over_when_that_claim_has_expired() {
        let rings = Rings::default().with_claim(claim(ring("a", 0), NOW.plus(WINDOW)), WINDOW, NOW);
        assert_eq!(rings.decide(&ring("b", 5), WINDOW, NOW), Verdict::Wait);
        assert_eq!(rings.decide(&ring("a", 0), WINDOW, NOW), Verdict::Wait);
        assert_eq!(rings.decide(&ring("b", 5), WINDOW, NOW.plus(WINDOW)), Verdict::Tell);
    }

    #[test]
    fn marking_a_ring_as_told_leaves_a_claim_that_somebody_else_took_since() {
        let rings = Rings::default().with_claim(claim(ring("b", 0), NOW.plus(WINDOW)), WINDOW, NOW);
        let marked = rings.with_told(&ring("a", 0), "somebody else");
        assert!(marked.is_told(&ring("a", 0)) && marked.is_claimed_by("owner"));
        assert!(!marked.with_told(&ring("b", 0), "owner").is_claimed_by("owner"));
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let rings = told(&[ring("a", 0)]).with_claim(claim(ring("b", 20_000), NOW), WINDOW, NOW);
        let text = serde_json::to_string(&rings).unwrap();
        assert_eq!(serde_json::from_str::<Rings>(&text).unwrap(), rings);
    }

    proptest! {
        /// Any number of rings, in any order, some of them delivered twice: those that are told lie a window apart,
        /// every other one lies within the window of one that was told, and none is told twice.
        #[test]
        fn rings_in_any_order_make_one_message_a_window(
            arrivals in prop::collection::vec((0_u8..30, 0_u64..60_000), 1..60),
        ) {
            let mut rings = Rings::default();
            let mut messages: Vec<Ring> = Vec::new();
            let moment_of = |id: u8| arrivals.iter().find(|(other, _)| *other == id).map_or(0, |(_, millis)| *millis);
            for (id, _) in &arrivals {
                let ring = ring(&id.to_string(), moment_of(*id));
                match rings.decide(&ring, WINDOW, NOW) {
                    Verdict::Tell => {
                        rings = rings.with_claim(claim(ring.clone(), NOW), WINDOW, NOW).with_told(&ring, "owner");
                        messages.push(ring);
                    }
                    Verdict::AlreadyTold => prop_assert!(messages.contains(&ring)),
                    Verdict::Quiet => prop_assert!(
                        messages.iter().any(|told| told.received_at.distance(ring.received_at) < WINDOW)
                    ),
                    Verdict::Wait => prop_assert!(false, "nothing is being told"),
                }
            }
            for (index, one) in messages.iter().enumerate() {
                for other in &messages[index + 1..] {
                    prop_assert!(one.received_at.distance(other.received_at) >= WINDOW);
                }
            }
        }
    }
}
