//! `gatehouse audit`: whether everything that arrived has an outcome.
//!
//! For each function: what arrived since a time must equal what is done or refused, what is still in the work queue, and
//! what ended in a dead-letter queue. Each figure says where it comes from, because no source is exact.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat};
use clap::Args;
use futures_util::future::join_all;
use gatehouse::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::dead_letters::{self, DeadLetterQueue};
use crate::logs;
use crate::names::{FUNCTIONS, INVOKED_DIRECTLY};
use crate::output::{self, escape, utc};
use crate::quarantine::QuarantineTable;
use crate::selection::{PointInTime, Selection};
use crate::status::Status;

/// Shortest period in seconds that CloudWatch still has for metrics up to an age, also in seconds.
const PERIODS: [(u64, i32); 3] = [(15 * 86_400, 60), (63 * 86_400, 300), (455 * 86_400, 3600)];

/// How far past now the query ends, so that it includes the current period.
const MINUTE: Duration = Duration::from_mins(1);

/// The arguments of `gatehouse audit`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Since when: `2 h` ago, `2026-11-29`, or `2026-11-29T13:00:00Z`.
    #[arg(long)]
    since: PointInTime,
}

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Source {
    /// CloudWatch's metrics.
    Metrics,
    /// The functions' log lines.
    Logs,
}

/// Counts of the outcomes that a function reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Outcomes {
    source: Source,
    done: u64,
    refused: u64,
    retried: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    function: &'static str,
    /// Messages that its rules matched, from `AWS/IoT`.
    matched: Option<u64>,
    /// Messages that its rules failed to deliver, from `AWS/IoT`.
    rule_failures: Option<u64>,
    /// Messages that its work queue received, from `AWS/SQS`, or its asynchronous invocations, from `AWS/Lambda`.
    arrived: Option<u64>,
    outcomes: Option<Outcomes>,
    /// Messages in the work queue now.
    queued: u64,
    /// Messages in the dead-letter queues now.
    dead_letters: u64,
    /// Events in quarantine that were refused within the time range.
    quarantined: u64,
    /// Events that arrived and have no outcome. Negative if there are more outcomes than events.
    difference: Option<i64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    since: Timestamp,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// Runs the subcommand.
pub async fn run(arguments: Arguments, context: &Context) -> Result<Status> {
    let PointInTime(since) = arguments.since;
    let queues = dead_letters::discover(context, &[]).await?;
    let quarantine = QuarantineTable::new(context);
    let selection = Selection { since: Some(PointInTime(since)), ..Selection::default() };
    let refused = quarantine.list(&selection, &context.names).await?;
    let metrics = Metrics::read(since, context).await;
    let failed = metrics.as_ref().err().map(|error| format!("{error:#}; the figures are from elsewhere"));
    let metrics = metrics.unwrap_or_default();

    let rows = join_all(FUNCTIONS.map(|function| row(function, &queues, &metrics, since, context))).await;
    let mut report = Report { since, rows: Vec::new(), notes: failed.into_iter().collect() };
    for row in rows {
        let (mut row, notes) = row?;
        let name = context.names.of(row.function);
        row.quarantined = refused.iter().filter(|event| event.function == name).map(|_| 1).sum();
        row.difference = row.difference();
        report.rows.push(row);
        report.notes.extend(notes);
    }
    report.add_notes();
    context.output.print(&report, || report.text())?;
    let is_missing = report.rows.iter().any(|row| row.difference.is_some_and(|difference| difference > 0));
    Ok(if is_missing { Status::Difference } else { Status::Success })
}

