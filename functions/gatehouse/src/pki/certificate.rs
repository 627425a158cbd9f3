//! X.509 certificates (RFC 5280): parsing, a CA's key and name, serial numbers, and signature verification.

use std::fmt;

use x509_parser::asn1_rs::{Any, BitString, Class, FromDer, Header, Length, Oid, Tag, ToDer, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::{KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384,
    OID_NIST_HASH_SHA512, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::time::ASN1Time;
use x509_parser::verify::verify_signature;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name, X509Version};

use crate::event::timestamp::Timestamp;

/// The mask generation function of RSASSA-PSS, RFC 8017 B.2.1.
const MGF1: Oid = oid!(1.2.840.113549.1.1.8);

/// A certificate's serial number: its bytes, most significant first, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// The serial number in these bytes of DER.
    pub fn new(raw: &[u8]) -> Self {
        let leading = raw.iter().take_while(|byte| **byte == 0).count();
        Self(raw.get(leading..).unwrap_or_default().into())
    }

    /// The serial number in these hexadecimal digits, two per byte; `None` for anything else.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok();
        Some(Self::new(&digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?))
    }
}

/// Lowercase hexadecimal digits, two per byte; at least one byte.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a certificate cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not PEM, not a certificate, or followed by something else.
    #[error("it is not a single PEM block with a certificate")]
    Pem,
    /// It is not the DER of a certificate.
    #[error("it is not valid DER")]
    Der,
    /// It is followed by other bytes.
    #[error("there are bytes after its DER")]
    TrailingBytes,
    /// Something outside the signed part is not canonical DER.
    #[error("the encoding around its signed part is not canonical DER")]
    NotCanonical,
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It may be valid, but this algorithm or key is not supported.
    #[error("signatures with {0} cannot be verified")]
    UnsupportedAlgorithm(String),
    /// It was not made with the CA's key.
    #[error("the signature was not made with the CA's key")]
    Invalid,
}

/// Why a CA's certificate cannot be used, although its key may have signed a device's: RFC 5280, sections 4.2 and
/// 6.1.4.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// Its extensions cannot be parsed, or one appears twice.
    #[error("the extensions of the CA's certificate cannot be parsed: {0}")]
    Malformed(String),
    /// Its basic constraints do not say that it is a CA.
    #[error("the certificate is not a CA's: its basic constraints lack CA:TRUE")]
    NotACa,
    /// Its key usage does not include signing certificates.
    #[error("the CA may not sign certificates: its key usage lacks keyCertSign")]
    MayNotSignCertificates,
    /// It limits the names in certificates, which is not enforced and must not be ignored.
    #[error("the CA's certificate has name constraints, which are not supported")]
    NameConstraints,
    /// It has an extension that must not be ignored.
    #[error("the CA's certificate has a critical extension that is not supported: {0}")]
    CriticalExtension(String),
}

/// Returns the DER in a certificate's PEM. Nothing but white space may follow the block.
pub fn parse_pem(pem: &str) -> Result<Vec<u8>, CertificateError> {
    let (rest, pem) = parse_x509_pem(pem.as_bytes()).map_err(|_| CertificateError::Pem)?;
    let is_one = pem.label == "CERTIFICATE" && rest.iter().all(u8::is_ascii_whitespace);
    is_one.then_some(pem.contents).ok_or(CertificateError::Pem)
}

/// Parses a certificate. Nothing may follow it, and its unsigned parts must be canonical DER.
pub fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Der)?;
    if !rest.is_empty() {
        return Err(CertificateError::TrailingBytes);
    }
    if !is_canonical(der, certificate.tbs_certificate.as_ref(), &certificate.signature_value) {
        return Err(CertificateError::NotCanonical);
    }
    Ok(certificate)
}

/// Whether `der` is the canonical encoding of the signed part, the algorithm that it names, and the signature.
///
/// The parser accepts lengths with leading zeros, tags of other classes, and extra bytes in many places. Outside the
/// signed part anybody could add these, and each variant would be a certificate with another id for the same key and
/// name.
pub(crate) fn is_canonical(der: &[u8], signed: &[u8], signature: &BitString<'_>) -> bool {
    let parts = || {
        let algorithm = algorithm_of(signed)?;
        let signature = BitString::new(0, &signature.data).to_der_vec().ok()?;
        let length = Length::Definite(signed.len() + algorithm.len() + signature.len());
        let header = Header::new(Class::Universal, true, Tag::Sequence, length).to_der_vec().ok()?;
        [&header, signed, algorithm, &signature].into_iter().try_fold(der, |rest, part| rest.strip_prefix(part))
    };
    parts().is_some_and(<[u8]>::is_empty)
}

