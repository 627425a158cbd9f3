//! New devices: real certificates, a real MQTT client over mutual TLS, and the shipped functions.

mod crash;
mod gate;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_iot::types::CertificateStatus;
use libtest_mimic::Trial;
use local_cloud::device::{ConnectResult, Device, Identity, Published, Subscribed};
use local_cloud::fault_proxy::FaultProxy;
use local_cloud::observer::Notification;
use local_cloud::pki::{CertificateSpec, Crl, IssuedCertificate, KeyType};
use serde_json::json;

use crate::suite::Suite;

pub use gate::Gate;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trials = crash::trials(suite);
    trials.extend([
        suite.trial("jitr", "new_device_is_admitted_and_its_ring_is_notified", first_connection),
        suite.trial("jitr", "admitted_device_can_only_act_under_its_own_name", own_name_only),
        suite.trial("jitr", "invalid_certificate_is_rejected_revoked_and_notified_once", rejections),
        suite.trial("jitr", "certificate_stays_pending_until_an_expired_crl_is_renewed", expired_crl),
        suite.trial("jitr", "certificate_without_its_cas_is_never_registered", without_ca),
        suite.trial("jitr", "repeated_and_concurrent_events_admit_a_device_once", repeated_events),
        suite.trial("jitr", "deactivated_certificate_is_never_activated_again", deactivated),
        suite.trial("jitr", "expiring_certificates_and_crls_are_notified_once_a_day", expiry),
    ]);
    trials
}

const RING: &[u8] = br#"{"msg":"Somebody is at the door!"}"#;

async fn first_connection(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let issued = gate.ca.issue(&CertificateSpec::named("front-door"))?;
    let mut device = gate.device(&issued, "front-door");
    let first = device.try_connect().await?;
    ensure!(first == ConnectResult::Closed, "the first connection was {first:?}");
    let record = gate.outcome(&issued).await?;
    ensure!(record.state == "admitted" && record.thing.as_deref() == Some("front-door"), "{record:?}");
    for name in ["serial", "issuer", "notAfter", "fingerprint", "caCertificateId", "runsOutOn"] {
        ensure!(record.item.contains_key(name), "the record has no {name}: {record:?}");
    }
    let second = device.try_connect().await?;
    ensure!(second == ConnectResult::Accepted, "the second connection was {second:?}");
    let ring = gate.stage.publish(&mut device, "doorbell/front-door", RING).await?;
    gate.stage.done("doorbell", &ring, 1).await?;
    ensure!(gate.stage.notifications(&ring).len() == 1, "the ring was not notified once");
    let thing = gate.stage.clients.iot.describe_thing().thing_name("front-door").send().await?;
    let attributes = thing.attributes.unwrap_or_default();
    ensure!(attributes.get("fingerprint") == Some(&issued.id), "the thing's attributes are {attributes:?}");
    ensure!(attributes.get("ca") == Some(&gate.ca.id), "the thing's attributes are {attributes:?}");
    Ok(())
}

/// Returns topics of a thing that another device might try: those of all rules, and of the shadows.
async fn topics_of(gate: &Gate, thing: &str) -> Result<Vec<String>> {
    let iot = &gate.stage.clients.iot;
    let shadows = ["shadow", "shadow/name/lamp"].into_iter().flat_map(|shadow| {
        ["get", "update", "delete", "update/documents", "update/delta", "update/accepted"]
            .map(|operation| format!("$aws/things/{thing}/{shadow}/{operation}"))
    });
    let mut topics: Vec<_> = shadows.chain([format!("shadow/{thing}/delta")]).collect();
    let rules: Vec<_> = iot.list_topic_rules().into_paginator().items().send().collect::<Result<_, _>>().await?;
    for rule in rules {
        let name = rule.rule_name().context("a rule has no name")?;
        let rule = iot.get_topic_rule().rule_name(name).send().await?.rule.context("there is no such rule")?;
        let filter = rule
            .sql()
            .and_then(|sql| sql.split_once(" FROM '")?.1.split('\'').next())
            .context("the SQL names no topic")?;
        let topic = filter.replace(['+', '#'], thing);
        topics.push(format!("$aws/rules/{name}/{topic}"));
        topics.push(topic);
    }
    Ok(topics)
}

