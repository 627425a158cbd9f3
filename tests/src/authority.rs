//! A certificate authority of our own: it signs devices' certificates, good ones and every kind of bad one, and lists
//! of those that it takes back.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, RevokedCertParams, SerialNumber, SignatureAlgorithm,
};
pub use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use serde::Deserialize;
use time::OffsetDateTime;

use crate::aws::Clients;
use crate::device::Identity;
use crate::observe::{millis, now};

const DAY: Duration = Duration::from_hours(24);

/// The largest part of a list that one item of the devices table holds.
pub const CHUNK: usize = 256 * 1024;

/// How long the parts of a list stay in the devices table after its successor was due.
const KEPT: Duration = Duration::from_hours(30 * 24);

/// An extension that no one knows, in the range for documentation.
const UNKNOWN_EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 32473, 1, 1];

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Key {
    /// Elliptic curve P-256.
    #[serde(rename = "p-256")]
    P256,
    /// Elliptic curve P-384.
    #[serde(rename = "p-384")]
    P384,
    /// Ed25519, with which no device of AWS IoT may come.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA with 2,048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 1,024 bits: too few. It can be certified, but neither sign a certificate nor be used by [`Device`].
    ///
    /// [`Device`]: crate::device::Device
    #[serde(skip)]
    Rsa1024,
}

/// A key pair of this kind; ring makes elliptic curves', and openssl RSA ones, which ring can use but not make.
pub fn key_pair(key: Key) -> Result<KeyPair> {
    let made = match key {
        Key::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        Key::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        Key::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
        Key::Rsa2048 => KeyPair::from_pem_and_sign_algo(&rsa_key("2048")?, &PKCS_RSA_SHA256),
        Key::Rsa1024 => KeyPair::from_pem_and_sign_algo(&rsa_key("1024")?, &PKCS_RSA_SHA256),
    };
    made.with_context(|| format!("cannot make a key {key:?}"))
}

/// A private key, in PEM.
fn rsa_key(bits: &str) -> Result<String> {
    let bits = format!("rsa_keygen_bits:{bits}");
    Ok(String::from_utf8(openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &bits], "")?)?)
}

fn openssl(arguments: &[&str], input: &str) -> Result<Vec<u8>> {
    let mut openssl = Command::new("openssl");
    openssl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = openssl.spawn().context("cannot run openssl")?;
    if let Some(mut stdin) = running.stdin.take() {
        stdin.write_all(input.as_bytes()).context("cannot write to openssl")?;
    }
    let output = running.wait_with_output().context("cannot run openssl")?;
    ensure!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

/// A device's key: the private half as it keeps it, the public half as it is certified.
struct DeviceKey {
    private: String,
    public: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl DeviceKey {
    fn new(key: Key) -> Result<Self> {
        if key == Key::Rsa1024 {
            // ring does not even read it.
            let private = rsa_key("1024")?;
            let public = openssl(&["rsa", "-RSAPublicKey_out", "-outform", "DER"], &private)?;
            return Ok(Self { private, public, algorithm: &PKCS_RSA_SHA256 });
        }
        let pair = key_pair(key)?;
        Ok(Self { private: pair.serialize_pem(), public: pair.der_bytes().to_vec(), algorithm: pair.algorithm() })
    }
}

impl PublicKeyData for DeviceKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// What a device's certificate says. [`Certificate::named`] is a good one, to be made worse field by field.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The subject's common name, any text at all; none for a subject without one.
    pub common_name: Option<String>,
    /// Since when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Whether it says that it may sign certificates itself.
    pub is_ca: bool,
    /// The device's key.
    pub key: Key,
    /// What the key may be used for; anything when empty.
    pub key_usage: Vec<KeyUsagePurpose>,
    /// What the certificate may be used for; anything when empty.
    pub extended_key_usage: Vec<ExtendedKeyUsagePurpose>,
    /// Whether it has an extension that no one knows and that must not be passed over.
    pub has_unknown_critical_extension: bool,
    /// The serial number; one of its own when none.
    pub serial: Option<Vec<u8>>,
    /// Whom it names as its issuer; its issuer when none.
    pub issuer: Option<String>,
}

impl Certificate {
    /// A good one: P-256, valid for a year, for client authentication.
    pub fn named(common_name: impl Into<String>) -> Self {
        let now = SystemTime::now();
        Self {
            common_name: Some(common_name.into()),
            not_before: now - DAY,
            not_after: now + 365 * DAY,
            is_ca: false,
            key: Key::P256,
            key_usage: vec![KeyUsagePurpose::DigitalSignature],
            extended_key_usage: vec![ExtendedKeyUsagePurpose::ClientAuth],
            has_unknown_critical_extension: false,
            serial: None,
            issuer: None,
        }
    }
}

/// A certificate that was signed, and its key.
#[derive(Clone)]
pub struct Issued {
    /// Its id in AWS IoT: the SHA-256 of its DER, in lower-case hex.
    pub id: String,
    /// The certificate.
    pub der: Vec<u8>,
    /// The certificate, in PEM.
    pub pem: String,
    /// Its key, in PEM.
    pub key: String,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// The certificate of its authority, in PEM.
    pub authority: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("id", &self.id).field("serial", &hex(&self.serial)).finish_non_exhaustive()
    }
}

