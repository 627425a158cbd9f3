//! The records of alarms in the table, and the filter that selects them.

use alarm::notification::PENDING;
use clap::Args;
use gatehouse::store::item::{integer, text};
use gatehouse::{AlarmState, DataState, Item, Severity, ThingName, ThingPattern, Timestamp};
use serde::Serialize;

use crate::alarms::value_parser;

/// Prefix of the sort key of an alarm's record; the rule's name follows.
pub const RECORD: &str = "threshold#";

/// The states that the index contains, in order of urgency.
pub const INDEXED: [AlarmState; 5] = [
    AlarmState::Active,
    AlarmState::Latched,
    AlarmState::Acknowledged,
    AlarmState::SnoozeDisabled,
    AlarmState::Disabled,
];

/// The state of one rule's alarm for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAlarm {
    /// The device.
    pub thing: String,
    /// The name of the rule or threshold.
    pub rule: String,
    /// The same as `rule`, for programs that read the former name.
    pub threshold: String,
    /// The alarm's state.
    pub alarm_state: AlarmState,
    /// When the alarm entered that state.
    pub alarm_state_since: Timestamp,
    /// Its severity, if it is raised or latched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The state of the data: OK, ALARM or STALE.
    pub state: String,
    /// When the data entered that state.
    pub since: Timestamp,
    /// When the newest value was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    /// The newest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The IDs of the events with the newest value.
    pub events: Vec<String>,
    /// How many notifications are pending.
    pub pending: usize,
    /// Who performed the last action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The note of the last action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When a snooze ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snoozed_until: Option<Timestamp>,
}

impl DeviceAlarm {
    /// Parses an item of the alarms table; `None` if it is something else.
    ///
    /// A record that was last written before alarms had states gets the one that its data implies.
    pub fn parse(item: &Item) -> Option<Self> {
        let time = |name| integer(item, name).map(Timestamp::from_millis);
        let owned = |name| text(item, name).map(str::to_owned);
        let pending = item.get(PENDING).and_then(|pending| pending.as_l().ok());
        let rule = text(item, "part")?.strip_prefix(RECORD)?.to_owned();
        let (state, since) = (owned("state")?, time("since")?);
        let implied = if state == "ALARM" { AlarmState::Active } else { AlarmState::Normal };
        Some(Self {
            thing: text(item, "id")?.strip_prefix("thing#")?.to_owned(),
            threshold: rule.clone(),
            rule,
            alarm_state: text(item, "alarmState").and_then(AlarmState::parse).unwrap_or(implied),
            alarm_state_since: time("alarmStateSince").unwrap_or(since),
            severity: text(item, "severity").and_then(Severity::parse),
            state,
            since,
            seen_at: time("seenAt"),
            value: owned("value"),
            events: item.get("seen").and_then(|seen| seen.as_ss().ok()).cloned().unwrap_or_default(),
            pending: pending.map_or(0, Vec::len),
            by: owned("by"),
            note: owned("note"),
            snoozed_until: time("snoozedUntil"),
        })
    }

    /// Describes the alarm in one line.
    pub fn summary(&self) -> String {
        let Self { rule, alarm_state, severity, state, value, .. } = self;
        let severity = severity.map_or_else(String::new, |severity| format!(" ({})", severity.as_str()));
        let value = value.as_ref().map_or_else(String::new, |value| format!("; the newest value is {value}"));
        format!("{state} by {rule}{severity}, {}{value}", alarm_state.as_str())
    }
}

/// Which alarms.
#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// Only alarms of these things; `*` matches any characters.
    #[arg(long, value_name = "THING", value_parser = crate::selection::thing_pattern)]
    pub thing: Option<ThingPattern>,
    /// Only alarms of this rule or threshold.
    #[arg(long, value_name = "RULE", alias = "threshold")]
    pub rule: Option<String>,
    /// Only alarms in this state (may be repeated).
    #[arg(long, value_parser = value_parser::alarm_state())]
    pub state: Vec<AlarmState>,
    /// Only alarms of this severity (may be repeated).
    #[arg(long, value_parser = value_parser::severity())]
    pub severity: Vec<Severity>,
    /// Also alarms that are NORMAL. Without an exact --thing, this reads the whole table.
    #[arg(long)]
    pub include_normal: bool,
}

impl Filter {
    /// Returns whether the filter has no condition.
    pub fn is_empty(&self) -> bool {
        let Self { thing, rule, state, severity, include_normal: _ } = self;
        thing.is_none() && rule.is_none() && state.is_empty() && severity.is_empty()
    }

    /// Returns whether NORMAL alarms can be selected.
    pub fn includes_normal(&self) -> bool {
        self.include_normal || self.state.contains(&AlarmState::Normal)
    }

    /// Returns the thing, if its name has no `*`.
    pub fn exact_thing(&self) -> Option<ThingName> {
        self.thing.as_ref().and_then(|pattern| ThingName::new(pattern.to_string()).ok())
    }

