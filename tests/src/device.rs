//! A device: a thing with a certificate of its own, speaking MQTT over mutual TLS.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::aws::Clients;
use crate::cloud::Cloud;

/// The largest message that AWS IoT takes.
pub const LARGEST: usize = 128 * 1024;

const LIMIT: Duration = Duration::from_secs(20);

/// What a device needs to prove who it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The thing's name, which is the MQTT client id too.
    pub thing: String,
    /// The certificate, in PEM.
    pub certificate: String,
    /// The certificate's key, in PEM.
    pub key: String,
}

impl Identity {
    /// Registers a thing, makes its certificate, and attaches `policy`.
    pub async fn register(clients: &Clients, thing: &str, policy: &str) -> Result<Self> {
        let register = async {
            let iot = &clients.iot;
            iot.create_thing().thing_name(thing).send().await?;
            let made = iot.create_keys_and_certificate().set_as_active(true).send().await?;
            let arn = made.certificate_arn().context("a certificate without an ARN")?;
            iot.attach_policy().policy_name(policy).target(arn).send().await?;
            iot.attach_thing_principal().thing_name(thing).principal(arn).send().await?;
            let certificate = made.certificate_pem().context("no certificate")?.to_owned();
            let key = made.key_pair().and_then(|pair| pair.private_key()).context("no key")?.to_owned();
            Ok::<_, anyhow::Error>(Self { thing: thing.to_owned(), certificate, key })
        };
        register.await.with_context(|| format!("cannot register the thing {thing}"))
    }
}

/// What became of messages that a device published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// AWS IoT acknowledged each.
    Accepted,
    /// AWS IoT closed the connection instead, as it does when the device's policy forbids the topic.
    Denied,
}

/// A device that connects when it has something to say, and stays connected until it is turned away.
#[derive(Debug)]
pub struct Device {
    identity: Identity,
    broker: SocketAddr,
    ca: String,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    client: AsyncClient,
    said: mpsc::UnboundedReceiver<Said>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Said {
    Connected,
    Acknowledged,
    Closed(ConnectionError),
}

impl Device {
    /// A device that is not connected yet.
    pub fn new(cloud: &Cloud, identity: Identity) -> Self {
        Self { identity, broker: cloud.mqtt, ca: cloud.ca.clone(), connection: None }
    }

    /// Connects, if it is not.
    pub async fn connect(&mut self) -> Result<()> {
        if self.connection.as_ref().is_some_and(|connection| !connection.task.is_finished()) {
            return Ok(());
        }
        let Identity { thing, certificate, key } = &self.identity;
        let mut options = MqttOptions::new(thing, self.broker.ip().to_string(), self.broker.port());
        options.set_keep_alive(Duration::from_mins(1)).set_max_packet_size(LARGEST, 2 * LARGEST);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca: self.ca.clone().into_bytes(),
            alpn: None,
            client_auth: Some((certificate.clone().into_bytes(), key.clone().into_bytes())),
        }));
        // Where another crate brings a second provider, rustls asks to be told which one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (client, events) = AsyncClient::new(options, 100);
        let (tell, said) = mpsc::unbounded_channel();
        let mut connection = Connection { client, said, task: tokio::spawn(listen(events, tell)) };
        match timeout(LIMIT, connection.said.recv()).await {
            Ok(Some(Said::Connected)) => {}
            Ok(Some(Said::Closed(error))) => bail!("{thing} cannot connect: {error}"),
            other => bail!("{thing} cannot connect: {other:?}"),
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Publishes all `payloads` at the same moment, with quality of service 1, and waits for what AWS IoT makes of them. Also the
    /// time at which it began.
    pub async fn publish(&mut self, topic: &str, payloads: &[&[u8]]) -> Result<(SystemTime, Published)> {
        self.connect().await?;
        let connection = self.connection.as_mut().context("not connected")?;
        let begin = SystemTime::now();
        for payload in payloads {
            connection.client.publish(topic, QoS::AtLeastOnce, false, payload.to_vec()).await?;
        }
        let mut open = payloads.len();
        while open > 0 {
            match timeout(LIMIT, connection.said.recv()).await {
                Ok(Some(Said::Acknowledged)) => open -= 1,
                Ok(Some(Said::Connected)) => {}
                Ok(Some(Said::Closed(_)) | None) => {
                    self.connection = None;
                    return Ok((begin, Published::Denied));
                }
                Err(_) => bail!("a message on {topic} was neither acknowledged nor turned away in {LIMIT:?}"),
            }
        }
        Ok((begin, Published::Accepted))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends with the connection: a second one would publish again what the first was turned away for.
async fn listen(mut events: EventLoop, tell: mpsc::UnboundedSender<Said>) {
    loop {
        let said = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => Said::Connected,
            Ok(Event::Incoming(Packet::PubAck(_))) => Said::Acknowledged,
            Ok(_) => continue,
            Err(error) => Said::Closed(error),
        };
        let is_last = matches!(said, Said::Closed(_));
        if tell.send(said).is_err() || is_last {
            return;
        }
    }
}
