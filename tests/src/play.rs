//! Plays scenarios: connects devices and publishes what they say, and holds what came of it against what must come of
//! it.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iotdataplane::operation::get_thing_shadow::GetThingShadowError;
use aws_sdk_lambda::primitives::Blob;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::admission::{Admissions, certificate_of};
use crate::authority::{Authority, Crl, Issued, Key};
use crate::aws::Clients;
use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::device::{Attempt, Broker, Device, Identity, Published};
use crate::observe::{Arrived, Effect, Observer, Rule, Timed, Told, millis, now};
use crate::partner::{Forwarded, Partner};
use crate::scenario::{Action, Connect, Expect, Held, Kept, Order, Scenario, Shadow, Step, told_on};

/// How long an effect may take. It takes some 20 milliseconds where nothing else runs.
const LIMIT: Duration = Duration::from_secs(15);

/// How long a device shadow may take to be as it must be: a command that came too soon after another one waits.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long a message of which nothing must come is watched.
const SILENCE: Duration = Duration::from_secs(2);

/// How long to wait for a notification that a function says it sent, and at the end for one too many.
const SETTLE: Duration = Duration::from_millis(750);

/// One message or connection, and what came of it.
#[derive(Debug, Clone)]
pub struct Played {
    /// The scenario's name.
    pub scenario: String,
    /// Which of its steps, from 0.
    pub step: usize,
    /// The step's words, and which of several copies.
    pub what: String,
    /// The device.
    pub thing: String,
    /// Where it published, or where AWS IoT told that it connected; none for a connection of which it told nothing.
    pub topic: Option<String>,
    /// The event's id; none where AWS IoT did not take the message.
    pub event_id: Option<String>,
    /// The rule that heard it.
    pub rule: Option<String>,
    /// The function that the rule woke.
    pub function: Option<String>,
    /// What came of it.
    pub effect: Option<Effect>,
    /// Whether AWS IoT turned it away, and no function had a say in it.
    pub denied: bool,
    /// From publish to effect.
    pub millis: Option<u64>,
    /// What should have come of it.
    pub expected: Expect,
    /// In what way that did not come; none when it did.
    pub wrong: Option<String>,
}

/// What devices need that are new to AWS IoT: an authority that it knows, and the table that says what became of them.
#[derive(Debug)]
pub struct Newcomers {
    authority: Authority,
    /// Of the same name, but AWS IoT does not know it.
    namesake: Authority,
    admissions: Admissions,
    clients: Clients,
    /// The authority's newest list of revoked certificates.
    crl: tokio::sync::Mutex<Crl>,
}

impl Newcomers {
    /// Makes an authority and registers it.
    pub async fn new(clients: &Clients, devices_table: &str) -> Result<Self> {
        let authority = Authority::new("Gatehouse sample CA", Key::P256)?;
        authority.register(clients).await?;
        Ok(Self {
            namesake: authority.namesake()?,
            authority,
            admissions: Admissions::new(clients, devices_table),
            clients: clients.clone(),
            crl: tokio::sync::Mutex::new(Crl::new(0)),
        })
    }

    /// Signs a certificate, and revokes it at once if that is asked for.
    async fn issue(&self, special: &crate::scenario::Certificate, thing: &str) -> Result<Issued> {
        let authority = if special.signed_by_another { &self.namesake } else { &self.authority };
        let issued = authority.issue(&special.of(thing))?;
        if special.revoked {
            let mut crl = self.crl.lock().await;
            let mut next = crl.clone().revoking(&issued.serial);
            next.number += 1;
            self.authority.publish(&self.clients, self.admissions.table(), &next).await?;
            *crl = next;
        }
        Ok(issued)
    }
}

/// A device of a scenario.
#[derive(Debug, Default)]
struct Actor {
    /// The device that AWS IoT let in.
    device: Option<Device>,
    /// The certificate that it connected with last, whatever came of it.
    last: Option<Issued>,
    /// When its last step began.
    began: Option<Instant>,
}

/// What came of a step, or will have.
enum Outcome {
    Seen(Vec<Played>),
    Open(Pin<Box<dyn Future<Output = Vec<Played>> + Send>>),
}

/// Where scenarios are played: a deployment, watched, with its devices.
#[derive(Debug)]
pub struct Stage {
    clients: Clients,
    deployment: Deployment,
    observer: Observer,
    broker: Broker,
    newcomers: Option<Newcomers>,
    actors: HashMap<String, tokio::sync::Mutex<Actor>>,
    /// Messages already held against a step.
    claimed: std::sync::Mutex<Vec<String>>,
    played: AtomicUsize,
}

