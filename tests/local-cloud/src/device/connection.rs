//! The MQTT connection of a device.

use std::collections::VecDeque;
use std::io::ErrorKind;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, Packet, StateError, SubscribeReasonCode, mqttbytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::{ConnectResult, Message, Subscribed, TIMEOUT};

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: AsyncClient,
    pub(super) events: mpsc::UnboundedReceiver<ConnectionEvent>,
    /// Messages that arrived while a response was awaited.
    pub(super) inbox: VecDeque<Message>,
    pub(super) task: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) enum ConnectionEvent {
    Connected,
    Acknowledged,
    Subscribed(Subscribed),
    Message(Message),
    Closed(ConnectionError),
}

impl Connection {
    pub(super) fn new(client: AsyncClient, event_loop: EventLoop) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(poll(event_loop, sender));
        Self { client, events, inbox: VecDeque::new(), task }
    }

    /// Returns the next event other than a message, or `None` after the timeout.
    pub(super) async fn response(&mut self) -> Option<ConnectionEvent> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(ConnectionEvent::Message(message))) => self.inbox.push_back(message),
                Ok(Some(event)) => return Some(event),
                // The task ends with the connection.
                Ok(None) => return Some(ConnectionEvent::Closed(ConnectionError::RequestsDone)),
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

/// Runs until the connection ends. It does not reconnect, which would republish messages that AWS IoT denied.
async fn poll(mut event_loop: EventLoop, sender: mpsc::UnboundedSender<ConnectionEvent>) {
    loop {
        let event = match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => ConnectionEvent::Connected,
            Ok(Event::Incoming(Packet::PubAck(_))) => ConnectionEvent::Acknowledged,
            Ok(Event::Incoming(Packet::SubAck(response))) => {
                let is_granted = response.return_codes.iter().all(|code| *code != SubscribeReasonCode::Failure);
                ConnectionEvent::Subscribed(if is_granted { Subscribed::Granted } else { Subscribed::Denied })
            }
            Ok(Event::Incoming(Packet::Publish(message))) => {
                ConnectionEvent::Message(Message { topic: message.topic, payload: message.payload.to_vec() })
            }
            Ok(_) => continue,
            Err(error) => ConnectionEvent::Closed(error),
        };
        let is_last = matches!(event, ConnectionEvent::Closed(_));
        if sender.send(event).is_err() || is_last {
            return;
        }
    }
}

/// Returns the result that a failed connection attempt proves, if any.
pub(super) fn connect_result(error: &ConnectionError) -> Option<ConnectResult> {
    let error = match error {
        // TLS was closed cleanly, so the broker had accepted the certificate.
        ConnectionError::MqttState(StateError::ConnectionAborted) => return Some(ConnectResult::Closed),
        ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        )
        | ConnectionError::Tls(rumqttc::TlsError::Io(error))
        | ConnectionError::Io(error) => error,
        _ => return None,
    };
    if let Some(rustls::Error::AlertReceived(alert)) = error.get_ref().and_then(|error| error.downcast_ref()) {
        return Some(ConnectResult::TlsRejected(format!("TLS alert {alert:?}")));
    }
    // The local cloud does not send an alert.
    let is_interrupted =
        matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    is_interrupted.then(|| ConnectResult::TlsRejected("the TLS handshake was interrupted".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn clean_close_means_that_tls_accepted_the_certificate() {
        let closed = connect_result(&ConnectionError::MqttState(StateError::ConnectionAborted));
        assert_eq!(closed, Some(ConnectResult::Closed));
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        for error in [
            io::Error::new(ErrorKind::InvalidData, alert),
            io::Error::from(ErrorKind::UnexpectedEof),
            io::Error::from(ErrorKind::ConnectionReset),
        ] {
            let shown = format!("{error}");
            let rejected = connect_result(&ConnectionError::MqttState(StateError::Deserialization(error.into())));
            assert!(matches!(rejected, Some(ConnectResult::TlsRejected(_))), "{shown} gave {rejected:?}");
        }
    }

    #[test]
    fn failed_connection_proves_nothing_about_the_device() {
        assert_eq!(connect_result(&ConnectionError::Io(ErrorKind::ConnectionRefused.into())), None);
        assert_eq!(connect_result(&ConnectionError::NetworkTimeout), None);
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::new(ErrorKind::InvalidData, untrusted);
        assert_eq!(connect_result(&ConnectionError::Tls(rumqttc::TlsError::Io(error))), None);
    }
}
