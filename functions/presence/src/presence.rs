//! Which of a client's lifecycle events is the newest. They come late, repeated and in any order.

use std::cmp::Ordering;
use std::time::Duration;

use gatehouse::Timestamp;
use serde::{Deserialize, Serialize};

/// Two events whose timestamps lie further apart than this happened in that order: AWS's timestamps are right to two
/// minutes, so that those of two events may be wrong by four against each other.
const APART: Duration = Duration::from_mins(5);

/// Whether a client is connected, by one of its events: that event itself, or what is held as the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Connected or not.
    pub state: State,
    /// Since when, right to two minutes.
    pub since: Timestamp,
    /// AWS's number of the connection.
    pub version: u64,
    /// AWS's name for the session. A client that resumes its session comes back under the same name.
    pub session: String,
    /// The address that the connection came from, once its own connect is known.
    pub address: Option<String>,
}

/// Connected or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is.
    Connected,
    /// It is not.
    Disconnected {
        /// Why, in AWS's words. More reasons may come than are known today.
        reason: String,
    },
}

/// What an event is to what is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It is newer: this is held from now on.
    Newer(Presence),
    /// It is the connect of the connection whose disconnect is held, and says where that came from: this is held from
    /// now on.
    Completes(Presence),
    /// It is what is held already.
    Repeated,
    /// Something newer is held.
    Older,
}

impl Presence {
    /// Whether it is connected.
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Why it is not connected, if it is not.
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Connected => None,
            State::Disconnected { reason } => Some(reason),
        }
    }

    /// Whether it is an end of which AWS does not say that there was a connection before: the client may not have been
    /// let in at all, and another of its connections go on.
    /// <https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html>
    pub fn may_be_refusal(&self) -> bool {
        matches!(self.reason(), Some("AUTH_ERROR" | "FORBIDDEN_ACCESS"))
    }

    /// Whether both are about one connection: within a session no version comes twice.
    pub fn is_connection(&self, version: u64, session: &str) -> bool {
        self.version == version && self.session == session
    }

    /// The order in which two events of one client happened.
    ///
    /// A connection's disconnect comes after its connect, whatever their timestamps. Otherwise timestamps decide where
    /// they lie clearly apart, for versions begin again at 0 once a client was away for long: about an hour, or as long
    /// as its session is kept. Where they do not, the client cannot have been away for long, and its versions have only
    /// risen. (A client of MQTT 5 may have its session expire within minutes. If it comes back sooner than timestamps
    /// can tell, that is taken for older, until its next connection.) Two sessions of one version that close to each
    /// other AWS does not promise to avoid: the later timestamp wins.
    fn order(&self, other: &Self) -> Ordering {
        let is_end = |presence: &Self| !presence.is_connected();
        if self.is_connection(other.version, &other.session) {
            return is_end(self).cmp(&is_end(other));
        }
        if self.since.distance(other.since) > APART {
            return self.since.cmp(&other.since);
        }
        let key = |presence: &Self| (presence.version, presence.since, is_end(presence));
        key(self).cmp(&key(other)).then_with(|| self.session.cmp(&other.session))
    }
}

