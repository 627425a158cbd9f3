//! `revoke` revokes all certificates of a CA, those on its CRL, or a single one. Also tests `gatehouse ca`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_iot::types::CertificateStatus;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use libtest_mimic::Trial;
use local_cloud::device::{ConnectResult, Device, Identity};
use local_cloud::isolation::{self, Inherit};
use local_cloud::observer::{Notification, Observer};
use local_cloud::pki::{CertificateSpec, Crl, IssuedCertificate};
use serde_json::json;

use crate::admission::Gate;
use crate::programs;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("revoke", "blocking_a_ca_revokes_its_1000_certificates_over_many_pages", whole_ca),
        suite.trial("revoke", "dry_run_changes_nothing_and_reports_what_it_would_revoke", dry_run),
        suite.trial("revoke", "only_certificates_on_the_crl_are_revoked", crl),
        suite.trial("revoke", "single_revoked_certificate_is_never_admitted_again", single_certificate),
        suite.trial("revoke", "ca_commands_create_a_device_and_revoke_it", authority_commands),
        suite.trial("jitr", "rejected_or_revoked_certificate_is_readmitted_by_an_operator", readmission),
    ]
}

/// Sets the rate limit of `revoke`, and shortens its resweep delay.
pub async fn set_rate(gate: &Gate, per_second: usize) -> Result<()> {
    let change = |variables: &mut HashMap<String, String>| {
        variables.insert("REVOCATIONS_PER_SECOND".to_owned(), per_second.to_string());
        variables.insert("RESWEEP_DELAY_SECONDS".to_owned(), "1".to_owned());
    };
    gate.stage.configure("revoke", change).await
}

/// Waits for the report of a run.
async fn revocation_report(gate: &Gate) -> Result<Notification> {
    let find = |observer: &Observer| {
        observer
            .notifications()
            .into_iter()
            .find(|it| it.topic.ends_with("-admissions") && it.message.contains("found"))
    };
    let found = gate.stage.observer.until(find).await;
    found.with_context(|| {
        let revoke = gate.stage.name("revoke").unwrap_or_default();
        format!("there is no report; the last log lines: {:#?}", gate.stage.observer.last_lines(revoke))
    })
}

pub async fn register_active(gate: &Gate, name: &str) -> Result<IssuedCertificate> {
    let issued = gate.ca.issue(&CertificateSpec::named(name))?;
    let register = gate.stage.clients.iot.register_certificate().certificate_pem(&issued.pem);
    register.ca_certificate_pem(&gate.ca.pem).status(CertificateStatus::Active).send().await?;
    Ok(issued)
}

/// Counts the CA's certificates with this status.
async fn count(gate: &Gate, status: &CertificateStatus) -> Result<usize> {
    let mut pages = gate.stage.clients.iot.list_certificates_by_ca().ca_certificate_id(&gate.ca.id);
    let mut count = 0;
    loop {
        let page = pages.clone().page_size(250).send().await?;
        count += page.certificates().iter().filter(|found| found.status() == Some(status)).count();
        match page.next_marker {
            Some(marker) if !marker.is_empty() => pages = pages.set_marker(Some(marker)),
            _ => return Ok(count),
        }
    }
}

async fn whole_ca(suite: Arc<Suite>) -> Result<()> {
    const CERTIFICATES: usize = 1_000;
    // Because of the rate limit, no invocation revokes more than this, even on the fastest machine.
    const PER_SECOND: usize = 50;
    const SECONDS: usize = 8;
    const PER_INVOCATION: usize = PER_SECOND * SECONDS;
    let gate = Gate::new(&suite).await?;
    let (mut device, _) = gate.admitted("thing-1").await?;
    device.disconnect();
    let names = (1..CERTIFICATES).map(|number| format!("more-{number}"));
    stream::iter(names)
        .map(async |name| register_active(&gate, &name).await)
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await?;
    set_rate(&gate, PER_SECOND).await?;
    let keep_timeouts = |variables: &mut HashMap<String, String>| {
        variables.insert("OPERATION_TIMEOUT_SECONDS".to_owned(), "3".to_owned());
    };
    gate.stage.configure("revoke", keep_timeouts).await?;
    gate.stage.set_timeout("revoke", Duration::from_secs(SECONDS.try_into()?)).await?;

    // Sent through the topic, as a monitoring system does.
    let command = json!({"caCertificateId": gate.ca.id, "reason": "its key has leaked"}).to_string();
    let topic = gate.stage.deployment.output("RevokeTopicArn")?;
    gate.stage.clients.sns.publish().topic_arn(topic).message(command).send().await?;
    let report = revocation_report(&gate).await?;
    let expected = format!("{CERTIFICATES} found, {CERTIFICATES} revoked, 0 had been revoked, 0 failed");
    ensure!(report.message.contains(&expected), "the report does not contain {expected}: {}", report.message);
    ensure!(
        report.message.contains("its key has leaked"),
        "the report does not contain the reason: {}",
        report.message
    );
    ensure!(count(&gate, &CertificateStatus::Revoked).await? == CERTIFICATES, "not all are revoked");
    let invocations = gate.stage.observer.invocations(gate.stage.name("revoke")?);
    ensure!(invocations > CERTIFICATES / PER_INVOCATION, "there were only {invocations} invocations");

    let ca = gate.stage.clients.iot.describe_ca_certificate().certificate_id(&gate.ca.id).send().await?;
    let ca = ca.certificate_description.context("the CA does not exist")?;
    ensure!(ca.status.is_some_and(|status| status.as_str() == "INACTIVE"), "the CA is active");
    ensure!(
        ca.auto_registration_status.is_some_and(|status| status.as_str() == "DISABLE"),
        "automatic registration is enabled"
    );
    let block = gate.admissions.item(&format!("ca#{}", gate.ca.id), "status").await?;
    ensure!(block.is_some_and(|item| item.contains_key("blockReason")), "the block is not recorded");
    ensure!(device.try_connect().await? != ConnectResult::Accepted, "a revoked device connected");
    let late = gate.ca.issue(&CertificateSpec::named("late"))?;
    ensure!(gate.device(&late, "late").try_connect().await? != ConnectResult::Accepted, "a new device connected");
    gate.stage.queue_shrinks_to("RevokeQueueUrl", 0).await?;
    let reports = gate.stage.observer.notifications().into_iter().filter(|it| it.message.contains("found"));
    ensure!(reports.count() == 1, "there was more than one report");
    Ok(())
}

