//! A device's record: decides what an event changes and which notifications follow, and converts to an item and back.

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::{Item, integer, is_true, number, string, text};
use gatehouse::{BoxError, Failure, Outbox, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{ConnectionEvent, ConnectionState, Merge, merge};
use crate::notification::{PresenceChange, PresenceNotification};

/// The attribute with the pending notifications.
pub const PENDING: &str = "owed";

/// The maximum number of unconfirmed disconnects that are kept: far more than arrive before the confirming connect.
const MAX_UNCONFIRMED: usize = 16;

/// What is known about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceRecord {
    /// The newest event; `None` if nothing is known yet.
    pub latest: Option<ConnectionEvent>,
    /// The newest disconnects that may be rejected connection attempts, which anyone can make under the device's client
    /// id. Such a disconnect counts once the connect of its own connection arrives. Stored as `refusals`.
    pub unconfirmed: Vec<ConnectionEvent>,
    /// When the device went offline, if a notification about it has been stored. Stored as `awaySince`.
    pub offline_since: Option<Timestamp>,
    /// The notifications to be sent, oldest first.
    pub pending: Vec<PresenceNotification>,
}

/// What an event did to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It changed the record.
    Changed,
    /// Nothing: the event is recorded already.
    Duplicate,
    /// Nothing: a newer event is recorded.
    OutOfOrder,
}

