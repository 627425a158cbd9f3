//! The whole function without the Lambda runtime, against the fake AWS: events go in, certificates are admitted or
//! rejected, and whatever happens in between, none becomes active that should not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod fleet;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::iter;
use std::sync::LazyLock;
use std::time::Duration;

use fleet::{
    CA, Deliver, Device, ELLIPTIC, Fleet, KEY, LATER, account, block, crl, digest, expired_crl, handler, lasting,
    notified, publish, record, set,
};
use gatehouse::Timestamp;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, PKCS_ED25519,
    SerialNumber,
};
use serde_json::{Value, json};
use test_support::pki::{self, Ca, DAY, NOW, date, device_params, element, elements};
use test_support::{Delivered, Fault, Process, State, certificate_arn, sample};
use tokio::runtime::Builder;

/// The calls of an undisturbed admission.
const ADMISSION: [&str; 22] = [
    "GetItem certificate/admission",
    "DescribeCertificate",
    "PutItem certificate/admission",
    "DescribeCACertificate",
    "GetItem ca/status",
    "PutItem ca/certificate",
    "PutItem certificate/signed",
    "PutItem thing/name",
    "ListThingPrincipals",
    "CreateThing",
    "AttachThingPrincipal",
    "AttachPolicy",
    // The check before the activation,
    "DescribeCACertificate",
    "GetItem ca/status",
    "GetItem certificate/admission",
    "DescribeCertificate",
    "UpdateCertificate ACTIVE",
    // and after it.
    "DescribeCACertificate",
    "GetItem ca/status",
    "GetItem certificate/admission",
    "DescribeCertificate",
    "PutItem certificate/admission",
];

/// The number, from 1, of an admission's last call of this name.
fn last(call: &str) -> usize {
    ADMISSION.iter().rposition(|name| *name == call).unwrap() + 1
}

#[tokio::test]
async fn device_is_activated_after_everything_is_in_place() {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    let process = fleet.aws.process().env("THING_TYPE", "thermometer");
    let delivered = process.deliver(&device.event, NOW).await;
    assert!(delivered.is_done(), "{delivered:?}");
    assert_eq!(delivered.count("Admitted"), 1);

    let state = fleet.aws.state();
    // The fleet checks what must be in place at the moment of the activation.
    assert_eq!(state.calls_of(process.number), ADMISSION);
    assert_eq!(state.iot.status(&device.id), "ACTIVE");
    let expected = [("", "thermometer"), ("ca", &fleet.ca_id), ("fingerprint", &device.id), ("serial", "07")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(state.iot.things["thermometer-1"], BTreeMap::from(expected));
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
        assert_eq!(record(&state, &device.id, name).as_deref(), Some(expected), "{name}");
    }
    assert!(record(&state, &device.id, "updatedAt").is_some() && record(&state, &device.id, "ownedUntil").is_none());
    assert_eq!(state.attribute("devices", &["thing#thermometer-1", "name"], "certificateId"), Some(device.id.clone()));
    assert_eq!(
        state.attribute("devices", &[&fleet.ca_key(), "certificate"], "runsOutOn").as_deref(),
        Some("2027-01-15")
    );
    assert_eq!(state.published.len(), 0);
}

#[tokio::test]
async fn device_that_is_not_on_the_crl_is_admitted() {
    let fleet = Fleet::new();
    fleet.publish(&crl(&[&[8], &[9]], 1));
    let device = fleet.device("thermometer-1", 7);
    let delivered = fleet.aws.process().env("REQUIRE_CRL", "true").deliver(&device.event, NOW).await;
    assert!(delivered.is_done(), "{delivered:?}");
    assert_eq!(fleet.status(&device), "ACTIVE");
    // Fetched once, in pages, and used three times.
    let queries = fleet.aws.state().calls_to("Query devices").len();
    assert_eq!(queries, crl(&[&[8], &[9]], 1).len().div_ceil(100));
}

#[tokio::test]
async fn existing_thing_is_left_as_it_is() {
    let fleet = Fleet::new();
    let own = BTreeMap::from([("room".to_owned(), "cellar".to_owned())]);
    fleet.aws.state().iot.things.insert("thermometer-1".to_owned(), own.clone());
    let device = fleet.device("thermometer-1", 7);
    assert!(fleet.deliver(&device).await.is_done());
    assert_eq!(fleet.status(&device), "ACTIVE");
    assert_eq!(fleet.aws.state().iot.things["thermometer-1"], own);
}

/// The reason for which a device of this fleet is rejected by a process with these variables.
type RejectionCase = (&'static str, fn() -> (Fleet, Device), &'static [(&'static str, &'static str)]);

fn with(change: fn(&mut CertificateParams)) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.device_with("thermometer-1", change);
    (fleet, device)
}

fn changed(change: fn(Vec<u8>) -> Vec<u8>) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.present(&change(CA.issue(&device_params("thermometer-1"), &*KEY)));
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

static EDWARDS: LazyLock<Ca> = LazyLock::new(|| Ca::with_key("Test CA", KeyPair::generate_for(&PKCS_ED25519).unwrap()));
static IMPOSTOR: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
static OVER: LazyLock<Ca> = LazyLock::new(|| {
    Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| params.not_after = date(NOW.minus(DAY)))
});
static TO_COME: LazyLock<Ca> = LazyLock::new(|| {
    Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| params.not_before = date(NOW.plus(DAY)))
});