async fn dry_run(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    for name in ["one", "two", "three"] {
        register_active(&gate, name).await?;
    }
    set_rate(&gate, 1_000).await?;
    gate.stage.invoke("revoke", &json!({"caCertificateId": gate.ca.id, "dryRun": true})).await?;
    let report = revocation_report(&gate).await?;
    ensure!(report.message.contains("3 found, 3 would be revoked"), "the report is: {}", report.message);
    ensure!(count(&gate, &CertificateStatus::Active).await? == 3, "certificates were changed");
    let ca = gate.stage.clients.iot.describe_ca_certificate().certificate_id(&gate.ca.id).send().await?;
    let status = ca.certificate_description.and_then(|found| found.status);
    ensure!(status.is_some_and(|status| status.as_str() == "ACTIVE"), "the CA was changed");
    let block = gate.admissions.item(&format!("ca#{}", gate.ca.id), "status").await?;
    ensure!(block.is_none(), "a block was recorded: {block:?}");
    Ok(())
}

async fn crl(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let (connected, admitted) = gate.admitted("admitted").await?;
    let registered = register_active(&gate, "registered").await?;
    let (mut unlisted, _) = gate.admitted("unlisted").await?;
    let crl = Crl::new(1).with_revoked(&admitted.serial).with_revoked(&registered.serial);
    gate.ca.publish_crl(&gate.stage.clients, gate.admissions.table(), &crl).await?;
    set_rate(&gate, 1_000).await?;
    gate.stage.invoke("revoke", &json!({"caCertificateId": gate.ca.id, "crl": true})).await?;
    let report = revocation_report(&gate).await?;
    ensure!(report.message.contains("2 revoked"), "the report is: {}", report.message);
    // The other device has never connected.
    ensure!(report.message.contains("\n1 disconnected."), "the report is: {}", report.message);
    let is_ended = |observer: &Observer| {
        let events = observer.system_messages(0).into_iter();
        let mut of_device = events.filter(|event| event.topic == "$aws/events/presence/disconnected/admitted");
        of_device.find(|event| String::from_utf8_lossy(&event.payload).contains("API_INITIATED_DISCONNECT"))
    };
    gate.stage.observer.until(is_ended).await.context("the device was not disconnected")?;
    for issued in [&admitted, &registered] {
        ensure!(gate.status(issued).await? == "REVOKED", "a certificate on the CRL is not revoked");
    }
    drop(connected);
    unlisted.disconnect();
    ensure!(
        unlisted.try_connect().await? == ConnectResult::Accepted,
        "a certificate that is not on the CRL was revoked"
    );
    Ok(())
}

async fn single_certificate(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let (mut stolen, issued) = gate.admitted("stolen").await?;
    stolen.disconnect();
    set_rate(&gate, 1_000).await?;
    gate.stage.invoke("revoke", &json!({"certificateId": issued.id, "reason": "it was stolen"})).await?;
    let report = revocation_report(&gate).await?;
    ensure!(report.message.contains("1 found, 1 revoked"), "the report is: {}", report.message);
    // Not even if AWS IoT reports it as new.
    gate.set_status(&issued, CertificateStatus::PendingActivation).await?;
    gate.stage.invoke("jitr", &gate.event("again", &issued)).await?;
    let record = gate.outcome(&issued).await?;
    ensure!(record.reason.as_deref() == Some("blocked"), "{record:?}");
    ensure!(stolen.try_connect().await? != ConnectResult::Accepted, "the device connected");
    Ok(())
}

