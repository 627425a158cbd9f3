//! What people read.

use std::collections::BTreeMap;
use std::time::Duration;

use gatehouse::{Span, ThingName, Timestamp};

use crate::machine::{Cause, Change, Status};
use crate::thresholds::{Limit, Side, Threshold};

/// A change in one sentence.
pub fn of_change(threshold: &Threshold, thing: &ThingName, change: &Change) -> String {
    let name = &threshold.name;
    let value = plain(change.value);
    match (change.cause, change.to) {
        (Cause::Held, Status::Alarm) => format!("{name}: {thing} {} (now {value})", held(threshold, &threshold.raise)),
        (Cause::Held, _) => format!("{name} over: {thing} {} (now {value})", held(threshold, &threshold.clear)),
        (Cause::Silent, _) => {
            let length = threshold.stale.map(|stale| format!(" for {stale}")).unwrap_or_default();
            format!("{name}: nothing from {thing}{length}")
        }
        (Cause::Back, to) => {
            let length = rounded(change.at.since(change.since));
            let still = if to == Status::Alarm { "still in alarm, " } else { "" };
            format!("{name}: {thing} is back after {length} ({still}now {value})")
        }
    }
}

/// Such as "lux above 35000 for 15 min".
fn held(threshold: &Threshold, limit: &Limit) -> String {
    let field = threshold.field.label();
    let side = match limit.side() {
        Some(Side::Above(limit)) => format!("above {}", plain(limit)),
        Some(Side::Below(limit)) => format!("below {}", plain(limit)),
        None => "beyond its limit".to_owned(),
    };
    let at_once = limit.held.duration().is_zero();
    let length = if at_once { String::new() } else { format!(" for {}", limit.held) };
    format!("{field} {side}{length}")
}

/// What came of a threshold beyond the changes that people were told of one by one.
pub fn of_storm(
    threshold: &str,
    changes: &BTreeMap<Status, u64>,
    things: &[String],
    has_more: bool,
    (from, until): (Timestamp, Timestamp),
) -> String {
    let number: u64 = changes.values().sum();
    let noun = if number == 1 { "change" } else { "changes" };
    let each: Vec<_> = changes.iter().map(|(to, number)| format!("{number} {}", to.as_str())).collect();
    let length = rounded(until.since(from));
    let more = if has_more { ", …" } else { "" };
    format!("{threshold}: {number} more {noun} in {length}: {}; {}{more}", each.join(", "), things.join(", "))
}

/// A number without more digits than it takes to tell it from its neighbours.
pub fn plain(value: f64) -> String {
    let is_handy = value == 0.0 || (1e-6..1e15).contains(&value.abs());
    if is_handy { value.to_string() } else { format!("{value:e}") }
}

/// A length of time in whole days, hours or minutes, once there are two of them; what is left over is left out.
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
        let document: Thresholds = parse_document(&format!(r#"{{"thresholds": [{text}]}}"#)).expect("a good document");
        document.thresholds.into_iter().next().expect("one threshold")
    }

    fn too_bright() -> Threshold {
        threshold(
            r#"{"name": "too-bright", "things": "*", "field": "/lux", "stale": "1 h",
                "raise": {"above": 35000, "for": "15 min"}, "clear": {"below": 34000.5, "for": "10 min"}}"#,
        )
    }

    fn words(threshold: &Threshold, cause: Cause, from: Status, to: Status, seconds: u64, value: f64) -> String {
        let thing = ThingName::new("greenhouse-1").expect("a name");
        let (since, at) = (Timestamp::from_millis(0), Timestamp::from_millis(seconds * 1000 + 1));
        of_change(threshold, &thing, &Change { from, to, cause, at, since, value })
    }

    #[test]
    fn an_alarm_says_what_stayed_beyond_which_limit_for_how_long_and_how_it_is_now() {
        let said = words(&too_bright(), Cause::Held, Status::Ok, Status::Alarm, 900, 41250.0);
        assert_eq!(said, "too-bright: greenhouse-1 lux above 35000 for 15 min (now 41250)");
    }

    #[test]
    fn its_end_says_so() {
        let said = words(&too_bright(), Cause::Held, Status::Alarm, Status::Ok, 900, 20000.25);
        assert_eq!(said, "too-bright over: greenhouse-1 lux below 34000.5 for 10 min (now 20000.25)");
    }

    #[test]
    fn a_limit_that_holds_at_once_names_no_length() {
        let frost = threshold(
            r#"{"name": "frost", "things": "*", "field": "/air/temperature",
                "raise": {"below": 0, "for": "0 s"}, "clear": {"above": 2, "for": "0 s"}}"#,
        );
        let said = words(&frost, Cause::Held, Status::Ok, Status::Alarm, 0, -0.5);
        assert_eq!(said, "frost: greenhouse-1 air/temperature below 0 (now -0.5)");
    }

    #[test]
    fn silence_says_how_long_nothing_came() {
        let said = words(&too_bright(), Cause::Silent, Status::Ok, Status::Stale, 3600, 41250.0);
        assert_eq!(said, "too-bright: nothing from greenhouse-1 for 1 h");
    }

    #[test]
    fn a_device_that_is_back_says_after_how_long_and_whether_its_alarm_is_still_on() {
        let back = |to, seconds| words(&too_bright(), Cause::Back, Status::Stale, to, seconds, 20000.0);
        assert_eq!(back(Status::Ok, 7_261), "too-bright: greenhouse-1 is back after 2 h (now 20000)");
        assert_eq!(
            back(Status::Alarm, 3_671),
            "too-bright: greenhouse-1 is back after 61 min (still in alarm, now 20000)"
        );
    }

    #[test]
    fn a_storm_is_summed_up_by_state_with_the_first_names() {
        let times = (Timestamp::from_millis(1_000), Timestamp::from_millis(301_000));
        let names = ["greenhouse-1".to_owned(), "greenhouse-2".to_owned()];
        let changes = BTreeMap::from([(Status::Alarm, 180), (Status::Ok, 7)]);
        assert_eq!(
            of_storm("too-bright", &changes, &names, true, times),
            "too-bright: 187 more changes in 5 min: 180 ALARM, 7 OK; greenhouse-1, greenhouse-2, …"
        );
        assert_eq!(
            of_storm("too-bright", &BTreeMap::from([(Status::Stale, 1)]), &names[..1], false, times),
            "too-bright: 1 more change in 5 min: 1 STALE; greenhouse-1"
        );
    }

    #[test]
    fn numbers_are_written_short() {
        for (value, text) in
            [(0.0, "0"), (41250.0, "41250"), (-0.5, "-0.5"), (0.1, "0.1"), (1e300, "1e300"), (2.5e-9, "2.5e-9")]
        {
            assert_eq!(plain(value), text);
        }
    }
}
