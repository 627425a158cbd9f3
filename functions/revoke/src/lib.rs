//! Shuts a compromised CA and revokes every certificate that it signed; or one certificate; or those on a CA's list.
//!
//! The block is written down first: `jitr` reads it just before and just after it activates a certificate. Then the CA is
//! set `INACTIVE`, and a *sweep* pages through every certificate that it signed and revokes each. What an admission under
//! way let in during the first sweep, a second one finds, after the longest time that such an admission may still run.
//! A run that does not fit one invocation hands itself on through SQS, step by step.

pub mod order;
pub mod progress;
pub mod runs;

use std::time::Duration;

use aws_sdk_iot::operation::describe_certificate::DescribeCertificateError;
use aws_sdk_iot::operation::update_ca_certificate::UpdateCACertificateError;
use aws_sdk_iot::operation::update_certificate::UpdateCertificateError;
use aws_sdk_iot::types::{AutoRegistrationStatus, CaCertificateStatus, CertificateStatus};
use gatehouse::item::{number, string, text};
use gatehouse::x509::{self, Authority, Serial};
use gatehouse::{
    Attribute, BoxError, Call, CertificateId, Command, Crl, Devices, Each, Environment, Failure, FetchError,
    Idempotency, InitError, NotPublished, Notification, OnceError, Refusal, Setup, Topic,
};
use tokio::time::sleep;

use crate::order::{Order, Target};
use crate::progress::{Next, Page, Progress};
use crate::runs::{Lease, Run, RunError, Stored};

/// How many certificates are listed at once. The progress is stored after each page, and the time looked at.
const PAGE: i32 = 25;

