//! The messages by which AWS IoT tells that a client has connected or disconnected, or was not let in.
//! <https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html>

use gatehouse::{DeviceEvent, Refusal, Timestamp};
use serde::Deserialize;

use crate::presence::{Presence, State};

/// A message has about 400 bytes; this leaves room for fields to come.
const PAYLOAD_LIMIT: usize = 8 * 1024;

/// The longest session identifier that is taken. AWS's have 36 characters.
const LONGEST_SESSION: usize = 64;

/// What AWS IoT tells of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lifecycle {
    /// It connected or disconnected.
    Presence(Presence),
    /// It tried to connect and was not let in, which changes nothing in where it is.
    ConnectFailed {
        /// Why, in AWS's words.
        reason: String,
        /// AWS's name for the attempt.
        session: String,
        /// When.
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
    /// The topic's level for it.
    fn level(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::ConnectFailed => "connect_failed",
        }
    }
}

impl Lifecycle {
    /// Reads the message, which must be about the thing that the rule says it is about.
    ///
    /// Refused with the codes of [`DeviceEvent::payload`], or `topic-mismatch`.
    pub fn read(event: &DeviceEvent) -> Result<Self, Refusal> {
        let payload: Payload = event.payload(PAYLOAD_LIMIT)?;
        if payload.client_id != event.thing.as_str() {
            return Err(Refusal::new("topic-mismatch", "Field `clientId` names another client than the envelope."));
        }
        if event.topic != format!("$aws/events/presence/{}/{}", payload.event_type.level(), event.thing) {
            let why = "The topic does not name the client of field `clientId` and the event of field `eventType`.";
            return Err(Refusal::new("topic-mismatch", why));
        }
        let session = payload.session_identifier;
        if !(1..=LONGEST_SESSION).contains(&session.len()) || !session.bytes().all(|b| b.is_ascii_graphic()) {
            let why = "Field `sessionIdentifier` must be 1 to 64 printable ASCII characters.";
            return Err(Refusal::new("invalid-value", why));
        }
        // A reason that is not known is a reason; so is none.
        let or_unknown = |reason: Option<String>| reason.unwrap_or_else(|| "UNKNOWN".to_owned());
        let state = match payload.event_type {
            EventType::Connected => State::Connected,
            EventType::Disconnected => State::Disconnected { reason: or_unknown(payload.disconnect_reason) },
            EventType::ConnectFailed => {
                let reason = or_unknown(payload.connect_failure_reason);
                return Ok(Self::ConnectFailed { reason, session, at: payload.timestamp });
            }
        };
        let missing = || Refusal::new("missing-field", "Field `versionNumber` is missing.");
        Ok(Self::Presence(Presence {
            address: payload.ip_address.filter(|_| state == State::Connected),
            state,
            since: payload.timestamp,
            version: payload.version_number.ok_or_else(missing)?,
            session,
        }))
    }

    /// The metric that counts this event, and AWS's reason, where it is a failure of the kind that an operator should
    /// know of: two devices with one client id, or a device that may not do what it tries.
    pub fn failure(&self) -> Option<(&'static str, &str)> {
        let reason = match self {
            Self::Presence(presence) => presence.reason()?,
            Self::ConnectFailed { reason, .. } => reason,
        };
        let metric = match reason {
            "DUPLICATE_CLIENTID" => "DuplicateClientId",
            "AUTH_ERROR" | "FORBIDDEN_ACCESS" | "AUTHORIZATION_FAILED" => "AuthorisationFailures",
            _ => return None,
        };
        Some((metric, reason))
    }

    /// What tells this event from any other of the client, over all its repetitions.
    pub fn key(&self) -> String {
        match self {
            Self::Presence(Presence { since, version, session, .. }) => format!("{version}-{since}-{session}"),
            Self::ConnectFailed { session, at, .. } => format!("failed-{at}-{session}"),
        }
    }
}
