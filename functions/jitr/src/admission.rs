//! The admission of one device, from the event to the record.

use std::time::Duration;

use gatehouse::pki::{CaCertificate, CertificateId, parse_pem};
use gatehouse::store::CrlFetchError;
use gatehouse::{CaStatus, Failure, Invocation, Refusal, ThingName, error_chain};
use iot_registry::{CertificateStatus, RegisteredCertificate};
use tokio::time::sleep;

use crate::admission_record::{AdmissionLease, AdmissionState};
use crate::certificate::DeviceCertificate;
use crate::claims::ClaimHolder;
use crate::event::Registration;
use crate::rejection::{Rejection, RejectionReason};
use crate::{JitrHandler, notification, rejection_record};

/// How often, and how many times at most, to poll the record while another invocation works on the same certificate. A
/// rejected device reconnects within a second, and each attempt causes an event.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_POLLS: usize = 25;

/// What to do about an event, given the certificate's status and its record.
#[derive(Debug, PartialEq, Eq)]
enum AdmissionStep {
    /// Admit the certificate, or continue an unfinished admission.
    Admit,
    /// Carry out a rejection that is already decided.
    Reject(Rejection),
    /// End an unfinished admission that somebody else overrode.
    Abandon,
    /// Record that somebody else activated the certificate.
    RecordActive,
    /// Nothing: the certificate is already settled.
    Nothing,
}

impl AdmissionStep {
    /// Chooses a step: starts work only on a pending certificate, and finishes unfinished work. A certificate that an
    /// operator has deactivated stays inactive.
    fn choose(status: &CertificateStatus, state: Option<&AdmissionState>) -> Self {
        match (status, state) {
            (_, Some(AdmissionState::Rejecting(rejection))) => Self::Reject(rejection.clone()),
            (CertificateStatus::PendingActivation, _)
            | (CertificateStatus::Active, Some(AdmissionState::Admitting)) => Self::Admit,
            (_, Some(AdmissionState::Admitting)) => Self::Abandon,
            (CertificateStatus::Active, None) => Self::RecordActive,
            _ => Self::Nothing,
        }
    }
}

/// Why an admission ends early.
enum Stop {
    /// The certificate is rejected.
    Rejected(RejectionReason),
    /// Somebody else has set another status meanwhile, which is kept.
    Overridden,
    /// The CA's revocation list cannot be used now.
    CrlUnusable(CrlFetchError),
    /// It may succeed later, or can never succeed.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<RejectionReason> for Stop {
    fn from(reason: RejectionReason) -> Self {
        Self::Rejected(reason)
    }
}

