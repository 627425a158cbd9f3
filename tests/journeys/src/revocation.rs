//! What was let in is shut out again: a whole CA, what stands on its list, one certificate; and the operator's scripts.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_iot::types::CertificateStatus;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use libtest_mimic::Trial;
use serde_json::json;
use local_cloud::pki::{Certificate, Crl, IssuedCertificate};
use local_cloud::device::{ConnectResult, Device, Identity};
use local_cloud::isolation::{self, Inherit};
use local_cloud::observer::Notification;
use local_cloud::tools;
use tokio::time::{Instant, sleep};

use crate::admission::{Gate, redeliver_after};
use crate::stage::{LIMIT, Suite};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("a CA that is shut takes 5,000 certificates with it, over many continuations", whole_authority),
        suite.trial("a dry run changes nothing and tells what it would", dry_run),
        suite.trial("what is on a CA's list is revoked, and nothing else", listed),
        suite.trial("a certificate that is revoked alone stays out, whatever comes again", one_certificate),
        suite.trial("the operator's scripts take a device from nothing to a ring, and out again", scripts),
    ]
}

/// How long a run of many steps may take on a busy machine.
const LONG: Duration = Duration::from_mins(10);

/// Lets `revoke` go as fast as it can, and sweep again at once.
async fn hurry(gate: &Gate, seconds: i32) -> Result<()> {
    let change = |variables: &mut HashMap<String, String>| {
        variables.insert("REVOCATIONS_PER_SECOND".to_owned(), "1000".to_owned());
        variables.insert("SWEEP_AGAIN_AFTER_SECONDS".to_owned(), "1".to_owned());
    };
    gate.stage.configure("revoke", change).await?;
    let update = gate.stage.clients.lambda.update_function_configuration();
    update.function_name(gate.stage.name("revoke")?).timeout(seconds).send().await?;
    // A step that does not make it in time, on a busy machine, comes again as after a crash.
    redeliver_after(&gate.stage, "revoke", seconds + 1).await
}

/// Waits for the report of a run.
async fn report(gate: &Gate, limit: Duration) -> Result<Notification> {
    let look = |observer: &local_cloud::observer::Observer| {
        observer
            .notifications()
            .into_iter()
            .find(|told| told.topic.ends_with("-admissions") && told.message.contains("found"))
    };
    let found = gate.stage.observer.until(Instant::now() + limit, look).await;
    found.with_context(|| {
        let revoke = gate.stage.name("revoke").unwrap_or_default();
        format!("there is no report; its last lines: {:#?}", gate.stage.observer.last_lines(revoke))
    })
}

async fn active(gate: &Gate, name: &str) -> Result<IssuedCertificate> {
    let issued = gate.authority.issue(&Certificate::named(name))?;
    let register = gate.stage.clients.iot.register_certificate().certificate_pem(&issued.pem);
    register.ca_certificate_pem(&gate.authority.pem).status(CertificateStatus::Active).send().await?;
    Ok(issued)
}