async fn row(
    function: &'static str,
    queues: &[DeadLetterQueue],
    metrics: &Metrics,
    since: Timestamp,
    context: &Context,
) -> Result<(Row, Vec<String>)> {
    let mut notes = Vec::new();
    let mut outcomes = metrics.outcomes(function);
    if outcomes.is_none() {
        let lines = logs::batches(function, since, context).await;
        notes = lines.notes;
        let sum = |name: &str| lines.lines.iter().filter_map(|line| line.fields.get(name)?.as_u64()).sum();
        let (done, refused, retried) = (sum("done"), sum("refused"), sum("retried"));
        let has_lines = !lines.lines.is_empty();
        outcomes = has_lines.then_some(Outcomes { source: Source::Logs, done, refused, retried });
    }
    let mut dead_letters = 0;
    for queue in queues.iter().filter(|queue| queue.function == function && !queue.is_of_rule) {
        let depth = queue.depth().await?;
        dead_letters += depth.visible + depth.in_flight;
    }
    let row = Row {
        function,
        matched: metrics.matched(function),
        rule_failures: metrics.rule_failures(function),
        arrived: metrics.arrived(function),
        outcomes,
        queued: if INVOKED_DIRECTLY.contains(&function) { 0 } else { queued(function, context).await? },
        dead_letters: u64::try_from(dead_letters)?,
        quarantined: 0,
        difference: None,
    };
    Ok((row, notes))
}

async fn queued(function: &str, context: &Context) -> Result<u64> {
    let client = context.sqs();
    let name = context.names.of(function);
    let found = client.get_queue_url().queue_name(&name).send().await;
    let url = found.with_context(|| format!("failed to find queue {name}"))?.queue_url;
    let depth = dead_letters::depth(&client, &url.with_context(|| format!("queue {name} has no URL"))?).await?;
    Ok(u64::try_from(depth.visible + depth.in_flight)?)
}

impl Row {
    fn difference(&self) -> Option<i64> {
        let (arrived, outcomes) = (self.arrived?, self.outcomes?);
        let found = outcomes.done + outcomes.refused + self.queued + self.dead_letters;
        Some(i64::try_from(arrived).ok()? - i64::try_from(found).ok()?)
    }
}

impl Report {
    fn add_notes(&mut self) {
        if self.rows.iter().any(|row| row.arrived.is_none()) {
            let why =
                "CloudWatch has no metric of what arrived for these functions: nothing did, or it is not delivered yet";
            let functions: Vec<_> =
                self.rows.iter().filter(|row| row.arrived.is_none()).map(|row| row.function).collect();
            self.notes.push(format!("{}: {why}", functions.join(", ")));
        }
        if self.rows.iter().any(|row| row.outcomes.is_some_and(|outcomes| outcomes.source == Source::Logs)) {
            self.notes.push("outcomes marked with * are counted from log lines; lines below the log level, or past retention, are missing".to_owned());
        }
        self.notes.extend(
            [
                "queued and dead letters are what is there now, approximately, and include what arrived before",
                "retried counts attempts, not events; an event that was retried also ends as done, refused or a dead letter",
                "done may exceed what arrived: SQS can deliver twice, and resent events, commands and documents do not come \
                 through the queue; quarantined counts what is still there",
                "AWS's metrics arrive up to 15 minutes late, and cannot show what the rules engine dropped before a rule matched \
                 (RuleMessageThrottled and ParseError count that)",
            ]
            .map(ToOwned::to_owned),
        );
    }

