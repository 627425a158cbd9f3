//! Decides which of a client's lifecycle events is the newest. Events can be late, duplicated and out of order.

use std::cmp::Ordering;
use std::time::Duration;

use gatehouse::Timestamp;
use serde::{Deserialize, Serialize};

/// If the timestamps of two events differ by more than this, they give the order of the events. AWS's timestamps are
/// accurate to two minutes, so the difference between two of them may be off by four.
const CLEARLY_APART: Duration = Duration::from_mins(5);

/// A client connected or disconnected: one event, or the newest one as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionEvent {
    /// Connected or disconnected.
    pub state: ConnectionState,
    /// When that happened, accurate to two minutes.
    pub since: Timestamp,
    /// AWS's version number of the connection.
    pub version: u64,
    /// AWS's session identifier. A client that resumes its session keeps it.
    pub session: String,
    /// The address that the connection came from; `None` until its connect event is known.
    pub address: Option<String>,
}

/// Connected or disconnected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionState {
    /// Connected.
    Connected,
    /// Disconnected.
    Disconnected {
        /// AWS's reason. AWS may add new ones.
        reason: String,
    },
}

/// What an event changes about the recorded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// The event is newer. Record this in place of the recorded one.
    Newer(ConnectionEvent),
    /// The event is the connect of the connection whose disconnect is recorded, and adds its address. Record this in
    /// place of the recorded one.
    Completed(ConnectionEvent),
    /// The event is recorded already.
    Duplicate,
    /// A newer event is recorded.
    OutOfOrder,
}

impl ConnectionEvent {
    /// Whether the client is connected.
    pub fn is_connected(&self) -> bool {
        self.state == ConnectionState::Connected
    }

    /// Why the client is disconnected, if it is.
    pub fn disconnect_reason(&self) -> Option<&str> {
        match &self.state {
            ConnectionState::Connected => None,
            ConnectionState::Disconnected { reason } => Some(reason),
        }
    }

    /// Whether this is a disconnect without proof that there was a connection: AWS IoT may have rejected a connection
    /// attempt, while another connection of the client continues.
    /// <https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html>
    pub fn may_be_rejected_attempt(&self) -> bool {
        matches!(self.disconnect_reason(), Some("AUTH_ERROR" | "FORBIDDEN_ACCESS"))
    }

    /// Whether this is about the given connection: a version number is unique within a session.
    pub fn is_connection(&self, version: u64, session: &str) -> bool {
        self.version == version && self.session == session
    }

    /// The order in which two events of one client happened.
    ///
    /// A connection's disconnect follows its connect, whatever their timestamps. Otherwise, timestamps that are clearly
    /// apart decide, because version numbers restart at 0 once a client has been offline for about an hour, or for as
    /// long as its session is kept. If the timestamps are close, the client cannot have been offline that long, so its
    /// version numbers have only increased. There are two limitations. First, the session of an MQTT 5 client may
    /// expire within minutes; if the client then reconnects before the timestamps are clearly apart, that connect
    /// counts as older, until the next one. Second, AWS does not promise that two sessions so close together have
    /// different version numbers; if they are equal, the later timestamp wins.
    fn order(&self, other: &Self) -> Ordering {
        let is_end = |event: &Self| !event.is_connected();
        if self.is_connection(other.version, &other.session) {
            return is_end(self).cmp(&is_end(other));
        }
        if self.since.distance(other.since) > CLEARLY_APART {
            return self.since.cmp(&other.since);
        }
        let key = |event: &Self| (event.version, event.since, is_end(event));
        key(self).cmp(&key(other)).then_with(|| self.session.cmp(&other.session))
    }
}

