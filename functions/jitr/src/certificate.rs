//! Validation of a device's certificate, without I/O or clock.

use std::time::Duration;

use gatehouse::pki::{
    CaCertificate, CertificateError, CommonNameError, Serial, SignatureError, algorithm_name, common_name, curve,
    distribution_points, parse_certificate, rsa_bits, timestamp,
};
use gatehouse::{ThingName, Timestamp};
use regex_lite::Regex;
use ring::digest;
use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::error::X509Error;
use x509_parser::extensions::{KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::rejection::RejectionReason;

/// The smallest RSA key that a device may have, in bits.
const MIN_RSA_BITS: usize = 2048;

/// A device's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCertificate {
    /// Its serial number.
    pub serial: Serial,
    /// Its issuer's name, as text.
    pub issuer: String,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// The SHA-256 digest of the content that the CA signed, as 64 hexadecimal digits. Unlike the certificate's id, it
    /// does not depend on how the signature is encoded.
    pub signed_digest: String,
    /// The names of its CRL distribution points.
    pub distribution_points: Vec<String>,
    /// The subject's only common name.
    common_name: Result<String, CommonNameError>,
}

impl DeviceCertificate {
    /// Parses a certificate, and validates it against the CA that it is registered under. `skew` is the allowed
    /// difference between the clocks of the CA and AWS.
    pub fn validate(der: &[u8], ca: &CaCertificate, now: Timestamp, skew: Duration) -> Result<Self, RejectionReason> {
        let certificate = parse_certificate(der).map_err(|error| match error {
            CertificateError::TrailingBytes => RejectionReason::TrailingBytes,
            other => RejectionReason::Malformed(other.to_string()),
        })?;
        check_issuer(&certificate, ca)?;
        let validity = certificate.validity();
        if timestamp(validity.not_before) > now.plus(skew) {
            return Err(RejectionReason::NotYetValid);
        }
        if timestamp(validity.not_after).plus(skew) < now {
            return Err(RejectionReason::Expired);
        }
        check_extensions(&certificate)?;
        check_key(certificate.public_key())?;
        Ok(Self::from_parsed(&certificate))
    }

    /// Parses a certificate without validating it, for the record of a rejected one.
    pub fn parse_unverified(der: &[u8]) -> Option<Self> {
        parse_certificate(der).ok().map(|certificate| Self::from_parsed(&certificate))
    }

    fn from_parsed(certificate: &X509Certificate<'_>) -> Self {
        Self {
            serial: Serial::new(certificate.raw_serial()),
            issuer: certificate.issuer().to_string(),
            not_after: timestamp(certificate.validity().not_after),
            signed_digest: sha256_hex(certificate.tbs_certificate.as_ref()),
            distribution_points: distribution_points(certificate),
            common_name: common_name(certificate.subject()),
        }
    }

    /// Returns the thing that the common name names. The whole name must also match the operator's pattern.
    pub fn thing(&self, pattern: &Regex) -> Result<ThingName, RejectionReason> {
        let name = self.common_name.as_ref().map_err(|error| RejectionReason::NoThingName(*error))?;
        let name = ThingName::new(name.as_str()).map_err(|_| RejectionReason::BadThingName)?;
        if pattern.is_match(name.as_str()) { Ok(name) } else { Err(RejectionReason::NamePattern) }
    }

    /// The common name, if it is a valid thing name.
    pub fn thing_name(&self) -> Option<ThingName> {
        self.common_name.as_deref().ok().and_then(|name| ThingName::new(name).ok())
    }
}