/// As in AWS, such an attempt leaves no trace.
async fn without_ca(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let issued = gate.ca.issue(&CertificateSpec::named("alone"))?;
    let alone = Identity { certificate: issued.pem.clone(), ..issued.identity("alone") };
    let mut device = Device::new(&gate.stage.cloud, alone);
    let first = device.try_connect().await?;
    ensure!(first != ConnectResult::Accepted, "it connected");
    ensure!(gate.admissions.status(&issued.id).await?.is_none(), "the certificate was registered");
    // With the CA's certificate, it is admitted, and may be sent alone from then on.
    let mut complete = gate.device(&issued, "alone");
    ensure!(complete.connect_with_retry(&gate.stage.observer).await? == ConnectResult::Accepted, "it is not admitted");
    ensure!(device.try_connect().await? == ConnectResult::Accepted, "it may not connect once it is admitted");
    Ok(())
}

async fn own_name_only(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let (mut one, issued) = gate.admitted("thing-1").await?;
    let (mut two, _) = gate.admitted("thing-2").await?;

    let own = "$aws/things/thing-1/shadow/update/delta";
    for filter in ["telemetry/thing-1", own, "$aws/things/thing-1/shadow/name/lamp/get/accepted"] {
        let subscribed = one.subscribe(filter).await?;
        ensure!(subscribed == Subscribed::Granted, "thing-1 may not subscribe to its own {filter}");
    }
    let (_, published) = one.publish("telemetry/thing-1", &[b"{\"lux\":1}"]).await?;
    ensure!(published == Published::Accepted, "thing-1 may not publish on its own topic");
    let received = one.receive().await.context("thing-1 does not receive what is its own")?;
    ensure!(received.topic == "telemetry/thing-1", "it received {received:?}");

    for (device, name, other) in [(&mut one, "thing-1", "thing-2"), (&mut two, "thing-2", "thing-1")] {
        let topics = topics_of(&gate, other).await?;
        ensure!(topics.len() > 20, "there are only {} topics", topics.len());
        // Reconnect each time: AWS IoT may close a connection after it has denied something.
        for topic in &topics {
            device.disconnect();
            let (_, published) = device.publish(topic, &[b"{}"]).await?;
            ensure!(published == Published::Denied, "{name} may publish on {topic}");
        }
        let filters = ["telemetry/+", "+/+", "#", "$aws/things/+/shadow/#", "$aws/events/#", "$aws/#"];
        for filter in topics.iter().map(String::as_str).chain(filters) {
            device.disconnect();
            ensure!(device.subscribe(filter).await? == Subscribed::Denied, "{name} may subscribe to {filter}");
        }
    }
    let mut disguised = gate.device(&issued, "thing-2");
    let result = disguised.try_connect().await?;
    ensure!(result != ConnectResult::Accepted, "thing-1 may connect as thing-2");
    // The other device is not affected.
    two.disconnect();
    let (_, published) = two.publish("doorbell/thing-2", &[RING]).await?;
    ensure!(published == Published::Accepted, "thing-2 may not ring");
    Ok(())
}

