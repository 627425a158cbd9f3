//! The registered CA that signs the certificates of devices that are new to AWS IoT.

use anyhow::Result;

use crate::admission::Admissions;
use crate::aws::Clients;
use crate::pki::{CertificateAuthority, Crl, IssuedCertificate, KeyType};
use crate::scenario::CertificateOptions;

/// A CA that is registered with AWS IoT, and the table that records its devices' admissions.
#[derive(Debug)]
pub struct Enrollment {
    ca: CertificateAuthority,
    /// A CA of the same name that AWS IoT does not know.
    unknown_ca: CertificateAuthority,
    pub(super) admissions: Admissions,
    clients: Clients,
    /// The CA's newest CRL.
    crl: tokio::sync::Mutex<Crl>,
}

impl Enrollment {
    /// Creates and registers the CA.
    pub async fn new(clients: &Clients, devices_table: &str) -> Result<Self> {
        let ca = CertificateAuthority::new("Gatehouse sample CA", KeyType::P256)?;
        ca.register(clients).await?;
        Ok(Self {
            unknown_ca: ca.impostor()?,
            ca,
            admissions: Admissions::new(clients, devices_table),
            clients: clients.clone(),
            crl: tokio::sync::Mutex::new(Crl::new(0)),
        })
    }

    /// Signs a certificate, and publishes a CRL with it if it is to be revoked.
    pub async fn issue(&self, options: &CertificateOptions, thing: &str) -> Result<IssuedCertificate> {
        let ca = if options.signed_by_unknown_ca { &self.unknown_ca } else { &self.ca };
        let issued = ca.issue(&options.spec(thing))?;
        if options.revoked {
            let mut crl = self.crl.lock().await;
            let mut next = crl.clone().with_revoked(&issued.serial);
            next.number += 1;
            self.ca.publish_crl(&self.clients, self.admissions.table(), &next).await?;
            *crl = next;
        }
        Ok(issued)
    }
}
