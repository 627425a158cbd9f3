//! A deployment with a registered CA.

use anyhow::{Context, Result, ensure};
use aws_sdk_iot::types::CertificateStatus;
use local_cloud::admission::{Admission, Admissions, REGISTERED};
use local_cloud::device::{ConnectResult, Device};
use local_cloud::observer;
use local_cloud::pki::{CertificateAuthority, CertificateSpec, IssuedCertificate, KeyType};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::suite::Suite;

/// A deployment with a registered CA.
pub struct Gate {
    pub stage: Stage,
    pub ca: CertificateAuthority,
    pub admissions: Admissions,
}

impl Gate {
    pub async fn new(suite: &Suite) -> Result<Self> {
        let stage = suite.stage().await?;
        let ca = CertificateAuthority::new("Example CA", KeyType::P256)?;
        ca.register(&stage.clients).await?;
        let admissions = Admissions::new(&stage.clients, stage.deployment.output("DevicesTable")?);
        Ok(Self { stage, ca, admissions })
    }

    /// Returns a device with this certificate.
    pub fn device(&self, issued: &IssuedCertificate, client_id: &str) -> Device {
        Device::new(&self.stage.cloud, issued.identity(client_id))
    }

    /// Returns a device that has been admitted.
    pub async fn admitted(&self, thing: &str) -> Result<(Device, IssuedCertificate)> {
        let issued = self.ca.issue(&CertificateSpec::named(thing))?;
        let mut device = self.device(&issued, thing);
        let result = device.connect_with_retry(&self.stage.observer).await?;
        ensure!(
            result == ConnectResult::Accepted,
            "{thing} is not admitted: {result:?}, {:?}",
            self.record(&issued).await?
        );
        Ok((device, issued))
    }

    async fn record(&self, issued: &IssuedCertificate) -> Result<Option<Admission>> {
        self.admissions.get(&issued.id).await
    }

    /// Waits for the final record of a certificate.
    pub async fn outcome(&self, issued: &IssuedCertificate) -> Result<Admission> {
        let found = self.admissions.outcome(&issued.id, &self.stage.observer).await?;
        found.context("there is no record of the certificate")
    }

    pub async fn status(&self, issued: &IssuedCertificate) -> Result<String> {
        self.admissions.status(&issued.id).await?.context("AWS IoT does not know the certificate")
    }

    /// Registers a certificate as pending, as AWS IoT does on the first connection, but without an event.
    pub async fn register_pending(&self, issued: &IssuedCertificate) -> Result<()> {
        let register = self.stage.clients.iot.register_certificate().certificate_pem(&issued.pem);
        register.ca_certificate_pem(&self.ca.pem).status(CertificateStatus::Inactive).send().await?;
        self.set_status(issued, CertificateStatus::PendingActivation).await
    }

    pub async fn set_status(&self, issued: &IssuedCertificate, status: CertificateStatus) -> Result<()> {
        let update = self.stage.clients.iot.update_certificate();
        update.certificate_id(&issued.id).new_status(status).send().await?;
        Ok(())
    }

    /// Returns the event about a new certificate, as the rule builds it.
    pub fn event(&self, event_id: &str, issued: &IssuedCertificate) -> Value {
        json!({
            "payload": {
                "certificateId": issued.id,
                "caCertificateId": self.ca.id,
                "timestamp": observer::now(),
                "certificateStatus": "PENDING_ACTIVATION",
                "awsAccountId": self.stage.account.id(),
                "certificateRegistrationTimestamp": null,
            },
            "thing": issued.id,
            "topic": format!("{REGISTERED}{}", self.ca.id),
            "traceId": event_id,
            "receivedAt": observer::now(),
        })
    }

    /// Returns whether the certificate has its policy and is attached to the thing.
    pub async fn is_provisioned(&self, issued: &IssuedCertificate, thing: &str) -> Result<bool> {
        let arn = format!("arn:aws:iot:us-east-1:{}:cert/{}", self.stage.account.id(), issued.id);
        let iot = &self.stage.clients.iot;
        let policies = iot.list_attached_policies().target(&arn).send().await?;
        let policy = self.stage.deployment.output("DevicePolicy")?;
        let has_policy = policies.policies().iter().any(|attached| attached.policy_name() == Some(policy));
        let principals = match iot.list_thing_principals().thing_name(thing).send().await {
            Ok(found) => found.principals.unwrap_or_default(),
            Err(_) => return Ok(false),
        };
        Ok(has_policy && principals.contains(&arn))
    }

    /// Returns the number of notifications about an event.
    pub fn notified(&self, event_id: &str) -> usize {
        self.stage.notifications(event_id).len()
    }
}
