//! `gatehouse cost`: estimates what a fleet costs in a month.

mod deployment;
mod model;
mod prices;

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cost::model::{Line, Workload};
use crate::cost::prices::Prices;
use crate::output::{self, Output};
use crate::status::Status;

/// The region whose prices apply if none is named.
const DEFAULT_REGION: &str = "us-east-1";

/// How many of the largest items are listed.
const LARGEST: usize = 5;

/// The arguments of `gatehouse cost`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Devices, connected all the time.
    #[arg(long, value_name = "NUMBER", default_value = "1000", value_parser = number)]
    devices: f64,
    /// Messages with readings per device and minute.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = number)]
    per_minute: f64,
    /// Readings in a message.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = at_least_one)]
    readings_per_message: f64,
    /// Size of a message in bytes.
    #[arg(long, value_name = "BYTES", default_value = "200", value_parser = number)]
    message_bytes: f64,
    /// Thresholds that watch each device.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = number)]
    thresholds: f64,
    /// State transitions of alarms per day, in the whole fleet.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = number)]
    transitions_per_day: f64,
    /// Clicks on buttons per day, in the whole fleet.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = number)]
    clicks_per_day: f64,
    /// Rings of doorbells per day, in the whole fleet. Text messages cost extra.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = number)]
    rings_per_day: f64,
    /// How often a device connects again per day.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = number)]
    reconnects_per_day: f64,
    /// Shadow updates per device and day.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = number)]
    shadow_updates_per_day: f64,
    /// Forwarded messages per day, in the whole fleet.
    #[arg(long, value_name = "NUMBER", default_value = "0", value_parser = number)]
    forwarded_per_day: f64,
    /// `TelemetryRetentionDays`: how long readings are kept.
    #[arg(long, value_name = "DAYS", default_value = "90", value_parser = number)]
    retention_days: f64,
    /// `LogRetentionDays`: how long logs are kept.
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = number)]
    log_retention_days: f64,
    /// `MemorySize`: memory of each function in MB.
    #[arg(long, value_name = "MB", default_value = "128", value_parser = clap::value_parser!(u16).range(128..=10240))]
    memory: u16,
    /// `Architecture`: the processors.
    #[arg(long, value_enum, default_value = "arm64")]
    arch: Architecture,
    /// Log level of the functions. INFO has a line for each batch.
    #[arg(long, value_enum, ignore_case = true, default_value = "info")]
    log_level: LogLevel,
    /// `BasicIngest`: devices publish readings directly to the rule.
    #[arg(long)]
    basic_ingest: bool,
}

/// A processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Architecture {
    /// Graviton.
    Arm64,
    /// Intel and AMD.
    #[value(name = "x86_64")]
    X86,
}

/// A log level, as far as the cost depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    /// A line for each batch.
    Info,
    /// Only warnings and errors.
    Warn,
}

fn number(text: &str) -> Result<f64, &'static str> {
    let number = text.replace('_', "").parse().ok().filter(|number| (0.0..=1e12).contains(number));
    number.ok_or("it must be a number from 0 on")
}

fn at_least_one(text: &str) -> Result<f64, &'static str> {
    number(text).ok().filter(|number| *number >= 1.0).ok_or("it must be a number from 1 on")
}