async fn rejections(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    gate.admitted("taken").await?;
    let listed = gate.ca.issue(&CertificateSpec::named("listed"))?;
    let crl = Crl::new(1).with_revoked(&listed.serial);
    gate.ca.publish_crl(&gate.stage.clients, gate.admissions.table(), &crl).await?;

    let named = |name: &str| CertificateSpec::named(name);
    let days_ago = |days: u64| SystemTime::now() - Duration::from_hours(24 * days);
    let cases = [
        (CertificateSpec { not_before: days_ago(9), not_after: days_ago(8), ..named("expired") }, "expired"),
        (
            CertificateSpec { not_before: SystemTime::now() + Duration::from_hours(1), ..named("early") },
            "not-yet-valid",
        ),
        (CertificateSpec { is_ca: true, ..named("ca") }, "is-a-ca"),
        (CertificateSpec { key: KeyType::Rsa1024, ..named("weak") }, "weak-key"),
        (CertificateSpec { has_unknown_critical_extension: true, ..named("odd") }, "unknown-critical-extension"),
        (CertificateSpec { common_name: None, ..named("") }, "bad-thing-name"),
        (named(&"x".repeat(129)), "bad-thing-name"),
        (named("*"), "bad-thing-name"),
        (named("+"), "bad-thing-name"),
        (named("#"), "bad-thing-name"),
        (named("a/b"), "bad-thing-name"),
        (named("$aws/x"), "bad-thing-name"),
        (named("tür"), "bad-thing-name"),
        (named("taken"), "name-taken"),
    ];
    let mut all: Vec<(IssuedCertificate, &str)> = vec![(listed, "revoked-by-crl")];
    for (certificate, reason) in cases {
        all.push((gate.ca.issue(&certificate)?, reason));
    }
    for (index, (issued, reason)) in all.iter().enumerate() {
        // TLS denies some of these on the local cloud, so they are sent to the function directly.
        gate.register_pending(issued).await?;
        let event_id = format!("rejection-{index}");
        let response =
            gate.stage.invoke("jitr", &gate.event(&event_id, issued)).await.with_context(|| (*reason).to_owned())?;
        ensure!(response == json!({"outcome": "done"}), "{reason}: the response is {response}");
        let record = gate.outcome(issued).await?;
        ensure!(
            record.state == "refused" && record.reason.as_deref() == Some(*reason),
            "{reason}: the record is {record:?}"
        );
        let expected = if *reason == "name-taken" { "INACTIVE" } else { "REVOKED" };
        ensure!(gate.status(issued).await? == expected, "{reason}: the certificate is not {expected}");
        // The event is delivered again, without another notification.
        gate.stage.invoke("jitr", &gate.event(&format!("{event_id}-again"), issued)).await?;
    }
    gate.stage.observer.catch_up().await?;
    for index in 0..all.len() {
        let notified =
            gate.notified(&format!("rejection-{index}")) + gate.notified(&format!("rejection-{index}-again"));
        ensure!(notified == 1, "rejection {index} was notified {notified} times");
    }
    // Also over MQTT, with a certificate that TLS accepts.
    let issued = gate.ca.issue(&named("a/b"))?;
    let mut device = gate.device(&issued, "a/b");
    ensure!(device.try_connect().await? == ConnectResult::Closed, "the connection of a/b was not closed");
    ensure!(
        gate.outcome(&issued).await?.reason.as_deref() == Some("bad-thing-name"),
        "a/b was rejected for another reason"
    );
    ensure!(device.try_connect().await? != ConnectResult::Accepted, "a/b connected");
    Ok(())
}

async fn expired_crl(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    gate.stage.redeliver_after("jitr", 2).await?;
    let table = gate.admissions.table();
    let expired = Crl { next_update: SystemTime::now() - Duration::from_mins(1), ..Crl::new(1) };
    gate.ca.publish_crl(&gate.stage.clients, table, &expired).await?;
    let issued = gate.ca.issue(&CertificateSpec::named("patient"))?;
    let mut device = gate.device(&issued, "patient");
    ensure!(device.try_connect().await? == ConnectResult::Closed, "the connection was not closed");
    // The event is retried and the certificate stays pending.
    let jitr = gate.stage.name("jitr")?.to_owned();
    let is_retried = gate
        .stage
        .observer
        .until(|observer| {
            let lines = observer.last_lines(&jitr);
            lines.iter().any(|line| line.contains("has expired")).then_some(())
        })
        .await;
    ensure!(is_retried.is_some(), "jitr does not log that the CRL has expired");
    ensure!(gate.status(&issued).await? == "PENDING_ACTIVATION", "the certificate is not pending");
    ensure!(device.try_connect().await? == ConnectResult::Closed, "the device connected");

    let is_published = gate.ca.publish_crl(&gate.stage.clients, table, &Crl::new(2)).await?;
    ensure!(is_published, "the new CRL was not published");
    ensure!(
        device.connect_with_retry(&gate.stage.observer).await? == ConnectResult::Accepted,
        "the device was not admitted with the new CRL"
    );
    let is_published = gate.ca.publish_crl(&gate.stage.clients, table, &Crl::new(1)).await?;
    ensure!(!is_published, "an older CRL replaced a newer one");
    Ok(())
}