    fn text(&self) -> String {
        let mut table = output::table([
            "FUNCTION",
            "MATCHED",
            "RULE FAILED",
            "ARRIVED",
            "DONE",
            "REFUSED",
            "RETRIED",
            "QUEUED",
            "DEAD LETTERS",
            "QUARANTINED",
            "DIFFERENCE",
        ]);
        let figure = |figure: Option<u64>| figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string());
        for row in &self.rows {
            let mark = if row.outcomes.is_some_and(|outcomes| outcomes.source == Source::Logs) { "*" } else { "" };
            let outcome = |of: fn(&Outcomes) -> u64| {
                row.outcomes.as_ref().map_or_else(|| "?".to_owned(), |outcomes| format!("{}{mark}", of(outcomes)))
            };
            table.add_row([
                row.function.to_owned(),
                figure(row.matched),
                figure(row.rule_failures),
                figure(row.arrived),
                outcome(|outcomes| outcomes.done),
                outcome(|outcomes| outcomes.refused),
                outcome(|outcomes| outcomes.retried),
                row.queued.to_string(),
                row.dead_letters.to_string(),
                row.quarantined.to_string(),
                row.difference.map_or_else(|| "?".to_owned(), |difference| difference.to_string()),
            ]);
        }
        let mut text = format!("Since {} UTC. ? is unknown.\n\n{}", utc(self.since), output::text(&table));
        for row in self.rows.iter().filter(|row| row.difference.is_some_and(|difference| difference != 0)) {
            let difference = row.difference.unwrap_or_default();
            let what = if difference > 0 { "events have no outcome" } else { "outcomes more than events" };
            let _ = writeln!(text, "{}: {} {what}", row.function, difference.unsigned_abs());
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {}", escape(note));
        }
        text
    }
}

/// Sums of metrics since a time.
#[derive(Debug, Default)]
struct Metrics {
    sums: Vec<(String, f64)>,
}

/// Returns the rules that feed a function, without the deployment's prefix. `alarm` shares those of `telemetry`.
fn rules(function: &str) -> &'static [&'static str] {
    match function {
        "button" => &["button"],
        "doorbell" => &["doorbell"],
        "forward" => &["forward"],
        "jitr" => &["jitr"],
        "presence" => &["presence"],
        "shadow" => &["shadow", "shadow_named", "shadow_deleted", "shadow_named_deleted"],
        "alarm" | "telemetry" => &["telemetry", "sigfox"],
        _ => &[],
    }
}

impl Metrics {
    async fn read(since: Timestamp, context: &Context) -> Result<Self> {
        let mut wanted: Vec<(String, Metric)> = Vec::new();
        for function in FUNCTIONS {
            let name = context.names.of(function);
            for metric in ["Done", "Refused", "Retried"] {
                wanted.push((format!("{function} {metric}"), metric_of("Gatehouse", metric, &[("function", &name)])));
            }
            let arrived = if INVOKED_DIRECTLY.contains(&function) {
                metric_of("AWS/Lambda", "AsyncEventsReceived", &[("FunctionName", &name)])
            } else {
                metric_of("AWS/SQS", "NumberOfMessagesSent", &[("QueueName", &name)])
            };
            wanted.push((format!("{function} arrived"), arrived));
            let action = if INVOKED_DIRECTLY.contains(&function) { "Lambda" } else { "Sqs" };
            for rule in rules(function) {
                let rule = context.names.rule(rule);
                wanted
                    .push((format!("{function} matched"), metric_of("AWS/IoT", "TopicMatch", &[("RuleName", &rule)])));
                let failed = metric_of("AWS/IoT", "Failure", &[("ActionType", action), ("RuleName", &rule)]);
                wanted.push((format!("{function} failed"), failed));
            }
        }
        let now = Timestamp::now();
        let period = period(now.since(since).as_secs());
        let queries = wanted.iter().enumerate().map(|(index, (label, metric))| {
            let stat = MetricStat::builder().metric(metric.clone()).period(period).stat("Sum").build();
            MetricDataQuery::builder().id(format!("m{index}")).label(label).metric_stat(stat).build()
        });
        let date = |time: Timestamp| i64::try_from(time.seconds()).map(DateTime::from_secs);
        let get = context.cloudwatch().get_metric_data().set_metric_data_queries(Some(queries.collect()));
        let mut pages = get.start_time(date(since)?).end_time(date(now.plus(MINUTE))?).into_paginator().send();
        let mut sums = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.context("failed to read metrics")?;
            for result in page.metric_data_results() {
                let label = result.id().and_then(|id| wanted.get(id.strip_prefix('m')?.parse::<usize>().ok()?));
                let Some((label, _)) = label else { continue };
                if !result.values().is_empty() {
                    sums.push((label.clone(), result.values().iter().sum()));
                }
            }
        }
        Ok(Self { sums })
    }

    /// Returns the sum of a function's metrics with this label; `None` if there are none.
    fn sum(&self, function: &str, what: &str) -> Option<u64> {
        let label = format!("{function} {what}");
        let mut found = self.sums.iter().filter(|(name, _)| *name == label).map(|(_, sum)| *sum).peekable();
        found.peek()?;
        // Counts, far below 2^53.
        format!("{:.0}", found.sum::<f64>()).parse().ok()
    }

    fn matched(&self, function: &str) -> Option<u64> {
        self.sum(function, "matched")
    }

    fn rule_failures(&self, function: &str) -> Option<u64> {
        self.sum(function, "failed").or_else(|| self.matched(function).map(|_| 0))
    }

    fn arrived(&self, function: &str) -> Option<u64> {
        self.sum(function, "arrived")
    }

    fn outcomes(&self, function: &str) -> Option<Outcomes> {
        let [done, refused, retried] = ["Done", "Refused", "Retried"].map(|metric| self.sum(function, metric));
        if done.is_none() && refused.is_none() && retried.is_none() {
            return None;
        }
        Some(Outcomes {
            source: Source::Metrics,
            done: done.unwrap_or_default(),
            refused: refused.unwrap_or_default(),
            retried: retried.unwrap_or_default(),
        })
    }
}

