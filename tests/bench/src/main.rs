//! `make bench`: every function as it ships, beside an empty one, and the same work in Node and Python; for a new device,
//! what is usually done in Node.
//!
//! Each subject's real process is fed by a Lambda Runtime API host and calls a fake AWS over TLS, both in this program.
//! Cold: many fresh processes, one event each, all subjects in turn so that what else the machine does hits all alike.
//! Warm: one process, many events. Batches, for the functions that work in bulk: one process for each size, all of a
//! function's in turn. Every event's effects are checked; a run that misses one ends the bench.

#![allow(clippy::cast_precision_loss, reason = "no measurement here is exact to 52 bits")]

mod aws;
mod cgroup;
mod clock;
mod dynamodb;
mod greenhouse;
mod iot;
mod process;
mod report;
mod runtime_api;
mod sandbox;
mod sqs;
mod subjects;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::{
    cgroup::Cgroups,
    greenhouse::Size,
    report::{InBulk, Measured, Mode},
    sandbox::Sandbox,
    subjects::{FUNCTIONS, Subject, World},
};

/// Cold starts, warm latency, CPU, memory and size of every function, beside an empty one and the peers.
#[derive(Debug, Parser)]
struct Options {
    /// Only these functions (the empty one is always there)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Cold starts of each subject in each mode
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    cold_runs: u32,
    /// Events of each warm process; a fifth of it at 128 MB
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(5..))]
    events: u32,
    /// Rounds of batches of each size
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only this mode
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Where the functions' zips are, one directory each
    #[arg(long, default_value = "target/lambda")]
    zips: PathBuf,
    /// Where the rows go
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// What cargo says to every benchmark
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

/// One thread: the functions get the other cores, and no answer waits for a thread to wake.
#[tokio::main(flavor = "current_thread")]
async fn run(options: &Options) -> Result<()> {
    tokio::select! {
        done = bench(options) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    }
}

async fn bench(options: &Options) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests have no workspace")?;
    for name in &options.only {
        ensure!(
            FUNCTIONS.iter().any(|function| function.name == name),
            "there is no function {name}; there are: {}",
            FUNCTIONS.iter().map(|it| it.name).collect::<Vec<_>>().join(", ")
        );
    }
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|it| it == name);

    let world = World::new().await?;
    let (subjects, mut notes) = world.subjects(root, &root.join(&options.zips), wanted)?;
    let mut modes = vec![(Mode::Full, None)];
    match Cgroups::find() {
        Ok(cgroups) => modes.push((Mode::Throttled, Some(cgroups))),
        Err(why) => {
            notes.push(format!("128mb: left out, no cgroup with a CPU quota can be made here (are you root?): {why}"));
        }
    }
    modes.retain(|(mode, _)| options.mode.is_none_or(|wanted| wanted == *mode));

    prepare(options, &world, &subjects, &modes)?;
    let measured = measure(options, &world, &subjects, &modes).await?;
    let mut in_bulk = Vec::new();
    if modes.iter().any(|(mode, _)| *mode == Mode::Full) {
        in_bulk = measure_batches(options, &world, &subjects).await?;
    }
    print!("{}", report::tables(&measured, &in_bulk, &notes));
    let json = root.join(&options.json);
    if let Some(dir) = json.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&json, report::json(&measured, &in_bulk)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    println!("\nEvery row is in {}.", options.json.display());
    Ok(())
}

/// How many events a warm process is given that are not measured, and how many that are.
fn warm_events(options: &Options, mode: Mode) -> (u32, u32) {
    match mode {
        Mode::Full => (50, options.events),
        Mode::Throttled => (10, options.events / 5),
    }
}

/// A certificate for every event that is about one.
fn prepare(options: &Options, world: &World, subjects: &[Subject], modes: &[(Mode, Option<Cgroups>)]) -> Result<()> {
    let of_each: u32 = modes
        .iter()
        .map(|(mode, _)| {
            let (unmeasured, measured) = warm_events(options, *mode);
            1 + options.cold_runs + unmeasured + measured
        })
        .sum();
    let devices = subjects.iter().filter(|subject| subject.wants_devices()).count();
    progress("certificates");
    world.aws.registry.prepare(devices * usize::try_from(of_each)?)
}

async fn measure<'a>(
    options: &Options,
    world: &World,
    subjects: &'a [Subject],
    modes: &[(Mode, Option<Cgroups>)],
) -> Result<Vec<Measured<'a>>> {
    let runs: Vec<(&Subject, Mode, Option<&Cgroups>)> = modes
        .iter()
        .flat_map(|(mode, cgroups)| {
            let subjects = subjects.iter().filter(|subject| subject.takes_single_events());
            subjects.map(move |subject| (subject, *mode, cgroups.as_ref()))
        })
        .collect();
    let mut measured: Vec<Measured> = runs.iter().map(|(subject, mode, _)| Measured::new(subject, *mode)).collect();

    // The first round fills the disk's cache and counts for nothing.
    for round in 0..=options.cold_runs {
        progress(&format!("cold starts, round {round} of {}", options.cold_runs));
        for ((subject, _, cgroups), measured) in runs.iter().zip(&mut measured) {
            let mut sandbox = Sandbox::start(subject, world, *cgroups).await?;
            let first = sandbox.event().await?;
            if round > 0 {
                measured.cold(sandbox.init, first);
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
        let mut took = Vec::new();
        for _ in 0..events {
            took.push(sandbox.event().await?);
        }
        let cpu_us = process::cpu_us_between(&before, &sandbox.cpu());
        measured.warm(took, cpu_us, sandbox.peak_mib()?);
        sandbox.stop().await?;
    }
    progress("");
    Ok(measured)
}

/// Each size in processes of its own, so that the peak of one is not the other's, and all of a function's in turn, so
/// that the times of one hour are compared.
async fn measure_batches<'a>(options: &Options, world: &World, subjects: &'a [Subject]) -> Result<Vec<InBulk<'a>>> {
    let mut in_bulk = Vec::new();
    for function in FUNCTIONS {
        let mut running = Vec::new();
        for size in function.batches {
            for subject in subjects.iter().filter(|it| it.function_name() == function.name) {
                let sandbox = Sandbox::start(subject, world, None).await?;
                running.push((sandbox, *size, InBulk::new(subject, *size)));
            }
        }
        if running.is_empty() {
            continue;
        }
        // The first round counts for nothing: it compiles, connects, and fills caches.
        for round in 0..=options.rounds {
            progress(&format!("batches, {}, round {round} of {}", function.name, options.rounds));
            for (sandbox, size, measured) in &mut running {
                let before = sandbox.cpu();
                let batches = batches_of_a_round(*size);
                for _ in 0..batches {
                    sandbox.batch(*size).await?;
                }
                if round > 0 {
                    measured.round(process::cpu_us_between(&before, &sandbox.cpu()), batches);
                }
            }
        }
        for (sandbox, _, mut measured) in running {
            measured.peak_mib = sandbox.peak_mib()?;
            sandbox.stop().await?;
            in_bulk.push(measured);
        }
    }
    progress("");
    Ok(in_bulk)
}

/// Enough that a round is longer than the scheduler's whims, and that all of them together stay within two minutes.
fn batches_of_a_round(size: Size) -> usize {
    (5000 / size.readings()).clamp(1, 50)
}

/// What is being done, on one line that is overwritten, or a line each where nobody looks at a terminal.
fn progress(what: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{what}");
        let _ = out.flush();
    } else if !what.is_empty() {
        let _ = writeln!(out, "{what}");
    }
}
