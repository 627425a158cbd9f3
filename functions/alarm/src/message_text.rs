//! The text of notifications for people.

use std::collections::BTreeMap;
use std::time::Duration;

use gatehouse::{AlarmState, DataState, Severity, Span, ThingName, Timestamp};

use crate::alarm_state::ActionCommand;
use crate::pointer::Pointer;
use crate::rules::condition::{Condition, Left, Op, Right};
use crate::rules::notify::{Part, Template};
use crate::rules::operand::{OperandKind, Statistic};
use crate::rules::rule::Sustained;
use crate::rules::{Hold, ThingRule, Value};
use crate::state_machine::{AlarmStatus, Cause, StateChange, severity_of};

/// Describes a state change in one sentence.
pub fn transition(rule: &ThingRule, thing: &ThingName, change: &StateChange, reading: &[Value]) -> String {
    let name = &rule.name;
    let value = &change.value;
    let severity = severity_of(rule, change.level);
    if let (DataState::Alarm, Some(severity), Some(template)) = (change.to, severity, &rule.notify.text) {
        return from_template(template, rule, thing, severity, reading);
    }
    // A rule with one severity does not mention it.
    let (previous, level) = (change.previous_level, change.level);
    let named = |severity: Option<Severity>| match severity {
        Some(severity) if rule.levels.len() > 1 => format!(" {severity}"),
        _ => String::new(),
    };
    let condition = |level: Option<usize>, side: fn(&crate::rules::Level) -> &Sustained| {
        let level = level.and_then(|level| rule.levels.get(level));
        level.map_or_else(String::new, |level| describe(rule, side(level)))
    };
    match (change.cause, change.to) {
        (Cause::Sustained, DataState::Alarm) => match (previous, level) {
            (Some(before), Some(now)) if now > before => {
                format!("{name} is only{} now: {thing} (now {value})", named(severity))
            }
            _ => format!("{name}{}: {thing} {} (now {value})", named(severity), condition(level, |level| &level.raise)),
        },
        (Cause::Sustained, _) => {
            format!("{name} cleared: {thing} {} (now {value})", condition(previous, |level| &level.clear))
        }
        (Cause::NoData, _) => {
            let length = rule.stale.map(|stale| format!(" for {stale}")).unwrap_or_default();
            format!("{name}: no data from {thing}{length}")
        }
        (Cause::NeverReported, _) => {
            let length = rule.never_reported.map(|length| format!(" for {length}")).unwrap_or_default();
            format!("{name}: no data from {thing}{length}; it has never reported")
        }
        (Cause::DataResumed { is_first: true }, _) => {
            format!("{name}: {thing} reports for the first time (now {value})")
        }
        (Cause::DataResumed { is_first: false }, to) => {
            let length = rounded(change.at.since(change.since));
            let still = if to == DataState::Alarm { "still in alarm, " } else { "" };
            format!("{name}: {thing} is back after {length} ({still}now {value})")
        }
    }
}

/// Says that a device's state under a rule has ended because the rule's definition was changed or removed.
pub fn closing(rule: &str, thing: &ThingName, status: &AlarmStatus, is_removed: bool) -> String {
    let why = why_closed(thing, is_removed);
    let state = match (status.is_stale, status.level().is_some()) {
        (false, _) => "in alarm",
        (true, true) => "in alarm and sent no data",
        (true, false) => "without data",
    };
    format!("{rule} closed: {why}; {thing} was {state} (last value {})", status.value)
}

/// Says that an alarm whose condition is over has ended because the rule's definition was changed or removed.
pub fn ended(rule: &str, thing: &ThingName, state: AlarmState, is_removed: bool) -> String {
    format!("{rule}: {thing} is no longer {state}, because {}", why_closed(thing, is_removed))
}

fn why_closed(thing: &ThingName, is_removed: bool) -> String {
    if is_removed {
        format!("its definition was removed, or no longer matches {thing}")
    } else {
        "its definition was changed".to_owned()
    }
}

/// Says what a person did with an alarm.
pub fn action(command: &ActionCommand, state: AlarmState) -> String {
    let ActionCommand { action, thing, rule, by, note, duration, .. } = command;
    let length = duration.map(|length| format!(" for {length}")).unwrap_or_default();
    let note = note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    let active = if state == AlarmState::Active { "; it is in alarm" } else { "" };
    format!("{rule} {}{length}: {thing}, by {by}{note}{active}", action.past())
}

/// Says that a snooze has ended.
pub fn snooze_ended(rule: &str, thing: &ThingName, state: AlarmState, value: &Value) -> String {
    if state == AlarmState::Active {
        format!("{rule}: {thing} is still in alarm after the snooze (now {value})")
    } else {
        format!("{rule}: the snooze of {thing} has ended")
    }
}

