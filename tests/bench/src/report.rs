//! The tables that people read and the rows that machines read.

use std::{fmt::Write, time::Duration};

use anyhow::Result;
use serde::Serialize;

use crate::{
    greenhouse::Size,
    subjects::{FUNCTIONS, Peer, Subject},
};

/// How much CPU a function gets once it has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A whole CPU
    #[value(name = "full")]
    Full,
    /// Lambda's share at 128 MB
    #[value(name = "128mb")]
    Throttled,
}

impl Mode {
    /// As in `bench.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Throttled => "128mb",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Full => "full: a whole CPU throughout",
            Self::Throttled => "128mb: a whole CPU until the first poll, then 7.2 % of one",
        }
    }
}

/// What was measured of one subject in one mode.
#[derive(Debug)]
pub struct Measured<'a> {
    subject: &'a Subject,
    mode: Mode,
    init_ms: Vec<f64>,
    first_ms: Vec<f64>,
    warm_ms: Vec<f64>,
    cpu_us_per_event: f64,
    peak_mib: f64,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl<'a> Measured<'a> {
    /// Nothing yet.
    pub fn new(subject: &'a Subject, mode: Mode) -> Self {
        Self {
            subject,
            mode,
            init_ms: Vec::new(),
            first_ms: Vec::new(),
            warm_ms: Vec::new(),
            cpu_us_per_event: 0.0,
            peak_mib: 0.0,
        }
    }

    /// One cold start.
    pub fn cold(&mut self, init: Duration, first: Duration) {
        self.init_ms.push(ms(init));
        self.first_ms.push(ms(first));
    }

    /// The warm run.
    pub fn warm(&mut self, took: Vec<Duration>, cpu_us: f64, peak_mib: f64) {
        self.cpu_us_per_event = cpu_us / took.len() as f64;
        self.warm_ms = took.into_iter().map(ms).collect();
        self.peak_mib = peak_mib;
    }

    fn init(&self) -> f64 {
        median(&self.init_ms)
    }

    fn first(&self) -> f64 {
        median(&self.first_ms)
    }

    /// What the first caller waits for.
    fn cold_ms(&self) -> f64 {
        self.init() + self.first()
    }

    fn zip_mib(&self) -> f64 {
        self.subject.zip_bytes as f64 / f64::from(1 << 20)
    }

    fn is(&self, function: &str, peer: Peer, mode: Mode) -> bool {
        self.subject.function_name() == function && self.subject.peer == peer && self.mode == mode
    }

    fn metrics(&self) -> [(&'static str, f64, &'static str); 7] {
        [
            ("init_ms", self.init(), "ms"),
            ("first_ms", self.first(), "ms"),
            ("warm_p50_ms", median(&self.warm_ms), "ms"),
            ("warm_p99_ms", percentile_99(&self.warm_ms), "ms"),
            ("cpu_us_per_event", self.cpu_us_per_event, "us"),
            ("peak_mib", self.peak_mib, "MiB"),
            ("zip_mib", self.zip_mib(), "MiB"),
        ]
    }
}

/// What was measured of one subject with batches of one size.
#[derive(Debug)]
pub struct InBulk<'a> {
    subject: &'a Subject,
    size: Size,
    /// Of each round, a reading.
    cpu_us: Vec<f64>,
    /// The most memory that was ever in use.
    pub peak_mib: f64,
}

impl<'a> InBulk<'a> {
    /// Nothing yet.
    pub fn new(subject: &'a Subject, size: Size) -> Self {
        Self { subject, size, cpu_us: Vec::new(), peak_mib: 0.0 }
    }

    /// One round of so many batches, which took so much CPU time together.
    pub fn round(&mut self, cpu_us: f64, batches: usize) {
        self.cpu_us.push(cpu_us / (batches * self.size.readings()) as f64);
    }

    /// Of the rounds the least: what other work on the machine does to one, through caches and shared cores, only adds.
    fn cpu_us_per_reading(&self) -> f64 {
        self.cpu_us.iter().copied().fold(f64::NAN, f64::min)
    }

