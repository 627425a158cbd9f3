//! Decides when a device's command may be sent. No I/O and no clock: the record and the time are passed in.

use std::time::Duration;

use gatehouse::store::item::{integer, number, string, text};
use gatehouse::{EventId, Item, Timestamp};

/// How long a record is kept after its last change: longer than any message about the device can exist, and than any
/// interval between commands.
const RETENTION: Duration = Duration::from_hours(24 * 90);

/// A transition's position in the order of all transitions: by time, then by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransitionOrder {
    /// When the deciding reading was received.
    pub at: Timestamp,
    /// The transition's id.
    pub id: String,
}

impl TransitionOrder {
    /// The position of this transition.
    pub fn new(at: Timestamp, id: &EventId) -> Self {
        Self { at, id: id.as_str().to_owned() }
    }
}

/// The state of the newest transition's command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DispatchStage {
    /// It has yet to be sent.
    #[default]
    Pending,
    /// An invocation is sending it. The invocation ends at this time at the latest.
    Sending(Timestamp),
    /// It has been sent.
    Sent,
}

/// What is known about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandRecord {
    /// The newest transition that commands the device, and the stage of its command.
    pub newest: Option<(TransitionOrder, DispatchStage)>,
    /// The command that was started last, as JSON, and when. A failed command counts too, because it may have been sent
    /// in part.
    pub command: Option<(String, Timestamp)>,
    /// Since when the device's gateway has been failing.
    pub failing_since: Option<Timestamp>,
}

/// What to do with a transition's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dispatch {
    /// Send it now.
    Send,
    /// Delay it until then: a different one was sent too recently.
    Delay(Timestamp),
    /// Wait: another invocation is sending a command to this device, until then at the latest.
    Wait(Timestamp),
    /// Drop it: a newer transition has commanded the device, or is about to.
    Superseded,
    /// Drop it: it has already been sent.
    AlreadySent,
}

impl CommandRecord {
    /// Decides what to do with a transition's command now. Different commands must be at least `min_interval` apart.
    pub fn decide(
        &self,
        transition: &TransitionOrder,
        command: &str,
        now: Timestamp,
        min_interval: Duration,
    ) -> Dispatch {
        match &self.newest {
            Some((newest, _)) if newest > transition => return Dispatch::Superseded,
            Some((newest, DispatchStage::Sent)) if newest == transition => return Dispatch::AlreadySent,
            Some((_, DispatchStage::Sending(until))) if *until > now => return Dispatch::Wait(*until),
            _ => {}
        }
        match &self.command {
            Some((last, at)) if last != command && now < at.plus(min_interval) => {
                Dispatch::Delay(at.plus(min_interval))
            }
            _ => Dispatch::Send,
        }
    }

    /// Whether this transition is the newest one of the record.
    pub fn is_newest(&self, transition: &TransitionOrder) -> bool {
        self.newest.as_ref().is_some_and(|(newest, _)| newest == transition)
    }

    /// The record after this transition's command was delayed.
    #[must_use]
    pub fn delayed(&self, transition: &TransitionOrder) -> Self {
        Self { newest: Some((transition.clone(), DispatchStage::Pending)), ..self.clone() }
    }

    /// The record while an invocation that ends at `deadline` sends this transition's command.
    #[must_use]
    pub fn sending(&self, transition: &TransitionOrder, command: &str, now: Timestamp, deadline: Timestamp) -> Self {
        Self {
            newest: Some((transition.clone(), DispatchStage::Sending(deadline))),
            command: Some((command.to_owned(), now)),
            failing_since: self.failing_since,
        }
    }

    /// The record after the newest transition's command was sent.
    #[must_use]
    pub fn sent(&self) -> Self {
        Self { failing_since: None, ..self.with_stage(DispatchStage::Sent) }
    }

    /// The record after the newest transition's command failed, because of the gateway or for another reason.
    #[must_use]
    pub fn failed(&self, is_gateway_failure: bool, now: Timestamp) -> Self {
        let failing_since = if is_gateway_failure { self.failing_since.or(Some(now)) } else { self.failing_since };
        Self { failing_since, ..self.with_stage(DispatchStage::Pending) }
    }

    fn with_stage(&self, stage: DispatchStage) -> Self {
        Self { newest: self.newest.clone().map(|(transition, _)| (transition, stage)), ..self.clone() }
    }

