//! Validation of a device's certificate, for every reason to reject one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::sync::LazyLock;
use std::time::Duration;

use gatehouse::Timestamp;
use gatehouse::pki::{CaCertificate, CertificateError, parse_pem};
use iot_registry::CertificateStatus;
use jitr::certificate::DeviceCertificate;
use jitr::rejection::RejectionReason;
use proptest::prelude::*;
use proptest::sample::Index;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PKCS_RSA_SHA384, PKCS_RSA_SHA512,
    SerialNumber, SignatureAlgorithm,
};
use regex_lite::Regex;
use test_support::pki::{self, Ca, DAY, NOW, OpenSsl, bit_string, content, date, device_params, element, elements};

const SKEW: Duration = Duration::from_mins(5);
const SECOND: Duration = Duration::from_secs(1);

static CA: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
static AUTHORITY: LazyLock<CaCertificate> = LazyLock::new(|| CA.certificate());
static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| issued(|_| ()));
/// A certificate of an RSA CA, whose signature has only one valid encoding.
static GOOD_RSA: LazyLock<(CaCertificate, Vec<u8>)> = LazyLock::new(|| rsa_signed(&PKCS_RSA_SHA256));

fn issued(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = device_params("thermometer-1");
    change(&mut params);
    CA.issue(&params, &*KEY)
}

fn check(der: &[u8]) -> Result<DeviceCertificate, RejectionReason> {
    DeviceCertificate::validate(der, &AUTHORITY, NOW, SKEW)
}

fn code(der: &[u8]) -> &'static str {
    check(der).map_or_else(|reason| reason.code(), |_| "accepted")
}

fn sentence(der: &[u8]) -> String {
    check(der).unwrap_err().to_string()
}

fn pattern(text: &str) -> Regex {
    Regex::new(&format!("^(?:{text})$")).unwrap()
}

/// The common name as a thing's: its text, or the code of the reason.
fn thing(der: &[u8]) -> Result<String, &'static str> {
    check(der).unwrap().thing(&pattern(".*")).map(|thing| thing.to_string()).map_err(|reason| reason.code())
}

