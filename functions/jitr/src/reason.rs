//! Why a device is turned away. That is the function's answer, not an error of it.

use aws_sdk_iot::types::CertificateStatus;

/// Why a certificate is not admitted: for each a code for machines and a sentence for people. Neither repeats what the
/// certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is not X.509 that can be read.
    #[error("The certificate cannot be read: {0}.")]
    Malformed(String),
    /// Its DER is followed by something.
    #[error("Bytes follow the certificate's DER.")]
    TrailingBytes,
    /// It is not the CA's: another issuer is named.
    #[error("The certificate names another issuer than the CA that it is registered under.")]
    IssuerMismatch,
    /// It is not the CA's: another key signed it.
    #[error("The CA's key did not sign the certificate.")]
    BadSignature,
    /// Nobody here can tell.
    #[error("The certificate cannot be verified: {0}.")]
    UnsupportedAlgorithm(String),
    /// Its validity has not begun.
    #[error("The certificate is not valid yet.")]
    NotYetValid,
    /// Its validity has ended.
    #[error("The certificate has expired.")]
    Expired,
    /// It could sign others.
    #[error("The certificate is a CA's, not a device's.")]
    IsACa,
    /// It is for something else.
    #[error("The certificate is not for client authentication: its {0} does not allow it.")]
    KeyUsage(&'static str),
    /// It says something that must be understood and is not.
    #[error("The certificate has a critical extension that is not understood: {0}.")]
    UnknownCriticalExtension(String),
    /// Its key can be broken.
    #[error("The device's key is too weak: {0}.")]
    WeakKey(String),
    /// The CA took it back.
    #[error("The certificate is on the CA's revocation list.")]
    RevokedByCrl,
    /// The CA has no list, and must have one.
    #[error("The CA has published no revocation list, and one is required.")]
    NoCrl,
    /// It was admitted by a list that has been replaced by one that says nothing.
    #[error("The CA's revocation list could not be relied on any longer: {0}.")]
    CrlUnclear(String),
    /// A signature can be written in more than one way, and each way gives the certificate another id. What is decided
    /// about one must not be undone by the next.
    #[error("The certificate is known already, with its signature written in another way.")]
    AnotherEncoding,
    /// Its subject does not name a thing.
    #[error("The subject must have one common name, of 1 to 128 of the characters a-z A-Z 0-9 : _ -.")]
    BadThingName,
    /// Its subject names a thing that the operator does not expect.
    #[error("The common name does not match the pattern that things' names must match.")]
    NamePattern,
    /// Another certificate is active for this thing.
    #[error("Another certificate is active for the thing of this name.")]
    NameTaken,
    /// The CA is not in use.
    #[error("The CA is not active.")]
    CaInactive,
    /// The CA's own time is over.
    #[error("The CA's own certificate is not valid now.")]
    CaExpired,
    /// The CA is shut.
    #[error("The CA is blocked.")]
    CaBlocked,
    /// The certificate itself is shut.
    #[error("The certificate is blocked.")]
    Blocked,
}

impl Reason {
    /// The code for machines, in kebab case. It never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed-certificate",
            Self::TrailingBytes => "trailing-bytes",
            Self::IssuerMismatch => "issuer-mismatch",
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
            Self::BadThingName => "bad-thing-name",
            Self::NamePattern => "name-pattern",
            Self::NameTaken => "name-taken",
            Self::CaInactive => "ca-inactive",
            Self::CaExpired => "ca-expired",
            Self::CaBlocked => "ca-blocked",
            Self::Blocked => "blocked",
        }
    }

    /// The status that the certificate is given, so that it stops knocking: the operator's choice, but never REVOKED
    /// where nobody could tell whether it is good.
    pub fn status(&self, chosen: &CertificateStatus) -> CertificateStatus {
        match self {
            Self::UnsupportedAlgorithm(_) | Self::CrlUnclear(_) => CertificateStatus::Inactive,
            _ => chosen.clone(),
        }
    }
}
