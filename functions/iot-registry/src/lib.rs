//! AWS IoT's registry of certificates, CAs and things. Every call may be repeated: a second one changes nothing.
//!
//! A separate crate, because AWS IoT's SDK takes longer to compile than all others together: most functions, and the
//! library they share, do not have to wait for it.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_iot::Client;
use aws_sdk_iot::error::SdkError;
use aws_sdk_iot::operation::create_thing::CreateThingError;
use aws_sdk_iot::operation::describe_ca_certificate::DescribeCACertificateError;
use aws_sdk_iot::operation::describe_certificate::DescribeCertificateError;
use aws_sdk_iot::operation::list_thing_principals::ListThingPrincipalsError;
use aws_sdk_iot::operation::update_ca_certificate::UpdateCACertificateError;
use aws_sdk_iot::operation::update_certificate::UpdateCertificateError;
pub use aws_sdk_iot::types::CertificateStatus;
use aws_sdk_iot::types::{AttributePayload, AutoRegistrationStatus, CaCertificateStatus, Certificate};

use gatehouse::pki::{CaCertificate, CertificateId};
use gatehouse::{BoxError, Failure, Setup, ThingName};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The maximum number of certificates that AWS IoT returns per page.
const PAGE_SIZE: i32 = 250;

/// The registry of this account and region.
#[derive(Debug, Clone)]
pub struct Registry {
    client: Client,
    /// The limit on calls of `DescribeCertificate`, if any.
    describe_limit: Option<RateLimit>,
}

/// Limits calls to a number within any one second.
#[derive(Debug, Clone)]
struct RateLimit {
    per_second: NonZeroUsize,
    /// When the latest calls were made, oldest first.
    recent: Arc<Mutex<VecDeque<Instant>>>,
}

impl RateLimit {
    /// Waits until the next call may be made.
    async fn wait(&self) {
        let mut recent = self.recent.lock().await;
        if recent.len() >= self.per_second.get()
            && let Some(oldest) = recent.front()
        {
            // Removed only afterwards, because this future may be dropped while it waits.
            sleep_until(*oldest + Duration::from_secs(1)).await;
            recent.pop_front();
        }
        recent.push_back(Instant::now());
    }
}

/// A device's certificate, as it is registered now.
#[derive(Debug, Clone)]
pub struct RegisteredCertificate {
    /// Its status.
    pub status: CertificateStatus,
    /// Its ARN.
    pub arn: String,
    /// The certificate in PEM.
    pub pem: String,
    /// The CA that it is registered under, if any.
    pub ca: Option<CertificateId>,
}

/// A CA, as it is registered now.
#[derive(Debug, Clone)]
pub struct RegisteredCa {
    /// Whether devices with certificates of this CA may connect for the first time.
    pub is_active: bool,
    pem: String,
}

/// A device's certificate in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCertificate {
    /// Its id.
    pub id: CertificateId,
    /// Its status.
    pub status: CertificateStatus,
}

/// Some of the certificates that a CA signed.
#[derive(Debug, Clone, Default)]
pub struct CertificatePage {
    /// The certificates, oldest first, so that one registered meanwhile comes last.
    pub certificates: Vec<ListedCertificate>,
    /// Where the next page starts; `None` after the last one.
    pub next_marker: Option<String>,
}

/// A call to AWS IoT failed, or its response cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to call {operation} of AWS IoT")]
pub struct RegistryError {
    operation: &'static str,
    source: BoxError,
}

impl RegistryError {
    fn new(operation: &'static str, source: impl Into<BoxError>) -> Self {
        Self { operation, source: source.into() }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::retry(error)
    }
}

impl RegisteredCa {
    /// Parses the CA's certificate.
    pub fn certificate(&self) -> Result<CaCertificate, RegistryError> {
        CaCertificate::from_pem(&self.pem).map_err(|error| RegistryError::new("DescribeCACertificate", error))
    }
}