fn rsa_signed(algorithm: &'static SignatureAlgorithm) -> (CaCertificate, Vec<u8>) {
    let openssl = OpenSsl::new("rsa-ca");
    let key = openssl.key("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    let ca = Ca::with_key("RSA CA", KeyPair::from_pkcs8_pem_and_sign_algo(&key, algorithm).unwrap());
    (ca.certificate(), ca.issue(&device_params("thermometer-1"), &*KEY))
}

/// The good certificate with this public key, signed again.
fn with_public_key(key: &[u8]) -> Vec<u8> {
    CA.sign_changed(&GOOD, |parts| parts[6] = key.to_vec())
}

/// The good certificate with these encoded extensions, signed again.
fn with_extensions(extensions: &[Vec<u8>]) -> Vec<u8> {
    CA.sign_changed(&GOOD, |parts| parts.push(element(0xa3, &element(0x30, &extensions.concat()))))
}

/// An extension with the OID 2.5.29.`oid`.
fn extension(oid: u8, value: &[u8]) -> Vec<u8> {
    element(0x30, &[element(6, &[0x55, 0x1d, oid]), element(4, value)].concat())
}

fn critical(oid: &[u64], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

#[test]
fn valid_certificate_is_accepted_and_names_its_device() {
    let der = issued(|params| {
        params.serial_number = Some(SerialNumber::from_slice(&[0x00, 0x9f, 0x01]));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
    });
    let certificate = check(&der).unwrap();
    assert_eq!(certificate.serial.to_string(), "9f01");
    assert_eq!(certificate.issuer, "CN=Test CA");
    assert_eq!(certificate.not_after, NOW.plus(30 * DAY));
    assert_eq!(thing(&der).as_deref(), Ok("thermometer-1"));
    assert_eq!(DeviceCertificate::parse_unverified(&der), Some(certificate));
}

#[test]
fn signed_digest_does_not_depend_on_the_signature() {
    let signed = elements(&GOOD)[0];
    let (one, other) = (CA.sign(signed), CA.sign(signed));
    assert_ne!(one, other, "ECDSA signs differently each time");
    assert_eq!(check(&one).unwrap().signed_digest, check(&other).unwrap().signed_digest);
    assert_ne!(
        check(&one).unwrap().signed_digest,
        check(&issued(|params| params.not_after += DAY)).unwrap().signed_digest
    );
}

#[test]
fn clocks_may_differ_by_the_skew_and_no_more() {
    for (not_before, not_after, expected) in [
        (NOW.plus(SKEW), NOW.plus(DAY), "accepted"),
        (NOW.plus(SKEW).plus(SECOND), NOW.plus(DAY), "not-yet-valid"),
        (NOW.minus(DAY), NOW.minus(SKEW), "accepted"),
        (NOW.minus(DAY), NOW.minus(SKEW).minus(SECOND), "expired"),
    ] {
        let der = issued(|params| (params.not_before, params.not_after) = (date(not_before), date(not_after)));
        assert_eq!(code(&der), expected, "{not_before} to {not_after}");
    }
    let der = issued(|params| params.not_after = date(NOW.minus(SECOND)));
    assert_eq!(DeviceCertificate::validate(&der, &AUTHORITY, NOW, Duration::ZERO), Err(RejectionReason::Expired));
}

#[test]
fn extreme_validity_dates_are_understood() {
    let never = CA.sign_changed(&GOOD, |parts| {
        parts[4] = element(0x30, &[element(23, b"260101000000Z"), element(24, b"99991231235959Z")].concat());
    });
    assert_eq!(check(&never).unwrap().not_after, Timestamp::from_millis(253_402_300_799_000));
    let old = CA.sign_changed(&GOOD, |parts| {
        parts[4] = element(0x30, &[element(23, b"600101000000Z"), element(23, b"690101000000Z")].concat());
    });
    assert_eq!(code(&old), "expired");
}

#[test]
fn another_issuer_and_another_key_have_different_reasons() {
    let (other, impostor) = (Ca::new("Other CA"), Ca::new("Test CA"));
    let params = device_params("thermometer-1");
    assert_eq!(code(&other.issue(&params, &*KEY)), "issuer-mismatch");
    assert_eq!(code(&impostor.issue(&params, &*KEY)), "bad-signature");
    // Another string type makes another name: names are compared byte for byte.
    let printable = Ca::customized("Test CA", KeyPair::generate().unwrap(), |params| {
        let name = DnValue::PrintableString("Test CA".try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
    });
    assert_eq!(code(&printable.issue(&params, &*KEY)), "issuer-mismatch");
}

#[test]
fn ca_certificate_is_rejected_whichever_extension_says_so() {
    assert_eq!(code(&issued(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))), "is-a-ca");
    let signs = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    assert_eq!(code(&issued(|params| params.key_usages = signs)), "is-a-ca");
}

#[test]
fn key_usage_must_allow_signatures_if_present() {
    let uses = |uses: &[KeyUsagePurpose]| issued(|params| params.key_usages = uses.to_vec());
    assert_eq!(code(&uses(&[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment])), "accepted");
    let wrong = uses(&[KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement]);
    assert_eq!(code(&wrong), "key-usage");
    assert!(sentence(&wrong).contains("its key usage"), "{}", sentence(&wrong));
}

#[test]
fn extended_key_usage_must_allow_client_authentication() {
    let uses = |uses: ExtendedKeyUsagePurpose| issued(|params| params.extended_key_usages = vec![uses]);
    assert_eq!(code(&uses(ExtendedKeyUsagePurpose::ClientAuth)), "accepted");
    assert_eq!(code(&uses(ExtendedKeyUsagePurpose::Any)), "accepted");
    let wrong = uses(ExtendedKeyUsagePurpose::ServerAuth);
    assert_eq!(code(&wrong), "key-usage");
    assert!(sentence(&wrong).contains("its extended key usage"), "{}", sentence(&wrong));
    assert_eq!(code(&with_extensions(&[extension(37, &[0x30, 0])])), "key-usage");
}

#[test]
fn unsupported_extension_is_rejected_only_if_critical() {
    let with = |oid: &[u64], is_critical| issued(|params| params.custom_extensions = vec![critical(oid, is_critical)]);
    let ours: &[u64] = &[1, 3, 6, 1, 4, 1, 99_999, 1];
    assert_eq!(code(&with(ours, true)), "unknown-critical-extension");
    assert!(sentence(&with(ours, true)).contains("1.3.6.1.4.1.99999.1"));
    assert_eq!(code(&with(ours, false)), "accepted");
    // The parser supports name constraints, but they are not enforced.
    assert_eq!(code(&with(&[2, 5, 29, 30], true)), "unknown-critical-extension");
    let mut names = CustomExtension::from_oid_content(&[2, 5, 29, 17], element(0x30, &element(0x82, b"a.example")));
    names.set_criticality(true);
    assert_eq!(code(&issued(|params| params.custom_extensions = vec![names])), "accepted");
}

#[test]
fn repeated_or_malformed_extension_is_rejected() {
    let no_ca = extension(19, &[0x30, 0]);
    let a_ca = extension(19, &[0x30, 3, 1, 1, 0xff]);
    assert_eq!(code(&with_extensions(std::slice::from_ref(&no_ca))), "accepted");
    for extensions in [
        vec![no_ca.clone(), a_ca],
        vec![extension(14, &[4, 1, 1]), no_ca, extension(14, &[4, 1, 1])],
        vec![extension(19, &[0x30, 3, 2, 1])],
        vec![extension(15, &[4, 1, 0x80])],
        vec![extension(37, &[0x30, 1, 6])],
        vec![extension(17, &[0x30, 2, 0x82, 9])],
    ] {
        assert_eq!(code(&with_extensions(&extensions)), "malformed-certificate", "{extensions:02x?}");
    }
}

#[test]
fn version_1_certificate_without_extensions_is_accepted() {
    let first = CA.sign_changed(&GOOD, |parts| drop(parts.remove(0)));
    assert_eq!(elements(elements(&first)[0]).len(), 6);
    assert_eq!(thing(&first).as_deref(), Ok("thermometer-1"));
}

#[test]
fn common_name_must_be_a_thing_name() {
    let longest = "x".repeat(128);
    for name in ["a", "thermometer-1", "A:b_c-9", &*longest] {
        assert_eq!(
            thing(&issued(|params| params.distinguished_name = device_params(name).distinguished_name)).as_deref(),
            Ok(name)
        );
    }
    let bad: [DnValue; 16] = [
        "".into(),
        "x".repeat(129).into(),
        "*".into(),
        "+".into(),
        "#".into(),
        "a+".into(),
        "a/b".into(),
        "$aws/x".into(),
        "${iot:ClientId}".into(),
        "a\0b".into(),
        "a\0".into(),
        " a".into(),
        "a b".into(),
        "a\n".into(),
        "thermömeter".into(),
        "ａ".into(),
    ];
    for bad in bad {
        let der = issued(|params| params.distinguished_name = device_params(bad.clone()).distinguished_name);
        assert_eq!(thing(&der), Err("bad-thing-name"), "{bad:?}");
    }
}

#[test]
fn common_name_is_decoded_from_every_string_type() {
    let text = "dev_1";
    for common_name in [
        DnValue::Utf8String(text.to_owned()),
        DnValue::PrintableString("dev-1".try_into().unwrap()),
        DnValue::Ia5String(text.try_into().unwrap()),
        DnValue::TeletexString(text.try_into().unwrap()),
        DnValue::BmpString(text.try_into().unwrap()),
        DnValue::UniversalString(text.try_into().unwrap()),
    ] {
        let der = issued(|params| params.distinguished_name = device_params(common_name.clone()).distinguished_name);
        assert_eq!(thing(&der).map(|name| name.replace('-', "_")).as_deref(), Ok(text), "{common_name:?}");
    }
}

#[test]
fn common_name_of_every_mask_of_openssl_is_decoded() {
    let openssl = OpenSsl::new("masks");
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key");
    openssl.run("req -x509 -new -key ca.key -subj /CN=CA -days 30 -outform DER -out ca.der");
    let ca = CaCertificate::from_der(&openssl.read("ca.der")).unwrap();
    for mask in ["nombstr", "default", "pkix", "utf8only", "MASK:0x100", "MASK:0x800", "MASK:0x4"] {
        let conf = format!("[req]\nprompt=no\nstring_mask={mask}\ndistinguished_name=name\n[name]\nCN=dev_1\n");
        std::fs::write(openssl.path("conf"), conf).unwrap();
        openssl.run("req -config conf -new -key ca.key -out d.csr");
        openssl
            .run("x509 -req -in d.csr -CA ca.der -CAform DER -CAkey ca.key -set_serial 7 -days 7 -outform DER -out d");
        let certificate = DeviceCertificate::validate(&openssl.read("d"), &ca, Timestamp::now(), SKEW).unwrap();
        assert_eq!(certificate.thing(&pattern(".*")).unwrap().as_str(), "dev_1", "{mask}");
    }
}

#[test]
fn rejection_says_what_is_wrong_with_the_common_name() {
    let value = |tag: u8, text: &[u8]| {
        let name = element(0x30, &[element(6, &[0x55, 4, 3]), element(tag, text)].concat());
        CA.sign_changed(&GOOD, |parts| parts[5] = element(0x30, &element(0x31, &name)))
    };
    let bad_string = "The subject must have exactly one common name: its common name is not a valid string.";
    let bad_characters = "The common name must have 1 to 128 of the characters a-z A-Z 0-9 : _ - and no others.";
    for (der, expected) in [
        (value(30, b"odd"), bad_string),
        (value(30, &[0xd8, 0]), bad_string),
        (value(28, &[0, 0x11, 0, 0]), bad_string),
        (value(28, b"12345"), bad_string),
        (value(12, &[0xff]), bad_string),
        (value(4, b"octets"), bad_string),
        (value(20, b"caf\xe9"), bad_characters),
        (value(30, &[0, b'a', 0, b'/']), bad_characters),
    ] {
        // The parser itself rejects strings that are not valid for their type, and says so.
        match check(&der) {
            Ok(certificate) => assert_eq!(certificate.thing(&pattern(".*")).unwrap_err().to_string(), expected),
            Err(reason) => assert_eq!(reason.code(), "malformed-certificate", "{expected}"),
        }
    }
}

#[test]
fn issuer_spelled_in_another_string_type_is_made_inactive() {
    let ca = Ca::customized("Test CA", KeyPair::from_pem(&CA.issuer.key().serialize_pem()).unwrap(), |params| {
        let name = DnValue::PrintableString("Test CA".try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
    });
    let reason = check(&ca.issue(&device_params("thermometer-1"), &*KEY)).unwrap_err();
    assert_eq!((reason.code(), &reason), ("issuer-mismatch", &RejectionReason::IssuerSpelling));
    assert_eq!(reason.status(&CertificateStatus::Revoked), CertificateStatus::Inactive);
}

#[test]
fn subject_must_have_exactly_one_common_name() {
    let absent = issued(|params| {
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "Example");
    });
    assert_eq!(thing(&absent), Err("bad-thing-name"));
    // As two elements of the subject, and as two values of one element.
    let again = DnType::CustomDnType(vec![2, 5, 4, 3]);
    let two = issued(|params| params.distinguished_name.push(again, "thermometer-2"));
    assert_eq!(thing(&two), Err("bad-thing-name"));
    let names = elements(elements(elements(&two)[0])[5]).into_iter().flat_map(content).copied().collect::<Vec<_>>();
    let one_set = CA.sign_changed(&two, |parts| parts[5] = element(0x30, &element(0x31, &names)));
    assert_eq!(thing(&one_set), Err("bad-thing-name"));
}

#[test]
fn operators_pattern_must_match_the_whole_name() {
    let matches = |text: &str| check(&GOOD).unwrap().thing(&pattern(text)).map_err(|reason| reason.code());
    assert!(matches("thermometer-[0-9]+").is_ok());
    for other in ["thermometer", "ometer-1", "thermometer-[0-9]{2}", "hygrometer-1|meter-1", ""] {
        assert_eq!(matches(other), Err("name-pattern"), "{other}");
    }
}

#[test]
fn bytes_after_the_der_have_their_own_reason() {
    for more in [&[0][..], &[0x30, 0], &GOOD] {
        assert_eq!(code(&[&GOOD, more].concat()), "trailing-bytes");
    }
}

/// Covers every part outside the signed content that could be encoded differently, which would give the certificate
/// another id.
#[test]
fn only_canonical_der_may_surround_the_signed_content() {
    let [signed, algorithm, signature] = elements(&GOOD)[..] else { panic!("three parts") };
    let whole = |parts: &[&[u8]]| element(0x30, &parts.concat());
    assert_eq!(whole(&[signed, algorithm, signature]), *GOOD);
    let inside = content(&GOOD);
    let long = |tag: u8, content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x84], &length[..], content].concat()
    };
    let bits = content(signature);
    for (what, der) in [
        ("a long length", long(0x30, inside)),
        ("an indefinite length", [&[0x30, 0x80], inside, &[0, 0]].concat()),
        ("another class", element(0x70, inside)),
        ("bytes at the end", whole(&[signed, algorithm, signature, &[5, 0]])),
        ("bytes that are no element at the end", whole(&[signed, algorithm, signature, &[0xff]])),
        (
            "bytes in the algorithm",
            whole(&[signed, &element(0x30, &[content(algorithm), &[5, 0]].concat()), signature]),
        ),
        ("a long length of the algorithm", whole(&[signed, &long(0x30, content(algorithm)), signature])),
        ("another class of the algorithm", whole(&[signed, &element(0xb0, content(algorithm)), signature])),
        ("a long length of the signature", whole(&[signed, algorithm, &long(3, bits)])),
        ("another class of the signature", whole(&[signed, algorithm, &element(0x83, bits)])),
        ("a signature in pieces", whole(&[signed, algorithm, &element(0x23, signature)])),
        ("no signature", whole(&[signed, algorithm])),
        ("an empty signature", whole(&[signed, algorithm, &[3, 0]])),
    ] {
        assert_eq!(code(&der), "malformed-certificate", "{what}");
    }
    // A signature that ends in a 0 bit could omit that bit. Half of all signatures do, so this finds one.
    let even = (0..64).map(|_| CA.sign(signed)).find(|der| der.last().is_some_and(|byte| byte % 2 == 0)).unwrap();
    let bits = content(elements(&even)[2]);
    let shorter = whole(&[signed, algorithm, &element(3, &[&[1], &bits[1..]].concat())]);
    assert_eq!((code(&even), code(&shorter)), ("accepted", "malformed-certificate"));
}

