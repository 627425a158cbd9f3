//! New devices at the door: real certificates, a real MQTT client over mutual TLS, and the shipped functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_iot::types::CertificateStatus;
use aws_sdk_sqs::types::QueueAttributeName;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use local_cloud::admission::{Admission, Admissions, REGISTERED};
use local_cloud::pki::{CertificateAuthority, Certificate, Crl, IssuedCertificate, Key};
use local_cloud::device::{ConnectResult, Device, Published, Subscribed};
use local_cloud::fault_proxy::{Fault, FaultProxy};
use local_cloud::observer;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::stage::{LIMIT, Stage, Suite};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (fault, how) in CRASHES {
        for (part, of) in (0..PARTS).map(|part| (part, PARTS)) {
            let name = format!(
                "a crash between any two steps never leaves an active certificate without its checks and policy: \
                 {how} ({} of {of})",
                part + 1
            );
            trials.push(suite.trial(name, move |suite| crash(suite, fault, part)));
        }
    }
    trials.extend([
        suite.trial("a new device is turned away once, admitted, let in, and its ring is told", first_light),
        suite.trial("an admitted device may do nothing in another's name", own_name_only),
        suite.trial("each bad certificate is turned away for its reason, revoked, and told once", refusals),
        suite.trial(
            "a certificate waits while its CA's revocation list has run out, and is admitted by a new one",
            waits,
        ),
        suite.trial("a certificate that comes three times, and twice at the same moment, is admitted once", repeated),
        suite.trial("what an operator took away stays away, whatever comes again", stays_away),
        suite.trial("what will run out is counted and told once a day", runs_out),
    ]);
    trials
}

/// Both ways to die: before a call is served, and after it, before the answer.
const CRASHES: [(Fault, &str); 2] =
    [(Fault::KilledBefore, "killed before a call is served"), (Fault::KilledAfter, "killed after a call is served")];

/// Into how many tests the calls of an admission are dealt: each crash costs Lambda's pause before it tries again.
const PARTS: usize = 4;

const RING: &[u8] = br#"{"msg":"Somebody is at the door!"}"#;

/// A deployment with a registered CA.
pub struct Gate {
    pub stage: Stage,
    pub authority: CertificateAuthority,
    pub admissions: Admissions,
}

impl Gate {
    pub async fn new(suite: &Suite) -> Result<Self> {
        let stage = suite.stage().await?;
        let authority = CertificateAuthority::new("Example CA", Key::P256)?;
        authority.register(&stage.clients).await?;
        let admissions = Admissions::new(&stage.clients, stage.deployment.output("DevicesTable")?);
        Ok(Self { stage, authority, admissions })
    }

    /// A device with this certificate, which AWS IoT has never seen.
    pub fn device(&self, issued: &IssuedCertificate, client_id: &str) -> Device {
        Device::new(&self.stage.cloud, issued.identity(client_id))
    }

    /// A device that has been admitted.
    pub async fn admitted(&self, thing: &str) -> Result<(Device, IssuedCertificate)> {
        let issued = self.authority.issue(&Certificate::named(thing))?;
        let mut device = self.device(&issued, thing);
        let attempt = device.connect_with_retry(Instant::now() + LIMIT).await?;
        ensure!(attempt == ConnectResult::Accepted, "{thing} was not let in: {attempt:?}, {:?}", self.record(&issued).await?);
        Ok((device, issued))
    }

    async fn record(&self, issued: &IssuedCertificate) -> Result<Option<Admission>> {
        self.admissions.of(&issued.id).await
    }

    /// What came of a certificate in the end.
    pub async fn outcome(&self, issued: &IssuedCertificate) -> Result<Admission> {
        let found = self.admissions.outcome(&issued.id, Instant::now() + LIMIT).await?;
        found.context("there is no record of the certificate")
    }

    pub async fn status(&self, issued: &IssuedCertificate) -> Result<String> {
        self.admissions.status(&issued.id).await?.context("AWS IoT does not know the certificate")
    }

