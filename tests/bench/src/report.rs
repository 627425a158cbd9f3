//! The report: tables for people and rows for machines.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use crate::{
    batch::Size,
    function::FUNCTIONS,
    measurement::{BatchMeasurements, EventMeasurements, Mode, median},
    subject::{Peer, Subject},
    targets,
};

#[derive(Serialize)]
struct Row {
    function: &'static str,
    peer: &'static str,
    mode: &'static str,
    /// The batch size, for batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<String>,
    metric: &'static str,
    value: f64,
    unit: &'static str,
}

impl Row {
    fn new(subject: &Subject, mode: Mode, batch: Option<Size>, metric: (&'static str, f64, &'static str)) -> Self {
        let (metric, value, unit) = metric;
        Self {
            function: subject.function_name(),
            peer: subject.peer.name(),
            mode: mode.name(),
            batch: batch.map(|size| size.to_string()),
            metric,
            value: (value * 1e4).round() / 1e4,
            unit,
        }
    }
}

/// Returns the rows of `target/bench.json`.
pub fn json(events: &[EventMeasurements], batches: &[BatchMeasurements]) -> Result<String> {
    let single = events.iter().flat_map(|it| it.metrics().map(|metric| Row::new(it.subject, it.mode, None, metric)));
    let bulk = batches
        .iter()
        .flat_map(|it| it.metrics().map(|metric| Row::new(it.subject, Mode::Full, Some(it.size), metric)));
    let rows: Vec<Row> = single.chain(bulk).collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

/// Returns the report for people, in 80 columns except for notes.
pub fn tables(events: &[EventMeasurements], batches: &[BatchMeasurements], notes: &[String]) -> String {
    let mut out = String::new();
    for mode in [Mode::Full, Mode::Throttled] {
        table(&mut out, events, mode);
    }
    batch_table(&mut out, batches);
    out.push_str(&targets::table(events, batches));
    out += "\ncold: init (start to first poll) + first (first event to its response); medians.\n";
    out += "warm: one event after another; at 128mb they exhaust the CPU share and wait for\n";
    out += "the next 20 ms period, so each takes about 14 times its CPU time.\n";
    out += "CPU: per warm event. peak: resident memory. zip: deployment package; for node the\n";
    out += "handler and node_modules (no bundler), for python the handler only, since\n";
    out += "Lambda's image has boto3. The peers create their clients outside the handler.\n";
    if !batches.is_empty() {
        out += "batches: CPU time of all threads, including the Lambda runtime; the minimum of\n";
        out += "all rounds. peak: including the event itself.\n";
    }
    for note in notes {
        let _ = writeln!(out, "{note}");
    }
    if let Some(load) = load().filter(|load| *load > 1.5) {
        let _ = writeln!(out, "Other work was running on this machine (load {load}): times are too long.");
    }
    out
}

/// Returns the load average of the last minute.
fn load() -> Option<f64> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    load.split(' ').next()?.parse().ok()
}

fn table(out: &mut String, events: &[EventMeasurements], mode: Mode) {
    let rows: Vec<&EventMeasurements> = events.iter().filter(|it| it.mode == mode).collect();
    let Some(empty) = rows.iter().find(|it| it.subject.peer == Peer::Empty) else {
        return;
    };
    let _ = writeln!(out, "\n{}\n", mode.title());
    out.push_str("                     cold, ms                  warm, ms     CPU   peak    zip\n");
    out.push_str("                 init   first    both  times    p50    p99      us    MiB    MiB\n");
    for it in &rows {
        let [_, _, (_, p50, _), (_, p99, _), ..] = it.metrics();
        let _ = writeln!(
            out,
            "{:<8} {:<6}{:>6} {:>7} {:>7} {:>6} {:>6} {:>6} {:>7} {:>6} {:>6}",
            it.subject.function_name(),
            it.subject.peer.name().trim_end_matches("empty"),
            short(it.init()),
            short(it.first()),
            short(it.cold_ms()),
            short(it.cold_ms() / empty.cold_ms()),
            short(p50),
            short(p99),
            short(it.cpu_us_per_event),
            short(it.peak_mib),
            short(it.zip_mib()),
        );
    }
    for it in &rows {
        let function = it.subject.function_name();
        if it.subject.peer != Peer::Rust {
            continue;
        }
        for peer in [Peer::AwsLc, Peer::Python, Peer::Node] {
            if let Some(theirs) = rows.iter().find(|row| row.is(function, peer, mode)) {
                let _ = writeln!(
                    out,
                    "{function} is {} than {} cold, {} warm",
                    compared(theirs.cold_ms(), it.cold_ms()),
                    peer.name(),
                    compared(median(&theirs.warm_ms), median(&it.warm_ms)),
                );
            }
        }
    }
}

/// Writes a line per function and batch size, with all subjects.
fn batch_table(out: &mut String, batches: &[BatchMeasurements]) {
    if batches.is_empty() {
        return;
    }
    out.push_str("\nbatches: warm, a full CPU throughout\n\n");
    out.push_str("                                   CPU, us/reading         times rust       peak, MiB\n");
    out.push_str("          messages each applied    rust  python   node   python   node   rust python node\n");
    for function in FUNCTIONS {
        for size in function.batches {
            let of = |peer| {
                let is_it = |it: &&BatchMeasurements| {
                    it.subject.function_name() == function.name && it.size == *size && it.subject.peer == peer
                };
                let found = batches.iter().find(is_it);
                found.map_or((f64::NAN, f64::NAN), |it| (it.cpu_us_per_reading(), it.peak_mib))
            };
            let [(rust, rust_mib), (python, python_mib), (node, node_mib)] =
                [Peer::Rust, Peer::Python, Peer::Node].map(of);
            if rust.is_nan() {
                continue;
            }
            let _ = writeln!(
                out,
                "{:<9} {:>8} {:>4} {:>7} {:>7} {:>7} {:>6} {:>8} {:>6} {:>6} {:>6} {:>4}",
                function.name,
                size.messages,
                size.each,
                size.thresholds,
                short(rust),
                short(python),
                short(node),
                short(python / rust),
                short(node / rust),
                short(rust_mib),
                short(python_mib),
                short(node_mib),
            );
        }
    }
}

/// Returns how many times faster or slower `ours` is.
fn compared(theirs: f64, ours: f64) -> String {
    if ours > theirs {
        format!("{} times slower", short(ours / theirs))
    } else {
        format!("{} times faster", short(theirs / ours))
    }
}

/// Formats a number with three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value {
        v if !v.is_finite() => "-".to_owned(),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}
