//! AWS IoT's registry of certificates: what is asked of it, and what is changed in it. Each change may be made again.

use aws_sdk_iot::Client;
use aws_sdk_iot::operation::describe_ca_certificate::DescribeCACertificateError;
use aws_sdk_iot::operation::describe_certificate::DescribeCertificateError;
use aws_sdk_iot::operation::update_ca_certificate::UpdateCACertificateError;
use aws_sdk_iot::operation::update_certificate::UpdateCertificateError;
use aws_sdk_iot::types::{AutoRegistrationStatus, CaCertificateStatus, CertificateStatus};
use gatehouse::x509::{self, CaCertificate, Serial};
use gatehouse::{BoxError, CertificateId, InitError, Setup};

/// The most certificates that AWS IoT puts on a page.
const PAGE_SIZE: i32 = 250;

/// The registry of this account and region.
#[derive(Debug, Clone)]
pub struct Registry(Client);

/// A device's certificate, as AWS IoT has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its id.
    pub id: CertificateId,
    /// Its status.
    pub status: CertificateStatus,
}

/// Some certificates of a CA.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The certificates, the oldest first, so that one which comes meanwhile comes last.
    pub certificates: Vec<Certificate>,
    /// Where the next page begins; none after the last one.
    pub next: Option<String>,
}

/// AWS IoT did not do what it was asked; it may next time.
#[derive(Debug, thiserror::Error)]
#[error("AWS IoT did not do {call}")]
pub struct RegistryError {
    invocation: &'static str,
    source: BoxError,
}

fn failed<E: Into<BoxError>>(invocation: &'static str) -> impl FnOnce(E) -> RegistryError {
    move |error| RegistryError { invocation, source: error.into() }
}

impl Registry {
    /// The registry that this client talks to.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// The registry, with the connection to it warmed up.
    pub async fn connect(setup: &Setup) -> Result<Self, InitError> {
        let registry = Self::new(Client::new(setup.sdk()));
        // Nobody has it; that AWS IoT says so is enough.
        setup.warm_up("AWS IoT", registry.describe(&"0".repeat(64))).await;
        Ok(registry)
    }

    /// One page of what a CA signed, from `marker` on.
    pub async fn page(&self, ca: &CertificateId, marker: Option<&str>) -> Result<Page, RegistryError> {
        const CALL: &str = "ListCertificatesByCA";
        let list = self.0.list_certificates_by_ca().ca_certificate_id(ca.as_str()).ascending_order(true);
        let found = list.page_size(PAGE_SIZE).set_marker(marker.map(str::to_owned)).send().await;
        let found = found.map_err(failed(CALL))?;
        let next = found.next_marker.filter(|next| !next.is_empty());
        if next.is_some() && next.as_deref() == marker {
            return Err(failed(CALL)("its page is followed by itself"));
        }
        let certificate = |listed: aws_sdk_iot::types::Certificate| {
            Some(Certificate { id: CertificateId::new(&listed.certificate_id?)?, status: listed.status? })
        };
        let certificates: Option<_> = found.certificates.unwrap_or_default().into_iter().map(certificate).collect();
        Ok(Page { certificates: certificates.ok_or_else(|| failed(CALL)("its answer is not whole"))?, next })
    }

    /// One certificate; an empty page if there is none of this id.
    pub async fn certificate(&self, id: &CertificateId) -> Result<Page, RegistryError> {
        let status = self.describe(id.as_str()).await?.map(|(status, _)| status);
        let certificates = status.map(|status| Certificate { id: id.clone(), status }).into_iter().collect();
        Ok(Page { certificates, next: None })
    }

    /// A certificate's serial number, read from the certificate itself; `None` if there is no certificate of this id.
    pub async fn serial(&self, id: &CertificateId) -> Result<Option<Serial>, RegistryError> {
        let Some((_, pem)) = self.describe(id.as_str()).await? else { return Ok(None) };
        let der = x509::certificate_der(&pem).map_err(failed("DescribeCertificate"))?;
        let certificate = x509::certificate(&der).map_err(failed("DescribeCertificate"))?;
        Ok(Some(Serial::new(certificate.raw_serial())))
    }

    async fn describe(&self, id: &str) -> Result<Option<(CertificateStatus, String)>, RegistryError> {
        const CALL: &str = "DescribeCertificate";
        let description = match self.0.describe_certificate().certificate_id(id).send().await {
            Ok(found) => found.certificate_description,
            Err(error)
                if error.as_service_error().is_some_and(DescribeCertificateError::is_resource_not_found_exception) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(CALL)(error)),
        };
        let found = description.and_then(|description| Some((description.status?, description.certificate_pem?)));
        found.map(Some).ok_or_else(|| failed(CALL)("its answer is not whole"))
    }

    /// A CA, whatever its status; `None` if it is not there.
    pub async fn authority(&self, ca: &CertificateId) -> Result<Option<CaCertificate>, RegistryError> {
        const CALL: &str = "DescribeCACertificate";
        let description = match self.0.describe_ca_certificate().certificate_id(ca.as_str()).send().await {
            Ok(found) => found.certificate_description,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(DescribeCACertificateError::is_resource_not_found_exception) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(CALL)(error)),
        };
        let pem = description.and_then(|description| description.certificate_pem).unwrap_or_default();
        CaCertificate::from_pem(&pem).map(Some).map_err(failed(CALL))
    }

    /// Sets a CA inactive, and its auto-registration off. One that is not there needs neither.
    pub async fn shut(&self, ca: &CertificateId) -> Result<(), RegistryError> {
        let update = self.0.update_ca_certificate().certificate_id(ca.as_str());
        let update = update.new_status(CaCertificateStatus::Inactive);
        match update.new_auto_registration_status(AutoRegistrationStatus::Disable).send().await {
            Err(error)
                if !error.as_service_error().is_some_and(UpdateCACertificateError::is_resource_not_found_exception) =>
            {
                Err(failed("UpdateCACertificate")(error))
            }
            _ => Ok(()),
        }
    }

    /// Revokes a certificate. Whether there was one to revoke.
    pub async fn revoke(&self, id: &CertificateId) -> Result<bool, RegistryError> {
        let update = self.0.update_certificate().certificate_id(id.as_str()).new_status(CertificateStatus::Revoked);
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(UpdateCertificateError::is_resource_not_found_exception) =>
            {
                Ok(false)
            }
            Err(error) => Err(failed("UpdateCertificate")(error)),
        }
    }
}
