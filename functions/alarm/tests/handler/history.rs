//! Arbitrary histories of several things, in arbitrary batches, compared with a reference.

use std::collections::VecDeque;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::setup::*;

/// One thing's history: a gap in seconds and a value for each event.
type History = Vec<(u64, u64)>;

/// The same rules in their simplest form: raises above 100 for a minute, clears below 100 for a minute.
fn reference(history: &History) -> Vec<(u64, String)> {
    let (mut now, mut is_alarmed, mut run, mut transitions) = (0, false, Vec::<u64>::new(), Vec::new());
    for (gap, lux) in history {
        now += gap * 1000;
        let exceeds = if is_alarmed { *lux < 100 } else { *lux > 100 };
        if !exceeds || run.last().is_some_and(|last| now - last > MINUTE) {
            run.clear();
        }
        if exceeds {
            run.push(now);
        }
        if run.first().is_some_and(|first| now - first >= MINUTE) {
            is_alarmed = !is_alarmed;
            run.clear();
            transitions.push((now, if is_alarmed { "ALARM" } else { "OK" }.to_owned()));
        }
    }
    transitions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn order_and_repetition_of_batches_change_nothing(
        histories in prop::collection::vec(
            prop::collection::vec((0_u64..40, prop::sample::select(vec![50_u64, 100, 150, 150])), 0..25), 1..4),
        sizes in prop::collection::vec(1_usize..12, 1..60),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 80),
        repeats in prop::collection::vec((0_u8..3, any::<prop::sample::Index>()), 60),
    ) {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            let aws = account(json!([too_bright(60)])).await;
            let mut queues: Vec<_> = histories
                .iter()
                .enumerate()
                .map(|(thing, history)| {
                    let mut now = 0;
                    let one = |(n, (gap, lux)): (usize, &(u64, u64))| {
                        now += gap * 1000;
                        let thing = format!("greenhouse-{thing}");
                        event(&format!("{thing}-{n}"), &thing, now, json!({"lux": lux}))
                    };
                    history.iter().enumerate().map(one).collect::<VecDeque<_>>()
                })
                .collect();
            let mut all = Vec::new();
            let mut picks = picks.iter().cycle();
            while queues.iter().any(|queue| !queue.is_empty()) {
                let left: Vec<_> = (0..queues.len()).filter(|thing| !queues[*thing].is_empty()).collect();
                all.extend(queues[left[picks.next().unwrap().index(left.len())]].pop_front());
            }
            let mut batches: Vec<Vec<Value>> = Vec::new();
            for ((size, (repeat, which)), _) in sizes.iter().zip(&repeats).cycle().zip(0..200) {
                if all.is_empty() {
                    break;
                }
                let rest = all.split_off((*size).min(all.len()));
                batches.push(std::mem::replace(&mut all, rest));
                // An earlier batch is delivered again, by itself or with new events.
                let again = batches[which.index(batches.len())].clone();
                match repeat {
                    0 => batches.push(again),
                    1 => batches.last_mut().unwrap().extend(again),
                    _ => {}
                }
            }
            for (n, bodies) in (0_u64..).zip(&batches) {
                let delivered = deliver(&aws, bodies, n).await;
                assert_eq!(delivered.retried_messages(), Some(vec![]));
            }
            let state = aws.state();
            for (thing, history) in histories.iter().enumerate() {
                let published = transitions_of(&state, &format!("greenhouse-{thing}"));
                assert_eq!(published, reference(history), "greenhouse-{thing}");
            }
            let expected: usize = histories.iter().map(|history| reference(history).len()).sum();
            assert_eq!(state.published.len(), expected, "a transition was published twice");
        });
    }
}
