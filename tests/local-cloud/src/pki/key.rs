//! Keys of CAs and devices.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData,
    SignatureAlgorithm,
};
use serde::Deserialize;

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum KeyType {
    /// Elliptic curve P-256.
    #[serde(rename = "p-256")]
    P256,
    /// Elliptic curve P-384.
    #[serde(rename = "p-384")]
    P384,
    /// Ed25519, which AWS IoT does not support for devices.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA with 2,048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 1,024 bits, which is too weak. It can be certified, but can neither sign nor be used by [`Device`].
    ///
    /// [`Device`]: crate::device::Device
    #[serde(skip)]
    Rsa1024,
}

/// Generates a key pair. RSA keys come from openssl, because ring cannot generate them.
pub fn generate_key_pair(key: KeyType) -> Result<KeyPair> {
    let generated = match key {
        KeyType::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
        KeyType::Rsa2048 => KeyPair::from_pem_and_sign_algo(&rsa_key("2048")?, &PKCS_RSA_SHA256),
        KeyType::Rsa1024 => KeyPair::from_pem_and_sign_algo(&rsa_key("1024")?, &PKCS_RSA_SHA256),
    };
    generated.with_context(|| format!("failed to generate a key of type {key:?}"))
}

/// Generates an RSA private key, in PEM.
fn rsa_key(bits: &str) -> Result<String> {
    let bits = format!("rsa_keygen_bits:{bits}");
    Ok(String::from_utf8(openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &bits], "")?)?)
}

pub(super) fn openssl(arguments: &[&str], input: &str) -> Result<Vec<u8>> {
    let mut openssl = Command::new("openssl");
    openssl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = openssl.spawn().context("failed to run openssl")?;
    if let Some(mut stdin) = running.stdin.take() {
        stdin.write_all(input.as_bytes()).context("failed to write to openssl")?;
    }
    let output = running.wait_with_output().context("failed to run openssl")?;
    ensure!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

/// A device's key: the private half as the device stores it, the public half as it is certified.
pub(super) struct DeviceKey {
    pub(super) private: String,
    pub(super) public: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl DeviceKey {
    pub(super) fn new(key: KeyType) -> Result<Self> {
        if key == KeyType::Rsa1024 {
            // ring cannot read it.
            let private = rsa_key("1024")?;
            let public = openssl(&["rsa", "-RSAPublicKey_out", "-outform", "DER"], &private)?;
            return Ok(Self { private, public, algorithm: &PKCS_RSA_SHA256 });
        }
        let pair = generate_key_pair(key)?;
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