async fn repeated_events(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let issued = gate.ca.issue(&CertificateSpec::named("thing-1"))?;
    gate.register_pending(&issued).await?;
    for _ in 0..3 {
        gate.stage.invoke("jitr", &gate.event("three-times", &issued)).await?;
    }
    let function = gate.stage.name("jitr")?;
    let counts = gate.stage.observer.until(|observer| {
        let counts = observer.invocation_counts("three-times", function);
        (counts.len() == 3).then_some(counts)
    });
    ensure!(counts.await.is_some_and(|counts| counts.iter().all(|counts| counts.done == 1)), "an event was not done");
    ensure!(
        gate.status(&issued).await? == "ACTIVE" && gate.is_provisioned(&issued, "thing-1").await?,
        "the device is not admitted"
    );

    // Two processes that both find the certificate pending and claim it concurrently.
    let issued = gate.ca.issue(&CertificateSpec::named("thing-2"))?;
    gate.register_pending(&issued).await?;
    let proxy = FaultProxy::start(&gate.stage.cloud).await?;
    gate.stage.put_behind(&proxy, "jitr").await?;
    proxy.wait_for_second_caller("UpdateItem");
    let events = ["first", "second"].map(|id| gate.event(id, &issued));
    let [first, second] = &events;
    tokio::try_join!(gate.stage.invoke_async("jitr", first), gate.stage.invoke_async("jitr", second))?;
    for id in ["first", "second"] {
        gate.stage.done("jitr", id, 1).await?;
    }
    let activations = proxy.calls().into_iter().filter(|call| call.operation == "UpdateCertificate").count();
    ensure!(activations == 1, "the certificate was activated {activations} times");
    ensure!(
        gate.status(&issued).await? == "ACTIVE" && gate.is_provisioned(&issued, "thing-2").await?,
        "the device is not admitted"
    );
    Ok(())
}

async fn deactivated(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let (mut device, issued) = gate.admitted("thing-1").await?;
    device.disconnect();
    for status in [CertificateStatus::Inactive, CertificateStatus::Revoked] {
        gate.set_status(&issued, status.clone()).await?;
        gate.stage.invoke("jitr", &gate.event(&format!("stale-{status}"), &issued)).await?;
        ensure!(gate.status(&issued).await? == status.as_str(), "the status {status} was changed");
        ensure!(device.try_connect().await? != ConnectResult::Accepted, "the device connected");
    }
    // A certificate that an operator activated is only recorded.
    let other = gate.ca.issue(&CertificateSpec::named("activated"))?;
    gate.register_pending(&other).await?;
    gate.set_status(&other, CertificateStatus::Active).await?;
    gate.stage.invoke("jitr", &gate.event("activated", &other)).await?;
    ensure!(gate.outcome(&other).await?.state == "found-active", "the certificate is not recorded as found active");
    ensure!(!gate.is_provisioned(&other, "activated").await?, "the certificate was provisioned");
    Ok(())
}

async fn expiry(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let soon = SystemTime::now() + Duration::from_hours(5 * 24);
    let issued = gate.ca.issue(&CertificateSpec { not_after: soon, ..CertificateSpec::named("short-lived") })?;
    gate.register_pending(&issued).await?;
    gate.stage.invoke("jitr", &gate.event("short-lived", &issued)).await?;
    gate.ca
        .publish_crl(&gate.stage.clients, gate.admissions.table(), &Crl { next_update: soon, ..Crl::new(1) })
        .await?;
    gate.admitted("long-lived").await?;
    for _ in 0..2 {
        gate.stage.invoke("jitr", &json!({"check": "runs-out"})).await?;
    }
    let topic = gate.stage.deployment.output("AdmissionsTopicArn")?.rsplit(':').next().unwrap_or_default().to_owned();
    gate.stage.observer.catch_up().await?;
    let all = gate.stage.observer.notifications().into_iter().filter(|it| it.topic == topic).collect::<Vec<_>>();
    let [Notification { message, .. }] = all.as_slice() else { bail!("there were {} notifications", all.len()) };
    for part in [&*issued.id, "short-lived", "revocation list of CA", "2 to renew within 30 days"] {
        ensure!(message.contains(part), "{part} is not in the message: {message}");
    }
    ensure!(!message.contains("long-lived"), "the message names a long-lived certificate: {message}");
    Ok(())
}