impl Registry {
    /// The registry that this client calls.
    pub const fn new(client: Client) -> Self {
        Self { client, describe_limit: None }
    }

    /// Limits calls of [`Self::certificate`] to this many in any one second, because AWS IoT limits
    /// `DescribeCertificate` per account.
    #[must_use]
    pub fn with_describe_limit(self, per_second: NonZeroUsize) -> Self {
        Self { describe_limit: Some(RateLimit { per_second, recent: Arc::default() }), ..self }
    }

    /// Connects to the registry, and warms up the connection.
    pub async fn connect(setup: &Setup) -> Self {
        let registry = Self::new(Client::new(setup.sdk()));
        // No certificate has this id; that response is enough.
        setup.warm_up("AWS IoT", registry.describe(&"0".repeat(64))).await;
        registry
    }

    /// Returns a certificate; `None` if there is none with this id.
    pub async fn certificate(&self, id: &CertificateId) -> Result<Option<RegisteredCertificate>, RegistryError> {
        if let Some(limit) = &self.describe_limit {
            limit.wait().await;
        }
        self.describe(id.as_str()).await
    }

    async fn describe(&self, id: &str) -> Result<Option<RegisteredCertificate>, RegistryError> {
        const OPERATION: &str = "DescribeCertificate";
        let response = self.client.describe_certificate().certificate_id(id).send().await;
        let is_missing = DescribeCertificateError::is_resource_not_found_exception;
        let Some(response) = none_on(OPERATION, response, is_missing)? else { return Ok(None) };
        let certificate = response.certificate_description.and_then(|description| {
            Some(RegisteredCertificate {
                status: description.status?,
                arn: description.certificate_arn?,
                pem: description.certificate_pem?,
                ca: description.ca_certificate_id.as_deref().and_then(CertificateId::new),
            })
        });
        certificate.map(Some).ok_or_else(|| incomplete(OPERATION))
    }

    /// Sets a certificate's status. Returns `false` if there is no certificate with this id.
    pub async fn set_status(&self, id: &CertificateId, status: CertificateStatus) -> Result<bool, RegistryError> {
        let response = self.client.update_certificate().certificate_id(id.as_str()).new_status(status).send().await;
        let is_missing = UpdateCertificateError::is_resource_not_found_exception;
        Ok(none_on("UpdateCertificate", response, is_missing)?.is_some())
    }

    /// Returns a page of the certificates that a CA signed, starting at `marker`, or the first page.
    pub async fn certificates_signed_by(
        &self,
        ca: &CertificateId,
        marker: Option<&str>,
    ) -> Result<CertificatePage, RegistryError> {
        const OPERATION: &str = "ListCertificatesByCA";
        let list = self.client.list_certificates_by_ca().ca_certificate_id(ca.as_str()).ascending_order(true);
        let response = list.page_size(PAGE_SIZE).set_marker(marker.map(str::to_owned)).send().await;
        let response = response.map_err(|error| RegistryError::new(OPERATION, error))?;
        let next_marker = response.next_marker.filter(|next| !next.is_empty());
        if next_marker.is_some() && next_marker.as_deref() == marker {
            return Err(RegistryError::new(OPERATION, "the page's marker is that of the next page"));
        }
        let certificate = |listed: Certificate| {
            Some(ListedCertificate { id: CertificateId::new(&listed.certificate_id?)?, status: listed.status? })
        };
        let certificates: Option<_> = response.certificates.unwrap_or_default().into_iter().map(certificate).collect();
        Ok(CertificatePage { certificates: certificates.ok_or_else(|| incomplete(OPERATION))?, next_marker })
    }