impl Issued {
    /// What a device needs that connects under this name: with its authority's certificate, which AWS IoT asks for
    /// when it does not know the device's.
    pub fn identity(&self, client_id: &str) -> Identity {
        Identity {
            thing: client_id.to_owned(),
            certificate: format!("{}{}", self.pem, self.authority),
            key: self.key.clone(),
        }
    }
}

/// What a list of revoked certificates says.
#[derive(Debug, Clone)]
pub struct Crl {
    /// Its number, which rises with each.
    pub number: u64,
    /// The serial numbers that are on it.
    pub revoked: Vec<Vec<u8>>,
    /// When it was made.
    pub this_update: SystemTime,
    /// When the next one is due.
    pub next_update: SystemTime,
}

impl Crl {
    /// An empty one, good for 30 days.
    pub fn new(number: u64) -> Self {
        let now = SystemTime::now();
        Self { number, revoked: Vec::new(), this_update: now - DAY, next_update: now + 30 * DAY }
    }

    /// The same with one more certificate on it.
    #[must_use]
    pub fn revoking(mut self, serial: &[u8]) -> Self {
        self.revoked.push(serial.to_vec());
        self
    }

    /// The number as the devices table has it: 40 hex digits, which sort as numbers do.
    pub fn sortable_number(&self) -> String {
        format!("{:040x}", self.number)
    }
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    /// Its id in AWS IoT, `caCertificateId`.
    pub id: String,
    /// Its certificate.
    pub der: Vec<u8>,
    /// Its certificate, in PEM.
    pub pem: String,
    params: CertificateParams,
    key: KeyPair,
    kind: Key,
}

impl Authority {
    /// Makes one that is good for ten years.
    pub fn new(name: &str, key: Key) -> Result<Self> {
        let now = SystemTime::now();
        Self::valid(name, key, now - DAY, now + 3650 * DAY)
    }