const REJECTIONS: [RejectionCase; 35] = [
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
        || beside(|state, device, _| state.iot.certificates.get_mut(&device.id).unwrap().pem.clear()),
        &[],
    ),
    ("bad-signature", || changed(|_| IMPOSTOR.issue(&device_params("thermometer-1"), &*KEY)), &[]),
    ("issuer-mismatch", || changed(|_| Ca::new("Other CA").issue(&device_params("thermometer-1"), &*KEY)), &[]),
    ("unsupported-algorithm", || of(&EDWARDS), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = device_params("").distinguished_name), &[]),
    (
        "bad-thing-name",
        || with(|params| params.distinguished_name = device_params("x".repeat(129)).distinguished_name),
        &[],
    ),
    ("bad-thing-name", || with(|params| params.distinguished_name = device_params("*").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = device_params("+").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = device_params("#").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = device_params("a/b").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = device_params("$aws/x").distinguished_name), &[]),
    ("bad-thing-name", || with(|params| params.distinguished_name = device_params("a\0").distinguished_name), &[]),
    (
        "bad-thing-name",
        || with(|params| params.distinguished_name = device_params("thermömeter").distinguished_name),
        &[],
    ),
    ("name-pattern", || with(|_| ()), &[("THING_NAME_PATTERN", "thermometer|1")]),
    ("revoked-by-crl", || beside(|state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &crl(&[&[1], &[7]], 1))), &[]),
    ("no-crl", || with(|_| ()), &[("REQUIRE_CRL", "true")]),
    (
        "ca-inactive",
        || beside(|state, _, ca| "INACTIVE".clone_into(&mut state.iot.cas.get_mut(ca).unwrap().status)),
        &[],
    ),
    ("ca-inactive", || beside(|state, _, ca| drop(state.iot.cas.remove(ca))), &[]),
    ("ca-expired", || of(&OVER), &[]),
    ("ca-expired", || of(&TO_COME), &[]),
    ("ca-blocked", || beside(|state, _, ca| block(state, &format!("ca#{ca}"), "status")), &[]),
    ("blocked", || beside(|state, device, _| block(state, &format!("certificate#{}", device.id), "admission")), &[]),
    (
        "name-taken",
        || {
            let fleet = Fleet::new();
            let old = fleet.device("thermometer-1", 1);
            fleet.aws.state().iot.set_status(&old.id, "ACTIVE");
            set(&mut fleet.aws.state(), "thing#thermometer-1", "name", &json!({"certificateId": {"S": old.id}}));
            let device = fleet.device_with("thermometer-1", |_| ());
            (fleet, device)
        },
        &[],
    ),
    // Nobody has claimed the name: the thing and its certificates are older than this function.
    (
        "name-taken",
        || {
            let fleet = Fleet::new();
            let revoked = fleet.device("thermometer-1", 1);
            fleet.aws.state().iot.set_status(&revoked.id, "REVOKED");
            let old = fleet.device("thermometer-1", 2);
            fleet.aws.state().iot.set_status(&old.id, "ACTIVE");
            fleet.aws.state().iot.things.insert("thermometer-1".to_owned(), BTreeMap::new());
            let cognito = "eu-west-1:8c1b2d3e-0000-4000-8000-000000000001".to_owned();
            for principal in [cognito, certificate_arn(&revoked.id), certificate_arn(&old.id)] {
                fleet.aws.state().iot.attached.push(("thermometer-1".to_owned(), principal));
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
            let signed = elements(&ELLIPTIC.issue(&device_params("thermometer-1"), &*KEY))[0].to_vec();
            let first = fleet.present(&ELLIPTIC.sign(&signed));
            fleet.aws.state().iot.set_status(&first.id, "REVOKED");
            let digest = digest(&signed);
            set(
                &mut fleet.aws.state(),
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

#[tokio::test]
async fn each_rejection_is_effective_notified_once_and_recorded() {
    for (reason, make, variables) in REJECTIONS {
        for chosen in ["REVOKED", "INACTIVE"] {
            let (fleet, device) = make();
            let process = || {
                let process = fleet.aws.process().env("REJECTED_STATUS", chosen);
                variables.iter().fold(process, |process, (name, value)| process.env(name, *value))
            };
            let delivered = process().deliver(&device.event, NOW).await;
            assert!(delivered.is_done(), "{reason}: {delivered:?}");
            assert_eq!(delivered.count("Rejected"), 1, "{reason}");
            for _ in 0..2 {
                let again = process().deliver(&device.event, NOW.plus(LATER)).await;
                assert!(again.is_done() && again.count("Duplicate") == 1, "{reason}: {again:?}");
            }
            let state = fleet.aws.state();
            let expected = if reason == "unsupported-algorithm" { "INACTIVE" } else { chosen };
            assert_eq!(state.iot.status(&device.id), expected, "{reason}");
            let recorded = |name: &str| record(&state, &device.id, name);
            assert_eq!(recorded("state").as_deref(), Some("refused"), "{reason}");
            assert_eq!(recorded("reason").as_deref(), Some(reason));
            assert!(recorded("why").unwrap().ends_with('.') && recorded("runsOutOn").is_none(), "{reason}");
            assert_eq!(recorded("fingerprint").as_ref(), Some(&device.id));
            assert_eq!((notified(&state, reason), state.published.len()), (1, 1), "{reason}");
            let message = &state.published[0];
            assert_eq!(message.subject, format!("Device rejected: {reason}"));
            assert!(message.message.contains(&recorded("why").unwrap()), "{}", message.message);
            assert!(message.message.contains(&format!("is now {expected}")), "{}", message.message);
            let attributes = &message.attributes;
            assert_eq!((&attributes["certificateId"], &attributes["caCertificateId"]), (&device.id, &fleet.ca_id));
            let named = !["malformed-certificate", "trailing-bytes", "bad-thing-name"].contains(&reason);
            assert_eq!(attributes.contains_key("thing"), named, "{reason}");
            assert_eq!(lasting(&state)["quarantined"], 0, "{reason}");
            assert!(state.calls_to("UpdateCertificate ACTIVE").is_empty(), "{reason}");
        }
    }
}

/// A fleet with the certificate and the CA that the samples name.
fn sampled() -> Fleet {
    let mut fleet = Fleet::new();
    let event = sample("jitr/registered.json");
    event["payload"]["caCertificateId"].as_str().unwrap().clone_into(&mut fleet.ca_id);
    fleet.aws.state().iot.register_ca(&fleet.ca_id, &CA.pem);
    let device = fleet.device("thermometer-1", 7);
    let id = event["payload"]["certificateId"].as_str().unwrap();
    let mut state = fleet.aws.state();
    let certificate = state.iot.certificates.remove(&device.id).unwrap();
    state.iot.certificates.insert(id.to_owned(), certificate);
    drop(state);
    fleet.set_valid(id, true);
    fleet
}

#[tokio::test]
async fn every_bad_sample_is_quarantined_and_changes_nothing() {
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
        let delivered = fleet.aws.process().deliver(&sample(&format!("jitr/{name}.json")), NOW).await;
        assert_eq!(delivered.refusal_code(), reason, "{name}");
        let mut lasting = fleet.lasting();
        assert_eq!(lasting["quarantined"], 1, "{name}");
        lasting["quarantined"] = 0.into();
        assert_eq!(lasting, sampled().lasting(), "{name}");
        assert_eq!(fleet.aws.state().published.len(), 0, "{name}");
    }
}

#[tokio::test]
async fn every_good_sample_is_handled_alone_and_in_a_batch() {
    for name in ["registered", "registered-active", "runs-out", "sqs-batch"] {
        let fleet = sampled();
        let delivered = fleet.aws.process().deliver(&sample(&format!("jitr/{name}.json")), NOW).await;
        let admitted = usize::from(name != "runs-out");
        assert_eq!(fleet.lasting()["policies"].as_array().unwrap().len(), admitted, "{name}: {delivered:?}");
        if name == "sqs-batch" {
            assert_eq!(delivered.response, Some(Ok(json!({"batchItemFailures": []}))));
            assert_eq!(fleet.lasting()["quarantined"], 1);
        } else {
            assert!(delivered.is_done(), "{name}: {delivered:?}");
        }
    }
}

#[tokio::test]
async fn event_that_names_the_wrong_ca_is_quarantined() {
    for ca in [Some("0".repeat(64)), None] {
        let fleet = Fleet::new();
        let device = fleet.device("thermometer-1", 7);
        fleet.aws.state().iot.certificates.get_mut(&device.id).unwrap().ca = ca;
        let delivered = fleet.deliver(&device).await;
        assert_eq!((delivered.refusal_code(), fleet.status(&device).as_str()), ("another-ca", "PENDING_ACTIVATION"));
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
async fn active_certificate_without_a_record_is_only_recorded() {
    let fleet = Fleet::new();
    // Valid or not.
    let device = fleet.device_with("*", |params| params.not_after = date(NOW.minus(DAY)));
    fleet.aws.state().iot.set_status(&device.id, "ACTIVE");
    let delivered = fleet.deliver(&device).await;
    assert!(delivered.is_done() && delivered.count("FoundActive") == 1, "{delivered:?}");
    assert_eq!((fleet.status(&device).as_str(), fleet.state_of(&device).as_deref()), ("ACTIVE", Some("found-active")));
    assert_eq!(fleet.aws.state().calls.len(), 3);
    // It stays like this, also after an operator has deactivated it.
    assert_eq!(fleet.deliver(&device).await.count("Duplicate"), 1);
    fleet.aws.state().iot.set_status(&device.id, "INACTIVE");
    assert_eq!(fleet.deliver(&device).await.count("Duplicate"), 1);
    assert_eq!(fleet.status(&device), "INACTIVE");
}

/// A fleet in which a device's admission was left unfinished, the certificate having this status.
fn unfinished(status: &str, name: &str) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.device(name, 7);
    let mut state = fleet.aws.state();
    state.iot.set_status(&device.id, status);
    let owned = json!({"state": {"S": "admitting"}, "owner": {"S": "dead"}, "ownedUntil": {"N": NOW.minus(DAY)}});
    let owned: Value = serde_json::from_str(
        &owned.to_string().replace(&NOW.minus(DAY).to_string(), &format!("\"{}\"", NOW.minus(DAY))),
    )
    .unwrap();
    set(&mut state, &format!("certificate#{}", device.id), "admission", &owned);
    drop(state);
    (fleet, device)
}

#[tokio::test]
async fn unfinished_admission_of_an_active_certificate_is_finished() {
    let (fleet, device) = unfinished("ACTIVE", "thermometer-1");
    assert!(fleet.deliver(&device).await.is_done());
    let state = fleet.aws.state();
    assert_eq!(record(&state, &device.id, "state").as_deref(), Some("admitted"));
    assert_eq!((state.iot.attached.len(), state.iot.policies.len(), state.iot.things.len()), (1, 1, 1));
    assert!(state.calls_to("UpdateCertificate").is_empty());
}

#[tokio::test]
async fn unfinished_admission_that_is_no_longer_valid_is_taken_back() {
    let (fleet, device) = unfinished("ACTIVE", "a/b");
    assert!(fleet.deliver(&device).await.is_done());
    assert_eq!(
        (fleet.status(&device).as_str(), fleet.reason_of(&device).as_deref()),
        ("REVOKED", Some("bad-thing-name"))
    );
}

#[tokio::test]
async fn inactive_certificate_is_never_activated_whatever_its_record() {
    for status in ["INACTIVE", "REVOKED", "PENDING_TRANSFER", "REGISTER_INACTIVE"] {
        for recorded in
            [None, Some("admitting"), Some("admitted"), Some("refused"), Some("found-active"), Some("revoked")]
        {
            let (fleet, device) = unfinished(status, "thermometer-1");
            let pk = format!("certificate#{}", device.id);
            match recorded {
                None => {
                    let key = ("devices".to_owned(), vec![pk, "admission".to_owned()]);
                    fleet.aws.state().tables.remove(&key);
                }
                Some(recorded) => {
                    set(&mut fleet.aws.state(), &pk, "admission", &json!({"state": {"S": recorded}}));
                }
            }
            for _ in 0..2 {
                assert!(fleet.deliver(&device).await.is_done(), "{status} {recorded:?}");
            }
            let state = fleet.aws.state();
            assert_eq!(state.iot.status(&device.id), status, "{recorded:?}");
            let expected = if recorded == Some("admitting") { Some("refused") } else { recorded };
            assert_eq!(record(&state, &device.id, "state").as_deref(), expected, "{status}");
            assert!(state.calls_to("UpdateCertificate").is_empty(), "{status} {recorded:?}");
            assert!(state.iot.things.is_empty() && state.iot.policies.is_empty());
        }
    }
}

#[tokio::test]
async fn decided_rejection_is_carried_out_whatever_changed_since() {
    for (status, expected) in [("PENDING_ACTIVATION", "REVOKED"), ("ACTIVE", "REVOKED"), ("INACTIVE", "INACTIVE")] {
        let (fleet, device) = unfinished(status, "thermometer-1");
        let decided = json!({"state": {"S": "refusing"}, "reason": {"S": "ca-blocked"}, "why": {"S": "The CA is blocked."},
                             "refusedStatus": {"S": "REVOKED"}});
        set(&mut fleet.aws.state(), &format!("certificate#{}", device.id), "admission", &decided);
        let process = fleet.aws.process().env("REJECTED_STATUS", "INACTIVE");
        assert!(process.deliver(&device.event, NOW).await.is_done());
        assert_eq!(fleet.status(&device), expected);
        assert_eq!(fleet.state_of(&device).as_deref(), Some("refused"));
        assert_eq!(notified(&fleet.aws.state(), "ca-blocked"), 1);
    }
}

#[tokio::test]
async fn same_event_three_times_admits_once() {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    fleet.deliver(&device).await;
    let once = fleet.lasting();
    for _ in 0..2 {
        let again = fleet.deliver(&device).await;
        assert!(again.is_done() && again.count("Duplicate") == 1, "{again:?}");
    }
    assert_eq!(fleet.lasting(), once);
    let activations = fleet.aws.state().calls_to("UpdateCertificate ACTIVE").len();
    assert_eq!(activations, 1);
}

/// The same event reaches two processes, whose calls are served in this order.
async fn deliver_twice(turns: impl IntoIterator<Item = usize> + Clone + Debug) {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    let (one, other) = (fleet.aws.process(), fleet.aws.process());
    fleet.aws.serve_in_order(turns.clone());
    let both =
        tokio::join!(one.deliver_until_settled(&device.event, NOW), other.deliver_until_settled(&device.event, NOW));
    assert!(both.0.is_done() && both.1.is_done(), "{turns:?}: {both:?}");
    let counted = |name| both.0.count(name) + both.1.count(name);
    assert_eq!((counted("Admitted"), counted("Duplicate")), (1, 1), "{turns:?}: {both:?}");
    let state = fleet.aws.state();
    assert_eq!(
        (state.iot.status(&device.id), record(&state, &device.id, "state").as_deref()),
        ("ACTIVE", Some("admitted"))
    );
    let activations = state.calls_to("UpdateCertificate ACTIVE").len();
    assert_eq!(activations, 1, "{turns:?}");
}

/// Two certificates of one name reach two processes, whose calls are served in this order.
async fn deliver_two_of_one_name(turns: impl IntoIterator<Item = usize> + Clone + Debug) {
    let fleet = Fleet::new();
    let devices = [fleet.device("thermometer-1", 1), fleet.device("thermometer-1", 2)];
    let (one, other) = (fleet.aws.process(), fleet.aws.process());
    fleet.aws.serve_in_order(turns.clone());
    let (one, other) = tokio::join!(
        one.deliver_until_settled(&devices[0].event, NOW),
        other.deliver_until_settled(&devices[1].event, NOW),
    );
    assert!(one.is_done() && other.is_done(), "{turns:?}: {one:?} {other:?}");
    let mut statuses = devices.each_ref().map(|device| fleet.status(device));
    statuses.sort_unstable();
    assert_eq!(statuses, ["ACTIVE", "REVOKED"], "{turns:?}");
    let state = fleet.aws.state();
    let active = devices.iter().find(|device| state.iot.status(&device.id) == "ACTIVE").unwrap();
    assert_eq!(state.attribute("devices", &["thing#thermometer-1", "name"], "certificateId"), Some(active.id.clone()));
    let activations = state.calls_to("UpdateCertificate ACTIVE").len();
    assert_eq!(activations, 1, "{turns:?}");
    assert_eq!((notified(&state, "name-taken"), state.published.len()), (1, 1), "{turns:?}");
}

/// One process makes `first` calls, then the other `second`, then the one goes on to its end, and the other to its.
fn turns(first: usize, second: usize) -> impl Iterator<Item = usize> + Clone + Debug {
    iter::repeat_n(1, first)
        .chain(iter::repeat_n(2, second))
        .chain(iter::repeat_n(1, 200))
        .chain(iter::repeat_n(2, 200))
}

#[tokio::test(start_paused = true)]
async fn same_event_twice_admits_once_however_the_calls_interleave() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_twice(turns(first, second)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_certificates_with_one_name_is_admitted() {
    for first in 0..=ADMISSION.len() {
        for second in 0..=ADMISSION.len() {
            deliver_two_of_one_name(turns(first, second)).await;
        }
    }
}

proptest! {
    #[test]
    fn any_order_of_two_processes_calls_admits_once(
        turns in prop::collection::vec(1..=2_usize, 0..80),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(deliver_twice(turns.clone()));
        runtime.block_on(deliver_two_of_one_name(turns));
    }
}

/// A fleet with a device, and the variables of the processes that handle its event.
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
    state.iot.set_status(&old.id, "ACTIVE");
    set(&mut state, "thing#thermometer-1", "name", &json!({"certificateId": {"S": old.id}}));
    state.iot.things.insert("thermometer-1".to_owned(), BTreeMap::new());
    state.iot.attached.push(("thermometer-1".to_owned(), certificate_arn(&old.id)));
    drop(state);
    let device = fleet.device("thermometer-1", 7);
    (fleet, device)
}

fn bad(device: (Fleet, Device)) -> (Fleet, Device) {
    device.0.set_valid(&device.1.id, false);
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
    variables.iter().fold(fleet.aws.process(), |process, (name, value)| process.env(name, *value))
}

/// What lasts, the number of notifications, and the calls of an undisturbed delivery.
async fn undisturbed(
    make: fn() -> (Fleet, Device),
    variables: &[(&'static str, &'static str)],
) -> (Value, usize, Vec<String>) {
    let (fleet, device) = make();
    assert!(process(&fleet, variables).deliver(&device.event, NOW).await.is_done());
    let state = fleet.aws.state();
    (lasting(&state), state.published.len(), state.calls.iter().map(test_support::Call::label).collect())
}

/// A process dies before or after each of its calls, and the event is delivered again: to a process that dies as well,
/// after each of its calls in turn, and once more.
#[tokio::test]
async fn crash_between_any_two_steps_leaves_nothing_half_active() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        let deaths = |calls: usize| (1..=calls).flat_map(|call| [(call, Fault::DiesBefore), (call, Fault::DiesAfter)]);
        for (first, fault) in deaths(calls.len()) {
            // A second death is tried at every step of an admission, and at none of the others.
            let seconds: Vec<_> = iter::once(None)
                .chain((1..=calls.len()).map(Some).filter(|_| what == "admitted" && fault == Fault::DiesAfter))
                .collect();
            for second in seconds {
                let (fleet, device) = make();
                let dying = process(&fleet, variables).fail(first, fault);
                assert_eq!(dying.deliver(&device.event, NOW).await.response, None, "{what} {first} {fault:?}");
                if let Some(call) = second {
                    process(&fleet, variables).fail(call, fault).deliver(&device.event, NOW.plus(LATER)).await;
                }
                let last = process(&fleet, variables).deliver(&device.event, NOW.plus(2 * LATER)).await;
                assert!(last.is_done(), "{what} {first} {fault:?} {second:?}: {last:?}");
                let state = fleet.aws.state();
                assert_eq!(lasting(&state), expected, "{what} {first} {fault:?} {second:?}");
                // Notified at least once, and twice if the process died between SNS's response and the mark.
                let is_published_twice = matches!((calls[first - 1].as_str(), fault), ("Publish", Fault::DiesAfter))
                    || matches!((calls[first - 1].as_str(), fault), ("UpdateItem idempotency", Fault::DiesBefore));
                assert_eq!(
                    state.published.len(),
                    messages + usize::from(is_published_twice),
                    "{what} {first} {fault:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn failed_call_is_retried_with_the_same_end() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        for (index, name) in calls.iter().enumerate() {
            let (fleet, device) = make();
            let failing = process(&fleet, variables).fail(index + 1, Fault::Denied);
            let delivered = failing.deliver(&device.event, NOW).await;
            // The message is published: a retry for its mark would certainly publish it again.
            let is_mark = name == "UpdateItem idempotency";
            assert_eq!(delivered.is_retried(), !is_mark, "{what} {name}: {delivered:?}");
            // Immediately: the failed invocation has given its lease and its claim back.
            let next = process(&fleet, variables).deliver(&device.event, NOW).await;
            assert!(next.is_done(), "{what} {name}: {next:?}");
            let state = fleet.aws.state();
            assert_eq!(lasting(&state), expected, "{what} {name}");
            assert_eq!(state.published.len(), messages, "{what} {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lost_response_or_throttling_is_retried_in_the_same_invocation() {
    for (what, make, variables) in SCENARIOS {
        let (expected, messages, calls) = undisturbed(make, variables).await;
        for (index, name) in calls.iter().enumerate() {
            for fault in [Fault::Lost, Fault::Throttled] {
                let (fleet, device) = make();
                let delivered = process(&fleet, variables).fail(index + 1, fault).deliver(&device.event, NOW).await;
                assert!(delivered.is_done(), "{what} {name} {fault:?}: {delivered:?}");
                let state = fleet.aws.state();
                assert_eq!(lasting(&state), expected, "{what} {name} {fault:?}");
                // SNS has no idempotency.
                let is_published_twice = name == "Publish" && fault == Fault::Lost;
                assert_eq!(
                    state.published.len(),
                    messages + usize::from(is_published_twice),
                    "{what} {name} {fault:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lasting_throttling_retries_the_event_and_changes_no_status() {
    for call in 1..=last("UpdateCertificate ACTIVE") {
        let fleet = Fleet::new();
        let device = fleet.device("thermometer-1", 7);
        let throttled =
            (call..call + 3).fold(fleet.aws.process(), |process, call| process.fail(call, Fault::Throttled));
        let delivered = throttled.deliver(&device.event, NOW).await;
        assert!(delivered.is_retried(), "{call}: {delivered:?}");
        assert_eq!(fleet.status(&device), "PENDING_ACTIVATION", "{call}");
        assert!(fleet.deliver(&device).await.is_done(), "{call}");
        assert_eq!(fleet.status(&device), "ACTIVE", "{call}");
    }
}

/// Something that an operator does, and the call in which `jitr` notices it.
type Meanwhile = (&'static str, fn(&mut State, &str, &str), &'static str);

const MEANWHILE: [Meanwhile; 5] = [
    ("ca-blocked", |state, _, ca| block(state, &format!("ca#{ca}"), "status"), "GetItem ca/status"),
    (
        "ca-inactive",
        |state, _, ca| "INACTIVE".clone_into(&mut state.iot.cas.get_mut(ca).unwrap().status),
        "DescribeCACertificate",
    ),
    ("ca-inactive", |state, _, ca| drop(state.iot.cas.remove(ca)), "DescribeCACertificate"),
    ("revoked-by-crl", |state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &crl(&[&[7]], 2)), "GetItem ca/status"),
    (
        "blocked",
        |state, device, _| block(state, &format!("certificate#{device}"), "admission"),
        "GetItem certificate/admission",
    ),
];

/// A device's admission, and something that happens just before this call of it.
async fn admitted_while(call: usize, change: fn(&mut State, &str, &str)) -> (Fleet, Device, Delivered) {
    let fleet = Fleet::new();
    let device = fleet.device("thermometer-1", 7);
    let (id, ca) = (device.id.clone(), fleet.ca_id.clone());
    let process = fleet.aws.process().change(call, move |state| change(state, &id, &ca));
    let delivered = process.deliver(&device.event, NOW).await;
    (fleet, device, delivered)
}

#[tokio::test]
async fn block_before_the_last_check_always_takes_effect() {
    for (reason, change, seen_by) in MEANWHILE {
        for call in 1..=ADMISSION.len() {
            let (fleet, device, delivered) = admitted_while(call, change).await;
            assert!(delivered.is_done(), "{reason} {call}: {delivered:?}");
            for _ in 0..2 {
                assert!(fleet.deliver(&device).await.is_done(), "{reason} {call}");
            }
            if call <= last(seen_by) {
                assert_eq!(fleet.status(&device), "REVOKED", "{reason} {call}");
                assert_eq!(fleet.reason_of(&device).as_deref(), Some(reason), "{call}");
                assert_eq!(notified(&fleet.aws.state(), reason), 1, "{reason} {call}");
            } else {
                // It was active before the block: `revoke` finds it in its sweep.
                assert!(call > last("UpdateCertificate ACTIVE"), "{reason} {call}");
                assert_eq!(fleet.status(&device), "ACTIVE", "{reason} {call}");
            }
        }
    }
}

#[tokio::test]
async fn status_that_an_operator_sets_at_any_point_stays() {
    // AWS IoT has no compare-and-set: a status that an operator sets between the last check and the activation is
    // overwritten, unless the certificate is blocked first, as `revoke` does.
    let overwritten = last("UpdateCertificate ACTIVE");
    for (call, is_blocked) in (1..=ADMISSION.len() + 1).flat_map(|call| [(call, false), (call, true)]) {
        for status in ["INACTIVE", "REVOKED"] {
            let fleet = Fleet::new();
            let device = fleet.device("thermometer-1", 7);
            let id = device.id.clone();
            let deactivate = move |state: &mut State| {
                if is_blocked {
                    block(state, &format!("certificate#{id}"), "admission");
                }
                state.iot.set_status(&id, status);
            };
            if call > ADMISSION.len() {
                assert!(fleet.deliver(&device).await.is_done());
                deactivate(&mut fleet.aws.state());
            } else {
                assert!(fleet.aws.process().change(call, deactivate).deliver(&device.event, NOW).await.is_done());
            }
            for _ in 0..3 {
                assert!(fleet.deliver(&device).await.is_done());
            }
            let expected = match (call == overwritten, is_blocked) {
                (true, false) => "ACTIVE",
                (true, true) => "REVOKED",
                _ => status,
            };
            assert_eq!(fleet.status(&device), expected, "{call} {status} {is_blocked}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn crash_while_taking_an_activation_back_does_not_leave_it() {
    for (reason, change, seen_by) in MEANWHILE {
        let blocked_at = last("UpdateCertificate ACTIVE") + 1;
        let calls = admitted_while(blocked_at, change).await.0.aws.state().calls.len();
        for call in blocked_at..=calls {
            for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied] {
                let fleet = Fleet::new();
                let device = fleet.device("thermometer-1", 7);
                let (id, ca) = (device.id.clone(), fleet.ca_id.clone());
                let process = fleet.aws.process().change(blocked_at, move |state| change(state, &id, &ca));
                let last = process.fail(call, fault).deliver_until_settled(&device.event, NOW).await;
                assert!(last.is_done(), "{reason} {call} {fault:?}: {last:?}");
                assert_eq!(fleet.status(&device), "REVOKED", "{reason} {call} {fault:?}, seen by {seen_by}");
                assert_eq!(fleet.state_of(&device).as_deref(), Some("refused"));
                assert!((1..=2).contains(&notified(&fleet.aws.state(), reason)), "{reason} {call} {fault:?}");
            }
        }
    }
}

/// Publishes something instead of a usable list.
type Publishes<'a> = &'a dyn Fn(&Fleet);

#[tokio::test]
async fn unusable_crl_keeps_a_pending_certificate_waiting() {
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
            assert!(delivered.is_retried(), "{what}: {delivered:?}");
            let why = delivered.response.unwrap().unwrap_err();
            assert!(why.contains("failed to check whether the CA has revoked the certificate"), "{what}: {why}");
        }
        assert_eq!(fleet.status(&device), "PENDING_ACTIVATION", "{what}");
        assert!(fleet.aws.state().published.is_empty() && fleet.aws.state().iot.things.is_empty(), "{what}");
        fleet.publish(&crl(&[&[1]], 4));
        assert!(fleet.deliver(&device).await.is_done(), "{what}");
        assert_eq!(fleet.status(&device), "ACTIVE", "{what}");
    }
}

#[tokio::test]
async fn crl_that_becomes_unusable_makes_a_new_activation_inactive() {
    let expire: fn(&mut State, &str, &str) = |state, _, ca| publish(state, &format!("ca#{ca}"), &CA, &expired_crl(9));
    for call in 1..=ADMISSION.len() {
        let (fleet, device, delivered) = admitted_while(call, expire).await;
        if call <= last("UpdateCertificate ACTIVE") - 3 {
            // Noticed in time: it waits.
            assert!(delivered.is_retried(), "{call}: {delivered:?}");
            assert_eq!(fleet.status(&device), "PENDING_ACTIVATION", "{call}");
        } else if call <= last("GetItem ca/status") {
            assert!(delivered.is_done(), "{call}: {delivered:?}");
            assert_eq!(fleet.status(&device), "INACTIVE", "{call}");
            assert_eq!(fleet.reason_of(&device).as_deref(), Some("crl-unclear"), "{call}");
            assert_eq!(notified(&fleet.aws.state(), "crl-unclear"), 1, "{call}");
        } else {
            assert_eq!(fleet.status(&device), "ACTIVE", "{call}");
        }
    }
}

#[tokio::test]
async fn rotation_admits_the_new_certificate_and_notifies_once() {
    let (fleet, device) = renewed();
    let old = fleet.holder_of("thermometer-1").unwrap();
    let process = || fleet.aws.process().env("ALLOW_ROTATION", "true");
    let delivered = process().deliver(&device.event, NOW).await;
    assert!(delivered.is_done() && delivered.count("Admitted") == 1, "{delivered:?}");
    assert!(process().deliver(&device.event, NOW).await.is_done());
    let state = fleet.aws.state();
    assert_eq!((state.iot.status(&old), state.iot.status(&device.id)), ("ACTIVE", "ACTIVE"));
    assert_eq!(state.attribute("devices", &["thing#thermometer-1", "name"], "certificateId"), Some(device.id.clone()));
    let [message] = &state.published[..] else { panic!("{} messages", state.published.len()) };
    assert_eq!(message.subject, "A device has a new certificate");
    assert!(message.message.contains(&old) && message.message.contains(&device.id), "{}", message.message);
    assert_eq!(message.attributes["thing"], "thermometer-1");
}

#[tokio::test]
async fn rotation_rejects_another_encoding_of_the_same_certificate() {
    let fleet = Fleet::of(&ELLIPTIC);
    let signed = elements(&ELLIPTIC.issue(&device_params("thermometer-1"), &*KEY))[0].to_vec();
    let first = fleet.present(&ELLIPTIC.sign(&signed));
    fleet.set_valid(&first.id, true);
    assert!(fleet.deliver(&first).await.is_done());
    let second = fleet.present(&ELLIPTIC.sign(&signed));
    assert_ne!(first.id, second.id);
    let process = fleet.aws.process().env("ALLOW_ROTATION", "true");
    assert!(process.deliver(&second.event, NOW).await.is_done());
    assert_eq!((fleet.status(&first).as_str(), fleet.status(&second).as_str()), ("ACTIVE", "REVOKED"));
    assert_eq!(fleet.reason_of(&second).as_deref(), Some("another-encoding"));
}

#[tokio::test]
async fn name_of_an_inactive_or_deleted_certificate_is_free() {
    for status in [Some("REVOKED"), Some("INACTIVE"), None] {
        let (fleet, device) = renewed();
        let old = fleet.holder_of("thermometer-1").unwrap();
        match status {
            Some(status) => fleet.aws.state().iot.set_status(&old, status),
            None => drop(fleet.aws.state().iot.certificates.remove(&old)),
        }
        assert!(fleet.deliver(&device).await.is_done(), "{status:?}");
        assert_eq!(fleet.status(&device), "ACTIVE", "{status:?}");
        assert_eq!(fleet.holder_of("thermometer-1"), Some(device.id.clone()));
        assert_eq!(fleet.aws.state().published.len(), 0);
    }
}

#[tokio::test]
async fn certificate_waits_for_a_pending_one_of_its_name() {
    let (fleet, device) = renewed();
    let old = fleet.holder_of("thermometer-1").unwrap();
    fleet.aws.state().iot.set_status(&old, "PENDING_ACTIVATION");
    let delivered = fleet.deliver(&device).await;
    let why = delivered.response.unwrap().unwrap_err();
    assert!(why.contains("another certificate of this name"), "{why}");
    assert_eq!(fleet.status(&device), "PENDING_ACTIVATION");
    fleet.aws.state().iot.set_status(&old, "REVOKED");
    assert!(fleet.deliver(&device).await.is_done());
    assert_eq!(fleet.status(&device), "ACTIVE");
}

#[tokio::test(start_paused = true)]
async fn event_of_a_leased_certificate_waits_and_is_then_retried() {
    let (fleet, device) = unfinished("PENDING_ACTIVATION", "thermometer-1");
    let until = NOW.plus(LATER).to_string();
    set(
        &mut fleet.aws.state(),
        &format!("certificate#{}", device.id),
        "admission",
        &json!({"ownedUntil": {"N": until}}),
    );
    let why = fleet.deliver(&device).await.response.unwrap().unwrap_err();
    assert!(why.contains("another invocation is working on this certificate"), "{why}");
    assert!(fleet.aws.state().calls.len() > 20, "it polled the record");
    assert_eq!(fleet.status(&device), "PENDING_ACTIVATION");
    let later = fleet.aws.process().deliver(&device.event, NOW.plus(2 * LATER)).await;
    assert!(later.is_done(), "{later:?}");
}

#[tokio::test]
async fn warm_process_records_ca_expiry_and_fetches_the_crl_once() {
    let fleet = Fleet::new();
    fleet.publish(&crl(&[&[1]], 1));
    let batch = |devices: &[Device]| {
        let record = |device: &Device| json!({"messageId": device.id, "eventSource": "aws:sqs", "body": device.event.to_string()});
        json!({"Records": devices.iter().map(record).collect::<Vec<_>>()})
    };
    let devices =
        [fleet.device("thermometer-1", 2), fleet.device("thermometer-2", 3), fleet.device("thermometer-3", 1)];
    fleet.set_valid(&devices[2].id, false);
    let delivered = fleet.aws.process().deliver(&batch(&devices), NOW).await;
    assert_eq!(delivered.response, Some(Ok(json!({"batchItemFailures": []}))));
    assert_eq!((delivered.count("Admitted"), delivered.count("Rejected")), (2, 1));
    let state = fleet.aws.state();
    let calls = |name: &str| state.calls_to(name).len();
    assert_eq!(calls("PutItem ca/certificate"), 1);
    assert_eq!(calls("Query devices"), crl(&[&[1]], 1).len().div_ceil(100));
}

fn expiring(state: &mut State, id: &str, part: &str, on: &str) {
    set(state, id, part, &json!({"runsOutOn": {"S": on}, "thing": {"S": "thermometer-1"}}));
}

#[tokio::test]
async fn daily_check_counts_what_expires_and_notifies_once_a_day() {
    let fleet = Fleet::new();
    let order = json!({"check": "runs-out"});
    let (certificate, ca) = (format!("certificate#{}", "c".repeat(64)), fleet.ca_key());
    let process = || fleet.aws.process().env("EXPIRY_WARNING_DAYS", "10");
    for (id, part, on) in [
        (&*certificate, "admission", "2026-01-25"),
        (&ca, "status", "2026-01-15"),
        (&ca, "certificate", "2026-01-16"),
        // Not within the ten days, and nothing that expires.
        ("certificate#later", "admission", "2026-01-26"),
        ("revocation#x", "part", "2026-01-16"),
    ] {
        expiring(&mut fleet.aws.state(), id, part, on);
    }
    for _ in 0..2 {
        let delivered = process().deliver(&order, NOW).await;
        assert!(delivered.is_done() && delivered.count("Expiring") == 3, "{delivered:?}");
    }
    {
        let state = fleet.aws.state();
        let [message] = &state.published[..] else { panic!("{} messages", state.published.len()) };
        assert_eq!(message.subject, "3 certificates or revocation lists expire soon");
        let expected = format!(
            "3 to renew within 10 days, the first by 2026-01-15:\n2026-01-15: the revocation list of CA {ca}\n\
             2026-01-16: the certificate of CA {ca}\n2026-01-25: the certificate {} of thing thermometer-1",
            "c".repeat(64),
            ca = fleet.ca_id,
        );
        assert_eq!(message.message, expected);
    }
    // Notified again the next day, about what is left: the first has expired, another is due.
    let delivered = process().deliver(&order, NOW.plus(DAY)).await;
    assert_eq!(delivered.count("Expiring"), 3);
    assert_eq!(fleet.aws.state().published.len(), 2);
}

#[tokio::test]
async fn daily_check_counts_zero_and_notifies_nobody() {
    let fleet = Fleet::new();
    let delivered = fleet.aws.process().deliver(&json!({"check": "runs-out"}), NOW).await;
    assert!(delivered.is_done() && delivered.count("Expiring") == 0, "{delivered:?}");
    assert_eq!(fleet.aws.state().published.len(), 0);
    let queries = fleet.aws.state().calls_to("Query runs-out").len();
    assert_eq!(queries, 31, "today and thirty days more");
}

#[tokio::test]
async fn daily_check_lists_twenty_and_counts_all() {
    let fleet = Fleet::new();
    for n in 0..45 {
        expiring(&mut fleet.aws.state(), &format!("certificate#{n:064x}"), "admission", "2026-01-20");
    }
    let delivered = fleet.aws.process().deliver(&json!({"check": "runs-out"}), NOW).await;
    assert_eq!(delivered.count("Expiring"), 45);
    let message = fleet.aws.state().published[0].message.clone();
    assert_eq!(message.lines().count(), 22);
    assert!(message.ends_with("\nand 25 more."), "{message}");
}

#[tokio::test]
async fn unknown_command_is_quarantined() {
    for (order, reason) in [
        (json!({"check": "all"}), "unknown-value"),
        (json!({"admit": "everybody"}), "missing-field"),
        (json!(["runs-out"]), "not-an-object"),
    ] {
        let fleet = Fleet::new();
        let delivered = fleet.aws.process().deliver(&order, NOW).await;
        assert_eq!(delivered.refusal_code(), reason, "{order}");
        assert_eq!(fleet.aws.state().calls.len(), 1, "only quarantine is written");
    }
}

#[test]
fn invalid_environment_variable_is_named() {
    let error = |name, value: &str| handler(&account().process().env(name, value)).unwrap_err().to_string();
    for name in ["ACCOUNT_ID", "DEVICE_POLICY", "DEVICES_TABLE", "IDEMPOTENCY_TABLE", "TOPIC_ARN"] {
        assert_eq!(error(name, ""), format!("environment variable {name} is missing"));
    }
    for (name, value) in [
        ("THING_NAME_PATTERN", "["),
        ("ALLOW_ROTATION", "yes"),
        ("REQUIRE_CRL", "1"),
        ("REJECTED_STATUS", "ACTIVE"),
        ("REJECTED_STATUS", "revoked"),
        ("CLOCK_SKEW_SECONDS", "-1"),
        ("EXPIRY_WARNING_DAYS", "soon"),
    ] {
        let error = error(name, value);
        assert!(error.starts_with(&format!("environment variable {name} is {value:?}: ")), "{error}");
    }
    assert!(handler(&account().process().env("THING_TYPE", "")).is_ok());
}

#[test]
fn day_is_in_utc() {
    for (at, day) in [(NOW, "2026-01-15"), (NOW.minus(Duration::from_millis(1)), "2026-01-14")] {
        assert_eq!(jitr::expiry::day(at), day);
    }
    assert_eq!(jitr::expiry::day(Timestamp::from_millis(u64::MAX)), "9999-12-31");
}