    /// Returns a CA, whatever its status; `None` if there is none with this id.
    pub async fn ca(&self, id: &CertificateId) -> Result<Option<RegisteredCa>, RegistryError> {
        const OPERATION: &str = "DescribeCACertificate";
        let response = self.client.describe_ca_certificate().certificate_id(id.as_str()).send().await;
        let is_missing = DescribeCACertificateError::is_resource_not_found_exception;
        let Some(response) = none_on(OPERATION, response, is_missing)? else { return Ok(None) };
        let description = response.certificate_description.ok_or_else(|| incomplete(OPERATION))?;
        Ok(Some(RegisteredCa {
            is_active: description.status == Some(CaCertificateStatus::Active),
            pem: description.certificate_pem.unwrap_or_default(),
        }))
    }

    /// Makes a CA inactive and switches its auto-registration off. Returns `false` if there is no CA with this id.
    pub async fn deactivate_ca(&self, id: &CertificateId) -> Result<bool, RegistryError> {
        let update = self.client.update_ca_certificate().certificate_id(id.as_str());
        let update = update.new_status(CaCertificateStatus::Inactive);
        let response = update.new_auto_registration_status(AutoRegistrationStatus::Disable).send().await;
        let is_missing = UpdateCACertificateError::is_resource_not_found_exception;
        Ok(none_on("UpdateCACertificate", response, is_missing)?.is_some())
    }

    /// Returns the certificates that are attached to a thing; none if there is no such thing.
    pub async fn certificates_of(&self, thing: &ThingName) -> Result<Vec<CertificateId>, RegistryError> {
        let is_missing = ListThingPrincipalsError::is_resource_not_found_exception;
        let mut certificates = Vec::new();
        let mut pages = self.client.list_thing_principals().thing_name(thing.as_str()).into_paginator().send();
        while let Some(page) = pages.next().await {
            let Some(page) = none_on("ListThingPrincipals", page, is_missing)? else { return Ok(Vec::new()) };
            // Other principals are Amazon Cognito identities.
            let certificate = |arn: &String| CertificateId::new(arn.split_once(":cert/")?.1);
            certificates.extend(page.principals().iter().filter_map(certificate));
        }
        Ok(certificates)
    }

    /// Creates a thing. An existing one is left unchanged: an operator may have created it.
    pub async fn create_thing(
        &self,
        thing: &ThingName,
        thing_type: Option<&str>,
        attributes: [(&str, String); 3],
    ) -> Result<(), RegistryError> {
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        let attributes = AttributePayload::builder().set_attributes(Some(attributes)).build();
        let create = self.client.create_thing().thing_name(thing.as_str()).attribute_payload(attributes);
        let response = create.set_thing_type_name(thing_type.map(str::to_owned)).send().await;
        none_on("CreateThing", response, CreateThingError::is_resource_already_exists_exception)?;
        Ok(())
    }

    /// Attaches a certificate to its thing.
    pub async fn attach_to_thing(&self, certificate_arn: &str, thing: &ThingName) -> Result<(), RegistryError> {
        let attach = self.client.attach_thing_principal().thing_name(thing.as_str()).principal(certificate_arn);
        attach.send().await.map_err(|error| RegistryError::new("AttachThingPrincipal", error))?;
        Ok(())
    }

    /// Attaches a policy to a certificate.
    pub async fn attach_policy(&self, policy: &str, certificate_arn: &str) -> Result<(), RegistryError> {
        let attach = self.client.attach_policy().policy_name(policy).target(certificate_arn);
        attach.send().await.map_err(|error| RegistryError::new("AttachPolicy", error))?;
        Ok(())
    }
}

/// Returns the response, or `None` if the call failed with an expected error.
fn none_on<O, E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
    response: Result<O, SdkError<E>>,
    is_expected: impl FnOnce(&E) -> bool,
) -> Result<Option<O>, RegistryError> {
    match response {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.as_service_error().is_some_and(is_expected) => Ok(None),
        Err(error) => Err(RegistryError::new(operation, error)),
    }
}

fn incomplete(operation: &'static str) -> RegistryError {
    RegistryError::new(operation, "the response is incomplete")
}