/// The handler of orders to revoke.
#[derive(Debug)]
pub struct Revoke {
    iot: aws_sdk_iot::Client,
    sqs: aws_sdk_sqs::Client,
    queue: String,
    devices: Devices,
    idempotency: Idempotency,
    topic: Topic,
    pause: Duration,
    sweep_again_after: Duration,
}

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not an order that we take.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// AWS IoT did not do its part.
    #[error("AWS IoT did not do {0}")]
    Iot(&'static str, #[source] BoxError),
    /// The devices table did not do its part.
    #[error("the devices table did not do its part")]
    Devices(#[source] BoxError),
    /// The run could not be read or written, or another invocation is at it.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The run could not be handed on.
    #[error("the queue did not take the rest of the run")]
    HandOn(#[source] BoxError),
    /// The revocation list could not be fetched, or cannot be relied on.
    #[error(transparent)]
    Crl(#[from] FetchError),
    /// What came of it was not told now; the next try may.
    #[error(transparent)]
    NotTold(#[from] OnceError<NotPublished>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::NotTold(error) => error.into(),
            other @ (Error::Iot(..) | Error::Devices(_) | Error::Run(_) | Error::HandOn(_) | Error::Crl(_)) => {
                Self::retry(other)
            }
        }
    }
}

fn iot<E: Into<BoxError>>(call: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Iot(call, error.into())
}

/// One order, on its way.
struct Job<'a> {
    order: &'a Order,
    target: Target,
    run: Run,
    call: &'a Call,
}

impl Revoke {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let topic = Topic::connect(setup).await?;
        let (iot, sqs) = (aws_sdk_iot::Client::new(setup.sdk()), aws_sdk_sqs::Client::new(setup.sdk()));
        let devices = Devices::from(setup.environment(), setup.dynamodb())?;
        Self::from(setup.environment(), iot, sqs, devices, setup.idempotency()?, topic)
    }

    /// Reads `QUEUE_URL` (its own queue), `REVOCATIONS_PER_SECOND` (default 8) and `SWEEP_AGAIN_AFTER_SECONDS` (up to 900,
    /// default 120).
    pub fn from(
        environment: &Environment,
        iot: aws_sdk_iot::Client,
        sqs: aws_sdk_sqs::Client,
        devices: Devices,
        idempotency: Idempotency,
        topic: Topic,
    ) -> Result<Self, InitError> {
        let per_second: u32 = environment.optional("REVOCATIONS_PER_SECOND")?.unwrap_or(8);
        let again: u64 = environment.optional("SWEEP_AGAIN_AFTER_SECONDS")?.unwrap_or(120);
        if per_second == 0 {
            return Err(Environment::invalid("REVOCATIONS_PER_SECOND", per_second, &"it must be 1 or more"));
        }
        if again > 900 {
            return Err(Environment::invalid(
                "SWEEP_AGAIN_AFTER_SECONDS",
                again,
                &"SQS delays a message by 900 at most",
            ));
        }
        Ok(Self {
            iot,
            sqs,
            queue: environment.required("QUEUE_URL")?,
            devices,
            idempotency,
            topic,
            pause: Duration::from_secs(1) / per_second,
            sweep_again_after: Duration::from_secs(again),
        })
    }

    /// One step of a run.
    async fn step(&self, job: &Job<'_>) -> Result<(), Error> {
        let stored = match job.run.load(&self.devices).await? {
            Some(stored) => stored,
            None if job.order.run.is_none() => Stored::default(),
            None => return Err(Refusal::new("unknown-run", "There is no run of this name.").into()),
        };
        if stored.step > job.order.step {
            // This step is over. Its successor's message may not have been sent.
            if stored.is_owed {
                self.send(job, stored.step, &stored.progress).await?;
            }
            return Ok(());
        }
        let lease = job.run.begin(&self.devices, &stored, job.call).await?;
        let done = self.sweep(job, &lease, stored.progress).await;
        if done.is_err()
            && let Err(error) = lease.release(&self.devices).await
        {
            tracing::warn!(requestId = job.call.request_id(), %error, "the lease could not be given back");
        }
        done
    }

    /// Revokes page after page, until all is seen or the time is nearly up.
    async fn sweep(&self, job: &Job<'_>, lease: &Lease, mut progress: Progress) -> Result<(), Error> {
        if progress == Progress::default() && !job.order.dry_run {
            self.shut(job).await?;
        }
        let crl = self.list_of(&job.target).await?;
        loop {
            let (certificates, marker) = self.page(&job.target, progress.marker.clone()).await?;
            let mut page = Page::default();
            for (certificate, status) in certificates {
                self.one(job, crl.as_deref(), &certificate, &status, &mut page).await?;
            }
            job.call.add("Revoked", page.revoked);
            job.call.add("AlreadyRevoked", page.already_revoked);
            let is_over = marker.is_none();
            progress.add(page, marker);
            lease.save(&self.devices, &progress).await?;
            if is_over {
                break;
            }
            // Every step sees a page at least: a run cannot go round without getting on.
            if job.call.is_late() {
                return self.hand_on(job, lease, &progress).await;
            }
        }
        match progress.next(job.order.dry_run) {
            Next::SweepAgain => self.hand_on(job, lease, &progress.next_sweep()).await,
            Next::Report => {
                job.call.add("Found", progress.found);
                job.call.add("Failed", progress.failed);
                self.report(job, &progress).await?;
                Ok(lease.end(&self.devices, job.order.step + 1).await?)
            }
        }
    }

    /// What comes before the first sweep: the block, so that nothing more is let in; then the CA itself.
    async fn shut(&self, job: &Job<'_>) -> Result<(), Error> {
        let (client, table) = self.devices.table();
        let (id, part) = match &job.target {
            Target::Authority(ca) => (format!("ca#{ca}"), "status"),
            Target::Certificate(certificate) => (format!("certificate#{certificate}"), "admission"),
            Target::Listed(_) => return Ok(()),
        };
        let reason = job.order.reason.as_deref().unwrap_or("no reason was given");
        let block = client
            .update_item()
            .table_name(table)
            .key("id", string(id))
            .key("part", string(part))
            .update_expression("SET blocked = :yes, blockReason = :reason, blockedAt = if_not_exists(blockedAt, :now)")
            .expression_attribute_values(":yes", aws_sdk_dynamodb::types::AttributeValue::Bool(true))
            .expression_attribute_values(":reason", string(reason))
            .expression_attribute_values(":now", number(job.call.now().millis()));
        block.send().await.map_err(|error| Error::Devices(error.into()))?;
        if let Target::Authority(ca) = &job.target {
            let update = self.iot.update_ca_certificate().certificate_id(ca.as_str());
            let update = update.new_status(CaCertificateStatus::Inactive);
            let update = update.new_auto_registration_status(AutoRegistrationStatus::Disable);
            match update.send().await {
                Ok(_) => {}
                // It was deleted; what it signed may still be there.
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(UpdateCACertificateError::is_resource_not_found_exception) => {}
                Err(error) => return Err(iot("UpdateCACertificate")(error)),
            }
        }
        Ok(())
    }

    /// The next certificates, and where the list goes on.
    async fn page(
        &self,
        target: &Target,
        marker: Option<String>,
    ) -> Result<(Vec<(CertificateId, CertificateStatus)>, Option<String>), Error> {
        let ca = match target {
            Target::Authority(ca) | Target::Listed(ca) => ca,
            Target::Certificate(certificate) => {
                let found = self.describe(certificate).await?;
                return Ok((found.map(|(status, _)| (certificate.clone(), status)).into_iter().collect(), None));
            }
        };
        let list = self.iot.list_certificates_by_ca().ca_certificate_id(ca.as_str()).page_size(PAGE);
        let page = list.set_marker(marker).send().await.map_err(iot("ListCertificatesByCA"))?;
        let certificates = page
            .certificates()
            .iter()
            .filter_map(|found| Some((CertificateId::new(found.certificate_id()?)?, found.status()?.clone())));
        Ok((certificates.collect(), page.next_marker.filter(|marker| !marker.is_empty())))
    }

    /// Revokes a certificate, if that is to be. What fails is counted, and tried again in the next sweep.
    async fn one(
        &self,
        job: &Job<'_>,
        crl: Option<&Crl>,
        certificate: &CertificateId,
        status: &CertificateStatus,
        page: &mut Page,
    ) -> Result<(), Error> {
        page.found += 1;
        if *status == CertificateStatus::Revoked {
            page.already_revoked += 1;
            return Ok(());
        }
        if let Some(crl) = crl
            && !self.serial(certificate).await?.is_some_and(|serial| crl.lists(&serial))
        {
            return Ok(());
        }
        if job.order.dry_run {
            tracing::info!(requestId = job.call.request_id(), certificateId = certificate.as_str(), "would be revoked");
            page.revoked += 1;
            return Ok(());
        }
        let update = self.iot.update_certificate().certificate_id(certificate.as_str());
        let revoked = update.new_status(CertificateStatus::Revoked).send().await;
        sleep(self.pause).await;
        match revoked {
            Ok(_) => {
                self.note(certificate, job).await?;
                page.revoked += 1;
            }
            // Deleted meanwhile.
            Err(error)
                if error.as_service_error().is_some_and(UpdateCertificateError::is_resource_not_found_exception) =>
            {
                page.already_revoked += 1;
            }
            Err(error) => {
                let error = Error::Iot("UpdateCertificate", error.into());
                let request_id = job.call.request_id();
                tracing::warn!(requestId = request_id, certificateId = certificate.as_str(), %error, "not revoked");
                page.failed += 1;
            }
        }
        Ok(())
    }

    /// Writes into a certificate's record that it is revoked.
    async fn note(&self, certificate: &CertificateId, job: &Job<'_>) -> Result<(), Error> {
        let (client, table) = self.devices.table();
        let update = client
            .update_item()
            .table_name(table)
            .key("id", string(format!("certificate#{certificate}")))
            .key("part", string("admission"))
            .update_expression(
                "SET #state = :revoked, updatedAt = :now, reason = :code, why = :why REMOVE runsOutOn, ownedUntil",
            )
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":revoked", string("revoked"))
            .expression_attribute_values(":code", string("revoked"))
            .expression_attribute_values(":why", string(job.order.reason.as_deref().unwrap_or("no reason was given")))
            .expression_attribute_values(":now", number(job.call.now().millis()));
        update.send().await.map_err(|error| Error::Devices(error.into()))?;
        Ok(())
    }

    /// The revocation list that the target is about, if it is about one.
    async fn list_of(&self, target: &Target) -> Result<Option<std::sync::Arc<Crl>>, Error> {
        let Target::Listed(ca) = target else { return Ok(None) };
        let standing = self.devices.standing(ca).await.map_err(|error| Error::Devices(error.into()))?;
        let Some(publication) = standing.publication else {
            return Err(Refusal::new("no-crl", "The CA has published no revocation list.").into());
        };
        let found = self.iot.describe_ca_certificate().certificate_id(ca.as_str()).send().await;
        let description = found.map_err(iot("DescribeCACertificate"))?.certificate_description;
        let pem = description.and_then(|description| description.certificate_pem).unwrap_or_default();
        let authority = Authority::from_pem(&pem).map_err(iot("DescribeCACertificate"))?;
        Ok(Some(self.devices.crl(ca, &authority, &publication).await?))
    }

    /// A certificate's serial number: from its record, or else from itself.
    async fn serial(&self, certificate: &CertificateId) -> Result<Option<Serial>, Error> {
        let id = format!("certificate#{certificate}");
        let record = self.devices.get(id, "admission").await.map_err(|error| Error::Devices(error.into()))?;
        if let Some(serial) = record.as_ref().and_then(|item| Serial::from_hex(text(item, "serial")?)) {
            return Ok(Some(serial));
        }
        let Some((_, pem)) = self.describe(certificate).await? else { return Ok(None) };
        let der = x509::certificate_der(&pem).map_err(iot("DescribeCertificate"))?;
        let certificate = x509::certificate(&der).map_err(iot("DescribeCertificate"))?;
        Ok(Some(Serial::new(certificate.raw_serial())))
    }

    /// A certificate's status and text; `None` if there is none.
    async fn describe(&self, id: &CertificateId) -> Result<Option<(CertificateStatus, String)>, Error> {
        match self.iot.describe_certificate().certificate_id(id.as_str()).send().await {
            Ok(found) => {
                let found = found.certificate_description;
                Ok(found.and_then(|found| Some((found.status?, found.certificate_pem.unwrap_or_default()))))
            }
            Err(error)
                if error.as_service_error().is_some_and(DescribeCertificateError::is_resource_not_found_exception) =>
            {
                Ok(None)
            }
            Err(error) => Err(iot("DescribeCertificate")(error)),
        }
    }

    /// Goes on in another invocation.
    async fn hand_on(&self, job: &Job<'_>, lease: &Lease, next: &Progress) -> Result<(), Error> {
        let step = job.order.step + 1;
        lease.hand_on(&self.devices, step, next).await?;
        self.send(job, step, next).await
    }

    async fn send(&self, job: &Job<'_>, step: u64, next: &Progress) -> Result<(), Error> {
        let is_new_sweep = next.sweep > 0 && next.marker.is_none() && next.found == 0;
        let delay = if is_new_sweep { self.sweep_again_after.as_secs() } else { 0 };
        let order = Order { run: Some(job.run.name.clone()), step, ..job.order.clone() };
        let body = serde_json::to_string(&order).map_err(|error| Error::HandOn(error.into()))?;
        let send = self.sqs.send_message().queue_url(&self.queue).message_body(body);
        let send = send.delay_seconds(i32::try_from(delay).unwrap_or(900));
        send.send().await.map_err(|error| Error::HandOn(error.into()))?;
        Ok(job.run.sent(&self.devices, step).await?)
    }

    /// Tells what came of the run, once.
    async fn report(&self, job: &Job<'_>, progress: &Progress) -> Result<(), Error> {
        let Progress { found, revoked, already_revoked, failed, .. } = progress;
        let (what, id) = match &job.target {
            Target::Authority(id) => ("The certificates of CA", id),
            Target::Listed(id) => ("The certificates on the revocation list of CA", id),
            Target::Certificate(id) => ("Certificate", id),
        };
        let verb = if job.order.dry_run { "would be revoked" } else { "revoked" };
        let notification = Notification {
            subject: format!("Revocation: {revoked} {verb}, {failed} failed"),
            message: format!(
                "{what} {id}: {found} found, {revoked} {verb}, {already_revoked} had been revoked, {failed} failed.\n\
                 Reason: {}",
                job.order.reason.as_deref().unwrap_or("none was given")
            ),
            attributes: vec![
                ("certificateId", Attribute::Text(id.to_string())),
                ("eventId", Attribute::Text(job.run.name.clone())),
            ],
        };
        self.idempotency.once(&job.run.name, job.call, self.topic.publish(notification)).await?;
        Ok(())
    }
}

impl Each for Revoke {
    type Input = Command<Order>;
    type Error = Error;

    async fn handle(&self, command: &Command<Order>, call: &Call) -> Result<(), Error> {
        let order = &command.order;
        let target = order.target()?;
        let id = match &target {
            Target::Authority(ca) | Target::Listed(ca) => format!("ca#{ca}"),
            Target::Certificate(certificate) => format!("certificate#{certificate}"),
        };
        let run = Run { id, name: order.run.clone().unwrap_or_else(|| command.id.to_string()) };
        self.step(&Job { order, target, run, call }).await
    }
}
