//! Parses AWS IoT's lifecycle events: a client connected, disconnected, or failed to connect.
//! <https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html>

use gatehouse::{DeviceEvent, Refusal, Timestamp};
use serde::Deserialize;

use crate::connection::{ConnectionEvent, ConnectionState};

/// The maximum size of an event. They have about 400 bytes; this leaves room for new fields.
const MAX_PAYLOAD_BYTES: usize = 8 * 1024;

/// The maximum length of a session identifier. Those from AWS have 36 characters.
const MAX_SESSION_LENGTH: usize = 64;

/// What AWS IoT reports about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// It connected or disconnected.
    Connection(ConnectionEvent),
    /// It failed to connect, which does not change whether it is connected.
    ConnectFailed {
        /// AWS's reason.
        reason: String,
        /// The attempt's session identifier.
        session: String,
        /// When it failed.
        at: Timestamp,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    client_id: String,
    timestamp: Timestamp,
    event_type: EventType,
    session_identifier: String,
    version_number: Option<u64>,
    ip_address: Option<String>,
    disconnect_reason: Option<String>,
    connect_failure_reason: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EventType {
    Connected,
    Disconnected,
    ConnectFailed,
}

impl EventType {
    /// The topic level that names it.
    fn topic_level(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::ConnectFailed => "connect_failed",
        }
    }
}

impl LifecycleEvent {
    /// Parses an event, which must be about the thing that the envelope names.
    ///
    /// Refused with the codes of [`DeviceEvent::payload`], with `topic-mismatch`, or with `invalid-value` if its time
    /// is more than an hour in the future.
    pub fn parse(event: &DeviceEvent) -> Result<Self, Refusal> {
        let payload: Payload = event.payload(MAX_PAYLOAD_BYTES)?;
        if payload.client_id != event.thing.as_str() {
            return Err(Refusal::new("topic-mismatch", "Field `clientId` must be the thing that the envelope names."));
        }
        if event.topic != format!("$aws/events/presence/{}/{}", payload.event_type.topic_level(), event.thing) {
            let why = "The topic must name the event type of field `eventType` and the client of field `clientId`.";
            return Err(Refusal::new("topic-mismatch", why));
        }
        let at = event.time("timestamp", payload.timestamp)?;
        let session = payload.session_identifier;
        if !(1..=MAX_SESSION_LENGTH).contains(&session.len()) || !session.bytes().all(|b| b.is_ascii_graphic()) {
            let why = "Field `sessionIdentifier` must be 1 to 64 printable ASCII characters.";
            return Err(Refusal::new("invalid-value", why));
        }
        let or_unknown = |reason: Option<String>| reason.unwrap_or_else(|| "UNKNOWN".to_owned());
        let state = match payload.event_type {
            EventType::Connected => ConnectionState::Connected,
            EventType::Disconnected => ConnectionState::Disconnected { reason: or_unknown(payload.disconnect_reason) },
            EventType::ConnectFailed => {
                let reason = or_unknown(payload.connect_failure_reason);
                return Ok(Self::ConnectFailed { reason, session, at });
            }
        };
        let missing = || Refusal::new("missing-field", "Field `versionNumber` is missing.");
        Ok(Self::Connection(ConnectionEvent {
            address: payload.ip_address.filter(|_| state == ConnectionState::Connected),
            state,
            since: at,
            version: payload.version_number.ok_or_else(missing)?,
            session,
        }))
    }

    /// Returns the metric that counts this event, and AWS's reason, if it is a failure that concerns an operator: two
    /// devices with one client id, or a device that attempts what its policy does not allow.
    pub fn failure(&self) -> Option<(&'static str, &str)> {
        let reason = match self {
            Self::Connection(event) => event.disconnect_reason()?,
            Self::ConnectFailed { reason, .. } => reason,
        };
        let metric = match reason {
            "DUPLICATE_CLIENTID" => "DuplicateClientId",
            "AUTH_ERROR" | "FORBIDDEN_ACCESS" | "AUTHORIZATION_FAILED" => "AuthorizationFailures",
            _ => return None,
        };
        Some((metric, reason))
    }

    /// An id that is unique among the client's events, and the same for every duplicate.
    pub fn id(&self) -> String {
        match self {
            Self::Connection(ConnectionEvent { since, version, session, .. }) => format!("{version}-{since}-{session}"),
            Self::ConnectFailed { session, at, .. } => format!("failed-{at}-{session}"),
        }
    }
}
