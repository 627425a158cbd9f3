//! `gatehouse revoke`: sends a command to the function `revoke`, and follows its run.

use std::io::IsTerminal;
use std::time::Duration;

use ::revoke::command::{RevocationCommand, RevocationTarget};
use ::revoke::report;
use ::revoke::run::{Phase, RevocationRun, SweepCounts};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use gatehouse::pki::CertificateId;
use gatehouse::store::item::{string, text};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::output::{self, escape};
use crate::status::{Status, UsageError};

/// Interval between two reads of the run's record.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The arguments of `gatehouse revoke`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Revoke only the certificates on the CA's published CRL, and do not block the CA.
    #[arg(long, conflicts_with = "certificate")]
    crl: bool,
    /// Why; stored in the record of every certificate.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Report what would be revoked, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Do not wait until the run has finished.
    #[arg(long)]
    no_wait: bool,
    /// Stop waiting after this many minutes. The run continues.
    #[arg(long, value_name = "MINUTES", default_value = "60", conflicts_with = "no_wait")]
    timeout: u32,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Block this CA, by its `caCertificateId`, and revoke every certificate that it signed.
    #[arg(long, value_name = "ID", value_parser = id)]
    ca: Option<CertificateId>,
    /// Block and revoke this certificate, by its `certificateId`.
    #[arg(long, value_name = "ID", value_parser = id)]
    certificate: Option<CertificateId>,
}

fn id(text: &str) -> Result<CertificateId, &'static str> {
    CertificateId::new(text).ok_or("it must be 64 hexadecimal digits")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// The run's ID, which also appears in logs and in the notification.
    run: String,
    is_over: bool,
    dry_run: bool,
    is_stuck: bool,
    counts: Option<SweepCounts>,
    /// The first certificates that failed or, in a dry run, would be revoked.
    listed: Vec<String>,
}

/// Sends the command, and waits for the end of its run.
pub async fn run(arguments: &Arguments, context: &Context) -> Result<Status> {
    let command = arguments.command()?;
    let question = match arguments.target()? {
        target if arguments.crl => format!("Revoke the certificates on the CRL of {target} permanently?"),
        RevocationTarget::Ca(ca) => format!("Block CA {ca}, and revoke all certificates that it signed permanently?"),
        RevocationTarget::Certificate(one) => format!("Block and revoke certificate {one} permanently?"),
    };
    if !arguments.dry_run && !arguments.yes && !output::confirm(&question)? {
        return Err(UsageError("nothing was revoked; confirm with --yes".to_owned()).into());
    }
    let run_id = send(&command, context).await?;
    if arguments.no_wait {
        let report = Report::new(run_id, arguments.dry_run, None);
        context.output.print(&report, || format!("The run {} has been started.", report.run))?;
        return Ok(Status::Success);
    }
    let target = arguments.target()?;
    let timeout = Duration::from_secs(u64::from(arguments.timeout) * 60);
    let followed = tokio::select! {
        followed = follow(&target, &run_id, timeout, context) => followed?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted: the run {run_id} continues, and reports to the admissions topic when it has finished");
            return Ok(Status::Interrupted);
        }
    };
    // The same text as in the notification to the admissions topic.
    let text = escape(&report::notification(&target, &run_id, &followed).message);
    let report = Report::new(run_id, arguments.dry_run, Some(&followed));
    context.output.print(&report, || text)?;
    let has_failed = report.is_stuck || report.counts.is_none_or(|counts| counts.failed > 0);
    Ok(if has_failed { Status::Problems } else { Status::Success })
}

impl Arguments {
    fn target(&self) -> Result<RevocationTarget> {
        let Target { ca, certificate } = &self.target;
        let ca = ca.clone().map(RevocationTarget::Ca);
        ca.or_else(|| certificate.clone().map(RevocationTarget::Certificate))
            .context("--ca or --certificate is required")
    }

    /// Returns the command as JSON, validated by the function's own code.
    fn command(&self) -> Result<String> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        match self.target()? {
            RevocationTarget::Ca(ca) => set("caCertificateId", ca.as_str().into()),
            RevocationTarget::Certificate(certificate) => set("certificateId", certificate.as_str().into()),
        }
        if self.crl {
            set("crl", true.into());
        }
        if self.dry_run {
            set("dryRun", true.into());
        }
        if let Some(reason) = &self.reason {
            set("reason", reason.as_str().into());
        }
        let fields = Value::Object(fields);
        let command: RevocationCommand =
            serde_json::from_value(fields.clone()).context("failed to write the command")?;
        command.parse().map_err(|refusal| UsageError(refusal.why.into_owned()))?;
        Ok(fields.to_string())
    }
}

