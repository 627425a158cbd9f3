//! Measurements and their statistics.

use std::time::Duration;

use crate::{
    batch::Size,
    subject::{Peer, Subject},
};

/// The CPU of a function after its first poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A full CPU
    #[value(name = "full")]
    Full,
    /// The share of a 128 MB Lambda function
    #[value(name = "128mb")]
    Throttled,
}

impl Mode {
    /// Returns the name in `bench.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Throttled => "128mb",
        }
    }

    /// Returns the heading of its table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Full => "full: a full CPU throughout",
            Self::Throttled => "128mb: a full CPU until the first poll, then 7.2 % of one",
        }
    }
}

/// The measurements of a subject in one mode.
#[derive(Debug)]
pub struct EventMeasurements<'a> {
    /// The subject.
    pub subject: &'a Subject,
    /// The mode.
    pub mode: Mode,
    init_ms: Vec<f64>,
    first_ms: Vec<f64>,
    /// The times of warm events, in milliseconds.
    pub warm_ms: Vec<f64>,
    /// The CPU time per warm event, in microseconds.
    pub cpu_us_per_event: f64,
    /// The peak memory.
    pub peak_mib: f64,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl<'a> EventMeasurements<'a> {
    /// Returns an empty collection.
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

    /// Adds a cold start.
    pub fn add_cold_start(&mut self, init: Duration, first: Duration) {
        self.init_ms.push(ms(init));
        self.first_ms.push(ms(first));
    }

    /// Sets the results of the warm run.
    pub fn set_warm_run(&mut self, durations: Vec<Duration>, cpu_us: f64, peak_mib: f64) {
        self.cpu_us_per_event = cpu_us / durations.len() as f64;
        self.warm_ms = durations.into_iter().map(ms).collect();
        self.peak_mib = peak_mib;
    }

    /// Returns the median time from start to first poll, in milliseconds.
    pub fn init(&self) -> f64 {
        median(&self.init_ms)
    }

    /// Returns the median time of the first event, in milliseconds.
    pub fn first(&self) -> f64 {
        median(&self.first_ms)
    }

    /// Returns the latency of the first event including the start, in milliseconds.
    pub fn cold_ms(&self) -> f64 {
        self.init() + self.first()
    }

    /// Returns the size of the deployment package in MiB.
    pub fn zip_mib(&self) -> f64 {
        self.subject.zip_bytes as f64 / f64::from(1 << 20)
    }

    /// Returns whether these are the measurements of this subject and mode.
    pub fn is(&self, function: &str, peer: Peer, mode: Mode) -> bool {
        self.subject.function_name() == function && self.subject.peer == peer && self.mode == mode
    }

    /// Returns the names, values and units for `bench.json`.
    pub fn metrics(&self) -> [(&'static str, f64, &'static str); 7] {
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

/// The measurements of a subject with batches of one size.
#[derive(Debug)]
pub struct BatchMeasurements<'a> {
    /// The subject.
    pub subject: &'a Subject,
    /// The size of the batches.
    pub size: Size,
    /// The CPU time per reading in each round, in microseconds.
    cpu_us: Vec<f64>,
    /// The peak memory.
    pub peak_mib: f64,
}

impl<'a> BatchMeasurements<'a> {
    /// Returns an empty collection.
    pub fn new(subject: &'a Subject, size: Size) -> Self {
        Self { subject, size, cpu_us: Vec::new(), peak_mib: 0.0 }
    }

    /// Adds a round of batches with its total CPU time in microseconds.
    pub fn add_round(&mut self, cpu_us: f64, batches: usize) {
        self.cpu_us.push(cpu_us / (batches * self.size.readings()) as f64);
    }

    /// Returns the minimum of all rounds in microseconds, because other work on the machine can only increase the CPU
    /// time.
    pub fn cpu_us_per_reading(&self) -> f64 {
        self.cpu_us.iter().copied().fold(f64::NAN, f64::min)
    }

    /// Returns the names, values and units for `bench.json`.
    pub fn metrics(&self) -> [(&'static str, f64, &'static str); 2] {
        [("cpu_us_per_reading", self.cpu_us_per_reading(), "us"), ("peak_mib", self.peak_mib, "MiB")]
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// Returns the median.
pub fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    let at = |rank: usize| values.get(rank).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

/// Returns the 99th percentile by nearest rank.
fn percentile_99(values: &[f64]) -> f64 {
    let values = sorted(values);
    let rank = (values.len() * 99).div_ceil(100).saturating_sub(1);
    values.get(rank).copied().unwrap_or(f64::NAN)
}
