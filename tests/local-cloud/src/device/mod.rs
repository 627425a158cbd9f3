//! A device: a thing with its own certificate that uses MQTT over mutual TLS.

mod connection;
mod identity;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rumqttc::{AsyncClient, MqttOptions, NetworkOptions, QoS, TlsConfiguration, Transport};
use tokio::time::{sleep, timeout};

use crate::cloud::Cloud;
use crate::observer::{Observer, PATIENCE, Wait};

pub use identity::Identity;

use connection::{Connection, ConnectionEvent, connect_result};

/// The largest message that AWS IoT accepts.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// How long AWS IoT may take to respond, even on a busy machine. On an idle one it takes milliseconds.
const TIMEOUT: Duration = Duration::from_mins(2);

/// The pause after a device's first failed attempt to connect. It doubles after each attempt, up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// An MQTT broker.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Its address.
    pub address: SocketAddr,
    /// The certificate of its CA, in PEM.
    pub ca: String,
}

impl From<&Cloud> for Broker {
    fn from(cloud: &Cloud) -> Self {
        Self { address: cloud.mqtt, ca: cloud.ca.clone() }
    }
}

/// The result of an attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectResult {
    /// AWS IoT accepted the connection.
    Accepted,
    /// AWS IoT accepted the certificate in the TLS handshake, then closed the connection without an MQTT CONNACK. It
    /// does so while the certificate is not active, and if the policy does not allow the client id.
    Closed,
    /// The TLS handshake failed with this error.
    TlsRejected(String),
}

/// The result of publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// AWS IoT acknowledged each message.
    Accepted,
    /// AWS IoT closed the connection, as it does if the device's policy does not allow the topic.
    Denied,
}

/// The result of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// AWS IoT granted it.
    Granted,
    /// AWS IoT denied it or closed the connection, as it does if the device's policy does not allow the topics.
    Denied,
}

/// A message that a device received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A device that connects when it publishes or subscribes, and stays connected until AWS IoT closes the connection.
#[derive(Debug)]
pub struct Device {
    identity: Identity,
    broker: Broker,
    connection: Option<Connection>,
}

impl Device {
    /// Returns a device that is not connected yet.
    pub fn new(cloud: &Cloud, identity: Identity) -> Self {
        Self::at(cloud.into(), identity)
    }

    /// Returns a device of this broker that is not connected yet.
    pub fn at(broker: Broker, identity: Identity) -> Self {
        Self { identity, broker, connection: None }
    }

    /// Returns its credentials.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Tries once to connect, unless it is connected.
    pub async fn try_connect(&mut self) -> Result<ConnectResult> {
        if self.is_connected() {
            return Ok(ConnectResult::Accepted);
        }
        self.connection = None;
        let Identity { thing, .. } = &self.identity;
        let address = self.broker.address;
        let mut options = MqttOptions::new(thing, address.ip().to_string(), address.port());
        options.set_keep_alive(Duration::from_mins(1)).set_max_packet_size(MAX_MESSAGE_BYTES, 2 * MAX_MESSAGE_BYTES);
        let tls = self.identity.tls(&self.broker.ca).with_context(|| format!("{thing} failed to connect"))?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        let (client, mut events) = AsyncClient::new(options, 100);
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(TIMEOUT.as_secs());
        events.set_network_options(network);
        let mut connection = Connection::new(client, events);
        match timeout(TIMEOUT, connection.events.recv()).await {
            Ok(Some(ConnectionEvent::Connected)) => {
                self.connection = Some(connection);
                Ok(ConnectResult::Accepted)
            }
            Ok(Some(ConnectionEvent::Closed(error))) => {
                connect_result(&error).with_context(|| format!("{thing} failed to connect: {error}"))
            }
            other => bail!("{thing} failed to connect: {other:?}"),
        }
    }

    /// Connects, unless it is connected. Fails if AWS IoT does not accept the connection.
    pub async fn connect(&mut self) -> Result<()> {
        let thing = self.identity.thing.clone();
        match self.try_connect().await? {
            ConnectResult::Accepted => Ok(()),
            ConnectResult::Closed => bail!("{thing} failed to connect: AWS IoT closed the connection"),
            ConnectResult::TlsRejected(error) => bail!("{thing} failed to connect: {error}"),
        }
    }