/// Runs `gatehouse ca` against the local cloud. Returns its standard output.
async fn ca_tool(gate: &Gate, home: &Path, arguments: &[&str]) -> Result<String> {
    let stage = &gate.stage;
    let program = programs::gatehouse()?;
    let mut command =
        isolation::command(program, Inherit::Minimal, stage.cloud.endpoint, &stage.account, &stage.cloud.scratch);
    command.env("GATEHOUSE_CA_DIR", home).args(["--prefix", &stage.deployment.stack, "ca"]).args(arguments);
    let Output { status, stdout, stderr } =
        tokio::process::Command::from(command).kill_on_drop(true).output().await.context("failed to run the tool")?;
    let output = String::from_utf8(stdout)?;
    ensure!(status.success(), "{arguments:?} ended with {status}: {output}{}", String::from_utf8_lossy(&stderr));
    Ok(output)
}

async fn readmission(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let home = tempfile::tempdir()?;
    set_rate(&gate, 1_000).await?;
    let (_, old) = gate.admitted("renewed").await?;
    let issued = gate.ca.issue(&CertificateSpec::named("renewed"))?;
    let mut device = gate.device(&issued, "renewed");
    ensure!(device.try_connect().await? != ConnectResult::Accepted, "a second certificate was accepted");
    let record = gate.outcome(&issued).await?;
    ensure!(record.reason.as_deref() == Some("name-taken"), "{record:?}");
    ensure!(gate.status(&issued).await? == "INACTIVE", "it cannot be undone");

    // Once the cause is removed, it is admitted.
    gate.set_status(&old, CertificateStatus::Inactive).await?;
    ca_tool(&gate, home.path(), &["readmit", "--yes", &issued.id]).await?;
    let connected = device.connect_with_retry(&gate.stage.observer).await?;
    ensure!(connected == ConnectResult::Accepted, "it is not readmitted: {connected:?}");

    device.disconnect();
    gate.stage.invoke("revoke", &json!({"certificateId": issued.id, "reason": "by mistake"})).await?;
    revocation_report(&gate).await?;
    let refused = ca_tool(&gate, home.path(), &["readmit", "--yes", &issued.id]).await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("--lift-block")), "the block is ignored");
    ca_tool(&gate, home.path(), &["readmit", "--yes", "--lift-block", &issued.id]).await?;
    let connected = device.connect_with_retry(&gate.stage.observer).await?;
    ensure!(connected == ConnectResult::Accepted, "it is not readmitted: {connected:?}");
    Ok(())
}

async fn authority_commands(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let home = tempfile::tempdir()?;
    set_rate(&gate, 1_000).await?;
    // Twice, because each command is idempotent.
    let mut ca = String::new();
    for _ in 0..2 {
        ca_tool(&gate, home.path(), &["create"]).await?;
        ca = ca_tool(&gate, home.path(), &["register"]).await?;
        ca_tool(&gate, home.path(), &["issue", "--thing", "front-gate"]).await?;
    }
    let directory = home.path().join("sample/devices");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).with_context(|| name.to_owned());
    let identity = Identity {
        thing: "front-gate".to_owned(),
        certificate: read("front-gate.chain.pem")?,
        key: read("front-gate.key")?,
    };
    let mut device = Device::new(&gate.stage.cloud, identity);
    ensure!(device.try_connect().await? == ConnectResult::Closed, "the first connection was not closed");
    ensure!(
        device.connect_with_retry(&gate.stage.observer).await? == ConnectResult::Accepted,
        "the device was not admitted"
    );
    let ring = gate.stage.publish(&mut device, "doorbell/front-gate", br#"{"msg":"Somebody is at the gate!"}"#).await?;
    gate.stage.done("doorbell", &ring, 1).await?;
    ensure!(gate.stage.notifications(&ring).len() == 1, "the ring was not notified once");

    ca_tool(&gate, home.path(), &["publish-crl", "--revoke", "front-gate"]).await?;
    let report = revocation_report(&gate).await?;
    ensure!(report.message.contains("1 found, 1 revoked"), "the report is: {}", report.message);
    device.disconnect();
    ensure!(device.try_connect().await? != ConnectResult::Accepted, "a device on the CRL connected");
    ca_tool(&gate, home.path(), &["publish-crl"]).await?;
    ca_tool(&gate, home.path(), &["deactivate"]).await?;
    let ca = gate.stage.clients.iot.describe_ca_certificate().certificate_id(ca.trim()).send().await?;
    let status = ca.certificate_description.and_then(|found| found.status);
    ensure!(status.is_some_and(|status| status.as_str() == "INACTIVE"), "the CA is active");
    Ok(())
}
