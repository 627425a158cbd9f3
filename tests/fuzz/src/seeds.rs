//! The seed corpus: certificates and CRLs of every kind, as DER, as PEM, and as content for the CA to sign.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, RevocationReason, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use crate::{issuer, signed_part};

/// Writes the seeds of the target `certificate`.
pub fn write_certificates() {
    let seeds = certificates().into_iter().flat_map(|(der, pem)| {
        let signed = signed_part(&der).to_vec();
        [(0, der), (1, pem), (2, signed)]
    });
    write("certificate", seeds);
}

/// Writes the seeds of the target `crl`.
pub fn write_crls() {
    let seeds = crls().into_iter().flat_map(|(der, pem)| {
        let signed = signed_part(&der).to_vec();
        [(0, der), (0, pem), (1, signed)]
    });
    write("crl", seeds);
}

/// Writes the seeds of the target `rules`: the sample documents of both versions, each with several values.
pub fn write_rules() {
    let documents = [include_str!("../../../infra/alarm-rules.json"), include_str!("../../../infra/thresholds.json")];
    let values = ["50", "-1", "\"open\"", "true", "null"];
    let seeds = documents.into_iter().flat_map(|document| values.map(|value| format!("{value}\n{document}")));
    write("rules", seeds.map(|seed| (30, seed.into_bytes())));
}

fn write(target: &str, seeds: impl Iterator<Item = (u8, Vec<u8>)>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&directory).expect("a directory");
    for (number, (format, bytes)) in seeds.enumerate() {
        fs::write(directory.join(format!("seed-{number:03}")), [&[format], &*bytes].concat()).expect("a file");
    }
}

/// Returns certificates as DER and PEM.
fn certificates() -> Vec<(Vec<u8>, Vec<u8>)> {
    let keys = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
    let keys = keys.map(|algorithm| KeyPair::generate_for(algorithm).expect("a key"));
    let names: [DnValue; 5] = [
        "thermometer-1".into(),
        "a/b".into(),
        DnValue::PrintableString("printable".try_into().expect("printable")),
        DnValue::BmpString("wide".try_into().expect("wide")),
        DnValue::TeletexString("old".try_into().expect("old")),
    ];
    let plain = |name: DnValue| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2025, 6, 1), date_time_ymd(2034, 1, 1));
        params
    };
    let mut all: Vec<_> = names.into_iter().map(plain).collect();
    let changed = |change: fn(&mut CertificateParams)| {
        let mut params = plain("thermometer-1".into());
        change(&mut params);
        params
    };
    let custom = |critical| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    all.extend([
        changed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1))),
        changed(|params| params.is_ca = IsCa::ExplicitNoCa),
        changed(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement]),
        changed(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DecipherOnly]),
        changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
        changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        changed(|params| params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().expect("a name"))]),
        changed(|params| params.use_authority_key_identifier_extension = true),
        changed(|params| params.not_after = date_time_ymd(2025, 7, 1)),
        changed(|params| params.not_after = date_time_ymd(9999, 12, 31)),
        changed(|params| params.serial_number = Some(SerialNumber::from_slice(&[0xff; 20]))),
        changed(|params| {
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "another-name");
            params.distinguished_name.push(DnType::OrganizationName, "Example");
        }),
    ]);
    for critical in [false, true] {
        let mut params = changed(|_| ());
        params.custom_extensions = vec![custom(critical), custom(false)];
        all.push(params);
    }
    let issued = all.iter().flat_map(|params| keys.iter().map(move |key| params.signed_by(key, issuer())));
    issued.map(|issued| issued.expect("a certificate")).map(|issued| (issued.der().to_vec(), issued.pem().into())).collect()
}

/// Returns CRLs as DER and PEM.
fn crls() -> Vec<(Vec<u8>, Vec<u8>)> {
    let entry = |serial: &[u8], reason_code, invalidity_date| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date_time_ymd(2025, 12, 1),
        reason_code,
        invalidity_date,
    };
    let some = vec![
        entry(&[1], None, None),
        entry(&[0x7f; 20], Some(RevocationReason::KeyCompromise), None),
        entry(&[0x80, 1], Some(RevocationReason::CertificateHold), Some(date_time_ymd(2025, 11, 1))),
    ];
    let many = (0..100_u8).map(|serial| entry(&[serial, serial], None, None)).collect();
    let mut crls = Vec::new();
    for revoked_certs in [vec![], some, many] {
        for number in [&[1][..], &[0x7f; 20], &[0x7f; 21]] {
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(2026, 1, 1),
                next_update: date_time_ymd(2026, 2, 1),
                crl_number: SerialNumber::from_slice(number),
                issuing_distribution_point: None,
                revoked_certs: revoked_certs.clone(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let crl = params.signed_by(issuer()).expect("a CRL");
            crls.push((crl.der().to_vec(), crl.pem().expect("PEM").into_bytes()));
        }
    }
    crls
}