    /// Registers a certificate as AWS IoT does when it first sees it, without its telling anybody.
    async fn pending(&self, issued: &IssuedCertificate) -> Result<()> {
        let register = self.stage.clients.iot.register_certificate().certificate_pem(&issued.pem);
        register.ca_certificate_pem(&self.authority.pem).status(CertificateStatus::Inactive).send().await?;
        self.set(issued, CertificateStatus::PendingActivation).await
    }

    pub async fn set(&self, issued: &IssuedCertificate, status: CertificateStatus) -> Result<()> {
        let update = self.stage.clients.iot.update_certificate();
        update.certificate_id(&issued.id).new_status(status).send().await?;
        Ok(())
    }

    /// What the rule hands over when the certificate is presented.
    pub fn event(&self, event_id: &str, issued: &IssuedCertificate) -> Value {
        json!({
            "payload": {
                "certificateId": issued.id,
                "caCertificateId": self.authority.id,
                "timestamp": observer::now(),
                "certificateStatus": "PENDING_ACTIVATION",
                "awsAccountId": self.stage.account.id(),
                "certificateRegistrationTimestamp": null,
            },
            "thing": issued.id,
            "topic": format!("{REGISTERED}{}", self.authority.id),
            "traceId": event_id,
            "receivedAt": observer::now(),
        })
    }

    /// Whether the certificate has its policy, and is attached to the thing.
    async fn in_place(&self, issued: &IssuedCertificate, thing: &str) -> Result<bool> {
        let arn = format!("arn:aws:iot:us-east-1:{}:cert/{}", self.stage.account.id(), issued.id);
        let iot = &self.stage.clients.iot;
        let policies = iot.list_attached_policies().target(&arn).send().await?;
        let policy = self.stage.deployment.output("DevicePolicy")?;
        let has_policy = policies.policies().iter().any(|attached| attached.policy_name() == Some(policy));
        let principals = match iot.list_thing_principals().thing_name(thing).send().await {
            Ok(found) => found.principals.unwrap_or_default(),
            Err(_) => return Ok(false),
        };
        Ok(has_policy && principals.contains(&arn))
    }

    /// How often it was told that a certificate was turned away.
    fn told(&self, event_id: &str) -> usize {
        self.stage.notifications(event_id).len()
    }
}

async fn first_light(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let issued = gate.authority.issue(&Certificate::named("front-door"))?;
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
    gate.stage.done(&ring, 1).await?;
    ensure!(gate.stage.notifications(&ring).len() == 1, "the ring was not told once");
    let thing = gate.stage.clients.iot.describe_thing().thing_name("front-door").send().await?;
    let attributes = thing.attributes.unwrap_or_default();
    ensure!(attributes.get("fingerprint") == Some(&issued.id), "the thing's attributes are {attributes:?}");
    ensure!(attributes.get("ca") == Some(&gate.authority.id), "the thing's attributes are {attributes:?}");
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
    let received = one.receive(Instant::now() + LIMIT).await?.context("thing-1 does not receive what is its own")?;
    ensure!(received.topic == "telemetry/thing-1", "it received {received:?}");

    for topic in ["doorbell/thing-2", "telemetry/thing-2", "iotbutton/thing-2", "$aws/things/thing-2/shadow/update"] {
        let (_, published) = one.publish(topic, &[b"{}"]).await?;
        ensure!(published == Published::Denied, "thing-1 may publish on {topic}");
    }
    for filter in ["telemetry/thing-2", "telemetry/+", "#", "$aws/things/+/shadow/#", "$aws/things/thing-2/shadow/get"]
    {
        let subscribed = one.subscribe(filter).await?;
        ensure!(subscribed == Subscribed::Denied, "thing-1 may subscribe to {filter}");
    }
    let mut disguised = gate.device(&issued, "thing-2");
    let attempt = disguised.try_connect().await?;
    ensure!(attempt != ConnectResult::Accepted, "thing-1 may connect as thing-2");
    // The other one was not disturbed by any of it.
    let (_, published) = two.publish("doorbell/thing-2", &[RING]).await?;
    ensure!(published == Published::Accepted, "thing-2 may not ring");
    Ok(())
}

