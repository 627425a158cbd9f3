//! Decides which messages go into one call of `SendMessageBatch`.

use std::collections::{HashSet, VecDeque};

/// Amazon SQS's limit for the size of a message, and of all messages in a call together, in bytes.
pub const MAX_BATCH_BYTES: usize = 1_048_576;

/// Amazon SQS's limit for the number of messages in a call.
pub const MAX_BATCH_MESSAGES: usize = 10;

/// A message to be sent, with the properties that determine its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchItem<'a, T> {
    /// Its size in bytes, at most [`MAX_BATCH_BYTES`].
    pub bytes: usize,
    /// The group whose order is preserved; `None` on a queue without order.
    pub group: Option<&'a str>,
    /// The message.
    pub content: T,
}

/// Takes the next batch from the front of the pending messages: at least one message, if there are any. The others stay
/// in order.
///
/// A batch contains at most one message of each group: within a call, SQS might accept a group's second message but not
/// its first. So the second waits for the response to the first.
pub fn take_batch<'a, T>(pending: &mut VecDeque<BatchItem<'a, T>>) -> Vec<BatchItem<'a, T>> {
    let mut batch = Vec::new();
    let mut capacity = MAX_BATCH_BYTES;
    let mut groups = HashSet::new();
    let mut remaining = VecDeque::new();
    while batch.len() < MAX_BATCH_MESSAGES
        && let Some(item) = pending.pop_front()
    {
        if item.group.is_some_and(|group| groups.contains(group)) {
            remaining.push_back(item);
        } else if batch.is_empty() || item.bytes <= capacity {
            capacity = capacity.saturating_sub(item.bytes);
            groups.extend(item.group);
            batch.push(item);
        } else {
            // A smaller message must not overtake a larger one.
            remaining.push_back(item);
            break;
        }
    }
    remaining.append(pending);
    *pending = remaining;
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Items = VecDeque<BatchItem<'static, usize>>;

    const GROUPS: [&str; 3] = ["a", "b", "c"];

    /// Small and large sizes, and sizes at the limit.
    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![1..2000_usize, 1..=MAX_BATCH_BYTES, Just(MAX_BATCH_BYTES), Just(MAX_BATCH_BYTES / 2)]
    }

    fn items(groups: impl Strategy<Value = Option<&'static str>>) -> impl Strategy<Value = Items> {
        let items = prop::collection::vec((sizes(), groups), 0..60);
        items.prop_map(|all| {
            let item = |(content, (bytes, group))| BatchItem { bytes, group, content };
            all.into_iter().enumerate().map(item).collect()
        })
    }

    /// All batches. After each, the remaining messages must still be in order.
    fn batches(mut pending: Items) -> Vec<Vec<BatchItem<'static, usize>>> {
        let mut batches = Vec::new();
        while !pending.is_empty() {
            batches.push(take_batch(&mut pending));
            assert!(pending.iter().is_sorted_by_key(|item| item.content));
            assert!(!batches.last().expect("one").is_empty());
        }
        batches
    }

    proptest! {
        #[test]
        fn no_batch_is_too_large_and_every_message_is_in_one(
            pending in items(prop_oneof![Just(None), prop::sample::select(&GROUPS).prop_map(Some)]),
        ) {
            let batches = batches(pending.clone());
            for batch in &batches {
                prop_assert!(batch.len() <= MAX_BATCH_MESSAGES);
                prop_assert!(batch.iter().map(|item| item.bytes).sum::<usize>() <= MAX_BATCH_BYTES);
            }
            let mut all: Vec<_> = batches.concat();
            all.sort_by_key(|item| item.content);
            prop_assert_eq!(all, Vec::from(pending));
        }

        #[test]
        fn without_groups_order_is_kept_and_batches_are_full(pending in items(Just(None))) {
            let batches = batches(pending.clone());
            prop_assert_eq!(batches.concat(), Vec::from(pending));
            for pair in batches.windows(2) {
                let bytes: usize = pair[0].iter().map(|item| item.bytes).sum();
                prop_assert!(pair[0].len() == MAX_BATCH_MESSAGES || bytes + pair[1][0].bytes > MAX_BATCH_BYTES);
            }
        }

        #[test]
        fn each_group_keeps_its_order_with_one_message_per_batch(
            pending in items(prop::sample::select(&GROUPS).prop_map(Some)),
        ) {
            let batches = batches(pending);
            for group in GROUPS {
                let of_group = |item: &&BatchItem<usize>| item.group == Some(group);
                for batch in &batches {
                    prop_assert!(batch.iter().filter(of_group).count() <= 1);
                }
                prop_assert!(batches.iter().flatten().filter(of_group).is_sorted_by_key(|item| item.content));
            }
        }
    }

    #[test]
    fn ten_things_fill_a_batch_and_the_second_of_each_waits() {
        let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let item = |content: usize| BatchItem { bytes: 100, group: Some(names[content % 10].as_str()), content };
        let mut pending: VecDeque<_> = (0..25).map(item).collect();
        let lengths: Vec<_> = std::iter::from_fn(|| Some(take_batch(&mut pending).len()).filter(|n| *n > 0)).collect();
        assert_eq!(lengths, [10, 10, 5]);
    }
}