#[test]
fn rsa_algorithm_has_only_one_encoding() {
    let (authority, good) = &*GOOD_RSA;
    let [signed, algorithm, signature] = elements(good)[..] else { panic!("three parts") };
    let oid = elements(algorithm)[0];
    for other in [oid.to_vec(), [oid, &[5, 0, 5, 0]].concat(), [oid, &[0x45, 0]].concat(), [oid, &[5, 1, 0]].concat()] {
        let der = element(0x30, &[signed, &element(0x30, &other), signature].concat());
        let reason = DeviceCertificate::validate(&der, authority, NOW, SKEW).unwrap_err();
        assert_eq!(reason.code(), "malformed-certificate", "{other:02x?}");
    }
}

#[test]
fn both_algorithm_fields_must_be_equal() {
    let [signed, _, signature] = elements(&GOOD)[..] else { panic!("three parts") };
    let sha384 = element(0x30, &element(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]));
    assert_eq!(code(&element(0x30, &[signed, &sha384, signature].concat())), "malformed-certificate");
}

#[test]
fn ecdsa_signature_has_one_encoding_except_for_its_negative() {
    let [signed, algorithm, signature] = elements(&GOOD)[..] else { panic!("three parts") };
    let [r, s] = elements(&content(signature)[1..])[..] else { panic!("two numbers") };
    let with = |numbers: Vec<u8>| element(0x30, &[signed, algorithm, &bit_string(&element(0x30, &numbers))].concat());
    assert_eq!(with([r, s].concat()), *GOOD);
    let padded = element(2, &[&[0], content(r)].concat());
    for numbers in [[&padded, s].concat(), [r, s, &[5, 0]].concat(), [s, r].concat(), r.to_vec()] {
        assert_eq!(code(&with(numbers)), "bad-signature");
    }
}