    /// Returns the states in the index whose alarms can be selected.
    pub fn indexed_states(&self) -> Vec<AlarmState> {
        let is_wanted = |state: &AlarmState| self.state.is_empty() || self.state.contains(state);
        INDEXED.into_iter().filter(is_wanted).collect()
    }

    /// Returns whether the alarm is selected.
    pub fn selects(&self, alarm: &DeviceAlarm) -> bool {
        let has_thing =
            |pattern: &ThingPattern| ThingName::new(alarm.thing.as_str()).is_ok_and(|thing| pattern.matches(&thing));
        self.thing.as_ref().is_none_or(has_thing)
            && self.rule.as_ref().is_none_or(|rule| *rule == alarm.rule)
            && (self.state.is_empty() || self.state.contains(&alarm.alarm_state))
            && (self.severity.is_empty() || alarm.severity.is_some_and(|severity| self.severity.contains(&severity)))
            && (alarm.alarm_state != AlarmState::Normal || self.includes_normal())
    }
}

/// Returns whether the alarm's data is in one of these states; an empty list means any.
pub fn has_data_state(alarm: &DeviceAlarm, states: &[DataState]) -> bool {
    states.is_empty() || states.iter().any(|state| state.as_str() == alarm.state)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use gatehouse::store::item::{number, string};

    pub(crate) fn item(id: &str, part: &str) -> Item {
        [
            ("id", string(id)),
            ("part", string(part)),
            ("state", string("ALARM")),
            ("since", number(1)),
            ("seenAt", number(2)),
            ("value", string("40000.0")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    pub(crate) fn alarm() -> DeviceAlarm {
        DeviceAlarm::parse(&item("thing#lux-1", "threshold#too-bright")).expect("an alarm record")
    }

    #[test]
    fn only_alarm_records_are_listed() {
        let alarm = alarm();
        assert_eq!((alarm.thing.as_str(), alarm.rule.as_str()), ("lux-1", "too-bright"));
        assert_eq!(DeviceAlarm::parse(&item("document#thresholds", "current")), None);
        assert_eq!(DeviceAlarm::parse(&item("thing#lux-1", "history#0000000000001#too-bright#1")), None);
    }

    #[test]
    fn record_without_an_alarm_state_has_the_one_of_its_condition() {
        assert_eq!((alarm().alarm_state, alarm().alarm_state_since.millis()), (AlarmState::Active, 1));
        let mut calm = item("thing#lux-1", "threshold#too-bright");
        calm.insert("state".to_owned(), string("OK"));
        assert_eq!(DeviceAlarm::parse(&calm).map(|alarm| alarm.alarm_state), Some(AlarmState::Normal));
    }

    #[test]
    fn state_severity_and_the_last_action_are_read() {
        let mut record = item("thing#lux-1", "threshold#too-bright");
        for (name, value) in [
            ("alarmState", string("SNOOZE_DISABLED")),
            ("alarmStateSince", number(5)),
            ("severity", string("critical")),
            ("by", string("anna")),
            ("note", string("cleaning")),
            ("snoozedUntil", number(9)),
        ] {
            record.insert(name.to_owned(), value);
        }
        record.remove("value");
        let alarm = DeviceAlarm::parse(&record).expect("an alarm record");
        assert_eq!((alarm.alarm_state, alarm.severity), (AlarmState::SnoozeDisabled, Some(Severity::Critical)));
        assert_eq!((alarm.by.as_deref(), alarm.note.as_deref()), (Some("anna"), Some("cleaning")));
        assert_eq!((alarm.snoozed_until.map(Timestamp::millis), alarm.value), (Some(9), None));
    }

    #[test]
    fn filters_select_together() {
        let mut alarm = alarm();
        alarm.severity = Some(Severity::Major);
        let filter = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter
        };
        assert!(filter(|_| ()).selects(&alarm));
        assert!(filter(|filter| filter.thing = ThingPattern::new("lux-*")).selects(&alarm));
        assert!(filter(|filter| filter.severity = vec![Severity::Minor, Severity::Major]).selects(&alarm));
        assert!(filter(|filter| filter.state = vec![AlarmState::Active]).selects(&alarm));
        assert!(!filter(|filter| filter.thing = ThingPattern::new("door-*")).selects(&alarm));
        assert!(!filter(|filter| filter.rule = Some("too-dark".to_owned())).selects(&alarm));
        assert!(!filter(|filter| filter.state = vec![AlarmState::Latched]).selects(&alarm));
        assert!(!filter(|filter| filter.severity = vec![Severity::Critical]).selects(&alarm));
        alarm.alarm_state = AlarmState::Normal;
        assert!(!filter(|_| ()).selects(&alarm));
        assert!(filter(|filter| filter.include_normal = true).selects(&alarm));
        assert!(filter(|filter| filter.state = vec![AlarmState::Normal]).selects(&alarm));
    }

    #[test]
    fn only_wanted_states_are_read_from_the_index() {
        let filter = |state| Filter { state, ..Filter::default() };
        assert_eq!(filter(vec![]).indexed_states(), INDEXED);
        assert_eq!(filter(vec![AlarmState::Latched, AlarmState::Normal]).indexed_states(), [AlarmState::Latched]);
    }
}