async fn refusals(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    gate.admitted("taken").await?;
    let listed = gate.authority.issue(&Certificate::named("listed"))?;
    let crl = Crl::new(1).with_revoked(&listed.serial);
    gate.authority.publish(&gate.stage.clients, gate.admissions.table(), &crl).await?;

    let named = |name: &str| Certificate::named(name);
    let days_ago = |days: u64| SystemTime::now() - Duration::from_hours(24 * days);
    let cases = [
        (Certificate { not_before: days_ago(9), not_after: days_ago(8), ..named("expired") }, "expired"),
        (Certificate { not_before: SystemTime::now() + Duration::from_hours(1), ..named("early") }, "not-yet-valid"),
        (Certificate { is_ca: true, ..named("ca") }, "is-a-ca"),
        (Certificate { key: Key::Rsa1024, ..named("weak") }, "weak-key"),
        (Certificate { has_unknown_critical_extension: true, ..named("odd") }, "unknown-critical-extension"),
        (Certificate { common_name: None, ..named("") }, "bad-thing-name"),
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
        all.push((gate.authority.issue(&certificate)?, reason));
    }
    for (index, (issued, reason)) in all.iter().enumerate() {
        // Some are stopped by TLS already, locally; the function meets them all the same.
        gate.pending(issued).await?;
        let event_id = format!("refusal-{index}");
        let answer =
            gate.stage.invoke("jitr", &gate.event(&event_id, issued)).await.with_context(|| (*reason).to_owned())?;
        ensure!(answer == json!({"outcome": "done"}), "{reason}: it answered {answer}");
        let record = gate.outcome(issued).await?;
        ensure!(
            record.state == "refused" && record.reason.as_deref() == Some(*reason),
            "{reason}: the record says {record:?}"
        );
        ensure!(gate.status(issued).await? == "REVOKED", "{reason}: it is not revoked");
        let told =
            gate.stage.observer.until(Instant::now() + LIMIT, |_| (gate.told(&event_id) > 0).then_some(())).await;
        ensure!(told.is_some(), "{reason}: it was not told");
        // It knocks again, and nobody is told again.
        gate.stage.invoke("jitr", &gate.event(&format!("{event_id}-again"), issued)).await?;
    }
    sleep(Duration::from_millis(300)).await;
    for index in 0..all.len() {
        let told = gate.told(&format!("refusal-{index}")) + gate.told(&format!("refusal-{index}-again"));
        ensure!(told == 1, "refusal {index} was told {told} times");
    }
    // Over the wire too: what TLS lets through is turned away for good.
    let issued = gate.authority.issue(&named("a/b"))?;
    let mut device = gate.device(&issued, "a/b");
    ensure!(device.try_connect().await? == ConnectResult::Closed, "a/b was not turned away");
    ensure!(gate.outcome(&issued).await?.reason.as_deref() == Some("bad-thing-name"), "a/b has another reason");
    ensure!(device.try_connect().await? != ConnectResult::Accepted, "a/b was let in");
    Ok(())
}

/// Lets SQS give a function what it handed back again after so many seconds, not after minutes.
pub async fn redeliver_after(stage: &Stage, function: &str, seconds: i32) -> Result<()> {
    let set = stage.clients.sqs.set_queue_attributes().queue_url(stage.output(function, "QueueUrl")?);
    set.attributes(QueueAttributeName::VisibilityTimeout, seconds.to_string()).send().await?;
    Ok(())
}

