//! The event that AWS IoT publishes when a device presents a certificate of a registered CA.
//! <https://docs.aws.amazon.com/iot/latest/developerguide/auto-register-device-cert.html>

use gatehouse::pki::CertificateId;
use gatehouse::{DeviceEvent, Refusal};
use serde::Deserialize;

/// The maximum size of an event. They have about 500 bytes; this leaves room for new fields.
const MAX_PAYLOAD_BYTES: usize = 8 * 1024;

const TOPIC: &str = "$aws/events/certificates/registered/";

/// A device has presented a new certificate. Everything else in the event, above all the status, may be out of date and
/// is looked up.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The device's certificate.
    pub certificate: CertificateId,
    /// The CA that it is registered under.
    pub ca: CertificateId,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "certificateId")]
    certificate: String,
    #[serde(rename = "caCertificateId")]
    ca: String,
    #[serde(rename = "awsAccountId")]
    account: String,
}

impl Registration {
    /// Parses an event of this account.
    ///
    /// Refused with the codes of [`DeviceEvent::payload`], `invalid-value`, `another-account` or `topic-mismatch`.
    pub fn parse(event: &DeviceEvent, account: &str) -> Result<Self, Refusal> {
        let payload: Payload = event.payload(MAX_PAYLOAD_BYTES)?;
        let id = |name: &str, text: &str| {
            let why = || format!("Field `{name}` must be 64 hexadecimal digits.");
            CertificateId::new(text).ok_or_else(|| Refusal::new("invalid-value", why()))
        };
        let certificate = id("certificateId", &payload.certificate)?;
        let ca = id("caCertificateId", &payload.ca)?;
        if payload.account != account {
            return Err(Refusal::new("another-account", "Field `awsAccountId` must be the id of this account."));
        }
        if event.topic.strip_prefix(TOPIC) != Some(ca.as_str()) {
            return Err(Refusal::new("topic-mismatch", "The topic must end with the CA in field `caCertificateId`."));
        }
        Ok(Self { certificate, ca })
    }
}