/// Returns the shortest period, in seconds, that CloudWatch has for data of this age.
fn period(age_seconds: u64) -> i32 {
    PERIODS.into_iter().find(|(oldest, _)| age_seconds < *oldest).map_or(3600, |(_, period)| period)
}

fn metric_of(namespace: &str, name: &str, dimensions: &[(&str, &str)]) -> Metric {
    let dimensions = dimensions.iter().map(|(name, value)| Dimension::builder().name(*name).value(*value).build());
    Metric::builder().namespace(namespace).metric_name(name).set_dimensions(Some(dimensions.collect())).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(arrived: Option<u64>, done: u64, refused: u64, queued: u64, dead_letters: u64) -> Row {
        let outcomes = Some(Outcomes { source: Source::Metrics, done, refused, retried: 7 });
        let (function, quarantined) = ("button", 0);
        Row {
            function,
            matched: None,
            rule_failures: None,
            arrived,
            outcomes,
            queued,
            dead_letters,
            quarantined,
            difference: None,
        }
    }

    #[test]
    fn difference_is_what_has_no_outcome() {
        assert_eq!(row(Some(10), 5, 2, 2, 1).difference(), Some(0));
        assert_eq!(row(Some(10), 5, 2, 0, 1).difference(), Some(2));
        assert_eq!(row(Some(10), 12, 0, 0, 0).difference(), Some(-2));
        assert_eq!(row(None, 5, 2, 2, 1).difference(), None);
        assert_eq!(Row { outcomes: None, ..row(Some(1), 0, 0, 0, 0) }.difference(), None);
    }

    #[test]
    fn metrics_of_several_rules_are_added() {
        let sums =
            vec![("alarm matched".to_owned(), 2.0), ("alarm matched".to_owned(), 3.0), ("alarm Done".to_owned(), 4.0)];
        let metrics = Metrics { sums };
        assert_eq!(metrics.matched("alarm"), Some(5));
        assert_eq!(metrics.rule_failures("alarm"), Some(0));
        assert_eq!(metrics.arrived("alarm"), None);
        let outcomes = Outcomes { source: Source::Metrics, done: 4, refused: 0, retried: 0 };
        assert_eq!(metrics.outcomes("alarm"), Some(outcomes));
        assert_eq!(metrics.outcomes("button"), None);
    }

    #[test]
    fn period_is_one_that_cloudwatch_still_has() {
        assert_eq!([3600, 20 * 86_400, 100 * 86_400].map(period), [60, 300, 3600]);
    }
}