    fn metrics(&self) -> [(&'static str, f64, &'static str); 2] {
        [("cpu_us_per_reading", self.cpu_us_per_reading(), "us"), ("peak_mib", self.peak_mib, "MiB")]
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    let at = |rank: usize| values.get(rank).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

/// By nearest rank.
fn percentile_99(values: &[f64]) -> f64 {
    let values = sorted(values);
    let rank = (values.len() * 99).div_ceil(100).saturating_sub(1);
    values.get(rank).copied().unwrap_or(f64::NAN)
}

#[derive(Serialize)]
struct Row {
    function: &'static str,
    peer: &'static str,
    mode: &'static str,
    /// Messages and readings of each, where it is about batches.
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

/// The rows of `target/bench.json`.
pub fn json(measured: &[Measured], in_bulk: &[InBulk]) -> Result<String> {
    let single = measured.iter().flat_map(|it| it.metrics().map(|metric| Row::new(it.subject, it.mode, None, metric)));
    let bulk = in_bulk
        .iter()
        .flat_map(|it| it.metrics().map(|metric| Row::new(it.subject, Mode::Full, Some(it.size), metric)));
    let rows: Vec<Row> = single.chain(bulk).collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

/// Everything for people, no line longer than 80 columns but for notes.
pub fn tables(measured: &[Measured], in_bulk: &[InBulk], notes: &[String]) -> String {
    let mut out = String::new();
    for mode in [Mode::Full, Mode::Throttled] {
        table(&mut out, measured, mode);
    }
    batches(&mut out, in_bulk);
    targets(&mut out, measured);
    targets_in_bulk(&mut out, in_bulk);
    out += "\ncold: init (start to first poll) + first (first event to its answer); medians.\n";
    out += "warm: one event after the other; at 128mb they use up the share and wait for the\n";
    out += "next 20 ms, so that in the long run each takes 14 times its CPU time.\n";
    out += "CPU: per warm event. peak: resident memory. zip: what is deployed; for node the\n";
    out += "handler and node_modules (no bundler), for python the handler alone, since\n";
    out += "boto3 is in Lambda's image. The peers make their clients outside the handler.\n";
    if !in_bulk.is_empty() {
        out += "batches: CPU time of all threads, the Lambda runtime's share included; of the\n";
        out += "rounds, the least. peak: the event itself included.\n";
    }
    for note in notes {
        let _ = writeln!(out, "{note}");
    }
    if let Some(load) = load().filter(|load| *load > 1.5) {
        let _ = writeln!(out, "Other work was running here (load {load}): times are too long.");
    }
    out
}

/// The mean number of programs that ran in the last minute, this one among them.
fn load() -> Option<f64> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    load.split(' ').next()?.parse().ok()
}

fn table(out: &mut String, measured: &[Measured], mode: Mode) {
    let rows: Vec<&Measured> = measured.iter().filter(|it| it.mode == mode).collect();
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
        for peer in [Peer::Python, Peer::Node] {
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

/// One line a function and size, all its subjects in it.
fn batches(out: &mut String, in_bulk: &[InBulk]) {
    if in_bulk.is_empty() {
        return;
    }
    out.push_str("\nbatches: warm, a whole CPU throughout\n\n");
    out.push_str("                           CPU, us a reading       times ours       peak, MiB\n");
    out.push_str("          messages each    rust  python   node   python   node   rust python node\n");
    for function in FUNCTIONS {
        for size in function.batches {
            let of = |peer| {
                let is_it = |it: &&InBulk| {
                    it.subject.function_name() == function.name && it.size == *size && it.subject.peer == peer
                };
                let found = in_bulk.iter().find(is_it);
                found.map_or((f64::NAN, f64::NAN), |it| (it.cpu_us_per_reading(), it.peak_mib))
            };
            let [(rust, rust_mib), (python, python_mib), (node, node_mib)] =
                [Peer::Rust, Peer::Python, Peer::Node].map(of);
            if rust.is_nan() {
                continue;
            }
            let _ = writeln!(
                out,
                "{:<9} {:>8} {:>4} {:>7} {:>7} {:>6} {:>8} {:>6} {:>6} {:>6} {:>4}",
                function.name,
                size.messages,
                size.each,
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

/// How much faster `ours` is, or how much slower.
fn compared(theirs: f64, ours: f64) -> String {
    if ours > theirs {
        format!("{} times slower", short(ours / theirs))
    } else {
        format!("{} times faster", short(theirs / ours))
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value {
        v if !v.is_finite() => "-".to_owned(),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// What the project promises of `button` at 128 MB, and whether it holds here.
fn targets(out: &mut String, measured: &[Measured]) {
    let find = |function: &str, peer| measured.iter().find(|it| it.is(function, peer, Mode::Throttled));
    let (Some(button), Some(empty)) = (find("button", Peer::Rust), find("empty", Peer::Empty)) else {
        return;
    };
    let slower = |peer| find("button", peer).map(|it| it.cold_ms() / button.cold_ms());
    let of_empty = button.cold_ms() / empty.cold_ms();
    out.push_str("\nbutton at 128 MB, its first TLS calls included\n\n");
    let mut line = |what, value, unit, holds: &dyn Fn(f64) -> bool| verdict(out, what, value, unit, holds);
    line("cold within 4 times the empty function", Some(of_empty), "times", &at_most(4.0));
    line("cold at least 40 times faster than Python", slower(Peer::Python), "times", &at_least(40.0));
    line("cold at least 80 times faster than Node", slower(Peer::Node), "times", &at_least(80.0));
    line("zip under 3 MB", Some(button.zip_mib() * 1.048_576), "MB", &at_most(3.0));
    line("peak memory under 12 MiB", Some(button.peak_mib), "MiB", &at_most(12.0));
}

/// The same of `telemetry`'s batches.
fn targets_in_bulk(out: &mut String, in_bulk: &[InBulk]) {
    let find = |peer, readings| {
        let is_it = |it: &&InBulk| it.subject.peer == peer && it.size == Size::of(readings);
        in_bulk.iter().filter(|it| it.subject.function_name() == "telemetry").find(is_it)
    };
    let Some(telemetry) = find(Peer::Rust, 1000) else { return };
    let ours = telemetry.cpu_us_per_reading();
    let slower = |peer| find(peer, 1000).map(|it| it.cpu_us_per_reading() / ours);
    let large = find(Peer::Rust, 10_000);
    let growth = large.map(|it| it.cpu_us_per_reading() / ours);
    out.push_str("\ntelemetry at 1,000 readings, one a message\n\n");
    verdict(out, "30 times less CPU than Python", slower(Peer::Python), "times", &at_least(30.0));
    verdict(out, "12 times less CPU than Node", slower(Peer::Node), "times", &at_least(12.0));
    verdict(out, "CPU a reading at 10,000 at most 1.15 times that", growth, "times", &at_most(1.15));
    verdict(out, "peak memory at 10,000 under 40 MiB", large.map(|it| it.peak_mib), "MiB", &at_most(40.0));
}

fn at_least(wanted: f64) -> impl Fn(f64) -> bool {
    move |it| it >= wanted
}

fn at_most(wanted: f64) -> impl Fn(f64) -> bool {
    move |it| it <= wanted
}

/// One line: a promise, and whether it holds here.
fn verdict(out: &mut String, what: &str, value: Option<f64>, unit: &str, holds: &dyn Fn(f64) -> bool) {
    let verdict = match value {
        None => "not measured".to_owned(),
        Some(value) if holds(value) => format!("yes: {} {unit}", short(value)),
        Some(value) => format!("NO:  {} {unit}", short(value)),
    };
    let _ = writeln!(out, "{what:<58}{verdict}");
}
