//! An operator's changes while a device is being admitted.

use serde_json::json;
use test_support::pki::NOW;
use test_support::{Delivered, Fault, State};

use crate::fleet::{CA, Deliver, Device, Fleet, block, crl, expired_crl, notified, publish, record, set};
use crate::rejections::IMPOSTOR;
use crate::{ADMISSION, last};

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
                // It was active before the block: the sweep of `revoke` finds it.
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
            // Noticed in time, so the certificate waits.
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

/// `revoke` takes the record over, and revokes the certificate.
fn revoke(state: &mut State, id: &str, _ca: &str) {
    let pk = format!("certificate#{id}");
    let revoked = json!({"state": {"S": "revoked"}, "revokedBy": {"S": "run-1"}, "owner": {"S": "run-1"}});
    set(state, &pk, "admission", &revoked);
    block(state, &pk, "admission");
    state.tables.get_mut(&("devices".to_owned(), vec![pk, "admission".to_owned()])).unwrap().remove("ownedUntil");
    state.iot.set_status(id, "REVOKED");
}

#[tokio::test]
async fn admission_never_overwrites_the_record_of_a_revocation() {
    for call in 1..=ADMISSION.len() {
        let (fleet, device, _) = admitted_while(call, revoke).await;
        fleet.deliver(&device).await;
        let state = fleet.aws.state();
        let recorded = ["state", "revokedBy", "blocked"].map(|name| record(&state, &device.id, name));
        assert_eq!(recorded, ["revoked", "run-1", "true"].map(|value| Some(value.to_owned())), "{call}");
    }
}
