//! Performance goals, and whether they are met.

use std::fmt::Write;

use crate::{
    batch::Size,
    measurement::{BatchMeasurements, EventMeasurements, Mode},
    report::short,
    subject::Peer,
};

/// Goals for batches: the minimum CPU time of the Python peer and of the Node peer, as multiples of the function's.
const BATCHES: [(&str, Size, f64, f64); 4] = [
    ("telemetry", Size::of(1000), 30.0, 12.0),
    ("telemetry", Size::of_arrays(1000, 10), 40.0, 15.0),
    ("alarm", Size::of(1000), 15.0, 10.0),
    ("forward", Size::of(100), 10.0, 6.0),
];

/// A bound on a measurement.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A measurement, its bound, and its unit.
struct Goal {
    what: String,
    bound: Bound,
    value: f64,
    unit: &'static str,
}

/// Compares the measurements with their goals.
pub fn table(events: &[EventMeasurements], batches: &[BatchMeasurements]) -> String {
    let goals: Vec<Goal> = cold_start(events).into_iter().chain(cpu(batches)).collect();
    let mut out = String::new();
    if goals.is_empty() {
        return out;
    }
    out.push_str("\ngoals                                                  goal  measured\n\n");
    for Goal { what, bound, value, unit } in goals {
        let (word, limit, is_met) = match bound {
            Bound::AtLeast(limit) => ("at least", limit, value >= limit),
            Bound::AtMost(limit) => ("at most", limit, value <= limit),
        };
        let verdict = if is_met { "met" } else { "MISSED" };
        let _ = writeln!(out, "{what:<46} {word:>8} {limit:>4} {:>9} {unit:<3} {verdict}", short(value));
    }
    out
}

/// Returns the goals for `button` at 128 MB; its cold start includes the first TLS handshakes.
fn cold_start(events: &[EventMeasurements]) -> Vec<Goal> {
    let find = |function: &str, peer| events.iter().find(|it| it.is(function, peer, Mode::Throttled));
    let (Some(button), Some(empty)) = (find("button", Peer::Rust), find("empty", Peer::Empty)) else {
        return Vec::new();
    };
    let goal = |what: &str, bound, value, unit| Goal { what: format!("button at 128 MB: {what}"), bound, value, unit };
    let slower = |peer, limit| {
        let theirs = find("button", peer)?;
        let what = format!("cold, {} takes", peer.name());
        Some(goal(&what, Bound::AtLeast(limit), theirs.cold_ms() / button.cold_ms(), "x"))
    };
    let of_empty = button.cold_ms() / empty.cold_ms();
    let mut goals = vec![goal("cold, of the empty function", Bound::AtMost(3.5), of_empty, "x")];
    goals.extend(slower(Peer::Python, 40.0));
    goals.extend(slower(Peer::Node, 80.0));
    goals.push(goal("zip", Bound::AtMost(3.0), button.zip_mib() * 1.048_576, "MB"));
    goals.push(goal("peak memory", Bound::AtMost(12.0), button.peak_mib, "MiB"));
    goals
}

/// Returns the goals for batches.
fn cpu(batches: &[BatchMeasurements]) -> Vec<Goal> {
    let find = |function: &str, size, peer| {
        let is_it = |it: &&BatchMeasurements| it.subject.peer == peer && it.size == size;
        batches.iter().filter(|it| it.subject.function_name() == function).find(is_it)
    };
    let mut goals = Vec::new();
    for (function, size, python, node) in BATCHES {
        let Some(ours) = find(function, size, Peer::Rust) else { continue };
        for (peer, limit) in [(Peer::Python, python), (Peer::Node, node)] {
            let Some(theirs) = find(function, size, peer) else { continue };
            goals.push(Goal {
                what: format!("{function}, {size}: CPU, {} takes", peer.name()),
                bound: Bound::AtLeast(limit),
                value: theirs.cpu_us_per_reading() / ours.cpu_us_per_reading(),
                unit: "x",
            });
        }
    }
    let telemetry = |messages| find("telemetry", Size::of(messages), Peer::Rust);
    if let (Some(ours), Some(large)) = (telemetry(1000), telemetry(10_000)) {
        let goal = |what: &str, bound, value, unit| Goal { what: what.to_owned(), bound, value, unit };
        let growth = large.cpu_us_per_reading() / ours.cpu_us_per_reading();
        goals.push(goal("telemetry, 10000x1: CPU, of that at 1000x1", Bound::AtMost(1.15), growth, "x"));
        goals.push(goal("telemetry, 10000x1: peak memory", Bound::AtMost(40.0), large.peak_mib, "MiB"));
    }
    goals
}
