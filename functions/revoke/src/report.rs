//! The report that people receive when a run has ended.

use gatehouse::{Attribute, Notification};

use crate::command::RevocationTarget;
use crate::run::RevocationRun;

/// Returns the report on a run whose sweeps have ended. `id` is the run's id.
pub fn notification(target: &RevocationTarget, id: &str, run: &RevocationRun) -> Notification {
    let counts = &run.counts;
    let verb = if run.request.dry_run { "would be revoked" } else { "revoked" };
    let mut lines = vec![
        summary(target, run),
        format!(
            "{} found, {} {verb}, {} had been revoked, {} failed.",
            counts.found, counts.revoked, counts.already_revoked, counts.failed
        ),
    ];
    lines.extend((counts.disconnected > 0).then(|| format!("{} disconnected.", counts.disconnected)));
    lines.extend((counts.not_disconnected > 0).then(|| {
        format!(
            "{} could not be disconnected: AWS IoT ends their sessions by itself, within minutes.",
            counts.not_disconnected
        )
    }));
    lines.extend(run.request.reason.as_ref().map(|reason| format!("Reason: {reason}")));
    if !run.listed.is_empty() {
        lines.push(if run.request.dry_run { "Would be revoked:" } else { "Failed:" }.to_owned());
        lines.extend(run.listed.iter().cloned());
        let all = if run.request.dry_run { counts.revoked } else { counts.failed };
        let more = all.saturating_sub(u64::try_from(run.listed.len()).unwrap_or(u64::MAX));
        lines.extend((more > 0).then(|| format!("and {more} more; the function's log names them.")));
    }
    let (name, certificate) = match target {
        RevocationTarget::Ca(ca) => ("caCertificateId", ca),
        RevocationTarget::Certificate(certificate) => ("certificateId", certificate),
    };
    Notification {
        subject: title(run),
        message: lines.join("\n"),
        data: None,
        attributes: vec![(name, Attribute::Text(certificate.to_string())), ("eventId", Attribute::Text(id.to_owned()))],
    }
}

fn title(run: &RevocationRun) -> String {
    let counts = &run.counts;
    if run.is_stuck {
        "Revocation stopped: no progress".to_owned()
    } else if run.is_ca_known == Some(false) {
        let dry_run = if run.request.dry_run { " (dry run)" } else { "" };
        format!("Revocation{dry_run}: AWS IoT does not know the CA")
    } else if run.request.dry_run {
        format!("Dry run of a revocation: {} to revoke", counts.revoked)
    } else if counts.failed > 0 {
        format!("Revocation incomplete: {} failed", counts.failed)
    } else {
        format!("Revocation complete: {} revoked", counts.revoked)
    }
}

