//! How far a run is, and what comes next: without I/O or clock.

use serde::{Deserialize, Serialize};

/// After so many sweeps the report says what failed, and an operator must look.
const SWEEPS: u32 = 6;

/// What has been done of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where the list of certificates goes on; none at the begin of a sweep.
    pub marker: Option<String>,
    /// Which sweep it is, from 0.
    pub sweep: u32,
    /// Certificates that this sweep has seen.
    pub found: u64,
    /// Certificates that were revoked, or would be, in all sweeps.
    pub revoked: u64,
    /// Certificates that had been revoked before the first sweep.
    pub already_revoked: u64,
    /// Certificates that could not be revoked in this sweep.
    pub failed: u64,
    /// Certificates that were revoked in this sweep.
    pub revoked_now: u64,
}

/// What came of one page of certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Page {
    /// Certificates on it.
    pub found: u64,
    /// Revoked just now.
    pub revoked: u64,
    /// Not revoked, for they were.
    pub already_revoked: u64,
    /// Not revoked, though they should be.
    pub failed: u64,
}

/// What comes after a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another sweep, once an admission that was under way is over.
    SweepAgain,
    /// The report.
    Report,
}

impl Progress {
    /// Takes a page in.
    pub fn add(&mut self, page: Page, marker: Option<String>) {
        self.found += page.found;
        self.revoked += page.revoked;
        self.revoked_now += page.revoked;
        self.failed += page.failed;
        if self.sweep == 0 {
            self.already_revoked += page.already_revoked;
        }
        self.marker = marker;
    }

    /// What comes once a sweep has seen everything. The second one is for what an admission under way let in during the
    /// first; more of them only while something fails and something succeeds.
    pub fn next(&self, is_dry: bool) -> Next {
        let goes_on = self.failed > 0 && self.revoked_now > 0 && self.sweep + 1 < SWEEPS;
        if !is_dry && (self.sweep == 0 || goes_on) { Next::SweepAgain } else { Next::Report }
    }

    /// The begin of the next sweep.
    #[must_use]
    pub fn next_sweep(&self) -> Self {
        Self { sweep: self.sweep + 1, revoked: self.revoked, already_revoked: self.already_revoked, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(found: u64, revoked: u64, already_revoked: u64, failed: u64) -> Page {
        Page { found, revoked, already_revoked, failed }
    }

    #[test]
    fn there_is_always_a_second_sweep_but_for_a_dry_run() {
        let mut progress = Progress::default();
        progress.add(page(3, 2, 1, 0), None);
        assert_eq!((progress.next(false), progress.next(true)), (Next::SweepAgain, Next::Report));
        let mut second = progress.next_sweep();
        second.add(page(3, 0, 3, 0), None);
        assert_eq!(second.next(false), Next::Report);
        assert_eq!((second.found, second.revoked, second.already_revoked, second.failed), (3, 2, 1, 0));
    }

    #[test]
    fn what_failed_is_tried_again_as_long_as_something_succeeds() {
        let mut progress = Progress { sweep: 1, ..Progress::default() };
        progress.add(page(3, 1, 0, 2), None);
        assert_eq!(progress.next(false), Next::SweepAgain);
        let mut stuck = progress.next_sweep();
        stuck.add(page(3, 0, 1, 2), None);
        assert_eq!(stuck.next(false), Next::Report);
        let last = Progress { sweep: SWEEPS - 1, failed: 1, revoked_now: 1, ..Progress::default() };
        assert_eq!(last.next(false), Next::Report);
    }
}
