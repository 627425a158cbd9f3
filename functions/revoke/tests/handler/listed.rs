//! Only what stands on a CA's revocation list.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iot::types::{CaCertificateStatus, CertificateStatus};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};

use crate::cloud::{Cloud, ca, id};
use crate::{counts, text};

struct CaCertificate {
    params: CertificateParams,
    key: KeyPair,
}

impl CaCertificate {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { params, key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn issue(&self, serial: u64) -> String {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.into());
        params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap().pem()
    }

    fn list(&self, serials: &[u64]) -> Vec<u8> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            // It has run out; what it revokes stays revoked.
            next_update: date_time_ymd(2025, 2, 1),
            crl_number: SerialNumber::from(7),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap().der().to_vec()
    }
}

fn order() -> Value {
    json!({"caCertificateId": ca(), "crl": true})
}

/// A certificate whose record names its serial number.
fn admitted(cloud: &Cloud, number: usize, serial: &str, status: CertificateStatus) {
    cloud.register(&id(number), status, "");
    let (state, serial) = (AttributeValue::S("admitted".to_owned()), AttributeValue::S(serial.to_owned()));
    cloud.put("devices", &format!("certificate#{}", id(number)), "admission", [("state", state), ("serial", serial)]);
}

fn cloud_of(authority: &CaCertificate, serials: &[u64]) -> Cloud {
    let cloud = Cloud::with(0);
    cloud.change(|state| {
        state.ca = Some((CaCertificateStatus::Inactive, authority.pem()));
        state.publish(&authority.list(serials), 7);
    });
    cloud
}

#[tokio::test(start_paused = true)]
async fn what_is_on_the_list_is_revoked_whatever_its_status_and_nothing_else_is_touched() {
    let authority = CaCertificate::new("our CA");
    let cloud = cloud_of(&authority, &[0x11, 0x22, 0x33, 0x44]);
    admitted(&cloud, 1, "11", CertificateStatus::Active);
    admitted(&cloud, 2, "22", CertificateStatus::Revoked);
    admitted(&cloud, 3, "33", CertificateStatus::Inactive);
    admitted(&cloud, 5, "55", CertificateStatus::Active);
    // These two have no record: AWS IoT has to be asked for the certificate.
    cloud.register(&id(4), CertificateStatus::PendingActivation, &authority.issue(0x44));
    cloud.register(&id(6), CertificateStatus::Active, &authority.issue(0x66));
    cloud.register(&id(7), CertificateStatus::Revoked, "");

    let played = cloud.play(&order()).await;
    assert_eq!(played.counted, counts(4, 3, 1, 0));
    let status = |number| cloud.status(&id(number));
    assert_eq!([status(1), status(3), status(4)], [const { CertificateStatus::Revoked }; 3]);
    assert_eq!([status(5), status(6)], [const { CertificateStatus::Active }; 2]);
    cloud.change(|state| {
        assert!(state.changes.iter().all(|change| change.starts_with("REVOKED")), "{:?}", state.changes);
        // The two without a record at first; in the second sweep the one that is not on the list again.
        assert_eq!(state.made["DescribeCertificate"], 3);
    });
    let record = cloud.item(&format!("certificate#{}", id(1)), "admission").unwrap();
    assert_eq!((text(&record, "state"), text(&record, "reason")), (Some("revoked"), Some("revoked-by-crl")));
    let report = &cloud.reports()[0];
    assert!(report.contains("all its certificates that are on its revocation list are revoked"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_of_the_list_names_what_is_on_it() {
    let authority = CaCertificate::new("our CA");
    let cloud = cloud_of(&authority, &[0x11]);
    admitted(&cloud, 1, "11", CertificateStatus::Active);
    admitted(&cloud, 2, "22", CertificateStatus::Active);
    let played = cloud.play(&json!({"caCertificateId": ca(), "crl": true, "dryRun": true})).await;
    assert_eq!((played.deliveries, played.counted), (1, BTreeMap::new()));
    assert!(cloud.reports()[0].ends_with(&format!("Would be revoked:\n{}", id(1))), "{}", cloud.reports()[0]);
    assert_eq!(cloud.change(|state| state.changes.len()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_cannot_be_read_may_be_on_the_list_and_counts_as_failed() {
    let authority = CaCertificate::new("our CA");
    let cloud = cloud_of(&authority, &[0x11]);
    cloud.register(&id(1), CertificateStatus::Active, "no certificate");
    admitted(&cloud, 2, "11", CertificateStatus::Active);
    let played = cloud.play(&order()).await;
    assert_eq!(played.counted, counts(2, 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_list_that_can_be_relied_on_the_order_is_refused_and_nothing_changed() {
    let (authority, another) = (CaCertificate::new("our CA"), CaCertificate::new("our CA"));
    let list = authority.list(&[0x11]);
    let no_list = Cloud::with(1);
    let no_authority = cloud_of(&authority, &[0x11]);
    no_authority.change(|state| state.ca = None);
    let of_another = cloud_of(&another, &[]);
    of_another.change(|state| state.publish(&list, 7));
    let of_another_number = cloud_of(&authority, &[]);
    of_another_number.change(|state| state.publish(&list, 8));
    for (cloud, reason) in [
        (no_list, "no-crl"),
        (no_authority, "unknown-ca"),
        (of_another, "crl-unclear"),
        (of_another_number, "crl-unclear"),
    ] {
        let (is_done, _) = cloud.deliver("message-0", &order().to_string()).await;
        assert!(is_done, "{reason}");
        assert_eq!(cloud.quarantined()[0].0, reason);
        assert_eq!(cloud.change(|state| (state.changes.len(), state.published.len())), (0, 0), "{reason}");
    }
}