fn summary(target: &RevocationTarget, run: &RevocationRun) -> String {
    let counts = &run.counts;
    if run.is_stuck {
        return format!(
            "{target}: the revocation made no progress and was stopped. Certificates that are not revoked may still \
             connect. The function's log says why; send the command again."
        );
    }
    let is_unknown = match target {
        RevocationTarget::Ca(_) => run.is_ca_known == Some(false),
        RevocationTarget::Certificate(_) => counts.found == 0,
    };
    let unknown = if is_unknown { " It is not registered with AWS IoT: check the ID." } else { "" };
    if run.request.dry_run {
        return format!("{target}: nothing was changed.{unknown} This is what the command would do.");
    }
    if counts.failed > 0 {
        return format!(
            "{target}: {} could not be revoked and may still connect. The function's log says why; send the command \
             again.",
            counts.failed
        );
    }
    match target {
        _ if is_unknown => {
            let admitted = match target {
                RevocationTarget::Ca(_) => "devices with its certificates are not admitted",
                RevocationTarget::Certificate(_) => "if a device presents it, it is rejected",
            };
            format!("{target} is blocked: {admitted}.{unknown}")
        }
        RevocationTarget::Certificate(_) => format!("{target} is blocked and revoked."),
        RevocationTarget::Ca(_) if run.request.only_listed => {
            format!("{target}: all its certificates on its revocation list are revoked.")
        }
        RevocationTarget::Ca(_) => {
            format!("{target} is blocked and inactive, and all registered certificates that it signed are revoked.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::RevocationRequest;
    use crate::run::{MAX_LISTED, SweepCounts};
    use gatehouse::pki::CertificateId;

    fn target() -> RevocationTarget {
        RevocationTarget::Ca(CertificateId::new(&"a".repeat(64)).expect("an id"))
    }

    fn run(counts: SweepCounts, request: RevocationRequest) -> RevocationRun {
        let mut run = RevocationRun::new(request);
        run.counts = counts;
        run
    }

    #[test]
    fn complete_revocation_is_reported_with_counts_and_reason() {
        let counts = SweepCounts { found: 12, revoked: 10, already_revoked: 2, failed: 0, ..SweepCounts::default() };
        let request = RevocationRequest { reason: Some("its key leaked".to_owned()), ..RevocationRequest::default() };
        let report = notification(&target(), "event-1", &run(counts, request));
        assert_eq!(report.subject, "Revocation complete: 10 revoked");
        let ca = "a".repeat(64);
        assert_eq!(
            report.message,
            format!(
                "CA {ca} is blocked and inactive, and all registered certificates that it signed are revoked.\n\
                 12 found, 10 revoked, 2 had been revoked, 0 failed.\nReason: its key leaked"
            )
        );
        assert_eq!(
            report.attributes,
            [("caCertificateId", Attribute::Text(ca)), ("eventId", Attribute::Text("event-1".to_owned()))]
        );
    }

    #[test]
    fn failed_certificates_are_listed_up_to_a_limit() {
        let counts = SweepCounts { found: 30, revoked: 5, already_revoked: 0, failed: 25, ..SweepCounts::default() };
        let mut run = run(counts, RevocationRequest::default());
        run.listed = vec!["b".repeat(64); MAX_LISTED];
        let report = notification(&target(), "event-1", &run);
        assert_eq!(report.subject, "Revocation incomplete: 25 failed");
        assert!(report.message.contains("25 could not be revoked and may still connect."), "{}", report.message);
        assert!(report.message.ends_with("and 5 more; the function's log names them."), "{}", report.message);
    }

    #[test]
    fn ended_sessions_are_reported_apart_from_those_that_go_on() {
        let counts =
            SweepCounts { found: 3, revoked: 3, disconnected: 2, not_disconnected: 1, ..SweepCounts::default() };
        let report = notification(&target(), "event-1", &run(counts, RevocationRequest::default()));
        let expected = "3 found, 3 revoked, 0 had been revoked, 0 failed.\n2 disconnected.\n\
                        1 could not be disconnected: AWS IoT ends their sessions by itself, within minutes.";
        assert!(report.message.ends_with(expected), "{}", report.message);
    }

    #[test]
    fn dry_run_says_that_nothing_was_changed() {
        let counts = SweepCounts { found: 3, revoked: 2, already_revoked: 1, failed: 0, ..SweepCounts::default() };
        let report = notification(
            &target(),
            "event-1",
            &run(counts, RevocationRequest { dry_run: true, ..RevocationRequest::default() }),
        );
        assert_eq!(report.subject, "Dry run of a revocation: 2 to revoke");
        assert!(report.message.contains("nothing was changed"), "{}", report.message);
        assert!(
            report.message.contains("\n3 found, 2 would be revoked, 1 had been revoked, 0 failed."),
            "{}",
            report.message
        );
    }

    #[test]
    fn unregistered_certificate_is_reported_as_blocked() {
        let target = RevocationTarget::Certificate(CertificateId::new(&"c".repeat(64)).expect("an id"));
        let report = notification(&target, "event-1", &run(SweepCounts::default(), RevocationRequest::default()));
        assert!(report.message.contains("It is not registered with AWS IoT: check the ID."), "{}", report.message);
    }

    #[test]
    fn unknown_ca_is_not_reported_as_revoked() {
        for (dry_run, subject) in [
            (false, "Revocation: AWS IoT does not know the CA"),
            (true, "Revocation (dry run): AWS IoT does not know the CA"),
        ] {
            let mut unknown =
                run(SweepCounts::default(), RevocationRequest { dry_run, ..RevocationRequest::default() });
            unknown.is_ca_known = Some(false);
            let report = notification(&target(), "event-1", &unknown);
            assert_eq!(report.subject, subject);
            assert!(report.message.contains("It is not registered with AWS IoT: check the ID."), "{}", report.message);
            assert!(!report.message.contains("all registered certificates"), "{}", report.message);
        }
    }

    #[test]
    fn stopped_run_never_reads_like_a_complete_one() {
        let mut stuck = run(SweepCounts::default(), RevocationRequest::default());
        stuck.is_stuck = true;
        let report = notification(&target(), "event-1", &stuck);
        assert_eq!(report.subject, "Revocation stopped: no progress");
        assert!(report.message.contains("may still connect"), "{}", report.message);
    }
}
