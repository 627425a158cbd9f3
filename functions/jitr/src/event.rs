//! The message by which AWS IoT tells that a device has presented a certificate of a registered CA.
//! <https://docs.aws.amazon.com/iot/latest/developerguide/auto-register-device-cert.html>

use gatehouse::{CertificateId, DeviceEvent, Refusal};
use serde::Deserialize;

/// A message has about 500 bytes; this leaves room for fields to come.
const PAYLOAD_LIMIT: usize = 8 * 1024;

const TOPIC: &str = "$aws/events/certificates/registered/";

/// A device is at the door. All else that the message says (the status above all) may be old: it is looked up.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The device's certificate.
    pub certificate: CertificateId,
    /// The CA that it was registered under.
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

impl Registered {
    /// Reads the message, which must be about this account.
    ///
    /// Refused with the codes of [`DeviceEvent::payload`], `invalid-value`, `another-account` or `topic-mismatch`.
    pub fn read(event: &DeviceEvent, account: &str) -> Result<Self, Refusal> {
        let payload: Payload = event.payload(PAYLOAD_LIMIT)?;
        let id = |name: &str, text: &str| {
            let why = || format!("Field `{name}` must be 64 hexadecimal digits.");
            CertificateId::new(text).ok_or_else(|| Refusal::new("invalid-value", why()))
        };
        let certificate = id("certificateId", &payload.certificate)?;
        let ca = id("caCertificateId", &payload.ca)?;
        if payload.account != account {
            return Err(Refusal::new("another-account", "Field `awsAccountId` names another account."));
        }
        if event.topic.strip_prefix(TOPIC) != Some(ca.as_str()) {
            return Err(Refusal::new("topic-mismatch", "The topic does not name the CA of field `caCertificateId`."));
        }
        Ok(Self { certificate, ca })
    }
}
