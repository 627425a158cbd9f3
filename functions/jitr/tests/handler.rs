//! The whole function but for the Lambda runtime, against a small AWS: events go in, certificates are admitted or turned
//! away, and whatever happens in between, none is active that should not be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod aws;
#[path = "../../gatehouse/tests/pki/mod.rs"]
mod pki;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::LazyLock;
use std::time::Duration;
use std::{fs, iter};

use aws::{Aws, Certificate, Delivered, Fault, Process, State};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::{Crl, Timestamp};
use pki::{Ca, DAY, NOW, OpenSsl, date, element, elements, named};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, PKCS_ED25519, SerialNumber,
};
use serde_json::{Value, json};
use tokio::runtime::Builder;

const LATER: Duration = Duration::from_mins(10);

/// An RSA CA: what it signs twice is the same twice, and so is what comes of it.
static CA: LazyLock<Ca> = LazyLock::new(|| {
    let key = OpenSsl::new("handler").key("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    Ca::with("Test CA", KeyPair::from_pem(&key).unwrap())
});
/// One that writes each signature in another way.
static ELLIPTIC: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

/// A fleet: an account with one CA.
struct Fleet {
    aws: Aws,
    ca: &'static Ca,
    ca_id: String,
}

/// A device that has presented its certificate.
struct Device {
    id: String,
    event: Value,
}

fn digest(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn event(certificate: &str, ca: &str) -> Value {
    json!({
        "payload": {
            "certificateId": certificate, "caCertificateId": ca, "timestamp": NOW, "awsAccountId": "123456789012",
            "certificateStatus": "PENDING_ACTIVATION", "certificateRegistrationTimestamp": null,
        },
        "thing": certificate, "topic": format!("$aws/events/certificates/registered/{ca}"),
        "traceId": format!("e-{}", certificate.get(..8).unwrap_or_default()), "receivedAt": NOW,
    })
}

impl Fleet {
    fn new() -> Self {
        Self::of(&CA)
    }

    fn of(ca: &'static Ca) -> Self {
        let (aws, ca_id) = (Aws::default(), digest(&ca.der));
        aws.state().authorities.insert(ca_id.clone(), ("ACTIVE".to_owned(), ca.pem.clone()));
        Self { aws, ca, ca_id }
    }

    /// A device presents this certificate, and AWS IoT registers it.
    fn present(&self, der: &[u8]) -> Device {
        let id = digest(der);
        let (status, pem) = ("PENDING_ACTIVATION".to_owned(), pki::pem("CERTIFICATE", der));
        self.aws.state().certificates.insert(id.clone(), Certificate { status, pem, ca: Some(self.ca_id.clone()) });
        Device { event: event(&id, &self.ca_id), id }
    }

    /// A device with a certificate that is good but for these changes.
    fn device_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Device {
        let mut params = named(name);
        change(&mut params);
        self.present(&self.ca.issue(&params, &*KEY))
    }

    /// A device with a good certificate, which may be activated.
    fn device(&self, name: &str, serial: u8) -> Device {
        let device = self.device_with(name, |params| params.serial_number = Some(SerialNumber::from_slice(&[serial])));
        self.aws.state().good.insert(device.id.clone());
        device
    }

    fn ca_part(&self) -> String {
        format!("ca#{}", self.ca_id)
    }

    fn publish(&self, crl: &[u8]) {
        publish(&mut self.aws.state(), &self.ca_part(), self.ca, crl);
    }

    async fn deliver(&self, device: &Device) -> Delivered {
        self.aws.process().deliver(&device.event, NOW).await
    }

    fn status(&self, device: &Device) -> String {
        self.aws.state().status(&device.id).to_owned()
    }

    fn state_of(&self, device: &Device) -> Option<String> {
        self.aws.state().record(&device.id, "state")
    }

    fn reason_of(&self, device: &Device) -> Option<String> {
        self.aws.state().record(&device.id, "reason")
    }
}

/// Publishes a CRL as `infra/ca/publish-crl` does, in pieces of 100 bytes.
fn publish(state: &mut State, ca: &str, by: &Ca, crl: &[u8]) {
    let number = Crl::read(crl, &by.authority()).map_or_else(|_| format!("{:040x}", 99), |crl| crl.number);
    for (n, piece) in crl.chunks(100).enumerate() {
        let bytes = json!({"bytes": {"B": BASE64_STANDARD.encode(piece)}});
        state.note(ca, &format!("crl#{number}#{n:04}"), &bytes);
    }
    let (chunks, bytes) = (crl.chunks(100).len().to_string(), crl.len().to_string());
    state.note(
        ca,
        "status",
        &json!({"crlNumber": {"S": number}, "crlChunks": {"N": chunks}, "crlBytes": {"N": bytes}}),
    );
}

fn crl(serials: &[&[u8]], number: u8) -> Vec<u8> {
    crl_with(serials, number, |_| ())
}

fn crl_with(serials: &[&[u8]], number: u8, change: impl FnOnce(&mut CertificateRevocationListParams)) -> Vec<u8> {
    CA.crl_with(serials, |params| {
        params.crl_number = SerialNumber::from_slice(&[number]);
        change(params);
    })
}

fn expired_crl(number: u8) -> Vec<u8> {
    crl_with(&[], number, |params| {
        (params.this_update, params.next_update) = (date(NOW.minus(2 * DAY)), date(NOW.minus(DAY)));
    })
}

/// A message's attributes: `MessageAttributes.entry.1.Name` and so on, by name.
fn attributes(message: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let entry = |n: usize, what: &str| message.get(&format!("MessageAttributes.entry.{n}.{what}")).map(String::as_str);
    (1..).map_while(|n| Some((entry(n, "Name")?, entry(n, "Value.StringValue")?))).collect()
}

/// How often this is the reason that somebody was told of.
fn told(state: &State, reason: &str) -> usize {
    state.published.iter().filter(|message| attributes(message).get("reason") == Some(&reason)).count()
}

/// The calls of an admission that nothing disturbs.
const ADMISSION: [&str; 22] = [
    "GetItem certificate/admission",
    "DescribeCertificate",
    "UpdateItem certificate/admission",
    "DescribeCACertificate",
    "GetItem ca/status",
    "PutItem ca/certificate",
    "PutItem certificate/signed",
    "PutItem thing/name",
    "ListThingPrincipals",
    "CreateThing",
    "AttachThingPrincipal",
    "AttachPolicy",
    // The look before,
    "DescribeCACertificate",
    "GetItem ca/status",
    "GetItem certificate/admission",
    "DescribeCertificate",
    "UpdateCertificate ACTIVE",
    // and after.
    "DescribeCACertificate",
    "GetItem ca/status",
    "GetItem certificate/admission",
    "DescribeCertificate",
    "UpdateItem certificate/admission",
];

/// The number, from 1, of the last call of an admission that has this name.
fn last(invocation: &str) -> usize {
    ADMISSION.iter().rposition(|name| *name == invocation).unwrap() + 1
}

#[tokio::test]
async fn a_device_is_admitted_with_everything_in_place_before_the_activation() {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    let process = fleet.aws.process().with("THING_TYPE", "thermometer");
    let delivered = process.deliver(&device.event, NOW).await;
    assert!(delivered.is_done(), "{delivered:?}");
    assert_eq!(delivered.counted["Admitted"], 1);

    let state = fleet.aws.state();
    // What must be in place at the moment of the activation, the small AWS looks at itself.
    assert_eq!(state.calls_of(process.number), ADMISSION);
    assert_eq!(state.status(&device.id), "ACTIVE");
    let expected = [("", "thermometer"), ("ca", &fleet.ca_id), ("fingerprint", &device.id), ("serial", "07")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(state.things["thermometer-1"], BTreeMap::from(expected));
    for (name, expected) in [
        ("state", "admitted"),
        ("thing", "thermometer-1"),
        ("serial", "07"),
        ("issuer", "CN=Test CA"),
        ("fingerprint", &device.id),
        ("caCertificateId", &fleet.ca_id),
        ("notAfter", &NOW.plus(30 * DAY).millis().to_string()),
        ("runsOutOn", "2026-02-14"),
    ] {
        assert_eq!(state.record(&device.id, name).as_deref(), Some(expected), "{name}");
    }
    assert!(state.record(&device.id, "updatedAt").is_some() && state.record(&device.id, "ownedUntil").is_none());
    assert_eq!(state.noted("thing#thermometer-1", "name", "certificateId"), Some(device.id.clone()));
    assert_eq!(state.noted(&fleet.ca_part(), "certificate", "runsOutOn").as_deref(), Some("2027-01-15"));
    assert_eq!(state.published.len(), 0);
}

#[tokio::test]
async fn a_device_of_a_ca_with_a_list_is_admitted_if_it_is_not_on_it() {
    let fleet = Fleet::new();
    fleet.publish(&crl(&[&[8], &[9]], 1));
    let device = fleet.device("thermometer-1", 7);
    let delivered = fleet.aws.process().with("REQUIRE_CRL", "true").deliver(&device.event, NOW).await;
    assert!(delivered.is_done(), "{delivered:?}");
    assert_eq!(fleet.status(&device), "ACTIVE");
    // Fetched once, in pages; looked up three times.
    let queries = fleet.aws.state().calls.iter().filter(|(_, invocation)| invocation == "Query devices").count();
    assert_eq!(queries, crl(&[&[8], &[9]], 1).len().div_ceil(100));
}

#[tokio::test]
async fn what_the_operator_has_made_of_a_thing_stays() {
    let fleet = Fleet::new();
    let own = BTreeMap::from([("room".to_owned(), "cellar".to_owned())]);
    fleet.aws.state().things.insert("thermometer-1".to_owned(), own.clone());
    let device = fleet.device("thermometer-1", 7);
    assert!(fleet.deliver(&device).await.is_done());
    assert_eq!(fleet.status(&device), "ACTIVE");
    assert_eq!(fleet.aws.state().things["thermometer-1"], own);
}

/// A fleet in which one device is to be turned away, for this reason, by a process with these variables.
type Refusal = (&'static str, fn() -> (Fleet, Device), &'static [(&'static str, &'static str)]);

fn with(change: fn(&mut CertificateParams)) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.device_with("thermometer-1", change);
    (fleet, device)
}

fn changed(change: fn(Vec<u8>) -> Vec<u8>) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.present(&change(CA.issue(&named("thermometer-1"), &*KEY)));
    (fleet, device)
}

fn beside(change: fn(&mut State, &Device, &str)) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device =
        fleet.device_with("thermometer-1", |params| params.serial_number = Some(SerialNumber::from_slice(&[7])));
    change(&mut fleet.aws.state(), &device, &fleet.ca_id);
    (fleet, device)
}

