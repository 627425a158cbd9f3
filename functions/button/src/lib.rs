//! `iotbutton/+`: one click, one notification.
//!
//! A click is published to an Amazon SNS topic, with `clickType`, `thing` and `batteryVoltage` (millivolts) as message
//! attributes to filter on. It is claimed before and marked after, so that a retry does not tell it again.

pub mod click;

use gatehouse::{
    Attribute, Invocation, DeviceEvent, EventHandler, Environment, Failure, Idempotency, InitError, PublishError, Execution, IdempotencyError,
    Refusal, Setup, Topic,
};
use regex_lite::Regex;

use crate::click::{Click, Millivolts, Rules};

/// A button's message has about 100 bytes; this leaves room for fields to come.
const PAYLOAD_LIMIT: usize = 8 * 1024;

/// The handler of clicks.
#[derive(Debug)]
pub struct Button {
    topic: Topic,
    rules: Rules,
    idempotency: Idempotency,
}

/// Why a click was not told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not a click that we take.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was not told now; the next try may.
    #[error(transparent)]
    NotTold(#[from] IdempotencyError<PublishError>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::NotTold(error) => error.into(),
        }
    }
}

impl Button {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        Self::from(setup.environment(), Topic::connect(setup).await?, setup.idempotency()?)
    }

    /// Reads `LOW_BATTERY_MILLIVOLTS` (default 1200; 0 for never) and `SERIAL_NUMBER_PATTERN` (default: any).
    pub fn from(environment: &Environment, topic: Topic, idempotency: Idempotency) -> Result<Self, InitError> {
        let pattern: String = environment.optional("SERIAL_NUMBER_PATTERN")?.unwrap_or_else(|| ".*".to_owned());
        let serial_number = Regex::new(&format!("^(?:{pattern})$"))
            .map_err(|error| Environment::invalid("SERIAL_NUMBER_PATTERN", &pattern, &error))?;
        let low_battery = Millivolts(environment.optional("LOW_BATTERY_MILLIVOLTS")?.unwrap_or(1200));
        Ok(Self { topic, rules: Rules { low_battery, serial_number }, idempotency })
    }
}

impl EventHandler for Button {
    type Input = DeviceEvent;
    type Error = Error;

    async fn handle(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Error> {
        let click: Click = event.payload(PAYLOAD_LIMIT)?;
        let mut notification = click::notification(&click, &event.thing, &self.rules)?;
        notification.attributes.push(("eventId", Attribute::Text(event.id.to_string())));
        let told = self.idempotency.run_once(event.id.as_str(), invocation, self.topic.publish(notification)).await?;
        invocation.count(match told {
            Execution::Completed => "Told",
            Execution::AlreadyCompleted => "Duplicate",
        });
        Ok(())
    }
}
