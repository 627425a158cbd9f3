use std::collections::{BTreeMap, VecDeque};

use super::State;
use super::request::Call;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before AWS receives the call.
    DiesBefore,
    /// The process dies once AWS has performed the call.
    DiesAfter,
    /// AWS denies access; a retry would not help.
    Denied,
    /// AWS throttles the call; the SDK retries it.
    Throttled,
    /// AWS performs the call, but the response is lost; the SDK sends the call again.
    Lost,
    /// AWS performs the call, but responds with an error that the SDK does not retry.
    Unconfirmed,
    /// AWS does not perform the call, and never responds.
    Hangs,
    /// AWS does not perform the call, and responds with this HTTP status and error code.
    Error(u16, &'static str),
    /// DynamoDB leaves the last items of a batch, this many, unprocessed; statements of a batch it throttles.
    Unprocessed(usize),
    /// DynamoDB writes the whole batch, and returns an unprocessed item that nobody sent.
    UnknownUnprocessed,
}

/// The faults after which the same event can be handled by another invocation.
pub const FAULTS: [Fault; 5] = [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied, Fault::Throttled, Fault::Lost];

type Change = Box<dyn FnOnce(&mut State) + Send>;
type Condition = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// The faults and changes at the calls of one process, or of all processes together.
#[derive(Default)]
pub(super) struct FaultPlan {
    /// The number of calls received so far.
    pub(super) calls: usize,
    /// By the number of the call, from 1.
    pub(super) numbered: BTreeMap<usize, Fault>,
    pub(super) changes: BTreeMap<usize, Change>,
    /// For the next calls of this name.
    pub(super) next: Vec<(String, VecDeque<Option<Fault>>)>,
    /// For every call of this name.
    pub(super) always: BTreeMap<String, Fault>,
    /// For the calls of this name that a test chooses.
    pub(super) conditions: Vec<(String, Condition)>,
}

impl FaultPlan {
    /// Counts a call, and returns the change that happens just before it.
    pub(super) fn begin(&mut self) -> Option<Change> {
        self.calls += 1;
        self.changes.remove(&self.calls)
    }

    /// The fault of the call that was counted last.
    pub(super) fn fault_of(&mut self, call: &Call) -> Option<Fault> {
        if let Some(fault) = self.numbered.remove(&self.calls) {
            return Some(fault);
        }
        let queue = self.next.iter_mut().find(|(name, queue)| call.is(name) && !queue.is_empty());
        if let Some((_, queue)) = queue {
            return queue.pop_front().flatten();
        }
        if let Some((_, fault)) = self.always.iter().find(|(name, _)| call.is(name)) {
            return Some(*fault);
        }
        let mut conditions = self.conditions.iter_mut().filter(|(name, _)| call.is(name));
        conditions.find_map(|(_, condition)| condition(call))
    }
}
