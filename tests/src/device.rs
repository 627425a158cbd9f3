//! A device: a thing with a certificate of its own, speaking MQTT over mutual TLS.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, StateError, SubscribeReasonCode,
    TlsConfiguration, Transport, mqttbytes,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::aws::Clients;
use crate::cloud::Cloud;

/// The largest message that AWS IoT takes.
pub const LARGEST: usize = 128 * 1024;

const LIMIT: Duration = Duration::from_secs(20);

/// The pauses between a device's attempts to connect: each is twice the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a device needs to prove who it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The name that it connects under, its MQTT client id: the thing's, if AWS IoT is to let it in.
    pub thing: String,
    /// The certificate, in PEM; and after it, if AWS IoT does not know it yet, its authority's.
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

    /// A client that presents the certificate whatever is in it: to judge it is the other side's part.
    fn tls(&self, ca: &str) -> Result<ClientConfig> {
        let provider = Arc::new(default_provider());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .context("certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("key")?;
        let key = provider.key_provider.load_private_key(key).context("key")?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(root.context("the broker's certificate authority is not PEM")?)?;
        }
        let presented = Presented(Arc::new(CertifiedKey::new(chain, key)));
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(config.with_root_certificates(roots).with_client_cert_resolver(Arc::new(presented)))
    }
}

#[derive(Debug)]
struct Presented(Arc<CertifiedKey>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Where devices connect.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate authority, in PEM.
    pub ca: String,
}

impl From<&Cloud> for Broker {
    fn from(cloud: &Cloud) -> Self {
        Self { address: cloud.mqtt, ca: cloud.ca.clone() }
    }
}

/// What became of an attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// AWS IoT lets the device in.
    LetIn,
    /// AWS IoT took the certificate in the TLS handshake, and then closed the connection without an answer (MQTT's
    /// CONNACK): as it does while the certificate is not active, and where the policy does not allow the client id.
    TurnedAway,
    /// The TLS handshake failed, in this way: AWS IoT does not take the certificate at all.
    Refused(String),
}

/// What became of messages that a device published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// AWS IoT acknowledged each.
    Accepted,
    /// AWS IoT closed the connection instead, as it does when the device's policy forbids the topic.
    Denied,
}

/// What became of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribed {
    /// The device gets what is published there.
    Granted,
    /// AWS IoT said no, or closed the connection, as it does when the device's policy forbids the topics.
    Denied,
}

/// A message that a device got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// A device that connects when it has something to say, and stays connected until it is turned away.
#[derive(Debug)]
pub struct Device {
    identity: Identity,
    broker: Broker,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    client: AsyncClient,
    said: mpsc::UnboundedReceiver<Said>,
    /// Messages that came while something else was waited for.
    inbox: VecDeque<Message>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Said {
    Connected,
    Acknowledged,
    Subscribed(Subscribed),
    Message(Message),
    Closed(ConnectionError),
}

impl Device {
    /// A device that is not connected yet.
    pub fn new(cloud: &Cloud, identity: Identity) -> Self {
        Self::at(cloud.into(), identity)
    }

    /// A device of this broker that is not connected yet.
    pub fn at(broker: Broker, identity: Identity) -> Self {
        Self { identity, broker, connection: None }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Tries once to connect, if it is not connected.
    pub async fn attempt(&mut self) -> Result<Attempt> {
        if self.is_connected() {
            return Ok(Attempt::LetIn);
        }
        self.connection = None;
        let Identity { thing, .. } = &self.identity;
        let address = self.broker.address;
        let mut options = MqttOptions::new(thing, address.ip().to_string(), address.port());
        options.set_keep_alive(Duration::from_mins(1)).set_max_packet_size(LARGEST, 2 * LARGEST);
        let tls = self.identity.tls(&self.broker.ca).with_context(|| format!("{thing} cannot connect"))?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        let (client, events) = AsyncClient::new(options, 100);
        let (tell, said) = mpsc::unbounded_channel();
        let task = tokio::spawn(listen(events, tell));
        let mut connection = Connection { client, said, inbox: VecDeque::new(), task };
        match timeout(LIMIT, connection.said.recv()).await {
            Ok(Some(Said::Connected)) => {
                self.connection = Some(connection);
                Ok(Attempt::LetIn)
            }
            Ok(Some(Said::Closed(error))) => {
                refusal(&error).with_context(|| format!("{thing} cannot connect: {error}"))
            }
            other => bail!("{thing} cannot connect: {other:?}"),
        }
    }

    /// Connects, if it is not. It is an error where AWS IoT does not let it in.
    pub async fn connect(&mut self) -> Result<()> {
        let thing = self.identity.thing.clone();
        match self.attempt().await? {
            Attempt::LetIn => Ok(()),
            Attempt::TurnedAway => bail!("{thing} cannot connect: AWS IoT closed the connection"),
            Attempt::Refused(how) => bail!("{thing} cannot connect: {how}"),
        }
    }

    /// Tries to connect until AWS IoT lets it in, as a device does that has just been made: with pauses that grow. What
    /// became of the last attempt before the deadline.
    pub async fn knock(&mut self, deadline: Instant) -> Result<Attempt> {
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = self.attempt().await?;
            if attempt == Attempt::LetIn || Instant::now() + pause >= deadline {
                return Ok(attempt);
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(2 * pause);
        }
    }

    /// Whether it is connected. AWS IoT may close a connection at any time.
    pub fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.task.is_finished())
    }