fn of(ca: &'static LazyLock<Ca>) -> (Fleet, Device) {
    let fleet = Fleet::of(ca);
    let device = fleet.device_with("thermometer-1", |_| ());
    (fleet, device)
}

static EDWARDS: LazyLock<Ca> = LazyLock::new(|| Ca::with("Test CA", KeyPair::generate_for(&PKCS_ED25519).unwrap()));
static IMPOSTOR: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
static OVER: LazyLock<Ca> = LazyLock::new(|| {
    Ca::made("Test CA", KeyPair::generate().unwrap(), |params| params.not_after = date(NOW.minus(DAY)))
});
static TO_COME: LazyLock<Ca> = LazyLock::new(|| {
    Ca::made("Test CA", KeyPair::generate().unwrap(), |params| params.not_before = date(NOW.plus(DAY)))
});

const REFUSALS: [Refusal; 35] = [
    ("expired", || with(|params| params.not_after = date(NOW.minus(DAY))), &[]),
    ("not-yet-valid", || with(|params| params.not_before = date(NOW.plus(DAY))), &[]),
    (
        "expired",
        || with(|params| params.not_after = date(NOW.minus(Duration::from_secs(2)))),
        &[("CLOCK_SKEW_SECONDS", "1")],
    ),
    ("is-a-ca", || with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), &[]),
    ("key-usage", || with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), &[]),
    (
        "unknown-critical-extension",
        || {
            with(|params| {
                let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
                extension.set_criticality(true);
                params.custom_extensions = vec![extension];
            })
        },
        &[],
    ),
    (
        "weak-key",
        || {
            changed(|der| {
                CA.sign_changed(&der, |parts| {
                    let rsa = [element(6, b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"), vec![5, 0]].concat();
                    let key = [element(2, &[0x7f; 128]), element(2, &[1, 0, 1])].concat();
                    let key = pki::bit_string(&element(0x30, &key));
                    parts[6] = element(0x30, &[element(0x30, &rsa), key].concat());
                })
            })
        },
        &[],
    ),
    ("trailing-bytes", || changed(|der| [&der[..], &[0]].concat()), &[]),
    ("malformed-certificate", || changed(|der| der[..der.len() - 1].to_vec()), &[]),
    ("malformed-certificate", || changed(|_| b"no certificate".to_vec()), &[]),
    (
        "malformed-certificate",
        || beside(|state, device, _| state.certificates.get_mut(&device.id).unwrap().pem.clear()),
        &[],
    ),
    ("bad-signature", || changed(|_| IMPOSTOR.issue(&named("thermometer-1"), &*KEY)), &[]),
    ("issuer-mismatch", || changed(|_| Ca::new("Other CA").issue(&named("thermometer-1"), &*KEY)), &[]),
    ("unsupported-algorithm", || of(&EDWARDS), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("x".repeat(129)).distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("*").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("+").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("#").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("a/b").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("$aws/x").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("a\0").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = named("thermömeter").distinguished_name), &[]),
    ("name-pattern", || with(|_| ()), &[("THING_NAME_PATTERN", "thermometer|1")]),
    ("revoked-by-crl", || beside(|state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &crl(&[&[1], &[7]], 1))), &[]),
    ("no-crl", || with(|_| ()), &[("REQUIRE_CRL", "true")]),
    (
        "ca-inactive",
        || beside(|state, _, ca| "INACTIVE".clone_into(&mut state.authorities.get_mut(ca).unwrap().0)),
        &[],
    ),
    ("ca-inactive", || beside(|state, _, ca| drop(state.authorities.remove(ca))), &[]),
    ("ca-expired", || of(&OVER), &[]),
    ("ca-expired", || of(&TO_COME), &[]),
    ("ca-blocked", || beside(|state, _, ca| block(state, &format!("ca#{ca}"), "status")), &[]),
    ("blocked", || beside(|state, device, _| block(state, &format!("certificate#{}", device.id), "admission")), &[]),
    (
        "name-taken",
        || {
            let fleet = Fleet::new();
            let old = fleet.device("thermometer-1", 1);
            fleet.aws.state().set_status(&old.id, "ACTIVE");
            fleet.aws.state().note("thing#thermometer-1", "name", &json!({"certificateId": {"S": old.id}}));
            let device = fleet.device_with("thermometer-1", |_| ());
            (fleet, device)
        },
        &[],
    ),
    // Nobody claimed the name: the thing and what is attached to it are older than this function.
    (
        "name-taken",
        || {
            let fleet = Fleet::new();
            let revoked = fleet.device("thermometer-1", 1);
            fleet.aws.state().set_status(&revoked.id, "REVOKED");
            let old = fleet.device("thermometer-1", 2);
            fleet.aws.state().set_status(&old.id, "ACTIVE");
            fleet.aws.state().things.insert("thermometer-1".to_owned(), BTreeMap::new());
            let cognito = "eu-west-1:8c1b2d3e-0000-4000-8000-000000000001".to_owned();
            let arn = |id: &str| format!("arn:aws:iot:eu-west-1:123456789012:cert/{id}");
            for principal in [cognito, arn(&revoked.id), arn(&old.id)] {
                fleet.aws.state().attached.push(("thermometer-1".to_owned(), principal));
            }
            let device = fleet.device_with("thermometer-1", |_| ());
            (fleet, device)
        },
        &[],
    ),
    (
        "another-encoding",
        || {
            let fleet = Fleet::of(&ELLIPTIC);
            let signed = elements(&ELLIPTIC.issue(&named("thermometer-1"), &*KEY))[0].to_vec();
            let first = fleet.present(&ELLIPTIC.sign(&signed));
            fleet.aws.state().set_status(&first.id, "REVOKED");
            let digest = digest(&signed);
            fleet.aws.state().note(
                &format!("certificate#{digest}"),
                "signed",
                &json!({"certificateId": {"S": first.id}}),
            );
            let device = fleet.present(&ELLIPTIC.sign(&signed));
            (fleet, device)
        },
        &[],
    ),
];

