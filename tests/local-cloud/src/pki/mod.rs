//! A public key infrastructure for devices: a CA that signs CRLs and certificates, valid ones and every kind of invalid
//! ones.

mod authority;
mod certificate;
mod crl;
mod key;
mod publish;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::time::{Duration, SystemTime};

pub use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use time::OffsetDateTime;

pub use authority::CertificateAuthority;
pub use certificate::{CertificateSpec, IssuedCertificate};
pub use crl::Crl;
pub use key::{KeyType, generate_key_pair};
pub use publish::MAX_CHUNK_BYTES;

const DAY: Duration = Duration::from_hours(24);

/// Returns the AWS IoT id of a certificate: the SHA-256 digest of its DER, in lower-case hex.
pub fn certificate_id(der: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, der).as_ref())
}

/// Formats bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Formats a date as `YYYY-MM-DD`, in UTC.
pub fn day(time: SystemTime) -> String {
    OffsetDateTime::from(time).date().to_string()
}
