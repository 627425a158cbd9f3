//! What a device's certificate is worth: its verdict, without I/O or clock.

use std::time::Duration;

use gatehouse::x509::{self, CaCertificate, Serial, SignatureError, Unreadable};
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

use crate::reason::Reason;

/// The smallest RSA key that a device may have, in bits.
const RSA_BITS: usize = 2048;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its serial number.
    pub serial: Serial,
    /// Its issuer, in words.
    pub issuer: String,
    /// The last moment of its validity.
    pub not_after: Timestamp,
    /// The SHA-256 digest of what the CA signed, as 64 hexadecimal digits: the same in whatever other form the signature
    /// is written, which the certificate's id is not.
    pub signed: String,
    /// The subject's common name, where it has exactly one that is text.
    common_name: Option<String>,
}

impl Certificate {
    /// Checks a certificate's DER against the CA that it should come from, at this time. `skew` is how far clocks may
    /// be apart.
    pub fn check(der: &[u8], authority: &CaCertificate, now: Timestamp, skew: Duration) -> Result<Self, Reason> {
        let certificate = x509::certificate(der).map_err(|error| match error {
            Unreadable::TrailingBytes => Reason::TrailingBytes,
            other => Reason::Malformed(other.to_string()),
        })?;
        if !authority.is_named(certificate.issuer()) {
            return Err(Reason::IssuerMismatch);
        }
        signature(&certificate, authority)?;
        let validity = certificate.validity();
        if x509::timestamp(validity.not_before) > now.plus(skew) {
            return Err(Reason::NotYetValid);
        }
        if x509::timestamp(validity.not_after).plus(skew) < now {
            return Err(Reason::Expired);
        }
        extensions(&certificate)?;
        key(certificate.public_key())?;
        Ok(Self::said_by(&certificate))
    }

    /// What a certificate says, whatever it is worth; for the record of one that was turned away.
    pub fn unchecked(der: &[u8]) -> Option<Self> {
        x509::certificate(der).ok().map(|certificate| Self::said_by(&certificate))
    }

    fn said_by(certificate: &X509Certificate<'_>) -> Self {
        Self {
            serial: Serial::new(certificate.raw_serial()),
            issuer: certificate.issuer().to_string(),
            not_after: x509::timestamp(certificate.validity().not_after),
            signed: sha256(certificate.tbs_certificate.as_ref()),
            common_name: common_name(certificate),
        }
    }

    /// The thing that the certificate is for. Its name must match the whole of the operator's pattern too.
    pub fn thing(&self, pattern: &Regex) -> Result<ThingName, Reason> {
        let name = self.thing_name().ok_or(Reason::BadThingName)?;
        if pattern.is_match(name.as_str()) { Ok(name) } else { Err(Reason::NamePattern) }
    }

    /// The common name, where it could be a thing's.
    pub fn thing_name(&self) -> Option<ThingName> {
        self.common_name.clone().and_then(|name| ThingName::new(name).ok())
    }
}

fn signature(certificate: &X509Certificate<'_>, authority: &CaCertificate) -> Result<(), Reason> {
    let signed = certificate.tbs_certificate.as_ref();
    authority.verify(&certificate.signature_algorithm, &certificate.signature_value, signed).map_err(
        |error| match error {
            SignatureError::UnsupportedAlgorithm(_) => Reason::UnsupportedAlgorithm(error.to_string()),
            SignatureError::Invalid => Reason::BadSignature,
        },
    )
}

/// A certificate's extensions say what it is for; it may have none.
fn extensions(certificate: &TbsCertificate<'_>) -> Result<(), Reason> {
    let malformed = |error: X509Error| Reason::Malformed(error.to_string());
    let all = certificate.extensions_map().map_err(malformed)?;
    // What is looked at here. Of alternative names nothing is taken: a thing is named by its common name.
    let understood = [
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME,
    ];
    for (oid, extension) in all {
        if extension.critical && !understood.contains(&oid) {
            return Err(Reason::UnknownCriticalExtension(oid.to_id_string()));
        }
        if understood.contains(&oid) && matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) {
            return Err(Reason::Malformed(format!("its extension {oid} does not parse")));
        }
    }
    let key_usage = certificate.key_usage().map_err(malformed)?.map(|found| found.value);
    let is_ca = certificate.basic_constraints().map_err(malformed)?.is_some_and(|found| found.value.ca);
    if is_ca || key_usage.is_some_and(KeyUsage::key_cert_sign) {
        return Err(Reason::IsACa);
    }
    if key_usage.is_some_and(|usage| !usage.digital_signature()) {
        return Err(Reason::KeyUsage("key usage"));
    }
    let extended = certificate.extended_key_usage().map_err(malformed)?.map(|found| found.value);
    if extended.is_some_and(|usage| !usage.client_auth && !usage.any) {
        return Err(Reason::KeyUsage("extended key usage"));
    }
    Ok(())
}

fn key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Reason> {
    let malformed = |what: &str| Reason::Malformed(what.to_owned());
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = x509::rsa_bits(&rsa);
            // One that is negative, or of more than 64 bits, counts as 0: no library makes such a key.
            let exponent = rsa.try_exponent().unwrap_or_default();
            if bits < RSA_BITS {
                Err(Reason::WeakKey(format!("RSA of {bits} bits")))
            } else if exponent < 3 || exponent % 2 == 0 {
                Err(Reason::WeakKey("RSA with a public exponent that is not an odd number from 3".to_owned()))
            } else {
                Ok(())
            }
        }
        Ok(PublicKey::EC(point)) => {
            let unsupported = Reason::UnsupportedAlgorithm;
            let curve = x509::curve(key).ok_or_else(|| unsupported("its key names no curve".to_owned()))?;
            let bytes = [(OID_EC_P256, 32), (OID_NIST_EC_P384, 48), (OID_NIST_EC_P521, 66)];
            let Some((_, bytes)) = bytes.into_iter().find(|(oid, _)| *oid == curve) else {
                return Err(unsupported(format!("its key is on the curve {}", x509::name(&curve))));
            };
            // Uncompressed, which is what TLS asks for, or compressed.
            match point.data() {
                [4, both @ ..] if both.len() == 2 * bytes => Ok(()),
                [2 | 3, one @ ..] if one.len() == bytes => Ok(()),
                _ => Err(malformed("its key is not a point on its curve")),
            }
        }
        Ok(_) => {
            let name = x509::name(&key.algorithm.algorithm);
            Err(Reason::UnsupportedAlgorithm(format!("its key is for {name}")))
        }
        Err(_) => Err(malformed("its key does not parse")),
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn common_name(certificate: &TbsCertificate<'_>) -> Option<String> {
    let mut names = certificate.subject().iter_common_name();
    let (only, None) = (names.next()?, names.next()) else { return None };
    only.as_str().ok().map(str::to_owned)
}
