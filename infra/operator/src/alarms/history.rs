//! Shows the history of a thing's alarms.

use anyhow::Result;
use clap::Args;
use gatehouse::store::item::{integer, text};
use gatehouse::{AlarmState, Item, Severity, ThingName, Timestamp};
use serde::Serialize;

use crate::alarms::{table, value_parser};
use crate::context::Context;
use crate::output::{self, Output, escape_line, utc};
use crate::selection::PointInTime;
use crate::status::Status;

/// Prefix of an entry's sort key; its time, the rule and a number follow.
const ENTRY: &str = "history#";

/// Which entries.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The thing.
    #[arg(long, value_name = "THING", value_parser = thing_name)]
    thing: ThingName,
    /// Only of this rule or threshold.
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// Only entries after which the alarm was in this state (may be repeated).
    #[arg(long, value_parser = value_parser::alarm_state())]
    state: Vec<AlarmState>,
    /// Only entries after which the alarm had this severity (may be repeated).
    #[arg(long, value_parser = value_parser::severity())]
    severity: Vec<Severity>,
    /// Only since this time: `2 h` ago, `2026-11-29`, or `2026-11-29T13:00:00Z`.
    #[arg(long, value_name = "TIME")]
    since: Option<PointInTime>,
    /// Only before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<PointInTime>,
}

fn thing_name(name: &str) -> Result<ThingName, &'static str> {
    ThingName::new(name).map_err(|_| "it must be 1 to 128 of the characters a-z A-Z 0-9 : _ -")
}

/// One entry of the history: a transition of an alarm, or an action on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    rule: String,
    at: Timestamp,
    cause: String,
    from: Option<String>,
    to: Option<String>,
    previous_state: Option<String>,
    alarm_state: Option<String>,
    previous_severity: Option<String>,
    severity: Option<String>,
    value: Option<String>,
    by: Option<String>,
    note: Option<String>,
    rule_version: Option<u64>,
}

impl Entry {
    /// Parses an item of the alarms table; `None` if it is something else.
    fn parse(item: &Item) -> Option<Self> {
        text(item, "part")?.strip_prefix(ENTRY)?;
        let owned = |name| text(item, name).map(str::to_owned);
        Some(Self {
            rule: owned("rule")?,
            at: Timestamp::from_millis(integer(item, "at")?),
            cause: owned("cause")?,
            from: owned("from"),
            to: owned("to"),
            previous_state: owned("previousState"),
            alarm_state: owned("alarmState"),
            previous_severity: owned("previousSeverity"),
            severity: owned("severity"),
            value: owned("value"),
            by: owned("by"),
            note: owned("note"),
            rule_version: integer(item, "ruleVersion"),
        })
    }
}

impl Arguments {
    fn selects(&self, entry: &Entry) -> bool {
        let Self { thing: _, rule, state, severity, since, until } = self;
        let has_state = |state: &AlarmState| entry.alarm_state.as_deref() == Some(state.as_str());
        let has_severity = |severity: &Severity| entry.severity.as_deref() == Some(severity.as_str());
        rule.as_ref().is_none_or(|rule| *rule == entry.rule)
            && (state.is_empty() || state.iter().any(has_state))
            && (severity.is_empty() || severity.iter().any(has_severity))
            && since.is_none_or(|since| entry.at >= since.0)
            && until.is_none_or(|until| entry.at < until.0)
    }
}

/// Prints the entries.
pub async fn run(arguments: &Arguments, context: &Context) -> Result<Status> {
    let items = table::with_prefix(arguments.thing.as_str(), ENTRY, context).await?;
    let mut entries: Vec<_> = items.iter().filter_map(Entry::parse).collect();
    entries.retain(|entry| arguments.selects(entry));
    if entries.is_empty() && context.output == Output::Text {
        eprintln!("No such history is kept.");
    }
    context.output.print(&entries, || list(&entries))?;
    Ok(Status::Success)
}

fn list(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut table = output::table(["TIME (UTC)", "RULE", "CAUSE", "STATE", "SEVERITY", "DATA", "VALUE", "BY", "NOTE"]);
    for entry in entries {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let cells = [
            utc(entry.at),
            entry.rule.clone(),
            entry.cause.clone(),
            change(entry.previous_state.as_deref(), entry.alarm_state.as_deref()),
            change(entry.previous_severity.as_deref(), entry.severity.as_deref()),
            change(entry.from.as_deref(), entry.to.as_deref()),
            or_dash(&entry.value),
            or_dash(&entry.by),
            or_dash(&entry.note),
        ];
        table.add_row(cells.map(|cell| escape_line(&cell)));
    }
    output::text(&table)
}

/// Formats a transition, or the value alone if it did not change.
fn change(before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (None, None) => "-".to_owned(),
        (Some(before), Some(after)) if before == after => after.to_owned(),
        (before, after) => format!("{} → {}", before.unwrap_or("-"), after.unwrap_or("-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse::store::item::{number, string};

    fn item() -> Item {
        [
            ("id", string("thing#lux-1")),
            ("part", string("history#1764421445123#too-bright#3")),
            ("rule", string("too-bright")),
            ("at", number(1_764_421_445_123)),
            ("cause", string("action")),
            ("from", string("ALARM")),
            ("to", string("ALARM")),
            ("previousState", string("ACTIVE")),
            ("alarmState", string("ACKNOWLEDGED")),
            ("severity", string("critical")),
            ("by", string("anna")),
            ("ruleVersion", number(4)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    #[test]
    fn entry_is_read_and_printed() {
        let entry = Entry::parse(&item()).expect("an entry");
        assert_eq!((entry.rule_version, entry.value.as_deref()), (Some(4), None));
        let text = list(&[entry]);
        for part in ["2025-11-29 13:04:05", "too-bright", "ACTIVE → ACKNOWLEDGED", "- → critical", "anna"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("ALARM →"), "{text}");
    }

    #[test]
    fn record_is_no_entry() {
        let mut record = item();
        record.insert("part".to_owned(), string("threshold#too-bright"));
        assert_eq!(Entry::parse(&record), None);
    }

    #[test]
    fn entries_are_selected() {
        let entry = Entry::parse(&item()).expect("an entry");
        let arguments = |change: fn(&mut Arguments)| {
            let thing = ThingName::new("lux-1").expect("a name");
            let (state, severity) = (Vec::new(), Vec::new());
            let mut arguments = Arguments { thing, rule: None, state, severity, since: None, until: None };
            change(&mut arguments);
            arguments
        };
        assert!(arguments(|_| ()).selects(&entry));
        assert!(arguments(|arguments| arguments.state = vec![AlarmState::Acknowledged]).selects(&entry));
        assert!(!arguments(|arguments| arguments.state = vec![AlarmState::Active]).selects(&entry));
        assert!(!arguments(|arguments| arguments.severity = vec![Severity::Info]).selects(&entry));
        assert!(!arguments(|arguments| arguments.rule = Some("other".to_owned())).selects(&entry));
        let since = |millis| Some(PointInTime(Timestamp::from_millis(millis)));
        let before = Arguments { until: since(1_764_421_445_123), ..arguments(|_| ()) };
        assert!(!before.selects(&entry));
    }
}