    /// Reads the record's item. A record that does not exist, or cannot be read, is empty.
    pub fn read(item: &Item) -> Self {
        let time = |name: &str| integer(item, name).map(Timestamp::from_millis);
        let stage = match text(item, "stage") {
            Some("done") => DispatchStage::Sent,
            Some("sending") => time("sendingUntil").map(DispatchStage::Sending).unwrap_or_default(),
            _ => DispatchStage::Pending,
        };
        let order = || Some(TransitionOrder { at: time("transitionAt")?, id: text(item, "transition")?.to_owned() });
        Self {
            newest: order().map(|order| (order, stage)),
            command: text(item, "command").map(str::to_owned).zip(time("commandedAt")),
            failing_since: time("failingSince"),
        }
    }

    /// The record's item.
    pub fn item(&self, now: Timestamp) -> Item {
        let Self { newest, command, failing_since } = self;
        let mut item = Item::from([("expiration".to_owned(), number(now.plus(RETENTION).seconds()))]);
        let mut set = |name: &str, value| item.insert(name.to_owned(), value);
        if let Some((TransitionOrder { at, id }, stage)) = newest {
            set("transition", string(id));
            set("transitionAt", number(at.millis()));
            set(
                "stage",
                string(match stage {
                    DispatchStage::Pending => "pending",
                    DispatchStage::Sending(_) => "sending",
                    DispatchStage::Sent => "done",
                }),
            );
            if let DispatchStage::Sending(until) = stage {
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

    fn order(minutes: u64, id: &str) -> TransitionOrder {
        TransitionOrder { at: at(minutes), id: id.to_owned() }
    }

    /// A device that was commanded to close at minute 10.
    fn closed() -> CommandRecord {
        let sending = CommandRecord::default().sending(&order(10, "t1"), "close", at(10), at(11));
        sending.sent()
    }

    #[test]
    fn unknown_device_is_commanded_immediately() {
        assert_eq!(CommandRecord::default().decide(&order(10, "t1"), "close", at(10), INTERVAL), Dispatch::Send);
    }

    #[test]
    fn repeated_transition_commands_once() {
        assert_eq!(closed().decide(&order(10, "t1"), "close", at(40), INTERVAL), Dispatch::AlreadySent);
    }

    #[test]
    fn different_command_is_delayed_exactly_until_the_interval_ends() {
        let decide = |now| closed().decide(&order(12, "t2"), "open", now, INTERVAL);
        assert_eq!(decide(at(12)), Dispatch::Delay(at(25)));
        assert_eq!(decide(at(25).minus(Duration::from_millis(1))), Dispatch::Delay(at(25)));
        assert_eq!(decide(at(25)), Dispatch::Send);
    }

    #[test]
    fn same_command_is_not_delayed() {
        assert_eq!(closed().decide(&order(12, "t2"), "close", at(12), INTERVAL), Dispatch::Send);
    }

    #[test]
    fn older_transition_is_superseded_while_a_newer_one_is_delayed() {
        let record = closed().delayed(&order(14, "t3"));
        assert_eq!(record.decide(&order(13, "t2"), "close", at(14), INTERVAL), Dispatch::Superseded);
        assert_eq!(record.decide(&order(14, "t3"), "open", at(30), INTERVAL), Dispatch::Send);
    }

    #[test]
    fn simultaneous_transitions_are_ordered_by_id() {
        let record = closed().delayed(&order(14, "b"));
        assert_eq!(record.decide(&order(14, "a"), "open", at(40), INTERVAL), Dispatch::Superseded);
        assert_eq!(record.decide(&order(14, "c"), "open", at(40), INTERVAL), Dispatch::Send);
    }

    #[test]
    fn others_wait_for_the_sender_until_its_deadline() {
        let record = closed().sending(&order(30, "t2"), "open", at(30), at(31));
        for other in [order(30, "t2"), order(31, "t3")] {
            assert_eq!(record.decide(&other, "open", at(30), INTERVAL), Dispatch::Wait(at(31)), "{other:?}");
            assert_eq!(record.decide(&other, "open", at(31), INTERVAL), Dispatch::Send, "{other:?}");
        }
    }

    #[test]
    fn failed_command_keeps_its_distance_from_different_ones() {
        let record = closed().sending(&order(30, "t2"), "open", at(30), at(31)).failed(true, at(30));
        assert_eq!(record.decide(&order(30, "t2"), "open", at(31), INTERVAL), Dispatch::Send);
        assert_eq!(record.decide(&order(32, "t3"), "close", at(32), INTERVAL), Dispatch::Delay(at(45)));
    }

    #[test]
    fn gateway_fails_from_its_first_failure_until_a_success() {
        let first = closed().sending(&order(30, "t2"), "open", at(30), at(31)).failed(true, at(30));
        let second = first.sending(&order(30, "t2"), "open", at(36), at(37)).failed(true, at(36));
        assert_eq!(second.failing_since, Some(at(30)));
        assert_eq!(second.failed(false, at(40)).failing_since, Some(at(30)));
        assert_eq!(second.sending(&order(30, "t2"), "open", at(42), at(43)).sent().failing_since, None);
    }

    #[test]
    fn unreadable_record_counts_as_empty() {
        let item = Item::from([("transition".to_owned(), number(1)), ("stage".to_owned(), string("done"))]);
        assert_eq!(CommandRecord::read(&item), CommandRecord::default());
    }

    fn stages() -> impl Strategy<Value = DispatchStage> {
        prop_oneof![
            Just(DispatchStage::Pending),
            Just(DispatchStage::Sent),
            any::<u64>().prop_map(|until| DispatchStage::Sending(Timestamp::from_millis(until))),
        ]
    }

    prop_compose! {
        fn records()(
            newest in proptest::option::of((any::<u64>(), "[!-~]{1,9}", stages())),
            command in proptest::option::of((".{1,9}", any::<u64>())),
            failing_since in proptest::option::of(any::<u64>()),
        ) -> CommandRecord {
            let time = Timestamp::from_millis;
            CommandRecord {
                newest: newest.map(|(at, id, stage)| (TransitionOrder { at: time(at), id }, stage)),
                command: command.map(|(command, at)| (command, time(at))),
                failing_since: failing_since.map(time),
            }
        }
    }

    /// What happens to a device: transitions arrive in any order, some of them several times, and are delivered again
    /// after a delay.
    #[derive(Debug, Clone)]
    struct Story {
        /// When each happened, in minutes, and its command.
        transitions: Vec<(u64, bool)>,
        /// Which transition arrives, how many minutes after it happened, and whether its process dies while sending.
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

    /// Plays a story. Returns, in order, which transitions sent their commands, and when.
    fn play(story: &Story) -> Vec<(usize, Timestamp)> {
        let mut queue: BTreeSet<(Timestamp, usize, bool)> = story
            .arrivals
            .iter()
            .filter_map(|&(index, late, dies)| Some((at(story.transitions.get(index)?.0 + late), index, dies)))
            .collect();
        let (mut record, mut sent) = (CommandRecord::default(), Vec::new());
        while let Some((now, index, dies)) = queue.pop_first() {
            let (minute, closes) = story.transitions[index];
            let (order, command) = (order(minute, &index.to_string()), if closes { "close" } else { "open" });
            match record.decide(&order, command, now, INTERVAL) {
                Dispatch::Superseded | Dispatch::AlreadySent => {}
                Dispatch::Wait(until) => drop(queue.insert((until, index, dies))),
                Dispatch::Delay(until) => {
                    assert!(until > now && until <= now.plus(INTERVAL));
                    record = record.delayed(&order);
                    queue.insert((until, index, dies));
                }
                Dispatch::Send => {
                    record = record.sending(&order, command, now, now.plus(Duration::from_mins(1)));
                    sent.push((index, now));
                    if dies {
                        // It is delivered again after the visibility timeout.
                        queue.insert((now.plus(Duration::from_mins(6)), index, false));
                    } else {
                        record = record.sent();
                    }
                }
            }
        }
        sent
    }

    proptest! {
        #[test]
        fn written_record_is_read_back(record in records()) {
            prop_assert_eq!(CommandRecord::read(&record.item(at(0))), record);
        }

        #[test]
        fn newest_transition_commands_last_whatever_the_order(story in stories()) {
            let sent = play(&story);
            let order = |&index: &usize| order(story.transitions[index].0, &index.to_string());
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
        fn transition_commands_once_unless_its_process_dies(story in stories()) {
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
