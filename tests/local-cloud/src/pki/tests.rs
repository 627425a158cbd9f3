use super::key::openssl;
use super::*;

/// Returns the output of openssl for a PEM.
fn output_of(arguments: &[&str], pem: &str) -> String {
    String::from_utf8(openssl(arguments, pem).expect("openssl accepts it")).expect("text")
}

fn text(pem: &str) -> String {
    output_of(&["x509", "-noout", "-text", "-nameopt", "utf8"], pem)
}

/// Returns whether openssl verifies that this CA signed the certificate.
fn is_signed_by(authority: &CertificateAuthority, issued: &IssuedCertificate) -> bool {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &authority.pem).expect("written");
    let path = file.path().to_str().expect("text");
    openssl(&["verify", "-no_check_time", "-partial_chain", "-CAfile", path], &issued.pem).is_ok()
}

#[test]
fn openssl_verifies_certificates_of_rsa_and_ec_cas() {
    for key in [KeyType::P256, KeyType::Rsa2048] {
        let authority = CertificateAuthority::new("Example CA", key).expect("created");
        let impostor = authority.impostor().expect("created");
        let issued = authority.issue(&CertificateSpec::named("front-door")).expect("signed");
        assert!(is_signed_by(&authority, &issued), "{key:?}");
        assert!(!is_signed_by(&impostor, &issued), "{key:?}: the impostor did not sign it");
        let other = impostor.issue(&CertificateSpec::named("front-door")).expect("signed");
        let name = |issued: &IssuedCertificate| output_of(&["x509", "-noout", "-issuer"], &issued.pem);
        assert_eq!(name(&issued), name(&other));
    }
}

#[test]
fn certificate_id_is_the_sha256_fingerprint() {
    let authority = CertificateAuthority::new("Example CA", KeyType::P256).expect("created");
    let printed = output_of(&["x509", "-noout", "-fingerprint", "-sha256"], &authority.pem);
    let fingerprint = printed.trim().rsplit('=').next().expect("a fingerprint").replace(':', "").to_lowercase();
    assert_eq!(authority.id, fingerprint);
}

#[test]
fn certificate_has_the_specified_content() {
    let authority = CertificateAuthority::new("Example CA", KeyType::P256).expect("created");
    let good = text(&authority.issue(&CertificateSpec::named("front-door")).expect("signed").pem);
    for part in ["CN=front-door", "CA:FALSE", "Digital Signature", "TLS Web Client Authentication", "NIST CURVE: P-256"]
    {
        assert!(good.contains(part), "{part} is not in {good}");
    }
    let bad = CertificateSpec {
        not_after: SystemTime::now() - Duration::from_hours(1),
        is_ca: true,
        key: KeyType::Rsa1024,
        key_usage: vec![KeyUsagePurpose::KeyCertSign],
        extended_key_usage: vec![],
        has_unknown_critical_extension: true,
        serial: Some(vec![0x12, 0x34]),
        issuer: Some("Another CA".to_owned()),
        ..CertificateSpec::named("x".repeat(129))
    };
    let bad = text(&authority.issue(&bad).expect("signed").pem);
    let long = format!("CN={}", "x".repeat(129));
    for part in
        [&*long, "CA:TRUE", "Certificate Sign", "1024 bit", "(0x1234)", "1.3.6.1.4.1.32473.1.1: critical", "Another CA"]
    {
        assert!(bad.contains(part), "{part} is not in {bad}");
    }
    assert!(!bad.contains("Extended Key Usage"), "{bad}");
}

#[test]
fn common_name_can_be_any_text_or_missing() {
    let authority = CertificateAuthority::new("Example CA", KeyType::P256).expect("created");
    for name in ["", "*", "a/b", "$aws/x", "a\0b", "tür", "🔔"] {
        let der = authority.issue(&CertificateSpec::named(name)).expect("signed").der;
        // Its type (2.5.4.3), then a UTF-8 string of this length, then the text itself.
        let length = u8::try_from(name.len()).expect("short");
        let entry = [&[6, 3, 0x55, 4, 3, 12, length], name.as_bytes()].concat();
        assert!(der.windows(entry.len()).any(|window| window == entry), "{name:?}");
    }
    let nameless =
        authority.issue(&CertificateSpec { common_name: None, ..CertificateSpec::named("") }).expect("signed");
    assert_eq!(output_of(&["x509", "-noout", "-subject"], &nameless.pem).trim(), "subject=");
}

#[test]
fn crl_has_its_number_and_the_revoked_serials() {
    let authority = CertificateAuthority::new("Example CA", KeyType::Rsa2048).expect("created");
    let issued = authority.issue(&CertificateSpec::named("front-door")).expect("signed");
    let crl = Crl::new(0xab).with_revoked(&issued.serial).with_revoked(&[0x12, 0x34]);
    assert_eq!(crl.sortable_number(), "00000000000000000000000000000000000000ab");
    let pem = authority.sign_crl(&crl).expect("signed").pem().expect("PEM");
    let text = output_of(&["crl", "-noout", "-text"], &pem);
    for part in [&hex(&issued.serial).to_uppercase(), "1234", "171", "Example CA"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn day_is_formatted_as_iso_8601() {
    let day_of = |seconds| day(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(day_of(0), "1970-01-01");
    assert_eq!(day_of(1_795_996_799), "2026-11-29");
    assert_eq!(day_of(1_795_996_800), "2026-11-30");
}
