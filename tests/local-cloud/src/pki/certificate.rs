//! Certificates of devices.

use std::fmt;
use std::time::SystemTime;

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

use super::{DAY, KeyType, hex};
use crate::device::Identity;

/// The content of a device's certificate. [`CertificateSpec::named`] is valid; tests change single fields of it.
#[derive(Debug, Clone)]
pub struct CertificateSpec {
    /// The subject's common name; `None` for an empty subject.
    pub common_name: Option<String>,
    /// Start of the validity period.
    pub not_before: SystemTime,
    /// End of the validity period.
    pub not_after: SystemTime,
    /// Whether it is marked as a CA certificate.
    pub is_ca: bool,
    /// The type of the device's key.
    pub key: KeyType,
    /// The key usages; no extension if empty.
    pub key_usage: Vec<KeyUsagePurpose>,
    /// The extended key usages; no extension if empty.
    pub extended_key_usage: Vec<ExtendedKeyUsagePurpose>,
    /// Whether it has an unknown critical extension.
    pub has_unknown_critical_extension: bool,
    /// The serial number; derived from the key if `None`.
    pub serial: Option<Vec<u8>>,
    /// The issuer's common name; the CA's if `None`.
    pub issuer: Option<String>,
}

impl CertificateSpec {
    /// Returns a valid one: P-256, one year, for client authentication.
    pub fn named(common_name: impl Into<String>) -> Self {
        let now = SystemTime::now();
        Self {
            common_name: Some(common_name.into()),
            not_before: now - DAY,
            not_after: now + 365 * DAY,
            is_ca: false,
            key: KeyType::P256,
            key_usage: vec![KeyUsagePurpose::DigitalSignature],
            extended_key_usage: vec![ExtendedKeyUsagePurpose::ClientAuth],
            has_unknown_critical_extension: false,
            serial: None,
            issuer: None,
        }
    }
}

/// A signed certificate and its key.
#[derive(Clone)]
pub struct IssuedCertificate {
    /// Its AWS IoT certificate id: the SHA-256 digest of its DER, in lower-case hex.
    pub id: String,
    /// The certificate, in DER.
    pub der: Vec<u8>,
    /// The certificate, in PEM.
    pub pem: String,
    /// Its key, in PEM.
    pub key: String,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// The certificate of its CA, in PEM.
    pub ca: String,
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCertificate")
            .field("id", &self.id)
            .field("serial", &hex(&self.serial))
            .finish_non_exhaustive()
    }
}

impl IssuedCertificate {
    /// Returns the identity of a device with this client id. It includes the CA's certificate, which AWS IoT needs
    /// when the device's certificate is new.
    pub fn identity(&self, client_id: &str) -> Identity {
        Identity { thing: client_id.to_owned(), certificate: format!("{}{}", self.pem, self.ca), key: self.key.clone() }
    }
}
