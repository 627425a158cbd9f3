//! The credentials of a device.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

use crate::aws::Clients;

/// The credentials of a device.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The MQTT client id. AWS IoT accepts only the thing name.
    pub thing: String,
    /// The certificate, in PEM, followed by that of its CA if AWS IoT does not know it yet.
    pub certificate: String,
    /// The private key, in PEM.
    pub key: String,
}

impl Identity {
    /// Registers a thing with a new certificate and this policy.
    pub async fn register(clients: &Clients, thing: &str, policy: &str) -> Result<Self> {
        let register = async {
            let iot = &clients.iot;
            iot.create_thing().thing_name(thing).send().await?;
            let created = iot.create_keys_and_certificate().set_as_active(true).send().await?;
            let arn = created.certificate_arn().context("the certificate has no ARN")?;
            iot.attach_policy().policy_name(policy).target(arn).send().await?;
            iot.attach_thing_principal().thing_name(thing).principal(arn).send().await?;
            let certificate = created.certificate_pem().context("no certificate")?.to_owned();
            let key = created.key_pair().and_then(|pair| pair.private_key()).context("no key")?.to_owned();
            Ok::<_, anyhow::Error>(Self { thing: thing.to_owned(), certificate, key })
        };
        register.await.with_context(|| format!("failed to register thing {thing}"))
    }

    /// Returns a TLS configuration that presents the certificate without validating it.
    pub(super) fn tls(&self, ca: &str) -> Result<ClientConfig> {
        let provider = Arc::new(default_provider());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .context("failed to read the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("failed to read the key")?;
        let key = provider.key_provider.load_private_key(key).context("failed to read the key")?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(root.context("the CA certificate of the broker is not PEM")?)?;
        }
        let resolver = FixedCertificate(Arc::new(CertifiedKey::new(chain, key)));
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(config.with_root_certificates(roots).with_client_cert_resolver(Arc::new(resolver)))
    }
}

#[derive(Debug)]
struct FixedCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for FixedCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
