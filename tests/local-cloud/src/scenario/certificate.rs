//! The certificate that a device of a scenario connects with.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use serde::Deserialize;

use crate::pki::{CertificateSpec, ExtendedKeyUsagePurpose, KeyType, KeyUsagePurpose};

/// The certificate to connect with.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Connect {
    /// A new certificate.
    Certificate(CertificateOptions),
    /// The certificate of the thing's previous connection.
    Again,
}

/// How a certificate differs from a valid one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of its own in the file")]
pub struct CertificateOptions {
    /// The subject's common name; defaults to the thing's name.
    pub common_name: Option<String>,
    not_before_days: Option<f64>,
    not_after_days: Option<f64>,
    /// Whether the certificate is marked as a CA certificate.
    pub ca: bool,
    /// The type of the device's key.
    pub key: Option<KeyType>,
    key_usage: Option<Vec<KeyUsage>>,
    extended_key_usage: Option<Vec<ExtendedKeyUsage>>,
    /// Whether it has an unknown critical extension.
    pub unknown_critical_extension: bool,
    /// Whether it is signed by a CA that AWS IoT does not know, with the same name as the registered one.
    pub signed_by_unknown_ca: bool,
    /// Whether it is on the CA's CRL.
    pub revoked: bool,
}

/// An X.509 key usage.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum KeyUsage {
    DigitalSignature,
    KeyEncipherment,
    KeyAgreement,
    KeyCertSign,
    CrlSign,
}

/// An X.509 extended key usage.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ExtendedKeyUsage {
    ClientAuth,
    ServerAuth,
    CodeSigning,
    Any,
}

/// Maximum distance of a validity date from now, in days.
const MAX_DAYS: f64 = 36_500.0;

impl CertificateOptions {
    /// Returns the specification of this thing's certificate.
    pub fn spec(&self, thing: &str) -> CertificateSpec {
        let mut spec = CertificateSpec::named(self.common_name.as_deref().unwrap_or(thing));
        if let Some(days) = self.not_before_days {
            spec.not_before = in_days(days);
        }
        if let Some(days) = self.not_after_days {
            spec.not_after = in_days(days);
        }
        spec.is_ca = self.ca;
        spec.key = self.key.unwrap_or(spec.key);
        if let Some(usages) = &self.key_usage {
            spec.key_usage = usages.iter().map(|usage| (*usage).into()).collect();
        }
        if let Some(usages) = &self.extended_key_usage {
            spec.extended_key_usage = usages.iter().map(|usage| (*usage).into()).collect();
        }
        spec.has_unknown_critical_extension = self.unknown_critical_extension;
        spec
    }

    pub(super) fn validate(&self) -> Result<()> {
        for (name, days) in [("notBeforeDays", self.not_before_days), ("notAfterDays", self.not_after_days)] {
            let is_in_range = days.is_none_or(|days| days.abs() <= MAX_DAYS);
            ensure!(is_in_range, "connect.certificate.{name}: must be between -{MAX_DAYS} and {MAX_DAYS}");
        }
        ensure!(
            self.not_before_days.unwrap_or(-1.0) < self.not_after_days.unwrap_or(365.0),
            "connect.certificate.notAfterDays: must be later than notBeforeDays, which defaults to -1"
        );
        Ok(())
    }
}

/// Returns the time this number of days from now; negative numbers are in the past.
fn in_days(days: f64) -> SystemTime {
    let distance = Duration::try_from_secs_f64(days.abs() * 86_400.0).unwrap_or_default();
    if days < 0.0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

impl From<KeyUsage> for KeyUsagePurpose {
    fn from(usage: KeyUsage) -> Self {
        match usage {
            KeyUsage::DigitalSignature => Self::DigitalSignature,
            KeyUsage::KeyEncipherment => Self::KeyEncipherment,
            KeyUsage::KeyAgreement => Self::KeyAgreement,
            KeyUsage::KeyCertSign => Self::KeyCertSign,
            KeyUsage::CrlSign => Self::CrlSign,
        }
    }
}

impl From<ExtendedKeyUsage> for ExtendedKeyUsagePurpose {
    fn from(usage: ExtendedKeyUsage) -> Self {
        match usage {
            ExtendedKeyUsage::ClientAuth => Self::ClientAuth,
            ExtendedKeyUsage::ServerAuth => Self::ServerAuth,
            ExtendedKeyUsage::CodeSigning => Self::CodeSigning,
            ExtendedKeyUsage::Any => Self::Any,
        }
    }
}
