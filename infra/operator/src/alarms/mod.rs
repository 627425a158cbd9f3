//! `gatehouse alarms`: the state of devices by their thresholds.

use alarm::notification::PENDING;
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use gatehouse::store::item::{integer, string, text};
use gatehouse::{Item, ThingName, ThingPattern, Timestamp};
use serde::Serialize;

use crate::context::Context;
use crate::output::{self, Output, escape_line, utc};
use crate::status::Status;

/// The arguments of `gatehouse alarms`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the state of each device by each threshold.
    List(ListArguments),
}

/// Which states.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only this state (may be repeated).
    #[arg(long, value_enum)]
    state: Vec<State>,
    /// Only this threshold.
    #[arg(long)]
    threshold: Option<String>,
    /// Only things of this name; `*` matches any characters.
    #[arg(long, value_parser = crate::selection::thing_pattern)]
    thing: Option<ThingPattern>,
}

/// A state, as the table names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// The value is not beyond the limit.
    Ok,
    /// The value is beyond the limit.
    Alarm,
    /// No data for too long.
    Stale,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Alarm => "ALARM",
            Self::Stale => "STALE",
        }
    }
}

/// The state of a device by a threshold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAlarm {
    /// The device.
    pub thing: String,
    /// The threshold.
    pub threshold: String,
    /// OK, ALARM or STALE.
    pub state: String,
    /// Since when.
    pub since: Timestamp,
    /// When the newest value was received.
    pub seen_at: Timestamp,
    /// The newest value.
    pub value: String,
    /// The events of the newest value.
    pub events: Vec<String>,
    /// How many notifications are still to be sent.
    pub pending: usize,
}

impl DeviceAlarm {
    /// Parses an item of the alarms table; `None` if it is something else.
    pub fn parse(item: &Item) -> Option<Self> {
        let time = |name| integer(item, name).map(Timestamp::from_millis);
        let pending = item.get(PENDING).and_then(|pending| pending.as_l().ok());
        Some(Self {
            thing: text(item, "id")?.strip_prefix("thing#")?.to_owned(),
            threshold: text(item, "part")?.strip_prefix("threshold#")?.to_owned(),
            state: text(item, "state")?.to_owned(),
            since: time("since")?,
            seen_at: time("seenAt")?,
            value: text(item, "value")?.to_owned(),
            events: item.get("seen").and_then(|seen| seen.as_ss().ok()).cloned().unwrap_or_default(),
            pending: pending.map_or(0, Vec::len),
        })
    }
}

/// Returns the states of a device.
pub async fn of_thing(thing: &str, context: &Context) -> Result<Vec<DeviceAlarm>> {
    let table = context.names.of("alarms");
    let query = context.dynamodb().query().table_name(&table).consistent_read(true);
    let query = query.key_condition_expression("id = :id AND begins_with(part, :part)");
    let query = query.expression_attribute_values(":id", string(format!("thing#{thing}")));
    let query = query.expression_attribute_values(":part", string("threshold#"));
    let items = query.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let items = items.with_context(|| format!("failed to read table {table}"))?;
    Ok(items.iter().filter_map(DeviceAlarm::parse).collect())
}

/// Runs the subcommand.
pub async fn run(command: Command, context: &Context) -> Result<Status> {
    let Command::List(arguments) = command;
    let table = context.names.of("alarms");
    let scan = context.dynamodb().scan().table_name(&table).filter_expression("begins_with(id, :thing)");
    let scan = scan.expression_attribute_values(":thing", string("thing#"));
    let items = scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let items = items.with_context(|| format!("failed to read table {table}"))?;
    let mut alarms: Vec<_> = items.iter().filter_map(DeviceAlarm::parse).collect();
    alarms.retain(|alarm| arguments.selects(alarm));
    // What needs attention first.
    alarms.sort_by(|a, b| (&a.state, &a.threshold, &a.thing).cmp(&(&b.state, &b.threshold, &b.thing)));
    if alarms.is_empty() && context.output == Output::Text {
        eprintln!("No device has such a state.");
    }
    context.output.print(&alarms, || list(&alarms))?;
    Ok(Status::Success)
}

impl ListArguments {
    fn selects(&self, alarm: &DeviceAlarm) -> bool {
        let has_thing =
            |pattern: &ThingPattern| ThingName::new(alarm.thing.as_str()).is_ok_and(|thing| pattern.matches(&thing));
        (self.state.is_empty() || self.state.iter().any(|state| state.as_str() == alarm.state))
            && self.threshold.as_ref().is_none_or(|threshold| *threshold == alarm.threshold)
            && self.thing.as_ref().is_none_or(has_thing)
    }
}

fn list(alarms: &[DeviceAlarm]) -> String {
    if alarms.is_empty() {
        return String::new();
    }
    let mut table = output::table(["STATE", "THRESHOLD", "THING", "SINCE (UTC)", "VALUE", "RECEIVED (UTC)", "PENDING"]);
    for alarm in alarms {
        let DeviceAlarm { thing, threshold, state, since, seen_at, value, events: _, pending } = alarm;
        let cells = [state, threshold, thing, &utc(*since), value, &utc(*seen_at), &pending.to_string()];
        table.add_row(cells.map(|cell| escape_line(cell)));
    }
    output::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse::store::item::number;

    fn item(id: &str, part: &str) -> Item {
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

    #[test]
    fn only_alarm_records_are_listed() {
        let alarm = DeviceAlarm::parse(&item("thing#lux-1", "threshold#too-bright")).expect("an alarm record");
        assert_eq!((alarm.thing.as_str(), alarm.threshold.as_str()), ("lux-1", "too-bright"));
        assert_eq!(DeviceAlarm::parse(&item("document#thresholds", "current")), None);
    }

    #[test]
    fn list_is_filtered() {
        let alarm = DeviceAlarm::parse(&item("thing#lux-1", "threshold#too-bright")).expect("an alarm record");
        let arguments = |state, thing: &str| ListArguments { state, threshold: None, thing: ThingPattern::new(thing) };
        assert!(arguments(vec![], "*").selects(&alarm));
        assert!(arguments(vec![State::Alarm], "lux-*").selects(&alarm));
        assert!(!arguments(vec![State::Ok, State::Stale], "*").selects(&alarm));
        assert!(!arguments(vec![], "door-*").selects(&alarm));
    }
}
