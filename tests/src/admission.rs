//! What the devices table says of a device's certificate: whether it was admitted, and why not.

use std::collections::HashMap;

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iot::operation::describe_certificate::DescribeCertificateError;
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use crate::aws::Clients;
use crate::observe::{Arrived, Effect, Timed};

/// How often the table is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// The topics of the events that tell of a certificate that is new to AWS IoT; the last level is its authority's id.
pub const REGISTERED: &str = "$aws/events/certificates/registered/";

/// The id of the certificate that such an event is about.
pub fn certificate_of(event: &Arrived) -> Option<String> {
    if !event.topic.starts_with(REGISTERED) {
        return None;
    }
    let event: Value = serde_json::from_slice(&event.payload).ok()?;
    Some(event.get("certificateId")?.as_str()?.to_owned())
}

/// The function's record of one certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// How far it is: `admitting`, `admitted`, `refusing`, `refused`, `found-active` or `revoked`.
    pub state: String,
    /// Why it was refused: the reason's code.
    pub reason: Option<String>,
    /// Why it was refused: a sentence.
    pub why: Option<String>,
    /// The thing that it stands for.
    pub thing: Option<String>,
    /// When this was written, in milliseconds since the epoch.
    pub updated_at: u64,
    /// All of the record.
    pub item: HashMap<String, AttributeValue>,
}

impl Admission {
    /// Whether nothing more will come of the event.
    pub fn is_final(&self) -> bool {
        !matches!(self.state.as_str(), "admitting" | "refusing")
    }

    /// What came of the certificate's first connection; none as long as that is open.
    pub fn effect(self) -> Option<Timed> {
        let text = Option::unwrap_or_default;
        let effect = match self.state.as_str() {
            "admitted" => Effect::Admitted { thing: text(self.thing) },
            "refused" => Effect::TurnedAway { reason: text(self.reason), why: text(self.why) },
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
    /// The table of this name.
    pub fn new(clients: &Clients, devices_table: &str) -> Self {
        Self { clients: clients.clone(), table: devices_table.to_owned() }
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// An item of the table.
    pub async fn item(&self, id: &str, part: &str) -> Result<Option<HashMap<String, AttributeValue>>> {
        let key = |value: &str| AttributeValue::S(value.to_owned());
        let get = self.clients.dynamodb.get_item().table_name(&self.table).consistent_read(true);
        Ok(get.key("id", key(id)).key("part", key(part)).send().await?.item)
    }

    /// The record of a certificate, if there is one.
    pub async fn of(&self, certificate_id: &str) -> Result<Option<Admission>> {
        let item = self.item(&format!("certificate#{certificate_id}"), "admission").await?;
        Ok(item.map(Admission::read))
    }

    /// Waits until the record of a certificate is final, or until the deadline; what it says then.
    pub async fn outcome(&self, certificate_id: &str, deadline: Instant) -> Result<Option<Admission>> {
        loop {
            let found = self.of(certificate_id).await?;
            if found.as_ref().is_some_and(Admission::is_final) || Instant::now() >= deadline {
                return Ok(found);
            }
            sleep(PAUSE).await;
        }
    }

    /// The live status of a certificate in AWS IoT, in its own words; none where AWS IoT does not know it.
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