async fn waits(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    redeliver_after(&gate.stage, "jitr", 2).await?;
    let table = gate.admissions.table();
    let past = Crl { next_update: SystemTime::now() - Duration::from_mins(1), ..Crl::new(1) };
    gate.authority.publish(&gate.stage.clients, table, &past).await?;
    let issued = gate.authority.issue(&Certificate::named("patient"))?;
    let mut device = gate.device(&issued, "patient");
    ensure!(device.try_connect().await? == ConnectResult::Closed, "it was not turned away");
    // Tried, tried again, and left as it is.
    let jitr = gate.stage.name("jitr")?.to_owned();
    let tried = gate
        .stage
        .observer
        .until(Instant::now() + LIMIT, |observer| {
            let lines = observer.last_lines(&jitr);
            lines.iter().any(|line| line.contains("has run out")).then_some(())
        })
        .await;
    ensure!(tried.is_some(), "jitr does not say that the list has run out");
    ensure!(gate.status(&issued).await? == "PENDING_ACTIVATION", "it did not wait");
    ensure!(device.try_connect().await? == ConnectResult::Closed, "it was let in");

    let fresh = gate.authority.publish(&gate.stage.clients, table, &Crl::new(2)).await?;
    ensure!(fresh, "the new list was not taken");
    ensure!(device.connect_with_retry(Instant::now() + LIMIT).await? == ConnectResult::Accepted, "it was not admitted by the new list");
    let older = gate.authority.publish(&gate.stage.clients, table, &Crl::new(1)).await?;
    ensure!(!older, "an older list took the newer one's place");
    Ok(())
}

async fn repeated(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let issued = gate.authority.issue(&Certificate::named("thing-1"))?;
    gate.pending(&issued).await?;
    for _ in 0..3 {
        gate.stage.invoke("jitr", &gate.event("three-times", &issued)).await?;
    }
    let records = gate.stage.observer.until(Instant::now() + LIMIT, |observer| {
        let records = observer.invocation_counts("three-times");
        (records.len() == 3).then_some(records)
    });
    ensure!(records.await.is_some_and(|records| records.iter().all(|record| record.done == 1)), "one was not done");
    ensure!(gate.status(&issued).await? == "ACTIVE" && gate.in_place(&issued, "thing-1").await?, "it is not admitted");

    // Two processes that both found it pending, and came to claim it together.
    let issued = gate.authority.issue(&Certificate::named("thing-2"))?;
    gate.pending(&issued).await?;
    let proxy = FaultProxy::start(&gate.stage.cloud).await?;
    gate.stage.put_behind(&proxy, "jitr").await?;
    proxy.wait_for_second_caller("UpdateItem");
    let events = ["first", "second"].map(|id| gate.event(id, &issued));
    let [first, second] = &events;
    tokio::try_join!(gate.stage.invoke_later("jitr", first), gate.stage.invoke_later("jitr", second))?;
    for id in ["first", "second"] {
        gate.stage.done(id, 1).await?;
    }
    let activations = proxy.calls().into_iter().filter(|call| call.operation == "UpdateCertificate").count();
    ensure!(activations == 1, "it was activated {activations} times");
    ensure!(gate.status(&issued).await? == "ACTIVE" && gate.in_place(&issued, "thing-2").await?, "it is not admitted");
    Ok(())
}

async fn stays_away(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let (mut device, issued) = gate.admitted("thing-1").await?;
    device.disconnect();
    for status in [CertificateStatus::Inactive, CertificateStatus::Revoked] {
        gate.set(&issued, status.clone()).await?;
        gate.stage.invoke("jitr", &gate.event(&format!("stale-{status}"), &issued)).await?;
        ensure!(gate.status(&issued).await? == status.as_str(), "{status} did not stay");
        ensure!(device.try_connect().await? != ConnectResult::Accepted, "it was let in");
    }
    // What somebody else let in is only noted.
    let other = gate.authority.issue(&Certificate::named("by-hand"))?;
    gate.pending(&other).await?;
    gate.set(&other, CertificateStatus::Active).await?;
    gate.stage.invoke("jitr", &gate.event("by-hand", &other)).await?;
    ensure!(gate.outcome(&other).await?.state == "found-active", "it was not noted");
    ensure!(!gate.in_place(&other, "by-hand").await?, "it was given a thing and a policy");
    Ok(())
}

