//! One step of a run: what one invocation does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gatehouse::pki::{CertificateId, Crl, Serial, parse_certificate, parse_pem};
use gatehouse::store::CrlFetchError;
use gatehouse::{Failure, Invocation, Refusal, VersionedItem, error_chain};
use iot_registry::{CertificatePage, CertificateStatus, ListedCertificate};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::certificate_record::{CertificateRecord, RevocationReason};
use crate::command::RevocationTarget;
use crate::decision::RevocationDecision;
use crate::run::{AfterPage, CertificateResult, Phase, RunPosition};
use crate::run_record::RunLease;
use crate::{RevokeHandler, report};

/// The maximum pause before retrying a page within the step. A message returned to the queue would only be delivered
/// again after half an hour.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A step of a run.
pub(crate) struct RunStep<'a> {
    revoke: &'a RevokeHandler,
    invocation: &'a Invocation,
    run: RunLease,
    /// Spaces the calls to AWS IoT's registry.
    pace: Interval,
    /// The CA's revocation list, if only certificates on it are to be revoked.
    crl: Option<Arc<Crl>>,
    /// Whether AWS IoT's data plane has failed to respond in this step. Revocations then no longer wait for it.
    is_data_plane_silent: bool,
}

impl<'a> RunStep<'a> {
    pub(crate) fn new(revoke: &'a RevokeHandler, run: RunLease, invocation: &'a Invocation) -> Self {
        let mut pace = interval(revoke.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { revoke, invocation, run, pace, crl: None, is_data_plane_silent: false }
    }

    /// Continues the run until it is over, time runs out, or a delay is due before the next sweep.
    pub(crate) async fn execute(mut self) -> Result<(), Failure> {
        let result = self.advance().await;
        if result.is_err()
            && let Err(Failure::Retry(error)) = self.run.release(self.invocation).await
        {
            let (request_id, error) = (self.invocation.request_id(), error_chain(error.as_ref()));
            tracing::warn!(requestId = request_id, error, "failed to release the lease; it expires by itself");
        }
        result
    }

    async fn advance(&mut self) -> Result<(), Failure> {
        let Self { revoke, invocation, .. } = *self;
        let started_at = self.run.progress.position.clone();
        if self.run.progress.stop_if_stuck() {
            return self.report().await;
        }
        while self.run.progress.position.phase == Phase::Sweeping {
            if invocation.is_running_late() {
                return self.hand_over(&started_at, Duration::ZERO).await;
            }
            match self.process_page().await {
                Ok(Some(AfterPage::NextPage)) => self.run.save(invocation).await?,
                Ok(Some(AfterPage::NextSweep)) => return self.hand_over(&started_at, revoke.resweep_delay).await,
                Ok(Some(AfterPage::Report) | None) => {}
                Err(Failure::Retry(error)) => {
                    let (request_id, error) = (invocation.request_id(), error_chain(error.as_ref()));
                    tracing::warn!(
                        requestId = request_id,
                        run = self.run.id,
                        error,
                        "failed to process a page; retrying"
                    );
                    sleep(MAX_RETRY_PAUSE.min(invocation.time_left() / 10)).await;
                }
                Err(refused @ Failure::Refused(_)) => return Err(refused),
            }
        }
        // A step that starts with the report publishes it even if it is running late.
        if invocation.is_running_late() && started_at.phase == Phase::Sweeping {
            return self.hand_over(&started_at, Duration::ZERO).await;
        }
        self.report().await
    }

    /// Processes the current page, after whatever the first page requires. Returns `None` if time ran out within the
    /// page.
    async fn process_page(&mut self) -> Result<Option<AfterPage>, Failure> {
        let RunLease { target, progress, .. } = &self.run;
        if progress.request.only_listed {
            if let (None, RevocationTarget::Ca(ca)) = (&self.crl, target) {
                self.crl = Some(self.published_crl(ca).await?);
            }
        } else if progress.request.dry_run {
            if let (None, RevocationTarget::Ca(ca)) = (progress.is_ca_known, target) {
                self.run.progress.is_ca_known = Some(self.revoke.registry.ca(ca).await?.is_some());
            }
        } else if !progress.is_blocked {
            self.run.progress.is_ca_known = self.block().await?;
            self.run.progress.is_blocked = true;
        }
        self.sweep_page().await
    }

    /// Blocks the target before anything is revoked: writes the block that admissions check, then deactivates the CA.
    /// Returns whether AWS IoT knows the CA, or `None` for a certificate.
    async fn block(&self) -> Result<Option<bool>, Failure> {
        let Self { revoke, invocation, .. } = self;
        match &self.run.target {
            RevocationTarget::Ca(ca) => {
                let reason = self.run.progress.request.reason.as_deref();
                revoke.certificates.block_ca(ca, reason, invocation.now()).await?;
                Ok(Some(revoke.registry.deactivate_ca(ca).await?))
            }
            RevocationTarget::Certificate(certificate) => {
                revoke.certificates.block(certificate, invocation).await?;
                Ok(None)
            }
        }
    }

    /// Returns the CRL in force. It may have expired: certificates on it stay revoked.
    async fn published_crl(&self, ca: &CertificateId) -> Result<Arc<Crl>, Failure> {
        let Self { revoke, .. } = self;
        let registered = revoke.registry.ca(ca).await?;
        let registered =
            registered.ok_or_else(|| Refusal::new("unknown-ca", "No CA with this id is registered with AWS IoT."))?;
        let published = revoke.devices.ca_status(ca).await?.crl;
        let published =
            published.ok_or_else(|| Refusal::new("no-crl", "The CA has not published a revocation list."))?;
        revoke.devices.crl(ca, &registered.certificate()?, &published).await.map_err(|error| match error {
            error @ CrlFetchError::Table(_) => Failure::retry(error),
            unusable @ (CrlFetchError::Incomplete(_) | CrlFetchError::Crl(_)) => {
                Refusal::new("crl-unclear", format!("The CA's revocation list cannot be used: {unusable}.")).into()
            }
        })
    }

    /// Processes the certificates of the current page, and moves past the page.
    async fn sweep_page(&mut self) -> Result<Option<AfterPage>, Failure> {
        let (page, mut records) = self.fetch_page().await?;
        let processed = self.run.progress.processed_of(page.certificates.iter().map(|certificate| &certificate.id));
        let mut would_revoke = Vec::new();
        for certificate in page.certificates.iter().skip(processed) {
            if self.invocation.is_running_late() {
                return Ok(None);
            }
            let record = records.remove(&certificate.id).unwrap_or_default();
            let result = match self.process(certificate, record).await {
                Ok(result) => result,
                Err(failure) => {
                    self.log_failed(&certificate.id, &failure, "failed to revoke a certificate");
                    CertificateResult::Failed
                }
            };
            if result == CertificateResult::WouldRevoke {
                would_revoke.push(certificate.id.as_str());
            }
            self.run.progress.count(&certificate.id, result);
        }
        self.log_page(&would_revoke);
        Ok(Some(self.run.progress.finish_page(page.next_marker)))
    }

    async fn fetch_page(&self) -> Result<(CertificatePage, HashMap<CertificateId, CertificateRecord>), Failure> {
        let Self { revoke, run, .. } = self;
        let page = match &run.target {
            RevocationTarget::Ca(ca) => {
                revoke.registry.certificates_signed_by(ca, run.progress.position.marker.as_deref()).await?
            }
            RevocationTarget::Certificate(id) => {
                let registered = revoke.registry.certificate(id).await?;
                let listed = registered.map(|found| ListedCertificate { id: id.clone(), status: found.status });
                CertificatePage { certificates: listed.into_iter().collect(), next_marker: None }
            }
        };
        let records = revoke.certificates.get_all(&page.certificates).await?;
        Ok((page, records))
    }

    async fn process(
        &mut self,
        certificate: &ListedCertificate,
        record: CertificateRecord,
    ) -> Result<CertificateResult, Failure> {
        let Self { revoke, invocation, .. } = *self;
        let (id, is_dry_run) = (&certificate.id, self.run.progress.request.dry_run);
        let decision = RevocationDecision::new(&certificate.status, &record, &self.run.id);
        if !self.is_included(id, record.serial.as_ref(), decision).await? {
            return Ok(CertificateResult::Skipped);
        }
        match decision {
            RevocationDecision::Revoked { by_this_run, is_record_wrong } => {
                let mut is_disconnected = record.is_disconnected.filter(|_| by_this_run);
                let is_session_left = by_this_run && is_disconnected.is_none() && record.thing.is_some();
                if is_session_left {
                    self.pace.tick().await;
                    is_disconnected = self.disconnect(id, record.thing.as_deref()).await;
                }
                if (is_record_wrong || (is_session_left && is_disconnected.is_some())) && !is_dry_run {
                    self.record_revoked(id, record.stored, by_this_run, is_disconnected).await;
                }
                self.run.progress.count_session(is_session_left || is_disconnected.is_some(), is_disconnected);
                Ok(if by_this_run { CertificateResult::Revoked } else { CertificateResult::AlreadyRevoked })
            }
            RevocationDecision::Revoke if is_dry_run => Ok(CertificateResult::WouldRevoke),
            RevocationDecision::Revoke => {
                let claimed = revoke.certificates.claim(id, record.stored, &self.run.id, invocation).await?;
                self.pace.tick().await;
                if !revoke.registry.set_status(id, CertificateStatus::Revoked).await? {
                    return Ok(CertificateResult::Skipped);
                }
                // Not before the revocation, because the device would reconnect. The record comes last, so that an
                // unfinished one makes the next sweep end the session again.
                let is_disconnected = self.disconnect(id, record.thing.as_deref()).await;
                self.record_revoked(id, claimed, true, is_disconnected).await;
                self.run.progress.count_session(record.thing.is_some(), is_disconnected);
                Ok(CertificateResult::Revoked)
            }
        }
    }

    /// Ends the session under a thing's name. Returns whether AWS IoT knew one; `None` if the thing is not known, or
    /// the call failed, in which case the next sweep repeats it.
    ///
    /// Called once per revocation, and therefore at the same pace.
    async fn disconnect(&mut self, id: &CertificateId, thing: Option<&str>) -> Option<bool> {
        let thing = thing.filter(|_| !self.is_data_plane_silent)?;
        match self.revoke.sessions.end(thing).await {
            Ok(is_disconnected) => Some(is_disconnected),
            Err(error) => {
                self.is_data_plane_silent = !error.is_response();
                let (request_id, error) = (self.invocation.request_id(), error_chain(&error));
                let (run, id) = (&self.run.id, id.as_str());
                let message = "revoked, but failed to end its session";
                tracing::warn!(requestId = request_id, run, thing, certificateId = id, error, "{message}");
                None
            }
        }
    }

    /// Whether the certificate is within the command's scope. Fetches the certificate only if its serial number is
    /// needed and not in its record.
    async fn is_included(
        &mut self,
        id: &CertificateId,
        serial: Option<&Serial>,
        decision: RevocationDecision,
    ) -> Result<bool, Failure> {
        let Some(crl) = self.crl.clone() else { return Ok(true) };
        match (serial, decision) {
            (Some(serial), _) => Ok(crl.lists(serial)),
            (None, RevocationDecision::Revoked { by_this_run, .. }) => Ok(by_this_run),
            (None, RevocationDecision::Revoke) => {
                self.pace.tick().await;
                let Some(registered) = self.revoke.registry.certificate(id).await? else { return Ok(false) };
                let der = parse_pem(&registered.pem).map_err(Failure::retry)?;
                let certificate = parse_certificate(&der).map_err(Failure::retry)?;
                Ok(crl.lists(&Serial::new(certificate.raw_serial())))
            }
        }
    }

    /// Records that a certificate is revoked. If this fails, the certificate is still revoked, and the next sweep
    /// corrects the record.
    async fn record_revoked(
        &self,
        id: &CertificateId,
        record: VersionedItem,
        by_this_run: bool,
        is_disconnected: Option<bool>,
    ) {
        let Self { revoke, run, invocation, .. } = self;
        let request = &run.progress.request;
        let (code, text) = match &run.target {
            _ if !by_this_run => ("found-revoked", "It had been revoked before."),
            RevocationTarget::Ca(_) if request.only_listed => {
                ("revoked-by-crl", "The certificate is on the CA's revocation list.")
            }
            RevocationTarget::Ca(_) => ("ca-blocked", "The CA is blocked."),
            RevocationTarget::Certificate(_) => ("blocked", "The certificate is blocked."),
        };
        let text = request.reason.as_deref().filter(|_| by_this_run).unwrap_or(text);
        let reason = RevocationReason { code, text };
        let marked = revoke.certificates.mark_revoked(id, record, &run.id, reason, is_disconnected, invocation);
        if let Err(error) = marked.await {
            self.log_failed(id, &error.into(), "revoked, but failed to record it");
        }
    }

    fn log_failed(&self, id: &CertificateId, failure: &Failure, what: &str) {
        let (request_id, id) = (self.invocation.request_id(), id.as_str());
        let error = match failure {
            Failure::Refused(refusal) => refusal.why.to_string(),
            Failure::Retry(error) => error_chain(error.as_ref()),
        };
        tracing::warn!(requestId = request_id, certificateId = id, error, "{what}");
    }

    fn log_page(&self, would_revoke: &[&str]) {
        let RunLease { id, progress, .. } = &self.run;
        let ids = (!would_revoke.is_empty()).then(|| would_revoke.join(" "));
        tracing::info!(
            requestId = self.invocation.request_id(),
            run = id,
            step = progress.step,
            sweep = progress.position.sweep,
            found = progress.counts.found,
            revoked = progress.counts.revoked,
            alreadyRevoked = progress.counts.already_revoked,
            disconnected = progress.counts.disconnected,
            notDisconnected = progress.counts.not_disconnected,
            failed = progress.counts.failed,
            dryRun = progress.request.dry_run,
            wouldRevoke = ids,
            "page"
        );
    }

    /// Ends this step, and sends the command that starts the next one after a delay.
    async fn hand_over(&mut self, started_at: &RunPosition, delay: Duration) -> Result<(), Failure> {
        let Self { revoke, run, invocation, .. } = self;
        run.progress.finish_step(started_at);
        let stored = run.hand_over(delay, invocation).await?;
        revoke.runs.send_pending(&run.target, &run.id, stored, invocation).await
    }

    /// Publishes the report, ends the run, and counts the metrics.
    async fn report(&mut self) -> Result<(), Failure> {
        let Self { revoke, run, invocation, .. } = self;
        let publish = revoke.topic.publish(report::notification(&run.target, &run.id, &run.progress));
        revoke.idempotency.run_once(&run.id, invocation, publish).await?;
        run.progress.position.phase = Phase::Over;
        run.release(invocation).await?;

        let (counts, is_stuck) = (run.progress.counts, run.progress.is_stuck);
        if !run.progress.request.dry_run {
            invocation.add("Found", counts.found);
            invocation.add("Revoked", counts.revoked);
            invocation.add("AlreadyRevoked", counts.already_revoked);
            invocation.add("Disconnected", counts.disconnected);
            invocation.add("Failed", counts.failed.max(u64::from(is_stuck)));
        }
        if is_stuck {
            // Not retried: what failed three times would fail again. The refusal shows it to operators in quarantine.
            let why = "The run made no progress in three steps in a row, and was ended. Send the command again.";
            return Err(Refusal::new("no-progress", why).into());
        }
        Ok(())
    }
}
