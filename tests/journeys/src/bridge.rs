//! A real mosquitto, bridged to the local cloud by what `infra/bridge/configure` writes.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iotdataplane::primitives::Blob;
use libtest_mimic::Trial;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use local_cloud::device::{ConnectResult, Device, Identity, MAX_MESSAGE_BYTES, Message, Published, Subscribed};
use local_cloud::supervisor::Supervisor;
use local_cloud::{deploy, tools};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::stage::{LIMIT, Stage, Suite};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut bridged = vec![
        suite.trial(
            "a bridge takes what is published to its broker to the telemetry table, and what AWS IoT has for it to the \
             broker",
            both_ways,
        ),
        suite.trial(
            "what is published to a bridge's broker while AWS IoT is out of reach comes there later, once",
            late,
        ),
    ];
    if mosquitto().is_none() {
        eprintln!("mosquitto is not installed (sudo apt-get install mosquitto); no bridge is tried");
        let skipped = |trial: Trial| trial.with_kind("needs mosquitto").with_ignored_flag(true);
        bridged = bridged.into_iter().map(skipped).collect();
    }
    bridged.extend([
        suite.trial("a bridge's policy allows its topics and nothing else", its_topics_only),
        suite.trial("no bridge is configured that would act in another's name, or go in a circle", async |_| unfit()),
    ]);
    bridged
}

const THING: &str = "my-gateway";
const DELTA: &str = "$aws/things/my-gateway/shadow/update/delta";

/// What the bridge of these tests carries. Its broker has another name for the commands.
const TOPICS: [&str; 6] = ["--out", "telemetry/my-gateway", "--in", "commands=commands/my-gateway", "--in", DELTA];

/// The broker, where Debian has it: not on everybody's PATH.
fn mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    all.map(|directory| directory.join("mosquitto")).find(|program| program.is_file())
}

/// Runs `infra/bridge/configure` for a thing.
fn configure(thing: &str, arguments: &[&str]) -> Result<Output> {
    let mut configure = Command::new(tools::root().join("infra/bridge/configure"));
    configure.args(["--thing", thing]).args(arguments).output().context("cannot run infra/bridge/configure")
}