/// Says that an alarm is still on.
pub fn repeated(rule: &str, thing: &ThingName, severity: Option<Severity>, length: Duration, value: &Value) -> String {
    let severity = severity.map(|severity| format!(" ({severity})")).unwrap_or_default();
    format!("{rule}: {thing} is still in alarm{severity} after {} (now {value})", rounded(length))
}

/// Says what the state is at the end of quiet hours.
pub fn after_quiet_hours(
    rule: &str,
    thing: &ThingName,
    state: DataState,
    severity: Option<Severity>,
    value: &Value,
) -> String {
    let severity = severity.map(|severity| format!("{severity}, ")).unwrap_or_default();
    let state = match state {
        DataState::Alarm => format!("in alarm ({severity}now {value})"),
        DataState::Ok => format!("not in alarm (now {value})"),
        DataState::Stale => "without data".to_owned(),
        DataState::Closed => "no longer evaluated by this rule".to_owned(),
    };
    format!("{rule}: since the quiet hours, {thing} is {state}")
}

fn from_template(
    template: &Template,
    rule: &ThingRule,
    thing: &ThingName,
    severity: Severity,
    reading: &[Value],
) -> String {
    let context = rule.context(reading, &[]);
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Thing => thing.to_string(),
        Part::Rule => rule.name.clone(),
        Part::Severity => severity.to_string(),
        Part::Field(index) => context.field(*index).shortened().to_string(),
        Part::Override(index) => rule.overrides.get(*index).map_or_else(String::new, Value::to_string),
    };
    template.0.iter().map(part).collect()
}

/// Describes a sustained condition, such as "lux above 35000 for 15 min".
fn describe(rule: &ThingRule, sustained: &Sustained) -> String {
    let condition = describe_condition(rule, &sustained.when, false);
    match sustained.hold {
        Hold::For(span) if span.duration().is_zero() => condition,
        Hold::For(span) => format!("{condition} for {span}"),
        Hold::Count { n, of } => format!("{condition} in {n} of {of} readings"),
    }
}

fn describe_condition(rule: &ThingRule, condition: &Condition, is_inner: bool) -> String {
    let field = |index: usize| rule.fields.get(index).map_or_else(String::new, Pointer::label);
    let list = |conditions: &[Condition], word: &str| {
        let all: Vec<_> = conditions.iter().map(|condition| describe_condition(rule, condition, true)).collect();
        let text = all.join(word);
        if is_inner && all.len() > 1 { format!("({text})") } else { text }
    };
    match condition {
        Condition::Compare { left, op, right } => {
            let left = match left {
                Left::Field(index) => field(*index),
                Left::Operand(index) => match rule.operands.get(*index) {
                    Some(operand) => {
                        let field = field(operand.field);
                        match operand.kind {
                            OperandKind::Change(per) => format!("change of {field} per {per}"),
                            OperandKind::Window(Statistic::Min, over) => format!("minimum of {field} over {over}"),
                            OperandKind::Window(Statistic::Max, over) => format!("maximum of {field} over {over}"),
                            OperandKind::Window(Statistic::Mean, over) => format!("mean of {field} over {over}"),
                        }
                    }
                    None => String::new(),
                },
            };
            let right = match right {
                Right::Value(value) => value.to_string(),
                Right::Field(index) => field(*index),
                Right::Override(index) => rule.overrides.get(*index).map_or_else(String::new, Value::to_string),
            };
            let op = match op {
                Op::Greater => "above",
                Op::GreaterOrEqual => "at least",
                Op::Less => "below",
                Op::LessOrEqual => "at most",
                Op::Equal => "is",
                Op::NotEqual => "is not",
            };
            format!("{left} {op} {right}")
        }
        Condition::Is { field: index, present: true } => format!("{} present", field(*index)),
        Condition::Is { field: index, present: false } => format!("{} missing", field(*index)),
        Condition::All(conditions) => list(conditions, " and "),
        Condition::Any(conditions) => list(conditions, " or "),
        Condition::Not(condition) => format!("not ({})", describe_condition(rule, condition, false)),
    }
}

/// Summarizes the transitions of a threshold that people were not notified of individually.
pub fn summary(
    threshold: &str,
    changes: &BTreeMap<DataState, u64>,
    things: &[String],
    has_more: bool,
    (from, until): (Timestamp, Timestamp),
) -> String {
    let total: u64 = changes.values().sum();
    let noun = if total == 1 { "change" } else { "changes" };
    let by_state: Vec<_> = changes.iter().map(|(to, number)| format!("{number} {}", to.as_str())).collect();
    let length = rounded(until.since(from));
    let more = if has_more { ", …" } else { "" };
    format!("{threshold}: {total} more {noun} in {length}: {}; {}{more}", by_state.join(", "), things.join(", "))
}

