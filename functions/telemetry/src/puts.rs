//! What a delivery has to write: each key once, whichever events it comes in, and so many a call.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;

use gatehouse::{Invocation, Refusal};

use crate::fates::Fates;
use crate::reading::{At, Reading};

/// The most puts that DynamoDB takes in a call.
const PUTS: usize = 25;

/// About how many bytes a call has at most. DynamoDB takes 16 MB; but an attempt has only so much time, and memory
/// holds several calls.
const BYTES: usize = 2 * 1024 * 1024;

/// By how much JSON grows at most on its way to DynamoDB's: `0,` to `{"N":"0"},`.
const GROWTH: usize = 5;

/// One item to write.
#[derive(Debug)]
pub struct Put<'a> {
    /// What is written.
    pub reading: Reading<'a>,
    /// The events that it is written for, by their indexes: almost always one.
    event: usize,
    others: Vec<usize>,
}

impl Put<'_> {
    /// The indexes of the events that it is written for.
    pub fn events(&self) -> impl Iterator<Item = usize> {
        self.others.iter().copied().chain([self.event])
    }
}

/// The items to write, while they are collected. DynamoDB refuses a call that names a key twice.
#[derive(Debug)]
pub struct Puts<'a> {
    all: Vec<Put<'a>>,
    by_key: HashMap<(&'a str, At<'a>), usize>,
}

impl<'a> Puts<'a> {
    /// None yet, of about so many.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { all: Vec::with_capacity(capacity), by_key: HashMap::with_capacity(capacity) }
    }

    /// Adds a reading of the event of this index. Of those with one key the newest is written, and shares its fate with
    /// the others; but none that DynamoDB could not hold stands for one that it could.
    pub fn add(
        &mut self,
        reading: Reading<'a>,
        event: usize,
        fates: &mut Fates<'_>,
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
            replaced.events().for_each(|event| fates.settle(event, Err(refusal.clone().into())));
            return Ok(());
        }
        invocation.count("Duplicates");
        put.others.push(event);
        if reading.event.received_at >= put.reading.event.received_at {
            put.reading = reading;
        }
        Ok(())
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Put<'a>> {
        self.all
    }
}

/// Cuts puts into calls.
pub fn calls<'p, 'a>(puts: &'p [Put<'a>]) -> impl Iterator<Item = Vec<&'p Put<'a>>> {
    let mut rest = puts.iter().peekable();
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut taken = Vec::with_capacity(PUTS);
        while taken.len() < PUTS {
            let fits = |put: &&Put<'_>| {
                bytes += put.reading.size() * GROWTH;
                taken.is_empty() || bytes <= BYTES
            };
            let Some(put) = rest.next_if(fits) else { break };
            taken.push(put);
        }
        (!taken.is_empty()).then_some(taken)
    })
}