/// Sends a command to the function's queue. Returns the ID of its run: that of the message.
async fn send(command: &str, context: &Context) -> Result<String> {
    let name = context.names.of("revoke");
    let sqs = context.sqs();
    let url = sqs.get_queue_url().queue_name(&name).send().await;
    let url = url.with_context(|| format!("failed to find queue {name}"))?.queue_url.unwrap_or_default();
    // A retry is harmless: a second copy starts a second run, which finds everything revoked.
    let sent = sqs.send_message().queue_url(url).message_body(command).send().await;
    let sent = sent.with_context(|| format!("failed to send to queue {name}"))?;
    sent.message_id.context("SQS returned no message ID")
}

/// Waits until a run is over, and shows its progress.
async fn follow(
    target: &RevocationTarget,
    run_id: &str,
    timeout: Duration,
    context: &Context,
) -> Result<RevocationRun> {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let ends = Instant::now() + timeout;
    loop {
        let run = read(target, run_id, context).await?;
        match run {
            Some(run) if run.position.phase == Phase::Over => {
                bar.finish_and_clear();
                return Ok(run);
            }
            Some(run) => bar.set_message(progress(&run)),
            None => bar.set_message("waiting for the function"),
        }
        bar.tick();
        if Instant::now() >= ends {
            bail!(
                "the run {run_id} has not finished; it continues, and reports to the admissions topic when it has. If it \
                 has not started, see the log of {} and its dead-letter queue",
                context.names.of("revoke")
            );
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn read(target: &RevocationTarget, run_id: &str, context: &Context) -> Result<Option<RevocationRun>> {
    let pk = match target {
        RevocationTarget::Ca(ca) => format!("ca#{ca}"),
        RevocationTarget::Certificate(certificate) => format!("certificate#{certificate}"),
    };
    let table = context.names.of("devices");
    let get = context.dynamodb().get_item().table_name(&table).consistent_read(true);
    let found = get.key("id", string(pk)).key("part", string(format!("revocation#{run_id}"))).send().await;
    let item = found.with_context(|| format!("failed to read table {table}"))?.item;
    let Some(item) = item else { return Ok(None) };
    let run = text(&item, "run").context("the record of the run has no run")?;
    serde_json::from_str(run)
        .map(Some)
        .context("failed to read the record of the run; is the tool as new as the function?")
}

fn progress(run: &RevocationRun) -> String {
    let SweepCounts { found, revoked, already_revoked, failed, .. } = run.counts;
    format!(
        "sweep {}: {found} found, {revoked} revoked, {already_revoked} had been revoked, {failed} failed",
        run.position.sweep
    )
}

impl Report {
    fn new(run: String, dry_run: bool, followed: Option<&RevocationRun>) -> Self {
        Self {
            run,
            dry_run,
            is_over: followed.is_some(),
            is_stuck: followed.is_some_and(|run| run.is_stuck),
            counts: followed.map(|run| run.counts),
            listed: followed.map(|run| run.listed.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(options: &[&str]) -> Result<Arguments, clap::Error> {
        Line::try_parse_from([&["revoke"], options].concat()).map(|line| line.arguments)
    }

    #[test]
    fn command_is_what_the_function_expects() {
        let id = "Ab".repeat(32);
        let lower = id.to_lowercase();
        for (options, expected) in [
            (&["--ca", &id, "--reason", "leaked"][..], format!(r#"{{"caCertificateId":"{lower}","reason":"leaked"}}"#)),
            (
                &["--ca", &id, "--crl", "--dry-run"],
                format!(r#"{{"caCertificateId":"{lower}","crl":true,"dryRun":true}}"#),
            ),
            (&["--certificate", &id], format!(r#"{{"certificateId":"{lower}"}}"#)),
        ] {
            let command = parse(options).expect("valid options").command().expect("a valid command");
            assert_eq!(command, expected);
        }
    }

    #[test]
    fn invalid_options_are_usage_errors() {
        let id = "ab".repeat(32);
        let options: [&[&str]; 4] =
            [&[], &["--ca", "xyz"], &["--ca", &id, "--certificate", &id], &["--certificate", &id, "--crl"]];
        for options in options {
            assert!(parse(options).is_err(), "{options:?}");
        }
        let long = "x".repeat(257);
        let error = parse(&["--ca", &id, "--reason", &long]).expect("valid form").command().expect_err("too long");
        assert!(error.is::<UsageError>(), "{error:#}");
    }

    #[test]
    fn report_of_a_run_has_its_counts_and_what_failed() {
        let mut run = RevocationRun::new(::revoke::command::RevocationRequest::default());
        run.counts = SweepCounts { found: 3, revoked: 2, failed: 1, ..SweepCounts::default() };
        run.listed = vec!["ab".to_owned()];
        let report = Report::new("run-1".to_owned(), false, Some(&run));
        assert!(report.is_over && !report.is_stuck);
        assert_eq!(report.counts.map(|counts| counts.failed), Some(1));
        assert_eq!(report.listed, ["ab"]);
    }
}
