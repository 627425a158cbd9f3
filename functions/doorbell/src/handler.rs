use gatehouse::{
    Attribute, DeviceEvent, Environment, EventHandler, Failure, InitError, Invocation, Notification, Refusal, Setup,
    Topic, run_claimed,
};
use serde::Deserialize;

use crate::debounce::Ring;
use crate::ring_table::{Claimed, RingTable};
use crate::sms;

/// The maximum size of a ring. They have about 100 bytes; this leaves room for a long text, which is then truncated.
const MAX_PAYLOAD_BYTES: usize = 8 * 1024;

/// The payload of a doorbell, in the format of AWS IoT ELF. Its `ts` comes from the device's own clock and is ignored.
#[derive(Debug, Deserialize)]
struct Payload {
    msg: String,
}

/// Sends one text message per doorbell and debounce window.
#[derive(Debug)]
pub struct DoorbellHandler {
    topic: Topic,
    rings: RingTable,
    sender_name: String,
}

impl DoorbellHandler {
    /// Assembles the handler during INIT.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let rings = RingTable::from_environment(setup.environment(), setup.dynamodb(), setup.function())?;
        Self::from_environment(setup.environment(), Topic::connect(setup).await?, rings)
    }

    /// Reads `SENDER_NAME` (1 to 10 letters and digits, default `DOORBELL`). It is the topic's display name, whose
    /// first ten characters SNS puts before each text message, and the sender ID in countries that support one.
    pub fn from_environment(environment: &Environment, topic: Topic, rings: RingTable) -> Result<Self, InitError> {
        let sender_name: String = environment.optional("SENDER_NAME")?.unwrap_or_else(|| "DOORBELL".to_owned());
        let starts_with_letter = sender_name.starts_with(|first: char| first.is_ascii_alphabetic());
        if !starts_with_letter || sender_name.len() > 10 || !sender_name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            let why = "it must be 1 to 10 letters and digits, starting with a letter";
            return Err(Environment::invalid("SENDER_NAME", sender_name, &why));
        }
        Ok(Self { topic, rings, sender_name })
    }

    fn notification(&self, event: &DeviceEvent) -> Result<Notification, Refusal> {
        let Payload { msg } = event.payload(MAX_PAYLOAD_BYTES)?;
        let message = sms::truncate(&sms::prefix(&self.sender_name), &msg);
        if message.is_empty() {
            return Err(Refusal::new("invalid-value", "Field `msg` must contain text."));
        }
        Ok(Notification {
            subject: format!("Doorbell {}", event.thing),
            message,
            data: None,
            attributes: vec![
                ("thing", Attribute::Text(event.thing.to_string())),
                ("eventId", Attribute::Text(event.id.to_string())),
                // Somebody is waiting at the door, and promotional messages, the default, may be delayed.
                ("AWS.SNS.SMS.SMSType", Attribute::Text("Transactional".to_owned())),
                ("AWS.SNS.SMS.SenderID", Attribute::Text(self.sender_name.clone())),
            ],
        })
    }
}

impl EventHandler for DoorbellHandler {
    type Input = DeviceEvent;
    type Error = Failure;

    async fn handle(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Failure> {
        let notification = self.notification(event)?;
        let ring = Ring { event_id: event.id.to_string(), received_at: event.received_at };
        let metric = match self.rings.claim(&event.thing, ring, invocation).await? {
            Claimed::Acquired(claim) => {
                let publish = self.topic.publish(notification);
                let complete = self.rings.mark_sent(&claim, invocation);
                let release = self.rings.release(&claim, invocation);
                run_claimed(claim.id(), invocation, publish, complete, release).await?;
                "Notified"
            }
            Claimed::Duplicate => "Duplicate",
            Claimed::Suppressed => "Suppressed",
        };
        invocation.count(metric);
        Ok(())
    }
}
