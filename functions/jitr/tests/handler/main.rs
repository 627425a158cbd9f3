//! The whole function without the Lambda runtime, against the fake AWS: certificates are admitted or rejected, and
//! whatever happens in between, none becomes active that should not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod changes;
mod expiry;
mod faults;
mod fleet;
mod races;
mod rejections;

use std::collections::BTreeMap;

use fleet::{CA, Deliver, Device, ELLIPTIC, Fleet, KEY, LATER, account, crl, handler, notified, record, set};
use serde_json::{Value, json};
use test_support::pki::{DAY, NOW, date, device_params, elements};
use test_support::{certificate_arn, sample};

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

/// The number, from 1, of an admission's last call with this name.
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
    // Whether it is valid does not matter.
    let device = fleet.device_with("*", |params| params.not_after = date(NOW.minus(DAY)));
    fleet.aws.state().iot.set_status(&device.id, "ACTIVE");
    let delivered = fleet.deliver(&device).await;
    assert!(delivered.is_done() && delivered.count("FoundActive") == 1, "{delivered:?}");
    assert_eq!((fleet.status(&device).as_str(), fleet.state_of(&device).as_deref()), ("ACTIVE", Some("found-active")));
    assert_eq!(fleet.aws.state().calls.len(), 3);
    // This does not change, even after an operator has deactivated the certificate.
    assert_eq!(fleet.deliver(&device).await.count("Duplicate"), 1);
    fleet.aws.state().iot.set_status(&device.id, "INACTIVE");
    assert_eq!(fleet.deliver(&device).await.count("Duplicate"), 1);
    assert_eq!(fleet.status(&device), "INACTIVE");
}

/// A fleet in which a device's admission was left unfinished, with this status of the certificate.
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
        let state = fleet.aws.state();
        assert_eq!(notified(&state, "ca-blocked"), 1);
        assert!(state.published[0].message.contains(&format!("is now {expected}.")), "{}", state.published[0].message);
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

/// A fleet in which another certificate with this name was admitted before.
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
async fn rotation_that_is_rejected_after_all_is_not_announced() {
    let (fleet, device) = renewed();
    let ca = fleet.ca_key();
    let process = fleet.aws.process().env("ALLOW_ROTATION", "true");
    let process = process.change(14, move |state| fleet::block(state, &ca, "status"));
    assert!(process.deliver(&device.event, NOW).await.is_done());
    let state = fleet.aws.state();
    assert_eq!((notified(&state, "ca-blocked"), state.published.len()), (1, 1));
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