    /// Closes the connection.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Publishes all `payloads` at the same moment, with quality of service 1, and waits for what AWS IoT makes of
    /// them. Also the time at which it began.
    pub async fn publish(&mut self, topic: &str, payloads: &[&[u8]]) -> Result<(SystemTime, Published)> {
        self.connect().await?;
        let connection = self.connection.as_mut().context("not connected")?;
        let begin = SystemTime::now();
        for payload in payloads {
            connection.client.publish(topic, QoS::AtLeastOnce, false, payload.to_vec()).await?;
        }
        let mut open = payloads.len();
        while open > 0 {
            match connection.answer().await {
                Some(Said::Acknowledged) => open -= 1,
                Some(Said::Closed(_)) => {
                    self.connection = None;
                    return Ok((begin, Published::Denied));
                }
                Some(_) => {}
                None => bail!("a message on {topic} was neither acknowledged nor turned away in {LIMIT:?}"),
            }
        }
        Ok((begin, Published::Accepted))
    }

    /// Subscribes to the topics that `filter` matches, and waits for what AWS IoT makes of it.
    pub async fn subscribe(&mut self, filter: &str) -> Result<Subscribed> {
        self.connect().await?;
        let connection = self.connection.as_mut().context("not connected")?;
        connection.client.subscribe(filter, QoS::AtLeastOnce).await?;
        loop {
            match connection.answer().await {
                Some(Said::Subscribed(subscribed)) => return Ok(subscribed),
                Some(Said::Closed(_)) => {
                    self.connection = None;
                    return Ok(Subscribed::Denied);
                }
                Some(_) => {}
                None => bail!("a subscription to {filter} was neither granted nor denied in {LIMIT:?}"),
            }
        }
    }

    /// The next message of its subscriptions; none where there is none until the deadline.
    pub async fn receive(&mut self, deadline: Instant) -> Result<Option<Message>> {
        let connection = self.connection.as_mut().context("a device that is not connected gets no messages")?;
        if let Some(message) = connection.inbox.pop_front() {
            return Ok(Some(message));
        }
        loop {
            match timeout_at(deadline, connection.said.recv()).await {
                Ok(Some(Said::Message(message))) => return Ok(Some(message)),
                Ok(Some(Said::Closed(error))) => {
                    self.connection = None;
                    bail!("AWS IoT closed the connection: {error}");
                }
                Ok(Some(_)) => {}
                Ok(None) => bail!("the connection has ended"),
                Err(_) => return Ok(None),
            }
        }
    }
}

impl Connection {
    /// What is said next other than a message; none where nothing is in time.
    async fn answer(&mut self) -> Option<Said> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match timeout_at(deadline, self.said.recv()).await {
                Ok(Some(Said::Message(message))) => self.inbox.push_back(message),
                Ok(Some(said)) => return Some(said),
                // The task ends with the connection.
                Ok(None) => return Some(Said::Closed(ConnectionError::RequestsDone)),
                Err(_) => return None,
            }
        }
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
            Ok(Event::Incoming(Packet::SubAck(answer))) => {
                let is_granted = answer.return_codes.iter().all(|code| *code != SubscribeReasonCode::Failure);
                Said::Subscribed(if is_granted { Subscribed::Granted } else { Subscribed::Denied })
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                Said::Message(Message { topic: message.topic, payload: message.payload.to_vec() })
            }
            Ok(_) => continue,
            Err(error) => Said::Closed(error),
        };
        let is_last = matches!(said, Said::Closed(_));
        if tell.send(said).is_err() || is_last {
            return;
        }
    }
}

/// What a connection's end before the first answer says of the device; none where it says nothing of it.
fn refusal(error: &ConnectionError) -> Option<Attempt> {
    let error = match error {
        // TLS was closed in good order: whoever did that has taken the certificate.
        ConnectionError::MqttState(StateError::ConnectionAborted) => return Some(Attempt::TurnedAway),
        ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        )
        | ConnectionError::Tls(rumqttc::TlsError::Io(error))
        | ConnectionError::Io(error) => error,
        _ => return None,
    };
    if let Some(rustls::Error::AlertReceived(alert)) = error.get_ref().and_then(|error| error.downcast_ref()) {
        return Some(Attempt::Refused(format!("TLS alert {alert:?}")));
    }
    // The local cloud does not even send the alert.
    let is_cut = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    is_cut.then(|| Attempt::Refused("the TLS handshake was broken off".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_connection_that_is_closed_in_good_order_has_been_judged_by_more_than_tls() {
        let turned_away = refusal(&ConnectionError::MqttState(StateError::ConnectionAborted));
        assert_eq!(turned_away, Some(Attempt::TurnedAway));
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        for error in [
            io::Error::new(ErrorKind::InvalidData, alert),
            io::Error::from(ErrorKind::UnexpectedEof),
            io::Error::from(ErrorKind::ConnectionReset),
        ] {
            let shown = format!("{error}");
            let refused = refusal(&ConnectionError::MqttState(StateError::Deserialization(error.into())));
            assert!(matches!(refused, Some(Attempt::Refused(_))), "{shown} gave {refused:?}");
        }
    }

    #[test]
    fn a_connection_that_never_was_says_nothing_of_the_device() {
        assert_eq!(refusal(&ConnectionError::Io(ErrorKind::ConnectionRefused.into())), None);
        assert_eq!(refusal(&ConnectionError::NetworkTimeout), None);
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::new(ErrorKind::InvalidData, untrusted);
        assert_eq!(refusal(&ConnectionError::Tls(rumqttc::TlsError::Io(error))), None);
    }
}