/// The certificate has to wait for a usable revocation list.
#[derive(Debug, thiserror::Error)]
#[error("failed to check whether the CA has revoked the certificate: {0}")]
struct RevocationCheckError(#[source] CrlFetchError);

/// Another invocation has to finish first.
#[derive(Debug, thiserror::Error)]
#[error("another invocation is working on {0}")]
struct BusyError(&'static str);

impl From<BusyError> for Failure {
    fn from(error: BusyError) -> Self {
        Self::retry(error)
    }
}

/// The handling of one event.
pub(crate) struct Admission<'a> {
    pub(crate) jitr: &'a JitrHandler,
    pub(crate) ids: Registration,
    pub(crate) event_id: &'a str,
    pub(crate) invocation: &'a Invocation,
}

impl Admission<'_> {
    /// Handles the event, under a lease on the certificate's record.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let Self { jitr, ids, invocation, .. } = self;
        let mut polls = 0;
        let (mut lease, certificate, is_blocked, step) = loop {
            // Reads the record before the status, so that the status is at least as recent. While another invocation
            // works on the certificate, the status, whose reads AWS IoT limits per account, is not read at all.
            let record = jitr.records.get(&ids.certificate, invocation).await?;
            if !record.is_leased {
                let certificate = self.registered_certificate().await?;
                let step = AdmissionStep::choose(&certificate.status, record.state.as_ref());
                match step {
                    AdmissionStep::Nothing => {
                        invocation.count("Duplicate");
                        return Ok(());
                    }
                    AdmissionStep::RecordActive => {
                        let is_recorded = jitr.records.record_active(ids, record, invocation).await?;
                        invocation.count(if is_recorded { "FoundActive" } else { "Duplicate" });
                        return Ok(());
                    }
                    AdmissionStep::Admit | AdmissionStep::Reject(_) | AdmissionStep::Abandon => {}
                }
                if let Some(lease) = jitr.records.begin(ids, &record, invocation).await? {
                    break (lease, certificate, record.is_blocked, step);
                }
            }
            if polls == MAX_POLLS || invocation.is_running_late() {
                return Err(BusyError("this certificate").into());
            }
            polls += 1;
            sleep(POLL_INTERVAL).await;
        };
        let result = match step {
            AdmissionStep::Reject(rejection) => self.reject(&mut lease, &certificate, &rejection).await,
            AdmissionStep::Abandon => self.abandon(&mut lease, &certificate).await,
            AdmissionStep::Admit | AdmissionStep::RecordActive | AdmissionStep::Nothing => {
                self.admit_or_reject(&mut lease, &certificate, is_blocked).await
            }
        };
        if result.is_err()
            && let Err(error) = lease.release(invocation).await
        {
            let (request_id, error) = (invocation.request_id(), error_chain(&error));
            tracing::warn!(requestId = request_id, error, "failed to release the lease; it expires by itself");
        }
        result
    }

    /// Returns the certificate as it is registered now. An event that contradicts the registry is refused.
    async fn registered_certificate(&self) -> Result<RegisteredCertificate, Failure> {
        let Registration { certificate, ca } = &self.ids;
        let registered = self.jitr.registry.certificate(certificate).await?.ok_or_else(unknown_certificate)?;
        if registered.ca.as_ref() != Some(ca) {
            let why = "The certificate is not registered under the CA in field `caCertificateId`.";
            return Err(Refusal::new("another-ca", why).into());
        }
        Ok(registered)
    }

    async fn admit_or_reject(
        &self,
        lease: &mut AdmissionLease,
        registered: &RegisteredCertificate,
        is_blocked: bool,
    ) -> Result<(), Failure> {
        let Self { jitr, invocation, .. } = self;
        let reason = match self.admit(registered, is_blocked).await {
            Ok((thing, certificate)) => {
                lease.complete_admission(&thing, &certificate, invocation).await?;
                invocation.count("Admitted");
                return Ok(());
            }
            Err(Stop::Rejected(reason)) => reason,
            Err(Stop::Overridden) => return self.abandon(lease, registered).await,
            // A pending certificate waits until the list can be used. An active one must not stay active meanwhile.
            Err(Stop::CrlUnusable(error)) if self.status().await? == Some(CertificateStatus::Active) => {
                RejectionReason::CrlUnclear(error.to_string())
            }
            Err(Stop::CrlUnusable(error)) => return Err(Failure::retry(RevocationCheckError(error))),
            Err(Stop::Failed(failure)) => return Err(failure),
        };
        let rejection = Rejection::new(&reason, &jitr.rules.rejected_status);
        lease.decide_rejection(&rejection, invocation).await?;
        self.reject(lease, registered, &rejection).await
    }

    /// Performs every step of an admission except completing its record. Returns the thing and the certificate.
    async fn admit(
        &self,
        registered: &RegisteredCertificate,
        is_blocked: bool,
    ) -> Result<(ThingName, DeviceCertificate), Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let rules = &jitr.rules;
        let (ca, ca_status) = self.check_ca().await?;
        let der = parse_pem(&registered.pem).map_err(|error| RejectionReason::Malformed(error.to_string()))?;
        let certificate = DeviceCertificate::validate(&der, &ca, invocation.now(), rules.clock_skew)?;
        let digest = &certificate.signed_digest;
        let holder = jitr.claims.claim_signed_content(digest, &ids.certificate, invocation.now()).await?;
        if holder != ClaimHolder::Ours {
            return Err(RejectionReason::AnotherEncoding.into());
        }
        if is_blocked {
            return Err(RejectionReason::Blocked.into());
        }
        self.check_crl(&ca, &ca_status, &certificate).await?;
        let thing = certificate.thing(&rules.thing_name)?;
        let replaced = self.claim_name(&thing).await?;

        let attributes = [
            ("serial", certificate.serial.to_string()),
            ("ca", ids.ca.to_string()),
            ("fingerprint", ids.certificate.to_string()),
        ];
        jitr.registry.create_thing(&thing, rules.thing_type.as_deref(), attributes).await?;
        jitr.registry.attach_to_thing(&registered.arn, &thing).await?;
        jitr.registry.attach_policy(&rules.device_policy, &registered.arn).await?;

        match self.check_again(&certificate).await? {
            CertificateStatus::Active => {}
            CertificateStatus::PendingActivation => {
                self.set_status(CertificateStatus::Active).await?;
                if self.check_again(&certificate).await? != CertificateStatus::Active {
                    return Err(Stop::Overridden);
                }
            }
            _ => return Err(Stop::Overridden),
        }
        for old in replaced {
            self.notify_rotation(&old, &thing).await?;
        }
        Ok((thing, certificate))
    }

    /// Checks that the CA is active, valid now, allowed to sign certificates, and not blocked. Returns it with its
    /// status.
    async fn check_ca(&self) -> Result<(CaCertificate, CaStatus), Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let registered = jitr.registry.ca(&ids.ca).await?.filter(|ca| ca.is_active);
        let ca = registered.ok_or(RejectionReason::CaInactive)?.certificate()?;
        let (now, skew) = (invocation.now(), jitr.rules.clock_skew);
        if ca.not_before > now.plus(skew) || ca.not_after.plus(skew) < now {
            return Err(RejectionReason::CaExpired.into());
        }
        ca.check_usage().map_err(RejectionReason::from)?;
        let status = jitr.devices.ca_status(&ids.ca).await?;
        if status.block_reason.is_some() {
            return Err(RejectionReason::CaBlocked.into());
        }
        jitr.record_ca_expiry(&ids.ca, &ca).await?;
        Ok((ca, status))
    }

    /// Checks that the certificate is not on its CA's revocation list.
    async fn check_crl(
        &self,
        ca: &CaCertificate,
        ca_status: &CaStatus,
        certificate: &DeviceCertificate,
    ) -> Result<(), Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let Some(published) = &ca_status.crl else {
            return if jitr.rules.requires_crl { Err(RejectionReason::NoCrl.into()) } else { Ok(()) };
        };
        let crl = jitr.devices.crl(&ids.ca, ca, published).await.map_err(|error| match error {
            CrlFetchError::Table(error) => Stop::Failed(Failure::retry(CrlFetchError::Table(error))),
            unusable => Stop::CrlUnusable(unusable),
        })?;
        let current = crl.check_current(invocation.now(), jitr.rules.clock_skew);
        let covers = current.and_then(|()| crl.check_covers(&certificate.distribution_points));
        covers.map_err(|error| Stop::CrlUnusable(error.into()))?;
        if crl.lists(&certificate.serial) { Err(RejectionReason::RevokedByCrl.into()) } else { Ok(()) }
    }

    /// Repeats all checks whose result may have changed since the first check. Returns the certificate's status.
    async fn check_again(&self, certificate: &DeviceCertificate) -> Result<CertificateStatus, Stop> {
        let (ca, ca_status) = self.check_ca().await?;
        self.check_crl(&ca, &ca_status, certificate).await?;
        if self.jitr.records.get(&self.ids.certificate, self.invocation).await?.is_blocked {
            return Err(RejectionReason::Blocked.into());
        }
        self.status().await?.ok_or(Stop::Overridden)
    }

    /// Claims the thing's name for this certificate. The claim precedes the check of the thing, so that two
    /// certificates with the same name cannot both find the thing unused. Returns the thing's other active
    /// certificates.
    async fn claim_name(&self, thing: &ThingName) -> Result<Vec<CertificateId>, Stop> {
        let Self { jitr, ids, invocation, .. } = self;
        let (mut from, mut replaced) = (None, Vec::new());
        while let ClaimHolder::Another(holder) =
            jitr.claims.claim_name(thing, &ids.certificate, from.as_ref(), invocation.now()).await?
        {
            replaced.extend(self.check_succession(&holder).await?);
            from = Some(holder);
        }
        for other in jitr.registry.certificates_of(thing).await? {
            if other != ids.certificate && Some(&other) != from.as_ref() {
                replaced.extend(self.check_succession(&other).await?);
            }
        }
        Ok(replaced)
    }

    /// Checks that this certificate may take over a thing's name from another one. Returns the other one if it is
    /// active.
    async fn check_succession(&self, other: &CertificateId) -> Result<Option<CertificateId>, Stop> {
        match self.jitr.registry.certificate(other).await?.map(|found| found.status) {
            Some(CertificateStatus::Active) if self.jitr.rules.allows_rotation => Ok(Some(other.clone())),
            Some(CertificateStatus::Active) => Err(RejectionReason::NameTaken.into()),
            // The other one may still be admitted or rejected.
            Some(CertificateStatus::PendingActivation) => Err(BusyError("another certificate of this name").into()),
            _ => Ok(None),
        }
    }

    /// Notifies people that a device has a new certificate. The old certificate is not changed.
    async fn notify_rotation(&self, old: &CertificateId, thing: &ThingName) -> Result<(), Failure> {
        let Self { jitr, ids, event_id, invocation } = self;
        let new = &ids.certificate;
        let publish = jitr.topic.publish(notification::rotated(thing, old, new, event_id));
        jitr.idempotency.run_once(&format!("{new}#after#{old}"), invocation, publish).await?;
        invocation.count("Rotated");
        Ok(())
    }

    /// Carries out a rejection that is stored: sets the status, notifies people, completes the record.
    async fn reject(
        &self,
        lease: &mut AdmissionLease,
        registered: &RegisteredCertificate,
        rejection: &Rejection,
    ) -> Result<(), Failure> {
        let Self { jitr, ids, event_id, invocation } = self;
        let status = match self.status().await? {
            Some(CertificateStatus::PendingActivation | CertificateStatus::Active) => {
                self.set_status(rejection.status.clone()).await?;
                rejection.status.clone()
            }
            other => other.unwrap_or_else(deleted),
        };
        let certificate = parse_unverified(registered);
        let notification = notification::rejected(ids, event_id, rejection, &status, certificate.as_ref());
        let publish = jitr.topic.publish(notification);
        jitr.idempotency.run_once(&format!("{}#{}", ids.certificate, rejection.code), invocation, publish).await?;
        let thing = certificate.as_ref().and_then(DeviceCertificate::thing_name);
        if let Some(thing) = &thing {
            rejection_record::record(jitr.devices.table(), thing, ids, rejection, event_id, invocation.now()).await?;
        }
        lease.complete_rejection(rejection, certificate.as_ref(), invocation).await?;
        self.log_rejection("rejected", thing.as_ref(), rejection);
        invocation.count("Rejected");
        Ok(())
    }

    /// Completes the record of an admission that somebody else overrode, and keeps the status that they set.
    async fn abandon(&self, lease: &mut AdmissionLease, registered: &RegisteredCertificate) -> Result<(), Failure> {
        let rejection = Rejection {
            code: "taken-away".to_owned(),
            why: "The certificate's status was changed while it was being admitted.".to_owned(),
            status: self.status().await?.unwrap_or_else(deleted),
        };
        lease.complete_rejection(&rejection, None, self.invocation).await?;
        let thing = parse_unverified(registered).and_then(|certificate| certificate.thing_name());
        self.log_rejection("overridden", thing.as_ref(), &rejection);
        self.invocation.count("Overridden");
        Ok(())
    }

    /// Logs why a device was rejected, so that the log can be searched by thing or by certificate.
    fn log_rejection(&self, message: &str, thing: Option<&ThingName>, rejection: &Rejection) {
        let Self { ids, event_id, invocation, .. } = self;
        tracing::warn!(
            requestId = invocation.request_id(),
            eventId = event_id,
            thing = thing.map(ThingName::as_str),
            certificateId = ids.certificate.as_str(),
            caCertificateId = ids.ca.as_str(),
            reason = rejection.code,
            why = rejection.why,
            "{message}"
        );
    }

    /// The certificate's status now; `None` if it has been deleted.
    async fn status(&self) -> Result<Option<CertificateStatus>, Failure> {
        let found = self.jitr.registry.certificate(&self.ids.certificate).await?;
        Ok(found.map(|found| found.status))
    }

    async fn set_status(&self, status: CertificateStatus) -> Result<(), Failure> {
        let is_set = self.jitr.registry.set_status(&self.ids.certificate, status).await?;
        if is_set { Ok(()) } else { Err(unknown_certificate().into()) }
    }
}

/// Parses what it can of a certificate that may be invalid.
fn parse_unverified(registered: &RegisteredCertificate) -> Option<DeviceCertificate> {
    parse_pem(&registered.pem).ok().and_then(|der| DeviceCertificate::parse_unverified(&der))
}

/// The status to report for a certificate that has been deleted.
fn deleted() -> CertificateStatus {
    CertificateStatus::from("DELETED")
}

fn unknown_certificate() -> Refusal {
    let why = "There is no certificate with this id; it may have been deleted.";
    Refusal::new("unknown-certificate", why)
}
