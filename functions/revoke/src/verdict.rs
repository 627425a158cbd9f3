//! What is to be done about one certificate, as AWS IoT and its record have it now.

use aws_sdk_iot::types::CertificateStatus;
use gatehouse::x509::Serial;

/// What the devices table says of a certificate, as far as it matters here. Nothing where it has no record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The record's state.
    pub state: Option<String>,
    /// The run that set out to revoke it, the last one if there were several.
    pub revoked_by: Option<String>,
    /// Its serial number.
    pub serial: Option<Serial>,
}

/// What is to be done about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may connect, or may be made to: revoke it.
    Revoke,
    /// It is revoked.
    Revoked {
        /// By this run. A run that died between a revocation and its count still counts it right.
        by_us: bool,
        /// Whether its record says something else, and is to be put right.
        misnoted: bool,
    },
}

impl Verdict {
    /// Decides about a certificate in the name of a run.
    pub fn of(status: &CertificateStatus, known: &Known, run: &str) -> Self {
        if *status != CertificateStatus::Revoked {
            return Self::Revoke;
        }
        let by_us = known.revoked_by.as_deref() == Some(run);
        let misnoted = match known.state.as_deref() {
            Some("revoked") => false,
            Some("admitting" | "admitted" | "found-active") => true,
            // A record of a refusal says why, and needs no other. Where there is none, none is made for what others did.
            _ => by_us,
        };
        Self::Revoked { by_us, misnoted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(state: &str, revoked_by: Option<&str>) -> Known {
        let state = (!state.is_empty()).then(|| state.to_owned());
        Known { state, revoked_by: revoked_by.map(str::to_owned), serial: None }
    }

    fn verdict(status: &str, state: &str, revoked_by: Option<&str>) -> Verdict {
        Verdict::of(&status.into(), &known(state, revoked_by), "us")
    }

    #[test]
    fn whatever_is_not_revoked_is_revoked_whatever_its_record_says() {
        for status in ["ACTIVE", "INACTIVE", "PENDING_ACTIVATION", "PENDING_TRANSFER", "SOMETHING_NEW"] {
            for state in ["", "admitting", "admitted", "refused", "revoked"] {
                assert_eq!(verdict(status, state, Some("us")), Verdict::Revoke, "{status} {state}");
            }
        }
    }

    #[test]
    fn what_this_run_set_out_to_revoke_is_its_own_and_noted_if_it_is_not() {
        let ours = |state| verdict("REVOKED", state, Some("us"));
        assert_eq!(ours("revoked"), Verdict::Revoked { by_us: true, misnoted: false });
        for state in ["", "admitting", "refused"] {
            assert_eq!(ours(state), Verdict::Revoked { by_us: true, misnoted: true }, "{state}");
        }
    }

    #[test]
    fn what_others_revoked_is_noted_only_where_its_record_says_that_it_may_connect() {
        for another in [None, Some("another")] {
            for (state, misnoted) in [
                ("", false),
                ("refused", false),
                ("refusing", false),
                ("revoked", false),
                ("admitted", true),
                ("admitting", true),
                ("found-active", true),
            ] {
                let expected = Verdict::Revoked { by_us: false, misnoted };
                assert_eq!(verdict("REVOKED", state, another), expected, "{state}");
            }
        }
    }
}
