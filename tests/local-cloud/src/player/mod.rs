//! Plays scenarios: connects devices, publishes their messages, and compares the outcome of each step with the expected
//! one.

mod compare;
mod connect;
mod enrollment;
mod operator;
mod publish;
mod records;
mod result;
mod set_up;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::aws::Clients;
use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::destination::DestinationQueue;
use crate::device::{Broker, Device, Identity};
use crate::observer::{Effect, Observer, Timed, Wait, now};
use crate::pki::IssuedCertificate;
use crate::scenario::{Expectation, Scenario, Step, StepAction};

pub use enrollment::Enrollment;
pub use result::StepResult;
pub use set_up::{Paths, set_up};

use compare::mismatch;

/// How long to wait for an effect after the last observation. An effect takes about 20 milliseconds on an idle machine.
/// This is shorter than the schedule's minute, so that the schedule alone does not extend a wait.
const EFFECT_PATIENCE: Duration = Duration::from_secs(50);

/// How long to wait for an effect if a function has already handled the event. Another one may receive the same event.
const HANDLED_PATIENCE: Duration = Duration::from_secs(15);

/// How long to watch for effects of a step that must have none.
const QUIET_PERIOD: Duration = Duration::from_secs(2);

/// How long to wait at the end for surplus notifications.
const SETTLE_TIME: Duration = Duration::from_millis(750);

/// A device of a scenario.
#[derive(Debug, Default)]
struct Actor {
    /// The device, once AWS IoT has accepted one of its connections.
    device: Option<Device>,
    /// The certificate of its last connection attempt.
    last_certificate: Option<IssuedCertificate>,
    /// When its last step started.
    last_step_at: Option<Instant>,
}

/// The results of a step, complete or pending.
enum StepOutcome {
    Complete(Vec<StepResult>),
    Pending(Pin<Box<dyn Future<Output = Vec<StepResult>> + Send>>),
}

/// A deployment, its devices, and an observer.
#[derive(Debug)]
pub struct Player {
    clients: Clients,
    deployment: Deployment,
    observer: Observer,
    broker: Broker,
    enrollment: Option<Enrollment>,
    actors: HashMap<String, tokio::sync::Mutex<Actor>>,
    /// The trace ids of messages that a step has claimed as its own.
    claimed: std::sync::Mutex<Vec<String>>,
    played: AtomicUsize,
}

impl Player {
    /// Registers and connects a device for each thing, with the IoT policy of this name. `registered` counts them.
    async fn new(
        cloud: &Cloud,
        clients: &Clients,
        deployment: &Deployment,
        observer: Observer,
        things: impl IntoIterator<Item = (&str, &str)>,
        registered: &AtomicUsize,
    ) -> Result<Self> {
        let actors = stream::iter(things)
            .map(async |(thing, policy)| {
                let identity = Identity::register(clients, thing, policy).await?;
                let mut device = Device::new(cloud, identity);
                device.connect().await?;
                registered.fetch_add(1, Ordering::Relaxed);
                let actor = Actor { device: Some(device), ..Actor::default() };
                Ok::<_, anyhow::Error>((thing.to_owned(), tokio::sync::Mutex::new(actor)))
            })
            .buffer_unordered(4)
            .try_collect()
            .await?;
        let (claimed, played) = (std::sync::Mutex::default(), AtomicUsize::new(0));
        let (clients, deployment) = (clients.clone(), deployment.clone());
        Ok(Self { clients, deployment, observer, broker: cloud.into(), enrollment: None, actors, claimed, played })
    }

