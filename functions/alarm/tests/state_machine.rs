//! The decision, reading by reading, and beside a plain reference that looks at the whole history.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::time::Duration;

use alarm::machine::{self, Reading, State, Status, Step};
use alarm::thresholds::{Threshold, Thresholds};
use gatehouse::{Timestamp, parse_document};
use proptest::prelude::*;
use serde_json::json;

/// Above 10 for so long, below 10 for so long, and nothing for so long; in seconds.
fn threshold(raise: u64, clear: u64, stale: Option<u64>) -> Threshold {
    let mut threshold = json!({
        "name": "lux", "things": "*", "field": "/lux",
        "raise": {"above": 10, "for": format!("{raise} s")},
        "clear": {"below": 10, "for": format!("{clear} s")},
    });
    if let Some(stale) = stale {
        threshold["stale"] = format!("{stale} s").into();
    }
    let document: Thresholds = parse_document(&json!({"thresholds": [threshold]}).to_string()).unwrap();
    document.thresholds.into_iter().next().unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Reading(u64, f64),
    /// The schedule looks.
    Look(u64),
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

/// The changes: when, in seconds, and to what.
fn play(threshold: &Threshold, events: &[Event]) -> Vec<(u64, Status)> {
    let mut state: Option<State> = None;
    let mut changes = Vec::new();
    for event in events {
        match *event {
            Event::Reading(seconds, value) => {
                let reading = Reading { at: at(seconds), value };
                if let Step::Now(next, change) = machine::step(threshold, state, reading) {
                    state = Some(next);
                    changes.extend(change);
                }
            }
            Event::Look(seconds) => {
                if let Some((next, change)) = state.and_then(|state| machine::silence(threshold, &state, at(seconds))) {
                    state = Some(next);
                    changes.push(change);
                }
            }
        }
    }
    for pair in changes.windows(2) {
        assert!(pair[0].to == pair[1].from && pair[0].at <= pair[1].at, "{pair:?}");
    }
    changes.into_iter().map(|change| (change.at.millis() / 1000, change.to)).collect()
}

use Event::{Look, Reading as R};
use Status::{Alarm, Ok as Fine, Stale};

fn changes(raise: u64, clear: u64, stale: Option<u64>, events: &[Event]) -> Vec<(u64, Status)> {
    play(&threshold(raise, clear, stale), events)
}

#[test]
fn a_value_that_stays_beyond_the_limit_for_as_long_as_it_says_raises_once() {
    let events = [R(0, 5.), R(60, 11.), R(120, 12.), R(180, 11.), R(240, 11.)];
    assert_eq!(changes(120, 120, None, &events), [(180, Alarm)]);
    assert_eq!(changes(121, 120, None, &events), [(240, Alarm)]);
    assert_eq!(changes(181, 120, None, &events), []);
}

#[test]
fn the_greenhouse_day_raises_and_clears_once_each_and_a_dip_does_neither() {
    let minutes = |range: std::ops::Range<u64>, value: f64| range.map(move |minute| R(minute * 60, value));
    let day: Vec<_> = minutes(0..10, 5.)
        .chain(minutes(10..20, 20.))
        .chain(minutes(20..21, 9.))
        .chain(minutes(21..60, 20.))
        .chain(minutes(60..70, 9.))
        .chain(minutes(70..71, 11.))
        .chain(minutes(71..100, 9.))
        .collect();
    assert_eq!(changes(900, 900, None, &day), [((21 + 15) * 60, Alarm), ((71 + 15) * 60, Fine)]);
}

#[test]
fn a_reading_on_the_other_side_begins_the_hold_anew() {
    assert_eq!(changes(100, 1, None, &[R(0, 11.), R(60, 9.), R(61, 11.), R(120, 11.)]), []);
    assert_eq!(changes(100, 1, None, &[R(0, 11.), R(60, 9.), R(61, 11.), R(161, 11.)]), [(161, Alarm)]);
}

#[test]
fn a_value_that_is_equal_to_the_limit_is_on_neither_side_and_ends_the_hold() {
    assert_eq!(changes(0, 0, None, &[R(0, 10.), R(1, 10.)]), []);
    assert_eq!(changes(100, 1, None, &[R(0, 11.), R(60, 10.), R(100, 11.), R(199, 11.)]), []);
    assert_eq!(changes(0, 100, None, &[R(0, 11.), R(1, 9.), R(60, 10.), R(101, 9.), R(200, 9.)]), [(0, Alarm)]);
}

#[test]
fn readings_further_apart_than_the_hold_do_not_hold_together() {
    assert_eq!(changes(100, 1, None, &[R(0, 11.), R(100, 11.)]), [(100, Alarm)]);
    assert_eq!(changes(100, 1, None, &[R(0, 11.), R(101, 11.), R(200, 11.)]), []);
    assert_eq!(changes(100, 1, None, &[R(0, 11.), R(101, 11.), R(201, 11.)]), [(201, Alarm)]);
}

#[test]
fn a_hold_of_nothing_changes_at_once_however_far_apart_readings_are() {
    let events = [R(0, 11.), R(1000, 9.), R(5000, 11.), R(5000, 9.)];
    assert_eq!(changes(0, 0, None, &events), [(0, Alarm), (1000, Fine), (5000, Alarm), (5000, Fine)]);
}

#[test]
fn what_was_received_earlier_rewrites_nothing() {
    let threshold = threshold(100, 1, None);
    let state = State {
        is_alarmed: false,
        is_stale: false,
        since: at(0),
        seen_at: at(50),
        value: 11.,
        hold_since: Some(at(0)),
    };
    let step = |seconds| machine::step(&threshold, Some(state), Reading { at: at(seconds), value: 9. });
    assert_eq!(step(49), Step::Older);
    let next = State { seen_at: at(50), value: 9., hold_since: None, ..state };
    assert_eq!(step(50), Step::Now(next, None));
}

#[test]
fn silence_longer_than_is_allowed_is_told_once_as_of_the_moment_at_which_it_was_too_long() {
    let events = [R(0, 5.), Look(100), Look(160), Look(220)];
    assert_eq!(changes(10, 10, Some(100), &events), [(100, Stale)]);
    assert_eq!(changes(10, 10, Some(220), &events), []);
    assert_eq!(changes(10, 10, None, &events), []);
    assert_eq!(changes(10, 10, Some(100), &[Look(1000)]), [], "nothing was ever heard of it");
}

#[test]
fn a_device_that_is_back_is_in_the_state_that_it_was_in_and_holds_begin_anew() {
    assert_eq!(changes(50, 50, Some(100), &[R(0, 5.), Look(160), R(200, 5.)]), [(100, Stale), (200, Fine)]);
    let alarmed = [R(0, 11.), R(50, 11.), R(60, 9.), Look(200), R(205, 9.), R(254, 9.), R(255, 9.)];
    assert_eq!(changes(50, 50, Some(100), &alarmed), [(50, Alarm), (160, Stale), (205, Alarm), (255, Fine)]);
}

#[test]
fn a_device_that_is_back_beyond_a_limit_that_holds_at_once_is_in_alarm_at_once() {
    assert_eq!(changes(0, 0, Some(100), &[R(0, 5.), Look(160), R(200, 11.)]), [(100, Stale), (200, Alarm)]);
}

#[test]
fn what_was_received_before_a_device_was_told_to_be_silent_does_not_untell_it() {
    assert_eq!(changes(50, 50, Some(100), &[R(0, 5.), Look(160), R(99, 5.)]), [(100, Stale)]);
    assert_eq!(changes(50, 50, Some(100), &[R(0, 5.), Look(160), R(100, 5.)]), [(100, Stale), (100, Fine)]);
}

/// The rules once more, with the whole history at hand at every moment.
fn reference((raise, clear, stale): (u64, u64, Option<u64>), events: &[Event]) -> Vec<(u64, Status)> {
    let mut changes = Vec::new();
    let (mut is_alarmed, mut is_stale) = (false, false);
    // The readings since the last change that there was, or the return: what may hold together.
    let mut since: Vec<(u64, f64)> = Vec::new();
    let mut newest = None;
    for event in events {
        match *event {
            Look(now) => {
                let due = newest.zip(stale).map(|(newest, stale): (u64, u64)| newest + stale);
                if let Some(due) = due.filter(|due| *due < now && !is_stale) {
                    changes.push((due, Stale));
                    is_stale = true;
                }
            }
            R(now, value) => {
                if is_stale {
                    since.clear();
                }
                since.push((now, value));
                newest = Some(now);
                let passes = |value: f64| if is_alarmed { value < 10. } else { value > 10. };
                let length = if is_alarmed { clear } else { raise };
                let held = (0..since.len()).any(|first| {
                    let run = &since[first..];
                    run.iter().all(|(_, value)| passes(*value))
                        && run.windows(2).all(|pair| pair[1].0 - pair[0].0 <= length)
                        && now - run[0].0 >= length
                });
                if held {
                    is_alarmed = !is_alarmed;
                    since.clear();
                }
                if held || is_stale {
                    changes.push((now, if is_alarmed { Alarm } else { Fine }));
                }
                is_stale = false;
            }
        }
    }
    changes
}

fn history() -> impl Strategy<Value = Vec<Event>> {
    let one = (0_u64..40, prop_oneof![Just(9.), Just(10.), Just(11.), Just(11.), Just(9.)], 0..8);
    prop::collection::vec(one, 0..80).prop_map(|steps| {
        let mut now = 0;
        let step = |(gap, value, kind)| {
            now += gap;
            if kind == 0 { Look(now) } else { R(now, value) }
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_decides_as_the_rules_say_with_the_whole_history_at_hand(
        events in history(),
        raise in prop_oneof![Just(0_u64), 1_u64..60],
        clear in prop_oneof![Just(0_u64), 1_u64..60],
        stale in prop::option::of(61_u64..90),
    ) {
        prop_assert_eq!(changes(raise, clear, stale, &events), reference((raise, clear, stale), &events));
    }

    #[test]
    fn no_time_and_no_value_make_it_panic(
        readings in prop::collection::vec((any::<u64>(), any::<f64>(), any::<bool>()), 0..20),
    ) {
        let threshold = threshold(1, 1, Some(2));
        let mut state: Option<State> = None;
        for (millis, value, is_look) in readings {
            let at = Timestamp::from_millis(millis);
            if is_look {
                state = state.map(|was| machine::silence(&threshold, &was, at).map_or(was, |(next, _)| next));
            } else if let Step::Now(next, _) = machine::step(&threshold, state, Reading { at, value }) {
                prop_assert!(next.hold_since.is_none_or(|since| at.since(since) <= Duration::from_millis(millis)));
                state = Some(next);
            }
        }
    }
}
