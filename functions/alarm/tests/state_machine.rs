//! Decisions for single values, and for histories compared with a reference that evaluates the whole history.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use alarm::rules::{RulesDocument, ThingRule, Value as FieldValue};
use alarm::state_machine::{self, AlarmStatus, ConditionStatus, LevelStatus, Step};
use gatehouse::{DataState, ThingName, Timestamp, parse_document};
use proptest::prelude::*;
use serde_json::json;

/// A threshold that raises above 10 and clears below 10. Durations are in seconds.
fn threshold(raise: u64, clear: u64, stale: Option<u64>) -> ThingRule {
    let mut threshold = json!({
        "name": "lux", "things": "*", "field": "/lux",
        "raise": {"above": 10, "for": format!("{raise} s")},
        "clear": {"below": 10, "for": format!("{clear} s")},
    });
    if let Some(stale) = stale {
        threshold["stale"] = format!("{stale} s").into();
    }
    let document: RulesDocument = parse_document(&json!({"thresholds": [threshold]}).to_string()).unwrap();
    document.rules().for_thing(&ThingName::new("greenhouse-1").unwrap()).rules[0].clone()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// A value is received.
    Value(u64, f64),
    /// The schedule checks for missing data.
    Check(u64),
}

fn reading(value: f64) -> [FieldValue; 1] {
    [FieldValue::from_json(&value.to_string()).unwrap()]
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

/// Returns the state changes: when, in seconds, and the new state.
fn run(rule: &ThingRule, events: &[Event]) -> Vec<(u64, DataState)> {
    let mut status: Option<AlarmStatus> = None;
    let mut changes = Vec::new();
    for event in events {
        match *event {
            Event::Value(seconds, value) => {
                if let Step::Next(change) = state_machine::apply(rule, &mut status, at(seconds), &reading(value)) {
                    changes.extend(change);
                }
            }
            Event::Check(seconds) => {
                let stale = status.as_mut();
                changes.extend(stale.and_then(|status| state_machine::check_stale(rule, status, at(seconds))));
            }
        }
    }
    for pair in changes.windows(2) {
        assert!(pair[0].to == pair[1].from && pair[0].at <= pair[1].at, "{pair:?}");
    }
    changes.into_iter().map(|change| (change.at.millis() / 1000, change.to)).collect()
}

use DataState::{Alarm, Ok as Normal, Stale};
use Event::{Check, Value as V};

fn changes(raise: u64, clear: u64, stale: Option<u64>, events: &[Event]) -> Vec<(u64, DataState)> {
    run(&threshold(raise, clear, stale), events)
}

#[test]
fn sustained_value_raises_once() {
    let events = [V(0, 5.), V(60, 11.), V(120, 12.), V(180, 11.), V(240, 11.)];
    assert_eq!(changes(120, 120, None, &events), [(180, Alarm)]);
    assert_eq!(changes(121, 120, None, &events), [(240, Alarm)]);
    assert_eq!(changes(181, 120, None, &events), []);
}

#[test]
fn day_in_the_greenhouse_raises_and_clears_once() {
    let minutes = |range: std::ops::Range<u64>, value: f64| range.map(move |minute| V(minute * 60, value));
    let day: Vec<_> = minutes(0..10, 5.)
        .chain(minutes(10..20, 20.))
        .chain(minutes(20..21, 9.))
        .chain(minutes(21..60, 20.))
        .chain(minutes(60..70, 9.))
        .chain(minutes(70..71, 11.))
        .chain(minutes(71..100, 9.))
        .collect();
    assert_eq!(changes(900, 900, None, &day), [((21 + 15) * 60, Alarm), ((71 + 15) * 60, Normal)]);
}

#[test]
fn value_on_the_other_side_restarts_the_condition() {
    assert_eq!(changes(100, 1, None, &[V(0, 11.), V(60, 9.), V(61, 11.), V(120, 11.)]), []);
    assert_eq!(changes(100, 1, None, &[V(0, 11.), V(60, 9.), V(61, 11.), V(161, 11.)]), [(161, Alarm)]);
}

#[test]
fn value_equal_to_the_limit_ends_the_condition() {
    assert_eq!(changes(0, 0, None, &[V(0, 10.), V(1, 10.)]), []);
    assert_eq!(changes(100, 1, None, &[V(0, 11.), V(60, 10.), V(100, 11.), V(199, 11.)]), []);
    assert_eq!(changes(0, 100, None, &[V(0, 11.), V(1, 9.), V(60, 10.), V(101, 9.), V(200, 9.)]), [(0, Alarm)]);
}

#[test]
fn values_too_far_apart_do_not_sustain_a_condition() {
    assert_eq!(changes(100, 1, None, &[V(0, 11.), V(100, 11.)]), [(100, Alarm)]);
    assert_eq!(changes(100, 1, None, &[V(0, 11.), V(101, 11.), V(200, 11.)]), []);
    assert_eq!(changes(100, 1, None, &[V(0, 11.), V(101, 11.), V(201, 11.)]), [(201, Alarm)]);
}

#[test]
fn zero_duration_needs_one_value() {
    let events = [V(0, 11.), V(1000, 9.), V(5000, 11.), V(5000, 9.)];
    assert_eq!(changes(0, 0, None, &events), [(0, Alarm), (1000, Normal), (5000, Alarm), (5000, Normal)]);
}

#[test]
fn earlier_value_changes_nothing() {
    let rule = threshold(100, 1, None);
    let condition = Some(ConditionStatus { since: at(0), until: at(50), met: 0 });
    let status = AlarmStatus {
        levels: vec![LevelStatus { is_on: false, condition }],
        operands: vec![],
        is_stale: false,
        is_unseen: false,
        since: at(0),
        seen_at: at(50),
        value: reading(11.)[0].clone(),
    };
    let apply = |seconds| {
        let mut next = Some(status.clone());
        (state_machine::apply(&rule, &mut next, at(seconds), &reading(9.)), next.unwrap())
    };
    assert_eq!(apply(49), (Step::OutOfOrder, status.clone()));
    let levels = vec![LevelStatus { is_on: false, condition: None }];
    let next = AlarmStatus { levels, value: reading(9.)[0].clone(), ..status.clone() };
    assert_eq!(apply(50), (Step::Next(None), next));
}

#[test]
fn device_becomes_stale_once_when_the_gap_is_too_long() {
    let events = [V(0, 5.), Check(100), Check(160), Check(220)];
    assert_eq!(changes(10, 10, Some(100), &events), [(100, Stale)]);
    assert_eq!(changes(10, 10, Some(220), &events), []);
    assert_eq!(changes(10, 10, None, &events), []);
    assert_eq!(changes(10, 10, Some(100), &[Check(1000)]), [], "it never sent anything");
}

#[test]
fn stale_device_returns_to_its_state_and_restarts_conditions() {
    assert_eq!(changes(50, 50, Some(100), &[V(0, 5.), Check(160), V(200, 5.)]), [(100, Stale), (200, Normal)]);
    let alarmed = [V(0, 11.), V(50, 11.), V(60, 9.), Check(200), V(205, 9.), V(254, 9.), V(255, 9.)];
    assert_eq!(changes(50, 50, Some(100), &alarmed), [(50, Alarm), (160, Stale), (205, Alarm), (255, Normal)]);
}

#[test]
fn stale_device_can_return_into_alarm() {
    assert_eq!(changes(0, 0, Some(100), &[V(0, 5.), Check(160), V(200, 11.)]), [(100, Stale), (200, Alarm)]);
}

#[test]
fn value_from_before_the_stale_state_does_not_end_it() {
    assert_eq!(changes(50, 50, Some(100), &[V(0, 5.), Check(160), V(99, 5.)]), [(100, Stale)]);
    assert_eq!(changes(50, 50, Some(100), &[V(0, 5.), Check(160), V(100, 5.)]), [(100, Stale), (100, Normal)]);
}

/// The expected state changes: the same rules, evaluated over the whole history at each step.
fn reference((raise, clear, stale): (u64, u64, Option<u64>), events: &[Event]) -> Vec<(u64, DataState)> {
    let mut changes = Vec::new();
    let (mut is_alarmed, mut is_stale) = (false, false);
    // The values since the last state change or gap, which may sustain a condition together.
    let mut since: Vec<(u64, f64)> = Vec::new();
    let mut newest = None;
    for event in events {
        match *event {
            Check(now) => {
                let due = newest.zip(stale).map(|(newest, stale): (u64, u64)| newest + stale);
                if let Some(due) = due.filter(|due| *due < now && !is_stale) {
                    changes.push((due, Stale));
                    is_stale = true;
                }
            }
            V(now, value) => {
                if is_stale {
                    since.clear();
                }
                since.push((now, value));
                newest = Some(now);
                let exceeds = |value: f64| if is_alarmed { value < 10. } else { value > 10. };
                let length = if is_alarmed { clear } else { raise };
                let is_sustained = (0..since.len()).any(|first| {
                    let run = &since[first..];
                    run.iter().all(|(_, value)| exceeds(*value))
                        && run.windows(2).all(|pair| pair[1].0 - pair[0].0 <= length)
                        && now - run[0].0 >= length
                });
                if is_sustained {
                    is_alarmed = !is_alarmed;
                    since.clear();
                }
                if is_sustained || is_stale {
                    changes.push((now, if is_alarmed { Alarm } else { Normal }));
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
            if kind == 0 { Check(now) } else { V(now, value) }
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn decisions_agree_with_the_whole_history(
        events in history(),
        raise in prop_oneof![Just(0_u64), 1_u64..60],
        clear in prop_oneof![Just(0_u64), 1_u64..60],
        stale in prop::option::of(61_u64..90),
    ) {
        prop_assert_eq!(changes(raise, clear, stale, &events), reference((raise, clear, stale), &events));
    }

    #[test]
    fn arbitrary_times_and_values_do_not_panic(
        values in prop::collection::vec((any::<u64>(), -1e9..1e9_f64, any::<bool>()), 0..20),
    ) {
        let threshold = threshold(1, 1, Some(2));
        let mut status: Option<AlarmStatus> = None;
        for (millis, value, is_check) in values {
            let at = Timestamp::from_millis(millis);
            if is_check {
                status.as_mut().and_then(|status| state_machine::check_stale(&threshold, status, at));
            } else if let Step::Next(_) = state_machine::apply(&threshold, &mut status, at, &reading(value)) {
                let condition = status.as_ref().unwrap().levels[0].condition;
                let is_short = |condition: ConditionStatus| at.since(condition.since) <= Duration::from_millis(millis);
                prop_assert!(condition.is_none_or(is_short));
            }
        }
    }
}