    /// Makes one that is good for this time.
    pub fn valid(name: &str, key: Key, not_before: SystemTime, not_after: SystemTime) -> Result<Self> {
        let kind = key;
        let key = key_pair(kind)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = called(Some(name));
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial_of(key.der_bytes())));
        let certificate = params.self_signed(&key)?;
        let der = certificate.der().to_vec();
        Ok(Self { id: certificate_id(&der), der, pem: certificate.pem(), params, key, kind })
    }

    /// Another one of the same name, which is all that the two have in common.
    pub fn namesake(&self) -> Result<Self> {
        let Some(rcgen::DnValue::Utf8String(name)) = self.params.distinguished_name.get(&DnType::CommonName) else {
            anyhow::bail!("it has no name");
        };
        Self::new(name, self.kind)
    }

    /// Signs a device's certificate.
    pub fn issue(&self, certificate: &Certificate) -> Result<Issued> {
        let key = DeviceKey::new(certificate.key)?;
        let serial = certificate.serial.clone().unwrap_or_else(|| serial_of(&key.public));
        let mut params = CertificateParams::default();
        params.distinguished_name = called(certificate.common_name.as_deref());
        params.not_before = certificate.not_before.into();
        params.not_after = certificate.not_after.into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = if certificate.is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages.clone_from(&certificate.key_usage);
        params.extended_key_usages.clone_from(&certificate.extended_key_usage);
        params.use_authority_key_identifier_extension = true;
        if certificate.has_unknown_critical_extension {
            // Its content is a NULL.
            let mut unknown = CustomExtension::from_oid_content(&UNKNOWN_EXTENSION, vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        }
        let mut issuer = self.params.clone();
        if let Some(name) = &certificate.issuer {
            issuer.distinguished_name = called(Some(name));
        }
        let signed = params.signed_by(&key, &Issuer::from_params(&issuer, &self.key))?;
        let der = signed.der().to_vec();
        let (id, pem, authority) = (certificate_id(&der), signed.pem(), self.pem.clone());
        Ok(Issued { id, der, pem, key: key.private, serial, authority })
    }

    /// Signs a list of revoked certificates.
    pub fn revoke(&self, crl: &Crl) -> Result<CertificateRevocationList> {
        let revoked = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: crl.this_update.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: crl.this_update.into(),
            next_update: crl.next_update.into(),
            crl_number: SerialNumber::from(crl.number),
            issuing_distribution_point: None,
            revoked_certs: crl.revoked.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&Issuer::from_params(&self.params, &self.key))?)
    }

    /// Registers it in the account, as `infra/ca/register` does: active, and letting new devices knock.
    pub async fn register(&self, clients: &Clients) -> Result<()> {
        let register = async {
            let code = clients.iot.get_registration_code().send().await?;
            let code = code.registration_code().context("no registration code")?;
            let proof = self.issue(&Certificate::named(code))?;
            let register = clients.iot.register_ca_certificate().ca_certificate(&self.pem);
            let register = register.verification_certificate(proof.pem).set_as_active(true);
            let registered = register.allow_auto_registration(true).send().await?;
            let id = registered.certificate_id().unwrap_or_default();
            ensure!(id == self.id, "AWS IoT calls it {id}, not {}", self.id);
            Ok(())
        };
        register.await.context("cannot register the certificate authority")
    }

    /// Signs a list and publishes it, as `infra/ca/publish-crl` does. False where one that is as new is there.
    pub async fn publish(&self, clients: &Clients, devices_table: &str, crl: &Crl) -> Result<bool> {
        self.publish_bytes(clients, devices_table, crl, self.revoke(crl)?.der()).await
    }

    /// Publishes these bytes in a list's place: its PEM, say, or another's list.
    pub async fn publish_bytes(&self, clients: &Clients, devices_table: &str, crl: &Crl, bytes: &[u8]) -> Result<bool> {
        let publish = async {
            let text = |text: &str| AttributeValue::S(text.to_owned());
            let number = |number: String| AttributeValue::N(number);
            let (id, crl_number) = (format!("ca#{}", self.id), crl.sortable_number());
            let mut chunks = 0_u32;
            for chunk in bytes.chunks(CHUNK) {
                let put = clients.dynamodb.put_item().table_name(devices_table).item("id", text(&id));
                let put = put.item("part", text(&format!("crl#{crl_number}#{chunks:04}")));
                let expiration = millis(crl.next_update + KEPT) / 1000;
                let put = put.item("expiration", number(expiration.to_string()));
                put.item("bytes", AttributeValue::B(Blob::new(chunk))).send().await?;
                chunks += 1;
            }
            // The parts are not looked at until this one call names them.
            let update = clients.dynamodb.update_item().table_name(devices_table);
            let update = update.key("id", text(&id)).key("part", text("status"));
            let update = update
                .update_expression(
                    "SET crlNumber = :number, crlChunks = :chunks, crlBytes = :bytes, crlNextUpdate = :nextUpdate, \
                     crlPublishedAt = :publishedAt, runsOutOn = :runsOutOn",
                )
                .condition_expression("attribute_not_exists(crlNumber) OR crlNumber < :number")
                .expression_attribute_values(":number", text(&crl_number))
                .expression_attribute_values(":chunks", number(chunks.to_string()))
                .expression_attribute_values(":bytes", number(bytes.len().to_string()))
                .expression_attribute_values(":nextUpdate", number(millis(crl.next_update).to_string()))
                .expression_attribute_values(":publishedAt", number(now().to_string()))
                .expression_attribute_values(":runsOutOn", text(&day(crl.next_update)));
            match update.send().await {
                Ok(_) => Ok::<_, anyhow::Error>(true),
                Err(error)
                    if error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
                {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        };
        publish.await.context("cannot publish the list of revoked certificates")
    }
}

/// What AWS IoT calls a certificate: the SHA-256 of its DER, in lower-case hex.
pub fn certificate_id(der: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, der).as_ref())
}

/// In lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// As `YYYY-MM-DD`, in UTC.
pub fn day(time: SystemTime) -> String {
    OffsetDateTime::from(time).date().to_string()
}

/// A positive number of 16 bytes that belongs to this key.
fn serial_of(public_key: &[u8]) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA256, public_key);
    let mut serial: Vec<u8> = digest.as_ref().iter().take(16).copied().collect();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    serial
}

