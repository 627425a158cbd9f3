//! Certificate revocation lists (RFC 5280, section 5): which of a CA's certificates no longer count.

use std::time::Duration;

use x509_parser::asn1_rs::FromDer;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CRL_NUMBER, OID_X509_EXT_DELTA_CRL_INDICATOR,
    OID_X509_EXT_ISSUER_DISTRIBUTION_POINT,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use crate::timestamp::Timestamp;
use crate::x509::{self, Authority, Serial, SignatureError};

/// The largest CRL that is read, in bytes: some 100,000 certificates. Reading takes about ten times as much memory.
pub const LARGEST_CRL: usize = 4 * 1024 * 1024;

/// A CRL that its CA signed.
#[derive(Debug)]
pub struct Crl {
    /// Its number, as 40 hexadecimal digits: text in the order of the numbers.
    pub number: String,
    /// By then there must be a newer one.
    pub next_update: Timestamp,
    this_update: Timestamp,
    /// In order.
    serials: Vec<Serial>,
}

/// Why a CRL cannot be relied on. A certificate is not let through for that; it has to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// It has more than [`LARGEST_CRL`] bytes.
    #[error("the CRL has {0} bytes; at most {LARGEST_CRL} are read")]
    TooLarge(usize),
    /// It is neither DER nor PEM of a CRL, or something follows it.
    #[error("the CRL is neither DER nor PEM that can be read")]
    Malformed,
    /// Another CA issued it.
    #[error("the CRL was issued by another CA")]
    AnotherIssuer,
    /// Its signature does not count.
    #[error("the CRL does not count: {0}")]
    Signature(#[from] SignatureError),
    /// It does not say by when there will be a newer one.
    #[error("the CRL has no nextUpdate")]
    NoNextUpdate,
    /// It has no number, or one of more than 20 bytes.
    #[error("the CRL has no number of at most 20 bytes")]
    NoNumber,
    /// It is a delta, or covers only a part of the certificates, or those of other CAs too.
    #[error("the CRL has a critical extension that is not understood: {0}")]
    CriticalExtension(String),
    /// It was made in the future.
    #[error("the CRL is not valid yet")]
    NotYetValid,
    /// A newer one should be there.
    #[error("the CRL has run out: its nextUpdate has passed")]
    Expired,
}

impl Crl {
    /// Reads a CRL of this CA, in DER or PEM, and verifies its signature. Whether it is current is another question:
    /// [`Self::check_current`].
    pub fn read(bytes: &[u8], authority: &Authority) -> Result<Self, CrlError> {
        if bytes.len() > LARGEST_CRL {
            return Err(CrlError::TooLarge(bytes.len()));
        }
        if !bytes.starts_with(b"-----") {
            return Self::read_der(bytes, authority);
        }
        match parse_x509_pem(bytes) {
            Ok((rest, pem)) if pem.label == "X509 CRL" && rest.iter().all(u8::is_ascii_whitespace) => {
                Self::read_der(&pem.contents, authority)
            }
            _ => Err(CrlError::Malformed),
        }
    }

    fn read_der(der: &[u8], authority: &Authority) -> Result<Self, CrlError> {
        let (rest, crl) = CertificateRevocationList::from_der(der).map_err(|_| CrlError::Malformed)?;
        if !rest.is_empty() || !x509::is_canonical(der, crl.tbs_cert_list.as_ref(), &crl.signature_value) {
            return Err(CrlError::Malformed);
        }
        if !authority.is_named(crl.issuer()) {
            return Err(CrlError::AnotherIssuer);
        }
        authority.verify(&crl.signature_algorithm, &crl.signature_value, crl.tbs_cert_list.as_ref())?;

        let extensions = crl.tbs_cert_list.extensions_map().map_err(|_| CrlError::Malformed)?;
        let understood = [OID_X509_EXT_CRL_NUMBER, OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER];
        // These make less than the whole list of it, also where somebody forgot to mark them as critical.
        let in_part = [OID_X509_EXT_DELTA_CRL_INDICATOR, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT];
        let of_the_list = extensions.into_values().filter(|extension| !understood.contains(&extension.oid));
        let of_entries = crl.iter_revoked_certificates().flat_map(RevokedCertificate::iter_extensions);
        let matters = |extension: &&X509Extension<'_>| extension.critical || in_part.contains(&extension.oid);
        if let Some(unknown) = of_the_list.chain(of_entries).find(matters) {
            return Err(CrlError::CriticalExtension(unknown.oid.to_id_string()));
        }

        let number = crl.crl_number().map(|number| format!("{number:040x}")).filter(|digits| digits.len() == 40);
        // On the list, whatever the reason: a certificate on hold does not count either.
        let mut serials: Vec<_> =
            crl.iter_revoked_certificates().map(|entry| Serial::new(entry.raw_serial())).collect();
        serials.sort_unstable();
        Ok(Self {
            number: number.ok_or(CrlError::NoNumber)?,
            next_update: crl.next_update().map(x509::timestamp).ok_or(CrlError::NoNextUpdate)?,
            this_update: x509::timestamp(crl.last_update()),
            serials,
        })
    }

    /// Whether the CRL may be relied on now. `skew` is how far the CA's clock may be ahead.
    pub fn check_current(&self, now: Timestamp, skew: Duration) -> Result<(), CrlError> {
        if self.this_update > now.plus(skew) {
            Err(CrlError::NotYetValid)
        } else if self.next_update <= now {
            Err(CrlError::Expired)
        } else {
            Ok(())
        }
    }

    /// Whether the CA has revoked the certificate with this serial number.
    pub fn lists(&self, serial: &Serial) -> bool {
        self.serials.binary_search(serial).is_ok()
    }
}