    /// Adds things that are new to AWS IoT.
    #[must_use]
    pub fn with_new_things<'a>(mut self, enrollment: Enrollment, things: impl IntoIterator<Item = &'a str>) -> Self {
        self.actors.extend(things.into_iter().map(|thing| (thing.to_owned(), tokio::sync::Mutex::default())));
        self.enrollment = Some(enrollment);
        self
    }

    /// Adds the queue that messages are forwarded to.
    #[must_use]
    pub fn with_destination(mut self, queue: DestinationQueue) -> Self {
        self.observer.watch_destination(queue);
        self
    }

    /// Returns the account's observer.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Starts a wait for an effect.
    fn wait(&self) -> Wait<'_> {
        Wait::start(&self.observer, EFFECT_PATIENCE)
    }

    /// Returns how many events have been played.
    pub fn played(&self) -> usize {
        self.played.load(Ordering::Relaxed)
    }

    /// Plays a scenario: steps of one thing in order, different things concurrently. The results are in file order.
    pub async fn play(self: Arc<Self>, scenario: Arc<Scenario>) -> Result<Vec<StepResult>> {
        let mut things: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, step) in scenario.steps.iter().enumerate() {
            things.entry(&step.thing).or_default().push(index);
        }
        let mut tasks = JoinSet::new();
        for steps in things.into_values() {
            tasks.spawn(Arc::clone(&self).play_steps(Arc::clone(&scenario), steps));
        }
        let mut results = Vec::new();
        while let Some(of_thing) = tasks.join_next().await {
            results.extend(of_thing??);
        }
        results.sort_by_key(|result| result.step);
        Ok(results)
    }

    /// Plays the steps of one thing.
    async fn play_steps(self: Arc<Self>, scenario: Arc<Scenario>, steps: Vec<usize>) -> Result<Vec<StepResult>> {
        let mut results = Vec::new();
        let mut pending = JoinSet::new();
        for index in steps {
            let Some(step) = scenario.steps.get(index) else { continue };
            let context = || format!("{}: steps[{index}] ({})", scenario.name, step.what);
            match self.play_step(&scenario.name, index, step).await.with_context(context)? {
                StepOutcome::Complete(complete) => results.extend(complete),
                StepOutcome::Pending(outcome) => drop(pending.spawn(outcome)),
            }
        }
        while let Some(complete) = pending.join_next().await {
            results.extend(complete?);
        }
        Ok(results)
    }

    async fn play_step(self: &Arc<Self>, scenario: &str, index: usize, step: &Step) -> Result<StepOutcome> {
        let action = step.action()?;
        let actor = self.actors.get(&step.thing).with_context(|| format!("thing {} is unknown", step.thing))?;
        let mut actor = actor.lock().await;
        let since_previous = actor.last_step_at.map_or(Duration::MAX, |at| at.elapsed());
        sleep(step.delay(since_previous)).await;
        actor.last_step_at = Some(Instant::now());
        let result = StepResult::new(scenario, index, step);
        match action {
            StepAction::Connect(connect) => {
                let result = self.connect(&mut actor, connect, result).await?;
                self.played.fetch_add(1, Ordering::Relaxed);
                Ok(StepOutcome::Complete(vec![result]))
            }
            StepAction::Publish { topic, payload } => {
                let result = StepResult { topic: Some(topic.to_owned()), ..result };
                let Some(device) = &mut actor.device else {
                    let problem = Some("the device never connected".to_owned());
                    self.played.fetch_add(step.times.get(), Ordering::Relaxed);
                    return Ok(StepOutcome::Complete(vec![StepResult { problem, ..result }; step.times.get()]));
                };
                self.publish(device, step, topic, &payload, result).await
            }
            StepAction::Disconnect => {
                let Some(device) = actor.device.as_mut().filter(|device| device.is_connected()) else {
                    self.played.fetch_add(1, Ordering::Relaxed);
                    let problem = Some("the device was not connected".to_owned());
                    return Ok(StepOutcome::Complete(vec![StepResult { problem, ..result }]));
                };
                let (skip, started_at) = (self.observer.system_message_count(), now());
                device.disconnect();
                Ok(self.compare(self.await_presence("disconnected", skip, started_at, result).await?))
            }
            StepAction::Command(command) => Ok(self.compare(self.send_command(command, result).await?)),
            StepAction::Operator(action) => Ok(self.compare(self.act_on_alarm(action, &step.thing, result).await?)),
            StepAction::ReadShadow(shadow) => Ok(self.compare(self.read_shadow(shadow, result).await?)),
            StepAction::UpdateShadow(shadow, desired) => {
                Ok(self.compare(self.update_shadow(shadow, desired, result).await?))
            }
        }
    }

    /// Compares the result of a single action with the expected one.
    fn compare(&self, mut result: StepResult) -> StepOutcome {
        self.played.fetch_add(1, Ordering::Relaxed);
        result.problem = mismatch(&result.expected, &result).map(|problem| self.explain(problem, &result));
        StepOutcome::Complete(vec![result])
    }

    /// Adds the function's last log lines if there was no effect.
    fn explain(&self, problem: String, result: &StepResult) -> String {
        if result.effect.is_some() {
            return problem;
        }
        let lines = result.function.as_ref().map(|function| self.observer.last_lines(function)).unwrap_or_default();
        let lines: Vec<_> = lines.iter().map(|line| format!("\n{line}")).collect();
        let heading = if lines.is_empty() { "" } else { "; the function's last log lines:" };
        format!("{problem}{heading}{}", lines.concat())
    }

    fn timeout_error(&self, what: &str) -> anyhow::Error {
        let error = self.observer.error().map(|error| anyhow!(error));
        error.unwrap_or_else(|| anyhow!("{what}"))
    }

    /// Waits a moment, then reports surplus notifications and duplicate forwards, and rejections without a
    /// notification.
    async fn check_repeats(&self, results: &mut [StepResult]) -> Result<()> {
        let effects = |result: &StepResult| {
            let (event_id, function) = (result.event_id.as_deref(), result.function.as_deref());
            self.observer.effects(event_id.unwrap_or_default(), function.unwrap_or_default())
        };
        let notified = |result: &StepResult| {
            effects(result).iter().filter(|timed| matches!(timed.effect, Effect::Notified(_))).count()
        };
        for result in results.iter().filter(|result| matches!(result.expected, Expectation::Rejected(_))) {
            let wait = self.wait();
            self.observer.until_deadline(|_| wait.deadline(), |_| (notified(result) > 0).then_some(())).await;
        }
        sleep(SETTLE_TIME).await;
        self.observer.catch_up().await?;
        for result in results.iter_mut().filter(|result| result.problem.is_none()) {
            if result.event_id.is_none() {
                continue;
            }
            let is_forwarded = |timed: &&Timed| matches!(timed.effect, Effect::Forwarded(_));
            let forwarded = effects(result).iter().filter(is_forwarded).count();
            let notified = notified(result);
            let is_expected = match result.expected {
                Expectation::Notification(_) => notified <= 1,
                // Each rejection is published on the admissions topic.
                Expectation::Rejected(_) => notified == 1,
                _ => notified == 0,
            };
            if forwarded > 1 {
                result.problem = Some(format!("it was forwarded {forwarded} times"));
            } else if !is_expected {
                result.problem = Some(format!("there were {notified} notifications"));
            }
        }
        Ok(())
    }
}

/// Plays all scenarios concurrently. Passes the results of each to `on_complete` as it completes.
pub async fn play_all(
    player: &Arc<Player>,
    scenarios: &[Scenario],
    on_complete: impl Fn(&Scenario, &[StepResult]),
) -> Result<Vec<StepResult>> {
    ensure!(!scenarios.is_empty(), "there is no scenario to play");
    let mut tasks = JoinSet::new();
    for scenario in scenarios {
        let (player, scenario) = (Arc::clone(player), scenario.clone());
        tasks.spawn(async move {
            let mut results = Arc::clone(&player).play(Arc::new(scenario.clone())).await?;
            player.check_repeats(&mut results).await?;
            Ok::<_, anyhow::Error>((scenario, results))
        });
    }
    let mut all = Vec::new();
    while let Some(played) = tasks.join_next().await {
        let (scenario, results) = played??;
        on_complete(&scenario, &results);
        all.extend(results);
    }
    Ok(all)
}
