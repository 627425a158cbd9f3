//! What goes into one call of `SendMessageBatch`.

use std::collections::{HashSet, VecDeque};

/// The most bytes that Amazon SQS takes in a message, and in all messages of a call together.
pub const LARGEST_BATCH: usize = 1_048_576;

/// The most messages that Amazon SQS takes in a call.
pub const MOST_IN_A_BATCH: usize = 10;

/// A message that waits to be sent, as packing sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<'a, T> {
    /// How many bytes it counts: [`LARGEST_BATCH`] at most.
    pub bytes: usize,
    /// Whose order it must keep, if there is an order to keep.
    pub group: Option<&'a str>,
    /// The message.
    pub content: T,
}

/// Takes the next batch from the front of what waits; what is left stays in its order. At least one is taken where any
/// waits.
///
/// A batch holds one of a group at most: within a call SQS may take the second where it did not take the first. So the
/// second waits until the answer to the first is there.
pub fn take_batch<'a, T>(waiting: &mut VecDeque<Piece<'a, T>>) -> Vec<Piece<'a, T>> {
    let mut batch = Vec::new();
    let mut room = LARGEST_BATCH;
    let mut groups = HashSet::new();
    let mut left = VecDeque::new();
    while batch.len() < MOST_IN_A_BATCH
        && let Some(piece) = waiting.pop_front()
    {
        if piece.group.is_some_and(|group| groups.contains(group)) {
            left.push_back(piece);
        } else if batch.is_empty() || piece.bytes <= room {
            room = room.saturating_sub(piece.bytes);
            groups.extend(piece.group);
            batch.push(piece);
        } else {
            // Nothing jumps the queue, however small.
            left.push_back(piece);
            break;
        }
    }
    left.append(waiting);
    *waiting = left;
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Pieces = VecDeque<Piece<'static, usize>>;

    const GROUPS: [&str; 3] = ["a", "b", "c"];

    /// Small ones, large ones, and the very sizes at the limit.
    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![1..2000_usize, 1..=LARGEST_BATCH, Just(LARGEST_BATCH), Just(LARGEST_BATCH / 2)]
    }

    fn pieces(groups: impl Strategy<Value = Option<&'static str>>) -> impl Strategy<Value = Pieces> {
        let pieces = prop::collection::vec((sizes(), groups), 0..60);
        pieces.prop_map(|all| {
            let piece = |(content, (bytes, group))| Piece { bytes, group, content };
            all.into_iter().enumerate().map(piece).collect()
        })
    }

    /// All batches, after each of which what is left must still be in its order.
    fn batches(mut waiting: Pieces) -> Vec<Vec<Piece<'static, usize>>> {
        let mut batches = Vec::new();
        while !waiting.is_empty() {
            batches.push(take_batch(&mut waiting));
            assert!(waiting.iter().is_sorted_by_key(|piece| piece.content));
            assert!(!batches.last().expect("one").is_empty());
        }
        batches
    }

    proptest! {
        #[test]
        fn no_batch_is_too_large_and_every_message_is_in_one(
            waiting in pieces(prop_oneof![Just(None), prop::sample::select(&GROUPS).prop_map(Some)]),
        ) {
            let batches = batches(waiting.clone());
            for batch in &batches {
                prop_assert!(batch.len() <= MOST_IN_A_BATCH);
                prop_assert!(batch.iter().map(|piece| piece.bytes).sum::<usize>() <= LARGEST_BATCH);
            }
            let mut all: Vec<_> = batches.concat();
            all.sort_by_key(|piece| piece.content);
            prop_assert_eq!(all, Vec::from(waiting));
        }

        #[test]
        fn without_groups_the_order_is_kept_and_no_room_is_wasted(waiting in pieces(Just(None))) {
            let batches = batches(waiting.clone());
            prop_assert_eq!(batches.concat(), Vec::from(waiting));
            for pair in batches.windows(2) {
                let bytes: usize = pair[0].iter().map(|piece| piece.bytes).sum();
                prop_assert!(pair[0].len() == MOST_IN_A_BATCH || bytes + pair[1][0].bytes > LARGEST_BATCH);
            }
        }

        #[test]
        fn each_group_keeps_its_order_with_one_a_batch(
            waiting in pieces(prop::sample::select(&GROUPS).prop_map(Some)),
        ) {
            let batches = batches(waiting);
            for group in GROUPS {
                let of_group = |piece: &&Piece<usize>| piece.group == Some(group);
                for batch in &batches {
                    prop_assert!(batch.iter().filter(of_group).count() <= 1);
                }
                prop_assert!(batches.iter().flatten().filter(of_group).is_sorted_by_key(|piece| piece.content));
            }
        }
    }

    #[test]
    fn ten_things_fill_a_batch_and_the_second_of_each_waits() {
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let piece = |content: usize| Piece { bytes: 100, group: Some(names[content % 10].as_str()), content };
        let mut waiting: VecDeque<_> = (0..25).map(piece).collect();
        let lengths: Vec<_> = std::iter::from_fn(|| Some(take_batch(&mut waiting).len()).filter(|n| *n > 0)).collect();
        assert_eq!(lengths, [10, 10, 5]);
    }
}
