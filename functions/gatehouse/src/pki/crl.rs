//! Certificate revocation lists (RFC 5280, section 5).

use std::time::Duration;

use x509_parser::asn1_rs::{Any, FromDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_CRL_NUMBER,
    OID_X509_EXT_DELTA_CRL_INDICATOR, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use crate::event::timestamp::Timestamp;
use crate::pki::certificate::{CaCertificate, Serial, SignatureError, is_canonical, timestamp};

/// The maximum size of a CRL in bytes, enough for about 100,000 certificates. Parsing takes about ten times as much
/// memory.
pub const MAX_CRL_BYTES: usize = 4 * 1024 * 1024;

/// A CRL whose signature has been verified.
#[derive(Debug)]
pub struct Crl {
    /// Its number, as 40 hexadecimal digits, so that the text sorts like the number.
    pub number: String,
    /// When a newer one must have been published at the latest.
    pub next_update: Timestamp,
    /// When it was issued.
    pub this_update: Timestamp,
    /// The names of its distribution point; empty if it covers all certificates.
    distribution_points: Vec<String>,
    /// Sorted.
    serials: Vec<Serial>,
}

/// Why a CRL cannot be trusted. A certificate then has to wait; it is neither admitted nor rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// It has more than [`MAX_CRL_BYTES`] bytes.
    #[error("the CRL has {0} bytes; the limit is {MAX_CRL_BYTES}")]
    TooLarge(usize),
    /// It is neither DER nor PEM of a CRL, or is followed by something else.
    #[error("the CRL is neither valid DER nor valid PEM")]
    Malformed,
    /// Another CA issued it.
    #[error("the CRL was issued by another CA")]
    AnotherIssuer,
    /// Its signature is not accepted.
    #[error("the CRL is not trusted: {0}")]
    Signature(#[from] SignatureError),
    /// The CA's certificate does not allow its key to sign CRLs.
    #[error("the CA may not sign CRLs: its key usage lacks cRLSign")]
    IssuerMayNotSign,
    /// It does not say when a newer one will be published.
    #[error("the CRL has no nextUpdate")]
    NoNextUpdate,
    /// It has no number, or one of more than 20 bytes.
    #[error("the CRL must have a number of at most 20 bytes")]
    NoNumber,
    /// It is a delta, or has another extension that must not be ignored.
    #[error("the CRL has a critical extension that is not supported: {0}")]
    CriticalExtension(String),
    /// It does not cover all device certificates, or covers those of other CAs too.
    #[error("the CRL does not cover all certificates of devices: its issuing distribution point says so")]
    Partial,
    /// It covers only certificates that name another distribution point.
    #[error("the CRL is for certificates with another distribution point")]
    AnotherDistributionPoint,
    /// It is dated in the future.
    #[error("the CRL is not valid yet")]
    NotYetValid,
    /// A newer one should have been published.
    #[error("the CRL has expired: its nextUpdate has passed")]
    Expired,
}

impl Crl {
    /// Parses a CRL of this CA, in DER or PEM, and verifies its signature. Does not check that it is current: see
    /// [`Self::check_current`].
    pub fn parse(bytes: &[u8], ca: &CaCertificate) -> Result<Self, CrlError> {
        if bytes.len() > MAX_CRL_BYTES {
            return Err(CrlError::TooLarge(bytes.len()));
        }
        if !bytes.starts_with(b"-----") {
            return Self::parse_der(bytes, ca);
        }
        match parse_x509_pem(bytes) {
            Ok((rest, pem)) if pem.label == "X509 CRL" && rest.iter().all(u8::is_ascii_whitespace) => {
                Self::parse_der(&pem.contents, ca)
            }
            _ => Err(CrlError::Malformed),
        }
    }

    fn parse_der(der: &[u8], ca: &CaCertificate) -> Result<Self, CrlError> {
        let (rest, crl) = CertificateRevocationList::from_der(der).map_err(|_| CrlError::Malformed)?;
        if !rest.is_empty() || !is_canonical(der, crl.tbs_cert_list.as_ref(), &crl.signature_value) {
            return Err(CrlError::Malformed);
        }
        if !ca.is_named(crl.issuer()) {
            return Err(CrlError::AnotherIssuer);
        }
        ca.verify(&crl.signature_algorithm, &crl.signature_value, crl.tbs_cert_list.as_ref())?;

        if !ca.may_sign_crls() {
            return Err(CrlError::IssuerMayNotSign);
        }

        let extensions = crl.tbs_cert_list.extensions_map().map_err(|_| CrlError::Malformed)?;
        let distribution_points = match extensions.get(&OID_X509_EXT_ISSUER_DISTRIBUTION_POINT) {
            Some(point) => covered_points(point)?,
            None => Vec::new(),
        };
        let supported =
            [OID_X509_EXT_CRL_NUMBER, OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT];
        let list_extensions = extensions.into_values().filter(|extension| !supported.contains(&extension.oid));
        let entry_extensions = crl.iter_revoked_certificates().flat_map(RevokedCertificate::iter_extensions);
        // A delta CRL is a partial list, even if its indicator is not marked as critical.
        let matters =
            |extension: &&X509Extension<'_>| extension.critical || extension.oid == OID_X509_EXT_DELTA_CRL_INDICATOR;
        if let Some(unsupported) = list_extensions.chain(entry_extensions).find(matters) {
            return Err(CrlError::CriticalExtension(unsupported.oid.to_id_string()));
        }

        let number = crl.crl_number().map(|number| format!("{number:040x}")).filter(|digits| digits.len() == 40);
        // The reason for revocation does not matter: a certificate on hold is not accepted either.
        let mut serials: Vec<_> =
            crl.iter_revoked_certificates().map(|entry| Serial::new(entry.raw_serial())).collect();
        serials.sort_unstable();
        Ok(Self {
            number: number.ok_or(CrlError::NoNumber)?,
            next_update: crl.next_update().map(timestamp).ok_or(CrlError::NoNextUpdate)?,
            this_update: timestamp(crl.last_update()),
            distribution_points,
            serials,
        })
    }

    /// Checks that the CRL is current. `skew` is how far the CA's clock may be ahead.
    pub fn check_current(&self, now: Timestamp, skew: Duration) -> Result<(), CrlError> {
        if self.this_update > now.plus(skew) {
            Err(CrlError::NotYetValid)
        } else if self.next_update <= now {
            Err(CrlError::Expired)
        } else {
            Ok(())
        }
    }

    /// The number of certificates on the list.
    pub fn count(&self) -> usize {
        self.serials.len()
    }

    /// Checks that the CRL covers a certificate with these distribution points (RFC 5280, section 6.3.3 b). A
    /// certificate without any is covered: its CA has only one list.
    pub fn check_covers(&self, distribution_points: &[String]) -> Result<(), CrlError> {
        let Self { distribution_points: ours, .. } = self;
        let is_covered = ours.is_empty()
            || distribution_points.is_empty()
            || distribution_points.iter().any(|point| ours.contains(point));
        if is_covered { Ok(()) } else { Err(CrlError::AnotherDistributionPoint) }
    }

    /// Whether the CA has revoked the certificate with this serial number.
    pub fn lists(&self, serial: &Serial) -> bool {
        self.serials.binary_search(serial).is_ok()
    }
}

/// Returns the names of a CRL's distribution point. The CRL must cover all device certificates there.
fn covered_points(extension: &X509Extension<'_>) -> Result<Vec<String>, CrlError> {
    // Tags 0 and 1 are `distributionPoint` and `onlyContainsUserCerts`. Later ones exclude certificates or add others.
    const LAST_SUPPORTED_TAG: u32 = 1;
    let (_, fields) = Any::from_der(extension.value).map_err(|_| CrlError::Malformed)?;
    let mut rest = fields.data;
    while !rest.is_empty() {
        let (after, field) = Any::from_der(rest).map_err(|_| CrlError::Malformed)?;
        if field.tag().0 > LAST_SUPPORTED_TAG {
            return Err(CrlError::Partial);
        }
        rest = after;
    }
    let ParsedExtension::IssuingDistributionPoint(point) = extension.parsed_extension() else {
        return Err(CrlError::Malformed);
    };
    match &point.distribution_point {
        None => Ok(Vec::new()),
        Some(DistributionPointName::FullName(names)) => Ok(names.iter().map(GeneralName::to_string).collect()),
        Some(DistributionPointName::NameRelativeToCRLIssuer(_)) => Err(CrlError::Partial),
    }
}

/// Returns the names of a certificate's distribution points, where its CRLs are published.
pub fn distribution_points(certificate: &X509Certificate<'_>) -> Vec<String> {
    let is_sought = |extension: &&X509Extension<'_>| extension.oid == OID_X509_EXT_CRL_DISTRIBUTION_POINTS;
    let found = certificate.extensions().iter().find(is_sought).map(X509Extension::parsed_extension);
    let Some(ParsedExtension::CRLDistributionPoints(points)) = found else { return Vec::new() };
    let names = points.iter().flat_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => names.as_slice(),
        _ => &[],
    });
    names.map(GeneralName::to_string).collect()
}