    /// Retries with exponential backoff until AWS IoT accepts the connection, and returns the last result. Gives up
    /// once nothing else was observed in the account for a while.
    pub async fn connect_with_retry(&mut self, observer: &Observer) -> Result<ConnectResult> {
        let (mut pause, wait) = (INITIAL_BACKOFF, Wait::start(observer, *PATIENCE));
        loop {
            let result = self.try_connect().await?;
            if result == ConnectResult::Accepted || wait.is_over() {
                return Ok(result);
            }
            sleep(pause).await;
            pause = MAX_BACKOFF.min(2 * pause);
        }
    }

    /// Returns whether it is connected. AWS IoT may close the connection at any time.
    pub fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.task.is_finished())
    }

    /// Drops the connection without an MQTT `DISCONNECT`.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Publishes all payloads concurrently, at least once (`QoS` 1), and waits for the result. Also returns the start
    /// time.
    pub async fn publish(&mut self, topic: &str, payloads: &[&[u8]]) -> Result<(SystemTime, Published)> {
        self.connect().await?;
        let connection = self.connection.as_mut().context("not connected")?;
        let started_at = SystemTime::now();
        for payload in payloads {
            connection
                .client
                .publish(topic, QoS::AtLeastOnce, false, payload.to_vec())
                .await
                .with_context(|| format!("failed to publish on {topic}"))?;
        }
        let mut unacknowledged = payloads.len();
        while unacknowledged > 0 {
            match connection.response().await {
                Some(ConnectionEvent::Acknowledged) => unacknowledged -= 1,
                Some(ConnectionEvent::Closed(_)) => {
                    self.connection = None;
                    return Ok((started_at, Published::Denied));
                }
                Some(_) => {}
                None => bail!("AWS IoT neither acknowledged nor denied a message on {topic} within {TIMEOUT:?}"),
            }
        }
        Ok((started_at, Published::Accepted))
    }

    /// Publishes a payload at most once (`QoS` 0), so it is unknown whether AWS IoT accepts it.
    pub async fn publish_unacknowledged(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.connect().await?;
        let connection = self.connection.as_mut().context("not connected")?;
        let published = connection.client.publish(topic, QoS::AtMostOnce, false, payload.to_vec()).await;
        published.with_context(|| format!("failed to publish on {topic}"))
    }

    /// Subscribes to a topic filter and waits for the result.
    pub async fn subscribe(&mut self, filter: &str) -> Result<Subscribed> {
        self.connect().await?;
        let connection = self.connection.as_mut().context("not connected")?;
        let subscribed = connection.client.subscribe(filter, QoS::AtLeastOnce).await;
        subscribed.with_context(|| format!("failed to subscribe to {filter}"))?;
        loop {
            match connection.response().await {
                Some(ConnectionEvent::Subscribed(subscribed)) => return Ok(subscribed),
                Some(ConnectionEvent::Closed(_)) => {
                    self.connection = None;
                    return Ok(Subscribed::Denied);
                }
                Some(_) => {}
                None => bail!("AWS IoT neither granted nor denied a subscription to {filter} within {TIMEOUT:?}"),
            }
        }
    }

    /// Returns the next message of its subscriptions. Fails if there is none for `TIMEOUT`.
    pub async fn receive(&mut self) -> Result<Message> {
        let connection = self.connection.as_mut().context("the device is not connected")?;
        if let Some(message) = connection.inbox.pop_front() {
            return Ok(message);
        }
        loop {
            match timeout(TIMEOUT, connection.events.recv()).await {
                Ok(Some(ConnectionEvent::Message(message))) => return Ok(message),
                Ok(Some(ConnectionEvent::Closed(error))) => {
                    self.connection = None;
                    bail!("AWS IoT closed the connection: {error}");
                }
                Ok(Some(_)) => {}
                Ok(None) => bail!("the connection has ended"),
                Err(_) => bail!("{} received no message", self.identity.thing),
            }
        }
    }
}
