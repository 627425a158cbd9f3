//! Rules with several severities, and people's actions, compared with a plain interpreter of the whole history that
//! shares no code with the function.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use alarm::alarm_state::{Action, ActionCommand, Handling, after_data};
use alarm::rules::{RulesDocument, ThingRule, Value as FieldValue};
use alarm::state_machine::{self, AlarmStatus, Step, severity_of};
use gatehouse::{AlarmState, DataState, Severity, Span, ThingName, Timestamp, parse_document};
use proptest::prelude::*;
use serde_json::{Value, json};

/// How long or how often a condition must be met: seconds, or `n` of `m` readings.
#[derive(Debug, Clone, Copy)]
enum Hold {
    For(u64),
    Count(usize, usize),
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    critical: (Hold, Hold),
    warning: (Hold, Hold),
    stale: Option<u64>,
    latch: bool,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A reading, with `t` and `door` if it has them.
    Reading(u64, Option<i64>, Option<bool>),
    Check(u64),
    Action(u64, Action),
}

/// The second, the state of the data, the severity, and the alarm's state.
type Entry = (u64, &'static str, Option<&'static str>, &'static str);

fn at(second: u64) -> Timestamp {
    Timestamp::from_millis(second * 1000)
}

/// Critical above 20 until below 15; a warning above 10 while the door is open or not reported.
fn rule(settings: Settings) -> ThingRule {
    let side = |when: Value, hold| match hold {
        Hold::For(seconds) => json!({"when": when, "for": format!("{seconds} s")}),
        Hold::Count(n, of) => json!({"when": when, "count": {"n": n, "of": of}}),
    };
    let warm = json!({"all": [{"field": "/t", "op": ">", "value": 10},
        {"any": [{"field": "/door", "op": "==", "value": true}, {"field": "/door", "is": "missing"}]}]});
    let mut rule = json!({"name": "hot", "things": "*", "latch": settings.latch, "severities": [
        {"severity": "critical", "raise": side(json!({"field": "/t", "op": ">", "value": 20}), settings.critical.0),
         "clear": side(json!({"field": "/t", "op": "<", "value": 15}), settings.critical.1)},
        {"severity": "warning", "raise": side(warm.clone(), settings.warning.0),
         "clear": side(json!({"not": warm}), settings.warning.1)}]});
    if let Some(stale) = settings.stale {
        rule["stale"] = format!("{stale} s").into();
    }
    let document: RulesDocument = parse_document(&json!({"version": 2, "rules": [rule]}).to_string()).unwrap();
    document.rules().for_thing(&ThingName::new("boiler-1").unwrap()).rules[0].clone()
}

/// The function's decisions.
fn decided(rule: &ThingRule, events: &[Event]) -> Vec<Entry> {
    let (mut status, mut handling): (Option<AlarmStatus>, _) = (None, Handling::default());
    let mut entries = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let before = handling.state;
        let (now, change) = match *event {
            Event::Reading(second, t, door) => {
                // The rule reads `/t` and `/door`, in this order.
                let values = [json!(t), json!(door)].map(|value| FieldValue::from_json(&value.to_string()).unwrap());
                match state_machine::apply(rule, &mut status, at(second), &values) {
                    Step::Next(change) => (second, change),
                    _ => (second, None),
                }
            }
            Event::Check(second) => {
                let change = status.as_mut().and_then(|status| state_machine::check_stale(rule, status, at(second)));
                (change.as_ref().map_or(second, |change| change.at.seconds()), change)
            }
            Event::Action(second, action) => {
                let command = ActionCommand {
                    id: format!("c-{index}"),
                    action,
                    thing: ThingName::new("boiler-1").unwrap(),
                    rule: "hot".to_owned(),
                    by: "anna".to_owned(),
                    note: None,
                    duration: (action == Action::Snooze).then(|| Span::from_secs(1_000_000)),
                    at: at(second),
                };
                let _ = handling.perform(&command, status.as_ref().and_then(AlarmStatus::level));
                (second, None)
            }
        };
        let is_changed = change.is_some();
        if let Some(change) = change {
            let state = after_data(handling.state, (change.previous_level, change.level), rule.latch);
            handling.enter(state, change.at);
        }
        if is_changed || handling.state != before {
            let data = status.as_ref().map_or(DataState::Ok, AlarmStatus::state);
            let severity = severity_of(rule, status.as_ref().and_then(AlarmStatus::level));
            entries.push((now, data.as_str(), severity.map(Severity::as_str), handling.state.as_str()));
        }
    }
    entries
}

