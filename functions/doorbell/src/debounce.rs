//! Decides which rings are sent: one message for all rings of a doorbell within a debounce window.

use std::time::Duration;

use gatehouse::Timestamp;
use serde::{Deserialize, Serialize};

/// How long a sent ring is remembered beyond its debounce window, so that late and duplicate rings are still
/// recognized: three times the five minutes for which AWS Lambda retries a ring by default.
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

/// A claim on the ring that is being sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingClaim {
    /// The ring.
    pub ring: Ring,
    /// The token of the invocation that is sending it.
    pub owner: String,
    /// When the claim expires unless it is completed or released before.
    pub expires: Timestamp,
}

/// The recent rings of one doorbell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentRings {
    /// Rings that were sent.
    #[serde(rename = "told")]
    sent: Vec<Ring>,
    claim: Option<RingClaim>,
}

/// What to do about a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debounce {
    /// Claim it and send it.
    Send,
    /// Nothing: it has been sent before.
    Duplicate,
    /// Nothing: another ring within its window has been sent.
    Suppress,
    /// Decide later: another invocation is sending a ring, and may fail.
    Wait,
}

impl RecentRings {
    /// Decides what to do about a ring.
    ///
    /// The window extends in both directions, because rings may arrive in any order.
    pub fn decide(&self, ring: &Ring, window: Duration, now: Timestamp) -> Debounce {
        if self.is_sent(ring) {
            Debounce::Duplicate
        } else if self.sent.iter().any(|sent| sent.received_at.distance(ring.received_at) < window) {
            Debounce::Suppress
        } else if self.claim.as_ref().is_some_and(|claim| claim.expires > now) {
            Debounce::Wait
        } else {
            Debounce::Send
        }
    }

    /// Whether this very ring has been sent.
    pub fn is_sent(&self, ring: &Ring) -> bool {
        self.sent.iter().any(|sent| sent.event_id == ring.event_id)
    }

    /// Whether `owner` holds the claim.
    pub fn is_claimed_by(&self, owner: &str) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.owner == owner)
    }

    /// Returns the rings with this claim, and without rings that no longer need to be remembered.
    #[must_use]
    pub fn with_claim(&self, claim: RingClaim, window: Duration, now: Timestamp) -> Self {
        let is_remembered = |sent: &&Ring| now.since(sent.received_at) < window + REMEMBERED;
        Self { sent: self.sent.iter().filter(is_remembered).cloned().collect(), claim: Some(claim) }
    }

    /// Returns the rings with this one marked as sent, and without `owner`'s claim.
    #[must_use]
    pub fn with_sent(&self, ring: &Ring, owner: &str) -> Self {
        let mut rings = self.without_claim(owner);
        rings.sent.push(ring.clone());
        rings
    }

    /// Returns the rings without `owner`'s claim.
    #[must_use]
    pub fn without_claim(&self, owner: &str) -> Self {
        Self { sent: self.sent.clone(), claim: self.claim.clone().filter(|claim| claim.owner != owner) }
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

    fn claim(ring: Ring, expires: Timestamp) -> RingClaim {
        RingClaim { ring, owner: "owner".to_owned(), expires }
    }

    fn sent(rings: &[Ring]) -> RecentRings {
        RecentRings { sent: rings.to_vec(), claim: None }
    }

    #[test]
    fn first_ring_is_sent() {
        assert_eq!(RecentRings::default().decide(&ring("a", 0), WINDOW, NOW), Debounce::Send);
    }

    #[test]
    fn duplicate_is_not_sent_even_after_the_window() {
        let later = NOW.plus(Duration::from_mins(1));
        assert_eq!(sent(&[ring("a", 0)]).decide(&ring("a", 0), Duration::ZERO, later), Debounce::Duplicate);
    }

    #[test]
    fn ring_is_suppressed_within_the_window_and_sent_at_its_end() {
        let rings = sent(&[ring("a", 0)]);
        assert_eq!(rings.decide(&ring("b", 9_999), WINDOW, NOW), Debounce::Suppress);
        assert_eq!(rings.decide(&ring("b", 10_000), WINDOW, NOW), Debounce::Send);
    }

    #[test]
    fn late_ring_is_suppressed_by_a_newer_one() {
        assert_eq!(sent(&[ring("b", 9_000)]).decide(&ring("a", 0), WINDOW, NOW), Debounce::Suppress);
    }

    #[test]
    fn suppressed_ring_does_not_extend_the_window() {
        let rings = sent(&[ring("a", 0)]);
        assert_eq!(rings.decide(&ring("b", 9_000), WINDOW, NOW), Debounce::Suppress);
        assert_eq!(rings.decide(&ring("c", 12_000), WINDOW, NOW), Debounce::Send);
    }

    #[test]
    fn ring_waits_for_another_until_its_claim_expires() {
        let rings = RecentRings::default().with_claim(claim(ring("a", 0), NOW.plus(WINDOW)), WINDOW, NOW);
        assert_eq!(rings.decide(&ring("b", 5), WINDOW, NOW), Debounce::Wait);
        assert_eq!(rings.decide(&ring("a", 0), WINDOW, NOW), Debounce::Wait);
        assert_eq!(rings.decide(&ring("b", 5), WINDOW, NOW.plus(WINDOW)), Debounce::Send);
    }

    #[test]
    fn marking_a_ring_keeps_a_claim_of_another_owner() {
        let rings = RecentRings::default().with_claim(claim(ring("b", 0), NOW.plus(WINDOW)), WINDOW, NOW);
        let marked = rings.with_sent(&ring("a", 0), "another owner");
        assert!(marked.is_sent(&ring("a", 0)) && marked.is_claimed_by("owner"));
        assert!(!marked.with_sent(&ring("b", 0), "owner").is_claimed_by("owner"));
    }

    #[test]
    fn stored_rings_are_read_back() {
        let rings = sent(&[ring("a", 0)]).with_claim(claim(ring("b", 20_000), NOW), WINDOW, NOW);
        let text = serde_json::to_string(&rings).unwrap();
        assert_eq!(serde_json::from_str::<RecentRings>(&text).unwrap(), rings);
    }

    proptest! {
        /// For any rings in any order, some delivered twice: sent rings are at least a window apart, every other ring
        /// is within a window of a sent one, and no ring is sent twice.
        #[test]
        fn rings_in_any_order_send_one_message_per_window(
            arrivals in prop::collection::vec((0_u8..30, 0_u64..60_000), 1..60),
        ) {
            let mut rings = RecentRings::default();
            let mut messages: Vec<Ring> = Vec::new();
            let received_at = |id: u8| arrivals.iter().find(|(other, _)| *other == id).map_or(0, |(_, millis)| *millis);
            for (id, _) in &arrivals {
                let ring = ring(&id.to_string(), received_at(*id));
                match rings.decide(&ring, WINDOW, NOW) {
                    Debounce::Send => {
                        rings = rings.with_claim(claim(ring.clone(), NOW), WINDOW, NOW).with_sent(&ring, "owner");
                        messages.push(ring);
                    }
                    Debounce::Duplicate => prop_assert!(messages.contains(&ring)),
                    Debounce::Suppress => prop_assert!(
                        messages.iter().any(|sent| sent.received_at.distance(ring.received_at) < WINDOW)
                    ),
                    Debounce::Wait => prop_assert!(false, "no ring is being sent"),
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