/// What an event is to what is held of the client. Whatever the order in which a client's events are taken, and however
/// often, the same is held in the end.
pub fn news(held: Option<&Presence>, event: Presence) -> News {
    let Some(held) = held else { return News::Newer(event) };
    let is_same = held.is_connection(event.version, &event.session);
    match event.order(held) {
        Ordering::Greater => {
            let known = held.address.as_ref().filter(|_| is_same);
            News::Newer(Presence { address: event.address.or_else(|| known.cloned()), ..event })
        }
        Ordering::Less if is_same && held.address.is_none() && event.address.is_some() => {
            News::Completes(Presence { address: event.address, ..held.clone() })
        }
        Ordering::Less => News::Older,
        Ordering::Equal => News::Repeated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use proptest::prelude::*;
    use proptest::sample::Index;

    const NOW: u64 = 1_763_715_600_000;
    const MINUTE: u64 = 60_000;

    fn connected(version: u64, session: &str, since: u64) -> Presence {
        let (state, since, address) = (State::Connected, Timestamp::from_millis(since), Some("192.0.2.1".to_owned()));
        Presence { state, since, version, session: session.to_owned(), address }
    }

    fn disconnected(version: u64, session: &str, since: u64) -> Presence {
        ended(version, session, since, "CONNECTION_LOST")
    }

    fn ended(version: u64, session: &str, since: u64, reason: &str) -> Presence {
        let state = State::Disconnected { reason: reason.to_owned() };
        Presence { state, address: None, ..connected(version, session, since) }
    }

    /// What is held after these events.
    fn held(events: impl IntoIterator<Item = Presence>) -> Option<Presence> {
        let mut device = Device::default();
        for event in events {
            device.hear(event);
        }
        device.presence
    }

    #[test]
    fn a_disconnect_wins_over_its_own_connect_whichever_comes_first_and_whatever_their_timestamps() {
        let connect = connected(7, "a", NOW);
        for since in [NOW - 3 * MINUTE, NOW, NOW + 3 * MINUTE, NOW + 3000 * MINUTE] {
            let disconnect = disconnected(7, "a", since);
            let expected = Some(Presence { address: connect.address.clone(), ..disconnect.clone() });
            assert_eq!(held([connect.clone(), disconnect.clone()]), expected, "{since}");
            assert_eq!(held([disconnect, connect.clone()]), expected, "{since}");
        }
    }

    #[test]
    fn the_disconnect_of_a_connection_that_another_has_taken_over_changes_nothing() {
        let taken_over = disconnected(7, "a", NOW + MINUTE);
        assert_eq!(news(Some(&connected(8, "b", NOW)), taken_over), News::Older);
    }

    #[test]
    fn a_lower_version_clearly_later_is_a_new_beginning_and_what_was_before_it_is_older() {
        let (before, after) = (disconnected(41, "a", NOW), connected(0, "b", NOW + 60 * MINUTE));
        assert_eq!(news(Some(&before), after.clone()), News::Newer(after.clone()));
        assert_eq!(news(Some(&after), before), News::Older);
    }

    #[test]
    fn a_lower_version_that_is_later_by_what_clocks_may_be_wrong_is_older() {
        assert_eq!(news(Some(&connected(8, "b", NOW)), connected(7, "a", NOW + 4 * MINUTE)), News::Older);
    }

    #[test]
    fn of_two_sessions_with_one_version_the_later_is_newer() {
        let (first, second) = (disconnected(0, "b", NOW), connected(0, "a", NOW + MINUTE));
        assert_eq!(news(Some(&first), second.clone()), News::Newer(second.clone()));
        assert_eq!(news(Some(&second), first), News::Older);
    }

    #[test]
    fn what_is_held_is_a_repetition() {
        let event = disconnected(3, "a", NOW);
        assert_eq!(news(Some(&event), event.clone()), News::Repeated);
    }

    /// What a client does, and how it comes to that.
    #[derive(Debug, Clone)]
    enum Step {
        /// It connects after so many minutes; a session that is kept is taken up again; so many versions are skipped.
        Connect { after: u64, resumes: bool, skipped: u64 },
        /// Its connection ends after so many minutes, for another reason or for one that may be a refusal's.
        Disconnect { after: u64, reason: &'static str },
        /// After so many minutes, somebody tries to connect in its name and is not let in.
        Refused { after: u64 },
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
            after().prop_map(|after| Step::Refused { after }),
        ]
    }

    /// A client's true history: its events, timestamps and all, and how it ends. `skews` are by how much each timestamp
    /// is wrong, in seconds; `kept` is for how many minutes of absence the client's versions, and its session, are
    /// kept.
    fn history(steps: &[Step], skews: &[i64], kept: u64) -> (Vec<Presence>, Option<Presence>) {
        let mut events = Vec::new();
        let (mut open, mut last): (Option<Presence>, Option<Presence>) = (None, None);
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
                    // A client id belongs to one connection: the one before is ended for it, once it is there.
                    if let Some(before) = open.replace(connect.clone()) {
                        let mut end = disconnected(before.version, &before.session, 0);
                        end.since = seen(now);
                        events.push(end);
                    }
                    last = Some(connect);
                }
                Step::Refused { after } => {
                    now += after * MINUTE;
                    sessions += 1;
                    let mut end = ended(next, &format!("refused-{sessions}"), 0, "FORBIDDEN_ACCESS");
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
                    last = Some(Presence { address: connection.address, ..end });
                }
            }
        }
        (events, last)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_order_and_any_repetition_end_as_the_true_history_does(
            steps in proptest::collection::vec(step(), 1..12),
            skews in proptest::collection::vec(-120..=120_i64, 24),
            kept in prop_oneof![10..60_u64, Just(60), 60..4000_u64],
            repeated in proptest::collection::vec(any::<Index>(), 0..12),
            order in any::<u64>(),
        ) {
            let (mut events, end) = history(&steps, &skews, kept);
            if !events.is_empty() {
                let more: Vec<_> = repeated.iter().map(|index| index.get(&events).clone()).collect();
                events.extend(more);
            }
            // A shuffle that a failing case names by one number.
            let mut random = order | 1;
            for index in (1..events.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                events.swap(index, usize::try_from(random >> 33).unwrap() % (index + 1));
            }
            prop_assert_eq!(held(events.clone()), end, "{:#?}", events);
        }
    }
}
