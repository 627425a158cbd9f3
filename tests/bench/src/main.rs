//! `make bench`: measures every function as it ships, compared with an empty function and with implementations in Node
//! and Python.
//!
//! Each subject is a real process. It receives events from a Lambda Runtime API host and calls a fake AWS over TLS;
//! both run in this program. Cold starts use a new process per event and alternate between subjects, so that other load
//! on the machine affects all alike. Warm events share a process. Batches use a process per size. The effects of every
//! event are checked, and an unexpected effect ends the benchmark.

#![allow(clippy::cast_precision_loss, reason = "no measurement here is exact to 52 bits")]

mod actuation;
mod aws;
mod batch;
mod cgroup;
mod clock;
mod dynamodb;
mod event;
mod expected;
mod function;
mod iot;
mod measurement;
mod process;
mod report;
mod revocation;
mod runtime_api;
mod sandbox;
mod sqs;
mod subject;
mod targets;
mod world;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::{
    batch::Size,
    cgroup::Cgroups,
    function::FUNCTIONS,
    measurement::{BatchMeasurements, EventMeasurements, Mode},
    sandbox::Sandbox,
    subject::{Peer, Subject},
    world::World,
};

/// Measures cold starts, warm latency, CPU, memory and size of every function and its peers.
#[derive(Debug, Parser)]
struct Options {
    /// Only these functions (the empty one is always included)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Cold starts per subject and mode
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    cold_runs: u32,
    /// Events per warm process; a fifth of that at 128 MB
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(5..))]
    events: u32,
    /// Rounds per batch size
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only this mode
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// The directory of the zips, with a subdirectory per function
    #[arg(long, default_value = "target/lambda")]
    zips: PathBuf,
    /// The output file
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let done = if arguments.next_if(|first| first == sandbox::LAUNCH).is_some() {
        sandbox::launch(arguments)
    } else {
        run(&Options::parse())
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs on one thread, which leaves the other cores to the functions; no response waits for a thread to wake up.
#[tokio::main(flavor = "current_thread")]
async fn run(options: &Options) -> Result<()> {
    tokio::select! {
        done = bench(options) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    }
}

async fn bench(options: &Options) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the package is not in a workspace")?;
    for name in &options.only {
        ensure!(
            FUNCTIONS.iter().any(|function| function.name == name),
            "unknown function {name}; known functions are {}",
            FUNCTIONS.iter().map(|it| it.name).collect::<Vec<_>>().join(", ")
        );
    }
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|it| it == name);

    let world = World::new().await?;
    let (subjects, mut notes) = world.subjects(root, &root.join(&options.zips), wanted)?;
    let mut modes = vec![(Mode::Full, None)];
    match Cgroups::find() {
        Ok(cgroups) => modes.push((Mode::Throttled, Some(cgroups))),
        Err(error) => {
            notes.push(format!("128mb: skipped, failed to create a cgroup with a CPU quota (are you root?): {error}"));
        }
    }
    modes.retain(|(mode, _)| options.mode.is_none_or(|wanted| wanted == *mode));

    prepare(options, &world, &subjects, &modes)?;
    let events = measure_events(options, &world, &subjects, &modes).await?;
    let mut batches = Vec::new();
    if modes.iter().any(|(mode, _)| *mode == Mode::Full) {
        batches = measure_batches(options, &world, &subjects).await?;
    }
    print!("{}", report::tables(&events, &batches, &notes));
    let json = root.join(&options.json);
    if let Some(dir) = json.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&json, report::json(&events, &batches)?)
        .with_context(|| format!("failed to write {}", json.display()))?;
    println!("\nAll results are in {}.", options.json.display());
    Ok(())
}

/// Returns how many events of a warm process are not measured, and how many are.
fn warm_events(options: &Options, mode: Mode) -> (u32, u32) {
    match mode {
        Mode::Full => (50, options.events),
        Mode::Throttled => (10, options.events / 5),
    }
}

/// Prepares a certificate for every event that needs one.
fn prepare(options: &Options, world: &World, subjects: &[Subject], modes: &[(Mode, Option<Cgroups>)]) -> Result<()> {
    let per_subject: u32 = modes
        .iter()
        .map(|(mode, _)| {
            let (unmeasured, measured) = warm_events(options, *mode);
            1 + options.cold_runs + unmeasured + measured
        })
        .sum();
    let devices = subjects.iter().filter(|subject| subject.needs_devices()).count();
    progress("certificates");
    world.aws.registry.prepare(devices * usize::try_from(per_subject)?)
}