/// The record was changed by hand, or by a newer version of the function.
#[derive(Debug, thiserror::Error)]
#[error("failed to parse the device's record in the devices table")]
pub struct DeviceRecordError(#[source] BoxError);

impl From<DeviceRecordError> for Failure {
    fn from(error: DeviceRecordError) -> Self {
        Self::retry(error)
    }
}

impl DeviceRecord {
    /// Applies an event. A connect after an announced absence adds a notification.
    pub fn apply(&mut self, event: ConnectionEvent) -> Applied {
        let is_same_connection = |other: &ConnectionEvent| other.is_connection(event.version, &event.session);
        if event.may_be_rejected_attempt() && !self.latest.as_ref().is_some_and(is_same_connection) {
            return self.set_aside(event);
        }
        let end = self.unconfirmed.iter().position(is_same_connection).map(|index| self.unconfirmed.remove(index));
        let applied = self.merge(event);
        match end {
            Some(end) => {
                self.merge(end);
                Applied::Changed
            }
            None => applied,
        }
    }

    fn set_aside(&mut self, disconnect: ConnectionEvent) -> Applied {
        if self.unconfirmed.contains(&disconnect) {
            return Applied::Duplicate;
        }
        self.unconfirmed.push(disconnect);
        self.unconfirmed.sort_by_key(|disconnect| disconnect.since);
        if self.unconfirmed.len() > MAX_UNCONFIRMED {
            self.unconfirmed.remove(0);
        }
        Applied::Changed
    }

    fn merge(&mut self, event: ConnectionEvent) -> Applied {
        match merge(self.latest.as_ref(), event) {
            Merge::Newer(event) => {
                if event.is_connected()
                    && let Some(offline_since) = self.offline_since.take()
                {
                    let change = PresenceChange::BackOnline { offline_since };
                    self.pending.push(PresenceNotification::new(change, &event));
                }
                self.latest = Some(event);
                Applied::Changed
            }
            Merge::Completed(event) => {
                self.latest = Some(event);
                Applied::Changed
            }
            Merge::Duplicate => Applied::Duplicate,
            Merge::OutOfOrder => Applied::OutOfOrder,
        }
    }

    /// Whether this event requires a check later: see [`Self::is_unannounced`].
    pub fn needs_check(&self, event: &ConnectionEvent) -> bool {
        self.is_unannounced(event.version, &event.session)
    }

    /// Adds a notification if the device is still offline since the end of this connection, and that is not announced
    /// yet. Returns whether it did.
    pub fn check(&mut self, version: u64, session: &str) -> bool {
        if !self.is_unannounced(version, session) {
            return false;
        }
        if let Some(latest) = &self.latest
            && let Some(reason) = latest.disconnect_reason()
        {
            self.offline_since = Some(latest.since);
            let change = PresenceChange::Offline { reason: reason.to_owned() };
            self.pending.push(PresenceNotification::new(change, latest));
        }
        true
    }

    /// Whether the device is offline since the end of this connection, and that is not announced yet.
    pub fn is_unannounced(&self, version: u64, session: &str) -> bool {
        let is_end = |latest: &ConnectionEvent| !latest.is_connected() && latest.is_connection(version, session);
        self.offline_since.is_none() && self.latest.as_ref().is_some_and(is_end)
    }

    /// Parses the attributes that [`Self::to_item`] wrote. An empty item gives an empty record.
    pub fn parse(item: &Item) -> Result<Self, DeviceRecordError> {
        if item.is_empty() {
            return Ok(Self::default());
        }
        let required_text = |name: &str| text(item, name).map(str::to_owned).ok_or_else(|| invalid(name));
        let required_integer = |name: &str| integer(item, name).ok_or_else(|| invalid(name));
        let state = || {
            if is_true(item, "connected") {
                return Ok(ConnectionState::Connected);
            }
            Ok(ConnectionState::Disconnected { reason: required_text("disconnectReason")? })
        };
        let latest = || {
            Ok(ConnectionEvent {
                state: state()?,
                since: Timestamp::from_millis(required_integer("since")?),
                version: required_integer("versionNumber")?,
                session: required_text("sessionIdentifier")?,
                address: text(item, "ipAddress").map(str::to_owned),
            })
        };
        Ok(Self {
            latest: item.contains_key("connected").then(latest).transpose()?,
            unconfirmed: parse_list(item, "refusals")?,
            offline_since: integer(item, "awaySince").map(Timestamp::from_millis),
            pending: Outbox::pending(item, PENDING).map_err(|error| DeviceRecordError(error.into()))?,
        })
    }

    /// Returns the record's attributes.
    pub fn to_item(&self) -> Result<Item, DeviceRecordError> {
        let mut item = Item::new();
        let mut set = |name: &str, value| drop(item.insert(name.to_owned(), value));
        if let Some(latest) = &self.latest {
            set("connected", AttributeValue::Bool(latest.is_connected()));
            set("since", number(latest.since.millis()));
            set("versionNumber", number(latest.version));
            set("sessionIdentifier", string(&latest.session));
            if let Some(reason) = latest.disconnect_reason() {
                set("disconnectReason", string(reason));
            }
            if let Some(address) = &latest.address {
                set("ipAddress", string(address));
            }
        }
        if let Some(offline_since) = self.offline_since {
            set("awaySince", number(offline_since.millis()));
        }
        if !self.unconfirmed.is_empty() {
            set("refusals", list(&self.unconfirmed)?);
        }
        Outbox::set_pending(&mut item, PENDING, &self.pending).map_err(|error| DeviceRecordError(error.into()))?;
        Ok(item)
    }
}

fn invalid(name: &str) -> DeviceRecordError {
    DeviceRecordError(format!("attribute {name} is missing or has the wrong type").into())
}

/// Converts values to a list of JSON strings.
fn list(values: &[impl Serialize]) -> Result<AttributeValue, DeviceRecordError> {
    let texts = values.iter().map(|value| serde_json::to_string(value).map(AttributeValue::S));
    let texts = texts.collect::<Result<_, _>>();
    texts.map(AttributeValue::L).map_err(|error| DeviceRecordError(error.into()))
}

/// Parses what [`list`] wrote; empty if there is no such attribute.
fn parse_list<T: DeserializeOwned>(item: &Item, name: &str) -> Result<Vec<T>, DeviceRecordError> {
    let Some(texts) = item.get(name) else { return Ok(Vec::new()) };
    let parse = |text: &AttributeValue| {
        let text = text.as_s().map_err(|_| invalid(name))?;
        serde_json::from_str(text).map_err(|error| DeviceRecordError(error.into()))
    };
    texts.as_l().map_err(|_| invalid(name))?.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_millis(1_763_715_600_000);

    fn connected(version: u64) -> ConnectionEvent {
        let (session, address) = ("session".to_owned(), Some("192.0.2.1".to_owned()));
        ConnectionEvent { state: ConnectionState::Connected, since: NOW, version, session, address }
    }

    fn disconnected(version: u64) -> ConnectionEvent {
        let state = ConnectionState::Disconnected { reason: "CONNECTION_LOST".to_owned() };
        ConnectionEvent { state, address: None, ..connected(version) }
    }

    fn pending(device: &DeviceRecord) -> Vec<&str> {
        device.pending.iter().map(|notification| notification.change.as_str()).collect()
    }

    #[test]
    fn repeated_checks_add_one_notification() {
        let mut device = DeviceRecord::default();
        device.apply(disconnected(3));
        assert!(device.needs_check(&disconnected(3)));
        assert!(device.check(3, "session"));
        assert!(!device.check(3, "session"));
        assert!(!device.needs_check(&disconnected(3)));
        assert_eq!(pending(&device), ["away"]);
    }

    #[test]
    fn check_of_another_connection_adds_no_notification() {
        let mut device = DeviceRecord::default();
        device.apply(disconnected(3));
        device.apply(disconnected(4));
        assert!(!device.check(3, "session"));
        assert!(!device.check(4, "another"));
        assert_eq!(pending(&device), [""; 0]);
    }

    #[test]
    fn return_before_the_check_adds_no_notification() {
        let mut device = DeviceRecord::default();
        device.apply(disconnected(3));
        device.apply(connected(4));
        assert!(!device.check(3, "session"));
        assert_eq!(pending(&device), [""; 0]);
    }

    #[test]
    fn return_after_the_check_adds_a_notification() {
        let mut device = DeviceRecord::default();
        device.apply(disconnected(3));
        device.check(3, "session");
        // Another disconnect, whose connect is late, is not a return.
        device.apply(disconnected(4));
        assert!(!device.needs_check(&disconnected(4)));
        device.apply(connected(4));
        assert_eq!(pending(&device), ["away"]);
        device.apply(connected(5));
        assert_eq!(pending(&device), ["away", "back"]);
        assert_eq!(device.offline_since, None);
    }

    fn rejected(version: u64, since: Timestamp) -> ConnectionEvent {
        let state = ConnectionState::Disconnected { reason: "AUTH_ERROR".to_owned() };
        ConnectionEvent { state, since, ..disconnected(version) }
    }

    #[test]
    fn rejected_attempt_does_not_disconnect_the_device() {
        let mut device = DeviceRecord::default();
        assert_eq!(device.apply(rejected(1, NOW)), Applied::Changed);
        assert_eq!(device.latest, None);
        device.apply(connected(2));
        let later = rejected(3, NOW.plus(Duration::from_hours(2)));
        assert_eq!(device.apply(later.clone()), Applied::Changed);
        assert_eq!(device.apply(later.clone()), Applied::Duplicate);
        assert_eq!(device.latest, Some(connected(2)));
        assert!(!device.needs_check(&later));
    }

    #[test]
    fn unconfirmed_disconnect_counts_once_its_connect_arrives() {
        let mut device = DeviceRecord::default();
        device.apply(connected(2));
        device.apply(rejected(3, NOW));
        assert_eq!(device.apply(connected(3)), Applied::Changed);
        assert_eq!(device.latest.as_ref().and_then(ConnectionEvent::disconnect_reason), Some("AUTH_ERROR"));
        assert!(device.needs_check(&connected(3)));
        assert_eq!(device.unconfirmed, []);
        assert_eq!(device.apply(rejected(3, NOW)), Applied::Duplicate);
    }

    #[test]
    fn newest_unconfirmed_disconnects_are_kept() {
        let mut device = DeviceRecord::default();
        for minute in (0..40).rev() {
            device.apply(rejected(minute, NOW.plus(Duration::from_mins(minute))));
        }
        assert_eq!(device.unconfirmed.iter().map(|end| end.version).collect::<Vec<_>>(), (24..40).collect::<Vec<_>>());
    }

    #[test]
    fn written_record_is_parsed_again() {
        let mut device = DeviceRecord::default();
        device.apply(rejected(1, NOW));
        for _ in 0..2 {
            assert_eq!(DeviceRecord::parse(&device.to_item().unwrap()).unwrap(), device);
            device.apply(connected(2));
            assert_eq!(DeviceRecord::parse(&device.to_item().unwrap()).unwrap(), device);
            device.apply(disconnected(2));
            device.check(2, "session");
        }
        assert_eq!(DeviceRecord::parse(&device.to_item().unwrap()).unwrap(), device);
    }

    #[test]
    fn broken_record_is_not_treated_as_empty() {
        let mut device = DeviceRecord::default();
        device.apply(disconnected(3));
        device.check(3, "session");
        let item = device.to_item().unwrap();
        for name in ["disconnectReason", "since", "versionNumber", "sessionIdentifier", "owed"] {
            let mut broken = item.clone();
            broken.insert(name.to_owned(), AttributeValue::Bool(true));
            assert!(DeviceRecord::parse(&broken).is_err(), "{name}");
        }
    }
}
