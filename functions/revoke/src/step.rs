//! One step of a run: what one invocation does of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gatehouse::{Invocation, CertificateId, Crl, FetchError, Refusal, chain};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::journal::Entry;
use crate::order::{Order, Subject};
use crate::records::Why;
use crate::registry::{Certificate, Page};
use crate::run::{Next, Outcome, Phase, Position};
use crate::verdict::{Known, Verdict};
use crate::{Error, Revoke, report};

/// How long to wait before something is tried again that stands in the way of all the rest. A message that is handed
/// back would come again after half an hour only.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A step on its way.
pub(crate) struct Step<'a> {
    revoke: &'a Revoke,
    invocation: &'a Invocation,
    entry: Entry,
    /// Keeps the calls to AWS IoT's registry apart.
    pace: Interval,
    /// The CA's revocation list, where only what is on it is meant.
    crl: Option<Arc<Crl>>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(revoke: &'a Revoke, entry: Entry, invocation: &'a Invocation) -> Self {
        let mut pace = interval(revoke.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { revoke, invocation, entry, pace, crl: None }
    }

    /// Goes on until the run is over, or time is, or has to pass.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let done = self.go_on().await;
        if done.is_err()
            && let Err(error) = self.revoke.journal.release(&mut self.entry, self.invocation).await
        {
            let request_id = self.invocation.request_id();
            tracing::warn!(requestId = request_id, %error, "the run could not be let go; its lease ends by itself");
        }
        done
    }

    async fn go_on(&mut self) -> Result<(), Error> {
        let invocation = self.invocation;
        let began = self.entry.run.at.clone();
        if self.entry.run.give_up_if_stuck() {
            return self.tell().await;
        }
        while self.entry.run.at.phase == Phase::Sweeping {
            if invocation.is_running_late() {
                return self.hand_on(&began, Duration::ZERO).await;
            }
            match self.get_further().await {
                Ok(Some(Next::Sweep)) => return self.hand_on(&began, self.revoke.sweep_again_after).await,
                Ok(Some(Next::Page | Next::Report) | None) => {}
                Err(error @ (Error::Registry(_) | Error::Record(_) | Error::Crl(_))) => {
                    let (request_id, error) = (invocation.request_id(), chain(&error));
                    tracing::warn!(requestId = request_id, run = self.entry.id, error, "not now; trying again");
                    sleep(TRY_AGAIN_AFTER.min(invocation.time_left() / 10)).await;
                }
                Err(error) => return Err(error),
            }
        }
        // A report that is due when a step begins is told then, whatever the time.
        if invocation.is_running_late() && began.phase == Phase::Sweeping {
            return self.hand_on(&began, Duration::ZERO).await;
        }
        self.tell().await
    }

    /// A page further, and what comes before the first one; `None` where time ran out in the middle of it.
    async fn get_further(&mut self) -> Result<Option<Next>, Error> {
        let job = &self.entry.run.job;
        if job.only_listed {
            if let (None, Subject::CaCertificate(ca)) = (&self.crl, &self.entry.subject) {
                self.crl = Some(self.revocation_list(ca).await?);
            }
        } else if !job.dry_run && !self.entry.run.is_shut {
            self.shut().await?;
            self.entry.run.is_shut = true;
        }
        self.sweep_page().await
    }

    /// Shuts the door before anybody is sent out of it: the block first, which admissions look at, then the CA itself.
    async fn shut(&self) -> Result<(), Error> {
        let Self { revoke, invocation, .. } = self;
        match &self.entry.subject {
            Subject::CaCertificate(ca) => {
                let reason = self.entry.run.job.reason.as_deref();
                revoke.records.block_authority(ca, reason, invocation.now()).await?;
                revoke.registry.shut(ca).await?;
            }
            Subject::Certificate(certificate) => revoke.records.block(certificate, invocation.now()).await?,
        }
        Ok(())
    }

    /// The CRL that is in force. Whether it has run out does not matter: what it revokes stays revoked.
    async fn revocation_list(&self, ca: &CertificateId) -> Result<Arc<Crl>, Error> {
        let standing = self.revoke.devices.standing(ca).await.map_err(|error| Error::Crl(error.into()))?;
        let publication = standing
            .publication
            .ok_or_else(|| Refusal::new("no-crl", "No revocation list of this CA has been published."))?;
        let authority = self.revoke.registry.authority(ca).await?;
        let authority =
            authority.ok_or_else(|| Refusal::new("unknown-ca", "AWS IoT does not know a CA of this id."))?;
        self.revoke.devices.crl(ca, &authority, &publication).await.map_err(|error| match error {
            FetchError::Table(error) => Error::Crl(error.into()),
            unclear @ (FetchError::Incomplete(_) | FetchError::Crl(_)) => {
                let why = format!("The CA's revocation list cannot be relied on: {unclear}.");
                Refusal::new("crl-unclear", why).into()
            }
        })
    }

    /// Works on a page, and turns it.
    async fn sweep_page(&mut self) -> Result<Option<Next>, Error> {
        let (page, known) = self.page().await?;
        let done = self.entry.run.done_of(page.certificates.iter().map(|certificate| &certificate.id));
        let mut would_revoke = Vec::new();
        for certificate in page.certificates.iter().skip(done) {
            if self.invocation.is_running_late() {
                return Ok(None);
            }
            let known = known.get(certificate.id.as_str()).cloned().unwrap_or_default();
            let outcome = self.settle(certificate, &known).await.unwrap_or_else(|error| {
                let (request_id, id, error) = (self.invocation.request_id(), certificate.id.as_str(), chain(&error));
                tracing::warn!(requestId = request_id, certificateId = id, error, "a certificate was not revoked");
                Outcome::Failed
            });
            if outcome == Outcome::WouldRevoke {
                would_revoke.push(certificate.id.as_str());
            }
            self.entry.run.count(&certificate.id, outcome);
        }
        self.log_page(&would_revoke);
        let next = self.entry.run.turn_page(page.next);
        // What comes after the last page is stored with that.
        if next == Next::Page {
            self.revoke.journal.keep(&mut self.entry, self.invocation).await?;
        }
        Ok(Some(next))
    }

    async fn page(&self) -> Result<(Page, HashMap<String, Known>), Error> {
        let Self { revoke, entry, .. } = self;
        let page = match &entry.subject {
            Subject::CaCertificate(ca) => revoke.registry.page(ca, entry.run.at.marker.as_deref()).await?,
            Subject::Certificate(certificate) => revoke.registry.certificate(certificate).await?,
        };
        let known = revoke.records.known(page.certificates.iter().map(|certificate| &certificate.id)).await?;
        Ok((page, known))
    }

    /// Does what is to be done about one certificate.
    async fn settle(&mut self, certificate: &Certificate, known: &Known) -> Result<Outcome, Error> {
        let Self { revoke, invocation, .. } = *self;
        let (id, is_dry) = (&certificate.id, self.entry.run.job.dry_run);
        let verdict = Verdict::of(&certificate.status, known, &self.entry.id);
        if !self.is_meant(id, known, verdict).await? {
            return Ok(Outcome::Spared);
        }
        match verdict {
            Verdict::Revoked { by_us, misnoted } => {
                if misnoted && !is_dry {
                    self.note(id, by_us).await;
                }
                Ok(if by_us { Outcome::Revoked } else { Outcome::AlreadyRevoked })
            }
            Verdict::Revoke if is_dry => Ok(Outcome::WouldRevoke),
            Verdict::Revoke => {
                revoke.records.claim(id, &self.entry.id, invocation.now()).await?;
                self.pace.tick().await;
                if !revoke.registry.revoke(id).await? {
                    return Ok(Outcome::Spared);
                }
                self.note(id, true).await;
                Ok(Outcome::Revoked)
            }
        }
    }

    /// Whether the order is about this certificate. AWS IoT is asked for its serial number only where its record does not
    /// name it, and it matters.
    async fn is_meant(&mut self, id: &CertificateId, known: &Known, verdict: Verdict) -> Result<bool, Error> {
        let Some(crl) = self.crl.clone() else { return Ok(true) };
        let serial = match (&known.serial, verdict) {
            (Some(serial), _) => Some(serial.clone()),
            (None, Verdict::Revoked { by_us, .. }) => return Ok(by_us),
            (None, Verdict::Revoke) => {
                self.pace.tick().await;
                self.revoke.registry.serial(id).await?
            }
        };
        Ok(serial.is_some_and(|serial| crl.lists(&serial)))
    }

    /// Notes in a certificate's record that it is revoked. The certificate is, whether or not that can be noted; if not, the
    /// next sweep finds the record wrong.
    async fn note(&self, id: &CertificateId, by_us: bool) {
        let Self { revoke, entry, invocation, .. } = self;
        let job = &entry.run.job;
        let (code, text) = match &entry.subject {
            _ if !by_us => ("found-revoked", "It had been revoked before."),
            Subject::CaCertificate(_) if job.only_listed => {
                ("revoked-by-crl", "The certificate is on the CA's revocation list.")
            }
            Subject::CaCertificate(_) => ("ca-blocked", "The CA is blocked."),
            Subject::Certificate(_) => ("blocked", "The certificate is blocked."),
        };
        let text = job.reason.as_deref().filter(|_| by_us).unwrap_or(text);
        if let Err(error) = revoke.records.revoked(id, &entry.id, Why { code, text }, invocation.now()).await {
            let (request_id, id, error) = (invocation.request_id(), id.as_str(), chain(&error));
            tracing::warn!(requestId = request_id, certificateId = id, error, "revoked, but could not be noted");
        }
    }

    fn log_page(&self, would_revoke: &[&str]) {
        let Entry { id, run, .. } = &self.entry;
        let ids = (!would_revoke.is_empty()).then(|| would_revoke.join(" "));
        tracing::info!(
            requestId = self.invocation.request_id(),
            run = id,
            step = run.step,
            sweep = run.at.sweep,
            found = run.counts.found,
            revoked = run.counts.revoked,
            alreadyRevoked = run.counts.already_revoked,
            failed = run.counts.failed,
            dryRun = run.job.dry_run,
            wouldRevoke = ids,
            "page"
        );
    }

    /// Ends this step and begins the next one, after a delay.
    async fn hand_on(&mut self, began: &Position, delay: Duration) -> Result<(), Error> {
        self.entry.run.hand_on(began, self.invocation.now().plus(delay));
        self.revoke.journal.release(&mut self.entry, self.invocation).await?;
        self.send_owed().await
    }

    /// Sends the message that begins the next step, if the process that owed it may have died before it did.
    pub(crate) async fn send_what_is_owed(mut self) -> Result<(), Error> {
        self.send_owed().await
    }

    async fn send_owed(&mut self) -> Result<(), Error> {
        let Entry { subject, id, run, .. } = &mut self.entry;
        let Some(due) = run.owed else { return Ok(()) };
        let order = Order::go_on(subject, id, run.step);
        self.revoke.queue.send(&order, due.since(self.invocation.now())).await?;
        run.owed = None;
        // If that cannot be stored, the next step has begun already, or a second message will find it behind the run.
        if let Err(error) = self.revoke.journal.release(&mut self.entry, self.invocation).await {
            let request_id = self.invocation.request_id();
            tracing::debug!(requestId = request_id, %error, "what was owed is sent, and could not be struck off");
        }
        Ok(())
    }

    /// Reports, counts, and ends the run.
    async fn tell(&mut self) -> Result<(), Error> {
        let Self { revoke, invocation, .. } = *self;
        let Entry { subject, id, run, .. } = &mut self.entry;
        let told = revoke.topic.publish(report::notification(subject, id, run));
        revoke.idempotency.run_once(id, invocation, told).await?;
        run.at.phase = Phase::Over;
        revoke.journal.release(&mut self.entry, invocation).await?;

        let (counts, is_stuck) = (self.entry.run.counts, self.entry.run.is_stuck);
        if !self.entry.run.job.dry_run {
            invocation.add("Found", counts.found);
            invocation.add("Revoked", counts.revoked);
            invocation.add("AlreadyRevoked", counts.already_revoked);
            invocation.add("Failed", counts.failed.max(u64::from(is_stuck)));
        }
        if is_stuck {
            // Not retried: what did not help three times is not tried a fourth time. In quarantine it is seen.
            let why = "The run got no further for three steps in a row, and was ended. Give the order again.";
            return Err(Refusal::new("no-progress", why).into());
        }
        Ok(())
    }
}