/// How many of the CA's certificates have this status.
async fn count(gate: &Gate, status: &CertificateStatus) -> Result<usize> {
    let mut pages = gate.stage.clients.iot.list_certificates_by_ca().ca_certificate_id(&gate.authority.id);
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

async fn whole_authority(suite: Arc<Suite>) -> Result<()> {
    const CERTIFICATES: usize = 5_000;
    let gate = Gate::new(&suite).await?;
    let (mut device, _) = gate.admitted("thing-1").await?;
    device.disconnect();
    let names = (1..CERTIFICATES).map(|number| format!("more-{number}"));
    stream::iter(names)
        .map(async |name| active(&gate, &name).await)
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await?;
    hurry(&gate, 3).await?;

    // As whoever watches over the fleet would say it: through the topic.
    let order = json!({"caCertificateId": gate.authority.id, "reason": "its key has leaked"}).to_string();
    let topic = gate.stage.deployment.output("RevokeTopicArn")?;
    gate.stage.clients.sns.publish().topic_arn(topic).message(order).send().await?;
    let told = report(&gate, LONG).await?;
    let expected = format!("{CERTIFICATES} found, {CERTIFICATES} revoked, 0 had been revoked, 0 failed");
    ensure!(told.message.contains(&expected), "it does not say {expected}: {}", told.message);
    ensure!(told.message.contains("its key has leaked"), "it does not say why: {}", told.message);
    ensure!(count(&gate, &CertificateStatus::Revoked).await? == CERTIFICATES, "not all are revoked");
    let steps = gate.stage.observer.invocations(gate.stage.name("revoke")?);
    ensure!(steps > 17, "it took only {steps} invocations");

    let ca = gate.stage.clients.iot.describe_ca_certificate().certificate_id(&gate.authority.id).send().await?;
    let ca = ca.certificate_description.context("the CA is gone")?;
    ensure!(ca.status.is_some_and(|status| status.as_str() == "INACTIVE"), "the CA is active");
    ensure!(ca.auto_registration_status.is_some_and(|status| status.as_str() == "DISABLE"), "it still registers");
    let block = gate.admissions.item(&format!("ca#{}", gate.authority.id), "status").await?;
    ensure!(block.is_some_and(|item| item.contains_key("blockReason")), "the block is not written down");
    ensure!(device.try_connect().await? != ConnectResult::Accepted, "a revoked device was let in");
    let late = gate.authority.issue(&Certificate::named("late"))?;
    ensure!(gate.device(&late, "late").try_connect().await? != ConnectResult::Accepted, "a new device was let in");
    sleep(Duration::from_secs(1)).await;
    let reports = gate.stage.observer.notifications().into_iter().filter(|told| told.message.contains("found"));
    ensure!(reports.count() == 1, "it was reported more than once");
    Ok(())
}

async fn dry_run(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    for name in ["one", "two", "three"] {
        active(&gate, name).await?;
    }
    hurry(&gate, 30).await?;
    gate.stage.invoke("revoke", &json!({"caCertificateId": gate.authority.id, "dryRun": true})).await?;
    let told = report(&gate, LIMIT).await?;
    ensure!(told.message.contains("3 found, 3 would be revoked"), "it says: {}", told.message);
    ensure!(count(&gate, &CertificateStatus::Active).await? == 3, "it changed certificates");
    let ca = gate.stage.clients.iot.describe_ca_certificate().certificate_id(&gate.authority.id).send().await?;
    let status = ca.certificate_description.and_then(|found| found.status);
    ensure!(status.is_some_and(|status| status.as_str() == "ACTIVE"), "it changed the CA");
    let block = gate.admissions.item(&format!("ca#{}", gate.authority.id), "status").await?;
    ensure!(block.is_none(), "it wrote a block down: {block:?}");
    Ok(())
}

async fn listed(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let (_, admitted) = gate.admitted("admitted").await?;
    let by_hand = active(&gate, "by-hand").await?;
    let (mut stays, _) = gate.admitted("stays").await?;
    let crl = Crl::new(1).with_revoked(&admitted.serial).with_revoked(&by_hand.serial);
    gate.authority.publish(&gate.stage.clients, gate.admissions.table(), &crl).await?;
    hurry(&gate, 30).await?;
    gate.stage.invoke("revoke", &json!({"caCertificateId": gate.authority.id, "crl": true})).await?;
    let told = report(&gate, LIMIT).await?;
    ensure!(told.message.contains("2 revoked"), "it says: {}", told.message);
    for issued in [&admitted, &by_hand] {
        ensure!(gate.status(issued).await? == "REVOKED", "what is on the list is not revoked");
    }
    stays.disconnect();
    ensure!(stays.try_connect().await? == ConnectResult::Accepted, "what is not on the list was revoked too");
    Ok(())
}

async fn one_certificate(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let (mut stolen, issued) = gate.admitted("stolen").await?;
    stolen.disconnect();
    hurry(&gate, 30).await?;
    gate.stage.invoke("revoke", &json!({"certificateId": issued.id, "reason": "it was stolen"})).await?;
    let told = report(&gate, LIMIT).await?;
    ensure!(told.message.contains("1 found, 1 revoked"), "it says: {}", told.message);
    // Even where AWS IoT is made to take it for new.
    gate.set(&issued, CertificateStatus::PendingActivation).await?;
    gate.stage.invoke("jitr", &gate.event("again", &issued)).await?;
    let record = gate.outcome(&issued).await?;
    ensure!(record.reason.as_deref() == Some("blocked"), "{record:?}");
    ensure!(stolen.try_connect().await? != ConnectResult::Accepted, "it was let in");
    Ok(())
}

/// Runs one of the scripts as an operator does whose AWS CLI is the local cloud's; what it printed to standard output.
async fn script(gate: &Gate, home: &Path, arguments: &[&str]) -> Result<String> {
    let (name, arguments) = arguments.split_first().context("no script")?;
    let cli = tools::aws()?;
    let mut path = OsString::from(cli.parent().context("the AWS CLI is in no directory")?);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let program = tools::root().join("infra/ca").join(name);
    let stage = &gate.stage;
    let mut command =
        isolation::command(program, Inherit::Minimal, stage.cloud.endpoint, &stage.account, &stage.cloud.scratch);
    command.env("PATH", path).env("GATEHOUSE_CA_DIR", home).args(arguments);
    let Output { status, stdout, stderr } =
        tokio::process::Command::from(command).kill_on_drop(true).output().await.context("cannot run it")?;
    let said = String::from_utf8(stdout)?;
    ensure!(status.success(), "{name} ended with {status}: {said}{}", String::from_utf8_lossy(&stderr));
    Ok(said)
}

async fn scripts(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let home = tempfile::tempdir()?;
    let table = gate.admissions.table();
    let revoke = gate.stage.name("revoke")?;
    hurry(&gate, 30).await?;
    // Twice, for each is safe to run again.
    let mut ca = String::new();
    for _ in 0..2 {
        script(&gate, home.path(), &["create"]).await?;
        ca = script(&gate, home.path(), &["register", "--table", table]).await?;
        script(&gate, home.path(), &["issue", "--thing", "front-gate"]).await?;
    }
    let directory = home.path().join("sample/devices");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).with_context(|| name.to_owned());
    let identity = Identity {
        thing: "front-gate".to_owned(),
        certificate: read("front-gate.chain.pem")?,
        key: read("front-gate.key")?,
    };
    let mut device = Device::new(&gate.stage.cloud, identity);
    ensure!(device.try_connect().await? == ConnectResult::Closed, "it was not turned away at first");
    ensure!(device.connect_with_retry(Instant::now() + LIMIT).await? == ConnectResult::Accepted, "it was not admitted");
    let ring = gate.stage.publish(&mut device, "doorbell/front-gate", br#"{"msg":"Somebody is at the gate!"}"#).await?;
    gate.stage.done(&ring, 1).await?;
    ensure!(gate.stage.notifications(&ring).len() == 1, "the ring was not told once");

    let publish = ["publish-crl", "--revoke", "front-gate", "--table", table, "--function", revoke];
    script(&gate, home.path(), &publish).await?;
    let told = report(&gate, LIMIT).await?;
    ensure!(told.message.contains("1 found, 1 revoked"), "it says: {}", told.message);
    device.disconnect();
    ensure!(device.try_connect().await? != ConnectResult::Accepted, "a device on the list was let in");
    script(&gate, home.path(), &["deactivate", "--function", revoke]).await?;
    let ca = gate.stage.clients.iot.describe_ca_certificate().certificate_id(ca.trim()).send().await?;
    let status = ca.certificate_description.and_then(|found| found.status);
    ensure!(status.is_some_and(|status| status.as_str() == "INACTIVE"), "the CA is still active");
    Ok(())
}
