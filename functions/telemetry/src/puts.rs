//! Collects the items that a batch writes, one per key, and splits them into calls.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;

use gatehouse::{Invocation, PartialOutcomes, Refusal};

use crate::reading::{Reading, SortKey};

/// The maximum number of puts that DynamoDB accepts in one call.
const MAX_PUTS_PER_CALL: usize = 25;

/// The approximate maximum size of a call in bytes. DynamoDB accepts 16 MB, but an attempt has a timeout, and several
/// calls are in memory at once.
const MAX_CALL_BYTES: usize = 2 * 1024 * 1024;

/// The maximum factor by which JSON grows when converted to DynamoDB's: from `0,` to `{"N":"0"},`.
const MAX_GROWTH: usize = 5;

/// One item to write.
#[derive(Debug)]
pub struct Put<'a> {
    /// The reading.
    pub reading: Reading<'a>,
    /// The indexes of the events that it is written for: almost always just this one.
    event: usize,
    others: Vec<usize>,
}

impl Put<'_> {
    /// Returns the indexes of the events that it is written for.
    pub fn events(&self) -> impl Iterator<Item = usize> {
        self.others.iter().copied().chain([self.event])
    }
}

/// Collects the items to write. DynamoDB rejects a call in which a key appears twice.
#[derive(Debug)]
pub struct Puts<'a> {
    all: Vec<Put<'a>>,
    by_key: HashMap<(&'a str, SortKey<'a>), usize>,
}

impl<'a> Puts<'a> {
    /// An empty collection with this capacity.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { all: Vec::with_capacity(capacity), by_key: HashMap::with_capacity(capacity) }
    }

    /// Adds a reading of the event at this index. If several readings have the same key, only the newest is written, on
    /// behalf of all their events; but a reading that DynamoDB cannot store never replaces one that it can.
    pub fn add(
        &mut self,
        reading: Reading<'a>,
        event: usize,
        outcomes: &mut PartialOutcomes<'_>,
        invocation: &Invocation,
    ) -> Result<(), Refusal> {
        let same = match self.by_key.entry(reading.key()) {
            Entry::Vacant(entry) => {
                entry.insert(self.all.len());
                self.all.push(Put { reading, event, others: Vec::new() });
                return Ok(());
            }
            Entry::Occupied(entry) => self.all.get_mut(*entry.get()),
        };
        reading.check()?;
        let Some(put) = same else { return Ok(()) };
        if let Err(refusal) = put.reading.check() {
            let replaced = mem::replace(put, Put { reading, event, others: Vec::new() });
            replaced.events().for_each(|event| outcomes.settle(event, Err(refusal.clone().into())));
            return Ok(());
        }
        invocation.count("Duplicate");
        put.others.push(event);
        if reading.event.received_at >= put.reading.event.received_at {
            put.reading = reading;
        }
        Ok(())
    }

    /// Returns all puts.
    pub fn into_vec(self) -> Vec<Put<'a>> {
        self.all
    }
}

/// Splits puts into calls.
pub fn calls<'p, 'a>(puts: &'p [Put<'a>]) -> impl Iterator<Item = Vec<&'p Put<'a>>> {
    let mut rest = puts.iter().peekable();
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut taken = Vec::with_capacity(MAX_PUTS_PER_CALL);
        while taken.len() < MAX_PUTS_PER_CALL {
            let fits = |put: &&Put<'_>| {
                bytes += put.reading.size() * MAX_GROWTH;
                taken.is_empty() || bytes <= MAX_CALL_BYTES
            };
            let Some(put) = rest.next_if(fits) else { break };
            taken.push(put);
        }
        (!taken.is_empty()).then_some(taken)
    })
}
