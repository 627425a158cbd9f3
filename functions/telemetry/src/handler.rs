use std::cell::RefCell;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use futures_util::stream::{self, StreamExt};
use gatehouse::{
    BatchHandler, DeviceEvent, Environment, InitError, Invocation, Outcomes, PartialOutcomes, Refusal, Setup,
};
use serde_json::value::RawValue;

use crate::puts::{self, Put, Puts};
use crate::reading::{Fields, Reading};
use crate::sigfox;
use crate::table::{Table, WriteError};

/// The maximum size of a message in AWS IoT, in bytes. No reading in such a message can exceed DynamoDB's item size of
/// 400 KB: numbers grow most, from `0,` to three bytes.
pub const MAX_PAYLOAD_BYTES: usize = 128 * 1024;

/// The maximum number of readings in a message: a whole batch of messages must fit into memory, however small its
/// readings are.
pub const MAX_READINGS: usize = 1000;

/// The maximum number of concurrent calls: enough to hide DynamoDB's latency, but each needs a connection of its own,
/// which takes time to open.
const MAX_CONCURRENT_CALLS: usize = 8;

/// Stores readings.
#[derive(Debug)]
pub struct TelemetryHandler {
    table: Table,
    fields: Fields,
    sigfox_topic: String,
    sigfox_fields: Fields,
    tolerance: Duration,
}

impl TelemetryHandler {
    /// Assembles the handler from the process's environment.
    pub fn new(setup: &Setup) -> Result<Self, InitError> {
        Self::from_environment(setup.environment(), setup.dynamodb())
    }

    /// Reads `TELEMETRY_TABLE`, `RETENTION_DAYS` (default 90), `IDENTITY_FIELD` (the name or JSON pointer of the field
    /// that identifies a device's reading, if there is one), `TIME_FIELD` (the name or pointer of the field with a
    /// reading's own time; default `time`), `CLOCK_TOLERANCE_SECONDS` (default 86400) and `SIGFOX_TOPIC` (default
    /// `sigfox`).
    pub fn from_environment(environment: &Environment, client: Client) -> Result<Self, InitError> {
        const DAY: Duration = Duration::from_hours(24);
        let days: u16 = environment.optional("RETENTION_DAYS")?.unwrap_or(90);
        let table: String = environment.required("TELEMETRY_TABLE")?;
        let tolerance: u32 = environment.optional("CLOCK_TOLERANCE_SECONDS")?.unwrap_or(86_400);
        Ok(Self {
            table: Table::new(client, &table, DAY * u32::from(days)),
            fields: Fields::new(environment.get("IDENTITY_FIELD"), environment.get("TIME_FIELD").unwrap_or("time")),
            sigfox_topic: environment.get("SIGFOX_TOPIC").unwrap_or(sigfox::TOPIC).to_owned(),
            sigfox_fields: sigfox::fields(),
            tolerance: Duration::from_secs(tolerance.into()),
        })
    }

    /// Returns the puts of these events. Settles refused readings and events, and events without readings.
    fn puts<'a>(
        &'a self,
        events: &'a [DeviceEvent],
        outcomes: &mut PartialOutcomes<'_>,
        invocation: &Invocation,
    ) -> Vec<Put<'a>> {
        let mut puts = Puts::with_capacity(events.len());
        let mut scratch = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let readings = match readings(event) {
                Ok(readings) => readings,
                Err(refusal) => {
                    outcomes.settle(index, Err(refusal.into()));
                    continue;
                }
            };
            outcomes.expect(index, readings.len());
            let is_array = event.bytes().trim_ascii_start().starts_with(b"[");
            let fields = if event.topic == self.sigfox_topic { &self.sigfox_fields } else { &self.fields };
            for (position, json) in readings.into_iter().enumerate() {
                let position = is_array.then_some(position);
                let reading = Reading::new(event, json, position, fields, self.tolerance, &mut scratch);
                if let Err(refusal) = reading.and_then(|reading| puts.add(reading, index, outcomes, invocation)) {
                    outcomes.settle(index, Err(refusal.into()));
                }
            }
        }
        puts.into_vec()
    }
}

fn readings(event: &DeviceEvent) -> Result<Vec<&RawValue>, Refusal> {
    let readings = event.items(MAX_PAYLOAD_BYTES)?;
    if readings.len() > MAX_READINGS {
        let why = format!("The payload has {} readings; the limit is {MAX_READINGS}.", readings.len());
        return Err(Refusal::new("too-many-readings", why));
    }
    Ok(readings)
}

impl BatchHandler for TelemetryHandler {
    type Input = DeviceEvent;

    async fn handle_batch(&self, events: &[DeviceEvent], outcomes: &mut Outcomes, invocation: &Invocation) {
        let mut outcomes = PartialOutcomes::new(events.len(), outcomes);
        let puts = self.puts(events, &mut outcomes, invocation);
        let outcomes = RefCell::new(outcomes);
        let settle = |puts: &[&Put<'_>], result: Result<(), WriteError>| {
            let mut outcomes = outcomes.borrow_mut();
            for event in puts.iter().flat_map(|put| put.events()) {
                outcomes.settle(event, result.clone().map_err(Into::into));
            }
            if result.is_ok() {
                invocation.add("Stored", u64::try_from(puts.len()).unwrap_or(u64::MAX));
            }
        };
        stream::iter(puts::calls(&puts))
            .for_each_concurrent(MAX_CONCURRENT_CALLS, |puts| self.table.write(puts, invocation, &settle))
            .await;
    }
}