impl Stage {
    /// Registers a device for each thing that is not new to AWS IoT, with this policy. `registered` counts them.
    pub async fn new(
        cloud: &Cloud,
        clients: &Clients,
        deployment: &Deployment,
        things: impl IntoIterator<Item = (&str, &str)>,
        registered: &AtomicUsize,
    ) -> Result<Self> {
        let observer = Observer::start(clients).await?;
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
        Ok(Self { clients, deployment, observer, broker: cloud.into(), newcomers: None, actors, claimed, played })
    }

    /// Adds things that are new to AWS IoT.
    #[must_use]
    pub fn with<'a>(mut self, newcomers: Newcomers, things: impl IntoIterator<Item = &'a str>) -> Self {
        self.actors.extend(things.into_iter().map(|thing| (thing.to_owned(), tokio::sync::Mutex::default())));
        self.newcomers = Some(newcomers);
        self
    }

    /// Adds the partner, to whom messages are forwarded.
    #[must_use]
    pub fn with_partner(mut self, partner: Partner) -> Self {
        self.observer.watch_partner(partner);
        self
    }

    /// What watches the account.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// How many messages have been played.
    pub fn played(&self) -> usize {
        self.played.load(Ordering::Relaxed)
    }

    /// Plays a scenario: each thing's steps one after the other, different things at the same time. The messages in the
    /// order of the file.
    pub async fn play(self: Arc<Self>, scenario: Arc<Scenario>) -> Result<Vec<Played>> {
        let mut things: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, step) in scenario.steps.iter().enumerate() {
            things.entry(&step.thing).or_default().push(index);
        }
        let mut lanes = JoinSet::new();
        for steps in things.into_values() {
            let (stage, scenario) = (Arc::clone(&self), Arc::clone(&scenario));
            lanes.spawn(async move {
                let mut played = Vec::new();
                // What came of steps after which the thing went on.
                let mut open = JoinSet::new();
                for index in steps {
                    let Some(step) = scenario.steps.get(index) else { continue };
                    let where_it_is = format!("{}: steps[{index}] ({})", scenario.name, step.what);
                    match stage.step(&scenario.name, index, step).await.context(where_it_is)? {
                        Outcome::Seen(seen) => played.extend(seen),
                        Outcome::Open(seeing) => drop(open.spawn(seeing)),
                    }
                }
                while let Some(outcomes) = open.join_next().await {
                    played.extend(outcomes?);
                }
                Ok::<_, anyhow::Error>(played)
            });
        }
        let mut played = Vec::new();
        while let Some(lane) = lanes.join_next().await {
            played.extend(lane??);
        }
        played.sort_by_key(|played| played.step);
        Ok(played)
    }

    async fn step(self: &Arc<Self>, scenario: &str, index: usize, step: &Step) -> Result<Outcome> {
        let action = step.action()?;
        let actor = self.actors.get(&step.thing).with_context(|| format!("thing {} is unknown", step.thing))?;
        let mut actor = actor.lock().await;
        let ago = actor.began.map_or(Duration::MAX, |began| began.elapsed());
        sleep(step.delay(ago)).await;
        actor.began = Some(Instant::now());
        let new = Played {
            scenario: scenario.to_owned(),
            step: index,
            what: step.what.clone(),
            thing: step.thing.clone(),
            topic: None,
            event_id: None,
            rule: None,
            function: None,
            effect: None,
            denied: false,
            millis: None,
            expected: step.expect.clone(),
            wrong: None,
        };
        match action {
            Action::Connect(connect) => {
                let played = self.connect(&mut actor, connect, new).await?;
                self.played.fetch_add(1, Ordering::Relaxed);
                Ok(Outcome::Seen(vec![played]))
            }
            Action::Publish { topic, payload } => {
                let new = Played { topic: Some(topic.to_owned()), ..new };
                let Some(device) = &mut actor.device else {
                    let wrong = Some("its device was never let in".to_owned());
                    self.played.fetch_add(step.times.get(), Ordering::Relaxed);
                    return Ok(Outcome::Seen(vec![Played { wrong, ..new }; step.times.get()]));
                };
                self.publish(device, step, topic, &payload, new).await
            }
            Action::Disconnect => {
                let Some(device) = actor.device.as_mut().filter(|device| device.is_connected()) else {
                    self.played.fetch_add(1, Ordering::Relaxed);
                    let wrong = Some("it was not connected".to_owned());
                    return Ok(Outcome::Seen(vec![Played { wrong, ..new }]));
                };
                let (skip, begin) = (self.observer.heard(0).len(), now());
                device.disconnect();
                Ok(self.judge(self.lifecycle("disconnected", skip, begin, new).await?))
            }
            Action::Order(order) => Ok(self.judge(self.order(order, new).await?)),
            Action::Look(shadow) => Ok(self.judge(self.look(shadow, new).await?)),
            Action::Desire(shadow, desired) => Ok(self.judge(self.desire(shadow, desired, new).await?)),
        }
    }

    /// An order or a look, held against what must come of it.
    fn judge(&self, mut played: Played) -> Outcome {
        self.played.fetch_add(1, Ordering::Relaxed);
        played.wrong = mismatch(&played.expected, &played).map(|wrong| self.explain(wrong, &played));
        Outcome::Seen(vec![played])
    }

    /// Gives a function an order, as an operator does: by invoking it.
    async fn order(&self, order: &Order, new: Played) -> Result<Played> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", tag = "outcome")]
        enum Answer {
            Done,
            Refused { reason: String, why: String },
        }
        let function = self.deployment.function(&order.function)?;
        let begin = now();
        let invoke = self.clients.lambda.invoke().function_name(function);
        let invoked = invoke.payload(Blob::new(order.input.get())).send().await?;
        let answer = invoked.payload().map(|blob| String::from_utf8_lossy(blob.as_ref()).into_owned());
        let answer = answer.unwrap_or_default();
        ensure!(invoked.function_error().is_none(), "{function} failed: {answer}");
        let effect = match serde_json::from_str(&answer).with_context(|| format!("{function} answered {answer}"))? {
            Answer::Done => Effect::Done,
            Answer::Refused { reason, why } => Effect::Refused { reason, why },
        };
        let millis = Some(now().saturating_sub(begin));
        Ok(Played { function: Some(function.to_owned()), effect: Some(effect), millis, ..new })
    }

    /// Waits until a device shadow is as it must be, and shows how it is then.
    async fn look(&self, shadow: &Shadow, new: Played) -> Result<Played> {
        let (begin, deadline) = (now(), Instant::now() + PATIENCE);
        if matches!(new.expected, Expect::Held(_)) {
            let held = self.held(&shadow.of, shadow.name.as_deref(), 0, &new.expected, deadline).await;
            let millis = Some(now().saturating_sub(begin));
            return Ok(Played { effect: held.map(|timed| timed.effect), millis, ..new });
        }
        loop {
            let get = self.clients.iot_data.get_thing_shadow().thing_name(&shadow.of);
            let found = match get.set_shadow_name(shadow.name.clone()).send().await {
                Ok(found) => found.payload,
                Err(error)
                    if error.as_service_error().is_some_and(GetThingShadowError::is_resource_not_found_exception) =>
                {
                    None
                }
                Err(error) => return Err(error.into()),
            };
            let document: Option<Value> = found.map(|found| serde_json::from_slice(found.as_ref())).transpose()?;
            let desired = document.and_then(|document| document.pointer("/state/desired").cloned());
            let millis = Some(now().saturating_sub(begin));
            let played = Played { effect: desired.map(Effect::Desired), millis, ..new.clone() };
            if mismatch(&played.expected, &played).is_none() || Instant::now() >= deadline {
                return Ok(played);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Sets the desired state of a device shadow, as an operator does: over HTTPS.
    async fn desire(&self, shadow: &Shadow, desired: &Value, new: Played) -> Result<Played> {
        let (skip, begin, topic) = (self.observer.heard(0).len(), now(), shadow.documents());
        let update = self.clients.iot_data.update_thing_shadow().thing_name(&shadow.of);
        let payload = Blob::new(json!({"state": {"desired": desired}}).to_string());
        update.set_shadow_name(shadow.name.clone()).payload(payload).send().await?;
        let [arrived] = self.heard(&topic, skip, 1).await?.try_into().map_err(|_| anyhow!("not one update"))?;
        let (topic, expected) = (Some(topic), new.expected.clone());
        Ok(self.lookout(arrived, Played { topic, ..new }, &[expected], begin).await)
    }

    /// Waits for what comes of a connection's begin or end, of which AWS IoT tells by itself.
    async fn lifecycle(&self, what: &str, skip: usize, begin: u64, new: Played) -> Result<Played> {
        let topic = format!("$aws/events/presence/{what}/{}", new.thing);
        let [arrived] = self.heard(&topic, skip, 1).await?.try_into().map_err(|_| anyhow!("not one event"))?;
        let (topic, expected) = (Some(topic), new.expected.clone());
        Ok(self.lookout(arrived, Played { topic, ..new }, &[expected], begin).await)
    }

    async fn publish(
        self: &Arc<Self>,
        device: &mut Device,
        step: &Step,
        topic: &str,
        payload: &[u8],
        new: Played,
    ) -> Result<Outcome> {
        let mut expected = step.expected();
        let rounds = if step.together { vec![step.times.get()] } else { vec![1; step.times.get()] };
        let mut all = Vec::new();
        for copies in rounds {
            let skip = self.observer.heard(0).len();
            let (begin, published) = device.publish(topic, &vec![payload; copies]).await?;
            let new = Played { denied: published == Published::Denied, expected: Expect::Denied, ..new.clone() };
            match published {
                Published::Denied => {
                    for _ in 0..copies {
                        let expected = expected.remove(0);
                        let wrong = (expected != Expect::Denied).then(|| "AWS IoT turned it away".to_owned());
                        all.push(Played { expected, wrong, ..new.clone() });
                    }
                }
                Published::Accepted => {
                    // What is said to a device shadow no rule hears, only what becomes of it.
                    let arrived = match told_on(topic) {
                        Some(told_on) => self.heard(&told_on, skip, copies).await?,
                        None => self.arrived(topic, &step.thing, payload, copies).await?,
                    };
                    if step.go_on {
                        let stage = Arc::clone(self);
                        let seeing = async move { stage.see(arrived, &new, &mut expected, begin).await };
                        return Ok(Outcome::Open(Box::pin(seeing)));
                    }
                    all.extend(self.see(arrived, &new, &mut expected, begin).await);
                    continue;
                }
            }
            self.played.fetch_add(copies, Ordering::Relaxed);
        }
        let copies = all.len();
        if copies > 1 {
            for (index, played) in all.iter_mut().enumerate() {
                played.what = format!("{} ({} of {copies})", played.what, index + 1);
            }
        }
        Ok(Outcome::Seen(all))
    }

    /// Sees what came of messages that AWS IoT took, and holds it against what was expected of them.
    async fn see(
        &self,
        arrived: Vec<Arrived>,
        new: &Played,
        expected: &mut Vec<Expect>,
        begin: SystemTime,
    ) -> Vec<Played> {
        let lookouts = arrived.into_iter().map(|arrived| self.lookout(arrived, new.clone(), expected, millis(begin)));
        let mut all = futures_util::future::join_all(lookouts).await;
        for played in &mut all {
            // The copies of one moment may meet the expectations in any order.
            let fits = |expect: &Expect| mismatch(expect, played).is_none();
            let at = expected.iter().position(fits).unwrap_or_default();
            played.expected = expected.remove(at);
            let wrong = played.wrong.take().or_else(|| mismatch(&played.expected, played));
            played.wrong = wrong.map(|wrong| self.explain(wrong, played));
        }
        self.played.fetch_add(all.len(), Ordering::Relaxed);
        all
    }

    async fn connect(&self, actor: &mut Actor, connect: &Connect, mut played: Played) -> Result<Played> {
        if matches!(connect, Connect::Again) && played.expected.is_of_return() {
            let Some(device) = &mut actor.device else {
                return Ok(Played { wrong: Some("its device was never let in".to_owned()), ..played });
            };
            let (skip, begin) = (self.observer.heard(0).len(), now());
            device.connect().await?;
            let mut played = self.lifecycle("connected", skip, begin, played).await?;
            played.wrong = mismatch(&played.expected, &played).map(|wrong| self.explain(wrong, &played));
            return Ok(played);
        }
        let newcomers = self.newcomers.as_ref().context("there is no certificate authority")?;
        let issued = match connect {
            Connect::Certificate(special) => newcomers.issue(special, &played.thing).await?,
            Connect::Again => actor.last.clone().context("it has not connected before")?,
        };
        actor.last = Some(issued.clone());
        let wrong = self.admit(newcomers, actor, &issued, &mut played).await?;
        played.wrong = wrong.or_else(|| mismatch(&played.expected, &played)).map(|wrong| self.explain(wrong, &played));
        Ok(played)
    }

    /// Connects, and sees what comes of it; in what way that contradicts itself.
    async fn admit(
        &self,
        newcomers: &Newcomers,
        actor: &mut Actor,
        issued: &Issued,
        played: &mut Played,
    ) -> Result<Option<String>> {
        let admissions = &newcomers.admissions;
        let before = admissions.of(&issued.id).await?;
        let (skip, begin) = (self.observer.arrived(0).len(), now());
        let mut device = Device::at(self.broker.clone(), issued.identity(&played.thing));
        match device.attempt().await? {
            Attempt::LetIn => {
                played.effect = Some(Effect::LetIn);
                played.millis = Some(now().saturating_sub(begin));
                actor.device = Some(device);
                sleep(SILENCE).await;
                let is_same = admissions.of(&issued.id).await? == before;
                return Ok((!is_same).then(|| "it was let in, but its record was written again".to_owned()));
            }
            Attempt::Refused(how) => {
                played.denied = true;
                let wrong =
                    (played.expected != Expect::Denied).then(|| format!("AWS IoT refused its certificate: {how}"));
                return Ok(wrong);
            }
            Attempt::TurnedAway => {}
        }
        let told = |observer: &Observer| {
            let mut new = observer.arrived(skip).into_iter();
            new.find(|arrived| certificate_of(arrived).as_ref() == Some(&issued.id))
        };
        let limit = if played.expected == Expect::Denied { SILENCE } else { LIMIT };
        let Some(event) = self.observer.until(Instant::now() + limit, told).await else {
            played.denied = true;
            let wrong = (played.expected != Expect::Denied)
                .then(|| "AWS IoT turned it away and did not say that a certificate is new".to_owned());
            return Ok(wrong);
        };
        let rule = self.observer.rule(&event.topic);
        played.rule = rule.map(|rule| rule.name.clone());
        played.function = rule.and_then(|rule| rule.function.clone());
        (played.topic, played.event_id) = (Some(event.topic), Some(event.trace_id));

        let Some(record) = admissions.outcome(&issued.id, Instant::now() + LIMIT).await? else { return Ok(None) };
        let (state, status) = (record.state.clone(), admissions.status(&issued.id).await?.unwrap_or_default());
        let Some(Timed { effect, at }) = record.effect() else {
            return Ok(Some(format!("its record says {state:?}")));
        };
        (played.millis, played.effect) = (Some(at.saturating_sub(begin)), Some(effect));
        if state == "admitted" {
            if device.knock(Instant::now() + LIMIT).await? != Attempt::LetIn {
                let wrong = format!("it was admitted, but AWS IoT does not let it in; its certificate is {status}");
                return Ok(Some(wrong));
            }
            actor.device = Some(device);
        } else if !matches!(status.as_str(), "REVOKED" | "INACTIVE") {
            return Ok(Some(format!("it was turned away, but its certificate is {status}")));
        }
        Ok(None)
    }

    /// The messages as AWS IoT took them in, told from others by what they hold.
    async fn arrived(&self, topic: &str, thing: &str, payload: &[u8], copies: usize) -> Result<Vec<Arrived>> {
        let is_it =
            |arrived: &Arrived| arrived.topic == topic && arrived.client_id == thing && arrived.payload == payload;
        let found = self.claim(copies, |observer| observer.arrived(0), is_it).await;
        found.ok_or_else(|| self.unseen("AWS IoT acknowledged it, but no rule saw it"))
    }

    /// What AWS IoT tells on this topic, after the first `skip` of all that it tells.
    async fn heard(&self, topic: &str, skip: usize, copies: usize) -> Result<Vec<Arrived>> {
        let found = self.claim(copies, |observer| observer.heard(skip), |heard| heard.topic == topic).await;
        found.ok_or_else(|| self.unseen(&format!("AWS IoT told nothing on {topic}")))
    }

    /// Waits for so many messages that no other step has waited for; none where they do not come.
    async fn claim(
        &self,
        copies: usize,
        look: impl Fn(&Observer) -> Vec<Arrived>,
        is_it: impl Fn(&Arrived) -> bool,
    ) -> Option<Vec<Arrived>> {
        let found = self.observer.until(Instant::now() + LIMIT, |observer| {
            let mut claimed = self.claimed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut found = look(observer);
            found.retain(|arrived| is_it(arrived) && !claimed.contains(&arrived.trace_id));
            found.truncate(copies);
            (found.len() == copies).then(|| {
                claimed.extend(found.iter().map(|arrived| arrived.trace_id.clone()));
                found
            })
        });
        found.await
    }

    fn unseen(&self, what: &str) -> anyhow::Error {
        self.observer.trouble().map_or_else(|| anyhow!("{what} in {LIMIT:?}"), |trouble| anyhow!("{trouble}"))
    }

    /// Waits for what comes of one message.
    async fn lookout(&self, arrived: Arrived, new: Played, expected: &[Expect], begin: u64) -> Played {
        let rule = self.observer.rule(&arrived.topic);
        let function = rule.and_then(|rule: &Rule| rule.function.clone());
        let is_silent = function.is_none() || expected.iter().all(|expect| *expect == Expect::Nothing);
        let deadline = Instant::now() + if is_silent { SILENCE } else { LIMIT };
        let mut played = Played { rule: rule.map(|rule| rule.name.clone()), function, ..new };
        played.event_id = Some(arrived.trace_id.clone());

        let in_table = |expect: &&Expect| {
            matches!(expect, Expect::Kept(_) | Expect::Connected | Expect::Disconnected | Expect::Held(_))
        };
        let found = match expected.iter().find(in_table) {
            Some(Expect::Kept(_)) => self.kept(&arrived, expected, deadline).await,
            Some(expect @ Expect::Held(_)) => {
                let (thing, name) = shadow_of(&arrived.topic).unwrap_or((&played.thing, None));
                let version = version(&arrived.payload);
                self.held(thing, name, version, expect, deadline).await
            }
            Some(_) => self.presence(&arrived, &played.thing, deadline).await,
            None => {
                // Two functions may hear of one event.
                let is_wanted = |effect: &Effect| expected.iter().any(|expect| is(expect, effect));
                self.observer.effect(&arrived.trace_id, deadline, is_wanted).await
            }
        };
        if let Some(Timed { effect: Effect::Forwarded(forwarded), .. }) = &found {
            played.wrong = (!is_whole(forwarded, &arrived.payload)).then(|| "another body was forwarded".to_owned());
        }
        if let Some(Timed { effect, at }) = found {
            played.millis = Some(at.saturating_sub(begin));
            played.effect = Some(effect);
        }
        played
    }

    /// Waits until a message's readings are in the table.
    async fn kept(&self, arrived: &Arrived, expected: &[Expect], deadline: Instant) -> Option<Timed> {
        let table = self.deployment.output("TelemetryTable").ok()?;
        loop {
            // What else came of it is not what was expected.
            let bad = |effect: &Effect| matches!(effect, Effect::Quarantined { .. } | Effect::Told(_));
            if let Some(timed) = self.observer.effects(&arrived.trace_id).into_iter().find(|timed| bad(&timed.effect)) {
                return Some(timed);
            }
            let query = self.clients.dynamodb.query().table_name(table).consistent_read(true);
            let query = query
                .key_condition_expression("thing = :thing")
                .filter_expression("eventId = :event")
                .expression_attribute_values(":thing", AttributeValue::S(arrived.client_id.clone()))
                .expression_attribute_values(":event", AttributeValue::S(arrived.trace_id.clone()));
            let found = query.send().await.map(|found| found.items().len()).unwrap_or_default();
            let effect = Effect::Kept { readings: found };
            if expected.iter().any(|expect| is(expect, &effect)) || (found > 0 && Instant::now() >= deadline) {
                return Some(Timed { effect, at: now() });
            }
            if Instant::now() >= deadline {
                return self.observer.effects(&arrived.trace_id).into_iter().next();
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a device's record tells of the connection that this event began or ended.
    async fn presence(&self, arrived: &Arrived, thing: &str, deadline: Instant) -> Option<Timed> {
        let event: Value = serde_json::from_slice(&arrived.payload).ok()?;
        let session = event.get("sessionIdentifier")?.as_str()?;
        let effect = if event.get("eventType")? == "connected" { Effect::Connected } else { Effect::Disconnected };
        self.record(thing, "presence", deadline, |item| {
            let is_connected = item.get("connected")?.as_bool().ok().copied()?;
            let is_it = item.get("sessionIdentifier")?.as_s().ok()? == session;
            (is_it && is_connected == (effect == Effect::Connected)).then(|| effect.clone())
        })
        .await
    }

    /// Waits until the record of a shadow is of this version or a newer one, and as it must be; what it is otherwise.
    async fn held(
        &self,
        thing: &str,
        name: Option<&str>,
        version: u64,
        expected: &Expect,
        deadline: Instant,
    ) -> Option<Timed> {
        let mut last = None;
        let part = format!("shadow#{}", name.unwrap_or_default());
        let found = self
            .record(thing, &part, deadline, |item| {
                let held: u64 = item.get("shadowVersion")?.as_n().ok()?.parse().ok()?;
                let state = |name: &str| serde_json::from_str(item.get(name)?.as_s().ok()?).ok();
                let deleted = item.get("deleted")?.as_bool().ok().copied()?;
                let effect = Effect::Held(Held { desired: state("desired"), reported: state("reported"), deleted });
                last = Some(effect.clone());
                (held >= version && is(expected, &effect)).then_some(effect)
            })
            .await;
        found.or_else(|| Some(Timed { effect: last?, at: now() }))
    }

    /// Looks at a thing's record in the devices table until `look` finds something, or until the deadline.
    async fn record(
        &self,
        thing: &str,
        part: &str,
        deadline: Instant,
        mut look: impl FnMut(&HashMap<String, AttributeValue>) -> Option<Effect>,
    ) -> Option<Timed> {
        let table = self.deployment.output("DevicesTable").ok()?;
        loop {
            let get = self.clients.dynamodb.get_item().table_name(table).consistent_read(true);
            let get = get.key("id", AttributeValue::S(format!("thing#{thing}")));
            let found = get.key("part", AttributeValue::S(part.to_owned())).send().await;
            if let Some(effect) = found.ok().and_then(|found| look(found.item()?)) {
                return Some(Timed { effect, at: now() });
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Adds what helps to find the cause.
    fn explain(&self, wrong: String, played: &Played) -> String {
        if played.effect.is_some() {
            return wrong;
        }
        let lines = played.function.as_ref().map(|function| self.observer.last_lines(function)).unwrap_or_default();
        let lines: Vec<_> = lines.iter().map(|line| format!("\n{line}")).collect();
        let heading = if lines.is_empty() { "" } else { "; the function's last lines:" };
        format!("{wrong}{heading}{}", lines.concat())
    }

    /// Waits a little, then marks what was told too often, once being the most, and who was turned away without a word.
    async fn find_repeats(&self, played: &mut [Played]) {
        sleep(SETTLE).await;
        for played in played {
            let Some(event_id) = &played.event_id else { continue };
            let effects = self.observer.effects(event_id);
            let told = effects.iter().filter(|timed| matches!(timed.effect, Effect::Told(_))).count();
            let forwarded = effects.iter().filter(|timed| matches!(timed.effect, Effect::Forwarded(_))).count();
            if forwarded > 1 && played.wrong.is_none() {
                played.wrong = Some(format!("it was forwarded {forwarded} times"));
            }
            let is_right = match played.expected {
                Expect::Notification(_) => told <= 1,
                // Whoever watches over admissions hears of it.
                Expect::TurnedAway(_) => told == 1,
                _ => told == 0,
            };
            if !is_right && played.wrong.is_none() {
                played.wrong = Some(format!("it was told {told} times"));
            }
        }
    }
}

/// The thing and the name of the shadow of which AWS IoT tells on this topic; the classic one has no name.
fn shadow_of(topic: &str) -> Option<(&str, Option<&str>)> {
    let (thing, rest) = topic.strip_prefix("$aws/things/")?.split_once("/shadow/")?;
    Some((thing, rest.strip_prefix("name/").and_then(|named| Some(named.split_once('/')?.0))))
}

/// The version of the shadow that an update made, or that a deletion ended.
fn version(told: &[u8]) -> u64 {
    let told: Value = serde_json::from_slice(told).unwrap_or_default();
    let version = told.pointer("/current/version").or_else(|| told.get("version"));
    version.and_then(Value::as_u64).unwrap_or_default()
}

/// Whether a message's body is what the device sent, byte for byte.
fn is_whole(forwarded: &Forwarded, payload: &[u8]) -> bool {
    match forwarded.attributes.get("contentTransferEncoding").map(String::as_str) {
        Some("base64") => BASE64_STANDARD.decode(&forwarded.body).is_ok_and(|body| body == payload),
        Some(_) => false,
        None => forwarded.body.as_bytes() == payload,
    }
}

/// Whether an effect is of the expected kind.
fn is(expected: &Expect, effect: &Effect) -> bool {
    match (expected, effect) {
        (Expect::Quarantine(expected), Effect::Quarantined { reason, .. })
        | (Expect::Refused(expected), Effect::Refused { reason, .. }) => *reason == expected.reason,
        (Expect::TurnedAway(expected), Effect::TurnedAway { reason, .. }) => *reason == expected.reason,
        (Expect::Kept(Kept { readings: expected }), Effect::Kept { readings }) => readings == expected,
        (Expect::Desired(expected), Effect::Desired(state)) => state == expected,
        (Expect::Held(expected), Effect::Held(held)) => held == expected,
        (Expect::Forwarded(_), Effect::Forwarded(_))
        | (Expect::Connected, Effect::Connected)
        | (Expect::Disconnected, Effect::Disconnected)
        | (Expect::Notification(_), Effect::Told(_))
        | (Expect::Quieted, Effect::Quieted)
        | (Expect::Nothing, Effect::LetIn)
        | (Expect::Done, Effect::Done)
        | (Expect::Admitted, Effect::Admitted { .. }) => true,
        _ => false,
    }
}

/// In what way an outcome is not the expected one.
fn mismatch(expected: &Expect, played: &Played) -> Option<String> {
    let is = match (expected, &played.effect) {
        (Expect::Notification(expected), Some(Effect::Told(told))) => return differs(expected, told),
        (Expect::Forwarded(expected), Some(Effect::Forwarded(forwarded))) => {
            return attribute_differs(&expected.attributes, &forwarded.attributes);
        }
        (Expect::Nothing, None) => true,
        (Expect::Denied, None) => played.denied,
        (expected, Some(effect)) => is(expected, effect),
        _ => false,
    };
    if is {
        return None;
    }
    Some(match &played.effect {
        None if played.denied => "AWS IoT turned it away".to_owned(),
        None if matches!(expected, Expect::Desired(_)) => "there is no desired state".to_owned(),
        None if matches!(expected, Expect::Held(_)) => "there is no record of it".to_owned(),
        None if played.function.is_none() => "no rule hears this topic".to_owned(),
        None => format!("nothing came of it in {LIMIT:?}"),
        Some(effect) => format!("it was {effect}"),
    })
}

fn differs(expected: &crate::scenario::Notification, told: &Told) -> Option<String> {
    text_differs("message", expected.message.as_deref(), Some(&told.message))
        .or_else(|| text_differs("subject", expected.subject.as_deref(), told.subject.as_deref()))
        .or_else(|| attribute_differs(&expected.attributes, &told.attributes))
}

fn attribute_differs(expected: &BTreeMap<String, String>, got: &BTreeMap<String, String>) -> Option<String> {
    expected.iter().find_map(|(name, value)| {
        text_differs(&format!("attribute {name}"), Some(value), got.get(name).map(String::as_str))
    })
}

fn text_differs(name: &str, expected: Option<&str>, got: Option<&str>) -> Option<String> {
    let expected = expected?;
    (got != Some(expected)).then(|| match got {
        Some(got) => format!("its {name} is {got:?}"),
        None => format!("it has no {name}"),
    })
}

/// Plays all scenarios at once; `ended` gets each as it ends.
pub async fn play_all(
    stage: &Arc<Stage>,
    scenarios: &[Scenario],
    ended: impl Fn(&Scenario, &[Played]),
) -> Result<Vec<Played>> {
    ensure!(!scenarios.is_empty(), "there is no scenario to play");
    let mut playing = JoinSet::new();
    for scenario in scenarios {
        let (stage, scenario) = (Arc::clone(stage), scenario.clone());
        playing.spawn(async move {
            let mut played = Arc::clone(&stage).play(Arc::new(scenario.clone())).await?;
            stage.find_repeats(&mut played).await;
            Ok::<_, anyhow::Error>((scenario, played))
        });
    }
    let mut all = Vec::new();
    while let Some(played) = playing.join_next().await {
        let (scenario, played) = played??;
        ended(&scenario, &played);
        all.extend(played);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shadow_is_known_by_the_topic_on_which_it_is_told_and_its_version_by_what_is_told() {
        assert_eq!(shadow_of("$aws/things/lamp/shadow/update/documents"), Some(("lamp", None)));
        assert_eq!(shadow_of("$aws/things/lamp/shadow/name/dial/delete/accepted"), Some(("lamp", Some("dial"))));
        assert_eq!(shadow_of("telemetry/lamp"), None);
        assert_eq!(version(br#"{"previous": {"version": 6}, "current": {"version": 7}, "timestamp": 1}"#), 7);
        assert_eq!(version(br#"{"version": 8, "timestamp": 1}"#), 8);
    }

    #[test]
    fn a_forwarded_message_is_whole_where_its_body_is_the_payload_or_that_in_base64() {
        let forwarded = |body: &str, encoding: Option<&str>| Forwarded {
            account: "222222222222".to_owned(),
            queue: "weather".to_owned(),
            body: body.to_owned(),
            attributes: encoding.map(|it| ("contentTransferEncoding".to_owned(), it.to_owned())).into_iter().collect(),
        };
        assert!(is_whole(&forwarded("{\"celsius\": 22.50}", None), br#"{"celsius": 22.50}"#));
        assert!(!is_whole(&forwarded("{\"celsius\":22.5}", None), br#"{"celsius": 22.50}"#));
        assert!(is_whole(&forwarded("/w==", Some("base64")), b"\xff"));
        assert!(!is_whole(&forwarded("/w==", None), b"\xff"));
        assert!(!is_whole(&forwarded("?", Some("base64")), b"\xff"));
    }
}
