//! The notifications that subscribers receive: a device stays offline, or is back online.

use gatehouse::{Attribute, Notification, ThingName, Timestamp};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::connection::ConnectionEvent;

/// A notification as it is stored until it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PresenceNotification {
    /// What has changed.
    #[serde(flatten)]
    pub change: PresenceChange,
    /// When the connection ended or began.
    pub since: Timestamp,
    /// The connection's version number.
    pub version_number: u64,
    /// The connection's session identifier.
    pub session_identifier: String,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "presence")]
pub enum PresenceChange {
    /// The device disconnected and did not reconnect within the grace period.
    #[serde(rename = "away")]
    Offline {
        /// AWS's reason.
        reason: String,
    },
    /// The device is connected again.
    #[serde(rename = "back")]
    BackOnline {
        /// When it had disconnected.
        #[serde(rename = "awaySince")]
        offline_since: Timestamp,
    },
}

impl PresenceChange {
    /// Its name in JSON, message attributes and ids.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Offline { .. } => "away",
            Self::BackOnline { .. } => "back",
        }
    }
}

impl PresenceNotification {
    /// A notification of this change, which this event caused.
    pub fn new(change: PresenceChange, event: &ConnectionEvent) -> Self {
        let ConnectionEvent { since, version, session, .. } = event.clone();
        Self { change, since, version_number: version, session_identifier: session }
    }

    /// An id that is unique among the device's notifications: at most 128 printable ASCII characters.
    pub fn id(&self) -> String {
        let Self { change, since, version_number, session_identifier } = self;
        format!("{}-{version_number}-{since}-{session_identifier}", change.as_str())
    }

    /// Returns the message for Amazon SNS, as text and as JSON.
    pub fn to_sns(&self, thing: &ThingName) -> Notification {
        #[derive(Serialize)]
        struct Data<'a> {
            notice: &'a str,
            thing: &'a str,
            #[serde(flatten)]
            notification: &'a PresenceNotification,
        }
        let (id, since) = (self.id(), format_minute(self.since));
        let (subject, details) = match &self.change {
            PresenceChange::Offline { reason } => {
                (format!("{thing} is offline"), format!("It disconnected at {since} ({reason})."))
            }
            PresenceChange::BackOnline { offline_since } => {
                let offline_since = format_minute(*offline_since);
                let details = format!("It connected at {since}; it had been offline since {offline_since}.");
                (format!("{thing} is back online"), details)
            }
        };
        let data = Data { notice: &id, thing: thing.as_str(), notification: self };
        Notification {
            message: format!("{subject}. {details}"),
            subject,
            data: serde_json::to_string(&data).ok(),
            attributes: vec![
                ("thing", Attribute::Text(thing.to_string())),
                ("presence", Attribute::Text(self.change.as_str().to_owned())),
                ("eventId", Attribute::Text(id)),
            ],
        }
    }
}

/// Formats a time to the minute, because AWS's timestamps are only accurate to two minutes.
fn format_minute(at: Timestamp) -> String {
    let time = i64::try_from(at.seconds()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.map_or_else(
        || "an unknown time".to_owned(),
        |time| format!("{} {:02}:{:02} UTC", time.date(), time.hour(), time.minute()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ConnectionState;
    use serde_json::{Value, json};

    fn sns_message(change: PresenceChange) -> (Notification, Value) {
        let event = ConnectionEvent {
            state: ConnectionState::Connected,
            since: Timestamp::from_millis(1_763_715_600_000),
            version: 7,
            session: "a4666d2a-7d84-4ae5-8037-e3aa4b3dd7d5".to_owned(),
            address: None,
        };
        let notification = PresenceNotification::new(change, &event).to_sns(&ThingName::new("greenhouse-1").unwrap());
        let data = serde_json::from_str(notification.data.as_deref().unwrap()).unwrap();
        (notification, data)
    }

    #[test]
    fn offline_is_reported_as_text_and_as_json() {
        let (notification, data) = sns_message(PresenceChange::Offline { reason: "CONNECTION_LOST".to_owned() });
        assert_eq!(notification.subject, "greenhouse-1 is offline");
        let message = "greenhouse-1 is offline. It disconnected at 2025-11-21 09:00 UTC (CONNECTION_LOST).";
        assert_eq!(notification.message, message);
        let expected = json!({
            "notice": "away-7-1763715600000-a4666d2a-7d84-4ae5-8037-e3aa4b3dd7d5", "thing": "greenhouse-1",
            "presence": "away", "reason": "CONNECTION_LOST", "since": 1_763_715_600_000_u64, "versionNumber": 7,
            "sessionIdentifier": "a4666d2a-7d84-4ae5-8037-e3aa4b3dd7d5",
        });
        assert_eq!(data, expected);
    }

    #[test]
    fn back_online_includes_when_the_device_went_offline() {
        let (notification, data) =
            sns_message(PresenceChange::BackOnline { offline_since: Timestamp::from_millis(1_763_712_000_000) });
        let message = "greenhouse-1 is back online. It connected at 2025-11-21 09:00 UTC; it had been offline since \
                       2025-11-21 08:00 UTC.";
        assert_eq!(notification.message, message);
        assert_eq!((&data["presence"], &data["awaySince"]), (&json!("back"), &json!(1_763_712_000_000_u64)));
    }

    #[test]
    fn longest_id_fits_an_event_id() {
        let session_identifier = "s".repeat(64);
        let change = PresenceChange::BackOnline { offline_since: Timestamp::from_millis(0) };
        let since = Timestamp::from_millis(u64::MAX);
        let id = PresenceNotification { change, since, version_number: u64::MAX, session_identifier }.id();
        assert!(gatehouse::EventId::new(id).is_some());
    }
}
