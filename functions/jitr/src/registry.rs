//! AWS IoT's registry of certificates and things: what is asked of it, and what is changed in it. Each change may be made
//! again.

use aws_sdk_iot::Client;
use aws_sdk_iot::operation::create_thing::CreateThingError;
use aws_sdk_iot::operation::describe_ca_certificate::DescribeCACertificateError;
use aws_sdk_iot::operation::describe_certificate::DescribeCertificateError;
use aws_sdk_iot::operation::list_thing_principals::ListThingPrincipalsError;
use aws_sdk_iot::types::{AttributePayload, CaCertificateStatus, CertificateStatus};
use gatehouse::x509::CaCertificate;
use gatehouse::{BoxError, CertificateId, Environment, InitError, Setup, ThingName};

/// The registry of this account and region.
#[derive(Debug, Clone)]
pub struct Registry {
    client: Client,
    policy: String,
    thing_type: Option<String>,
}

/// A device's certificate, as AWS IoT has it now.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its status.
    pub status: CertificateStatus,
    /// Its ARN.
    pub arn: String,
    /// Its text.
    pub pem: String,
    /// The CA that it was registered under, if any.
    pub ca: Option<CertificateId>,
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
    /// The registry, with the connection to it warmed up.
    pub async fn connect(setup: &Setup) -> Result<Self, InitError> {
        let registry = Self::from(setup.environment(), Client::new(setup.sdk()))?;
        // Nobody has it; that AWS IoT says so is enough.
        let nobody = "0".repeat(64);
        setup.warm_up("AWS IoT", registry.certificate_text(&nobody)).await;
        Ok(registry)
    }

    /// Reads `DEVICE_POLICY` (the name of the policy that every device gets) and `THING_TYPE` (default: none).
    pub fn from(environment: &Environment, client: Client) -> Result<Self, InitError> {
        Ok(Self {
            client,
            policy: environment.required("DEVICE_POLICY")?,
            thing_type: environment.optional("THING_TYPE")?,
        })
    }

    /// A certificate, as it is now; `None` if there is none.
    pub async fn certificate(&self, id: &CertificateId) -> Result<Option<Registration>, RegistryError> {
        self.certificate_text(id.as_str()).await
    }

    async fn certificate_text(&self, id: &str) -> Result<Option<Registration>, RegistryError> {
        const CALL: &str = "DescribeCertificate";
        let description = match self.client.describe_certificate().certificate_id(id).send().await {
            Ok(found) => found.certificate_description,
            Err(error)
                if error.as_service_error().is_some_and(DescribeCertificateError::is_resource_not_found_exception) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(CALL)(error)),
        };
        let registration = description.and_then(|description| {
            Some(Registration {
                status: description.status?,
                arn: description.certificate_arn?,
                pem: description.certificate_pem?,
                ca: description.ca_certificate_id.as_deref().and_then(CertificateId::new),
            })
        });
        registration.map(Some).ok_or_else(|| failed(CALL)("its answer is not whole"))
    }

    /// A CA that is active now; `None` if it is not, or is not there.
    pub async fn active_authority(&self, id: &CertificateId) -> Result<Option<CaCertificate>, RegistryError> {
        const CALL: &str = "DescribeCACertificate";
        let description = match self.client.describe_ca_certificate().certificate_id(id.as_str()).send().await {
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
        let description = description.ok_or_else(|| failed(CALL)("its answer is not whole"))?;
        if description.status != Some(CaCertificateStatus::Active) {
            return Ok(None);
        }
        let authority = CaCertificate::from_pem(description.certificate_pem.as_deref().unwrap_or_default());
        authority.map(Some).map_err(failed(CALL))
    }

    /// Gives a certificate another status.
    pub async fn set_status(&self, id: &CertificateId, status: CertificateStatus) -> Result<(), RegistryError> {
        let update = self.client.update_certificate().certificate_id(id.as_str()).new_status(status);
        update.send().await.map_err(failed("UpdateCertificate"))?;
        Ok(())
    }

    /// The certificates that are attached to a thing; none where the thing is not there.
    pub async fn certificates_of(&self, thing: &ThingName) -> Result<Vec<CertificateId>, RegistryError> {
        let mut certificates = Vec::new();
        let mut pages = self.client.list_thing_principals().thing_name(thing.as_str()).into_paginator().send();
        while let Some(page) = pages.next().await {
            match page {
                // An Amazon Cognito identity is no certificate.
                Ok(page) => certificates
                    .extend(page.principals().iter().filter_map(|arn| CertificateId::new(arn.split_once(":cert/")?.1))),
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(ListThingPrincipalsError::is_resource_not_found_exception) =>
                {
                    return Ok(Vec::new());
                }
                Err(error) => return Err(failed("ListThingPrincipals")(error)),
            }
        }
        Ok(certificates)
    }

    /// Creates a thing, unless it is there: an operator's own is left as it is.
    pub async fn create_thing(&self, thing: &ThingName, attributes: [(&str, String); 3]) -> Result<(), RegistryError> {
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        let attributes = AttributePayload::builder().set_attributes(Some(attributes)).build();
        let create = self.client.create_thing().thing_name(thing.as_str()).attribute_payload(attributes);
        match create.set_thing_type_name(self.thing_type.clone()).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error.as_service_error().is_some_and(CreateThingError::is_resource_already_exists_exception) =>
            {
                Ok(())
            }
            Err(error) => Err(failed("CreateThing")(error)),
        }
    }

    /// Attaches a certificate to its thing, and the policy that every device has to the certificate.
    pub async fn attach(&self, thing: &ThingName, certificate_arn: &str) -> Result<(), RegistryError> {
        let to_thing = self.client.attach_thing_principal().thing_name(thing.as_str()).principal(certificate_arn);
        to_thing.send().await.map_err(failed("AttachThingPrincipal"))?;
        let policy = self.client.attach_policy().policy_name(&self.policy).target(certificate_arn);
        policy.send().await.map_err(failed("AttachPolicy"))?;
        Ok(())
    }
}
