//! What is kept of a device, and what is told of it.

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::item::{Item, integer, is_true, number, string, text};
use gatehouse::{BoxError, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::notice::{Notice, Turn};
use crate::presence::{News, Presence, State, news};

/// How many refusals are kept that may be another connection's end: far more than come before the connect that tells.
const REFUSALS: usize = 16;

/// A device's record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Whether it is connected; none where nothing is known yet.
    pub presence: Option<Presence>,
    /// Ends that may be refusals, the newest ones. Such an end counts once the connect of its own connection has come,
    /// for anybody can be refused in a device's name.
    pub refusals: Vec<Presence>,
    /// Since when it is away, where the topic has been told that it is, or will be.
    pub away_since: Option<Timestamp>,
    /// What is still to be told, in this order.
    pub owed: Vec<Notice>,
}

/// What an event was to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It changed it.
    Newer,
    /// It stands there already.
    Repeated,
    /// Something newer stands there.
    Older,
}

/// The record is not one that this function writes: it was changed by hand, or by a newer version of the function.
#[derive(Debug, thiserror::Error)]
#[error("the device's record in the devices table cannot be used")]
pub struct Unreadable(#[source] BoxError);

impl Device {
    /// Takes in an event. A return from what was told is owed to those who were told.
    pub fn hear(&mut self, event: Presence) -> Heard {
        let is_of = |other: &Presence| other.is_connection(event.version, &event.session);
        if event.may_be_refusal() && !self.presence.as_ref().is_some_and(is_of) {
            return self.set_aside(event);
        }
        let end = self.refusals.iter().position(is_of).map(|at| self.refusals.remove(at));
        let heard = self.take(event);
        match end {
            Some(end) => {
                self.take(end);
                Heard::Newer
            }
            None => heard,
        }
    }

    fn set_aside(&mut self, end: Presence) -> Heard {
        if self.refusals.contains(&end) {
            return Heard::Repeated;
        }
        self.refusals.push(end);
        self.refusals.sort_by_key(|end| end.since);
        if self.refusals.len() > REFUSALS {
            self.refusals.remove(0);
        }
        Heard::Newer
    }

    fn take(&mut self, event: Presence) -> Heard {
        match news(self.presence.as_ref(), event) {
            News::Newer(now) => {
                if now.is_connected()
                    && let Some(away_since) = self.away_since.take()
                {
                    self.owed.push(Notice::new(Turn::Back { away_since }, &now));
                }
                self.presence = Some(now);
                Heard::Newer
            }
            News::Completes(now) => {
                self.presence = Some(now);
                Heard::Newer
            }
            News::Repeated => Heard::Repeated,
            News::Older => Heard::Older,
        }
    }

    /// Whether it is by the end of this event's connection that it is away, and nobody was told yet.
    pub fn awaits_check(&self, event: &Presence) -> bool {
        self.is_untold(event.version, &event.session)
    }

    /// Looks whether it is still away by the disconnect of this connection. If so, that is owed from now on; whether it
    /// was not before.
    pub fn check(&mut self, version: u64, session: &str) -> bool {
        if !self.is_untold(version, session) {
            return false;
        }
        if let Some(presence) = &self.presence
            && let Some(reason) = presence.reason()
        {
            self.away_since = Some(presence.since);
            self.owed.push(Notice::new(Turn::Away { reason: reason.to_owned() }, presence));
        }
        true
    }

    fn is_untold(&self, version: u64, session: &str) -> bool {
        let is_away = |held: &Presence| !held.is_connected() && held.is_connection(version, session);
        self.away_since.is_none() && self.presence.as_ref().is_some_and(is_away)
    }

    /// Reads what [`Self::item`] has written; nothing is known where there is no item.
    pub fn read(item: &Item) -> Result<Self, Unreadable> {
        if item.is_empty() {
            return Ok(Self::default());
        }
        let required = |name: &str| text(item, name).map(str::to_owned).ok_or_else(|| missing(name));
        let whole = |name: &str| integer(item, name).ok_or_else(|| missing(name));
        let state = || {
            let reason = || Ok(State::Disconnected { reason: required("disconnectReason")? });
            if is_true(item, "connected") { Ok(State::Connected) } else { reason() }
        };
        let presence = || {
            Ok(Presence {
                state: state()?,
                since: Timestamp::from_millis(whole("since")?),
                version: whole("versionNumber")?,
                session: required("sessionIdentifier")?,
                address: text(item, "ipAddress").map(str::to_owned),
            })
        };
        Ok(Self {
            presence: item.contains_key("connected").then(presence).transpose()?,
            refusals: list(item, "refusals")?,
            away_since: integer(item, "awaySince").map(Timestamp::from_millis),
            owed: list(item, "owed")?,
        })
    }

    /// The record's attributes. A notice that is owed is kept as the JSON that it will be told in.
    pub fn item(&self) -> Result<Item, Unreadable> {
        let mut item = Item::new();
        let mut set = |name: &str, value| drop(item.insert(name.to_owned(), value));
        if let Some(presence) = &self.presence {
            set("connected", AttributeValue::Bool(presence.is_connected()));
            set("since", number(presence.since.millis()));
            set("versionNumber", number(presence.version));
            set("sessionIdentifier", string(&presence.session));
            if let Some(reason) = presence.reason() {
                set("disconnectReason", string(reason));
            }
            if let Some(address) = &presence.address {
                set("ipAddress", string(address));
            }
        }
        if let Some(away_since) = self.away_since {
            set("awaySince", number(away_since.millis()));
        }
        if !self.refusals.is_empty() {
            set("refusals", texts(&self.refusals)?);
        }
        if !self.owed.is_empty() {
            set("owed", texts(&self.owed)?);
        }
        Ok(item)
    }
}

fn missing(name: &str) -> Unreadable {
    Unreadable(format!("attribute {name} is not there or of another kind").into())
}

/// Each of these as JSON text.
fn texts(all: &[impl Serialize]) -> Result<AttributeValue, Unreadable> {
    let texts = all.iter().map(|one| serde_json::to_string(one).map(AttributeValue::S)).collect::<Result<_, _>>();
    texts.map(AttributeValue::L).map_err(|error| Unreadable(error.into()))
}

/// What [`texts`] has written; nothing where there is no such attribute.
fn list<T: DeserializeOwned>(item: &Item, name: &str) -> Result<Vec<T>, Unreadable> {
    let Some(texts) = item.get(name) else { return Ok(Vec::new()) };
    let read = |text: &AttributeValue| {
        let text = text.as_s().map_err(|_| missing(name))?;
        serde_json::from_str(text).map_err(|error| Unreadable(error.into()))
    };
    texts.as_l().map_err(|_| missing(name))?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_millis(1_763_715_600_000);

    fn connected(version: u64) -> Presence {
        let (session, address) = ("session".to_owned(), Some("192.0.2.1".to_owned()));
        Presence { state: State::Connected, since: NOW, version, session, address }
    }

    fn disconnected(version: u64) -> Presence {
        let state = State::Disconnected { reason: "CONNECTION_LOST".to_owned() };
        Presence { state, address: None, ..connected(version) }
    }

    fn turns(device: &Device) -> Vec<&str> {
        device.owed.iter().map(|notice| notice.turn.word()).collect()
    }

    #[test]
    fn away_is_owed_once_however_often_it_is_checked() {
        let mut device = Device::default();
        device.hear(disconnected(3));
        assert!(device.awaits_check(&disconnected(3)));
        assert!(device.check(3, "session"));
        assert!(!device.check(3, "session"));
        assert!(!device.awaits_check(&disconnected(3)));
        assert_eq!(turns(&device), ["away"]);
    }

    #[test]
    fn a_check_of_an_earlier_disconnect_or_of_another_session_finds_nothing() {
        let mut device = Device::default();
        device.hear(disconnected(3));
        device.hear(disconnected(4));
        assert!(!device.check(3, "session"));
        assert!(!device.check(4, "another"));
        assert_eq!(turns(&device), [""; 0]);
    }

    #[test]
    fn a_return_that_nobody_waits_for_is_not_owed() {
        let mut device = Device::default();
        device.hear(disconnected(3));
        device.hear(connected(4));
        assert!(!device.check(3, "session"));
        assert_eq!(turns(&device), [""; 0]);
    }

    #[test]
    fn a_return_from_what_was_told_is_owed_after_it() {
        let mut device = Device::default();
        device.hear(disconnected(3));
        device.check(3, "session");
        // Another disconnect, whose connect is late, is no return.
        device.hear(disconnected(4));
        assert!(!device.awaits_check(&disconnected(4)));
        device.hear(connected(4));
        assert_eq!(turns(&device), ["away"]);
        device.hear(connected(5));
        assert_eq!(turns(&device), ["away", "back"]);
        assert_eq!(device.away_since, None);
    }

    fn refused(version: u64, since: Timestamp) -> Presence {
        let state = State::Disconnected { reason: "AUTH_ERROR".to_owned() };
        Presence { state, since, ..disconnected(version) }
    }

    #[test]
    fn whoever_is_refused_in_a_devices_name_does_not_disconnect_it() {
        let mut device = Device::default();
        assert_eq!(device.hear(refused(1, NOW)), Heard::Newer);
        assert_eq!(device.presence, None);
        device.hear(connected(2));
        let later = refused(3, NOW.plus(Duration::from_hours(2)));
        assert_eq!(device.hear(later.clone()), Heard::Newer);
        assert_eq!(device.hear(later.clone()), Heard::Repeated);
        assert_eq!(device.presence, Some(connected(2)));
        assert!(!device.awaits_check(&later));
    }

    #[test]
    fn an_end_by_refusal_that_comes_before_its_connect_counts_once_that_comes() {
        let mut device = Device::default();
        device.hear(connected(2));
        device.hear(refused(3, NOW));
        assert_eq!(device.hear(connected(3)), Heard::Newer);
        assert_eq!(device.presence.as_ref().and_then(Presence::reason), Some("AUTH_ERROR"));
        assert!(device.awaits_check(&connected(3)));
        assert_eq!(device.refusals, []);
        assert_eq!(device.hear(refused(3, NOW)), Heard::Repeated);
    }

    #[test]
    fn of_many_refusals_the_newest_are_kept() {
        let mut device = Device::default();
        for minute in (0..40).rev() {
            device.hear(refused(minute, NOW.plus(Duration::from_mins(minute))));
        }
        assert_eq!(device.refusals.iter().map(|end| end.version).collect::<Vec<_>>(), (24..40).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut device = Device::default();
        device.hear(refused(1, NOW));
        for _ in 0..2 {
            assert_eq!(Device::read(&device.item().unwrap()).unwrap(), device);
            device.hear(connected(2));
            assert_eq!(Device::read(&device.item().unwrap()).unwrap(), device);
            device.hear(disconnected(2));
            device.check(2, "session");
        }
        assert_eq!(Device::read(&device.item().unwrap()).unwrap(), device);
    }

    #[test]
    fn a_record_of_another_kind_is_not_taken_for_one_that_is_empty() {
        let mut device = Device::default();
        device.hear(disconnected(3));
        device.check(3, "session");
        let item = device.item().unwrap();
        for name in ["disconnectReason", "since", "versionNumber", "sessionIdentifier", "owed"] {
            let mut broken = item.clone();
            broken.insert(name.to_owned(), AttributeValue::Bool(true));
            assert!(Device::read(&broken).is_err(), "{name}");
        }
    }
}
