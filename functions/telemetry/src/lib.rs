//! `telemetry/+` and `sigfox`: keeps every reading in DynamoDB.
//!
//! A payload is one JSON object, a *reading*, or an array of them. Each reading is an item of its own: the thing's name
//! and a sort key that is the same however often the reading comes, the facts around it, and all its fields as
//! DynamoDB's typed attributes. Writing an item again writes the same item: nothing is lost, and nothing is there
//! twice.
//!
//! A reading that DynamoDB could not hold fails none of its neighbours. They are stored, and then its event is refused,
//! whole.

pub mod attributes;
pub mod decimal;
mod fates;
mod puts;
pub mod reading;
pub mod sigfox;
mod table;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::batch_write_item::BatchWriteItemError;
use futures_util::stream::{self, StreamExt};
use gatehouse::{Outcomes, BatchHandler, Invocation, DeviceEvent, Environment, Failure, InitError, Refusal, Setup};
use serde_json::value::RawValue;

use crate::fates::Fates;
use crate::puts::{Put, Puts};
use crate::reading::{Fields, Reading};
use crate::table::Table;

/// The largest message that AWS IoT takes, in bytes. No reading in it can become an item of more than the 400 KB that
/// DynamoDB holds: numbers grow most, `0,` to three bytes.
pub const LARGEST_PAYLOAD: usize = 128 * 1024;

/// The most readings in a message: memory must have room for those of a whole batch, however small they are.
pub const MOST_READINGS: usize = 1000;

/// How many calls are in flight at once: enough to hide the way to DynamoDB and back, each on a connection of its own
/// that has to be set up first.
const CALLS_AT_ONCE: usize = 8;

/// The handler of readings.
#[derive(Debug)]
pub struct Telemetry {
    table: Table,
    fields: Fields,
    sigfox: (String, Fields),
    tolerance: Duration,
}

/// Why a reading is not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It never will be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// DynamoDB did not take the call.
    #[error("the telemetry table could not be written")]
    NotWritten(#[source] Arc<SdkError<BatchWriteItemError>>),
    /// DynamoDB took the call, but not this item, until time ran out.
    #[error("the telemetry table left it unprocessed until time ran out")]
    Unprocessed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            other @ (Error::NotWritten(_) | Error::Unprocessed) => Self::retry(other),
        }
    }
}

impl Telemetry {
    /// The handler that the process's environment describes.
    pub fn new(setup: &Setup) -> Result<Self, InitError> {
        Self::from(setup.environment(), setup.dynamodb())
    }

    /// Reads `TELEMETRY_TABLE`, `RETENTION_DAYS` (default 90), `IDENTITY_FIELD` (the name or JSON pointer of the field
    /// that tells a device's readings apart, if there is one), `TIME_FIELD` (that of a reading's own time; default
    /// `time`), `CLOCK_TOLERANCE_SECONDS` (default 86400) and `SIGFOX_TOPIC` (default `sigfox`).
    pub fn from(environment: &Environment, client: Client) -> Result<Self, InitError> {
        const DAY: Duration = Duration::from_hours(24);
        let days: u16 = environment.optional("RETENTION_DAYS")?.unwrap_or(90);
        let table: String = environment.required("TELEMETRY_TABLE")?;
        let tolerance: u32 = environment.optional("CLOCK_TOLERANCE_SECONDS")?.unwrap_or(86_400);
        let sigfox_topic = environment.get("SIGFOX_TOPIC").unwrap_or(sigfox::TOPIC).to_owned();
        Ok(Self {
            table: Table::new(client, &table, DAY * u32::from(days)),
            fields: Fields::new(environment.get("IDENTITY_FIELD"), environment.get("TIME_FIELD").unwrap_or("time")),
            sigfox: (sigfox_topic, sigfox::fields()),
            tolerance: Duration::from_secs(tolerance.into()),
        })
    }

    /// What is to be written. The fates of events of which nothing is are settled.
    fn take_up<'a>(&'a self, events: &'a [DeviceEvent], fates: &mut Fates<'_>, invocation: &Invocation) -> Vec<Put<'a>> {
        let mut puts = Puts::with_capacity(events.len());
        for (index, event) in events.iter().enumerate() {
            let readings = match readings(event) {
                Ok(readings) => readings,
                Err(refusal) => {
                    fates.settle(index, Err(refusal.into()));
                    continue;
                }
            };
            fates.expect(index, readings.len());
            let is_array = event.bytes().trim_ascii_start().starts_with(b"[");
            let (sigfox_topic, sigfox_fields) = &self.sigfox;
            let fields = if event.topic == *sigfox_topic { sigfox_fields } else { &self.fields };
            for (position, json) in readings.into_iter().enumerate() {
                let reading = Reading::new(event, json, is_array.then_some(position), fields, self.tolerance);
                if let Err(refusal) = reading.and_then(|reading| puts.add(reading, index, fates, invocation)) {
                    fates.settle(index, Err(refusal.into()));
                }
            }
        }
        puts.into_vec()
    }
}

/// The JSON of an event's readings.
fn readings(event: &DeviceEvent) -> Result<Vec<&RawValue>, Refusal> {
    let readings = event.items(LARGEST_PAYLOAD)?;
    if readings.len() > MOST_READINGS {
        let why = format!("The payload has {} readings; at most {MOST_READINGS} are taken.", readings.len());
        return Err(Refusal::new("too-many-readings", why));
    }
    Ok(readings)
}

impl BatchHandler for Telemetry {
    type Input = DeviceEvent;

    async fn handle_batch(&self, events: &[DeviceEvent], answers: &mut Outcomes, invocation: &Invocation) {
        let mut fates = Fates::new(events.len(), answers);
        let puts = self.take_up(events, &mut fates, invocation);
        let fates = RefCell::new(fates);
        let settle = |puts: &[&Put<'_>], result: Result<(), Error>| {
            let mut fates = fates.borrow_mut();
            for event in puts.iter().flat_map(|put| put.events()) {
                fates.settle(event, result.clone());
            }
            if result.is_ok() {
                invocation.add("Stored", u64::try_from(puts.len()).unwrap_or(u64::MAX));
            }
        };
        stream::iter(puts::calls(&puts))
            .for_each_concurrent(CALLS_AT_ONCE, |puts| self.table.write(puts, invocation, &settle))
            .await;
    }
}
