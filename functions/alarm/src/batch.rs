//! A batch's readings, put in order: by thing, by threshold, by time of receipt.

use std::collections::{BTreeMap, HashMap};

use gatehouse::{DeviceEvent, Refusal, ThingName, read_object};
use serde_json::Value;

use crate::standing::Sighting;
use crate::thresholds::{Pointer, Threshold, Thresholds};

/// AWS IoT takes messages of 128 KiB.
const PAYLOAD_LIMIT: usize = 128 * 1024;

/// What came from one thing.
#[derive(Debug)]
pub struct Group<'a> {
    /// The thing.
    pub thing: &'a ThingName,
    /// Its events, by their index in the batch, and why one is refused. What could be read of that one still counts.
    pub events: Vec<(usize, Option<Refusal>)>,
    /// The thresholds that are held against it and that there are readings for.
    pub held: Vec<(&'a Threshold, usize)>,
    /// The values of each field that these thresholds look at, in order.
    pub series: Vec<Vec<Sighting<'a>>>,
    /// How often a reading did not have the number that a threshold looks for.
    pub without_value: u64,
}

/// Puts a batch in order. Each event is read once, and each thing's name compared with each pattern once.
pub fn group<'a>(
    thresholds: &'a Thresholds,
    events: impl IntoIterator<Item = (usize, &'a DeviceEvent)>,
) -> Vec<Group<'a>> {
    // In the order of their names, so that the same batch is handled in the same order again.
    let mut by_thing: BTreeMap<&str, Vec<(usize, &DeviceEvent)>> = BTreeMap::new();
    for (index, event) in events {
        by_thing.entry(event.thing.as_str()).or_default().push((index, event));
    }
    by_thing.into_values().filter_map(|events| Some(Group::new(thresholds, &events.first()?.1.thing, events))).collect()
}

impl<'a> Group<'a> {
    fn new(thresholds: &'a Thresholds, thing: &'a ThingName, mut events: Vec<(usize, &'a DeviceEvent)>) -> Self {
        // A stable sort: what was received in the same millisecond stays in its order.
        events.sort_by_key(|(_, event)| event.received_at);
        let mut fields: Vec<(&Pointer, u64)> = Vec::new();
        let mut numbers: HashMap<&Pointer, usize> = HashMap::new();
        let mut held = Vec::new();
        for threshold in thresholds.of(thing) {
            let number = *numbers.entry(&threshold.field).or_insert_with(|| {
                fields.push((&threshold.field, 0));
                fields.len() - 1
            });
            if let Some((_, thresholds)) = fields.get_mut(number) {
                *thresholds += 1;
            }
            held.push((threshold, number));
        }
        let mut group = Self {
            thing,
            events: Vec::with_capacity(events.len()),
            held,
            series: fields.iter().map(|_| Vec::new()).collect(),
            without_value: 0,
        };
        for (index, event) in events {
            // What no threshold is held against is nobody's concern here.
            let refused = if fields.is_empty() { None } else { group.read(event, &fields).err() };
            group.events.push((index, refused));
        }
        let series = &group.series;
        group.held.retain(|(_, number)| series.get(*number).is_some_and(|sightings| !sightings.is_empty()));
        group
    }

    /// Takes an event's values in; the first thing that is wrong with it.
    fn read(&mut self, event: &'a DeviceEvent, fields: &[(&Pointer, u64)]) -> Result<(), Refusal> {
        let items = event.items(PAYLOAD_LIMIT)?;
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); fields.len()];
        let mut outcome = Ok(());
        for (number, item) in items.iter().enumerate() {
            let noun = if items.len() == 1 { "The payload".to_owned() } else { format!("Item {}", number + 1) };
            let reading: Value = match read_object(item, &noun) {
                Ok(reading) => reading,
                Err(refusal) => {
                    outcome = outcome.and(Err(refusal));
                    continue;
                }
            };
            for (values, (field, thresholds)) in values.iter_mut().zip(fields) {
                match field.find(&reading).and_then(Value::as_f64) {
                    Some(value) => values.push(value),
                    None => self.without_value += thresholds,
                }
            }
        }
        for (series, values) in self.series.iter_mut().zip(values).filter(|(_, values)| !values.is_empty()) {
            series.push(Sighting { event: event.id.as_str(), at: event.received_at, values });
        }
        outcome
    }
}
