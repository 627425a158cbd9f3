//! Every reason for rejecting a device.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints, PKCS_ED25519, SerialNumber,
};
use serde_json::json;
use test_support::pki::{self, Ca, DAY, NOW, date, device_params, element, elements};
use test_support::{Fault, Logs, State, certificate_arn};

use crate::fleet::{
    CA, Deliver, Device, ELLIPTIC, Fleet, KEY, LATER, block, crl, digest, lasting, notified, publish, record, set,
};

/// The reason for which a process with these variables rejects the device of this fleet.
type RejectionCase = (&'static str, fn() -> (Fleet, Device), &'static [(&'static str, &'static str)]);

pub fn with(change: fn(&mut CertificateParams)) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.device_with("thermometer-1", change);
    (fleet, device)
}

fn changed(change: fn(Vec<u8>) -> Vec<u8>) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device = fleet.present(&change(CA.issue(&device_params("thermometer-1"), &*KEY)));
    (fleet, device)
}

pub fn beside(change: fn(&mut State, &Device, &str)) -> (Fleet, Device) {
    let fleet = Fleet::new();
    let device =
        fleet.device_with("thermometer-1", |params| params.serial_number = Some(SerialNumber::from_slice(&[7])));
    change(&mut fleet.aws.state(), &device, &fleet.ca_id);
    (fleet, device)
}

pub fn of(ca: &'static LazyLock<Ca>) -> (Fleet, Device) {
    let fleet = Fleet::of(ca);
    let device = fleet.device_with("thermometer-1", |_| ());
    (fleet, device)
}

pub static EDWARDS: LazyLock<Ca> =
    LazyLock::new(|| Ca::with_key("Test CA", KeyPair::generate_for(&PKCS_ED25519).unwrap()));
pub static IMPOSTOR: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
static OVER: LazyLock<Ca> = LazyLock::new(|| {
    Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| params.not_after = date(NOW.minus(DAY)))
});
static TO_COME: LazyLock<Ca> = LazyLock::new(|| {
    Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| params.not_before = date(NOW.plus(DAY)))
});
static CONSTRAINED: LazyLock<Ca> = LazyLock::new(|| {
    Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| {
        let excluded_subtrees = vec![GeneralSubtree::DnsName("example.com".to_owned())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees });
    })
});
static CRLS_ONLY: LazyLock<Ca> = LazyLock::new(|| {
    Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| params.key_usages = vec![KeyUsagePurpose::CrlSign])
});

const REJECTIONS: [RejectionCase; 37] = [
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
    ("ca-unusable", || of(&CONSTRAINED), &[]),
    ("ca-unusable", || of(&CRLS_ONLY), &[]),
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
            let logs = Logs::capture();
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
            let is_undoable = ["unsupported-algorithm", "name-pattern", "name-taken", "ca-unusable"].contains(&reason);
            let expected = if is_undoable { "INACTIVE" } else { chosen };
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
            let log = &logs.with_message("rejected")[..];
            let thing = named.then_some("thermometer-1");
            assert_eq!((log.len(), &log[0]["level"]), (1, &json!("WARN")), "{reason}");
            assert_eq!((log[0]["thing"].as_str(), log[0]["reason"].as_str()), (thing, Some(reason)));
            assert_eq!(
                (&log[0]["certificateId"], &log[0]["eventId"]),
                (&json!(device.id), &json!(attributes["eventId"]))
            );
            assert_eq!(log[0]["why"].as_str(), recorded("why").as_deref());
            assert_eq!(recorded("thing").as_deref(), thing, "{reason}");
            let of_thing = |name: &str| state.attribute("devices", &["thing#thermometer-1", "rejection"], name);
            let expected = [
                ("certificateId", device.id.clone()),
                ("reason", reason.to_owned()),
                ("why", recorded("why").unwrap()),
                ("refusedStatus", expected.to_owned()),
                ("rejectedAt", NOW.millis().to_string()),
            ];
            for (name, expected) in expected {
                // Real time passes in these tests.
                let found =
                    of_thing(name).map(|found| if name == "rejectedAt" { NOW.millis().to_string() } else { found });
                assert_eq!(found, named.then_some(expected), "{reason}: {name}");
            }
            assert_eq!(lasting(&state)["quarantined"], 0, "{reason}");
            assert!(state.calls_to("UpdateCertificate ACTIVE").is_empty(), "{reason}");
        }
    }
}

/// The rejection under the thing's name: its certificate and its time.
fn rejection_of_thing(fleet: &Fleet) -> (Option<String>, Option<String>) {
    let state = fleet.aws.state();
    let read = |name: &str| state.attribute("devices", &["thing#thermometer-1", "rejection"], name);
    (read("certificateId"), read("rejectedAt"))
}

#[tokio::test]
async fn late_rejection_does_not_replace_a_newer_one_of_the_same_thing() {
    let fleet = Fleet::new();
    let [older, newer] = [1, 2].map(|serial| {
        fleet.device_with("thermometer-1", |params| {
            params.serial_number = Some(SerialNumber::from_slice(&[serial]));
            params.not_after = date(NOW.minus(DAY));
        })
    });
    fleet.aws.process().deliver(&newer.event, NOW.plus(LATER)).await;
    let (certificate, at) = rejection_of_thing(&fleet);
    assert_eq!(certificate, Some(newer.id));
    assert!(fleet.deliver(&older).await.is_done());
    assert_eq!(rejection_of_thing(&fleet), (certificate, at));
    assert_eq!(fleet.reason_of(&older).as_deref(), Some("expired"));
}

#[tokio::test]
async fn rejection_that_a_crash_left_unrecorded_is_recorded_by_the_retry() {
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied] {
        let (fleet, device) = with(|params| params.not_after = date(NOW.minus(DAY)));
        fleet.aws.fail_next("PutItem thing/rejection", [fault]);
        let delivered = fleet.aws.process().deliver(&device.event, NOW).await;
        assert!(delivered.is_retried(), "{fault:?}");
        let delivered = fleet.aws.process().deliver(&device.event, NOW.plus(LATER)).await;
        assert!(delivered.is_done() && delivered.count("Rejected") == 1, "{fault:?}: {delivered:?}");
        assert_eq!(rejection_of_thing(&fleet).0, Some(device.id), "{fault:?}");
        assert_eq!(fleet.aws.state().published.len(), 1, "{fault:?}");
    }
}
