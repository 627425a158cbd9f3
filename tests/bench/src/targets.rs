//! The performance targets.

use std::fmt::Write;

use crate::{
    batch::Size,
    measurement::{BatchMeasurements, EventMeasurements, Mode},
    report::short,
    subject::Peer,
};

/// Compares `button` at 128 MB with its targets.
pub fn events(events: &[EventMeasurements]) -> String {
    let mut out = String::new();
    let find = |function: &str, peer| events.iter().find(|it| it.is(function, peer, Mode::Throttled));
    let (Some(button), Some(empty)) = (find("button", Peer::Rust), find("empty", Peer::Empty)) else {
        return out;
    };
    let slower = |peer| find("button", peer).map(|it| it.cold_ms() / button.cold_ms());
    let of_empty = button.cold_ms() / empty.cold_ms();
    out.push_str("\nbutton at 128 MB, including its first TLS handshakes\n\n");
    let mut line = |what, value, unit, holds: &dyn Fn(f64) -> bool| verdict(&mut out, what, value, unit, holds);
    line("cold start at most 4 times the empty function", Some(of_empty), "times", &at_most(4.0));
    line("cold start at least 40 times faster than Python", slower(Peer::Python), "times", &at_least(40.0));
    line("cold start at least 80 times faster than Node", slower(Peer::Node), "times", &at_least(80.0));
    line("zip under 3 MB", Some(button.zip_mib() * 1.048_576), "MB", &at_most(3.0));
    line("peak memory under 12 MiB", Some(button.peak_mib), "MiB", &at_most(12.0));
    out
}

/// Compares batches of `telemetry` with their targets.
pub fn batches(batches: &[BatchMeasurements]) -> String {
    let mut out = String::new();
    let find = |peer, readings| {
        let is_it = |it: &&BatchMeasurements| it.subject.peer == peer && it.size == Size::of(readings);
        batches.iter().filter(|it| it.subject.function_name() == "telemetry").find(is_it)
    };
    let Some(telemetry) = find(Peer::Rust, 1000) else { return out };
    let ours = telemetry.cpu_us_per_reading();
    let slower = |peer| find(peer, 1000).map(|it| it.cpu_us_per_reading() / ours);
    let large = find(Peer::Rust, 10_000);
    let growth = large.map(|it| it.cpu_us_per_reading() / ours);
    out.push_str("\ntelemetry with 1,000 readings, one per message\n\n");
    verdict(&mut out, "30 times less CPU than Python", slower(Peer::Python), "times", &at_least(30.0));
    verdict(&mut out, "12 times less CPU than Node", slower(Peer::Node), "times", &at_least(12.0));
    verdict(&mut out, "CPU per reading at 10,000 at most 1.15 times that", growth, "times", &at_most(1.15));
    verdict(&mut out, "peak memory at 10,000 under 40 MiB", large.map(|it| it.peak_mib), "MiB", &at_most(40.0));
    out
}

fn at_least(wanted: f64) -> impl Fn(f64) -> bool {
    move |it| it >= wanted
}

fn at_most(wanted: f64) -> impl Fn(f64) -> bool {
    move |it| it <= wanted
}

/// Writes a target and whether it is met.
fn verdict(out: &mut String, what: &str, value: Option<f64>, unit: &str, holds: &dyn Fn(f64) -> bool) {
    let verdict = match value {
        None => "not events".to_owned(),
        Some(value) if holds(value) => format!("yes: {} {unit}", short(value)),
        Some(value) => format!("NO:  {} {unit}", short(value)),
    };
    let _ = writeln!(out, "{what:<58}{verdict}");
}