#[test]
fn device_key_must_be_strong_rsa_or_on_a_tls_curve() {
    let openssl = OpenSsl::new("device-keys");
    for (key, expected) in [
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "weak-key"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "accepted"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3", "accepted"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:3072", "accepted"),
        ("-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048", "unsupported-algorithm"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "accepted"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", "accepted"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "accepted"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "unsupported-algorithm"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-224", "unsupported-algorithm"),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit", "unsupported-algorithm"),
        ("-algorithm ED25519", "unsupported-algorithm"),
        ("-algorithm X25519", "unsupported-algorithm"),
    ] {
        assert_eq!(code(&with_public_key(&openssl.public_key(key))), expected, "{key}");
    }
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem");
    openssl.run("ec -in key.pem -pubout -conv_form compressed -outform DER -out public.der");
    assert_eq!(code(&with_public_key(&openssl.read("public.der"))), "accepted");
}

/// An RSA public key with these numbers; there is no private key for it.
fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = element(0x30, &[element(2, modulus), element(2, exponent)].concat());
    let rsa = [element(6, b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"), vec![5, 0]].concat();
    element(0x30, &[element(0x30, &rsa), bit_string(&key)].concat())
}

#[test]
fn rsa_key_size_is_that_of_its_modulus_and_exponent_is_odd() {
    let modulus = |bits: u32| {
        let mut modulus = vec![0xff; usize::try_from(bits.div_ceil(8)).unwrap()];
        modulus[0] >>= (8 - bits % 8) % 8;
        let sign: &[u8] = if modulus[0] < 0x80 { &[] } else { &[0] };
        [sign, &*modulus].concat()
    };
    let big = modulus(2048);
    for (modulus, exponent, expected) in [
        (modulus(2047), &[1, 0, 1][..], "weak-key"),
        (big.clone(), &[1, 0, 1], "accepted"),
        (modulus(16384), &[1, 0, 1], "accepted"),
        // Leading zeros do not make the key larger: DER does not allow them.
        ([&[0; 128], &*modulus(1024)].concat(), &[1, 0, 1], "malformed-certificate"),
        (vec![0], &[1, 0, 1], "weak-key"),
        (big.clone(), &[1], "weak-key"),
        (big.clone(), &[1, 0, 0], "weak-key"),
        (big.clone(), &[0], "weak-key"),
        (big.clone(), &[0xff], "weak-key"),
        (big, &[1, 0, 0, 0, 0, 0, 0, 0, 1], "weak-key"),
    ] {
        let (size, key) = (modulus.len(), rsa_key(&modulus, exponent));
        assert_eq!(code(&with_public_key(&key)), expected, "{size} bytes, exponent {exponent:02x?}");
    }
}

#[test]
fn key_that_is_not_on_its_curve_is_rejected() {
    let key = elements(elements(&GOOD)[0])[6].to_vec();
    let (curve, point) = (elements(&key)[0], &content(elements(&key)[1])[1..]);
    let with = |point: &[u8]| with_public_key(&element(0x30, &[curve, &bit_string(point)].concat()));
    assert_eq!(code(&with(point)), "accepted");
    let mut other = point.to_vec();
    other[0] = 6;
    for point in [&point[..64], &[point, &[0]].concat(), &[0], &[], &other] {
        assert_eq!(code(&with(point)), "malformed-certificate", "{} bytes", point.len());
    }
}

#[test]
fn rsa_signatures_are_accepted_with_each_digest() {
    for algorithm in [&PKCS_RSA_SHA256, &PKCS_RSA_SHA384, &PKCS_RSA_SHA512] {
        let (authority, der) = rsa_signed(algorithm);
        assert!(DeviceCertificate::validate(&der, &authority, NOW, SKEW).is_ok(), "{algorithm:?}");
    }
}

/// A CA's key, the options of its signature, and the expected result: accepted, or the sentence of the rejection.
const SIGNATURES: [(&str, &str, Option<&str>); 26] = [
    (P256, "-sha256", None),
    (P256, "-sha384", None),
    (P384, "-sha256", None),
    (P384, "-sha384", None),
    (RSA, "-sha256", None),
    ("-algorithm RSA -pkeyopt rsa_keygen_bits:4096", "-sha512", None),
    (RSA, "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32", None),
    (RSA, "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest", None),
    (RSA, "-sha512 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:64", None),
    (RSA, "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20", Some("RSASSA-PSS with these parameters")),
    (RSA, "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:max", Some("RSASSA-PSS with these parameters")),
    (
        RSA,
        "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 -sigopt rsa_mgf1_md:sha1",
        Some("RSASSA-PSS with these parameters"),
    ),
    (RSA, "-sha1 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20", Some("RSASSA-PSS with these parameters")),
    (RSA, "-sha1", Some("SHA-1 with RSA")),
    (RSA, "-md5", Some("MD5 with RSA")),
    (RSA, "-sha224", Some("1.2.840.113549.1.1.14")),
    (P256, "-sha1", Some("ECDSA with SHA-1")),
    (P256, "-sha512", Some("ECDSA with SHA-512")),
    (P521, "-sha512", Some("ECDSA with SHA-512")),
    (P521, "-sha256", Some("a key on the curve P-521")),
    ("-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "-sha256", Some("a key on the curve secp256k1")),
    (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
        "-sha256",
        Some("a key that names no curve"),
    ),
    ("-algorithm ED25519", "", Some("Ed25519")),
    ("-algorithm ED448", "", Some("Ed448")),
    ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "-sha256", Some("an RSA key of 1024 bits")),
    (
        "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
        "-sha256 -sigopt rsa_pss_saltlen:32",
        Some("a key for RSASSA-PSS"),
    ),
];
const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";
const P521: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-521";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

#[test]
fn unsupported_signature_algorithm_is_named() {
    let openssl = OpenSsl::new("signatures");
    for (key, signature, refused) in SIGNATURES {
        let (authority, der) = openssl.issue(key, signature);
        let checked = DeviceCertificate::validate(&der, &authority, Timestamp::now(), SKEW);
        match refused {
            None => assert!(checked.is_ok(), "{key} {signature}: {checked:?}"),
            Some(name) => {
                let reason = checked.unwrap_err();
                assert_eq!(reason.code(), "unsupported-algorithm", "{key} {signature}");
                let expected =
                    format!("The certificate cannot be verified: signatures with {name} cannot be verified.");
                assert_eq!(reason.to_string(), expected, "{key} {signature}");
            }
        }
        // The signature is really verified: with one bit changed, it is not accepted.
        let mut forged = der;
        *forged.last_mut().unwrap() ^= 1;
        assert!(DeviceCertificate::validate(&forged, &authority, Timestamp::now(), SKEW).is_err(), "{key} {signature}");
    }
}

#[test]
fn key_of_another_kind_than_the_signature_is_rejected() {
    // The same name, with a key that does not fit the algorithm.
    let elliptic = Ca::with_key("RSA CA", KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()).certificate();
    assert_eq!(DeviceCertificate::validate(&GOOD_RSA.1, &elliptic, NOW, SKEW), Err(RejectionReason::BadSignature));
    let openssl = OpenSsl::new("kinds");
    let key = openssl.key("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    let rsa = Ca::with_key("Test CA", KeyPair::from_pem(&key).unwrap()).certificate();
    assert_eq!(DeviceCertificate::validate(&GOOD, &rsa, NOW, SKEW), Err(RejectionReason::BadSignature));
    let edwards = Ca::with_key("Test CA", KeyPair::generate_for(&PKCS_ED25519).unwrap()).certificate();
    let reason = DeviceCertificate::validate(&GOOD, &edwards, NOW, SKEW).unwrap_err();
    assert_eq!(reason.code(), "unsupported-algorithm");
}

#[test]
fn unverifiable_certificate_is_made_inactive_not_revoked() {
    use CertificateStatus::{Inactive, Revoked};
    for chosen in [Revoked, Inactive] {
        assert_eq!(RejectionReason::UnsupportedAlgorithm(String::new()).status(&chosen), Inactive);
        assert_eq!(RejectionReason::CrlUnclear(String::new()).status(&chosen), Inactive);
        assert_eq!(RejectionReason::NamePattern.status(&chosen), Inactive);
        assert_eq!(RejectionReason::NameTaken.status(&chosen), Inactive);
        assert_eq!(RejectionReason::Expired.status(&chosen), chosen);
        assert_eq!(RejectionReason::BadSignature.status(&chosen), chosen);
    }
}

#[test]
fn pem_must_be_a_single_block() {
    let text = pki::pem("CERTIFICATE", &GOOD);
    for valid in [text.clone(), text.replace('\n', "\r\n"), format!("{text}\n \n")] {
        assert_eq!(parse_pem(&valid).as_ref(), Ok(&*GOOD));
    }
    for bad in [
        String::new(),
        pki::pem("X509 CRL", &GOOD),
        format!("{text}{text}"),
        format!("{text}# more"),
        text.replace("-----END", "-----AND"),
        text.replacen("MI", "M!", 1),
    ] {
        assert_eq!(parse_pem(&bad), Err(CertificateError::Pem), "{bad}");
    }
}

#[test]
fn no_bit_of_a_certificate_can_be_flipped() {
    let (rsa_authority, rsa) = &*GOOD_RSA;
    for (authority, good) in [(&*AUTHORITY, &*GOOD), (rsa_authority, rsa)] {
        assert!(DeviceCertificate::validate(good, authority, NOW, SKEW).is_ok());
        for bit in 0..8 * good.len() {
            let mut der = good.clone();
            der[bit / 8] ^= 1 << (bit % 8);
            assert!(DeviceCertificate::validate(&der, authority, NOW, SKEW).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn truncated_certificate_is_rejected() {
    for length in 0..GOOD.len() {
        assert_eq!(code(&GOOD[..length]), "malformed-certificate", "{length} bytes");
    }
}

/// A good certificate's DER with bytes inserted, removed, overwritten or swapped.
fn changed(good: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<Index>(), prop::collection::vec(any::<u8>(), 0..6), 0..4_u8);
    prop::collection::vec(change, 1..4).prop_map(move |changes| {
        let mut der = good.to_vec();
        for (at, to, bytes, how) in changes {
            let (at, to) = (at.index(der.len()), to.index(der.len()));
            match how {
                0 => drop(der.splice(at..at, bytes)),
                1 => drop(der.drain(at.min(to)..at.max(to).min(at.min(to) + 8))),
                2 => der.swap(at, to),
                _ => der.splice(at..der.len().min(at + bytes.len()), bytes).for_each(drop),
            }
            der.push(0);
            der.pop();
            if der.is_empty() {
                der.push(0x30);
            }
        }
        der
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_certificate_is_never_accepted(der in changed(&GOOD)) {
        prop_assert!(der == *GOOD || check(&der).is_err());
    }

    #[test]
    fn broken_signed_content_is_parsed_without_a_panic(signed in changed(elements(&GOOD)[0])) {
        let der = element(0x30, &[&signed, elements(&GOOD)[1], &bit_string(&[0; 70])].concat());
        let _ = DeviceCertificate::parse_unverified(&der);
        if signed.first() == Some(&0x30) {
            let signature = rcgen::SigningKey::sign(CA.issuer.key(), &signed).unwrap();
            let der = element(0x30, &[&signed, elements(&GOOD)[1], &bit_string(&signature)].concat());
            if let Ok(certificate) = check(&der) {
                let _ = certificate.thing(&pattern(".*"));
            }
        }
    }

    #[test]
    fn random_bytes_are_rejected_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(check(&bytes).is_err());
        let _ = DeviceCertificate::parse_unverified(&bytes);
        let _ = parse_pem(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn common_name_is_accepted_exactly_if_it_is_a_thing_name(name in "[a-zA-Z0-9:_/+#$* -]{0,3}[a-zA-Z0-9:_-]{0,130}") {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b":_-".contains(&b);
        let expected = (1..=128).contains(&name.len()) && name.bytes().all(allowed);
        let found = thing(&issued(|params| params.distinguished_name = device_params(&*name).distinguished_name));
        prop_assert_eq!(found, if expected { Ok(name) } else { Err("bad-thing-name") });
    }
}
