//! How far a run is: one order, from the first step to the report.
//!
//! A run goes through a CA's certificates in *sweeps*, page by page, in as many *steps* as it takes: a step is what one
//! invocation does. A sweep counts everything anew, so that what the last one counted is what there is.

use gatehouse::{CertificateId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::order::Job;

/// How many certificates a report names; all of them are counted.
pub const NAMED: usize = 20;

/// How many steps in a row may get no further than the one before. AWS Lambda's own guard ends whatever calls itself 16
/// times, and is switched off: a large CA takes more.
const IDLE_STEPS: u32 = 3;

/// What a run does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Go on with the sweep.
    Sweeping,
    /// Tell what became of it.
    Telling,
    /// Nothing.
    Over,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// What it does next.
    pub phase: Phase,
    /// Which sweep, counted from 1.
    pub sweep: u32,
    /// Which page of it: AWS IoT's marker, none for the first one.
    pub marker: Option<String>,
    /// The last certificate of the page that is done with.
    after: Option<String>,
}

/// What a sweep counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All that the order is about; the sum of the others.
    pub found: u64,
    /// Revoked by this run; in a dry run, what it would revoke.
    pub revoked: u64,
    /// Revoked before.
    pub already_revoked: u64,
    /// Not revoked, in spite of an attempt.
    pub failed: u64,
}

/// What became of one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This run has revoked it.
    Revoked,
    /// This run would revoke it, were it not a dry run.
    WouldRevoke,
    /// It was revoked before.
    AlreadyRevoked,
    /// It could not be revoked.
    Failed,
    /// The order is not about it, or it is gone.
    Spared,
}

/// What follows a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next page.
    Page,
    /// Another sweep, after a while.
    Sweep,
    /// The report.
    Report,
}

/// One order on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// What was ordered.
    pub job: Job,
    /// The step that is due, counted from 1.
    pub step: u64,
    /// When the message that begins this step is due, where it may not have been sent.
    pub owed: Option<Timestamp>,
    /// Whether what comes first is done: the block, and the CA.
    pub is_shut: bool,
    /// Where it stands.
    pub at: Position,
    /// What this sweep has counted so far.
    pub counts: Counts,
    /// The ids of the first ones that failed; in a dry run, that would be revoked.
    pub named: Vec<String>,
    /// Whether it was ended because it got no further.
    pub is_stuck: bool,
    /// What the sweep before counted.
    before: Counts,
    /// The fewest failures that a sweep had, of those that had any.
    fewest_failed: Option<u64>,
    idle: u32,
}

impl Counts {
    fn at_least(self, other: Self) -> Self {
        Self {
            found: self.found.max(other.found),
            revoked: self.revoked.max(other.revoked),
            already_revoked: self.already_revoked.max(other.already_revoked),
            failed: self.failed.max(other.failed),
        }
    }
}

impl Run {
    /// A run at its beginning.
    pub fn new(job: Job) -> Self {
        Self {
            job,
            step: 1,
            owed: None,
            is_shut: false,
            at: Position { phase: Phase::Sweeping, sweep: 1, marker: None, after: None },
            counts: Counts::default(),
            named: Vec::new(),
            is_stuck: false,
            before: Counts::default(),
            fewest_failed: None,
            idle: 0,
        }
    }

    /// Whether a step is behind the run.
    pub fn is_past(&self, step: u64) -> bool {
        step < self.step || self.at.phase == Phase::Over
    }

