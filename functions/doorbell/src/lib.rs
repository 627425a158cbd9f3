//! `doorbell/+`: one ring, one short text message.
//!
//! Rings of one doorbell within a quiet window make one message. A ring is claimed before it is told and marked after,
//! so that a retry does not ring again; a ring is let go for another's sake only once that other is told.

pub mod ledger;
pub mod quiet;
pub mod text;

use gatehouse::{
    Attribute, Invocation, DeviceEvent, EventHandler, Environment, Failure, InitError, PublishError, Notification, IdempotencyError,
    Refusal, Setup, Topic, run_claimed,
};
use serde::Deserialize;

use crate::ledger::{Claimed, Ledger, LedgerError};
use crate::quiet::Ring;

/// A ring has about 100 bytes; this leaves room for a long text, of which the beginning is told.
const PAYLOAD_LIMIT: usize = 8 * 1024;

/// What a doorbell publishes, in the format of AWS IoT ELF. Its `ts` is the device's own clock and is not used.
#[derive(Debug, Deserialize)]
struct Payload {
    msg: String,
}

/// The handler of rings.
#[derive(Debug)]
pub struct Doorbell {
    topic: Topic,
    ledger: Ledger,
    sender_name: String,
}

/// Why a ring was not told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not a ring that we take.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Who tells it could not be agreed on.
    #[error(transparent)]
    NotClaimed(#[from] LedgerError),
    /// It was not told now; the next try may.
    #[error(transparent)]
    NotTold(#[from] IdempotencyError<PublishError>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::NotClaimed(error) => Self::retry(error),
            Error::NotTold(error) => error.into(),
        }
    }
}

impl Doorbell {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let ledger = Ledger::from(setup.environment(), setup.dynamodb(), setup.function())?;
        Self::from(setup.environment(), Topic::connect(setup).await?, ledger)
    }

    /// Reads `SENDER_NAME` (default `DOORBELL`): the topic's display name, of which SNS puts ten characters before each
    /// text, and the sender ID, where a country shows one.
    pub fn from(environment: &Environment, topic: Topic, ledger: Ledger) -> Result<Self, InitError> {
        let sender_name: String = environment.optional("SENDER_NAME")?.unwrap_or_else(|| "DOORBELL".to_owned());
        let starts_well = sender_name.starts_with(|first: char| first.is_ascii_alphabetic());
        if !starts_well || sender_name.len() > 10 || !sender_name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            let why = "it must be 1 to 10 letters and digits, starting with a letter";
            return Err(Environment::invalid("SENDER_NAME", sender_name, &why));
        }
        Ok(Self { topic, ledger, sender_name })
    }

    fn notification(&self, event: &DeviceEvent) -> Result<Notification, Refusal> {
        let Payload { msg } = event.payload(PAYLOAD_LIMIT)?;
        let message = text::one_part(&text::prefix(&self.sender_name), &msg);
        if message.is_empty() {
            return Err(Refusal::new("invalid-value", "Field `msg` has no text in it."));
        }
        Ok(Notification {
            subject: format!("Doorbell {}", event.thing),
            message,
            data: None,
            attributes: vec![
                ("thing", Attribute::Text(event.thing.to_string())),
                ("eventId", Attribute::Text(event.id.to_string())),
                // Somebody is waiting at the door; Promotional, the default, may come late.
                ("AWS.SNS.SMS.SMSType", Attribute::Text("Transactional".to_owned())),
                ("AWS.SNS.SMS.SenderID", Attribute::Text(self.sender_name.clone())),
            ],
        })
    }
}

impl EventHandler for Doorbell {
    type Input = DeviceEvent;
    type Error = Error;

    async fn handle(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Error> {
        let notification = self.notification(event)?;
        let ring = Ring { event_id: event.id.to_string(), received_at: event.received_at };
        let held = match self.ledger.claim(event.thing.as_str(), ring, invocation).await? {
            Claimed::Held(held) => held,
            Claimed::AlreadyTold => {
                invocation.count("Duplicate");
                return Ok(());
            }
            Claimed::Quiet => {
                invocation.count("Quieted");
                return Ok(());
            }
        };
        let told = self.topic.publish(notification);
        run_claimed(held.id(), invocation, told, self.ledger.mark_told(&held, invocation), self.ledger.release(&held, invocation)).await?;
        invocation.count("Told");
        Ok(())
    }
}