/// Checks that the CA issued the certificate: by its name, byte for byte, and by its key.
fn check_issuer(certificate: &X509Certificate<'_>, ca: &CaCertificate) -> Result<(), RejectionReason> {
    let signed = certificate.tbs_certificate.as_ref();
    let verified = ca.verify(&certificate.signature_algorithm, &certificate.signature_value, signed);
    match (verified, ca.is_named(certificate.issuer())) {
        (Ok(()), true) => Ok(()),
        (Ok(()), false) => Err(RejectionReason::IssuerSpelling),
        (Err(error @ SignatureError::UnsupportedAlgorithm(_)), _) => {
            Err(RejectionReason::UnsupportedAlgorithm(error.to_string()))
        }
        (Err(SignatureError::Invalid), true) => Err(RejectionReason::BadSignature),
        (Err(SignatureError::Invalid), false) => Err(RejectionReason::IssuerMismatch),
    }
}

/// Checks that the certificate's extensions, if it has any, allow a device to authenticate with it.
fn check_extensions(certificate: &TbsCertificate<'_>) -> Result<(), RejectionReason> {
    let malformed = |error: X509Error| RejectionReason::Malformed(error.to_string());
    let all = certificate.extensions_map().map_err(malformed)?;
    // Alternative names are ignored: a thing is named by the common name.
    let supported = [
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME,
    ];
    for (oid, extension) in all {
        if extension.critical && !supported.contains(&oid) {
            return Err(RejectionReason::UnknownCriticalExtension(oid.to_id_string()));
        }
        if supported.contains(&oid) && matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) {
            return Err(RejectionReason::Malformed(format!("its extension {oid} cannot be parsed")));
        }
    }
    let key_usage = certificate.key_usage().map_err(malformed)?.map(|found| found.value);
    let is_ca = certificate.basic_constraints().map_err(malformed)?.is_some_and(|found| found.value.ca);
    if is_ca || key_usage.is_some_and(KeyUsage::key_cert_sign) {
        return Err(RejectionReason::IsACa);
    }
    if key_usage.is_some_and(|usage| !usage.digital_signature()) {
        return Err(RejectionReason::KeyUsage("key usage"));
    }
    let extended = certificate.extended_key_usage().map_err(malformed)?.map(|found| found.value);
    if extended.is_some_and(|usage| !usage.client_auth && !usage.any) {
        return Err(RejectionReason::KeyUsage("extended key usage"));
    }
    Ok(())
}

fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), RejectionReason> {
    let malformed = |what: &str| RejectionReason::Malformed(what.to_owned());
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = rsa_bits(&rsa);
            // A negative exponent, or one of more than 64 bits, counts as 0: no library generates such keys.
            let exponent = rsa.try_exponent().unwrap_or_default();
            if bits < MIN_RSA_BITS {
                Err(RejectionReason::WeakKey(format!("RSA of {bits} bits")))
            } else if exponent < 3 || exponent % 2 == 0 {
                Err(RejectionReason::WeakKey(
                    "RSA with a public exponent that is not an odd number of at least 3".to_owned(),
                ))
            } else {
                Ok(())
            }
        }
        Ok(PublicKey::EC(point)) => {
            let unsupported = RejectionReason::UnsupportedAlgorithm;
            let curve = curve(key).ok_or_else(|| unsupported("its key names no curve".to_owned()))?;
            let bytes = [(OID_EC_P256, 32), (OID_NIST_EC_P384, 48), (OID_NIST_EC_P521, 66)];
            let Some((_, bytes)) = bytes.into_iter().find(|(oid, _)| *oid == curve) else {
                return Err(unsupported(format!("its key is on the curve {}", algorithm_name(&curve))));
            };
            // Uncompressed, as TLS requires, or compressed.
            match point.data() {
                [4, coordinates @ ..] if coordinates.len() == 2 * bytes => Ok(()),
                [2 | 3, coordinate @ ..] if coordinate.len() == bytes => Ok(()),
                _ => Err(malformed("its key is not a point on its curve")),
            }
        }
        Ok(_) => {
            let name = algorithm_name(&key.algorithm.algorithm);
            Err(RejectionReason::UnsupportedAlgorithm(format!("its key is for {name}")))
        }
        Err(_) => Err(malformed("its key cannot be parsed")),
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
