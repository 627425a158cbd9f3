//! Decides which of a shadow's messages is the newest. Messages can be late, duplicated and out of order.

use std::cmp::Ordering;
use std::time::Duration;

use gatehouse::Timestamp;

/// If the timestamps of two messages differ by more than this, they give the order of the messages. It is half of the
/// 48 hours for which AWS keeps counting a deleted shadow's versions: far from both 48 hours and any clock error.
const CLEARLY_APART: Duration = Duration::from_hours(24);

/// One update or deletion of a shadow, with AWS's version and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// AWS's version of the document. A deletion has the version of the document that it deleted.
    pub version: u64,
    /// AWS's time, in whole seconds.
    pub at: Timestamp,
    /// Whether the shadow was deleted, not updated.
    pub is_deleted: bool,
}

/// How recent a message is, compared with the recorded revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recency {
    /// It is newer.
    Newer,
    /// The message is recorded already.
    Duplicate,
    /// A newer message is recorded.
    OutOfOrder,
}

impl Revision {
    /// The order in which two messages of one shadow were sent.
    ///
    /// Versions only increase, even across a deletion, except that they restart at 1 if a shadow is recreated more than
    /// 48 hours after its deletion. So timestamps that are clearly apart decide: within one sequence of versions they
    /// agree with the versions, and two sequences are at least 48 hours apart. If the timestamps are close, both
    /// messages belong to the same sequence, and versions decide. A document precedes its own deletion.
    fn order(self, other: Self) -> Ordering {
        if self.at.distance(other.at) > CLEARLY_APART {
            return self.at.cmp(&other.at);
        }
        (self.version, self.is_deleted).cmp(&(other.version, other.is_deleted))
    }
}

/// Compares a message with the recorded revision. The final record is the same for every order of a shadow's messages,
/// and for any number of duplicates.
pub fn compare(recorded: Option<Revision>, message: Revision) -> Recency {
    match recorded.map(|recorded| message.order(recorded)) {
        None | Some(Ordering::Greater) => Recency::Newer,
        Some(Ordering::Equal) => Recency::Duplicate,
        Some(Ordering::Less) => Recency::OutOfOrder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const NOW: u64 = 1_763_715_600;
    const HOUR: u64 = 3600;

    fn updated(version: u64, seconds: u64) -> Revision {
        Revision { version, at: Timestamp::from_millis(seconds * 1000), is_deleted: false }
    }

    fn deleted(version: u64, seconds: u64) -> Revision {
        Revision { is_deleted: true, ..updated(version, seconds) }
    }

    #[test]
    fn versions_decide_when_timestamps_are_close() {
        assert_eq!(compare(None, updated(1, NOW)), Recency::Newer);
        assert_eq!(compare(Some(updated(7, NOW)), updated(8, NOW)), Recency::Newer);
        assert_eq!(compare(Some(updated(7, NOW)), updated(6, NOW + 60)), Recency::OutOfOrder);
        assert_eq!(compare(Some(updated(7, NOW)), updated(7, NOW)), Recency::Duplicate);
    }

    #[test]
    fn document_precedes_its_own_deletion() {
        assert_eq!(compare(Some(updated(7, NOW)), deleted(7, NOW)), Recency::Newer);
        assert_eq!(compare(Some(deleted(7, NOW)), updated(7, NOW)), Recency::OutOfOrder);
        assert_eq!(compare(Some(deleted(7, NOW)), deleted(7, NOW)), Recency::Duplicate);
    }

    #[test]
    fn shadow_recreated_soon_continues_to_count() {
        assert_eq!(compare(Some(deleted(7, NOW)), updated(8, NOW + 47 * HOUR)), Recency::Newer);
    }

    #[test]
    fn shadow_recreated_late_starts_again_at_version_1() {
        let (before, after) = (deleted(7, NOW), updated(1, NOW + 48 * HOUR));
        assert_eq!(compare(Some(before), after), Recency::Newer);
        assert_eq!(compare(Some(after), before), Recency::OutOfOrder);
        assert_eq!(compare(Some(after), updated(7, NOW)), Recency::OutOfOrder);
    }

    /// What happens to a shadow, and how many seconds later.
    #[derive(Debug, Clone)]
    enum Step {
        Update(u64),
        Delete(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let after = || {
            prop_oneof![
                Just(0),
                0..5_u64,
                5..24 * HOUR,
                23 * HOUR..25 * HOUR,
                47 * HOUR..49 * HOUR,
                49 * HOUR..1000 * HOUR,
            ]
        };
        prop_oneof![3 => after().prop_map(Step::Update), 2 => after().prop_map(Step::Delete)]
    }

    /// A shadow's true history: its messages, in order. `skews` are the errors of the timestamps, in seconds;
    /// `is_counted` says whether a deletion gets its own version.
    fn history(steps: &[Step], skews: &[i64], is_counted: bool) -> Vec<Revision> {
        let (mut messages, mut now, mut version, mut gone) = (Vec::new(), NOW, 0, None);
        let mut skews = skews.iter().cycle();
        for step in steps {
            let (Step::Update(after) | Step::Delete(after)) = step;
            now += after;
            let seen = now.saturating_add_signed(*skews.next().unwrap());
            match step {
                Step::Update(_) => {
                    let is_forgotten = gone.take().is_some_and(|gone| now - gone >= 48 * HOUR);
                    version = if is_forgotten { 1 } else { version + 1 };
                    messages.push(updated(version, seen));
                }
                // There is nothing to delete.
                Step::Delete(_) if version == 0 || gone.is_some() => {}
                Step::Delete(_) => {
                    version += u64::from(is_counted);
                    gone = Some(now);
                    messages.push(deleted(version, seen));
                }
            }
        }
        messages
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn every_order_with_duplicates_ends_as_the_true_history(
            steps in proptest::collection::vec(step(), 1..14),
            skews in proptest::collection::vec(-60..=60_i64, 24),
            is_counted in any::<bool>(),
            duplicates in proptest::collection::vec(any::<Index>(), 0..12),
            order in any::<u64>(),
        ) {
            let mut messages = history(&steps, &skews, is_counted);
            let end = messages.last().copied();
            if !messages.is_empty() {
                let more: Vec<_> = duplicates.iter().map(|index| *index.get(&messages)).collect();
                messages.extend(more);
            }
            // A shuffle that a single number reproduces.
            let mut random = order | 1;
            for index in (1..messages.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                messages.swap(index, usize::try_from(random >> 33).unwrap() % (index + 1));
            }
            let record = |recorded, message: &Revision| match compare(recorded, *message) {
                Recency::Newer => Some(*message),
                Recency::Duplicate | Recency::OutOfOrder => recorded,
            };
            prop_assert_eq!(messages.iter().fold(None, record), end, "{:#?}", messages);
        }
    }
}
