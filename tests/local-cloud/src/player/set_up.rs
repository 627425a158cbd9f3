//! Deploys the stacks that scenarios need, and registers their devices.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use tokio::sync::mpsc;

use super::{Enrollment, Player};
use crate::aws::Clients;
use crate::cloud::Cloud;
use crate::deploy::{self, Deployment};
use crate::destination::DestinationQueue;
use crate::isolation::Account;
use crate::observer::Observer;
use crate::progress::Progress;
use crate::scenario::{self, Scenario};

/// Whether the paths of events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// No paths are kept.
    Forgotten,
    /// The paths of this number of events are kept.
    Kept(usize),
}

/// Deploys the stacks that the scenarios need, and registers their devices.
pub async fn set_up(
    cloud: &Cloud,
    account: &Account,
    scenarios: &[Scenario],
    paths: Paths,
    progress: Progress,
) -> Result<Player> {
    let destination = match scenario::destination(scenarios)? {
        Some(destination) => {
            let account = Account::new(&*destination.account)?;
            Some(DestinationQueue::new(cloud, account, &destination.queue, false))
        }
        None => None,
    };
    let parameters = destination.as_ref().map(DestinationQueue::parameters);
    let parameters: Vec<_> = parameters.iter().flatten().map(|(name, value)| (*name, value.as_str())).collect();
    let deployment = deploy::deploy_gatehouse(cloud, account, "gatehouse", &parameters, progress).await?;
    if let Some(queue) = &destination {
        let deploying = queue.deploy(cloud, account, deployment.output("ForwardRoleName")?);
        progress.step("Deploying the destination queue", deploying).await?;
    }

    let clients = Clients::new(cloud.endpoint, account);
    let new_things: HashSet<&str> = scenarios.iter().flat_map(Scenario::new_things).collect();
    let things = policies(scenarios, &new_things, &deployment)?;
    let (registered, total) = (AtomicUsize::new(0), things.len());
    let state = || format!("{}/{total}", registered.load(Ordering::Relaxed));
    let observer = match paths {
        Paths::Forgotten => Observer::start(&clients).await?,
        Paths::Kept(limit) => Observer::start_with_journal(&clients, limit).await?,
    };
    let registering = Player::new(cloud, &clients, &deployment, observer, things, &registered);
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