    /// How many certificates of this page are done with.
    pub fn done_of<'a>(&self, page: impl IntoIterator<Item = &'a CertificateId>) -> usize {
        // From the start where that certificate is gone: a second look does no harm, a missing one does.
        let Some(after) = &self.at.after else { return 0 };
        page.into_iter().position(|id| id.as_str() == after).map_or(0, |index| index + 1)
    }

    /// Counts what became of a certificate, and moves on behind it.
    pub fn count(&mut self, certificate: &CertificateId, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Revoked | Outcome::WouldRevoke => Some(&mut self.counts.revoked),
            Outcome::AlreadyRevoked => Some(&mut self.counts.already_revoked),
            Outcome::Failed => Some(&mut self.counts.failed),
            Outcome::Spared => None,
        };
        if let Some(counter) = counter {
            *counter += 1;
            self.counts.found += 1;
        }
        let is_named = outcome == Outcome::WouldRevoke || (outcome == Outcome::Failed && !self.job.dry_run);
        if is_named && self.named.len() < NAMED {
            self.named.push(certificate.to_string());
        }
        self.at.after = Some(certificate.to_string());
    }

    /// Turns to the page behind `marker`, or behind the last one to what follows the sweep.
    ///
    /// A first sweep is followed by a second, because a certificate that was being admitted meanwhile may have been
    /// activated behind it. What failed is tried again, as long as fewer fail than ever before.
    pub fn turn_page(&mut self, marker: Option<String>) -> Next {
        self.at.after = None;
        self.at.marker = marker;
        if self.at.marker.is_some() {
            return Next::Page;
        }
        let failed = self.counts.failed;
        let is_worth_it = failed > 0 && self.fewest_failed.is_none_or(|fewest| failed < fewest);
        if is_worth_it {
            self.fewest_failed = Some(failed);
        }
        if self.job.dry_run || (self.at.sweep > 1 && !is_worth_it) {
            self.at.phase = Phase::Telling;
            return Next::Report;
        }
        self.at.sweep += 1;
        self.before = std::mem::take(&mut self.counts);
        self.named.clear();
        Next::Sweep
    }

    /// Ends this step, which began at `began`; the next one is due at `due`.
    pub fn hand_on(&mut self, began: &Position, due: Timestamp) {
        self.idle = if self.at == *began { self.idle + 1 } else { 0 };
        self.step += 1;
        self.owed = Some(due);
    }

    /// Ends the sweeps of a run that gets no further. Whether it is one.
    pub fn give_up_if_stuck(&mut self) -> bool {
        let is_stuck = self.at.phase == Phase::Sweeping && self.idle >= IDLE_STEPS;
        if is_stuck {
            self.at.phase = Phase::Telling;
            self.is_stuck = true;
            // A sweep that was cut short has not seen all that the one before had done.
            self.counts = self.counts.at_least(self.before);
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

    fn job() -> Job {
        Job::default()
    }

    /// A sweep of one page on which so many fail, and one does not.
    fn sweep(run: &mut Run, failed: u64) -> Next {
        (1..=failed).for_each(|number| run.count(&id(number), Outcome::Failed));
        run.count(&id(0), Outcome::Revoked);
        run.turn_page(None)
    }

    #[test]
    fn a_first_sweep_is_followed_by_a_second_and_that_by_the_report() {
        let mut run = Run::new(job());
        assert_eq!(sweep(&mut run, 0), Next::Sweep);
        assert_eq!((run.at.sweep, run.counts), (2, Counts::default()));
        assert_eq!(sweep(&mut run, 0), Next::Report);
        assert_eq!(run.counts, Counts { found: 1, revoked: 1, ..Counts::default() });
        assert_eq!(run.at.phase, Phase::Telling);
    }

    #[test]
    fn a_dry_run_sweeps_once() {
        let mut run = Run::new(Job { dry_run: true, ..job() });
        run.count(&id(1), Outcome::WouldRevoke);
        run.count(&id(2), Outcome::Failed);
        assert_eq!(run.turn_page(None), Next::Report);
        assert_eq!(run.named, [id(1).to_string()]);
    }

    #[test]
    fn what_fails_is_tried_again_while_fewer_fail_than_ever_before() {
        let mut run = Run::new(job());
        let next: Vec<_> = [4, 3, 1, 1].into_iter().map(|failed| sweep(&mut run, failed)).collect();
        assert_eq!(next, [Next::Sweep, Next::Sweep, Next::Sweep, Next::Report]);
        assert_eq!((run.counts.failed, run.named.len()), (1, 1));
    }

    #[test]
    fn what_fails_for_the_first_time_in_the_second_sweep_is_tried_again_too() {
        let mut run = Run::new(job());
        let next: Vec<_> = [0, 2, 2].into_iter().map(|failed| sweep(&mut run, failed)).collect();
        assert_eq!(next, [Next::Sweep, Next::Sweep, Next::Report]);
    }

    #[test]
    fn the_found_are_the_sum_of_the_others_and_the_spared_are_none_of_them() {
        let mut run = Run::new(job());
        for (number, outcome) in
            [Outcome::Revoked, Outcome::AlreadyRevoked, Outcome::Failed, Outcome::Spared].into_iter().enumerate()
        {
            run.count(&id(u64::try_from(number).expect("few")), outcome);
        }
        assert_eq!(run.counts, Counts { found: 3, revoked: 1, already_revoked: 1, failed: 1 });
    }

    #[test]
    fn a_page_is_gone_on_with_behind_the_last_certificate_that_is_done_with() {
        let mut run = Run::new(job());
        let page = [id(1), id(2), id(3)];
        assert_eq!(run.done_of(&page), 0);
        run.count(&id(2), Outcome::Revoked);
        assert_eq!(run.done_of(&page), 2);
        // It has been deleted meanwhile.
        assert_eq!(run.done_of(&[id(1), id(3)]), 0);
        run.turn_page(Some("next".to_owned()));
        assert_eq!(run.done_of(&page), 0);
    }

    #[test]
    fn three_steps_in_a_row_that_get_no_further_end_a_run_and_one_that_does_begins_the_count_anew() {
        let mut run = Run::new(job());
        let idle = |run: &mut Run| {
            let began = run.at.clone();
            run.hand_on(&began, Timestamp::from_millis(0));
            run.give_up_if_stuck()
        };
        assert!(!idle(&mut run) && !idle(&mut run));
        let began = run.at.clone();
        run.count(&id(1), Outcome::Failed);
        run.hand_on(&began, Timestamp::from_millis(0));
        assert!(!run.give_up_if_stuck());
        assert!(!idle(&mut run) && !idle(&mut run) && idle(&mut run));
        assert_eq!((run.at.phase, run.is_stuck, run.step), (Phase::Telling, true, 7));
    }

    #[test]
    fn a_run_that_is_stopped_in_a_later_sweep_reports_no_less_than_the_sweep_before_counted() {
        let mut run = Run::new(job());
        (1..=9).for_each(|number| run.count(&id(number), Outcome::Revoked));
        run.turn_page(None);
        run.count(&id(1), Outcome::Revoked);
        run.idle = IDLE_STEPS;
        assert!(run.give_up_if_stuck());
        assert_eq!((run.counts.found, run.counts.revoked), (9, 9));
    }

    #[test]
    fn a_run_is_stored_and_read_back_whole() {
        let mut run = Run::new(Job { reason: Some("its key leaked".to_owned()), ..job() });
        run.count(&id(1), Outcome::Failed);
        run.hand_on(&run.at.clone(), Timestamp::from_millis(7));
        let text = serde_json::to_string(&run).expect("serialises");
        assert_eq!(serde_json::from_str::<Run>(&text).expect("parses"), run);
    }
}
