//! Groups a batch's readings by thing, and by the fields that rules need, in order of receipt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use gatehouse::{DeviceEvent, ParseNumberError, Refusal, ThingName, object_fields};

use crate::alarm_record::{self, CurrentRule, Sample};
use crate::evaluation::{Evaluation, Trigger};
use crate::pointer::Pointer;
use crate::rules::{Rules, ThingRules, Value};
use crate::version::DocumentVersion;

/// The maximum size of a message in AWS IoT, in bytes.
const MAX_PAYLOAD_BYTES: usize = 128 * 1024;

/// The events of one thing.
#[derive(Debug)]
pub struct ThingBatch<'a> {
    thing: &'a ThingName,
    /// The indexes of all its events in the batch.
    pub events: Vec<usize>,
    /// The events that are refused, by index. The values that could be read from them still count.
    pub refusals: Vec<(usize, Refusal)>,
    /// How many times a reading lacked the fields that a rule needs.
    pub missing_values: u64,
    rules: Arc<ThingRules>,
    /// For each set of needed fields, the samples in order of receipt.
    series: Vec<Vec<Sample<'a>>>,
}

/// Groups events by thing. Each payload, and each of its fields, is parsed only once.
pub fn group<'a>(rules: &Rules, events: impl IntoIterator<Item = (usize, &'a DeviceEvent)>) -> Vec<ThingBatch<'a>> {
    // Ordered by name, so that a redelivered batch is handled in the same order.
    let mut by_thing: BTreeMap<&str, Vec<(usize, &DeviceEvent)>> = BTreeMap::new();
    for (index, event) in events {
        by_thing.entry(event.thing.as_str()).or_default().push((index, event));
    }
    let batch = |events: Vec<(usize, &'a DeviceEvent)>| {
        let (_, first) = events.first()?;
        Some(ThingBatch::new(rules.for_thing(&first.thing), &first.thing, events))
    };
    by_thing.into_values().filter_map(batch).collect()
}

impl<'a> ThingBatch<'a> {
    fn new(rules: Arc<ThingRules>, thing: &'a ThingName, mut events: Vec<(usize, &'a DeviceEvent)>) -> Self {
        // The sort is stable: events received in the same millisecond keep their order.
        events.sort_by_key(|(_, event)| event.received_at);
        let mut batch = Self {
            thing,
            events: events.iter().map(|(index, _)| *index).collect(),
            refusals: Vec::new(),
            missing_values: 0,
            series: rules.series.iter().map(|_| Vec::new()).collect(),
            rules,
        };
        let rules = Arc::clone(&batch.rules);
        // Without a rule, nobody needs the payload.
        if !rules.rules.is_empty() {
            // How many rules need the fields of each series.
            let mut counts = vec![0; rules.series.len()];
            for rule in &rules.rules {
                if let Some(count) = counts.get_mut(rule.series) {
                    *count += 1;
                }
            }
            for (index, event) in events {
                if let Err(refusal) = batch.read(event, &rules, &counts) {
                    batch.refusals.push((index, refusal));
                }
            }
        }
        batch
    }

    /// Reads all values of an event that can be read, and returns the first error.
    fn read(&mut self, event: &'a DeviceEvent, rules: &ThingRules, counts: &[u64]) -> Result<(), Refusal> {
        let items = event.items(MAX_PAYLOAD_BYTES)?;
        let mut outcome = Ok(());
        let mut readings: Vec<Arc<[Value]>> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let noun = match items.len() {
                1 => Cow::Borrowed("The payload"),
                _ => Cow::Owned(format!("Item {}", index + 1)),
            };
            // Only the values that rules need are parsed.
            let reading = match object_fields(item, &noun) {
                Ok(reading) => reading,
                Err(refusal) => {
                    outcome = outcome.and(Err(refusal));
                    continue;
                }
            };
            let value = |field: &Pointer| match Value::of(field.find(&reading)) {
                Ok(value) => value,
                Err(error) => {
                    if outcome.is_ok() {
                        outcome = Err(refusal(field, error));
                    }
                    Value::Invalid
                }
            };
            readings.push(rules.fields.iter().map(value).collect());
        }
        for ((series, needs), rules) in self.series.iter_mut().zip(&rules.series).zip(counts) {
            let mut needed = Vec::new();
            for reading in &readings {
                if needs.are_met_by(reading) {
                    needed.push(Arc::clone(reading));
                } else if !needs.are_invalid_in(reading) {
                    self.missing_values += rules;
                }
            }
            if !needed.is_empty() {
                series.push(Sample { event: event.id.as_str(), at: event.received_at, readings: needed });
            }
        }
        outcome
    }

    /// Returns one evaluation for each rule that has samples.
    pub(crate) fn evaluations(&self, version: DocumentVersion) -> impl Iterator<Item = Evaluation<'_>> {
        let samples = |series: usize| self.series.get(series).map(Vec::as_slice).unwrap_or_default();
        self.rules.rules.iter().filter(move |rule| !samples(rule.series).is_empty()).map(move |rule| Evaluation {
            key: alarm_record::key(self.thing.as_str(), &rule.name),
            thing: self.thing,
            current: CurrentRule {
                name: &rule.name,
                rule: Some(rule),
                given_at: version.given_at,
                version: version.number,
            },
            trigger: Trigger::Samples(samples(rule.series)),
            events: &self.events,
        })
    }
}

/// Returns the refusal of a number that cannot be evaluated. The field's name comes from the rule, not from the device.
fn refusal(field: &Pointer, error: ParseNumberError) -> Refusal {
    let code = if error == ParseNumberError::TooLong { "too-many-digits" } else { "number-out-of-range" };
    let expected = error.to_string();
    Refusal::new(code, format!("Field `{field}`: {expected}."))
}
