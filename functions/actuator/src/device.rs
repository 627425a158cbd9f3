//! What a device has been commanded, and what becomes of the next transition that commands it. It decides only: nothing
//! is read or sent here, and time comes in.

use std::time::Duration;

use gatehouse::item::{Item, integer, number, string, text};
use gatehouse::{EventId, Timestamp};

/// For how long a device's record is kept after its last change: longer than any message about it, and than any
/// interval between commands.
const KEPT: Duration = Duration::from_hours(24 * 90);

/// A transition's place in the order of all: by its time, and by its id where two have the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// When the reading that decided it was received.
    pub at: Timestamp,
    /// Its id.
    pub id: String,
}

impl Mark {
    /// The mark of this transition.
    pub fn new(at: Timestamp, id: &EventId) -> Self {
        Self { at, id: id.as_str().to_owned() }
    }
}

/// How far the newest transition is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its command is still to be sent.
    #[default]
    Pending,
    /// A process is sending it, and dies at this moment at the latest.
    Sending(Timestamp),
    /// Its command has been sent.
    Done,
}

/// What is known of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The newest transition that commands it, and how far that is.
    pub newest: Option<(Mark, Stage)>,
    /// The command that was last begun, as JSON, and when. One that failed counts too: nobody knows how far it got.
    pub command: Option<(String, Timestamp)>,
    /// Since when its gateway has failed.
    pub failing_since: Option<Timestamp>,
}

/// What becomes of a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Its command is sent now.
    Send,
    /// Its command is put off until then: another one was sent a short time ago.
    Delay(Timestamp),
    /// Another process is sending a command to this device, until then at the latest.
    Wait(Timestamp),
    /// A newer transition has commanded the device, or is about to: this one no longer matters.
    Superseded,
    /// Its command has been sent.
    AlreadyDone,
}

impl Device {
    /// What becomes of a transition with this command now, where different commands are kept `interval` apart.
    pub fn decide(&self, mark: &Mark, command: &str, now: Timestamp, interval: Duration) -> Decision {
        match &self.newest {
            Some((newest, _)) if newest > mark => return Decision::Superseded,
            Some((newest, Stage::Done)) if newest == mark => return Decision::AlreadyDone,
            Some((_, Stage::Sending(until))) if *until > now => return Decision::Wait(*until),
            _ => {}
        }
        match &self.command {
            Some((last, at)) if last != command && now < at.plus(interval) => Decision::Delay(at.plus(interval)),
            _ => Decision::Send,
        }
    }

    /// Whether this transition is the newest one that is known.
    pub fn knows(&self, mark: &Mark) -> bool {
        self.newest.as_ref().is_some_and(|(newest, _)| newest == mark)
    }

    /// The device once this transition's command has been put off.
    #[must_use]
    pub fn delayed(&self, mark: &Mark) -> Self {
        Self { newest: Some((mark.clone(), Stage::Pending)), ..self.clone() }
    }

    /// The device while this transition's command is being sent, until the invocation's deadline at the latest.
    #[must_use]
    pub fn sending(&self, mark: &Mark, command: &str, now: Timestamp, deadline: Timestamp) -> Self {
        Self {
            newest: Some((mark.clone(), Stage::Sending(deadline))),
            command: Some((command.to_owned(), now)),
            failing_since: self.failing_since,
        }
    }

    /// The device once the newest transition's command has been sent.
    #[must_use]
    pub fn done(&self) -> Self {
        Self { failing_since: None, ..self.at(Stage::Done) }
    }

    /// The device once the newest transition's command has failed, by its gateway's fault or another.
    #[must_use]
    pub fn failed(&self, is_gateways_fault: bool, now: Timestamp) -> Self {
        let failing_since = if is_gateways_fault { self.failing_since.or(Some(now)) } else { self.failing_since };
        Self { failing_since, ..self.at(Stage::Pending) }
    }

    fn at(&self, stage: Stage) -> Self {
        Self { newest: self.newest.clone().map(|(mark, _)| (mark, stage)), ..self.clone() }
    }

    /// Reads the device's record; nothing is known where there is none.
    pub fn read(item: &Item) -> Self {
        let moment = |name: &str| integer(item, name).map(Timestamp::from_millis);
        let stage = match text(item, "stage") {
            Some("done") => Stage::Done,
            Some("sending") => moment("sendingUntil").map(Stage::Sending).unwrap_or_default(),
            _ => Stage::Pending,
        };
        let mark = || Some(Mark { at: moment("transitionAt")?, id: text(item, "transition")?.to_owned() });
        Self {
            newest: mark().map(|mark| (mark, stage)),
            command: text(item, "command").map(str::to_owned).zip(moment("commandedAt")),
            failing_since: moment("failingSince"),
        }
    }