/// Whether the conditions of a level are met, or unknown: `raise`, then `clear`.
fn conditions(level: usize, t: Option<i64>, door: Option<bool>) -> [Option<bool>; 2] {
    if level == 0 {
        return [t.map(|t| t > 20), t.map(|t| t < 15)];
    }
    let warm = match (t, door) {
        (_, Some(false)) => Some(false),
        (None, _) => None,
        (Some(t), _) => Some(t > 10),
    };
    [warm, warm.map(|warm| !warm)]
}

/// Whether these readings sustain a condition. The last one has just been received.
fn is_sustained(readings: &[(u64, bool)], hold: Hold) -> bool {
    match hold {
        Hold::For(length) => (0..readings.len()).any(|first| {
            let run = &readings[first..];
            run.iter().all(|(_, met)| *met)
                && run.windows(2).all(|pair| pair[1].0 - pair[0].0 <= length)
                && run[run.len() - 1].0 - run[0].0 >= length
        }),
        Hold::Count(n, of) => {
            let last = &readings[readings.len().saturating_sub(of)..];
            last.iter().filter(|(_, met)| *met).count() >= n
        }
    }
}

/// The expected decisions: all readings are kept, and evaluated again for each decision.
fn reference(settings: Settings, events: &[Event]) -> Vec<Entry> {
    let holds = [settings.critical, settings.warning];
    let (mut on, mut is_stale, mut newest) = ([false, false], false, None::<u64>);
    // The readings of each level since its last change, or since the device was stale.
    let mut kept: [Vec<(u64, [Option<bool>; 2])>; 2] = [vec![], vec![]];
    let mut alarm = "NORMAL";
    let mut entries = Vec::new();
    for event in events {
        let before = (on, is_stale, alarm);
        let top = |on: [bool; 2]| on.iter().position(|on| *on);
        let mut now = match *event {
            Event::Reading(now, ..) | Event::Check(now) | Event::Action(now, _) => now,
        };
        match *event {
            Event::Check(_) => {
                let due = newest.zip(settings.stale).map(|(newest, stale)| newest + stale);
                if let Some(due) = due.filter(|due| *due < now && !is_stale) {
                    is_stale = true;
                    kept = [vec![], vec![]];
                    now = due;
                }
            }
            Event::Reading(_, t, door) => {
                let met: Vec<_> = (0..2).map(|level| conditions(level, t, door)).collect();
                if met.iter().flatten().all(Option::is_none) {
                    continue;
                }
                (is_stale, newest) = (false, Some(now));
                for level in 0..2 {
                    let direction = usize::from(on[level]);
                    kept[level].push((now, met[level]));
                    if met[level][direction].is_none() {
                        continue;
                    }
                    let known: Vec<_> =
                        kept[level].iter().filter_map(|(at, met)| Some((*at, met[direction]?))).collect();
                    let hold = if on[level] { holds[level].1 } else { holds[level].0 };
                    if is_sustained(&known, hold) {
                        on[level] = !on[level];
                        kept[level].clear();
                    }
                }
            }
            Event::Action(_, action) => {
                let data = if top(on).is_some() { "ACTIVE" } else { "NORMAL" };
                let next = match (action, alarm) {
                    (Action::Acknowledge, "ACTIVE") => "ACKNOWLEDGED",
                    (Action::Acknowledge, "LATCHED") | (Action::Reset, "ACTIVE" | "ACKNOWLEDGED" | "LATCHED") => {
                        "NORMAL"
                    }
                    (Action::Snooze, state) if state != "DISABLED" => "SNOOZE_DISABLED",
                    (Action::Disable, _) => "DISABLED",
                    (Action::Enable, "SNOOZE_DISABLED" | "DISABLED") => data,
                    (_, same) => same,
                };
                alarm = next;
            }
        }
        let (old, new) = (top(before.0), top(on));
        if old != new && !["SNOOZE_DISABLED", "DISABLED"].contains(&alarm) {
            let is_worse = new.is_some_and(|new| old.is_none_or(|old| new < old));
            alarm = match (alarm, is_worse, new) {
                (_, true, _) => "ACTIVE",
                ("ACTIVE", _, None) if settings.latch => "LATCHED",
                ("ACTIVE" | "ACKNOWLEDGED", _, None) => "NORMAL",
                (same, ..) => same,
            };
        }
        let is_changed = old != new || before.1 != is_stale;
        if is_changed || before.2 != alarm {
            let data = match (is_stale, new) {
                (true, _) => "STALE",
                (false, Some(_)) => "ALARM",
                (false, None) => "OK",
            };
            entries.push((now, data, new.map(|level| ["critical", "warning"][level]), alarm));
        }
    }
    entries
}

