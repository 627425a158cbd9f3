//! Plays scenarios on a local cloud with everything deployed, and tells what came of each event.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use clap::Parser;
use tests::aws::Clients;
use tests::cloud::Cloud;
use tests::isolation::Account;
use tests::partner::Partner;
use tests::play::{Newcomers, Played, Stage, play_all};
use tests::progress::Progress;
use tests::report::{self, Style};
use tests::scenario::{self, Scenario};
use tests::{command, deploy, keeper, tools};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Plays scenarios on a local cloud with everything deployed, and tells what came of each event.
///
/// Exits with 0 when all came as the scenarios expect, with 1 when something did not, and with 2 for a scenario that
/// cannot be read.
#[derive(Debug, Parser)]
#[command(name = "replay")]
struct Options {
    /// Scenario files; all of events/scenarios where none is named.
    files: Vec<PathBuf>,

    /// One JSON document on standard output, for machines.
    #[arg(long)]
    json: bool,
}

/// The account to which messages are forwarded.
const PARTNER: &str = "444455556666";

fn main() -> ExitCode {
    if let Some(code) = keeper::main() {
        return code;
    }
    let options = Options::parse();
    command::run(|| replay(options))
}

async fn replay(options: Options) -> Result<ExitCode> {
    let begin = Instant::now();
    let scenarios = match scenario::read_all(&options.files) {
        Ok(scenarios) => scenarios,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    tools::require_zips()?;

    let progress = Progress::new();
    let mut directory = command::Directory::new("replay")?;
    let log = directory.path().join("cloud.log");
    let account = Account::first();
    let cloud = progress.step("Starting the local cloud", Cloud::start(&log, &[])).await?;
    let has_partner = scenarios.iter().any(Scenario::has_partner);
    let partner = if has_partner { Some(Partner::new(&cloud, Account::new(PARTNER)?, false)) } else { None };
    let parameters = partner.as_ref().map(Partner::parameters);
    let parameters: Vec<_> = parameters.iter().flatten().map(|(name, value)| (*name, value.as_str())).collect();
    let deployment = deploy::everything(&cloud, &account, "gatehouse", &parameters, progress).await?;
    if let Some(partner) = &partner {
        let deploying = partner.deploy(&cloud, &account, deployment.output("ForwardRoleName")?);
        progress.step("Deploying in the partner's account", deploying).await?;
    }

    let new: HashSet<&str> = scenarios.iter().flat_map(Scenario::newcomers).collect();
    let mut things: Vec<&str> =
        scenarios.iter().flat_map(|scenario| &scenario.steps).map(|step| &*step.thing).collect();
    things.retain(|thing| !new.contains(thing));
    things.sort_unstable();
    things.dedup();
    let publishers: HashSet<&str> =
        scenarios.iter().flat_map(|scenario| &scenario.publishers).map(String::as_str).collect();
    let (registered, total) = (AtomicUsize::new(0), things.len());
    let (of_devices, of_publishers) = (deployment.output("DevicePolicy")?, deployment.output("PublisherPolicy")?);
    let policy = |thing: &str| if publishers.contains(thing) { of_publishers } else { of_devices };
    let things = things.into_iter().map(|thing| (thing, policy(thing)));
    let clients = Clients::new(cloud.endpoint, &account);
    let stage = Stage::new(&cloud, &clients, &deployment, things, &registered);
    let how_far = || format!("{}/{total}", registered.load(Ordering::Relaxed));
    let mut stage = progress.counted("Registering devices", how_far, &mut mpsc::unbounded_channel().1, stage).await?;
    if let Some(partner) = partner {
        stage = stage.with_partner(partner);
    }
    if scenarios.iter().any(Scenario::has_connections) {
        let newcomers = Newcomers::new(&clients, deployment.output("DevicesTable")?);
        stage = stage.with(progress.step("Registering a certificate authority", newcomers).await?, new);
    }
    let stage = Arc::new(stage);

    let total: usize = scenarios.iter().flat_map(|scenario| &scenario.steps).map(|step| step.times.get()).sum();
    let (say, mut said) = mpsc::unbounded_channel();
    let style = Style::stdout();
    let ended = |scenario: &Scenario, played: &[Played]| {
        if !options.json {
            let _ = say.send(report::scenario(scenario, played, style));
        }
    };
    let how_far = || format!("{}/{total}", stage.played());
    let playing = play_all(&stage, &scenarios, ended);
    let played = progress.counted("Playing events", how_far, &mut said, playing).await;
    if played.as_ref().map_or(true, |played| played.iter().any(|played| played.wrong.is_some())) {
        directory.keep();
        eprintln!("The local cloud's log is {}", log.display());
    }
    cloud.check()?;
    let played = played?;
    let took = begin.elapsed();
    if options.json {
        println!("{:#}", report::json(&played, took));
    } else {
        print!("{}", report::summary(&played, took, style));
    }
    let is_good = played.iter().all(|played| played.wrong.is_none());
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