impl Arguments {
    fn workload(&self) -> Workload {
        Workload {
            devices: self.devices,
            messages_per_minute: self.per_minute,
            readings_per_message: self.readings_per_message,
            message_bytes: self.message_bytes,
            thresholds: self.thresholds,
            transitions_per_day: self.transitions_per_day,
            clicks_per_day: self.clicks_per_day,
            rings_per_day: self.rings_per_day,
            reconnects_per_day: self.reconnects_per_day,
            shadow_updates_per_day: self.shadow_updates_per_day,
            forwarded_per_day: self.forwarded_per_day,
            retention_days: self.retention_days,
            log_retention_days: self.log_retention_days,
            memory: f64::from(self.memory),
            is_arm: self.arch == Architecture::Arm64,
            is_basic_ingest: self.basic_ingest,
            has_log_lines: self.log_level == LogLevel::Info,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    region: String,
    /// The dates of the oldest and the newest price.
    prices_from: String,
    prices_to: String,
    workload: Workload,
    total_usd: f64,
    by_service: BTreeMap<&'static str, f64>,
    by_capability: BTreeMap<&'static str, f64>,
    lines: Vec<Line>,
}

/// Prints the estimate. Needs neither credentials nor a deployment.
pub fn run(arguments: &Arguments, region: Option<&str>, output: Output) -> Result<Status> {
    let region = region.unwrap_or(DEFAULT_REGION);
    let prices = Prices::of_region(region)?;
    let workload = arguments.workload();
    let lines = model::estimate(&workload, &prices)?;
    let (mut by_service, mut by_capability) = (BTreeMap::new(), BTreeMap::new());
    for line in &lines {
        *by_service.entry(line.service).or_default() += line.usd;
        *by_capability.entry(line.capability.name()).or_default() += line.usd;
    }
    let (from, to) = prices.dates();
    let report = Report {
        region: region.to_owned(),
        prices_from: from.to_owned(),
        prices_to: to.to_owned(),
        workload,
        total_usd: lines.iter().map(|line| line.usd).sum(),
        by_service,
        by_capability,
        lines,
    };
    output.print(&report, || report.text())?;
    Ok(Status::Success)
}

impl Report {
    fn text(&self) -> String {
        let share =
            |usd: f64| format!("{:.0} %", if self.total_usd > 0.0 { usd / self.total_usd * 100.0 } else { 0.0 });
        let sums = |title: &str, sums: &BTreeMap<&'static str, f64>| {
            let mut sums: Vec<_> = sums.iter().collect();
            sums.sort_by(|a, b| b.1.total_cmp(a.1));
            let mut table = amounts([title, "USD", "SHARE"]);
            for (name, usd) in sums {
                table.add_row([(*name).to_owned(), format!("{usd:.2}"), share(*usd)]);
            }
            output::text(&table)
        };
        let mut largest = amounts(["LARGEST ITEMS", "USD", "SHARE"]);
        for Line { capability, unit, quantity, usd, .. } in self.lines.iter().take(LARGEST) {
            let what = format!("{}: {} {unit}", capability.name(), approximate(*quantity));
            largest.add_row([what, format!("{usd:.2}"), share(*usd)]);
        }
        format!(
            "{}\n{}\n{}\nTotal: {:.2} USD per month in {}, by list prices of {} to {}, without free tiers.\n",
            sums("SERVICE", &self.by_service),
            sums("CAPABILITY", &self.by_capability),
            output::text(&largest),
            self.total_usd,
            self.region,
            self.prices_from,
            self.prices_to
        )
    }
}

/// Starts a table whose columns are numbers, except the first.
fn amounts(headers: [&str; 3]) -> comfy_table::Table {
    let mut table = output::table(headers);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    table
}

/// Formats a quantity with three significant digits.
fn approximate(quantity: f64) -> String {
    let (divided, suffix) = match quantity {
        q if q >= 1e9 => (q / 1e9, " billion"),
        q if q >= 1e6 => (q / 1e6, " million"),
        q if q >= 1e3 => (q / 1e3, " thousand"),
        q => (q, ""),
    };
    let digits = match divided {
        d if suffix.is_empty() && d.fract() == 0.0 => 0,
        d if d >= 100.0 => 0,
        d if d >= 10.0 => 1,
        _ => 2,
    };
    format!("{divided:.digits$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_digits() {
        let expected = [
            (438_000_000.0, "438 million"),
            (5_256_000.0, "5.26 million"),
            (62.0, "62"),
            (12.5, "12.5"),
            (1_234.0, "1.23 thousand"),
            (4.38e9, "4.38 billion"),
        ];
        for (quantity, text) in expected {
            assert_eq!(approximate(quantity), text);
        }
    }

    #[test]
    fn numbers_may_have_underscores_and_no_sign() {
        assert_eq!(number("10_000"), Ok(10_000.0));
        for text in ["-1", "NaN", "inf", "", "many"] {
            assert!(number(text).is_err(), "{text}");
        }
        assert!(at_least_one("0.5").is_err());
    }
}