/// What it writes.
fn written(thing: &str, arguments: &[&str]) -> Result<String> {
    let output = configure(thing, arguments)?;
    ensure!(output.status.success(), "it failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Registers the bridge's thing, with a certificate that has the bridge's policy and no other.
async fn register(stage: &Stage) -> Result<Identity> {
    let template = stage.cloud.scratch.join(format!("bridge-{}.yaml", stage.account.id()));
    std::fs::write(&template, written(THING, &[TOPICS.as_slice(), &["--policy"]].concat())?)?;
    let deployed = deploy::deploy_stack(&stage.cloud, &stage.account, &template, "bridge-my-gateway", &[]).await?;
    Identity::register(&stage.clients, THING, deployed.output("Policy")?).await
}

async fn both_ways(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let identity = register(&stage).await?;
    let broker = Broker::start(&stage, &identity, stage.cloud.mqtt).await?;
    let carried = carry(&stage, &broker).await;
    carried.with_context(|| format!("the broker said:\n{}", broker.said()))
}

async fn late(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let identity = register(&stage).await?;
    let link = Link::to(stage.cloud.mqtt).await?;
    let broker = Broker::start(&stage, &identity, link.address).await?;
    let came = come_late(&stage, &broker, &link).await;
    came.with_context(|| format!("the broker said:\n{}", broker.said()))
}

async fn come_late(stage: &Stage, broker: &Broker, link: &Link) -> Result<()> {
    let mut local = Local::connect("local", broker.port).await?;
    local.subscribe(&format!("$SYS/broker/connection/{THING}/state")).await?;
    while local.receive().await?.payload != b"1" {}
    link.is_up.send_replace(false);
    while local.receive().await?.payload != b"0" {}

    for celsius in 21..27 {
        local.publish("telemetry/my-gateway", json!({"celsius": celsius}).to_string()).await?;
    }
    link.is_up.send_replace(true);
    while local.receive().await?.payload != b"1" {}
    let mut kept = readings(stage, 6).await?;
    kept.sort_unstable();
    ensure!(kept == ["21", "22", "23", "24", "25", "26"], "these readings are kept: {kept:?}");
    Ok(())
}

async fn carry(stage: &Stage, broker: &Broker) -> Result<()> {
    let mut local = Local::connect("local", broker.port).await?;
    for filter in [&*format!("$SYS/broker/connection/{THING}/state"), "commands", DELTA] {
        local.subscribe(filter).await?;
    }
    while local.receive().await?.payload != b"1" {}

    // Neither of the first two may end the bridge's connection: AWS IoT takes no message of this size, and the policy no
    // retained one.
    let mut large = Local::connect("camera", broker.port).await?;
    let taken = large.publish("telemetry/my-gateway", vec![b'x'; MAX_MESSAGE_BYTES + 1]).await;
    ensure!(taken.is_err(), "the broker took what AWS IoT does not");
    local.client.publish("telemetry/my-gateway", QoS::AtLeastOnce, true, r#"{"celsius": 21.50}"#).await?;
    local.publish("telemetry/my-gateway", r#"{"celsius": 22}"#).await?;
    let kept = readings(stage, 2).await?;
    ensure!(kept == ["21.5", "22"], "these readings are kept: {kept:?}");

    let publish = stage.clients.iot_data.publish().topic("commands/my-gateway").qos(1);
    publish.payload(Blob::new("open")).send().await?;
    let message = local.receive().await?;
    ensure!(message == Message { topic: "commands".into(), payload: b"open".into() }, "the broker had {message:?}");

    let desired = json!({"state": {"desired": {"valve": "open"}}});
    let update = stage.clients.iot_data.update_thing_shadow().thing_name(THING);
    update.payload(Blob::new(desired.to_string())).send().await?;
    let message = local.receive().await?;
    ensure!(message.topic == DELTA, "the broker had {message:?}");
    let delta: Value = serde_json::from_slice(&message.payload)?;
    ensure!(delta.pointer("/state/valve") == Some(&json!("open")), "the delta was {delta}");

    let connections = broker.said().matches("sending CONNECT\n").count();
    ensure!(connections == 1, "it connected {connections} times");
    Ok(())
}

/// Waits for so many readings of the bridge's thing; what each says, in their order.
async fn readings(stage: &Stage, count: usize) -> Result<Vec<String>> {
    let deadline = Instant::now() + LIMIT;
    let table = stage.deployment.output("TelemetryTable")?;
    loop {
        let query = stage.clients.dynamodb.query().table_name(table).consistent_read(true);
        let query = query.key_condition_expression("thing = :thing");
        let query = query.expression_attribute_values(":thing", AttributeValue::S(THING.to_owned()));
        let found = query.send().await?;
        let celsius = |item: &HashMap<String, AttributeValue>| {
            Some(item.get("reading")?.as_m().ok()?.get("celsius")?.as_n().ok()?.clone())
        };
        if found.items().len() >= count || Instant::now() >= deadline {
            let all: Option<Vec<_>> = found.items().iter().map(celsius).collect();
            return all.with_context(|| format!("there is another item among {:?}", found.items()));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn its_topics_only(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let identity = register(&stage).await?;
    let mut bridge = Device::new(&stage.cloud, identity.clone());

    for filter in ["commands/my-gateway", DELTA] {
        ensure!(bridge.subscribe(filter).await? == Subscribed::Granted, "it may not subscribe to {filter}");
    }
    let (_, published) = bridge.publish("telemetry/my-gateway", &[br#"{"celsius": 21.5}"#]).await?;
    ensure!(published == Published::Accepted, "it may not publish on its topic");
    // Neither another's, nor the other way round, nor what any device may.
    for topic in ["telemetry/other", "telemetry/my-gateway/more", "commands/my-gateway", DELTA, "doorbell/my-gateway"] {
        let (_, published) = bridge.publish(topic, &[b"{}"]).await?;
        ensure!(published == Published::Denied, "it may publish on {topic}");
    }
    for filter in ["commands/other", "commands/+", "#", "telemetry/my-gateway", "$aws/things/my-gateway/shadow/#"] {
        ensure!(bridge.subscribe(filter).await? == Subscribed::Denied, "it may subscribe to {filter}");
    }
    stage.clients.iot.create_thing().thing_name("other").send().await?;
    let mut disguised = Device::new(&stage.cloud, Identity { thing: "other".to_owned(), ..identity });
    ensure!(disguised.try_connect().await? != ConnectResult::Accepted, "it may connect as another");
    Ok(())
}

fn unfit() -> Result<()> {
    let unfit: [(&[&str], &str); 12] = [
        (&["--out", "telemetry/other"], "own name"),
        (&["--out", "telemetry/my-gateway-2"], "own name"),
        (&["--out", "my-gateway=telemetry"], "own name"),
        (&["--in", "commands/my-gateway/#"], "wildcards"),
        (&["--in", "commands/+/my-gateway"], "wildcards"),
        (&["--out", "telemetry/my-gateway/*"], "wildcards"),
        (&["--out", "telemetry/my-gateway out 1\ntopic #"], "wildcards"),
        (&["--out", "a/my-gateway", "--in", "a/my-gateway"], "come in again"),
        (&["--out", "a/my-gateway", "--out", "a/my-gateway"], "twice"),
        (&["--out", "a=b/my-gateway", "--out", "a=c/my-gateway"], "twice"),
        (&["--in", "a=c/my-gateway", "--in", "b=c/my-gateway"], "twice"),
        (&[], "needs a topic"),
    ];
    let files = ["--endpoint", "localhost", "--certificate", "a", "--key", "b", "--ca", "c"];
    for (topics, why) in unfit {
        for last in [files.as_slice(), &["--policy"]] {
            let output = configure(THING, &[topics, last].concat())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(2), "{topics:?}: it ended with {}", output.status);
            ensure!(output.stdout.is_empty(), "{topics:?}: it wrote something");
            ensure!(said.contains(why), "{topics:?}: it said {said}");
        }
    }
    for missing in ["--endpoint", "--certificate", "--key", "--ca"] {
        let given = files.as_chunks::<2>().0.iter().filter(|[name, _]| *name != missing);
        let given: Vec<&str> = TOPICS.into_iter().chain(given.flatten().copied()).collect();
        let output = configure(THING, &given)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && said.contains(missing), "without {missing} it said: {said}");
    }
    // One policy for all things whose topics differ in the name alone.
    let one = written("one", &["--out", "telemetry/one", "--policy"])?;
    ensure!(one == written("two", &["--out", "telemetry/two", "--policy"])?, "the policy names its thing");
    Ok(())
}

/// The way to AWS IoT, which can be cut.
struct Link {
    address: SocketAddr,
    is_up: watch::Sender<bool>,
}

impl Link {
    async fn to(cloud: SocketAddr) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, is_up) = (listener.local_addr()?, watch::Sender::new(true));
        let mut cut = is_up.subscribe();
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                if !*cut.borrow_and_update() {
                    continue;
                }
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    let mut there = TcpStream::connect(cloud).await?;
                    tokio::select! {
                        carried = copy_bidirectional(&mut here, &mut there) => carried.map(drop),
                        _ = cut.wait_for(|is_up| !is_up) => Ok(()),
                    }
                });
            }
        });
        Ok(Self { address, is_up })
    }
}

