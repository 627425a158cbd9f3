//! What the topic is told: that a device stays away, or that it is back.

use gatehouse::{Attribute, Notification, ThingName, Timestamp};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::presence::Presence;

/// A notice that is owed, by a connection of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// What is told.
    #[serde(flatten)]
    pub turn: Turn,
    /// Since when it is so.
    pub since: Timestamp,
    /// AWS's number of the connection that ended or began.
    pub version_number: u64,
    /// AWS's name for its session.
    pub session_identifier: String,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "presence", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Turn {
    /// It disconnected and has not come back within the grace period.
    Away {
        /// Why, in AWS's words.
        reason: String,
    },
    /// It is connected again.
    Back {
        /// Since when it was away.
        away_since: Timestamp,
    },
}

impl Turn {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Away { .. } => "away",
            Self::Back { .. } => "back",
        }
    }
}

impl Notice {
    /// The notice of this turn, by what is known of the device now.
    pub fn new(turn: Turn, presence: &Presence) -> Self {
        let Presence { since, version, session, .. } = presence.clone();
        Self { turn, since, version_number: version, session_identifier: session }
    }

    /// What tells it from any other notice of the device: at most 128 printable ASCII characters.
    pub fn id(&self) -> String {
        let Self { turn, since, version_number, session_identifier } = self;
        format!("{}-{version_number}-{since}-{session_identifier}", turn.word())
    }

    /// In words, and as JSON for machines.
    pub fn notification(&self, thing: &ThingName) -> Notification {
        #[derive(Serialize)]
        struct Data<'a> {
            notice: &'a str,
            thing: &'a str,
            #[serde(flatten)]
            told: &'a Notice,
        }
        let (id, word, since) = (self.id(), self.turn.word(), clock(self.since));
        let message = match &self.turn {
            Turn::Away { reason } => format!("{thing} is away. It disconnected at {since} ({reason})."),
            Turn::Back { away_since } => {
                format!("{thing} is back. It connected at {since}; it had been away since {}.", clock(*away_since))
            }
        };
        let data = Data { notice: &id, thing: thing.as_str(), told: self };
        Notification {
            subject: format!("{thing} is {word}"),
            message,
            data: serde_json::to_string(&data).ok(),
            attributes: vec![
                ("thing", Attribute::Text(thing.to_string())),
                ("presence", Attribute::Text(word.to_owned())),
                ("eventId", Attribute::Text(id)),
            ],
        }
    }
}

/// A moment as people read it, to the minute; AWS's is right to two.
fn clock(at: Timestamp) -> String {
    let moment = i64::try_from(at.seconds()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.map_or_else(
        || "an unknown time".to_owned(),
        |moment| format!("{} {:02}:{:02} UTC", moment.date(), moment.hour(), moment.minute()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::State;
    use serde_json::{Value, json};

    fn told(turn: Turn) -> (Notification, Value) {
        let presence = Presence {
            state: State::Connected,
            since: Timestamp::from_millis(1_763_715_600_000),
            version: 7,
            session: "a4666d2a-7d84-4ae5-8037-e3aa4b3dd7d5".to_owned(),
            address: None,
        };
        let notification = Notice::new(turn, &presence).notification(&ThingName::new("greenhouse-1").unwrap());
        let data = serde_json::from_str(notification.data.as_deref().unwrap()).unwrap();
        (notification, data)
    }

    #[test]
    fn away_is_told_in_words_and_as_json() {
        let (notification, data) = told(Turn::Away { reason: "CONNECTION_LOST".to_owned() });
        assert_eq!(notification.subject, "greenhouse-1 is away");
        let message = "greenhouse-1 is away. It disconnected at 2025-11-21 09:00 UTC (CONNECTION_LOST).";
        assert_eq!(notification.message, message);
        let expected = json!({
            "notice": "away-7-1763715600000-a4666d2a-7d84-4ae5-8037-e3aa4b3dd7d5", "thing": "greenhouse-1",
            "presence": "away", "reason": "CONNECTION_LOST", "since": 1_763_715_600_000_u64, "versionNumber": 7,
            "sessionIdentifier": "a4666d2a-7d84-4ae5-8037-e3aa4b3dd7d5",
        });
        assert_eq!(data, expected);
    }

    #[test]
    fn back_says_since_when_it_had_been_away() {
        let (notification, data) = told(Turn::Back { away_since: Timestamp::from_millis(1_763_712_000_000) });
        let message = "greenhouse-1 is back. It connected at 2025-11-21 09:00 UTC; it had been away since 2025-11-21 \
                       08:00 UTC.";
        assert_eq!(notification.message, message);
        assert_eq!((&data["presence"], &data["awaySince"]), (&json!("back"), &json!(1_763_712_000_000_u64)));
    }

    #[test]
    fn an_id_is_never_too_long_to_be_an_events() {
        let session_identifier = "s".repeat(64);
        let (turn, since) = (Turn::Back { away_since: Timestamp::from_millis(0) }, Timestamp::from_millis(u64::MAX));
        let id = Notice { turn, since, version_number: u64::MAX, session_identifier }.id();
        assert!(gatehouse::EventId::new(id).is_some());
    }
}
