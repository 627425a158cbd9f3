//! What people read once a run has ended.

use gatehouse::{Attribute, Notification};

use crate::order::Subject;
use crate::run::Run;

/// The report on a run that has swept for the last time. `id` is the id of the event that began it.
pub fn notification(subject: &Subject, id: &str, run: &Run) -> Notification {
    let counts = &run.counts;
    let verb = if run.job.dry_run { "would be revoked" } else { "revoked" };
    let mut lines = vec![
        outcome(subject, run),
        format!(
            "{} found, {} {verb}, {} had been revoked, {} failed.",
            counts.found, counts.revoked, counts.already_revoked, counts.failed
        ),
    ];
    lines.extend(run.job.reason.as_ref().map(|reason| format!("Reason: {reason}")));
    if !run.named.is_empty() {
        lines.push(if run.job.dry_run { "Would be revoked:" } else { "Failed:" }.to_owned());
        lines.extend(run.named.iter().cloned());
        let all = if run.job.dry_run { counts.revoked } else { counts.failed };
        let more = all.saturating_sub(u64::try_from(run.named.len()).unwrap_or(u64::MAX));
        lines.extend((more > 0).then(|| format!("and {more} more; the function's log names them.")));
    }
    let (name, certificate) = match subject {
        Subject::CaCertificate(ca) => ("caCertificateId", ca),
        Subject::Certificate(certificate) => ("certificateId", certificate),
    };
    Notification {
        subject: title(run),
        message: lines.join("\n"),
        data: None,
        attributes: vec![(name, Attribute::Text(certificate.to_string())), ("eventId", Attribute::Text(id.to_owned()))],
    }
}

fn title(run: &Run) -> String {
    let counts = &run.counts;
    if run.is_stuck {
        "Revocation stopped before its end".to_owned()
    } else if run.job.dry_run {
        format!("Dry run of a revocation: {} to revoke", counts.revoked)
    } else if counts.failed > 0 {
        format!("Revocation incomplete: {} failed", counts.failed)
    } else {
        format!("Revocation complete: {} revoked", counts.revoked)
    }
}

fn outcome(subject: &Subject, run: &Run) -> String {
    let counts = &run.counts;
    if run.is_stuck {
        return format!(
            "{subject}: the revocation got no further and was stopped. Certificates that are not revoked may still \
             connect. The function's log says what is in the way; give the order again."
        );
    }
    if run.job.dry_run {
        return format!("{subject}: nothing was changed. This is what the order would do.");
    }
    if counts.failed > 0 {
        return format!(
            "{subject}: {} could not be revoked and may still connect. The function's log says why; give the order \
             again.",
            counts.failed
        );
    }
    match subject {
        Subject::Certificate(_) if counts.found == 0 => {
            format!("{subject} is blocked. AWS IoT does not know it; it will be turned away.")
        }
        Subject::Certificate(_) => format!("{subject} is blocked and revoked."),
        Subject::CaCertificate(_) if run.job.only_listed => {
            format!("{subject}: all its certificates that are on its revocation list are revoked.")
        }
        Subject::CaCertificate(_) => {
            format!("{subject} is blocked and inactive, and all certificates that it signed are revoked.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Job;
    use crate::run::{Counts, NAMED};
    use gatehouse::CertificateId;

    fn subject() -> Subject {
        Subject::CaCertificate(CertificateId::new(&"a".repeat(64)).expect("an id"))
    }

    fn run(counts: Counts, job: Job) -> Run {
        let mut run = Run::new(job);
        run.counts = counts;
        run
    }

    #[test]
    fn a_complete_revocation_is_told_with_its_counts_and_its_reason() {
        let counts = Counts { found: 12, revoked: 10, already_revoked: 2, failed: 0 };
        let job = Job { reason: Some("its key leaked".to_owned()), ..Job::default() };
        let told = notification(&subject(), "event-1", &run(counts, job));
        assert_eq!(told.subject, "Revocation complete: 10 revoked");
        let ca = "a".repeat(64);
        assert_eq!(
            told.message,
            format!(
                "CA {ca} is blocked and inactive, and all certificates that it signed are revoked.\n\
                 12 found, 10 revoked, 2 had been revoked, 0 failed.\nReason: its key leaked"
            )
        );
        assert_eq!(
            told.attributes,
            [("caCertificateId", Attribute::Text(ca)), ("eventId", Attribute::Text("event-1".to_owned()))]
        );
    }

    #[test]
    fn what_failed_is_named_up_to_a_number_and_counted_beyond_it() {
        let counts = Counts { found: 30, revoked: 5, already_revoked: 0, failed: 25 };
        let mut run = run(counts, Job::default());
        run.named = vec!["b".repeat(64); NAMED];
        let told = notification(&subject(), "event-1", &run);
        assert_eq!(told.subject, "Revocation incomplete: 25 failed");
        assert!(told.message.contains("25 could not be revoked and may still connect."), "{}", told.message);
        assert!(told.message.ends_with("and 5 more; the function's log names them."), "{}", told.message);
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_changed() {
        let counts = Counts { found: 3, revoked: 2, already_revoked: 1, failed: 0 };
        let told = notification(&subject(), "event-1", &run(counts, Job { dry_run: true, ..Job::default() }));
        assert_eq!(told.subject, "Dry run of a revocation: 2 to revoke");
        assert!(told.message.contains("nothing was changed"), "{}", told.message);
        assert!(
            told.message.contains("\n3 found, 2 would be revoked, 1 had been revoked, 0 failed."),
            "{}",
            told.message
        );
    }

    #[test]
    fn a_certificate_that_aws_iot_does_not_know_is_said_to_be_blocked() {
        let subject = Subject::Certificate(CertificateId::new(&"c".repeat(64)).expect("an id"));
        let told = notification(&subject, "event-1", &run(Counts::default(), Job::default()));
        assert!(told.message.contains("is blocked. AWS IoT does not know it"), "{}", told.message);
    }

    #[test]
    fn a_run_that_was_stopped_never_reads_like_one_that_is_complete() {
        let mut stuck = run(Counts::default(), Job::default());
        stuck.is_stuck = true;
        let told = notification(&subject(), "event-1", &stuck);
        assert_eq!(told.subject, "Revocation stopped before its end");
        assert!(told.message.contains("may still connect"), "{}", told.message);
    }
}
