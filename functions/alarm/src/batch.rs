//! Groups a batch's readings by thing, field and time of receipt.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use gatehouse::{DeviceEvent, Number, ParseNumberError, Refusal, ThingName, Timestamp, object_fields};

use crate::alarm_record::{self, CurrentThreshold, Sample};
use crate::evaluation::{Evaluation, Trigger};
use crate::thresholds::{Pointer, Threshold, Thresholds};

/// The size limit of AWS IoT's messages.
const MAX_PAYLOAD_BYTES: usize = 128 * 1024;

/// The events of one thing.
#[derive(Debug)]
pub struct ThingBatch<'a> {
    thing: &'a ThingName,
    /// The indexes of all its events in the batch.
    pub events: Vec<usize>,
    /// The events that are refused, by index. The values that could be read from them still count.
    pub refusals: Vec<(usize, Refusal)>,
    /// How often a reading had no number in a threshold's field.
    pub missing_values: u64,
    /// The thresholds that there are samples for, each with the index of its field's series.
    thresholds: Vec<(&'a Threshold, usize)>,
    /// The samples of each field, in order of receipt.
    series: Vec<Vec<Sample<'a>>>,
}

/// Groups events by thing. Each payload is parsed once, and each thing's name compared with each pattern once.
pub fn group<'a>(
    thresholds: &'a Thresholds,
    events: impl IntoIterator<Item = (usize, &'a DeviceEvent)>,
) -> Vec<ThingBatch<'a>> {
    // Ordered by name, so that a batch delivered again is handled in the same order.
    let mut by_thing: BTreeMap<&str, Vec<(usize, &DeviceEvent)>> = BTreeMap::new();
    for (index, event) in events {
        by_thing.entry(event.thing.as_str()).or_default().push((index, event));
    }
    let batch = |events: Vec<(usize, &'a DeviceEvent)>| {
        let (_, first) = events.first()?;
        Some(ThingBatch::new(thresholds, &first.thing, events))
    };
    by_thing.into_values().filter_map(batch).collect()
}

impl<'a> ThingBatch<'a> {
    fn new(thresholds: &'a Thresholds, thing: &'a ThingName, mut events: Vec<(usize, &'a DeviceEvent)>) -> Self {
        // The sort is stable: events received in the same millisecond keep their order.
        events.sort_by_key(|(_, event)| event.received_at);
        // Each field once, with the number of its thresholds.
        let mut fields: Vec<(&Pointer, u64)> = Vec::new();
        let mut field_indexes: HashMap<&Pointer, usize> = HashMap::new();
        let mut indexed = Vec::new();
        for threshold in thresholds.for_thing(thing) {
            let field = *field_indexes.entry(&threshold.field).or_insert_with(|| {
                fields.push((&threshold.field, 0));
                fields.len() - 1
            });
            if let Some((_, thresholds)) = fields.get_mut(field) {
                *thresholds += 1;
            }
            indexed.push((threshold, field));
        }
        let mut batch = Self {
            thing,
            events: events.iter().map(|(index, _)| *index).collect(),
            refusals: Vec::new(),
            missing_values: 0,
            thresholds: indexed,
            series: fields.iter().map(|_| Vec::new()).collect(),
        };
        // Without a threshold, nobody needs the payload.
        if !fields.is_empty() {
            for (index, event) in events {
                if let Err(refusal) = batch.read(event, &fields) {
                    batch.refusals.push((index, refusal));
                }
            }
        }
        let series = &batch.series;
        batch.thresholds.retain(|(_, field)| series.get(*field).is_some_and(|samples| !samples.is_empty()));
        batch
    }

    /// Reads an event's values. Returns the first error, after it has read what it can.
    fn read(&mut self, event: &'a DeviceEvent, fields: &[(&Pointer, u64)]) -> Result<(), Refusal> {
        let items = event.items(MAX_PAYLOAD_BYTES)?;
        let mut values: Vec<Vec<Number>> = vec![Vec::new(); fields.len()];
        let mut outcome = Ok(());
        for (index, item) in items.iter().enumerate() {
            let noun = match items.len() {
                1 => Cow::Borrowed("The payload"),
                _ => Cow::Owned(format!("Item {}", index + 1)),
            };
            // Only the values that thresholds need are parsed.
            let reading = match object_fields(item, &noun) {
                Ok(reading) => reading,
                Err(refusal) => {
                    outcome = outcome.and(Err(refusal));
                    continue;
                }
            };
            for (values, (field, thresholds)) in values.iter_mut().zip(fields) {
                let value = field.find(&reading).map_or(Err(ParseNumberError::NotANumber), Number::of);
                match value {
                    Ok(value) => values.push(value),
                    Err(ParseNumberError::NotANumber) => self.missing_values += thresholds,
                    Err(error) => outcome = outcome.and(Err(refusal(field, error))),
                }
            }
        }
        for (series, values) in self.series.iter_mut().zip(values).filter(|(_, values)| !values.is_empty()) {
            series.push(Sample { event: event.id.as_str(), at: event.received_at, values });
        }
        outcome
    }

    /// Returns one evaluation for each threshold that there are samples for.
    /// `given_at` is when the document of thresholds was given.
    pub(crate) fn evaluations(&self, given_at: Timestamp) -> impl ExactSizeIterator<Item = Evaluation<'_>> {
        self.thresholds.iter().map(move |&(threshold, field)| Evaluation {
            key: alarm_record::key(self.thing.as_str(), &threshold.name),
            thing: self.thing,
            current: CurrentThreshold { name: &threshold.name, threshold: Some(threshold), given_at },
            trigger: Trigger::Samples(self.series.get(field).map(Vec::as_slice).unwrap_or_default()),
            events: &self.events,
        })
    }
}

/// The refusal of a number that is not evaluated. The field's name comes from the threshold.
fn refusal(field: &Pointer, error: ParseNumberError) -> Refusal {
    let code = if error == ParseNumberError::TooLong { "too-many-digits" } else { "number-out-of-range" };
    let expected = error.to_string();
    Refusal::new(code, format!("Field `{field}`: {expected}."))
}