fn called(common_name: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(common_name) = common_name {
        name.push(DnType::CommonName, common_name);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What openssl says of a PEM.
    fn said(arguments: &[&str], pem: &str) -> String {
        String::from_utf8(openssl(arguments, pem).expect("openssl takes it")).expect("text")
    }

    fn text(pem: &str) -> String {
        said(&["x509", "-noout", "-text", "-nameopt", "utf8"], pem)
    }

    /// Whether openssl believes that this authority signed it.
    fn signed(authority: &Authority, issued: &Issued) -> bool {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &authority.pem).expect("written");
        let path = file.path().to_str().expect("text");
        openssl(&["verify", "-no_check_time", "-partial_chain", "-CAfile", path], &issued.pem).is_ok()
    }

    #[test]
    fn a_certificate_of_either_kind_of_authority_is_verified_by_openssl() {
        for kind in [Key::P256, Key::Rsa2048] {
            let authority = Authority::new("Example CA", kind).expect("made");
            let namesake = authority.namesake().expect("made");
            let issued = authority.issue(&Certificate::named("front-door")).expect("signed");
            assert!(signed(&authority, &issued), "{kind:?}");
            assert!(!signed(&namesake, &issued), "{kind:?}: its namesake did not sign it");
            let other = namesake.issue(&Certificate::named("front-door")).expect("signed");
            let name = |issued: &Issued| said(&["x509", "-noout", "-issuer"], &issued.pem);
            assert_eq!(name(&issued), name(&other));
        }
    }

    #[test]
    fn a_certificate_has_the_id_that_aws_iot_gives_it() {
        let authority = Authority::new("Example CA", Key::P256).expect("made");
        let printed = said(&["x509", "-noout", "-fingerprint", "-sha256"], &authority.pem);
        let fingerprint = printed.trim().rsplit('=').next().expect("a fingerprint").replace(':', "").to_lowercase();
        assert_eq!(authority.id, fingerprint);
    }

    #[test]
    fn a_certificate_says_what_it_was_asked_to() {
        let authority = Authority::new("Example CA", Key::P256).expect("made");
        let good = text(&authority.issue(&Certificate::named("front-door")).expect("signed").pem);
        for part in
            ["CN=front-door", "CA:FALSE", "Digital Signature", "TLS Web Client Authentication", "NIST CURVE: P-256"]
        {
            assert!(good.contains(part), "{part} is not in {good}");
        }
        let bad = Certificate {
            not_after: SystemTime::now() - Duration::from_hours(1),
            is_ca: true,
            key: Key::Rsa1024,
            key_usage: vec![KeyUsagePurpose::KeyCertSign],
            extended_key_usage: vec![],
            has_unknown_critical_extension: true,
            serial: Some(vec![0x12, 0x34]),
            issuer: Some("Another CA".to_owned()),
            ..Certificate::named("x".repeat(129))
        };
        let bad = text(&authority.issue(&bad).expect("signed").pem);
        let long = format!("CN={}", "x".repeat(129));
        for part in [
            &*long,
            "CA:TRUE",
            "Certificate Sign",
            "1024 bit",
            "(0x1234)",
            "1.3.6.1.4.1.32473.1.1: critical",
            "Another CA",
        ] {
            assert!(bad.contains(part), "{part} is not in {bad}");
        }
        assert!(!bad.contains("Extended Key Usage"), "{bad}");
    }

    #[test]
    fn a_common_name_can_be_any_text_or_missing() {
        let authority = Authority::new("Example CA", Key::P256).expect("made");
        for name in ["", "*", "a/b", "$aws/x", "a\0b", "tür", "🔔"] {
            let der = authority.issue(&Certificate::named(name)).expect("signed").der;
            // Its type (2.5.4.3), then a UTF-8 string of this length, then the text itself.
            let length = u8::try_from(name.len()).expect("short");
            let entry = [&[6, 3, 0x55, 4, 3, 12, length], name.as_bytes()].concat();
            assert!(der.windows(entry.len()).any(|window| window == entry), "{name:?}");
        }
        let nameless = authority.issue(&Certificate { common_name: None, ..Certificate::named("") }).expect("signed");
        assert_eq!(said(&["x509", "-noout", "-subject"], &nameless.pem).trim(), "subject=");
    }

    #[test]
    fn a_list_holds_its_number_and_the_serials_that_are_revoked() {
        let authority = Authority::new("Example CA", Key::Rsa2048).expect("made");
        let issued = authority.issue(&Certificate::named("front-door")).expect("signed");
        let crl = Crl::new(0xab).revoking(&issued.serial).revoking(&[0x12, 0x34]);
        assert_eq!(crl.sortable_number(), "00000000000000000000000000000000000000ab");
        let pem = authority.revoke(&crl).expect("signed").pem().expect("PEM");
        let said = said(&["crl", "-noout", "-text"], &pem);
        for part in [&hex(&issued.serial).to_uppercase(), "1234", "171", "Example CA"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }

    #[test]
    fn a_day_is_written_with_its_year_first() {
        let day_of = |seconds| day(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(day_of(0), "1970-01-01");
        assert_eq!(day_of(1_795_996_799), "2026-11-29");
        assert_eq!(day_of(1_795_996_800), "2026-11-30");
    }
}
