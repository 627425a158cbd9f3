//! Plays scenarios on a local cloud and compares the outcome of each event with the expected one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use local_cloud::cloud::Cloud;
use local_cloud::isolation::Account;
use local_cloud::player::{Paths, StepResult, play_all, set_up};
use local_cloud::progress::Progress;
use local_cloud::report::{self, Style};
use local_cloud::scenario::{self, Scenario};
use local_cloud::{cli, supervisor, tools};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Plays scenarios on a local cloud and compares the outcome of each event with the expected one.
///
/// Exits with 0 if all outcomes are as expected, with 1 if any differs, and with 2 if a scenario is invalid.
#[derive(Debug, Parser)]
#[command(name = "replay")]
struct Options {
    /// Scenario files; all of events/scenarios by default.
    files: Vec<PathBuf>,

    /// Writes one JSON document to standard output, for machines.
    #[arg(long)]
    json: bool,

    /// Also writes a report to this file: a web page with the path of each event.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Maximum number of events whose paths are in a report.
const MAX_PATHS: usize = 20_000;

fn main() -> ExitCode {
    if let Some(code) = supervisor::main() {
        return code;
    }
    let options = Options::parse();
    cli::run(|| replay(options))
}

async fn replay(options: Options) -> Result<ExitCode> {
    let started_at = Instant::now();
    let scenarios = match scenario::read_all(&options.files) {
        Ok(scenarios) => scenarios,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    tools::require_zips()?;

    let progress = Progress::new();
    let mut directory = cli::RunDirectory::new("replay")?;
    let log = directory.path().join("cloud.log");
    // At DEBUG, functions log each event of a batch, which a report needs.
    let settings: &[_] = if options.html.is_some() { &[("AWS_LAMBDA_LOG_LEVEL", "DEBUG")] } else { &[] };
    let cloud = progress.step("Starting the local cloud", Cloud::start(&log, settings)).await?;
    let paths = if options.html.is_some() { Paths::Kept(MAX_PATHS) } else { Paths::Forgotten };
    let player = Arc::new(set_up(&cloud, &Account::primary(), &scenarios, paths, progress).await?);

    let total: usize = scenarios.iter().flat_map(|scenario| &scenario.steps).map(|step| step.times.get()).sum();
    let (sender, mut reports) = mpsc::unbounded_channel();
    let style = Style::stdout();
    let on_complete = |scenario: &Scenario, results: &[StepResult]| {
        if !options.json {
            let _ = sender.send(report::scenario(scenario, results, style));
        }
    };
    let state = || format!("{}/{total}", player.played());
    let playing = play_all(&player, &scenarios, on_complete);
    let results = progress.counted("Playing events", state, &mut reports, playing).await;
    let is_success = results.as_ref().is_ok_and(|results| results.iter().all(|result| result.problem.is_none()));
    if !is_success {
        directory.keep();
        eprintln!("The log of the local cloud is {}", log.display());
    }
    cloud.check()?;
    let results = results?;
    let duration = started_at.elapsed();
    if let Some(file) = &options.html {
        let page = report::html(&scenarios, &results, player.observer(), duration);
        std::fs::write(file, page).with_context(|| format!("failed to write {}", file.display()))?;
        eprintln!("The report is {}", file.display());
    }
    if options.json {
        println!("{:#}", report::json(&results, duration));
    } else {
        print!("{}", report::summary(&results, duration, style));
    }
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
