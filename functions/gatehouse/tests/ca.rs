//! Which CA certificates may be used, and with which keys.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing there")]

use gatehouse::pki::{CaCertificate, CaError};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use test_support::pki::{Ca, OpenSsl};

fn usage(change: impl FnOnce(&mut CertificateParams)) -> Result<(), CaError> {
    Ca::customized("Test CA", KeyPair::generate().unwrap(), change).certificate().check_usage()
}

fn extension(critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

#[test]
fn ordinary_ca_may_sign_certificates_and_crls() {
    let ca = Ca::new("Test CA").certificate();
    assert_eq!((ca.check_usage(), ca.check_key(), ca.may_sign_crls()), (Ok(()), Ok(()), true));
    assert_eq!(usage(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))), Ok(()));
    assert_eq!(usage(|params| params.key_usages = Vec::new()), Ok(()));
    assert_eq!(usage(|params| params.custom_extensions = vec![extension(false)]), Ok(()));
}

#[test]
fn limits_that_are_not_enforced_make_a_ca_unusable() {
    assert_eq!(usage(|params| params.is_ca = IsCa::NoCa), Err(CaError::NotACa));
    assert_eq!(usage(|params| params.is_ca = IsCa::ExplicitNoCa), Err(CaError::NotACa));
    let crl_only = usage(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(crl_only, Err(CaError::MayNotSignCertificates));
    let constrained = usage(|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("example.com".to_owned())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    assert_eq!(constrained, Err(CaError::NameConstraints));
    let unknown = usage(|params| params.custom_extensions = vec![extension(true)]);
    assert_eq!(unknown, Err(CaError::CriticalExtension("1.3.6.1.4.1.99999.1".to_owned())));
    let twice = usage(|params| params.custom_extensions = vec![extension(false), extension(false)]);
    assert!(matches!(twice, Err(CaError::Malformed(_))), "{twice:?}");
}

#[test]
fn ca_without_crl_sign_may_still_sign_certificates() {
    let ca = Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    assert_eq!((ca.certificate().check_usage(), ca.certificate().may_sign_crls()), (Ok(()), false));
}

#[test]
fn key_must_be_one_whose_signatures_can_be_verified() {
    let key = |key| Ca::with_key("Test CA", key).certificate().check_key().map_err(|error| error.to_string());
    assert_eq!(key(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()), Ok(()));
    let unsupported = key(KeyPair::generate_for(&PKCS_ED25519).unwrap());
    assert_eq!(unsupported, Err("signatures with a key for Ed25519 cannot be verified".to_owned()));
    let openssl = OpenSsl::new("keys");
    for (options, expected) in [
        ("RSA -pkeyopt rsa_keygen_bits:2048", None),
        ("RSA -pkeyopt rsa_keygen_bits:1024", Some("an RSA key of 1024 bits")),
        ("EC -pkeyopt ec_paramgen_curve:P-521", Some("a key on the curve P-521")),
    ] {
        openssl.run(&format!("genpkey -algorithm {options} -out ca.key"));
        openssl.run("req -x509 -new -key ca.key -subj /CN=CA -days 30 -outform DER -out ca.der");
        let checked = CaCertificate::from_der(&openssl.read("ca.der")).unwrap().check_key();
        let expected = expected.map(|name| format!("signatures with {name} cannot be verified"));
        assert_eq!(checked.err().map(|error| error.to_string()), expected, "{options}");
    }
}

#[test]
fn own_signature_and_key_identifier_of_a_ca_do_not_matter() {
    let openssl = OpenSsl::new("roots");
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out root.key");
    openssl.run("req -x509 -new -sha512 -key root.key -subj /CN=Root -days 30 -out root.pem");
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key");
    openssl.run("req -new -key ca.key -subj /CN=CA -out ca.csr");
    std::fs::write(openssl.path("ext"), "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=none\n").unwrap();
    openssl.run(
        "x509 -req -in ca.csr -CA root.pem -CAkey root.key -set_serial 7 -days 7 -sha512 -extfile ext -out ca.pem",
    );
    let ca = CaCertificate::from_pem(&openssl.text("ca.pem")).unwrap();
    assert_eq!((ca.check_usage(), ca.check_key()), (Ok(()), Ok(())));
}
