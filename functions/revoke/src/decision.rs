//! What to do about one certificate, given its status and its record. No I/O.

use iot_registry::CertificateStatus;

use crate::certificate_record::CertificateRecord;

/// What to do about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationDecision {
    /// It may connect, or could become able to: revoke it.
    Revoke,
    /// It is revoked.
    Revoked {
        /// Whether this run revoked it, so that the count is right even if the process died between the revocation and
        /// the count.
        by_this_run: bool,
        /// Whether its record says something else and must be corrected.
        is_record_wrong: bool,
    },
}

impl RevocationDecision {
    /// Decides about a certificate on behalf of a run.
    pub fn new(status: &CertificateStatus, record: &CertificateRecord, run_id: &str) -> Self {
        if *status != CertificateStatus::Revoked {
            return Self::Revoke;
        }
        let by_this_run = record.revoked_by.as_deref() == Some(run_id);
        let is_record_wrong = match record.state.as_deref() {
            Some("revoked") => false,
            Some("admitting" | "admitted" | "found-active") => true,
            // A record of a rejection already explains the status, and a certificate that others revoked needs no
            // record.
            _ => by_this_run,
        };
        Self::Revoked { by_this_run, is_record_wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: &str, revoked_by: Option<&str>) -> CertificateRecord {
        let state = (!state.is_empty()).then(|| state.to_owned());
        CertificateRecord { state, revoked_by: revoked_by.map(str::to_owned), ..CertificateRecord::default() }
    }

    fn decide(status: &str, state: &str, revoked_by: Option<&str>) -> RevocationDecision {
        RevocationDecision::new(&status.into(), &record(state, revoked_by), "us")
    }

    #[test]
    fn unrevoked_certificate_is_revoked_whatever_its_record_says() {
        for status in ["ACTIVE", "INACTIVE", "PENDING_ACTIVATION", "PENDING_TRANSFER", "SOMETHING_NEW"] {
            for state in ["", "admitting", "admitted", "refused", "revoked"] {
                assert_eq!(decide(status, state, Some("us")), RevocationDecision::Revoke, "{status} {state}");
            }
        }
    }

    #[test]
    fn claimed_certificate_counts_for_this_run() {
        let ours = |state| decide("REVOKED", state, Some("us"));
        assert_eq!(ours("revoked"), RevocationDecision::Revoked { by_this_run: true, is_record_wrong: false });
        for state in ["", "admitting", "refused"] {
            assert_eq!(
                ours(state),
                RevocationDecision::Revoked { by_this_run: true, is_record_wrong: true },
                "{state}"
            );
        }
    }

    #[test]
    fn record_of_a_certificate_that_others_revoked_is_corrected_only_if_wrong() {
        for another in [None, Some("another")] {
            for (state, is_record_wrong) in [
                ("", false),
                ("refused", false),
                ("refusing", false),
                ("revoked", false),
                ("admitted", true),
                ("admitting", true),
                ("found-active", true),
            ] {
                let expected = RevocationDecision::Revoked { by_this_run: false, is_record_wrong };
                assert_eq!(decide("REVOKED", state, another), expected, "{state}");
            }
        }
    }
}
