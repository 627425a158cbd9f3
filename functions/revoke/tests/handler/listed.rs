//! Revoking only the certificates on a CA's revocation list.

use std::collections::BTreeMap;

use rcgen::SerialNumber;
use serde_json::{Value, json};
use test_support::pki::{self, Ca, device_params};

use crate::cloud::{Cloud, ca, id};
use crate::{counts, text};

/// The PEM of a certificate with this serial number.
fn issue(ca: &Ca, serial: u64) -> String {
    let mut params = device_params("thermometer-1");
    params.serial_number = Some(serial.into());
    pki::pem("CERTIFICATE", &ca.issue(&params, &rcgen::KeyPair::generate().unwrap()))
}

/// A CRL with number 7. It has expired, but its certificates stay revoked.
fn list(ca: &Ca, serials: &[&[u8]]) -> Vec<u8> {
    ca.crl_with(serials, |params| {
        params.crl_number = SerialNumber::from(7);
        (params.this_update, params.next_update) = (rcgen::date_time_ymd(2025, 1, 1), rcgen::date_time_ymd(2025, 2, 1));
    })
}

fn command() -> Value {
    json!({"caCertificateId": ca(), "crl": true})
}

/// A certificate whose record has its serial number.
fn admitted(cloud: &Cloud, number: usize, serial: &str, status: &str) {
    cloud.register(&id(number), status, "");
    let attributes = json!({"state": {"S": "admitted"}, "serial": {"S": serial}});
    cloud.set(&format!("certificate#{}", id(number)), "admission", &attributes);
}

fn cloud_of(authority: &Ca, serials: &[&[u8]]) -> Cloud {
    let cloud = Cloud::with(0);
    cloud.aws.state().iot.register_ca(&ca(), &authority.pem);
    "INACTIVE".clone_into(&mut cloud.aws.state().iot.cas.get_mut(&ca()).unwrap().status);
    cloud.publish(&list(authority, serials), 7);
    cloud
}

#[tokio::test(start_paused = true)]
async fn only_certificates_on_the_list_are_revoked() {
    let authority = Ca::new("our CA");
    let cloud = cloud_of(&authority, &[&[0x11], &[0x22], &[0x33], &[0x44]]);
    admitted(&cloud, 1, "11", "ACTIVE");
    admitted(&cloud, 2, "22", "REVOKED");
    admitted(&cloud, 3, "33", "INACTIVE");
    admitted(&cloud, 5, "55", "ACTIVE");
    // These two have no record, so their certificates must be fetched.
    cloud.register(&id(4), "PENDING_ACTIVATION", &issue(&authority, 0x44));
    cloud.register(&id(6), "ACTIVE", &issue(&authority, 0x66));
    cloud.register(&id(7), "REVOKED", "");

    let played = cloud.play(&command()).await;
    assert_eq!(played.counts, counts(4, 3, 1, 0));
    let status = |number| cloud.status(&id(number));
    assert_eq!([status(1), status(3), status(4)], ["REVOKED"; 3]);
    assert_eq!([status(5), status(6)], ["ACTIVE"; 2]);
    let changes = cloud.changes();
    assert!(changes.iter().all(|change| change.starts_with("REVOKED")), "{changes:?}");
    // The two without a record in the first sweep, and in the second, again the one that is not on the list.
    assert_eq!(cloud.calls_to("DescribeCertificate"), 3);
    let record = cloud.record_of(1);
    assert_eq!((text(&record, "state"), text(&record, "reason")), (Some("revoked"), Some("revoked-by-crl")));
    let report = &cloud.reports()[0];
    assert!(report.contains("all its certificates on its revocation list are revoked"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn dry_run_of_the_list_lists_what_is_on_it() {
    let authority = Ca::new("our CA");
    let cloud = cloud_of(&authority, &[&[0x11]]);
    admitted(&cloud, 1, "11", "ACTIVE");
    admitted(&cloud, 2, "22", "ACTIVE");
    let played = cloud.play(&json!({"caCertificateId": ca(), "crl": true, "dryRun": true})).await;
    assert_eq!((played.deliveries, played.counts), (1, BTreeMap::new()));
    assert!(cloud.reports()[0].ends_with(&format!("Would be revoked:\n{}", id(1))), "{}", cloud.reports()[0]);
    assert_eq!(cloud.changes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn certificate_that_cannot_be_parsed_counts_as_failed() {
    let authority = Ca::new("our CA");
    let cloud = cloud_of(&authority, &[&[0x11]]);
    cloud.register(&id(1), "ACTIVE", "no certificate");
    admitted(&cloud, 2, "11", "ACTIVE");
    let played = cloud.play(&command()).await;
    assert_eq!(played.counts, counts(2, 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn command_without_a_usable_list_is_refused() {
    let (authority, another) = (Ca::new("our CA"), Ca::new("our CA"));
    let list = list(&authority, &[&[0x11]]);
    let no_list = Cloud::with(1);
    let no_authority = cloud_of(&authority, &[&[0x11]]);
    no_authority.aws.state().iot.cas.clear();
    let of_another = cloud_of(&another, &[]);
    of_another.publish(&list, 7);
    let of_another_number = cloud_of(&authority, &[]);
    of_another_number.publish(&list, 8);
    for (cloud, reason) in [
        (no_list, "no-crl"),
        (no_authority, "unknown-ca"),
        (of_another, "crl-unclear"),
        (of_another_number, "crl-unclear"),
    ] {
        let (is_deleted, _) = cloud.deliver("message-0", &command().to_string()).await;
        assert!(is_deleted, "{reason}");
        assert_eq!(cloud.quarantined()[0].0, reason);
        assert_eq!((cloud.changes().len(), cloud.reports().len()), (0, 0), "{reason}");
    }
}