fn block(state: &mut State, id: &str, part: &str) {
    state.note(id, part, &json!({"blocked": {"BOOL": true}}));
}

#[tokio::test]
async fn each_refusal_takes_the_certificate_away_tells_it_once_and_is_recorded() {
    for (reason, make, variables) in REFUSALS {
        for chosen in ["REVOKED", "INACTIVE"] {
            let (fleet, device) = make();
            let process = || {
                let process = fleet.aws.process().with("REFUSED_STATUS", chosen);
                variables.iter().fold(process, |process, (name, value)| process.with(name, *value))
            };
            let delivered = process().deliver(&device.event, NOW).await;
            assert!(delivered.is_done(), "{reason}: {delivered:?}");
            assert_eq!(delivered.counted["TurnedAway"], 1, "{reason}");
            for _ in 0..2 {
                let again = process().deliver(&device.event, NOW.plus(LATER)).await;
                assert!(again.is_done() && again.counted["Duplicate"] == 1, "{reason}: {again:?}");
            }
            let state = fleet.aws.state();
            let expected = if reason == "unsupported-algorithm" { "INACTIVE" } else { chosen };
            assert_eq!(state.status(&device.id), expected, "{reason}");
            let record = |name: &str| state.record(&device.id, name);
            assert_eq!(record("state").as_deref(), Some("refused"), "{reason}");
            assert_eq!(record("reason").as_deref(), Some(reason));
            assert!(record("why").unwrap().ends_with('.') && record("runsOutOn").is_none(), "{reason}");
            assert_eq!(record("fingerprint").as_ref(), Some(&device.id));
            assert_eq!((told(&state, reason), state.published.len()), (1, 1), "{reason}");
            let message = &state.published[0];
            assert_eq!(message["Subject"], format!("Device turned away: {reason}"));
            assert!(message["Message"].contains(&record("why").unwrap()), "{}", message["Message"]);
            assert!(message["Message"].contains(&format!("is {expected} now")), "{}", message["Message"]);
            let attributes = attributes(message);
            assert_eq!((attributes["certificateId"], attributes["caCertificateId"]), (&*device.id, &*fleet.ca_id));
            let named = !["malformed-certificate", "trailing-bytes", "bad-thing-name"].contains(&reason);
            assert_eq!(attributes.contains_key("thing"), named, "{reason}");
            assert_eq!(state.lasting()["quarantined"], 0, "{reason}");
            assert!(!state.calls.iter().any(|(_, invocation)| invocation == "UpdateCertificate ACTIVE"), "{reason}");
        }
    }
}

