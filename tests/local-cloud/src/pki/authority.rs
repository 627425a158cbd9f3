//! The certificate authority that signs certificates and CRLs.

use std::time::SystemTime;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams,
    SerialNumber,
};

use super::key::DeviceKey;
use super::{CertificateSpec, Crl, DAY, IssuedCertificate, KeyType, certificate_id, generate_key_pair};

/// An extension that nothing knows, under the OID arc for documentation.
const UNKNOWN_EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 32473, 1, 1];

/// A certificate authority.
#[derive(Debug)]
pub struct CertificateAuthority {
    /// Its AWS IoT id, `caCertificateId`.
    pub id: String,
    /// Its certificate, in DER.
    pub der: Vec<u8>,
    /// Its certificate, in PEM.
    pub pem: String,
    params: CertificateParams,
    key: KeyPair,
    key_type: KeyType,
}

impl CertificateAuthority {
    /// Creates a CA that is valid for ten years.
    pub fn new(name: &str, key: KeyType) -> Result<Self> {
        let now = SystemTime::now();
        Self::valid(name, key, now - DAY, now + 3650 * DAY)
    }

    /// Creates a CA with this validity period.
    pub fn valid(name: &str, key: KeyType, not_before: SystemTime, not_after: SystemTime) -> Result<Self> {
        let key_type = key;
        let key = generate_key_pair(key_type)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(Some(name));
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial_of(key.der_bytes())));
        let certificate = params.self_signed(&key)?;
        let der = certificate.der().to_vec();
        Ok(Self { id: certificate_id(&der), der, pem: certificate.pem(), params, key, key_type })
    }

    /// Creates another CA with the same name.
    pub fn impostor(&self) -> Result<Self> {
        let Some(rcgen::DnValue::Utf8String(name)) = self.params.distinguished_name.get(&DnType::CommonName) else {
            anyhow::bail!("the CA has no name");
        };
        Self::new(name, self.key_type)
    }

    /// Signs a device's certificate.
    pub fn issue(&self, certificate: &CertificateSpec) -> Result<IssuedCertificate> {
        let key = DeviceKey::new(certificate.key)?;
        let serial = certificate.serial.clone().unwrap_or_else(|| serial_of(&key.public));
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(certificate.common_name.as_deref());
        params.not_before = certificate.not_before.into();
        params.not_after = certificate.not_after.into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = if certificate.is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages.clone_from(&certificate.key_usage);
        params.extended_key_usages.clone_from(&certificate.extended_key_usage);
        params.use_authority_key_identifier_extension = true;
        if certificate.has_unknown_critical_extension {
            // DER NULL.
            let mut unknown = CustomExtension::from_oid_content(&UNKNOWN_EXTENSION, vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        }
        let mut issuer = self.params.clone();
        if let Some(name) = &certificate.issuer {
            issuer.distinguished_name = distinguished_name(Some(name));
        }
        let signed = params.signed_by(&key, &Issuer::from_params(&issuer, &self.key))?;
        let der = signed.der().to_vec();
        let (id, pem, ca) = (certificate_id(&der), signed.pem(), self.pem.clone());
        Ok(IssuedCertificate { id, der, pem, key: key.private, serial, ca })
    }

    /// Signs a CRL.
    pub fn sign_crl(&self, crl: &Crl) -> Result<CertificateRevocationList> {
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
}

/// Derives a positive 16-byte serial number from a public key.
fn serial_of(public_key: &[u8]) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA256, public_key);
    let mut serial: Vec<u8> = digest.as_ref().iter().take(16).copied().collect();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    serial
}

fn distinguished_name(common_name: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(common_name) = common_name {
        name.push(DnType::CommonName, common_name);
    }
    name
}
