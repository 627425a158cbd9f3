//! The progress of a run, which carries out one command, from the first step to the report. No I/O or clock.
//!
//! A run goes through a CA's certificates page by page in *sweeps*, and takes as many *steps* as necessary, one per
//! invocation. Each sweep counts from zero, so that the last one's counts are the result.

use gatehouse::Timestamp;
use gatehouse::pki::CertificateId;
use serde::{Deserialize, Serialize};

use crate::command::RevocationRequest;

/// The maximum number of certificates that a report lists. Its counts include all of them.
pub const MAX_LISTED: usize = 20;

/// The maximum number of consecutive steps without progress. AWS Lambda's recursive loop detection, which stops a
/// function after it has invoked itself about 16 times, is turned off, because a large CA takes more steps.
const MAX_IDLE_STEPS: u32 = 3;

/// What a run does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Continue the sweep.
    Sweeping,
    /// Publish the report.
    #[serde(rename = "telling")]
    Reporting,
    /// Nothing.
    Over,
}

/// The position of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunPosition {
    /// What it does next.
    pub phase: Phase,
    /// The sweep, counted from 1.
    pub sweep: u32,
    /// The page of the sweep, as AWS IoT's marker; `None` for the first page.
    pub marker: Option<String>,
    /// The last processed certificate of the page.
    after: Option<String>,
}

/// The counts of a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SweepCounts {
    /// All certificates within the command's scope; the sum of the next three.
    pub found: u64,
    /// Revoked by this run; in a dry run, those that it would revoke.
    pub revoked: u64,
    /// Revoked before.
    pub already_revoked: u64,
    /// Could not be revoked.
    pub failed: u64,
    /// Certificates revoked by this run whose sessions it ended.
    pub disconnected: u64,
    /// Certificates revoked by this run whose sessions it could not end.
    pub not_disconnected: u64,
}

/// The result for one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateResult {
    /// This run has revoked it.
    Revoked,
    /// This dry run would revoke it.
    WouldRevoke,
    /// It was revoked before.
    AlreadyRevoked,
    /// It could not be revoked.
    Failed,
    /// It is outside the command's scope, or has been deleted.
    Skipped,
}

/// What comes after a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterPage {
    /// The next page.
    NextPage,
    /// Another sweep, after a delay.
    NextSweep,
    /// The report.
    Report,
}

/// The progress of one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationRun {
    /// What was requested.
    #[serde(rename = "job")]
    pub request: RevocationRequest,
    /// The current step, counted from 1.
    pub step: u64,
    /// When the pending message is due, in a run that was stored by an older version of the function.
    #[serde(rename = "owed", default, skip_serializing)]
    pub due_at: Option<Timestamp>,
    /// Whether the target is blocked, and the CA deactivated.
    #[serde(rename = "isShut")]
    pub is_blocked: bool,
    /// Whether AWS IoT knows the CA; `None` before that is checked, and for a certificate.
    #[serde(default)]
    pub is_ca_known: Option<bool>,
    /// How far it is.
    #[serde(rename = "at")]
    pub position: RunPosition,
    /// What this sweep has counted so far.
    pub counts: SweepCounts,
    /// The certificate ids to list in the report: the first that failed or, in a dry run, would be revoked.
    #[serde(rename = "named")]
    pub listed: Vec<String>,
    /// Whether it was stopped because it made no progress.
    pub is_stuck: bool,
    /// What the previous sweep counted.
    #[serde(rename = "before")]
    previous: SweepCounts,
    /// The fewest failures in any sweep that had failures.
    fewest_failed: Option<u64>,
    #[serde(rename = "idle")]
    idle_steps: u32,
}

impl SweepCounts {
    fn max(self, other: Self) -> Self {
        Self {
            found: self.found.max(other.found),
            revoked: self.revoked.max(other.revoked),
            already_revoked: self.already_revoked.max(other.already_revoked),
            failed: self.failed.max(other.failed),
            disconnected: self.disconnected.max(other.disconnected),
            not_disconnected: self.not_disconnected.max(other.not_disconnected),
        }
    }
}

impl RevocationRun {
    /// A new run.
    pub fn new(request: RevocationRequest) -> Self {
        Self {
            request,
            step: 1,
            due_at: None,
            is_blocked: false,
            is_ca_known: None,
            position: RunPosition { phase: Phase::Sweeping, sweep: 1, marker: None, after: None },
            counts: SweepCounts::default(),
            listed: Vec::new(),
            is_stuck: false,
            previous: SweepCounts::default(),
            fewest_failed: None,
            idle_steps: 0,
        }
    }

