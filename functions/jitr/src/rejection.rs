//! Why a device is rejected, which is a result of the function, not an error.

use gatehouse::pki::{CaError, CommonNameError};
use iot_registry::CertificateStatus;

/// Why a certificate is not admitted, with a code for machines and a sentence for people. Neither repeats what the
/// certificate says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectionReason {
    /// It is not a valid X.509 certificate.
    #[error("The certificate cannot be parsed: {0}.")]
    Malformed(String),
    /// Its DER is followed by other bytes.
    #[error("There are bytes after the certificate's DER.")]
    TrailingBytes,
    /// It names another issuer.
    #[error("The certificate's issuer is not the CA that it is registered under.")]
    IssuerMismatch,
    /// The CA's key signed it, but it names the CA with other bytes, such as another string type.
    #[error("The certificate was signed with the CA's key, but its issuer is not spelled as in the CA's certificate.")]
    IssuerSpelling,
    /// Another key signed it.
    #[error("The certificate was not signed with the CA's key.")]
    BadSignature,
    /// It may be valid, but its algorithms are not supported.
    #[error("The certificate cannot be verified: {0}.")]
    UnsupportedAlgorithm(String),
    /// Its validity has not begun.
    #[error("The certificate is not valid yet.")]
    NotYetValid,
    /// Its validity has ended.
    #[error("The certificate has expired.")]
    Expired,
    /// It could sign other certificates.
    #[error("The certificate belongs to a CA, not to a device.")]
    IsACa,
    /// It is not for client authentication.
    #[error("The certificate is not for client authentication: its {0} does not allow it.")]
    KeyUsage(&'static str),
    /// It has an extension that must not be ignored.
    #[error("The certificate has a critical extension that is not supported: {0}.")]
    UnknownCriticalExtension(String),
    /// Its key can be broken.
    #[error("The device's key is too weak: {0}.")]
    WeakKey(String),
    /// The CA has revoked it.
    #[error("The certificate is on the CA's revocation list.")]
    RevokedByCrl,
    /// The CA has no CRL, and must have one.
    #[error("The CA has not published a revocation list, and one is required.")]
    NoCrl,
    /// The CRL was replaced, while the certificate was being admitted, by one that is not usable.
    #[error("The CA's revocation list can no longer be used: {0}.")]
    CrlUnclear(String),
    /// The same signed content is known under another certificate id: a signature can be encoded in several ways, and
    /// each gives the certificate another id. A decision about one of them must hold for all.
    #[error("The same certificate is known already, with another encoding of its signature.")]
    AnotherEncoding,
    /// Its subject has no common name that can be read, or more than one.
    #[error("The subject must have exactly one common name: {0}.")]
    NoThingName(CommonNameError),
    /// Its subject does not name a thing.
    #[error("The common name must have 1 to 128 of the characters a-z A-Z 0-9 : _ - and no others.")]
    BadThingName,
    /// Its subject names a thing that does not match the operator's pattern.
    #[error("The common name does not match the pattern for thing names.")]
    NamePattern,
    /// Another certificate is active for this thing.
    #[error("Another certificate is active for this thing name.")]
    NameTaken,
    /// The CA is not registered, or not active.
    #[error("The CA is not active.")]
    CaInactive,
    /// The CA's own certificate has expired, or is not valid yet.
    #[error("The CA's own certificate is not valid now.")]
    CaExpired,
    /// The CA's own certificate does not allow it to sign certificates, or sets a limit that is not enforced here.
    #[error("The CA cannot be used: {0}.")]
    CaUnusable(#[from] CaError),
    /// `revoke` has blocked the CA.
    #[error("The CA is blocked.")]
    CaBlocked,
    /// `revoke` has blocked the certificate.
    #[error("The certificate is blocked.")]
    Blocked,
}

impl RejectionReason {
    /// The code for machines, in kebab case. It never changes.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed-certificate",
            Self::TrailingBytes => "trailing-bytes",
            Self::IssuerMismatch | Self::IssuerSpelling => "issuer-mismatch",
            Self::BadSignature => "bad-signature",
            Self::UnsupportedAlgorithm(_) => "unsupported-algorithm",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::IsACa => "is-a-ca",
            Self::KeyUsage(_) => "key-usage",
            Self::UnknownCriticalExtension(_) => "unknown-critical-extension",
            Self::WeakKey(_) => "weak-key",
            Self::RevokedByCrl => "revoked-by-crl",
            Self::NoCrl => "no-crl",
            Self::CrlUnclear(_) => "crl-unclear",
            Self::AnotherEncoding => "another-encoding",
            Self::NoThingName(_) | Self::BadThingName => "bad-thing-name",
            Self::NamePattern => "name-pattern",
            Self::NameTaken => "name-taken",
            Self::CaInactive => "ca-inactive",
            Self::CaExpired => "ca-expired",
            Self::CaUnusable(_) => "ca-unusable",
            Self::CaBlocked => "ca-blocked",
            Self::Blocked => "blocked",
        }
    }

    /// Returns the status that the certificate gets, so that the device stops causing events: `INACTIVE` if the
    /// certificate may be valid but is not supported, or conflicts with the configuration or another certificate;
    /// otherwise the status that the operator chose.
    pub fn status(&self, chosen: &CertificateStatus) -> CertificateStatus {
        match self {
            Self::UnsupportedAlgorithm(_)
            | Self::CrlUnclear(_)
            | Self::IssuerSpelling
            | Self::CaUnusable(_)
            | Self::NamePattern
            | Self::NameTaken => CertificateStatus::Inactive,
            _ => chosen.clone(),
        }
    }
}

/// A decision to reject a certificate, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The reason's code.
    pub code: String,
    /// The reason as a sentence.
    pub why: String,
    /// The status that the certificate gets.
    pub status: CertificateStatus,
}

impl Rejection {
    /// The decision for this reason, if the operator chose this status.
    pub fn new(reason: &RejectionReason, chosen: &CertificateStatus) -> Self {
        Self { code: reason.code().to_owned(), why: reason.to_string(), status: reason.status(chosen) }
    }
}
