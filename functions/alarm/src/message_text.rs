//! The text of notifications for people.

use std::collections::BTreeMap;
use std::time::Duration;

use gatehouse::{Span, ThingName, Timestamp};

use crate::state_machine::{AlarmState, AlarmStatus, Cause, StateChange};
use crate::thresholds::{Limit, Side, Threshold};

/// Describes a state change in one sentence.
pub fn transition(threshold: &Threshold, thing: &ThingName, change: &StateChange) -> String {
    let name = &threshold.name;
    let value = &change.value;
    match (change.cause, change.to) {
        (Cause::Sustained, AlarmState::Alarm) => {
            format!("{name}: {thing} {} (now {value})", condition(threshold, &threshold.raise))
        }
        (Cause::Sustained, _) => {
            format!("{name} cleared: {thing} {} (now {value})", condition(threshold, &threshold.clear))
        }
        (Cause::NoData, _) => {
            let length = threshold.stale.map(|stale| format!(" for {stale}")).unwrap_or_default();
            format!("{name}: no data from {thing}{length}")
        }
        (Cause::DataResumed, to) => {
            let length = rounded(change.at.since(change.since));
            let still = if to == AlarmState::Alarm { "still in alarm, " } else { "" };
            format!("{name}: {thing} is back after {length} ({still}now {value})")
        }
    }
}

/// Says that a device's state by a threshold has ended, because its definition was changed or removed.
pub fn closing(threshold: &str, thing: &ThingName, status: &AlarmStatus, is_removed: bool) -> String {
    let why = if is_removed {
        format!("its definition was removed, or no longer matches {thing}")
    } else {
        "its definition was changed".to_owned()
    };
    let state = match (status.is_stale, status.is_alarmed) {
        (false, _) => "in alarm",
        (true, true) => "in alarm and sent no data",
        (true, false) => "without data",
    };
    format!("{threshold} closed: {why}; {thing} was {state} (last value {})", status.value)
}

/// Describes a limit's condition, such as "lux above 35000 for 15 min".
fn condition(threshold: &Threshold, limit: &Limit) -> String {
    let field = threshold.field.label();
    let side = match limit.side() {
        Some(Side::Above(limit)) => format!("above {limit}"),
        Some(Side::Below(limit)) => format!("below {limit}"),
        None => "beyond its limit".to_owned(),
    };
    let is_immediate = limit.for_duration.duration().is_zero();
    let length = if is_immediate { String::new() } else { format!(" for {}", limit.for_duration) };
    format!("{field} {side}{length}")
}

/// Summarizes the transitions of a threshold that people were not notified of individually.
pub fn summary(
    threshold: &str,
    changes: &BTreeMap<AlarmState, u64>,
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
    use crate::thresholds::Thresholds;
    use gatehouse::parse_document;

    fn threshold(text: &str) -> Threshold {
        let document: Thresholds = parse_document(&format!(r#"{{"thresholds": [{text}]}}"#)).expect("a valid document");
        document.thresholds.into_iter().next().expect("one threshold")
    }

    fn too_bright() -> Threshold {
        threshold(
            r#"{"name": "too-bright", "things": "*", "field": "/lux", "stale": "1 h",
                "raise": {"above": 35000, "for": "15 min"}, "clear": {"below": 34000.5, "for": "10 min"}}"#,
        )
    }

    fn message(threshold: &Threshold, cause: Cause, to: AlarmState, seconds: u64, value: &str) -> String {
        let thing = ThingName::new("greenhouse-1").expect("a valid name");
        let (since, at) = (Timestamp::from_millis(0), Timestamp::from_millis(seconds * 1000 + 1));
        let value = value.parse().expect("a number");
        transition(threshold, &thing, &StateChange { from: AlarmState::Ok, to, cause, at, since, value })
    }

    #[test]
    fn alarm_names_the_limit_its_duration_and_the_value() {
        let text = message(&too_bright(), Cause::Sustained, AlarmState::Alarm, 900, "41250");
        assert_eq!(text, "too-bright: greenhouse-1 lux above 35000 for 15 min (now 41250)");
    }

    #[test]
    fn end_of_an_alarm_is_named() {
        let text = message(&too_bright(), Cause::Sustained, AlarmState::Ok, 900, "20000.25");
        assert_eq!(text, "too-bright cleared: greenhouse-1 lux below 34000.5 for 10 min (now 20000.25)");
    }

    #[test]
    fn limit_without_a_duration_names_none() {
        let frost = threshold(
            r#"{"name": "frost", "things": "*", "field": "/air/temperature",
                "raise": {"below": 0, "for": "0 s"}, "clear": {"above": 2, "for": "0 s"}}"#,
        );
        let text = message(&frost, Cause::Sustained, AlarmState::Alarm, 0, "-0.5");
        assert_eq!(text, "frost: greenhouse-1 air/temperature below 0 (now -0.5)");
    }

    #[test]
    fn stale_device_names_the_gap() {
        let text = message(&too_bright(), Cause::NoData, AlarmState::Stale, 3600, "41250");
        assert_eq!(text, "too-bright: no data from greenhouse-1 for 1 h");
    }

    #[test]
    fn device_that_is_back_names_the_gap_and_its_alarm() {
        let back = |to, seconds| message(&too_bright(), Cause::DataResumed, to, seconds, "20000");
        assert_eq!(back(AlarmState::Ok, 7_261), "too-bright: greenhouse-1 is back after 2 h (now 20000)");
        assert_eq!(
            back(AlarmState::Alarm, 3_671),
            "too-bright: greenhouse-1 is back after 61 min (still in alarm, now 20000)"
        );
    }

    #[test]
    fn summary_counts_by_state_and_names_the_first_things() {
        let times = (Timestamp::from_millis(1_000), Timestamp::from_millis(301_000));
        let names = ["greenhouse-1".to_owned(), "greenhouse-2".to_owned()];
        let changes = BTreeMap::from([(AlarmState::Alarm, 180), (AlarmState::Ok, 7)]);
        assert_eq!(
            summary("too-bright", &changes, &names, true, times),
            "too-bright: 187 more changes in 5 min: 180 ALARM, 7 OK; greenhouse-1, greenhouse-2, …"
        );
        assert_eq!(
            summary("too-bright", &BTreeMap::from([(AlarmState::Stale, 1)]), &names[..1], false, times),
            "too-bright: 1 more change in 5 min: 1 STALE; greenhouse-1"
        );
    }

    #[test]
    fn closing_says_why_and_what_the_state_was() {
        let thing = ThingName::new("greenhouse-1").expect("a valid name");
        let at = Timestamp::from_millis(0);
        let text = |is_alarmed, is_stale, is_removed| {
            let value = "41250.0".parse().expect("a number");
            let status = AlarmStatus { is_alarmed, is_stale, since: at, seen_at: at, value, condition_since: None };
            closing("too-bright", &thing, &status, is_removed)
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
            let text = message(&too_bright(), Cause::Sustained, AlarmState::Alarm, 900, value);
            assert!(text.ends_with(&format!("(now {value})")), "{text}");
        }
    }
}