/// The algorithm that the signed part of a certificate or CRL names: the first sequence inside it.
fn algorithm_of(signed: &[u8]) -> Option<&[u8]> {
    // The parser checks only the tag's number.
    let is_sequence =
        |part: &Any<'_>| part.header.is_universal() && part.header.is_constructed() && part.tag() == Tag::Sequence;
    let (_, signed) = Any::from_der(signed).ok().filter(|(_, signed)| is_sequence(signed))?;
    let mut rest = signed.data;
    loop {
        let (after, part) = Any::from_der(rest).ok()?;
        if is_sequence(&part) {
            return rest.strip_suffix(after);
        }
        rest = after;
    }
}

/// A CA's certificate: its name, and the key that signs its certificates and CRLs.
#[derive(Debug, Clone)]
pub struct CaCertificate {
    subject: Vec<u8>,
    key: Vec<u8>,
    /// Whether its extensions allow it to sign CRLs, or why it may not even sign certificates.
    usage: Result<bool, CaError>,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
}

impl CaCertificate {
    /// Parses a CA certificate in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        Self::from_der(&parse_pem(pem)?)
    }

    /// Parses a CA certificate in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = parse_certificate(der)?;
        Ok(Self {
            subject: certificate.subject().as_raw().to_vec(),
            key: certificate.public_key().raw.to_vec(),
            usage: usage(&certificate),
            not_before: timestamp(certificate.validity().not_before),
            not_after: timestamp(certificate.validity().not_after),
        })
    }

    /// Whether this is the CA's name, byte for byte.
    pub fn is_named(&self, name: &X509Name<'_>) -> bool {
        self.subject == name.as_raw()
    }

    /// Checks that the certificate allows its key to sign certificates, and sets no limits that are not enforced here.
    pub fn check_usage(&self) -> Result<(), CaError> {
        self.usage.clone().map(drop)
    }

    /// Whether the certificate allows its key to sign CRLs (RFC 5280, section 6.3.3 f).
    pub fn may_sign_crls(&self) -> bool {
        self.usage.as_ref().is_ok_and(|may_sign| *may_sign)
    }

    /// Checks that signatures by the CA's key can be verified, with some algorithm: see [`Self::verify`].
    pub fn check_key(&self) -> Result<(), SignatureError> {
        let (_, key) = SubjectPublicKeyInfo::from_der(&self.key).map_err(|_| SignatureError::Invalid)?;
        match key.parsed() {
            Ok(PublicKey::RSA(_)) => check_rsa_key(&key),
            _ => check_elliptic_key(&key),
        }
    }

    /// Verifies that the CA's key signed these bytes.
    ///
    /// Supports RSA (PKCS #1, or PSS with a salt as long as the digest) with 2,048 to 8,192 bits and SHA-256, -384 or
    /// -512, and ECDSA on P-256 or P-384 with SHA-256 or -384.
    pub fn verify(
        &self,
        algorithm: &AlgorithmIdentifier<'_>,
        signature: &BitString<'_>,
        signed: &[u8],
    ) -> Result<(), SignatureError> {
        let (_, key) = SubjectPublicKeyInfo::from_der(&self.key).map_err(|_| SignatureError::Invalid)?;
        supported(algorithm, &key)?;
        verify_signature(&key, algorithm, signature, signed).map_err(|_| SignatureError::Invalid)
    }
}

/// Checks that this kind of signature and key is supported. The parser itself would verify SHA-1 and Ed25519 too.
fn supported(algorithm: &AlgorithmIdentifier<'_>, key: &SubjectPublicKeyInfo<'_>) -> Result<(), SignatureError> {
    let signature = &algorithm.algorithm;
    let rsa = [OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA];
    let ecdsa = [OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384];
    if rsa.contains(signature) || *signature == OID_PKCS1_RSASSAPSS {
        if *signature == OID_PKCS1_RSASSAPSS && !is_plain_pss(algorithm) {
            return unsupported("RSASSA-PSS with these parameters".to_owned());
        }
        check_rsa_key(key)
    } else if ecdsa.contains(signature) {
        check_elliptic_key(key)
    } else {
        unsupported(algorithm_name(signature))
    }
}

fn unsupported(name: String) -> Result<(), SignatureError> {
    Err(SignatureError::UnsupportedAlgorithm(name))
}

/// Checks the key for an RSA signature. An elliptic-curve key cannot have made one.
fn check_rsa_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), SignatureError> {
    match key.parsed() {
        Ok(PublicKey::RSA(key)) if (2048..=8192).contains(&rsa_bits(&key)) => Ok(()),
        Ok(PublicKey::RSA(key)) => unsupported(format!("an RSA key of {} bits", rsa_bits(&key))),
        Ok(PublicKey::EC(_)) => Err(SignatureError::Invalid),
        _ => unsupported(format!("a key for {}", algorithm_name(&key.algorithm.algorithm))),
    }
}

