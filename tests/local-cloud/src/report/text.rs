//! The report for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::layout::{fit, width, wrap};
use super::{StepResult, Style, chart};
use crate::observer::Effect;
use crate::scenario::{Expectation, Scenario, Stored};

/// Columns of the report.
pub(super) const WIDTH: usize = 80;

/// Reports a scenario.
pub fn scenario(scenario: &Scenario, results: &[StepResult], style: Style) -> String {
    let mut out = format!("\n{}\n", style.bold(&fit(&format!("{}: {}", scenario.name, scenario.about), WIDTH)));
    for result in results {
        out.push_str(&event(result, style));
    }
    if let Some(chart) = &scenario.chart {
        out.push_str(&chart::draw(chart, scenario, results, WIDTH));
    }
    out
}

/// Reports one event: what it was and how long it took, then its route and its effect.
pub fn event(result: &StepResult, style: Style) -> String {
    let time = result.millis.map(|millis| format!("{millis} ms")).unwrap_or_default();
    let mark = if result.problem.is_none() { style.success("✓") } else { style.failure("✗") };
    let room = WIDTH - 2 - width(&time) - 1;
    let what = fit(&result.what, room);
    let gap = " ".repeat(room - width(&what) + 1);
    let mut out = format!("{mark} {what}{gap}{}\n", style.dim(&time));

    for line in wrap(&format!("{} → {}", route(result), outcome(result)), WIDTH - 4) {
        let _ = writeln!(out, "{}", style.dim(&format!("    {line}")));
    }
    if let Some(problem) = &result.problem {
        for line in wrap(&format!("expected {}, but {problem}", expectation(&result.expected)), WIDTH - 4) {
            let _ = writeln!(out, "{}", style.failure(&format!("    {line}")));
        }
    }
    out
}

/// Returns the rule and the function that an event passed through.
fn route(result: &StepResult) -> String {
    let route: Vec<&str> = [result.rule.as_deref(), result.function.as_deref()].into_iter().flatten().collect();
    if !route.is_empty() {
        route.join(" → ")
    } else if matches!(result.expected, Expectation::Desired(_) | Expectation::Recorded(_)) {
        "shadow".to_owned()
    } else {
        result.topic.as_deref().unwrap_or("connection").to_owned()
    }
}

fn outcome(result: &StepResult) -> String {
    if result.denied {
        return "denied by AWS IoT".to_owned();
    }
    result.effect.as_ref().map_or_else(|| "no effect".to_owned(), ToString::to_string)
}

/// Describes the expected outcome, as it follows "expected".
fn expectation(expected: &Expectation) -> String {
    match expected {
        Expectation::Notification(notification) => {
            let mut parts = Vec::new();
            parts.extend(notification.message.as_ref().map(|message| format!("message {message:?}")));
            parts.extend(notification.subject.as_ref().map(|subject| format!("subject {subject:?}")));
            parts.extend(attributes(&notification.attributes));
            with("a notification", &parts)
        }
        Expectation::Quarantine(expected) => format!("quarantine with reason {:?}", expected.reason),
        Expectation::Suppressed => "a suppressed notification".to_owned(),
        Expectation::Nothing => "no effect".to_owned(),
        Expectation::Denied => "denial by AWS IoT".to_owned(),
        Expectation::Admitted => "admission".to_owned(),
        Expectation::Rejected(expected) => format!("rejection with reason {:?}", expected.reason),
        Expectation::Stored(Stored { readings: 1 }) => "1 stored reading".to_owned(),
        Expectation::Stored(Stored { readings }) => format!("{readings} stored readings"),
        Expectation::Done => "completion".to_owned(),
        Expectation::Refused(expected) => format!("refusal with reason {:?}", expected.reason),
        Expectation::Desired(state) => format!("desired state {state}"),
        Expectation::Forwarded(expected) => {
            with("a message in the destination queue", &attributes(&expected.attributes))
        }
        Expectation::Connected => "a record as connected".to_owned(),
        Expectation::Disconnected => "a record as disconnected".to_owned(),
        Expectation::Recorded(state) => format!("a record of {state}"),
        Expectation::Alarm(alarm) => format!("an alarm that is {alarm}"),
    }
}

fn with(what: &str, parts: &[String]) -> String {
    if parts.is_empty() { what.to_owned() } else { format!("{what} with {}", parts.join(", ")) }
}

fn attributes(all: &BTreeMap<String, String>) -> Vec<String> {
    all.iter().map(|(name, value)| format!("attribute {name} {value:?}")).collect()
}

/// Summarizes all scenarios.
pub fn summary(results: &[StepResult], duration: Duration, style: Style) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for result in results {
        *counts.entry(kind(result)).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
    let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let messages = results.iter().filter(|result| !is_connection(result));
    let mut millis: Vec<_> = messages.filter_map(|result| result.millis).collect();
    millis.sort_unstable();
    let median = millis.get(millis.len() / 2).map(|median| format!("Median latency {median} ms. "));
    let counts = format!("{} events: {}.", results.len(), counts.join(", "));
    let mut out = format!("\n{}\n", wrap(&counts, WIDTH).join("\n"));
    let _ = writeln!(out, "{}Finished in {:.0} s.", median.unwrap_or_default(), duration.as_secs_f64());
    let failed: Vec<_> = results.iter().filter(|result| result.problem.is_some()).collect();
    if failed.is_empty() {
        let _ = writeln!(out, "{}", style.success("All outcomes as expected."));
    } else {
        let heading = format!("{} of {} outcomes differ:", failed.len(), results.len());
        let _ = writeln!(out, "{}", style.failure(&heading));
        for result in failed {
            let step = format!("{} steps[{}] ({})", result.scenario, result.step, result.what);
            let line = format!("  {step}: expected {}", expectation(&result.expected));
            let _ = writeln!(out, "{}", style.failure(&line));
        }
    }
    out
}

/// Returns whether the event is a connection or disconnection, not a message.
fn is_connection(result: &StepResult) -> bool {
    let is_presence = result.topic.as_ref().is_some_and(|topic| topic.starts_with("$aws/events/presence/"));
    is_presence || matches!(result.effect, Some(Effect::Admitted { .. } | Effect::Rejected { .. } | Effect::Accepted))
}

/// Returns the name of an outcome in the summary.
fn kind(result: &StepResult) -> &'static str {
    match &result.effect {
        _ if result.denied => "denied by AWS IoT",
        None => "without effect",
        Some(Effect::Notified(_)) => "notified",
        Some(Effect::Quarantined { .. }) => "quarantined",
        Some(Effect::Suppressed) => "suppressed",
        Some(Effect::Duplicate) => "duplicate",
        Some(Effect::Admitted { .. }) => "admitted",
        Some(Effect::Rejected { .. }) => "rejected",
        Some(Effect::Accepted) => "accepted",
        Some(Effect::Done) => "done",
        Some(Effect::Stored { .. }) => "stored",
        Some(Effect::Refused { .. }) => "refused",
        Some(Effect::Desired(_)) => "desired",
        Some(Effect::Forwarded(_)) => "forwarded",
        Some(Effect::Connected) => "connected",
        Some(Effect::Disconnected) => "disconnected",
        Some(Effect::Recorded(_)) => "recorded",
        Some(Effect::Alarm(_)) => "alarm",
        Some(Effect::Retried { .. }) => "retried",
    }
}