/// Rounds a duration down to whole days, hours or minutes, using the longest unit that it has at least two of.
fn rounded(length: Duration) -> Span {
    let seconds = length.as_secs();
    let unit = [86_400, 3_600, 60].into_iter().find(|unit| seconds >= 2 * unit).unwrap_or(1);
    Span::from_secs(seconds - seconds % unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::RulesDocument;
    use crate::state_machine::LevelStatus;
    use gatehouse::parse_document;

    fn thing() -> ThingName {
        ThingName::new("greenhouse-1").expect("a valid name")
    }

    fn only_rule(document: &str) -> ThingRule {
        let document: RulesDocument = parse_document(document).expect("a valid document");
        document.rules().for_thing(&thing()).rules.first().expect("one rule").clone()
    }

    fn threshold(text: &str) -> ThingRule {
        only_rule(&format!(r#"{{"thresholds": [{text}]}}"#))
    }

    fn too_bright() -> ThingRule {
        threshold(
            r#"{"name": "too-bright", "things": "*", "field": "/lux", "stale": "1 h",
                "raise": {"above": 35000, "for": "15 min"}, "clear": {"below": 34000.5, "for": "10 min"}}"#,
        )
    }

    fn message(rule: &ThingRule, cause: Cause, to: DataState, seconds: u64, value: &str) -> String {
        let (since, at) = (Timestamp::from_millis(0), Timestamp::from_millis(seconds * 1000 + 1));
        let value = Value::from_json(value).expect("a value");
        let (previous_level, level) = if to == DataState::Alarm { (None, Some(0)) } else { (Some(0), None) };
        let from = DataState::Ok;
        let change = StateChange { from, to, previous_level, level, cause, at, since, value };
        transition(rule, &thing(), &change, &[])
    }

    fn rule(severities: &str, notify: &str) -> ThingRule {
        let rest = format!(r#""name": "hot", "things": "*", "severities": {severities}, "notify": {notify}"#);
        only_rule(&format!(r#"{{"version": 2, "rules": [{{{rest}}}]}}"#))
    }

    #[test]
    fn conditions_are_described() {
        for (condition, expected) in [
            (r#"{"field": "/t", "op": ">=", "value": 30}"#, "t at least 30"),
            (r#"{"field": "/door", "op": "==", "value": "open"}"#, "door is open"),
            (r#"{"field": "/t", "is": "missing"}"#, "t missing"),
            (r#"{"field": "/t", "op": ">", "otherField": "/outside/t"}"#, "t above outside/t"),
            (r#"{"field": "/t", "op": "<", "override": "low", "default": 4}"#, "t below 4"),
            (r#"{"change": {"field": "/t", "per": "1 min"}, "op": ">", "value": 2}"#, "change of t per 1 min above 2"),
            (
                r#"{"all": [{"field": "/a", "op": "==", "value": true}, {"any": [{"field": "/b", "is": "present"},
                    {"not": {"window": {"field": "/c", "of": "mean", "over": "10 min"}, "op": "<", "value": 1}}]}]}"#,
                "a is true and (b present or not (mean of c over 10 min below 1))",
            ),
        ] {
            let severities = format!(r#"[{{"severity": "minor", "raise": {{"when": {condition}}}}}]"#);
            let text = message(&rule(&severities, "{}"), Cause::Sustained, DataState::Alarm, 0, "31");
            assert_eq!(text, format!("hot: greenhouse-1 {expected} (now 31)"));
        }
    }

    #[test]
    fn severity_is_named_if_there_are_several() {
        let severities = r#"[{"severity": "critical", "raise": {"when": {"field": "/t", "op": ">", "value": 40}}},
            {"severity": "warning", "raise": {"when": {"field": "/t", "op": ">", "value": 30}, "count": {"n": 3, "of": 5}}}]"#;
        let rule = rule(severities, "{}");
        let text = message(&rule, Cause::Sustained, DataState::Alarm, 0, "41");
        assert_eq!(text, "hot critical: greenhouse-1 t above 40 (now 41)");
        let at = Timestamp::from_millis(0);
        let change = |previous_level, level| StateChange {
            from: DataState::Alarm,
            to: DataState::Alarm,
            previous_level,
            level,
            cause: Cause::Sustained,
            at,
            since: at,
            value: Value::from_json("35").expect("a value"),
        };
        let text = |previous, level| transition(&rule, &thing(), &change(previous, level), &[]);
        assert_eq!(text(None, Some(1)), "hot warning: greenhouse-1 t above 30 in 3 of 5 readings (now 35)");
        assert_eq!(text(Some(0), Some(1)), "hot is only warning now: greenhouse-1 (now 35)");
    }

    #[test]
    fn template_is_filled_in() {
        let severities = r#"[{"severity": "minor", "raise": {"when":
            {"field": "/t", "op": ">", "override": "limit", "default": 30}}}]"#;
        let rule = rule(severities, r#"{"text": "{rule}/{severity}: {thing} has {/t} °C and {/h} %, limit {limit}"}"#);
        let at = Timestamp::from_millis(0);
        let value = Value::from_json("31.50").expect("a value");
        let change = StateChange {
            from: DataState::Ok,
            to: DataState::Alarm,
            previous_level: None,
            level: Some(0),
            cause: Cause::Sustained,
            at,
            since: at,
            value: value.clone(),
        };
        let text = transition(&rule, &thing(), &change, &[value, Value::Missing]);
        assert_eq!(text, "hot/minor: greenhouse-1 has 31.50 °C and none %, limit 30");
    }

    #[test]
    fn alarm_names_the_limit_its_duration_and_the_value() {
        let text = message(&too_bright(), Cause::Sustained, DataState::Alarm, 900, "41250");
        assert_eq!(text, "too-bright: greenhouse-1 lux above 35000 for 15 min (now 41250)");
    }

    #[test]
    fn end_of_an_alarm_is_named() {
        let text = message(&too_bright(), Cause::Sustained, DataState::Ok, 900, "20000.25");
        assert_eq!(text, "too-bright cleared: greenhouse-1 lux below 34000.5 for 10 min (now 20000.25)");
    }

    #[test]
    fn limit_without_a_duration_names_none() {
        let frost = threshold(
            r#"{"name": "frost", "things": "*", "field": "/air/temperature",
                "raise": {"below": 0, "for": "0 s"}, "clear": {"above": 2, "for": "0 s"}}"#,
        );
        let text = message(&frost, Cause::Sustained, DataState::Alarm, 0, "-0.5");
        assert_eq!(text, "frost: greenhouse-1 air/temperature below 0 (now -0.5)");
    }

    #[test]
    fn stale_device_names_the_gap() {
        let text = message(&too_bright(), Cause::NoData, DataState::Stale, 3600, "41250");
        assert_eq!(text, "too-bright: no data from greenhouse-1 for 1 h");
    }

    #[test]
    fn device_that_is_back_names_the_gap_and_its_alarm() {
        let back = |to, seconds| message(&too_bright(), Cause::DataResumed { is_first: false }, to, seconds, "20000");
        assert_eq!(back(DataState::Ok, 7_261), "too-bright: greenhouse-1 is back after 2 h (now 20000)");
        assert_eq!(
            back(DataState::Alarm, 3_671),
            "too-bright: greenhouse-1 is back after 61 min (still in alarm, now 20000)"
        );
    }

    #[test]
    fn summary_counts_by_state_and_names_the_first_things() {
        let times = (Timestamp::from_millis(1_000), Timestamp::from_millis(301_000));
        let names = ["greenhouse-1".to_owned(), "greenhouse-2".to_owned()];
        let changes = BTreeMap::from([(DataState::Alarm, 180), (DataState::Ok, 7)]);
        assert_eq!(
            summary("too-bright", &changes, &names, true, times),
            "too-bright: 187 more changes in 5 min: 180 ALARM, 7 OK; greenhouse-1, greenhouse-2, …"
        );
        assert_eq!(
            summary("too-bright", &BTreeMap::from([(DataState::Stale, 1)]), &names[..1], false, times),
            "too-bright: 1 more change in 5 min: 1 STALE; greenhouse-1"
        );
    }

    #[test]
    fn closing_says_why_and_what_the_state_was() {
        let at = Timestamp::from_millis(0);
        let text = |is_on, is_stale, is_removed| {
            let status = AlarmStatus {
                levels: vec![LevelStatus { is_on, condition: None }],
                operands: Vec::new(),
                is_stale,
                is_unseen: false,
                since: at,
                seen_at: at,
                value: Value::from_json("41250.0").expect("a value"),
            };
            closing("too-bright", &thing(), &status, is_removed)
        };
        assert_eq!(
            text(true, false, false),
            "too-bright closed: its definition was changed; greenhouse-1 was in alarm (last value 41250.0)"
        );
        assert_eq!(
            text(false, true, true),
            "too-bright closed: its definition was removed, or no longer matches greenhouse-1; \
             greenhouse-1 was without data (last value 41250.0)"
        );
        assert!(text(true, true, false).contains("greenhouse-1 was in alarm and sent no data"));
    }

    #[test]
    fn numbers_appear_as_they_were_written() {
        for value in ["94.24502837770503", "22.50", "18446744073709551617", "1E+2", "-0"] {
            let text = message(&too_bright(), Cause::Sustained, DataState::Alarm, 900, value);
            assert!(text.ends_with(&format!("(now {value})")), "{text}");
        }
    }
}