/// Checks the key for an ECDSA signature. An RSA key cannot have made one.
fn check_elliptic_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), SignatureError> {
    match (curve(key), key.parsed()) {
        (Some(curve), _) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
        (Some(curve), _) => unsupported(format!("a key on the curve {}", algorithm_name(&curve))),
        (None, Ok(PublicKey::EC(_))) => unsupported("a key that names no curve".to_owned()),
        (None, Ok(PublicKey::RSA(_))) => Err(SignatureError::Invalid),
        (None, _) => unsupported(format!("a key for {}", algorithm_name(&key.algorithm.algorithm))),
    }
}

/// Returns whether a CA may sign CRLs, or why it may not even sign certificates.
fn usage(certificate: &X509Certificate<'_>) -> Result<bool, CaError> {
    let malformed = |error: X509Error| CaError::Malformed(error.to_string());
    let supported = [
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    ];
    for (oid, extension) in certificate.extensions_map().map_err(malformed)? {
        if oid == OID_X509_EXT_NAME_CONSTRAINTS {
            return Err(CaError::NameConstraints);
        }
        if extension.critical && !supported.contains(&oid) {
            return Err(CaError::CriticalExtension(oid.to_id_string()));
        }
        if supported.contains(&oid) && matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) {
            return Err(CaError::Malformed(format!("extension {oid}")));
        }
    }
    let is_ca = certificate.basic_constraints().map_err(malformed)?.is_some_and(|found| found.value.ca);
    // Certificates before version 3 have no extensions. Then the registration with AWS IoT is what makes this a CA.
    if !is_ca && certificate.version() == X509Version::V3 {
        return Err(CaError::NotACa);
    }
    let key_usage = certificate.key_usage().map_err(malformed)?.map(|found| found.value);
    if key_usage.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(CaError::MayNotSignCertificates);
    }
    Ok(key_usage.is_none_or(KeyUsage::crl_sign))
}

/// Whether the parameters name one hash throughout and a salt as long as the digest: the parser assumes this when it
/// verifies, whatever they say.
fn is_plain_pss(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    let Some(Ok(parameters)) = algorithm.parameters().map(RsaSsaPssParams::try_from) else { return false };
    let hash = parameters.hash_algorithm_oid();
    let digest = [(OID_NIST_HASH_SHA256, 32), (OID_NIST_HASH_SHA384, 48), (OID_NIST_HASH_SHA512, 64)];
    let is_mask_plain = parameters.mask_gen_algorithm().is_ok_and(|mask| mask.mgf == MGF1 && mask.hash == *hash);
    let is_salt_plain = digest.iter().any(|(oid, length)| oid == hash && parameters.salt_length() == *length);
    is_mask_plain && is_salt_plain && parameters.trailer_field() == 1
}

/// The size of an RSA key's modulus in bits.
pub fn rsa_bits(key: &RSAPublicKey<'_>) -> usize {
    let mut bytes = key.modulus.iter().skip_while(|byte| **byte == 0);
    let Some(first) = bytes.next() else { return 0 };
    let spare = usize::try_from(first.leading_zeros()).unwrap_or_default();
    8 * (1 + bytes.count()) - spare
}

/// The curve of an elliptic-curve key; `None` for any other key.
pub fn curve<'a>(key: &'a SubjectPublicKeyInfo<'_>) -> Option<Oid<'a>> {
    let is_elliptic = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY;
    let parameters = key.algorithm.parameters().filter(|parameters| is_elliptic && parameters.tag() == Tag::Oid)?;
    parameters.as_oid().ok()
}

/// The name of a well-known algorithm or curve, or else its object identifier.
pub fn algorithm_name(oid: &Oid<'_>) -> String {
    let text = oid.to_id_string();
    let known = match text.as_str() {
        "1.2.840.113549.1.1.1" => "RSA",
        "1.2.840.113549.1.1.4" => "MD5 with RSA",
        "1.2.840.113549.1.1.10" => "RSASSA-PSS",
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => "SHA-1 with RSA",
        "1.2.840.10045.4.1" => "ECDSA with SHA-1",
        "1.2.840.10045.4.3.4" => "ECDSA with SHA-512",
        "1.2.840.10040.4.1" => "DSA",
        "1.3.101.112" => "Ed25519",
        "1.3.101.113" => "Ed448",
        "1.3.132.0.35" => "P-521",
        "1.3.132.0.10" => "secp256k1",
        _ => return text,
    };
    known.to_owned()
}

/// Converts a time in a certificate or CRL. Times before 1970 become 1970.
pub fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp::from_millis(u64::try_from(time.timestamp()).unwrap_or_default().saturating_mul(1000))
}
