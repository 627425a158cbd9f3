//! The admission records of device certificates in the devices table.

use std::collections::HashMap;

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iot::operation::describe_certificate::DescribeCertificateError;
use serde_json::Value;
use tokio::time::{Duration, sleep};

use crate::aws::Clients;
use crate::observer::{Effect, Observer, PATIENCE, PublishedMessage, Timed, Wait};

/// How often the table is read.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Prefix of the topics on which AWS IoT reports new certificates; the last level is the CA's id.
pub const REGISTERED: &str = "$aws/events/certificates/registered/";

/// Returns the certificate's id if the message reports a new certificate.
pub fn certificate_of(event: &PublishedMessage) -> Option<String> {
    if !event.topic.starts_with(REGISTERED) {
        return None;
    }
    let event: Value = serde_json::from_slice(&event.payload).ok()?;
    Some(event.get("certificateId")?.as_str()?.to_owned())
}

/// The record of one certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// The state: `admitting`, `admitted`, `refusing`, `refused`, `found-active` or `revoked`.
    pub state: String,
    /// The reason code of a refusal.
    pub reason: Option<String>,
    /// The explanation of a refusal.
    pub why: Option<String>,
    /// The thing name.
    pub thing: Option<String>,
    /// When the record was written, in milliseconds since 1970.
    pub updated_at: u64,
    /// The complete record.
    pub item: HashMap<String, AttributeValue>,
}

impl Admission {
    /// Returns whether the state is final.
    pub fn is_final(&self) -> bool {
        !matches!(self.state.as_str(), "admitting" | "refusing")
    }

    /// Returns the outcome of the certificate's first connection, or `None` while it is pending.
    pub fn effect(self) -> Option<Timed> {
        let text = Option::unwrap_or_default;
        let effect = match self.state.as_str() {
            "admitted" => Effect::Admitted { thing: text(self.thing) },
            "refused" => Effect::Rejected { reason: text(self.reason), why: text(self.why) },
            _ => return None,
        };
        Some(Timed { effect, at: self.updated_at })
    }

    fn read(item: HashMap<String, AttributeValue>) -> Self {
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
        let updated_at = item.get("updatedAt").and_then(|value| value.as_n().ok()?.parse().ok()).unwrap_or_default();
        let (state, reason, why) = (text("state").unwrap_or_default(), text("reason"), text("why"));
        Self { state, reason, why, thing: text("thing"), updated_at, item }
    }
}

/// The devices table.
#[derive(Debug, Clone)]
pub struct Admissions {
    clients: Clients,
    table: String,
}

impl Admissions {
    /// Returns the table with this name.
    pub fn new(clients: &Clients, devices_table: &str) -> Self {
        Self { clients: clients.clone(), table: devices_table.to_owned() }
    }

    /// Returns the table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Reads an item by its partition key and sort key.
    pub async fn item(&self, pk: &str, sk: &str) -> Result<Option<HashMap<String, AttributeValue>>> {
        let key = |value: &str| AttributeValue::S(value.to_owned());
        let get = self.clients.dynamodb.get_item().table_name(&self.table).consistent_read(true);
        Ok(get.key("id", key(pk)).key("part", key(sk)).send().await?.item)
    }

    /// Reads the record of a certificate.
    pub async fn get(&self, certificate_id: &str) -> Result<Option<Admission>> {
        let item = self.item(&format!("certificate#{certificate_id}"), "admission").await?;
        Ok(item.map(Admission::read))
    }

    /// Waits until the record of a certificate is final, and returns it. Returns the current record if nothing was
    /// observed for a while.
    pub async fn outcome(&self, certificate_id: &str, observer: &Observer) -> Result<Option<Admission>> {
        let wait = Wait::start(observer, *PATIENCE);
        loop {
            let found = self.get(certificate_id).await?;
            if found.as_ref().is_some_and(Admission::is_final) || wait.is_over() {
                return Ok(found);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the status of a certificate in AWS IoT, or `None` if it is not registered there.
    pub async fn status(&self, certificate_id: &str) -> Result<Option<String>> {
        match self.clients.iot.describe_certificate().certificate_id(certificate_id).send().await {
            Ok(found) => {
                let status = found.certificate_description().and_then(|certificate| certificate.status());
                Ok(status.map(|status| status.as_str().to_owned()))
            }
            Err(error)
                if error.as_service_error().is_some_and(DescribeCertificateError::is_resource_not_found_exception) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
