//! The events of a benchmark.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    aws::{ACCOUNT, REGION},
    batch::{Batch, Size},
    iot::{Device, Registry},
    sqs,
    subject::Peer,
};

/// Prefix of the deployed names.
pub const PREFIX: &str = "gatehouse";
/// The quarantine table.
pub const QUARANTINE_TABLE: &str = "gatehouse-quarantine";
/// The idempotency table.
pub const IDEMPOTENCY_TABLE: &str = "gatehouse-idempotency";
/// The device policy.
pub const DEVICE_POLICY: &str = "gatehouse-device";

/// Returns the name of the queue that triggers a function.
pub fn queue(function: &str) -> String {
    format!("{PREFIX}-{function}")
}

/// Returns the ARN of the topic that a function publishes to.
pub fn topic_arn(function: &str) -> String {
    format!("arn:aws:sns:{REGION}:{ACCOUNT}:{PREFIX}-{function}")
}

/// The data that an event is built from.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    /// The number of the subject's event.
    pub n: usize,
    /// The batch size, for a function that processes batches.
    pub size: Size,
    /// Milliseconds since 1970.
    pub received_at: u64,
    /// The language of the subject.
    pub peer: Peer,
    /// Whether it is the first event of the process.
    pub is_first: bool,
    /// The devices.
    pub registry: &'a Registry,
}

impl Turn<'_> {
    /// Returns a batch of readings.
    pub fn batch(&self) -> Batch {
        Batch::new(self.size, self.n, self.received_at, self.peer.name())
    }

    /// Returns the event id.
    pub fn trace_id(&self) -> String {
        format!("6f1c1d0c-7c5b-4c1e-9a3e-{:012x}", self.n)
    }

    /// Returns the event that a rule builds from a published message.
    pub fn device_event(&self, topic: &str, thing: &str, payload: &Value) -> Value {
        json!({
            "payloadBase64": STANDARD.encode(payload.to_string()),
            "thing": thing,
            "topic": format!("{topic}/{thing}"),
            "clientId": thing,
            "principal": "5f29a6cf2bb0c4cf7a39c4f0a2b9d9d9cb2d9cc5c0a8be0f21a3f4d4e1b1a0c7",
            "traceId": self.trace_id(),
            "receivedAt": self.received_at,
        })
    }

    /// Returns the event that a rule builds from a message that AWS IoT published.
    pub fn system_event(&self, thing: &str, topic: &str, payload: &Value) -> Value {
        json!({
            "payload": payload,
            "thing": thing,
            "topic": topic,
            "traceId": self.trace_id(),
            "receivedAt": self.received_at,
        })
    }

    /// Returns the SQS batch with such an event.
    pub fn system_delivery(&self, function: &str, thing: &str, topic: &str, payload: &Value) -> Value {
        let body = self.system_event(thing, topic, payload);
        let id = self.trace_id().replacen("-7c5b-", "-b21e-", 1);
        sqs::delivery(&[sqs::record(function, &id, self.received_at + 20, &body)])
    }

    /// Returns the event about a new certificate.
    pub fn registered_event(&self, device: &Device) -> Value {
        let payload = json!({
            "certificateId": device.certificate,
            "caCertificateId": device.ca,
            "timestamp": self.received_at,
            "certificateStatus": "PENDING_ACTIVATION",
            "awsAccountId": ACCOUNT,
            "certificateRegistrationTimestamp": self.received_at.to_string(),
        });
        let topic = format!("$aws/events/certificates/registered/{}", device.ca);
        self.system_event(&device.certificate, &topic, &payload)
    }
}