fn sample(name: &str) -> Value {
    let path = format!("{}/../../events/jitr/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// A fleet with the certificate and the CA that the samples name.
fn sampled() -> Fleet {
    let mut fleet = Fleet::new();
    let event = sample("registered");
    event["payload"]["caCertificateId"].as_str().unwrap().clone_into(&mut fleet.ca_id);
    fleet.aws.state().authorities.insert(fleet.ca_id.clone(), ("ACTIVE".to_owned(), CA.pem.clone()));
    let device = fleet.device("thermometer-1", 7);
    let mut state = fleet.aws.state();
    let certificate = state.certificates.remove(&device.id).unwrap();
    let id = event["payload"]["certificateId"].as_str().unwrap().to_owned();
    state.certificates.insert(id.clone(), certificate);
    state.good.insert(id);
    drop(state);
    fleet
}

#[tokio::test]
async fn every_sample_that_is_no_event_of_ours_goes_to_quarantine_with_its_reason_and_changes_nothing() {
    for (name, reason) in [
        ("another-account", "another-account"),
        ("topic-of-another-ca", "topic-mismatch"),
        ("bad-certificate-id", "invalid-value"),
        ("bad-ca-id", "invalid-value"),
        ("missing-field", "missing-field"),
        ("wrong-type", "wrong-type"),
        ("not-json", "not-json"),
        ("unknown-certificate", "unknown-certificate"),
        ("unknown-check", "unknown-value"),
    ] {
        let fleet = sampled();
        let delivered = fleet.aws.process().deliver(&sample(name), NOW).await;
        assert_eq!(delivered.quarantined(), reason, "{name}");
        let mut lasting = fleet.aws.state().lasting();
        assert_eq!(lasting["quarantined"], 1, "{name}");
        lasting["quarantined"] = 0.into();
        assert_eq!(lasting, sampled().aws.state().lasting(), "{name}");
        assert_eq!(fleet.aws.state().published.len(), 0, "{name}");
    }
}

#[tokio::test]
async fn the_samples_of_good_events_are_taken_one_by_one_and_in_a_batch() {
    for name in ["registered", "registered-active", "runs-out", "sqs-batch"] {
        let fleet = sampled();
        let delivered = fleet.aws.process().deliver(&sample(name), NOW).await;
        let admitted = usize::from(name != "runs-out");
        assert_eq!(
            fleet.aws.state().lasting()["policies"].as_array().unwrap().len(),
            admitted,
            "{name}: {delivered:?}"
        );
        if name == "sqs-batch" {
            assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": []}))));
            assert_eq!(fleet.aws.state().lasting()["quarantined"], 1);
        } else {
            assert!(delivered.is_done(), "{name}: {delivered:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_than_the_event_names_or_of_none_goes_to_quarantine() {
    for ca in [Some("0".repeat(64)), None] {
        let fleet = Fleet::new();
        let device = fleet.device("thermometer-1", 7);
        fleet.aws.state().certificates.get_mut(&device.id).unwrap().ca = ca;
        let delivered = fleet.deliver(&device).await;
        assert_eq!((delivered.quarantined(), fleet.status(&device).as_str()), ("another-ca", "PENDING_ACTIVATION"));
        assert_eq!(fleet.state_of(&device), None);
    }
}

#[tokio::test]
async fn ids_in_capital_letters_are_the_same_ids() {
    let fleet = Fleet::new();
    let mut device = fleet.device("thermometer-1", 7);
    device.event["payload"]["certificateId"] = device.id.to_uppercase().into();
    assert!(fleet.deliver(&device).await.is_done());
    assert_eq!(fleet.status(&device), "ACTIVE");
}

#[tokio::test]
async fn an_active_certificate_without_a_record_is_noted_and_not_touched() {
    let fleet = Fleet::new();
    // Whatever it is worth.
    let device = fleet.device_with("*", |params| params.not_after = date(NOW.minus(DAY)));
    fleet.aws.state().set_status(&device.id, "ACTIVE");
    let delivered = fleet.deliver(&device).await;
    assert!(delivered.is_done() && delivered.counted["FoundActive"] == 1, "{delivered:?}");
    assert_eq!((fleet.status(&device).as_str(), fleet.state_of(&device).as_deref()), ("ACTIVE", Some("found-active")));
    assert_eq!(fleet.aws.state().calls.len(), 3);
    // And so it stays, also once an operator has taken it away.
    assert_eq!(fleet.deliver(&device).await.counted["Duplicate"], 1);
    fleet.aws.state().set_status(&device.id, "INACTIVE");
    assert_eq!(fleet.deliver(&device).await.counted["Duplicate"], 1);
    assert_eq!(fleet.status(&device), "INACTIVE");
}

/// A fleet in which a device's admission was left unfinished, the certificate having this status.
fn unfinished(status: &str, name: &str) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.device(name, 7);
    let mut state = fleet.aws.state();
    state.set_status(&device.id, status);
    let owned = json!({"state": {"S": "admitting"}, "owner": {"S": "dead"}, "ownedUntil": {"N": NOW.minus(DAY)}});
    let owned: Value = serde_json::from_str(
        &owned.to_string().replace(&NOW.minus(DAY).to_string(), &format!("\"{}\"", NOW.minus(DAY))),
    )
    .unwrap();
    state.note(&format!("certificate#{}", device.id), "admission", &owned);
    drop(state);
    (fleet, device)
}

#[tokio::test]
async fn an_active_certificate_whose_admission_was_not_finished_is_finished() {
    let (fleet, device) = unfinished("ACTIVE", "thermometer-1");
    assert!(fleet.deliver(&device).await.is_done());
    let state = fleet.aws.state();
    assert_eq!(state.record(&device.id, "state").as_deref(), Some("admitted"));
    assert_eq!((state.attached.len(), state.policies.len(), state.things.len()), (1, 1, 1));
    assert!(!state.calls.iter().any(|(_, invocation)| invocation.starts_with("UpdateCertificate")));
}

#[tokio::test]
async fn an_active_certificate_whose_unfinished_admission_no_longer_holds_is_taken_back() {
    let (fleet, device) = unfinished("ACTIVE", "a/b");
    assert!(fleet.deliver(&device).await.is_done());
    assert_eq!(
        (fleet.status(&device).as_str(), fleet.reason_of(&device).as_deref()),
        ("REVOKED", Some("bad-thing-name"))
    );
}

#[tokio::test]
async fn what_is_inactive_or_revoked_is_never_activated_whatever_the_record_holds() {
    for status in ["INACTIVE", "REVOKED", "PENDING_TRANSFER", "REGISTER_INACTIVE"] {
        for recorded in
            [None, Some("admitting"), Some("admitted"), Some("refused"), Some("found-active"), Some("revoked")]
        {
            let (fleet, device) = unfinished(status, "thermometer-1");
            let record = format!("certificate#{}", device.id);
            match recorded {
                None => {
                    drop(
                        fleet.aws.state().tables.remove(&("devices".to_owned(), vec![record, "admission".to_owned()])),
                    );
                }
                Some(recorded) => fleet.aws.state().note(&record, "admission", &json!({"state": {"S": recorded}})),
            }
            for _ in 0..2 {
                assert!(fleet.deliver(&device).await.is_done(), "{status} {recorded:?}");
            }
            let state = fleet.aws.state();
            assert_eq!(state.status(&device.id), status, "{recorded:?}");
            let expected = if recorded == Some("admitting") { Some("refused") } else { recorded };
            assert_eq!(state.record(&device.id, "state").as_deref(), expected, "{status}");
            assert!(
                !state.calls.iter().any(|(_, invocation)| invocation.starts_with("UpdateCertificate")),
                "{status} {recorded:?}"
            );
            assert!(state.things.is_empty() && state.policies.is_empty());
        }
    }
}

#[tokio::test]
async fn what_was_decided_is_carried_out_whatever_has_become_of_the_reason() {
    for (status, expected) in [("PENDING_ACTIVATION", "REVOKED"), ("ACTIVE", "REVOKED"), ("INACTIVE", "INACTIVE")] {
        let (fleet, device) = unfinished(status, "thermometer-1");
        let decided = json!({"state": {"S": "refusing"}, "reason": {"S": "ca-blocked"}, "why": {"S": "The CA is blocked."},
                             "refusedStatus": {"S": "REVOKED"}});
        fleet.aws.state().note(&format!("certificate#{}", device.id), "admission", &decided);
        let process = fleet.aws.process().with("REFUSED_STATUS", "INACTIVE");
        assert!(process.deliver(&device.event, NOW).await.is_done());
        assert_eq!(fleet.status(&device), expected);
        assert_eq!(fleet.state_of(&device).as_deref(), Some("refused"));
        assert_eq!(told(&fleet.aws.state(), "ca-blocked"), 1);
    }
}

#[tokio::test]
async fn the_same_event_three_times_admits_once() {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    fleet.deliver(&device).await;
    let once = fleet.aws.state().lasting();
    for _ in 0..2 {
        let again = fleet.deliver(&device).await;
        assert!(again.is_done() && again.counted["Duplicate"] == 1, "{again:?}");
    }
    assert_eq!(fleet.aws.state().lasting(), once);
    let activations = fleet.aws.state().calls.iter().filter(|(_, invocation)| invocation == "UpdateCertificate ACTIVE").count();
    assert_eq!(activations, 1);
}

/// The same event reaches two processes, whose calls are served in this order.
async fn deliver_twice(turns: impl IntoIterator<Item = usize> + Clone + Debug) {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    let (one, other) = (fleet.aws.process(), fleet.aws.process());
    fleet.aws.serve_in_order(turns.clone());
    let both = tokio::join!(one.deliver_until_done(&device.event, NOW), other.deliver_until_done(&device.event, NOW));
    assert!(both.0.is_done() && both.1.is_done(), "{turns:?}: {both:?}");
    let counted = |name| both.0.counted.get(name).unwrap_or(&0) + both.1.counted.get(name).unwrap_or(&0);
    assert_eq!((counted("Admitted"), counted("Duplicate")), (1, 1), "{turns:?}: {both:?}");
    let state = fleet.aws.state();
    assert_eq!((state.status(&device.id), state.record(&device.id, "state").as_deref()), ("ACTIVE", Some("admitted")));
    let activations = state.calls.iter().filter(|(_, invocation)| invocation == "UpdateCertificate ACTIVE").count();
    assert_eq!(activations, 1, "{turns:?}");
}

/// Two certificates of one name reach two processes, whose calls are served in this order.
async fn deliver_two_of_one_name(turns: impl IntoIterator<Item = usize> + Clone + Debug) {
    let fleet = Fleet::new();
    let devices = [fleet.device("thermometer-1", 1), fleet.device("thermometer-1", 2)];
    let (one, other) = (fleet.aws.process(), fleet.aws.process());
    fleet.aws.serve_in_order(turns.clone());
    let (one, other) =
        tokio::join!(one.deliver_until_done(&devices[0].event, NOW), other.deliver_until_done(&devices[1].event, NOW),);
    assert!(one.is_done() && other.is_done(), "{turns:?}: {one:?} {other:?}");
    let mut statuses = devices.each_ref().map(|device| fleet.status(device));
    statuses.sort_unstable();
    assert_eq!(statuses, ["ACTIVE", "REVOKED"], "{turns:?}");
    let state = fleet.aws.state();
    let active = devices.iter().find(|device| state.status(&device.id) == "ACTIVE").unwrap();
    assert_eq!(state.noted("thing#thermometer-1", "name", "certificateId"), Some(active.id.clone()));
    let activations = state.calls.iter().filter(|(_, invocation)| invocation == "UpdateCertificate ACTIVE").count();
    assert_eq!(activations, 1, "{turns:?}");
    assert_eq!((told(&state, "name-taken"), state.published.len()), (1, 1), "{turns:?}");
}

/// One process makes `first` calls, then the other `second`, then the one goes on to its end, and the other to its.
fn turns(first: usize, second: usize) -> impl Iterator<Item = usize> + Clone + Debug {
    iter::repeat_n(1, first)
        .chain(iter::repeat_n(2, second))
        .chain(iter::repeat_n(1, 200))
        .chain(iter::repeat_n(2, 200))
}

#[tokio::test(start_paused = true)]
async fn the_same_event_twice_at_the_same_moment_admits_once_wherever_the_other_comes_between() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_twice(turns(first, second)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_certificates_of_one_name_at_the_same_moment_one_is_admitted_wherever_the_other_comes_between() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_two_of_one_name(turns(first, second)).await;
        }
    }
}

proptest! {
    #[test]
    fn however_the_calls_of_two_processes_fall_one_event_or_one_name_is_admitted_once(
        turns in prop::collection::vec(1..=2_usize, 0..80),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(deliver_twice(turns.clone()));
        runtime.block_on(deliver_two_of_one_name(turns));
    }
}

/// What a run does to a fleet of its own, and which certificates come to it.
type Scenario = (&'static str, fn() -> (Fleet, Device), &'static [(&'static str, &'static str)]);

fn good() -> (Fleet, Device) {
    let fleet = Fleet::new();
    fleet.publish(&crl(&[&[1]], 1));
    let device = fleet.device("thermometer-1", 7);
    (fleet, device)
}

/// Another certificate of this name was admitted before.
fn renewed() -> (Fleet, Device) {
    let fleet = Fleet::new();
    let old = fleet.device("thermometer-1", 1);
    let mut state = fleet.aws.state();
    state.set_status(&old.id, "ACTIVE");
    state.note("thing#thermometer-1", "name", &json!({"certificateId": {"S": old.id}}));
    state.things.insert("thermometer-1".to_owned(), BTreeMap::new());
    state.attached.push(("thermometer-1".to_owned(), format!("arn:aws:iot:eu-west-1:123456789012:cert/{}", old.id)));
    drop(state);
    let device = fleet.device("thermometer-1", 7);
    (fleet, device)
}

fn bad(device: (Fleet, Device)) -> (Fleet, Device) {
    device.0.aws.state().good.clear();
    device
}

const SCENARIOS: [Scenario; 6] = [
    ("admitted", good, &[]),
    ("admitted after another", renewed, &[("ALLOW_ROTATION", "true")]),
    ("expired", || bad(with(|params| params.not_after = date(NOW.minus(DAY)))), &[]),
    ("unsupported algorithm", || of(&EDWARDS), &[]),
    ("name taken", || bad(renewed()), &[]),
    ("on the list", || beside(|state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &crl(&[&[7]], 1))), &[]),
];

fn process(fleet: &Fleet, variables: &[(&'static str, &'static str)]) -> Process {
    variables.iter().fold(fleet.aws.process(), |process, (name, value)| process.with(name, *value))
}

/// What lasts, and how often somebody was told, of a run that nothing disturbs; and its calls.
async fn undisturbed(
    make: fn() -> (Fleet, Device),
    variables: &[(&'static str, &'static str)],
) -> (Value, usize, Vec<String>) {
    let (fleet, device) = make();
    assert!(process(&fleet, variables).deliver(&device.event, NOW).await.is_done());
    let state = fleet.aws.state();
    (state.lasting(), state.published.len(), state.calls.iter().map(|(_, invocation)| invocation.clone()).collect())
}

/// A process dies before or after each of its calls, and the event comes again: to a process that dies as well, after each
/// of its calls in turn, and again.
///
/// At each activation the small AWS looks whether the certificate's checks hold, its policy and its thing are in place.
#[tokio::test]
async fn a_crash_between_any_two_steps_never_leaves_an_active_certificate_without_its_checks_and_policy() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        let deaths = |calls: usize| (1..=calls).flat_map(|invocation| [(invocation, Fault::DiesBefore), (invocation, Fault::DiesAfter)]);
        for (first, fault) in deaths(calls.len()) {
            // The second death is tried at every step of an admission; else one is enough to have seen.
            let seconds: Vec<_> = iter::once(None)
                .chain((1..=calls.len()).map(Some).filter(|_| what == "admitted" && fault == Fault::DiesAfter))
                .collect();
            for second in seconds {
                let (fleet, device) = make();
                let dying = process(&fleet, variables).fail(first, fault);
                assert_eq!(dying.deliver(&device.event, NOW).await.answer, None, "{what} {first} {fault:?}");
                if let Some(invocation) = second {
                    process(&fleet, variables).fail(invocation, fault).deliver(&device.event, NOW.plus(LATER)).await;
                }
                let last = process(&fleet, variables).deliver(&device.event, NOW.plus(2 * LATER)).await;
                assert!(last.is_done(), "{what} {first} {fault:?} {second:?}: {last:?}");
                let state = fleet.aws.state();
                assert_eq!(state.lasting(), expected, "{what} {first} {fault:?} {second:?}");
                // Told at least once; twice where the process died between SNS's answer and the mark.
                let told_twice = matches!((calls[first - 1].as_str(), fault), ("Publish", Fault::DiesAfter))
                    || matches!((calls[first - 1].as_str(), fault), ("UpdateItem idempotency", Fault::DiesBefore));
                assert_eq!(state.published.len(), messages + usize::from(told_twice), "{what} {first} {fault:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_call_that_fails_hands_the_event_back_and_the_next_try_ends_the_same() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        for (index, name) in calls.iter().enumerate() {
            let (fleet, device) = make();
            let failing = process(&fleet, variables).fail(index + 1, Fault::Denied);
            let delivered = failing.deliver(&device.event, NOW).await;
            // The message is out: to send the event back for its mark would be certain to repeat it.
            let is_mark = name == "UpdateItem idempotency";
            assert_eq!(delivered.is_handed_back(), !is_mark, "{what} {name}: {delivered:?}");
            // At once: nobody holds what the failed one held.
            let next = process(&fleet, variables).deliver(&device.event, NOW).await;
            assert!(next.is_done(), "{what} {name}: {next:?}");
            let state = fleet.aws.state();
            assert_eq!(state.lasting(), expected, "{what} {name}");
            assert_eq!(state.published.len(), messages, "{what} {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_and_a_throttled_call_are_tried_again_within_one_invocation() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        for (index, name) in calls.iter().enumerate() {
            for fault in [Fault::Lost, Fault::Throttled] {
                let (fleet, device) = make();
                let delivered = process(&fleet, variables).fail(index + 1, fault).deliver(&device.event, NOW).await;
                assert!(delivered.is_done(), "{what} {name} {fault:?}: {delivered:?}");
                let state = fleet.aws.state();
                assert_eq!(state.lasting(), expected, "{what} {name} {fault:?}");
                // SNS knows no second time.
                let told_twice = name == "Publish" && fault == Fault::Lost;
                assert_eq!(state.published.len(), messages + usize::from(told_twice), "{what} {name} {fault:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_throttled_again_and_again_hands_the_event_back_and_changes_no_status() {
    for invocation in 1..=last("UpdateCertificate ACTIVE") {
        let fleet = Fleet::new();
        let device = fleet.device("thermometer-1", 7);
        let throttled =
            (invocation..call + 3).fold(fleet.aws.process(), |process, invocation| process.fail(invocation, Fault::Throttled));
        let delivered = throttled.deliver(&device.event, NOW).await;
        assert!(delivered.is_handed_back(), "{call}: {delivered:?}");
        assert_eq!(fleet.status(&device), "PENDING_ACTIVATION", "{call}");
        assert!(fleet.deliver(&device).await.is_done(), "{call}");
        assert_eq!(fleet.status(&device), "ACTIVE", "{call}");
    }
}

/// Something that an operator does, and the call by which `jitr` sees it.
type Meanwhile = (&'static str, fn(&mut State, &str, &str), &'static str);

const MEANWHILE: [Meanwhile; 5] = [
    ("ca-blocked", |state, _, ca| block(state, &format!("ca#{ca}"), "status"), "GetItem ca/status"),
    (
        "ca-inactive",
        |state, _, ca| "INACTIVE".clone_into(&mut state.authorities.get_mut(ca).unwrap().0),
        "DescribeCACertificate",
    ),
    ("ca-inactive", |state, _, ca| drop(state.authorities.remove(ca)), "DescribeCACertificate"),
    ("revoked-by-crl", |state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &crl(&[&[7]], 2)), "GetItem ca/status"),
    (
        "blocked",
        |state, device, _| block(state, &format!("certificate#{device}"), "admission"),
        "GetItem certificate/admission",
    ),
];

/// A device's admission, and something that happens just before this call of it.
async fn admitted_while(invocation: usize, change: fn(&mut State, &str, &str)) -> (Fleet, Device, Delivered) {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    let (id, ca) = (device.id.clone(), fleet.ca_id.clone());
    let process = fleet.aws.process().change(invocation, move |state| change(state, &id, &ca));
    let delivered = process.deliver(&device.event, NOW).await;
    (fleet, device, delivered)
}

#[tokio::test]
async fn what_is_shut_at_any_point_before_the_last_look_is_not_active_in_the_end() {
    for (reason, change, seen_by) in MEANWHILE {
        for invocation in 1..=ADMISSION.len() {
            let (fleet, device, delivered) = admitted_while(invocation, change).await;
            assert!(delivered.is_done(), "{reason} {call}: {delivered:?}");
            for _ in 0..2 {
                assert!(fleet.deliver(&device).await.is_done(), "{reason} {call}");
            }
            if invocation <= last(seen_by) {
                assert_eq!(fleet.status(&device), "REVOKED", "{reason} {call}");
                assert_eq!(fleet.reason_of(&device).as_deref(), Some(reason), "{call}");
                assert_eq!(told(&fleet.aws.state(), reason), 1, "{reason} {call}");
            } else {
                // It was active before it was shut: whoever shuts a CA then sweeps up what is active.
                assert!(invocation > last("UpdateCertificate ACTIVE"), "{reason} {call}");
                assert_eq!(fleet.status(&device), "ACTIVE", "{reason} {call}");
            }
        }
    }
}

#[tokio::test]
async fn what_an_operator_takes_away_at_any_point_stays_away() {
    // AWS IoT has no compare-and-set: an operator who writes the status alone, between the last look and the activation, is
    // overtaken. One who blocks the certificate first, as `revoke` does, never is.
    let overtaken = last("UpdateCertificate ACTIVE");
    for (invocation, is_blocked) in (1..=ADMISSION.len() + 1).flat_map(|invocation| [(invocation, false), (invocation, true)]) {
        for status in ["INACTIVE", "REVOKED"] {
            let fleet = Fleet::new();
            let device = fleet.device("thermometer-1", 7);
            let id = device.id.clone();
            let take_away = move |state: &mut State| {
                if is_blocked {
                    block(state, &format!("certificate#{id}"), "admission");
                }
                state.set_status(&id, status);
            };
            if invocation > ADMISSION.len() {
                assert!(fleet.deliver(&device).await.is_done());
                take_away(&mut fleet.aws.state());
            } else {
                assert!(fleet.aws.process().change(invocation, take_away).deliver(&device.event, NOW).await.is_done());
            }
            for _ in 0..3 {
                assert!(fleet.deliver(&device).await.is_done());
            }
            let expected = match (invocation == overtaken, is_blocked) {
                (true, false) => "ACTIVE",
                (true, true) => "REVOKED",
                _ => status,
            };
            assert_eq!(fleet.status(&device), expected, "{call} {status} {is_blocked}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_an_activation_is_taken_back_does_not_leave_it() {
    for (reason, change, seen_by) in MEANWHILE {
        let shut = last("UpdateCertificate ACTIVE") + 1;
        let calls = admitted_while(shut, change).await.0.aws.state().calls.len();
        for invocation in shut..=calls {
            for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied] {
                let fleet = Fleet::new();
                let device = fleet.device("thermometer-1", 7);
                let (id, ca) = (device.id.clone(), fleet.ca_id.clone());
                let process = fleet.aws.process().change(shut, move |state| change(state, &id, &ca));
                let last = process.fail(invocation, fault).deliver_until_done(&device.event, NOW).await;
                assert!(last.is_done(), "{reason} {call} {fault:?}: {last:?}");
                assert_eq!(fleet.status(&device), "REVOKED", "{reason} {call} {fault:?}, seen by {seen_by}");
                assert_eq!(fleet.state_of(&device).as_deref(), Some("refused"));
                assert!((1..=2).contains(&told(&fleet.aws.state(), reason)), "{reason} {call} {fault:?}");
            }
        }
    }
}

/// Publishes something in a list's place.
type Publishes<'a> = &'a dyn Fn(&Fleet);

#[tokio::test]
async fn a_list_that_cannot_be_relied_on_keeps_a_pending_certificate_waiting() {
    let unreadable = |fleet: &Fleet| fleet.publish(b"no list");
    let expired = |fleet: &Fleet| fleet.publish(&expired_crl(3));
    let incomplete = |fleet: &Fleet| {
        fleet.publish(&crl(&[&[1]], 3));
        let is_first = |key: &str| key.starts_with("crl#") && key.ends_with("#0000");
        fleet.aws.state().tables.retain(|(_, key), _| !key.get(1).is_some_and(|part| is_first(part)));
    };
    let impostors = |fleet: &Fleet| fleet.publish(&IMPOSTOR.crl(&[]));
    let unclear: [(&str, Publishes<'_>); 4] =
        [("unreadable", &unreadable), ("expired", &expired), ("incomplete", &incomplete), ("another CA's", &impostors)];
    for (what, publish) in unclear {
        let fleet = Fleet::new();
        publish(&fleet);
        let device = fleet.device("thermometer-1", 7);
        for _ in 0..2 {
            let delivered = fleet.deliver(&device).await;
            assert!(delivered.is_handed_back(), "{what}: {delivered:?}");
            let why = delivered.answer.unwrap().unwrap_err();
            assert!(why.contains("whether the CA has revoked it cannot be told"), "{what}: {why}");
        }
        assert_eq!(fleet.status(&device), "PENDING_ACTIVATION", "{what}");
        assert!(fleet.aws.state().published.is_empty() && fleet.aws.state().things.is_empty(), "{what}");
        fleet.publish(&crl(&[&[1]], 4));
        assert!(fleet.deliver(&device).await.is_done(), "{what}");
        assert_eq!(fleet.status(&device), "ACTIVE", "{what}");
    }
}

#[tokio::test]
async fn a_list_that_can_no_longer_be_relied_on_takes_a_new_activation_back_but_not_for_good() {
    let expire: fn(&mut State, &str, &str) = |state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &expired_crl(9));
    for invocation in 1..=ADMISSION.len() {
        let (fleet, device, delivered) = admitted_while(invocation, expire).await;
        if invocation <= last("UpdateCertificate ACTIVE") - 3 {
            // Seen in time: it waits.
            assert!(delivered.is_handed_back(), "{call}: {delivered:?}");
            assert_eq!(fleet.status(&device), "PENDING_ACTIVATION", "{call}");
        } else if invocation <= last("GetItem ca/status") {
            assert!(delivered.is_done(), "{call}: {delivered:?}");
            assert_eq!(fleet.status(&device), "INACTIVE", "{call}");
            assert_eq!(fleet.reason_of(&device).as_deref(), Some("crl-unclear"), "{call}");
            assert_eq!(told(&fleet.aws.state(), "crl-unclear"), 1, "{call}");
        } else {
            assert_eq!(fleet.status(&device), "ACTIVE", "{call}");
        }
    }
}

#[tokio::test]
async fn with_rotation_a_new_certificate_is_admitted_and_the_old_one_left_alone_and_reported_once() {
    let (fleet, device) = renewed();
    let old = fleet.aws.state().noted("thing#thermometer-1", "name", "certificateId").unwrap();
    let process = || fleet.aws.process().with("ALLOW_ROTATION", "true");
    let delivered = process().deliver(&device.event, NOW).await;
    assert!(delivered.is_done() && delivered.counted["Admitted"] == 1, "{delivered:?}");
    assert!(process().deliver(&device.event, NOW).await.is_done());
    let state = fleet.aws.state();
    assert_eq!((state.status(&old), state.status(&device.id)), ("ACTIVE", "ACTIVE"));
    assert_eq!(state.noted("thing#thermometer-1", "name", "certificateId"), Some(device.id.clone()));
    let [message] = &state.published[..] else { panic!("{} messages", state.published.len()) };
    assert_eq!(message["Subject"], "A device has a new certificate");
    assert!(message["Message"].contains(&old) && message["Message"].contains(&device.id), "{}", message["Message"]);
    assert_eq!(attributes(message)["thing"], "thermometer-1");
}

#[tokio::test]
async fn also_with_rotation_the_same_certificate_in_another_encoding_is_refused() {
    let fleet = Fleet::of(&ELLIPTIC);
    let signed = elements(&ELLIPTIC.issue(&named("thermometer-1"), &*KEY))[0].to_vec();
    let first = fleet.present(&ELLIPTIC.sign(&signed));
    fleet.aws.state().good.insert(first.id.clone());
    assert!(fleet.deliver(&first).await.is_done());
    let second = fleet.present(&ELLIPTIC.sign(&signed));
    assert_ne!(first.id, second.id);
    let process = fleet.aws.process().with("ALLOW_ROTATION", "true");
    assert!(process.deliver(&second.event, NOW).await.is_done());
    assert_eq!((fleet.status(&first).as_str(), fleet.status(&second).as_str()), ("ACTIVE", "REVOKED"));
    assert_eq!(fleet.reason_of(&second).as_deref(), Some("another-encoding"));
}

#[tokio::test]
async fn the_name_of_a_certificate_that_is_gone_or_taken_away_is_free() {
    for status in [Some("REVOKED"), Some("INACTIVE"), None] {
        let (fleet, device) = renewed();
        let old = fleet.aws.state().noted("thing#thermometer-1", "name", "certificateId").unwrap();
        match status {
            Some(status) => fleet.aws.state().set_status(&old, status),
            None => drop(fleet.aws.state().certificates.remove(&old)),
        }
        assert!(fleet.deliver(&device).await.is_done(), "{status:?}");
        assert_eq!(fleet.status(&device), "ACTIVE", "{status:?}");
        assert_eq!(fleet.aws.state().noted("thing#thermometer-1", "name", "certificateId"), Some(device.id.clone()));
        assert_eq!(fleet.aws.state().published.len(), 0);
    }
}

#[tokio::test]
async fn a_certificate_waits_for_another_of_its_name_that_is_not_decided_yet() {
    let (fleet, device) = renewed();
    let old = fleet.aws.state().noted("thing#thermometer-1", "name", "certificateId").unwrap();
    fleet.aws.state().set_status(&old, "PENDING_ACTIVATION");
    let delivered = fleet.deliver(&device).await;
    let why = delivered.answer.unwrap().unwrap_err();
    assert!(why.contains("another certificate of this name"), "{why}");
    assert_eq!(fleet.status(&device), "PENDING_ACTIVATION");
    fleet.aws.state().set_status(&old, "REVOKED");
    assert!(fleet.deliver(&device).await.is_done());
    assert_eq!(fleet.status(&device), "ACTIVE");
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_certificate_is_being_worked_on_waits_a_while_and_then_comes_again() {
    let (fleet, device) = unfinished("PENDING_ACTIVATION", "thermometer-1");
    let until = NOW.plus(LATER).to_string();
    fleet.aws.state().note(&format!("certificate#{}", device.id), "admission", &json!({"ownedUntil": {"N": until}}));
    let why = fleet.deliver(&device).await.answer.unwrap().unwrap_err();
    assert!(why.contains("another invocation is working on this certificate"), "{why}");
    assert!(fleet.aws.state().calls.len() > 20, "it looked again and again");
    assert_eq!(fleet.status(&device), "PENDING_ACTIVATION");
    let later = fleet.aws.process().deliver(&device.event, NOW.plus(2 * LATER)).await;
    assert!(later.is_done(), "{later:?}");
}

#[tokio::test]
async fn a_warm_process_notes_a_cas_end_once_and_fetches_its_list_once() {
    let fleet = Fleet::new();
    fleet.publish(&crl(&[&[1]], 1));
    let batch = |devices: &[Device]| {
        let record = |device: &Device| json!({"messageId": device.id, "eventSource": "aws:sqs", "body": device.event.to_string()});
        json!({"Records": devices.iter().map(record).collect::<Vec<_>>()})
    };
    let devices =
        [fleet.device("thermometer-1", 2), fleet.device("thermometer-2", 3), fleet.device("thermometer-3", 1)];
    fleet.aws.state().good.remove(&devices[2].id);
    let delivered = fleet.aws.process().deliver(&batch(&devices), NOW).await;
    assert_eq!(delivered.answer, Some(Ok(json!({"batchItemFailures": []}))));
    assert_eq!((delivered.counted["Admitted"], delivered.counted["TurnedAway"]), (2, 1));
    let state = fleet.aws.state();
    let calls = |name: &str| state.calls.iter().filter(|(_, invocation)| invocation == name).count();
    assert_eq!(calls("PutItem ca/certificate"), 1);
    assert_eq!(calls("Query devices"), crl(&[&[1]], 1).len().div_ceil(100));
}

fn runs_out(state: &mut State, id: &str, part: &str, on: &str) {
    state.note(id, part, &json!({"runsOutOn": {"S": on}, "thing": {"S": "thermometer-1"}}));
}

#[tokio::test]
async fn the_daily_check_counts_what_runs_out_and_tells_it_once_a_day() {
    let fleet = Fleet::new();
    let order = json!({"check": "runs-out"});
    let (certificate, ca) = (format!("certificate#{}", "c".repeat(64)), fleet.ca_part());
    let process = || fleet.aws.process().with("RUNS_OUT_WITHIN_DAYS", "10");
    for (id, part, on) in [
        (&*certificate, "admission", "2026-01-25"),
        (&ca, "status", "2026-01-15"),
        (&ca, "certificate", "2026-01-16"),
        // Not within the ten days, and nothing that runs out.
        ("certificate#later", "admission", "2026-01-26"),
        ("revocation#x", "part", "2026-01-16"),
    ] {
        runs_out(&mut fleet.aws.state(), id, part, on);
    }
    for _ in 0..2 {
        let delivered = process().deliver(&order, NOW).await;
        assert!(delivered.is_done() && delivered.counted["RunsOut"] == 3, "{delivered:?}");
    }
    {
        let state = fleet.aws.state();
        let [message] = &state.published[..] else { panic!("{} messages", state.published.len()) };
        assert_eq!(message["Subject"], "3 certificates or revocation lists run out");
        let expected = format!(
            "3 to renew within 10 days, the first by 2026-01-15:\n2026-01-15: the revocation list of CA {ca}\n\
             2026-01-16: the certificate of CA {ca}\n2026-01-25: the certificate {} of thing thermometer-1",
            "c".repeat(64),
            ca = fleet.ca_id,
        );
        assert_eq!(message["Message"], expected);
    }
    // The next day it is told again, and counted for what is left: the first has run out.
    let delivered = process().deliver(&order, NOW.plus(DAY)).await;
    assert_eq!(delivered.counted["RunsOut"], 3);
    assert_eq!(fleet.aws.state().published.len(), 2);
}

#[tokio::test]
async fn where_nothing_runs_out_that_is_counted_and_nobody_is_told() {
    let fleet = Fleet::new();
    let delivered = fleet.aws.process().deliver(&json!({"check": "runs-out"}), NOW).await;
    assert!(delivered.is_done() && delivered.counted["RunsOut"] == 0, "{delivered:?}");
    assert_eq!(fleet.aws.state().published.len(), 0);
    let queries = fleet.aws.state().calls.iter().filter(|(_, invocation)| invocation == "Query runs-out").count();
    assert_eq!(queries, 31, "today and thirty days more");
}

#[tokio::test]
async fn of_many_that_run_out_twenty_are_named_and_all_counted() {
    let fleet = Fleet::new();
    for n in 0..45 {
        runs_out(&mut fleet.aws.state(), &format!("certificate#{n:064x}"), "admission", "2026-01-20");
    }
    let delivered = fleet.aws.process().deliver(&json!({"check": "runs-out"}), NOW).await;
    assert_eq!(delivered.counted["RunsOut"], 45);
    let message = fleet.aws.state().published[0]["Message"].clone();
    assert_eq!(message.lines().count(), 22);
    assert!(message.ends_with("\nand 25 more."), "{message}");
}

#[tokio::test]
async fn an_order_that_is_not_known_goes_to_quarantine() {
    for (order, reason) in [
        (json!({"check": "all"}), "unknown-value"),
        (json!({"admit": "everybody"}), "missing-field"),
        (json!(["runs-out"]), "not-an-object"),
    ] {
        let fleet = Fleet::new();
        let delivered = fleet.aws.process().deliver(&order, NOW).await;
        assert_eq!(delivered.quarantined(), reason, "{order}");
        assert_eq!(fleet.aws.state().calls.len(), 1, "only quarantine is written");
    }
}

#[test]
fn what_is_missing_or_wrong_in_the_environment_is_named() {
    let error = |name, value: &str| Aws::default().process().with(name, value).jitr().unwrap_err().to_string();
    for name in ["ACCOUNT_ID", "DEVICE_POLICY", "DEVICES_TABLE", "IDEMPOTENCY_TABLE", "TOPIC_ARN"] {
        assert_eq!(error(name, ""), format!("environment variable {name} is missing"));
    }
    for (name, value) in [
        ("THING_NAME_PATTERN", "["),
        ("ALLOW_ROTATION", "yes"),
        ("REQUIRE_CRL", "1"),
        ("REFUSED_STATUS", "ACTIVE"),
        ("REFUSED_STATUS", "revoked"),
        ("CLOCK_SKEW_SECONDS", "-1"),
        ("RUNS_OUT_WITHIN_DAYS", "soon"),
    ] {
        let error = error(name, value);
        assert!(error.starts_with(&format!("environment variable {name} is {value:?}: ")), "{error}");
    }
    assert!(Aws::default().process().with("THING_TYPE", "").jitr().is_ok());
}

#[test]
fn a_day_is_that_of_utc() {
    for (at, day) in [(NOW, "2026-01-15"), (NOW.minus(Duration::from_millis(1)), "2026-01-14")] {
        assert_eq!(jitr::records::day(at), day);
    }
    assert_eq!(jitr::records::day(Timestamp::from_millis(u64::MAX)), "9999-12-31");
}