async fn runs_out(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let soon = SystemTime::now() + Duration::from_hours(5 * 24);
    let issued = gate.authority.issue(&Certificate { not_after: soon, ..Certificate::named("short-lived") })?;
    gate.pending(&issued).await?;
    gate.stage.invoke("jitr", &gate.event("short-lived", &issued)).await?;
    gate.authority
        .publish(&gate.stage.clients, gate.admissions.table(), &Crl { next_update: soon, ..Crl::new(1) })
        .await?;
    gate.admitted("long-lived").await?;
    for _ in 0..2 {
        gate.stage.invoke("jitr", &json!({"check": "runs-out"})).await?;
    }
    let topic = gate.stage.deployment.output("AdmissionsTopicArn")?.rsplit(':').next().unwrap_or_default().to_owned();
    let told = |observer: &observer::Observer| {
        let all: Vec<_> = observer.notifications().into_iter().filter(|told| told.topic == topic).collect();
        (!all.is_empty()).then_some(all)
    };
    let told_once = gate.stage.observer.until(Instant::now() + LIMIT, told).await.context("nothing was told")?;
    sleep(Duration::from_millis(300)).await;
    let all = told(&gate.stage.observer).unwrap_or_default();
    ensure!(all.len() == 1, "it was told {} times", all.len());
    let message = told_once.first().map(|told| told.message.clone()).unwrap_or_default();
    for part in [&*issued.id, "short-lived", "revocation list of CA", "2 to renew within 30 days"] {
        ensure!(message.contains(part), "it does not say {part}: {message}");
    }
    ensure!(!message.contains("long-lived"), "it names what does not run out: {message}");
    Ok(())
}

/// Lets every fourth call of an admission, from the nth on, end its process, until a run is untouched.
async fn crash(suite: Arc<Suite>, fault: Fault, part: usize) -> Result<()> {
    let gate = Arc::new(Gate::new(&suite).await?);
    let proxy = FaultProxy::start(&gate.stage.cloud).await?;
    gate.stage.put_behind(&proxy, "jitr").await?;
    let mut nth = part + 1;
    loop {
        let thing = format!("thing-{nth}");
        let issued = gate.authority.issue(&Certificate::named(&*thing))?;
        gate.pending(&issued).await?;
        let guard = Guard::start(&gate, &issued, &thing);
        // Each time a process that is new, so that what it does to warm up is among the calls.
        proxy.kill(&gate.stage.cloud);
        proxy.fail_nth_call(nth, fault);
        let event_id = format!("event-{nth}");
        gate.stage.invoke_later("jitr", &gate.event(&event_id, &issued)).await?;
        let calls = || proxy.calls().into_iter().map(|call| call.operation).collect::<Vec<_>>().join(", ");
        gate.stage.done(&event_id, 1).await.with_context(|| format!("call {nth} of: {}", calls()))?;
        let record = gate.outcome(&issued).await?;
        ensure!(record.state == "admitted", "call {nth} of: {}: {record:?}", calls());
        ensure!(gate.status(&issued).await? == "ACTIVE", "it is not active after call {nth} of: {}", calls());
        ensure!(gate.in_place(&issued, &thing).await?, "not all is in place after call {nth} of: {}", calls());
        guard.end().await.with_context(|| format!("call {nth} of: {}", calls()))?;
        if proxy.calls().iter().all(|call| call.fault.is_none()) {
            ensure!(nth > 20, "an admission made only {} calls: {}", proxy.calls().len(), calls());
            return Ok(());
        }
        nth += PARTS;
    }
}

/// Looks at a certificate all the time, for a moment in which it is active and not all is in place.
struct Guard {
    task: JoinHandle<Result<()>>,
    looks: Arc<AtomicUsize>,
}

impl Guard {
    fn start(gate: &Arc<Gate>, issued: &IssuedCertificate, thing: &str) -> Self {
        let looks = Arc::new(AtomicUsize::new(0));
        let (gate, issued, thing, counted) = (Arc::clone(gate), issued.clone(), thing.to_owned(), Arc::clone(&looks));
        let task = tokio::spawn(async move {
            loop {
                if gate.status(&issued).await? == "ACTIVE" && !gate.in_place(&issued, &thing).await? {
                    bail!("{thing} was active before all was in place");
                }
                counted.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { task, looks }
    }

    async fn end(self) -> Result<()> {
        if self.task.is_finished() {
            return self.task.await?;
        }
        self.task.abort();
        ensure!(self.looks.load(Ordering::Relaxed) > 0, "nobody looked");
        Ok(())
    }
}