/// A mosquitto of a test's own, on this machine's loopback, with a bridge to the local cloud.
struct Broker {
    port: u16,
    log: PathBuf,
    _keeper: Supervisor,
}

impl Broker {
    /// `cloud` is where it finds AWS IoT.
    async fn start(stage: &Stage, identity: &Identity, cloud: SocketAddr) -> Result<Self> {
        // Between choosing a free port and the broker's taking it, another may come: then with another one.
        for _ in 0..5 {
            if let Some(broker) = Self::attempt(stage, identity, cloud).await? {
                return Ok(broker);
            }
        }
        bail!("found no free port")
    }

    /// None where the port was taken.
    async fn attempt(stage: &Stage, identity: &Identity, cloud: SocketAddr) -> Result<Option<Self>> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let scratch = tempfile::Builder::new().prefix("gatehouse-").tempdir()?.keep();
        let configuration = configuration(stage, identity, cloud, port, &scratch)?;
        let log = scratch.join("log");
        let mut mosquitto = Command::new(mosquitto().context("mosquitto is not installed")?);
        mosquitto.arg("-c").arg(configuration);
        let mut supervisor = Supervisor::start(&mosquitto, &scratch, Some(&File::create(&log)?))?;
        let deadline = Instant::now() + LIMIT;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        loop {
            let said = said();
            if said.contains("Address already in use") {
                return Ok(None);
            }
            ensure!(supervisor.ended().is_none(), "mosquitto has ended; it said:\n{said}");
            if said.contains(" running") {
                return Ok(Some(Self { port, log, _keeper: supervisor }));
            }
            ensure!(Instant::now() < deadline, "mosquitto does not run after {LIMIT:?}; it said:\n{said}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Puts the broker's files into a directory: its own configuration, and what the script writes.
fn configuration(
    stage: &Stage,
    identity: &Identity,
    cloud: SocketAddr,
    port: u16,
    directory: &Path,
) -> Result<PathBuf> {
    let put = |name: &str, text: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let files = [
        ("--certificate", put("bridge.crt", &identity.certificate)?),
        ("--key", put("bridge.key", &identity.key)?),
        ("--ca", put("ca.pem", &stage.cloud.ca)?),
    ];
    let (host, at) = (cloud.ip().to_string(), cloud.port().to_string());
    let mut arguments = [TOPICS.as_slice(), &["--endpoint", &host, "--port", &at]].concat();
    for (name, path) in &files {
        arguments.extend([*name, path.to_str().context("a path that is not UTF-8")?]);
    }
    std::fs::create_dir(directory.join("conf.d"))?;
    put("conf.d/my-gateway.conf", &written(THING, &arguments)?)?;
    // Started by root, it would become a user who may not read these files.
    let own = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_dest stderr\nlog_type all\ninclude_dir {}\n",
        directory.join("conf.d").display()
    );
    put("mosquitto.conf", &own)
}

/// A client of the broker.
struct Local {
    client: AsyncClient,
    events: EventLoop,
    inbox: VecDeque<Message>,
}

impl Local {
    async fn connect(id: &str, port: u16) -> Result<Self> {
        let mut options = MqttOptions::new(id, Ipv4Addr::LOCALHOST.to_string(), port);
        options.set_max_packet_size(2 * MAX_MESSAGE_BYTES, 2 * MAX_MESSAGE_BYTES);
        let (client, events) = AsyncClient::new(options, 10);
        let mut local = Self { client, events, inbox: VecDeque::new() };
        local.until(|packet| matches!(packet, Packet::ConnAck(_))).await?;
        Ok(local)
    }

    async fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.client.subscribe(filter, QoS::AtLeastOnce).await?;
        self.until(|packet| matches!(packet, Packet::SubAck(_))).await
    }

    async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<()> {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
        self.until(|packet| matches!(packet, Packet::PubAck(_))).await
    }

    /// The next message of its subscriptions.
    async fn receive(&mut self) -> Result<Message> {
        if self.inbox.is_empty() {
            self.until(|packet| matches!(packet, Packet::Publish(_))).await?;
        }
        self.inbox.pop_front().context("no message")
    }

    async fn until(&mut self, is_it: impl Fn(&Packet) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let next = timeout_at(deadline, self.events.poll()).await;
            let Event::Incoming(packet) = next.context("the broker does not answer")?? else { continue };
            if let Packet::Publish(message) = &packet {
                self.inbox.push_back(Message { topic: message.topic.clone(), payload: message.payload.to_vec() });
            }
            if is_it(&packet) {
                return Ok(());
            }
        }
    }
}
