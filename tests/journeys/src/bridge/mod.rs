//! A mosquitto broker is bridged to the local cloud with the output of `infra/bridge/configure`.

mod broker;

use std::process::{Command, Output};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iotdataplane::primitives::Blob;
use libtest_mimic::Trial;
use local_cloud::device::{ConnectResult, Device, Identity, MAX_MESSAGE_BYTES, Message, Published, Subscribed};
use local_cloud::{deploy, tools};
use rumqttc::QoS;
use serde_json::{Value, json};

use self::broker::{Broker, Link, LocalClient, mosquitto};
use crate::stage::{Item, Stage};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut bridged = vec![
        suite.trial("bridge", "carries_messages_in_both_directions", both_directions),
        suite.trial("bridge", "delivers_messages_once_after_an_outage", outage),
    ];
    if mosquitto().is_none() {
        eprintln!("mosquitto is not installed (sudo apt-get install mosquitto); skipping the tests of the bridge");
        let skipped = |trial: Trial| trial.with_kind("needs mosquitto").with_ignored_flag(true);
        bridged = bridged.into_iter().map(skipped).collect();
    }
    bridged.extend([
        suite.trial("bridge", "policy_allows_only_its_topics", own_topics_only),
        suite.trial("bridge", "rejects_foreign_topics_and_loops", async |_| invalid_topics()),
    ]);
    bridged
}

const THING: &str = "my-gateway";
const DELTA: &str = "$aws/things/my-gateway/shadow/update/delta";

/// The bridged topics. The broker uses another topic for commands.
const TOPICS: [&str; 6] = ["--out", "telemetry/my-gateway", "--in", "commands=commands/my-gateway", "--in", DELTA];

/// Runs `infra/bridge/configure` for a thing.
fn configure(thing: &str, arguments: &[&str]) -> Result<Output> {
    let mut configure = Command::new(tools::root().join("infra/bridge/configure"));
    configure.args(["--thing", thing]).args(arguments).output().context("failed to run infra/bridge/configure")
}