/// Merges an event into the recorded one. The result is the same for every order of a client's events, and for any
/// number of duplicates.
pub fn merge(recorded: Option<&ConnectionEvent>, event: ConnectionEvent) -> Merge {
    let Some(recorded) = recorded else { return Merge::Newer(event) };
    let is_same = recorded.is_connection(event.version, &event.session);
    match event.order(recorded) {
        Ordering::Greater => {
            let known = recorded.address.as_ref().filter(|_| is_same);
            Merge::Newer(ConnectionEvent { address: event.address.or_else(|| known.cloned()), ..event })
        }
        Ordering::Less if is_same && recorded.address.is_none() && event.address.is_some() => {
            Merge::Completed(ConnectionEvent { address: event.address, ..recorded.clone() })
        }
        Ordering::Less => Merge::OutOfOrder,
        Ordering::Equal => Merge::Duplicate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_record::DeviceRecord;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const NOW: u64 = 1_763_715_600_000;
    const MINUTE: u64 = 60_000;

    fn connected(version: u64, session: &str, since: u64) -> ConnectionEvent {
        let (state, since, address) =
            (ConnectionState::Connected, Timestamp::from_millis(since), Some("192.0.2.1".to_owned()));
        ConnectionEvent { state, since, version, session: session.to_owned(), address }
    }

    fn disconnected(version: u64, session: &str, since: u64) -> ConnectionEvent {
        ended(version, session, since, "CONNECTION_LOST")
    }

    fn ended(version: u64, session: &str, since: u64, reason: &str) -> ConnectionEvent {
        let state = ConnectionState::Disconnected { reason: reason.to_owned() };
        ConnectionEvent { state, address: None, ..connected(version, session, since) }
    }

    /// The record after these events.
    fn recorded_after(events: impl IntoIterator<Item = ConnectionEvent>) -> Option<ConnectionEvent> {
        let mut device = DeviceRecord::default();
        for event in events {
            device.apply(event);
        }
        device.latest
    }

    #[test]
    fn disconnect_follows_its_connect_whatever_the_timestamps() {
        let connect = connected(7, "a", NOW);
        for since in [NOW - 3 * MINUTE, NOW, NOW + 3 * MINUTE, NOW + 3000 * MINUTE] {
            let disconnect = disconnected(7, "a", since);
            let expected = Some(ConnectionEvent { address: connect.address.clone(), ..disconnect.clone() });
            assert_eq!(recorded_after([connect.clone(), disconnect.clone()]), expected, "{since}");
            assert_eq!(recorded_after([disconnect, connect.clone()]), expected, "{since}");
        }
    }

    #[test]
    fn disconnect_of_a_replaced_connection_is_out_of_order() {
        let replaced = disconnected(7, "a", NOW + MINUTE);
        assert_eq!(merge(Some(&connected(8, "b", NOW)), replaced), Merge::OutOfOrder);
    }

    #[test]
    fn lower_version_that_is_clearly_later_is_newer() {
        let (before, after) = (disconnected(41, "a", NOW), connected(0, "b", NOW + 60 * MINUTE));
        assert_eq!(merge(Some(&before), after.clone()), Merge::Newer(after.clone()));
        assert_eq!(merge(Some(&after), before), Merge::OutOfOrder);
    }

    #[test]
    fn lower_version_within_clock_error_is_out_of_order() {
        assert_eq!(merge(Some(&connected(8, "b", NOW)), connected(7, "a", NOW + 4 * MINUTE)), Merge::OutOfOrder);
    }

    #[test]
    fn later_of_two_sessions_with_one_version_is_newer() {
        let (first, second) = (disconnected(0, "b", NOW), connected(0, "a", NOW + MINUTE));
        assert_eq!(merge(Some(&first), second.clone()), Merge::Newer(second.clone()));
        assert_eq!(merge(Some(&second), first), Merge::OutOfOrder);
    }

    #[test]
    fn recorded_event_is_a_duplicate() {
        let event = disconnected(3, "a", NOW);
        assert_eq!(merge(Some(&event), event.clone()), Merge::Duplicate);
    }

    /// What a client does.
    #[derive(Debug, Clone)]
    enum Step {
        /// It connects after some minutes, possibly resumes its session, and skips some versions.
        Connect { after: u64, resumes: bool, skipped: u64 },
        /// Its connection ends after some minutes. The reason may be that of a rejected attempt.
        Disconnect { after: u64, reason: &'static str },
        /// After some minutes, someone else attempts to connect under its client id and is rejected.
        Rejected { after: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let after = || prop_oneof![Just(0), 0..4_u64, 4..15_u64, 55..70_u64, 70..6000_u64];
        prop_oneof![
            (after(), any::<bool>(), 1..4_u64).prop_map(|(after, resumes, skipped)| Step::Connect {
                after,
                resumes,
                skipped
            }),
            (after(), prop_oneof![Just("CONNECTION_LOST"), Just("AUTH_ERROR")])
                .prop_map(|(after, reason)| Step::Disconnect { after, reason }),
            after().prop_map(|after| Step::Rejected { after }),
        ]
    }

    /// A client's true history: its events, and the last of them. `skews` are the errors of the timestamps, in seconds;
    /// `kept` is how long the versions and session of an offline client are kept, in minutes.
    fn history(steps: &[Step], skews: &[i64], kept: u64) -> (Vec<ConnectionEvent>, Option<ConnectionEvent>) {
        let mut events = Vec::new();
        let (mut open, mut last): (Option<ConnectionEvent>, Option<ConnectionEvent>) = (None, None);
        let (mut now, mut left, mut next, mut sessions) = (NOW, NOW, 0, 0);
        let mut skews = skews.iter().cycle();
        let mut seen = |at: u64| Timestamp::from_millis(at.saturating_add_signed(skews.next().unwrap() * 1000));
        for step in steps {
            match step {
                Step::Connect { after, resumes, skipped } => {
                    now += after * MINUTE;
                    let is_forgotten = open.is_none() && now - left >= kept * MINUTE;
                    next = if is_forgotten || last.is_none() { 0 } else { next + skipped };
                    let known = last.as_ref().filter(|_| *resumes && !is_forgotten).map(|last| last.session.clone());
                    let session = known.unwrap_or_else(|| {
                        sessions += 1;
                        format!("session-{sessions}")
                    });
                    let mut connect = connected(next, &session, 0);
                    (connect.since, connect.address) = (seen(now), Some(format!("192.0.2.{}", events.len() % 256)));
                    events.push(connect.clone());
                    // A client id has one connection: a new one ends the previous one.
                    if let Some(before) = open.replace(connect.clone()) {
                        let mut end = disconnected(before.version, &before.session, 0);
                        end.since = seen(now);
                        events.push(end);
                    }
                    last = Some(connect);
                }
                Step::Rejected { after } => {
                    now += after * MINUTE;
                    sessions += 1;
                    let mut end = ended(next, &format!("rejected-{sessions}"), 0, "FORBIDDEN_ACCESS");
                    end.since = seen(now);
                    events.push(end);
                }
                Step::Disconnect { after, reason } => {
                    let Some(connection) = open.take() else { continue };
                    now += after * MINUTE;
                    left = now;
                    let mut end = ended(connection.version, &connection.session, 0, reason);
                    end.since = seen(now);
                    events.push(end.clone());
                    last = Some(ConnectionEvent { address: connection.address, ..end });
                }
            }
        }
        (events, last)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn every_order_with_duplicates_ends_as_the_true_history(
            steps in proptest::collection::vec(step(), 1..12),
            skews in proptest::collection::vec(-120..=120_i64, 24),
            kept in prop_oneof![10..60_u64, Just(60), 60..4000_u64],
            duplicates in proptest::collection::vec(any::<Index>(), 0..12),
            order in any::<u64>(),
        ) {
            let (mut events, end) = history(&steps, &skews, kept);
            if !events.is_empty() {
                let more: Vec<_> = duplicates.iter().map(|index| index.get(&events).clone()).collect();
                events.extend(more);
            }
            // A shuffle that a single number reproduces.
            let mut random = order | 1;
            for index in (1..events.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                events.swap(index, usize::try_from(random >> 33).unwrap() % (index + 1));
            }
            prop_assert_eq!(recorded_after(events.clone()), end, "{:#?}", events);
        }
    }
}
