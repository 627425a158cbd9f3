//! Plays scenarios on a local cloud and compares the outcome of each event with the expected one.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use clap::Parser;
use local_cloud::aws::Clients;
use local_cloud::cloud::Cloud;
use local_cloud::deploy::Deployment;
use local_cloud::destination::DestinationQueue;
use local_cloud::isolation::Account;
use local_cloud::player::{Enrollment, Player, StepResult, play_all};
use local_cloud::progress::Progress;
use local_cloud::report::{self, Style};
use local_cloud::scenario::{self, Scenario};
use local_cloud::{cli, deploy, supervisor, tools};
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
}

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
    let cloud = progress.step("Starting the local cloud", Cloud::start(&log, &[])).await?;
    let player = Arc::new(set_up(&cloud, &scenarios, progress).await?);

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
    if options.json {
        println!("{:#}", report::json(&results, duration));
    } else {
        print!("{}", report::summary(&results, duration, style));
    }
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Deploys everything that the scenarios need, and registers their devices.
async fn set_up(cloud: &Cloud, scenarios: &[Scenario], progress: Progress) -> Result<Player> {
    let account = Account::primary();
    let destination = match scenario::destination(scenarios)? {
        Some(destination) => {
            let account = Account::new(&*destination.account)?;
            Some(DestinationQueue::new(cloud, account, &destination.queue, false))
        }
        None => None,
    };
    let parameters = destination.as_ref().map(DestinationQueue::parameters);
    let parameters: Vec<_> = parameters.iter().flatten().map(|(name, value)| (*name, value.as_str())).collect();
    let deployment = deploy::deploy_gatehouse(cloud, &account, "gatehouse", &parameters, progress).await?;
    if let Some(queue) = &destination {
        let deploying = queue.deploy(cloud, &account, deployment.output("ForwardRoleName")?);
        progress.step("Deploying the destination queue", deploying).await?;
    }

    let clients = Clients::new(cloud.endpoint, &account);
    let new_things: HashSet<&str> = scenarios.iter().flat_map(Scenario::new_things).collect();
    let things = policies(scenarios, &new_things, &deployment)?;
    let (registered, total) = (AtomicUsize::new(0), things.len());
    let state = || format!("{}/{total}", registered.load(Ordering::Relaxed));
    let registering = Player::new(cloud, &clients, &deployment, things, &registered);
    let no_reports = &mut mpsc::unbounded_channel().1;
    let mut player = progress.counted("Registering devices", state, no_reports, registering).await?;
    if let Some(queue) = destination {
        player = player.with_destination(queue);
    }
    if scenarios.iter().any(Scenario::needs_certificate_authority) {
        let enrollment = Enrollment::new(&clients, deployment.output("DevicesTable")?);
        let enrollment = progress.step("Registering a certificate authority", enrollment).await?;
        player = player.with_new_things(enrollment, new_things);
    }
    Ok(player)
}

/// Returns the IoT policy of each thing that is not new to AWS IoT.
fn policies<'a>(
    scenarios: &'a [Scenario],
    new_things: &HashSet<&str>,
    deployment: &'a Deployment,
) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut policies = BTreeMap::new();
    for scenario in scenarios {
        for step in scenario.steps.iter().filter(|step| !new_things.contains(&*step.thing)) {
            let output = scenario.policies.get(&step.thing).map_or("DevicePolicy", String::as_str);
            policies.insert(&*step.thing, deployment.output(output)?);
        }
    }
    Ok(policies)
}
