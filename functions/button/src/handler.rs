use gatehouse::{
    DeviceEvent, Environment, EventHandler, Execution, Failure, Idempotency, InitError, Invocation, Setup, Topic,
};
use regex_lite::Regex;

use crate::click::{Click, Millivolts};

/// The maximum size of a click. They have about 100 bytes; this leaves room for new fields.
const MAX_PAYLOAD_BYTES: usize = 8 * 1024;

/// Publishes each click once.
#[derive(Debug)]
pub struct ButtonHandler {
    topic: Topic,
    idempotency: Idempotency,
    /// The pattern that a whole serial number must match.
    allowed_serial_numbers: Regex,
    low_battery: Millivolts,
}

impl ButtonHandler {
    /// Assembles the handler during INIT.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        Self::from_environment(setup.environment(), Topic::connect(setup).await?, setup.idempotency()?)
    }

    /// Reads `SERIAL_NUMBER_PATTERN` (default: any) and `LOW_BATTERY_MILLIVOLTS` (default 1200; 0 for never).
    pub fn from_environment(
        environment: &Environment,
        topic: Topic,
        idempotency: Idempotency,
    ) -> Result<Self, InitError> {
        let pattern: String = environment.optional("SERIAL_NUMBER_PATTERN")?.unwrap_or_else(|| ".*".to_owned());
        let allowed_serial_numbers = Regex::new(&format!("^(?:{pattern})$"))
            .map_err(|error| Environment::invalid("SERIAL_NUMBER_PATTERN", &pattern, &error))?;
        let low_battery = Millivolts(environment.optional("LOW_BATTERY_MILLIVOLTS")?.unwrap_or(1200));
        Ok(Self { topic, idempotency, allowed_serial_numbers, low_battery })
    }
}

impl EventHandler for ButtonHandler {
    type Input = DeviceEvent;
    type Error = Failure;

    async fn handle(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Failure> {
        let click: Click = event.payload(MAX_PAYLOAD_BYTES)?;
        click.check_serial_number(&event.thing, &self.allowed_serial_numbers)?;
        let publish = self.topic.publish(click.notification(&event.id, self.low_battery));
        let execution = self.idempotency.run_once(event.id.as_str(), invocation, publish).await?;
        invocation.count(match execution {
            Execution::Completed => "Notified",
            Execution::AlreadyCompleted => "Duplicate",
        });
        Ok(())
    }
}