async fn measure_events<'a>(
    options: &Options,
    world: &World,
    subjects: &'a [Subject],
    modes: &[(Mode, Option<Cgroups>)],
) -> Result<Vec<EventMeasurements<'a>>> {
    let runs: Vec<(&Subject, Mode, Option<&Cgroups>)> = modes
        .iter()
        .flat_map(|(mode, cgroups)| {
            let subjects = subjects.iter().filter(|subject| subject.is_measured_with_single_events());
            subjects.map(move |subject| (subject, *mode, cgroups.as_ref()))
        })
        .collect();
    let mut measured: Vec<EventMeasurements> =
        runs.iter().map(|(subject, mode, _)| EventMeasurements::new(subject, *mode)).collect();

    // The first round fills the disk cache and is not measured.
    for round in 0..=options.cold_runs {
        progress(&format!("cold starts, round {round} of {}", options.cold_runs));
        for ((subject, _, cgroups), measured) in runs.iter().zip(&mut measured) {
            let mut sandbox = Sandbox::start(subject, world, *cgroups).await?;
            let first = sandbox.event().await?;
            if round > 0 {
                measured.add_cold_start(sandbox.init, first);
            }
            sandbox.stop().await?;
        }
    }
    for ((subject, mode, cgroups), measured) in runs.iter().zip(&mut measured) {
        progress(&format!("warm events, {} {}", subject.name(), mode.name()));
        let (unmeasured, events) = warm_events(options, *mode);
        let mut sandbox = Sandbox::start(subject, world, *cgroups).await?;
        for _ in 0..unmeasured {
            sandbox.event().await?;
        }
        let before = sandbox.cpu();
        let mut durations = Vec::new();
        for _ in 0..events {
            durations.push(sandbox.event().await?);
        }
        let cpu_us = process::cpu_us_between(&before, &sandbox.cpu());
        measured.set_warm_run(durations, cpu_us, sandbox.peak_mib()?);
        sandbox.stop().await?;
    }
    progress("");
    Ok(measured)
}

/// Measures batches. Each size has its own process, because the peak memory is per process. The sizes and subjects of a
/// function alternate, so that changing load on the machine affects all alike.
async fn measure_batches<'a>(
    options: &Options,
    world: &World,
    subjects: &'a [Subject],
) -> Result<Vec<BatchMeasurements<'a>>> {
    let mut all = Vec::new();
    for function in FUNCTIONS {
        let mut running = Vec::new();
        for size in function.batches {
            // Peers are compared only with one threshold per thing.
            let is_compared = |it: &&Subject| it.peer == Peer::Rust || size.thresholds == 1;
            let of_function = subjects.iter().filter(|it| it.function_name() == function.name);
            for subject in of_function.filter(is_compared) {
                let sandbox = Sandbox::start(subject, world, None).await?;
                running.push((sandbox, *size, BatchMeasurements::new(subject, *size)));
            }
        }
        if running.is_empty() {
            continue;
        }
        // The first round compiles, connects and fills caches, and is not measured.
        for round in 0..=options.rounds {
            progress(&format!("batches, {}, round {round} of {}", function.name, options.rounds));
            for (sandbox, size, measured) in &mut running {
                let before = sandbox.cpu();
                let batches = batches_per_round(*size);
                for _ in 0..batches {
                    sandbox.batch(*size).await?;
                }
                if round > 0 {
                    measured.add_round(process::cpu_us_between(&before, &sandbox.cpu()), batches);
                }
            }
        }
        for (sandbox, _, mut measured) in running {
            measured.peak_mib = sandbox.peak_mib()?;
            sandbox.stop().await?;
            all.push(measured);
        }
    }
    progress("");
    Ok(all)
}

/// Returns the number of batches per round: enough to average out scheduling noise, within two minutes in total.
fn batches_per_round(size: Size) -> usize {
    (5000 / (size.readings() * size.thresholds)).clamp(1, 50)
}

/// Reports progress: on a terminal, in one line that is overwritten; elsewhere, in one line per report.
fn progress(what: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{what}");
        let _ = out.flush();
    } else if !what.is_empty() {
        let _ = writeln!(out, "{what}");
    }
}