fn hold() -> impl Strategy<Value = Hold> {
    prop_oneof![
        Just(Hold::For(0)),
        (1_u64..40).prop_map(Hold::For),
        (1_usize..4, 0_usize..4).prop_map(|(n, more)| Hold::Count(n, n + more)),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    (hold(), hold(), hold(), hold(), prop::option::of(41_u64..70), any::<bool>())
        .prop_map(|(a, b, c, d, stale, latch)| Settings { critical: (a, b), warning: (c, d), stale, latch })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let reading = (
        prop::option::weighted(0.9, prop::sample::select(vec![5_i64, 11, 12, 16, 21, 22])),
        prop::option::of(any::<bool>()),
    );
    let action = prop::sample::select(vec![
        Action::Acknowledge,
        Action::Snooze,
        Action::Disable,
        Action::Enable,
        Action::Enable,
        Action::Reset,
    ]);
    prop::collection::vec((0_u64..30, 0_u8..12, reading, action), 0..60).prop_map(|steps| {
        let mut now = 0;
        let step = |(gap, kind, (t, door), action)| {
            // Strictly later, because earlier readings of a device that became stale change nothing.
            now += gap + 1;
            match kind {
                0 => Event::Check(now),
                1 => Event::Action(now, action),
                _ => Event::Reading(now, t, door),
            }
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn decisions_agree_with_the_whole_history(settings in settings(), events in events()) {
        prop_assert_eq!(decided(&rule(settings), &events), reference(settings, &events));
    }

    #[test]
    fn repeated_actions_change_nothing(settings in settings(), events in events()) {
        let twice: Vec<_> = events
            .iter()
            .flat_map(|event| std::iter::repeat_n(*event, if matches!(event, Event::Action(..)) { 2 } else { 1 }))
            .collect();
        prop_assert_eq!(decided(&rule(settings), &twice), decided(&rule(settings), &events));
    }

    #[test]
    fn states_are_one_of_those_that_the_table_has(settings in settings(), events in events()) {
        for (_, data, severity, alarm) in decided(&rule(settings), &events) {
            let alarm = AlarmState::parse(alarm).unwrap();
            prop_assert_eq!(data == "ALARM" && severity.is_none(), false);
            if alarm == AlarmState::Latched {
                prop_assert!(severity.is_none() && settings.latch);
            }
            if matches!(alarm, AlarmState::Active | AlarmState::Acknowledged) {
                prop_assert!(severity.is_some());
            }
        }
    }
}