/// Returns the output of `infra/bridge/configure`.
fn configuration_of(thing: &str, arguments: &[&str]) -> Result<String> {
    let output = configure(thing, arguments)?;
    ensure!(output.status.success(), "infra/bridge/configure failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Registers the bridge's thing with the bridge's policy.
async fn register(stage: &Stage) -> Result<Identity> {
    let template = configuration_of(THING, &[TOPICS.as_slice(), &["--policy"]].concat())?;
    let deployed = deploy::deploy_stack(&stage.cloud, &stage.account, &template, "bridge-my-gateway", &[]).await?;
    Identity::register(&stage.clients, THING, deployed.output("Policy")?).await
}

async fn both_directions(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let identity = register(&stage).await?;
    let broker = Broker::start(&stage, &identity, stage.cloud.mqtt).await?;
    let result = ensure_carried(&stage, &broker).await;
    result.with_context(|| format!("the broker logged:\n{}", broker.log()))
}

async fn outage(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let identity = register(&stage).await?;
    let link = Link::to(stage.cloud.mqtt).await?;
    let broker = Broker::start(&stage, &identity, link.address).await?;
    let result = ensure_delivered_late(&stage, &broker, &link).await;
    result.with_context(|| format!("the broker logged:\n{}", broker.log()))
}

async fn ensure_delivered_late(stage: &Stage, broker: &Broker, link: &Link) -> Result<()> {
    let mut local = LocalClient::connect("local", broker.port).await?;
    local.subscribe(&format!("$SYS/broker/connection/{THING}/state")).await?;
    while local.receive().await?.payload != b"1" {}
    link.is_up.send_replace(false);
    while local.receive().await?.payload != b"0" {}

    for celsius in 21..27 {
        local.publish("telemetry/my-gateway", json!({"celsius": celsius}).to_string()).await?;
    }
    link.is_up.send_replace(true);
    while local.receive().await?.payload != b"1" {}
    let mut stored = readings(stage, 6).await?;
    stored.sort_unstable();
    ensure!(stored == ["21", "22", "23", "24", "25", "26"], "the readings are {stored:?}");
    Ok(())
}

async fn ensure_carried(stage: &Stage, broker: &Broker) -> Result<()> {
    let mut local = LocalClient::connect("local", broker.port).await?;
    for filter in [&*format!("$SYS/broker/connection/{THING}/state"), "commands", DELTA] {
        local.subscribe(filter).await?;
    }
    while local.receive().await?.payload != b"1" {}

    // AWS IoT does not accept a message of this size, and the policy does not allow a retained one. Neither may close
    // the bridge's connection.
    let mut large = LocalClient::connect("camera", broker.port).await?;
    let result = large.publish("telemetry/my-gateway", vec![b'x'; MAX_MESSAGE_BYTES + 1]).await;
    ensure!(result.is_err(), "the broker accepted a message that AWS IoT does not");
    local.client.publish("telemetry/my-gateway", QoS::AtLeastOnce, true, r#"{"celsius": 21.50}"#).await?;
    local.publish("telemetry/my-gateway", r#"{"celsius": 22}"#).await?;
    let stored = readings(stage, 2).await?;
    ensure!(stored == ["21.5", "22"], "the readings are {stored:?}");

    let publish = stage.clients.iot_data.publish().topic("commands/my-gateway").qos(1);
    publish.payload(Blob::new("open")).send().await?;
    let message = local.receive().await?;
    ensure!(message == Message { topic: "commands".into(), payload: b"open".into() }, "the broker got {message:?}");

    let desired = json!({"state": {"desired": {"valve": "open"}}});
    let update = stage.clients.iot_data.update_thing_shadow().thing_name(THING);
    update.payload(Blob::new(desired.to_string())).send().await?;
    let message = local.receive().await?;
    ensure!(message.topic == DELTA, "the broker got {message:?}");
    let delta: Value = serde_json::from_slice(&message.payload)?;
    ensure!(delta.pointer("/state/valve") == Some(&json!("open")), "the delta was {delta}");

    let connections = broker.log().matches("sending CONNECT\n").count();
    ensure!(connections == 1, "the bridge connected {connections} times");
    Ok(())
}

/// Waits for this many readings of the bridge's thing and returns their values in order.
async fn readings(stage: &Stage, count: usize) -> Result<Vec<String>> {
    let table = stage.deployment.output("TelemetryTable")?;
    let mut items = Vec::new();
    let is_complete = stage.observer.poll(async || {
        let query = stage.clients.dynamodb.query().table_name(table).consistent_read(true);
        let query = query.key_condition_expression("thing = :thing");
        let query = query.expression_attribute_values(":thing", AttributeValue::S(THING.to_owned()));
        items = query.send().await?.items.unwrap_or_default();
        Ok((items.len() >= count).then_some(()))
    });
    is_complete.await?.with_context(|| format!("fewer than {count} readings: {items:?}"))?;
    let celsius = |item: &Item| Some(item.get("reading")?.as_m().ok()?.get("celsius")?.as_n().ok()?.clone());
    let all: Option<Vec<_>> = items.iter().map(celsius).collect();
    all.with_context(|| format!("unexpected item among {items:?}"))
}

async fn own_topics_only(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let identity = register(&stage).await?;
    let mut bridge = Device::new(&stage.cloud, identity.clone());

    for filter in ["commands/my-gateway", DELTA] {
        ensure!(bridge.subscribe(filter).await? == Subscribed::Granted, "the bridge may not subscribe to {filter}");
    }
    let (_, published) = bridge.publish("telemetry/my-gateway", &[br#"{"celsius": 21.5}"#]).await?;
    ensure!(published == Published::Accepted, "the bridge may not publish on its topic");
    // Another thing's topics, the other direction, and topics of the device policy are denied.
    for topic in ["telemetry/other", "telemetry/my-gateway/more", "commands/my-gateway", DELTA, "doorbell/my-gateway"] {
        let (_, published) = bridge.publish(topic, &[b"{}"]).await?;
        ensure!(published == Published::Denied, "the bridge may publish on {topic}");
    }
    for filter in ["commands/other", "commands/+", "#", "telemetry/my-gateway", "$aws/things/my-gateway/shadow/#"] {
        ensure!(bridge.subscribe(filter).await? == Subscribed::Denied, "the bridge may subscribe to {filter}");
    }
    stage.clients.iot.create_thing().thing_name("other").send().await?;
    let mut disguised = Device::new(&stage.cloud, Identity { thing: "other".to_owned(), ..identity });
    ensure!(disguised.try_connect().await? != ConnectResult::Accepted, "the bridge may connect as another thing");
    Ok(())
}

fn invalid_topics() -> Result<()> {
    let invalid: [(&[&str], &str); 16] = [
        (&["--out", "telemetry/other"], "own name"),
        (&["--out", "telemetry/my-gateway-2"], "own name"),
        (&["--out", "my-gateway=telemetry"], "own name"),
        (&["--in", "$SYS/my-gateway/state"], "closes the connection"),
        (&["--out", "state=$SYS/my-gateway/state"], "closes the connection"),
        (&["--in", "$share/group/my-gateway"], "closes the connection"),
        (&["--in", "$SYS/state=commands/my-gateway"], "nobody else can"),
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
    for (topics, why) in invalid {
        for last in [files.as_slice(), &["--policy"]] {
            let output = configure(THING, &[topics, last].concat())?;
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(2), "{topics:?}: the exit status is {}", output.status);
            ensure!(output.stdout.is_empty(), "{topics:?}: standard output is not empty");
            ensure!(errors.contains(why), "{topics:?}: the error is {errors}");
        }
    }
    for missing in ["--endpoint", "--certificate", "--key", "--ca"] {
        let given = files.as_chunks::<2>().0.iter().filter(|[name, _]| *name != missing);
        let given: Vec<&str> = TOPICS.into_iter().chain(given.flatten().copied()).collect();
        let output = configure(THING, &given)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2) && errors.contains(missing), "the error without {missing} is {errors}");
    }
    // Things whose topics differ only in the name share a policy.
    let one = configuration_of("one", &["--out", "telemetry/one", "--policy"])?;
    ensure!(
        one == configuration_of("two", &["--out", "telemetry/two", "--policy"])?,
        "the policy contains the thing name"
    );
    Ok(())
}
