//! `gatehouse doctor`: checks a deployment, and advises what to do.
//!
//! The checks are independent: a call that is denied or not supported affects only its own check, which then reports
//! [`Level::CannotCheck`].

mod clock;
mod functions;
mod iot;
mod notifications;
mod queues;
mod records;

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use anyhow::Result;
use clap::Args;
use futures_util::future::{FutureExt, join_all};
use serde::Serialize;

use crate::context::Context;
use crate::output::{self, escape, escape_line};
use crate::status::Status;

/// The arguments of `gatehouse doctor`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print only what is not ok.
    #[arg(long)]
    quiet: bool,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// No problem was found.
    Ok,
    /// The check could not be made.
    CannotCheck,
    /// Something will fail under some conditions.
    Warning,
    /// Something fails, or people are not notified.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::CannotCheck => "cannot check",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The name of the check.
    pub check: &'static str,
    /// The result.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// The findings of one check, in the order in which they are printed.
#[derive(Debug)]
pub struct Findings {
    check: &'static str,
    findings: Vec<Finding>,
}

impl Findings {
    fn new(check: &'static str) -> Self {
        Self { check, findings: Vec::new() }
    }

    fn add(&mut self, level: Level, text: impl Into<String>, advice: Option<&str>) {
        let advice = advice.map(ToOwned::to_owned);
        self.findings.push(Finding { check: self.check, level, text: text.into(), advice });
    }

    fn ok(&mut self, text: impl Into<String>) {
        self.add(Level::Ok, text, None);
    }

    fn warning(&mut self, text: impl Into<String>, advice: &str) {
        self.add(Level::Warning, text, Some(advice));
    }

    fn problem(&mut self, text: impl Into<String>, advice: &str) {
        self.add(Level::Problem, text, Some(advice));
    }

    /// Adds this text as ok, if there are no other findings.
    fn or_ok(&mut self, text: impl Into<String>) {
        if self.findings.is_empty() {
            self.ok(text);
        }
    }

    /// Returns the value of a look-up. Reports a failure as [`Level::CannotCheck`].
    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(Level::CannotCheck, format!("{error:#}"), None)).ok()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    problems: usize,
    warnings: usize,
    cannot_check: usize,
    findings: Vec<Finding>,
}

/// Runs all checks.
pub async fn run(arguments: &Arguments, context: &Context) -> Result<Status> {
    let mut report = Report::new(all(context).await);
    if arguments.quiet {
        report.findings.retain(|finding| finding.level != Level::Ok);
    }
    context.output.print(&report, || report.text())?;
    Ok(if report.problems > 0 { Status::Problems } else { Status::Success })
}

async fn all(context: &Context) -> Vec<Finding> {
    macro_rules! checks {
        ($($name:literal: $check:path,)*) => {
            vec![$(
                async {
                    let mut findings = Findings::new($name);
                    let result = $check(context, &mut findings).await;
                    findings.take(result);
                    findings.findings
                }
                .boxed(),
            )*]
        };
    }
    let checks = checks![
        "clock": clock::skew,
        "functions": functions::state,
        "event sources": functions::event_sources,
        "concurrency": functions::concurrency,
        "rules": iot::rules,
        "rule logs": iot::logging,
        "CAs": iot::cas,
        "documents": records::documents,
        "quarantine": records::quarantine,
        "dead letters": queues::dead_letters,
        "alarms": notifications::alarms,
        "subscriptions": notifications::subscriptions,
        "text messages": notifications::text_messages,
    ];
    join_all(checks).await.into_iter().flatten().collect()
}

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        Self {
            problems: count(Level::Problem),
            warnings: count(Level::Warning),
            cannot_check: count(Level::CannotCheck),
            findings,
        }
    }

    fn text(&self) -> String {
        let mut table = output::table(["CHECK", "RESULT", "FINDING"]);
        for Finding { check, level, text, .. } in &self.findings {
            table.add_row([*check, &level.to_string(), text].map(escape_line));
        }
        let mut text = if self.findings.is_empty() { String::new() } else { output::text(&table) + "\n" };
        let mut printed = HashSet::new();
        let advice = self.findings.iter().filter_map(|finding| finding.advice.as_deref());
        let advice: Vec<_> = advice.filter(|advice| printed.insert(*advice)).collect();
        for advice in &advice {
            let _ = writeln!(text, "- {}", escape(advice));
        }
        if !advice.is_empty() {
            text.push('\n');
        }
        text + &format!(
            "{} problems, {} warnings, {} checks that cannot be made",
            self.problems, self.warnings, self.cannot_check
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_check_is_reported_beside_what_it_found_before() {
        let mut findings = Findings::new("rules");
        findings.ok("12 rules");
        assert_eq!(findings.take(Err::<(), _>(anyhow::anyhow!("denied").context("failed to list the rules"))), None);
        let levels: Vec<_> = findings.findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::CannotCheck]);
        assert_eq!(findings.findings.last().map(|last| last.text.as_str()), Some("failed to list the rules: denied"));
    }

    #[test]
    fn report_counts_levels_and_prints_each_advice_once() {
        let mut findings = Findings::new("functions");
        findings.problem("a is missing", "Deploy again.");
        findings.problem("b is missing", "Deploy again.");
        findings.warning("c\u{1b} is old", "Update it.");
        let report = Report::new(findings.findings);
        assert_eq!((report.problems, report.warnings, report.cannot_check), (2, 1, 0));
        let text = report.text();
        assert_eq!(text.matches("Deploy again.").count(), 1, "{text}");
        assert!(text.contains("2 problems, 1 warnings") && !text.contains('\u{1b}'), "{text}");
    }
}
