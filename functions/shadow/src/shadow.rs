//! Which of a shadow's messages is the newest. They come late, repeated and in any order.

use std::cmp::Ordering;
use std::time::Duration;

use gatehouse::Timestamp;

/// Two messages whose timestamps lie further apart than this were sent in that order. Half of the 48 hours for which
/// AWS goes on counting a deleted shadow's versions: far from those, and far from what clocks may be wrong by.
const APART: Duration = Duration::from_hours(24);

/// When a shadow was updated or deleted, by AWS's own count and clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// AWS's number of the document. A deletion has that of the document that it deleted.
    pub version: u64,
    /// AWS's time, in whole seconds.
    pub at: Timestamp,
    /// Deleted, not updated.
    pub is_deleted: bool,
}

/// What a message is to what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is newer.
    Newer,
    /// It is what is held already.
    Repeated,
    /// Something newer is held.
    Older,
}

impl Stamp {
    /// The order in which two messages of one shadow were sent.
    ///
    /// Versions only rise, also over a deletion, except that a shadow which is made anew later than 48 hours after its
    /// deletion begins at 1 again. So timestamps decide where they lie clearly apart: within one count they agree with
    /// the versions, and between two counts lie those 48 hours. Where they do not, it is one count, and versions
    /// decide. A document comes before its own deletion.
    fn order(self, other: Self) -> Ordering {
        if self.at.distance(other.at) > APART {
            return self.at.cmp(&other.at);
        }
        (self.version, self.is_deleted).cmp(&(other.version, other.is_deleted))
    }
}

/// What a message is to what is held of the shadow. Whatever the order in which a shadow's messages are taken, and
/// however often, the same is held in the end.
pub fn news(held: Option<Stamp>, message: Stamp) -> News {
    match held.map(|held| message.order(held)) {
        None | Some(Ordering::Greater) => News::Newer,
        Some(Ordering::Equal) => News::Repeated,
        Some(Ordering::Less) => News::Older,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const NOW: u64 = 1_763_715_600;
    const HOUR: u64 = 3600;

    fn updated(version: u64, seconds: u64) -> Stamp {
        Stamp { version, at: Timestamp::from_millis(seconds * 1000), is_deleted: false }
    }

    fn deleted(version: u64, seconds: u64) -> Stamp {
        Stamp { is_deleted: true, ..updated(version, seconds) }
    }

    #[test]
    fn a_higher_version_is_newer_also_within_a_second_and_a_lower_one_is_older() {
        assert_eq!(news(None, updated(1, NOW)), News::Newer);
        assert_eq!(news(Some(updated(7, NOW)), updated(8, NOW)), News::Newer);
        assert_eq!(news(Some(updated(7, NOW)), updated(6, NOW + 60)), News::Older);
        assert_eq!(news(Some(updated(7, NOW)), updated(7, NOW)), News::Repeated);
    }

    #[test]
    fn a_deletion_wins_over_the_document_that_it_deleted_whichever_comes_first() {
        assert_eq!(news(Some(updated(7, NOW)), deleted(7, NOW)), News::Newer);
        assert_eq!(news(Some(deleted(7, NOW)), updated(7, NOW)), News::Older);
        assert_eq!(news(Some(deleted(7, NOW)), deleted(7, NOW)), News::Repeated);
    }

    #[test]
    fn a_shadow_made_anew_soon_goes_on_counting() {
        assert_eq!(news(Some(deleted(7, NOW)), updated(8, NOW + 47 * HOUR)), News::Newer);
    }

    #[test]
    fn a_shadow_made_anew_late_begins_again_and_what_was_before_it_is_older() {
        let (before, after) = (deleted(7, NOW), updated(1, NOW + 48 * HOUR));
        assert_eq!(news(Some(before), after), News::Newer);
        assert_eq!(news(Some(after), before), News::Older);
        assert_eq!(news(Some(after), updated(7, NOW)), News::Older);
    }

    /// What is done to a shadow, after so many seconds.
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

    /// A shadow's true history: its messages, in order. `skews` are by how many seconds each timestamp is wrong;
    /// `is_counted` says whether a deletion takes a version of its own.
    fn history(steps: &[Step], skews: &[i64], is_counted: bool) -> Vec<Stamp> {
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
        fn any_order_and_any_repetition_end_as_the_true_history_does(
            steps in proptest::collection::vec(step(), 1..14),
            skews in proptest::collection::vec(-60..=60_i64, 24),
            is_counted in any::<bool>(),
            repeated in proptest::collection::vec(any::<Index>(), 0..12),
            order in any::<u64>(),
        ) {
            let mut messages = history(&steps, &skews, is_counted);
            let end = messages.last().copied();
            if !messages.is_empty() {
                let more: Vec<_> = repeated.iter().map(|index| *index.get(&messages)).collect();
                messages.extend(more);
            }
            // A shuffle that a failing case names by one number.
            let mut random = order | 1;
            for index in (1..messages.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                messages.swap(index, usize::try_from(random >> 33).unwrap() % (index + 1));
            }
            let take = |held, message: &Stamp| match news(held, *message) {
                News::Newer => Some(*message),
                News::Repeated | News::Older => held,
            };
            prop_assert_eq!(messages.iter().fold(None, take), end, "{:#?}", messages);
        }
    }
}