    /// Whether the run is past this step.
    pub fn is_past(&self, step: u64) -> bool {
        step < self.step || self.position.phase == Phase::Over
    }

    /// Returns how many certificates of this page have been processed.
    pub fn processed_of<'a>(&self, page: impl IntoIterator<Item = &'a CertificateId>) -> usize {
        // Zero if the last processed one has been deleted: processing a certificate twice is harmless, but missing one
        // is not.
        let Some(after) = &self.position.after else { return 0 };
        page.into_iter().position(|id| id.as_str() == after).map_or(0, |index| index + 1)
    }

    /// Counts the session of a certificate that this run revoked. `is_known` says whether its thing is known;
    /// `is_disconnected` whether AWS IoT knew a session, or `None` if the session was not ended.
    pub fn count_session(&mut self, is_known: bool, is_disconnected: Option<bool>) {
        match is_disconnected {
            Some(true) => self.counts.disconnected += 1,
            None if is_known => self.counts.not_disconnected += 1,
            Some(false) | None => {}
        }
    }

    /// Counts the result for a certificate, and moves past it.
    pub fn count(&mut self, certificate: &CertificateId, result: CertificateResult) {
        let counter = match result {
            CertificateResult::Revoked | CertificateResult::WouldRevoke => Some(&mut self.counts.revoked),
            CertificateResult::AlreadyRevoked => Some(&mut self.counts.already_revoked),
            CertificateResult::Failed => Some(&mut self.counts.failed),
            CertificateResult::Skipped => None,
        };
        if let Some(counter) = counter {
            *counter += 1;
            self.counts.found += 1;
        }
        let is_listed =
            result == CertificateResult::WouldRevoke || (result == CertificateResult::Failed && !self.request.dry_run);
        if is_listed && self.listed.len() < MAX_LISTED {
            self.listed.push(certificate.to_string());
        }
        self.position.after = Some(certificate.to_string());
    }

    /// Moves to the page at `marker` or, after the last page, to the next sweep or the report.
    ///
    /// The first sweep is followed by a second, because a certificate that was being admitted may have been activated
    /// after the first had passed it. Further sweeps follow while fewer certificates fail than in any sweep before.
    pub fn finish_page(&mut self, marker: Option<String>) -> AfterPage {
        self.position.after = None;
        self.position.marker = marker;
        if self.position.marker.is_some() {
            return AfterPage::NextPage;
        }
        let failed = self.counts.failed;
        let is_progress = failed > 0 && self.fewest_failed.is_none_or(|fewest| failed < fewest);
        if is_progress {
            self.fewest_failed = Some(failed);
        }
        if self.request.dry_run || (self.position.sweep > 1 && !is_progress) {
            self.position.phase = Phase::Reporting;
            return AfterPage::Report;
        }
        self.position.sweep += 1;
        self.previous = std::mem::take(&mut self.counts);
        self.listed.clear();
        AfterPage::NextSweep
    }

    /// Ends this step, which started at this position.
    pub fn finish_step(&mut self, started_at: &RunPosition) {
        self.idle_steps = if self.position == *started_at { self.idle_steps + 1 } else { 0 };
        self.step += 1;
    }

    /// Ends the sweeps of a run that makes no progress. Returns whether it did.
    pub fn stop_if_stuck(&mut self) -> bool {
        let is_stuck = self.position.phase == Phase::Sweeping && self.idle_steps >= MAX_IDLE_STEPS;
        if is_stuck {
            self.position.phase = Phase::Reporting;
            self.is_stuck = true;
            // A sweep that was cut short has not counted everything that the previous one did.
            self.counts = self.counts.max(self.previous);
        }
        is_stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> CertificateId {
        CertificateId::new(&format!("{number:064x}")).expect("an id")
    }

    fn request() -> RevocationRequest {
        RevocationRequest::default()
    }

    /// A sweep of one page with this many failures and one success.
    fn sweep(run: &mut RevocationRun, failed: u64) -> AfterPage {
        (1..=failed).for_each(|number| run.count(&id(number), CertificateResult::Failed));
        run.count(&id(0), CertificateResult::Revoked);
        run.finish_page(None)
    }

    #[test]
    fn report_follows_a_second_sweep() {
        let mut run = RevocationRun::new(request());
        assert_eq!(sweep(&mut run, 0), AfterPage::NextSweep);
        assert_eq!((run.position.sweep, run.counts), (2, SweepCounts::default()));
        assert_eq!(sweep(&mut run, 0), AfterPage::Report);
        assert_eq!(run.counts, SweepCounts { found: 1, revoked: 1, ..SweepCounts::default() });
        assert_eq!(run.position.phase, Phase::Reporting);
    }

    #[test]
    fn dry_run_sweeps_once() {
        let mut run = RevocationRun::new(RevocationRequest { dry_run: true, ..request() });
        run.count(&id(1), CertificateResult::WouldRevoke);
        run.count(&id(2), CertificateResult::Failed);
        assert_eq!(run.finish_page(None), AfterPage::Report);
        assert_eq!(run.listed, [id(1).to_string()]);
    }

    #[test]
    fn sweeps_repeat_while_fewer_fail_than_ever_before() {
        let mut run = RevocationRun::new(request());
        let next: Vec<_> = [4, 3, 1, 1].into_iter().map(|failed| sweep(&mut run, failed)).collect();
        assert_eq!(next, [AfterPage::NextSweep, AfterPage::NextSweep, AfterPage::NextSweep, AfterPage::Report]);
        assert_eq!((run.counts.failed, run.listed.len()), (1, 1));
    }

    #[test]
    fn failures_of_the_second_sweep_are_retried_too() {
        let mut run = RevocationRun::new(request());
        let next: Vec<_> = [0, 2, 2].into_iter().map(|failed| sweep(&mut run, failed)).collect();
        assert_eq!(next, [AfterPage::NextSweep, AfterPage::NextSweep, AfterPage::Report]);
    }

    #[test]
    fn found_is_the_sum_of_the_others_without_the_skipped() {
        let mut run = RevocationRun::new(request());
        for (number, result) in [
            CertificateResult::Revoked,
            CertificateResult::AlreadyRevoked,
            CertificateResult::Failed,
            CertificateResult::Skipped,
        ]
        .into_iter()
        .enumerate()
        {
            run.count(&id(u64::try_from(number).expect("few")), result);
        }
        assert_eq!(
            run.counts,
            SweepCounts { found: 3, revoked: 1, already_revoked: 1, failed: 1, ..SweepCounts::default() }
        );
    }

    #[test]
    fn page_continues_after_the_last_processed_certificate() {
        let mut run = RevocationRun::new(request());
        let page = [id(1), id(2), id(3)];
        assert_eq!(run.processed_of(&page), 0);
        run.count(&id(2), CertificateResult::Revoked);
        assert_eq!(run.processed_of(&page), 2);
        // It has been deleted meanwhile.
        assert_eq!(run.processed_of(&[id(1), id(3)]), 0);
        run.finish_page(Some("next".to_owned()));
        assert_eq!(run.processed_of(&page), 0);
    }

    #[test]
    fn three_idle_steps_in_a_row_stop_a_run() {
        let mut run = RevocationRun::new(request());
        let idle = |run: &mut RevocationRun| {
            let started_at = run.position.clone();
            run.finish_step(&started_at);
            run.stop_if_stuck()
        };
        assert!(!idle(&mut run) && !idle(&mut run));
        let started_at = run.position.clone();
        run.count(&id(1), CertificateResult::Failed);
        run.finish_step(&started_at);
        assert!(!run.stop_if_stuck());
        assert!(!idle(&mut run) && !idle(&mut run) && idle(&mut run));
        assert_eq!((run.position.phase, run.is_stuck, run.step), (Phase::Reporting, true, 7));
    }

    #[test]
    fn stopped_run_reports_at_least_what_the_previous_sweep_counted() {
        let mut run = RevocationRun::new(request());
        (1..=9).for_each(|number| run.count(&id(number), CertificateResult::Revoked));
        run.finish_page(None);
        run.count(&id(1), CertificateResult::Revoked);
        run.idle_steps = MAX_IDLE_STEPS;
        assert!(run.stop_if_stuck());
        assert_eq!((run.counts.found, run.counts.revoked), (9, 9));
    }

    #[test]
    fn stored_run_is_read_back_unchanged() {
        let mut run = RevocationRun::new(RevocationRequest { reason: Some("its key leaked".to_owned()), ..request() });
        run.count(&id(1), CertificateResult::Failed);
        run.finish_step(&run.position.clone());
        let text = serde_json::to_string(&run).expect("serializes");
        assert_eq!(serde_json::from_str::<RevocationRun>(&text).expect("parses"), run);
    }
}
