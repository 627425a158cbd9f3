//! A mosquitto broker with a bridge to the local cloud, and its clients.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use local_cloud::device::{Identity, MAX_MESSAGE_BYTES, Message};
use local_cloud::supervisor::Supervisor;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::{THING, TOPICS, configuration_of};
use crate::stage::Stage;

/// How long the broker may take to respond, even on a busy machine.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Finds mosquitto. Debian installs it in a directory that is not in every user's PATH.
pub fn mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    all.map(|directory| directory.join("mosquitto")).find(|program| program.is_file())
}

/// A TCP link to AWS IoT that can be interrupted.
pub struct Link {
    pub address: SocketAddr,
    pub is_up: watch::Sender<bool>,
}

impl Link {
    pub async fn to(cloud: SocketAddr) -> Result<Self> {
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

/// A mosquitto broker on loopback with a bridge to the local cloud.
pub struct Broker {
    pub port: u16,
    log: PathBuf,
    _supervisor: Supervisor,
}

impl Broker {
    /// Starts a broker. `cloud` is the address of AWS IoT.
    pub async fn start(stage: &Stage, identity: &Identity, cloud: SocketAddr) -> Result<Self> {
        // Another process may take the port before the broker listens on it.
        for _ in 0..5 {
            if let Some(broker) = Self::try_start(stage, identity, cloud).await? {
                return Ok(broker);
            }
        }
        bail!("failed to find a free port")
    }

    /// Returns `None` if the port is in use.
    async fn try_start(stage: &Stage, identity: &Identity, cloud: SocketAddr) -> Result<Option<Self>> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let scratch = tempfile::Builder::new().prefix("gatehouse-").tempdir()?.keep();
        let configuration = configuration(stage, identity, cloud, port, &scratch)?;
        let log = scratch.join("log");
        let mut mosquitto = Command::new(mosquitto().context("mosquitto is not installed")?);
        mosquitto.arg("-c").arg(configuration);
        let mut supervisor = Supervisor::start(&mosquitto, &scratch, Some(&File::create(&log)?))?;
        let deadline = Instant::now() + TIMEOUT;
        let output = || std::fs::read_to_string(&log).unwrap_or_default();
        loop {
            let output = output();
            if output.contains("Address already in use") {
                return Ok(None);
            }
            ensure!(supervisor.ended().is_none(), "mosquitto has ended:\n{output}");
            if output.contains(" running") {
                return Ok(Some(Self { port, log, _supervisor: supervisor }));
            }
            ensure!(Instant::now() < deadline, "mosquitto does not run after {TIMEOUT:?}:\n{output}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Writes the broker's configuration and that of its bridge to a directory.
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
        arguments.extend([*name, path.to_str().context("the path is not UTF-8")?]);
    }
    std::fs::create_dir(directory.join("conf.d"))?;
    put("conf.d/my-gateway.conf", &configuration_of(THING, &arguments)?)?;
    // By default, mosquitto drops to a user that cannot read these files.
    let own = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_dest stderr\nlog_type all\ninclude_dir {}\n",
        directory.join("conf.d").display()
    );
    put("mosquitto.conf", &own)
}

/// A client of the broker.
pub struct LocalClient {
    pub client: AsyncClient,
    events: EventLoop,
    inbox: VecDeque<Message>,
}

impl LocalClient {
    pub async fn connect(id: &str, port: u16) -> Result<Self> {
        let mut options = MqttOptions::new(id, Ipv4Addr::LOCALHOST.to_string(), port);
        options.set_max_packet_size(2 * MAX_MESSAGE_BYTES, 2 * MAX_MESSAGE_BYTES);
        let (client, events) = AsyncClient::new(options, 10);
        let mut local = Self { client, events, inbox: VecDeque::new() };
        local.until(|packet| matches!(packet, Packet::ConnAck(_))).await?;
        Ok(local)
    }

    pub async fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.client.subscribe(filter, QoS::AtLeastOnce).await?;
        self.until(|packet| matches!(packet, Packet::SubAck(_))).await
    }

    pub async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<()> {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
        self.until(|packet| matches!(packet, Packet::PubAck(_))).await
    }

    /// Returns the next message of its subscriptions.
    pub async fn receive(&mut self) -> Result<Message> {
        if self.inbox.is_empty() {
            self.until(|packet| matches!(packet, Packet::Publish(_))).await?;
        }
        self.inbox.pop_front().context("there is no message")
    }

    async fn until(&mut self, condition: impl Fn(&Packet) -> bool) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let next = timeout_at(deadline, self.events.poll()).await;
            let Event::Incoming(packet) = next.context("the broker does not respond")?? else { continue };
            if let Packet::Publish(message) = &packet {
                self.inbox.push_back(Message { topic: message.topic.clone(), payload: message.payload.to_vec() });
            }
            if condition(&packet) {
                return Ok(());
            }
        }
    }
}
