//! `gatehouse trace`: everything that is known about an event.

mod export;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use gatehouse::store::item::{integer, string, text};
use gatehouse::{Item, Timestamp};

use crate::context::Context;
use crate::findings::Findings;
use crate::names::FUNCTIONS;
use crate::output::utc;
use crate::quarantine::QuarantineTable;
use crate::selection::PointInTime;
use crate::status::Status;
use crate::{alarms, dead_letters, logs};

/// The arguments of `gatehouse trace`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The event's ID.
    event_id: String,
    /// How far back logs and readings are searched: `2 h`, `2026-11-29`, or `2026-11-29T13:00:00Z`.
    #[arg(long, default_value = "1 d")]
    since: PointInTime,
    /// The thing, if the event's own records do not name it: its readings and alarms are searched too.
    #[arg(long)]
    thing: Option<String>,
    /// Writes the event to this file as a scenario, to be played on the local cloud. Its payload must be in quarantine, in
    /// a dead-letter queue, or, with --thing, in the telemetry table.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
}

/// Runs the subcommand.
pub async fn run(arguments: Arguments, context: &Context) -> Result<Status> {
    let Arguments { event_id, since: PointInTime(since), thing, export } = arguments;
    if let Some(file) = export {
        let place = export::export(&event_id, thing.as_deref(), &file, context).await?;
        eprintln!("Exported from the {place} to {}.", file.display());
        return Ok(Status::Success);
    }
    let mut findings = Findings::new(event_id.as_str());
    let mut things: BTreeSet<String> = thing.into_iter().collect();
    let table = QuarantineTable::new(context);
    let (refused, letters, lines, effects, delivery) = tokio::join!(
        table.find(&event_id, None, &context.names),
        dead_letters::find(&event_id, context),
        logs::search("eventId", &event_id, since, context),
        effects(&event_id, context),
        delivery(&event_id, context),
    );
    for event in findings.take("quarantine", refused).unwrap_or_default() {
        things.extend(event.summary.thing);
        let text = format!("refused ({}): {}", event.summary.reason, event.why);
        findings.add(format!("quarantine of {}", event.summary.function), Some(event.summary.refused_at), text);
    }
    for (queue, message) in findings.take("dead letters", letters).unwrap_or_default() {
        let letter = message.letter;
        things.extend(letter.thing);
        let text = format!(
            "dead letter ({}): {}",
            letter.kind.as_str(),
            letter.error.as_deref().unwrap_or("no error is recorded")
        );
        findings.add(format!("queue {queue}"), Some(letter.sent_at), text);
    }
    for line in lines.lines {
        things.extend(line.fields.get("thing").and_then(|thing| thing.as_str()).map(ToOwned::to_owned));
        findings.add(format!("log of {}", line.function), Some(line.at), logs::summary(&line.fields));
    }
    findings.notes.extend(lines.notes);
    for (function, item) in findings.take("idempotency table", effects).unwrap_or_default() {
        let status = text(&item, "status").unwrap_or("unknown");
        let until = integer(&item, "expiration").map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
        let until = until.map_or_else(String::new, |until| format!(" (kept until {})", utc(until)));
        findings.add("idempotency table", None, format!("effect of {function}: {status}{until}"));
    }
    if let Some(Some(item)) = findings.take("devices table", delivery) {
        let names = item.get("names").and_then(|names| names.as_ss().ok()).cloned().unwrap_or_default();
        findings.add("devices table", None, format!("destinations that have accepted it: {}", names.join(", ")));
    }
    for thing in &things {
        find_by_thing(&event_id, thing, since, &mut findings, context).await;
    }
    if things.is_empty() {
        findings.note("the thing is unknown, so readings and alarms were not searched; use --thing");
    }
    findings.note(format!("logs and readings were searched since {} UTC", utc(since)));
    let is_known = !findings.findings.is_empty();
    if !is_known {
        findings.note("nothing is known about this event: it is not in any table, dead-letter queue or log");
    }
    findings.print(context.output)?;
    Ok(if is_known { Status::Success } else { Status::Missing })
}

/// Returns the idempotency records of the event, with their functions.
async fn effects(event_id: &str, context: &Context) -> Result<Vec<(&'static str, Item)>> {
    let table = context.names.of("idempotency");
    let client = context.dynamodb();
    let mut found = Vec::new();
    for function in FUNCTIONS {
        let key = format!("{}#{event_id}", context.names.of(function));
        let get = client.get_item().table_name(&table).key("id", string(key)).consistent_read(true).send().await;
        let item = get.with_context(|| format!("failed to read table {table}"))?.item;
        found.extend(item.map(|item| (function, item)));
    }
    Ok(found)
}

/// Returns the record of the destinations that have accepted a message; it exists while others have not.
async fn delivery(event_id: &str, context: &Context) -> Result<Option<Item>> {
    let table = context.names.of("devices");
    let get = context.dynamodb().get_item().table_name(&table).consistent_read(true);
    let get = get.key("id", string(format!("forward#{event_id}"))).key("part", string("taken"));
    Ok(get.send().await.with_context(|| format!("failed to read table {table}"))?.item)
}

async fn find_by_thing(event_id: &str, thing: &str, since: Timestamp, findings: &mut Findings, context: &Context) {
    let readings = readings(event_id, thing, since, context).await;
    for at in findings.take("telemetry table", readings).unwrap_or_default() {
        let time = at.split('#').next().and_then(|millis| millis.parse().ok()).map(Timestamp::from_millis);
        findings.add("telemetry table", time, format!("reading of {thing}, sort key {at}"));
    }
    let alarms = alarms::of_thing(thing, context).await;
    for alarm in findings.take("alarms table", alarms).unwrap_or_default() {
        if alarm.events.iter().any(|event| event == event_id) {
            let text = format!("newest reading of {thing}: {}", alarm.summary());
            findings.add("alarms table", alarm.seen_at, text);
        }
        if alarm.pending > 0 {
            let text = format!("{} notifications of {thing} by {} are pending", alarm.pending, alarm.threshold);
            findings.add("alarms table", Some(alarm.since), text);
        }
    }
}

/// Returns the sort keys of the readings of an event. Does not find readings that have an ID of their own.
async fn readings(event_id: &str, thing: &str, since: Timestamp, context: &Context) -> Result<Vec<String>> {
    let table = context.names.of("telemetry");
    let query = context.dynamodb().query().table_name(&table).projection_expression("#at");
    let query = query.key_condition_expression("thing = :thing AND #at >= :since");
    let query = query.expression_attribute_names("#at", "at").expression_attribute_values(":thing", string(thing));
    let query = query.expression_attribute_values(":since", string(format!("{:013}", since.millis())));
    let items = query.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let items = items.with_context(|| format!("failed to read table {table}"))?;
    let is_of_event = |at: &&str| at.split('#').nth(1) == Some(event_id);
    Ok(items.iter().filter_map(|item| text(item, "at")).filter(is_of_event).map(ToOwned::to_owned).collect())
}