    /// The device's record.
    pub fn item(&self, now: Timestamp) -> Item {
        let Self { newest, command, failing_since } = self;
        let mut item = Item::from([("expiration".to_owned(), number(now.plus(KEPT).seconds()))]);
        let mut set = |name: &str, value| item.insert(name.to_owned(), value);
        if let Some((Mark { at, id }, stage)) = newest {
            set("transition", string(id));
            set("transitionAt", number(at.millis()));
            set(
                "stage",
                string(match stage {
                    Stage::Pending => "pending",
                    Stage::Sending(_) => "sending",
                    Stage::Done => "done",
                }),
            );
            if let Stage::Sending(until) = stage {
                set("sendingUntil", number(until.millis()));
            }
        }
        if let Some((command, at)) = command {
            set("command", string(command));
            set("commandedAt", number(at.millis()));
        }
        if let Some(since) = failing_since {
            set("failingSince", number(since.millis()));
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_mins(15);

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis(1_763_715_600_000).plus(Duration::from_mins(minutes))
    }

    fn mark(minutes: u64, id: &str) -> Mark {
        Mark { at: at(minutes), id: id.to_owned() }
    }

    /// A device that was told to close at minute 10.
    fn closed() -> Device {
        let sending = Device::default().sending(&mark(10, "t1"), "close", at(10), at(11));
        sending.done()
    }

    #[test]
    fn a_device_of_which_nothing_is_known_is_commanded_at_once() {
        assert_eq!(Device::default().decide(&mark(10, "t1"), "close", at(10), INTERVAL), Decision::Send);
    }

    #[test]
    fn the_same_transition_twice_commands_once() {
        assert_eq!(closed().decide(&mark(10, "t1"), "close", at(40), INTERVAL), Decision::AlreadyDone);
    }

    #[test]
    fn another_command_waits_until_the_interval_is_over_and_no_longer() {
        let decide = |now| closed().decide(&mark(12, "t2"), "open", now, INTERVAL);
        assert_eq!(decide(at(12)), Decision::Delay(at(25)));
        assert_eq!(decide(at(25).minus(Duration::from_millis(1))), Decision::Delay(at(25)));
        assert_eq!(decide(at(25)), Decision::Send);
    }

    #[test]
    fn the_command_in_force_need_not_wait() {
        assert_eq!(closed().decide(&mark(12, "t2"), "close", at(12), INTERVAL), Decision::Send);
    }

    #[test]
    fn an_older_transition_no_longer_matters_even_where_the_newer_one_is_still_put_off() {
        let device = closed().delayed(&mark(14, "t3"));
        assert_eq!(device.decide(&mark(13, "t2"), "close", at(14), INTERVAL), Decision::Superseded);
        assert_eq!(device.decide(&mark(14, "t3"), "open", at(30), INTERVAL), Decision::Send);
    }

    #[test]
    fn of_two_transitions_at_one_moment_the_same_one_is_always_the_newer() {
        let device = closed().delayed(&mark(14, "b"));
        assert_eq!(device.decide(&mark(14, "a"), "open", at(40), INTERVAL), Decision::Superseded);
        assert_eq!(device.decide(&mark(14, "c"), "open", at(40), INTERVAL), Decision::Send);
    }

    #[test]
    fn while_one_process_sends_the_others_wait_and_one_that_died_blocks_nobody() {
        let device = closed().sending(&mark(30, "t2"), "open", at(30), at(31));
        for other in [mark(30, "t2"), mark(31, "t3")] {
            assert_eq!(device.decide(&other, "open", at(30), INTERVAL), Decision::Wait(at(31)), "{other:?}");
            assert_eq!(device.decide(&other, "open", at(31), INTERVAL), Decision::Send, "{other:?}");
        }
    }

    #[test]
    fn a_command_that_failed_counts_as_sent_for_those_that_differ() {
        let device = closed().sending(&mark(30, "t2"), "open", at(30), at(31)).failed(true, at(30));
        assert_eq!(device.decide(&mark(30, "t2"), "open", at(31), INTERVAL), Decision::Send);
        assert_eq!(device.decide(&mark(32, "t3"), "close", at(32), INTERVAL), Decision::Delay(at(45)));
    }

    #[test]
    fn a_gateway_fails_since_its_first_failure_until_a_command_is_through() {
        let first = closed().sending(&mark(30, "t2"), "open", at(30), at(31)).failed(true, at(30));
        let second = first.sending(&mark(30, "t2"), "open", at(36), at(37)).failed(true, at(36));
        assert_eq!(second.failing_since, Some(at(30)));
        assert_eq!(second.failed(false, at(40)).failing_since, Some(at(30)));
        assert_eq!(second.sending(&mark(30, "t2"), "open", at(42), at(43)).done().failing_since, None);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_as_good_as_none() {
        let item = Item::from([("transition".to_owned(), number(1)), ("stage".to_owned(), string("done"))]);
        assert_eq!(Device::read(&item), Device::default());
    }

    fn stages() -> impl Strategy<Value = Stage> {
        prop_oneof![
            Just(Stage::Pending),
            Just(Stage::Done),
            any::<u64>().prop_map(|until| Stage::Sending(Timestamp::from_millis(until))),
        ]
    }

    prop_compose! {
        fn devices()(
            newest in proptest::option::of((any::<u64>(), "[!-~]{1,9}", stages())),
            command in proptest::option::of((".{1,9}", any::<u64>())),
            failing_since in proptest::option::of(any::<u64>()),
        ) -> Device {
            let moment = Timestamp::from_millis;
            Device {
                newest: newest.map(|(at, id, stage)| (Mark { at: moment(at), id }, stage)),
                command: command.map(|(command, at)| (command, moment(at))),
                failing_since: failing_since.map(moment),
            }
        }
    }

    /// What happens to a device: transitions arrive in some order, some of them several times, and come again when they
    /// were put off.
    #[derive(Debug, Clone)]
    struct Story {
        /// When each happened, in minutes, and its command.
        transitions: Vec<(u64, bool)>,
        /// When a transition arrives, in minutes after it happened, and whether its process dies once it has begun.
        arrivals: Vec<(usize, u64, bool)>,
    }

    fn stories() -> impl Strategy<Value = Story> {
        proptest::collection::vec((0_u64..90, any::<bool>()), 1..9).prop_flat_map(|transitions| {
            let more = proptest::collection::vec((0..transitions.len(), 0_u64..60, any::<bool>()), 0..12);
            let once = proptest::collection::vec((0_u64..60, any::<bool>()), transitions.len());
            (Just(transitions), once, more).prop_map(|(transitions, once, more)| {
                let each = once.into_iter().enumerate().map(|(index, (late, dies))| (index, late, dies));
                Story { transitions, arrivals: each.chain(more).collect() }
            })
        })
    }

    /// Plays a story; which transition sent its command when, in order.
    fn play(story: &Story) -> Vec<(usize, Timestamp)> {
        let mut queue: BTreeSet<(Timestamp, usize, bool)> = story
            .arrivals
            .iter()
            .filter_map(|&(index, late, dies)| Some((at(story.transitions.get(index)?.0 + late), index, dies)))
            .collect();
        let (mut device, mut sent) = (Device::default(), Vec::new());
        while let Some((now, index, dies)) = queue.pop_first() {
            let (minute, closes) = story.transitions[index];
            let (mark, command) = (mark(minute, &index.to_string()), if closes { "close" } else { "open" });
            match device.decide(&mark, command, now, INTERVAL) {
                Decision::Superseded | Decision::AlreadyDone => {}
                Decision::Wait(until) => drop(queue.insert((until, index, dies))),
                Decision::Delay(until) => {
                    assert!(until > now && until <= now.plus(INTERVAL));
                    device = device.delayed(&mark);
                    queue.insert((until, index, dies));
                }
                Decision::Send => {
                    device = device.sending(&mark, command, now, now.plus(Duration::from_mins(1)));
                    sent.push((index, now));
                    if dies {
                        // It comes again once the queue shows it again.
                        queue.insert((now.plus(Duration::from_mins(6)), index, false));
                    } else {
                        device = device.done();
                    }
                }
            }
        }
        sent
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(device in devices()) {
            prop_assert_eq!(Device::read(&device.item(at(0))), device);
        }

        #[test]
        fn in_whatever_order_and_however_often_they_come_the_newest_transition_has_the_last_word(story in stories()) {
            let sent = play(&story);
            let order = |&index: &usize| mark(story.transitions[index].0, &index.to_string());
            let newest = (0..story.transitions.len()).max_by_key(order);
            prop_assert_eq!(sent.last().map(|(index, _)| *index), newest);
        }

        #[test]
        fn different_commands_are_never_closer_than_the_interval(story in stories()) {
            for pair in play(&story).windows(2) {
                let [(one, before), (other, after)] = pair else { panic!("two") };
                let is_same = story.transitions[*one].1 == story.transitions[*other].1;
                prop_assert!(is_same || after.since(*before) >= INTERVAL, "{:?}", pair);
            }
        }

        #[test]
        fn a_transition_commands_once_unless_its_process_dies(story in stories()) {
            let mut times = BTreeMap::new();
            for (index, _) in play(&story) {
                *times.entry(index).or_insert(0) += 1;
            }
            for (index, times) in times {
                let deaths = story.arrivals.iter().filter(|(of, _, dies)| *of == index && *dies).count();
                prop_assert!(times <= 1 + deaths, "{} commanded {} times", index, times);
            }
        }
    }
}
