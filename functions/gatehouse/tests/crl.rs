//! Which CRLs are trusted, what they list, and how they are fetched from the devices table.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::pki::{CaCertificate, CertificateId, Crl, CrlError, MAX_CRL_BYTES, Serial};
use gatehouse::store::{CrlFetchError, PublishedCrl};
use gatehouse::{CaStatus, Devices};
use proptest::prelude::*;
use proptest::sample::Index;
use rcgen::{KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, RevocationReason, SerialNumber};
use serde_json::{Value, json};
use test_support::pki::{Ca, DAY, NOW, OpenSsl, bit_string, content, date, device_params, element, elements, pem};
use test_support::{FakeAws, Table};

const SKEW: Duration = Duration::from_mins(5);
const SECOND: Duration = Duration::from_secs(1);

/// A serial number of the maximum length.
const LONG: [u8; 20] = [0x7f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19];

static CA: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
static CA_CERTIFICATE: LazyLock<CaCertificate> = LazyLock::new(|| CA.certificate());
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| CA.crl(&[&[1], &[0x80, 0], &LONG]));

fn read(bytes: &[u8]) -> Result<Crl, CrlError> {
    Crl::parse(bytes, &CA_CERTIFICATE)
}

fn error(bytes: &[u8]) -> CrlError {
    read(bytes).unwrap_err()
}

fn number(number: &[u8]) -> Vec<u8> {
    CA.crl_with(&[], |params| params.crl_number = SerialNumber::from_slice(number))
}

/// An extension with the OID 2.5.29.`oid`.
fn extension(oid: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { element(1, &[0xff]) } else { Vec::new() };
    element(0x30, &[element(6, &[0x55, 0x1d, oid]), critical, element(4, value)].concat())
}

/// The good CRL with these encoded extensions instead of its own, signed again.
fn with_extensions(extensions: &[Vec<u8>]) -> Vec<u8> {
    CA.sign_changed(&GOOD, |parts| {
        *parts.last_mut().unwrap() = element(0xa0, &element(0x30, &extensions.concat()));
    })
}

/// The good CRL with this extension at its first entry, signed again.
fn with_entry_extension(extension: &[u8]) -> Vec<u8> {
    CA.sign_changed(&GOOD, |parts| {
        let entries: Vec<_> = elements(&parts[5]).into_iter().map(<[u8]>::to_vec).collect();
        let first = element(0x30, &[content(&entries[0]), &element(0x30, extension)].concat());
        parts[5] = element(0x30, &[vec![first], entries[1..].to_vec()].concat().concat());
    })
}

fn crl_number() -> Vec<u8> {
    extension(20, false, &[2, 1, 5])
}

#[test]
fn only_listed_serials_are_found() {
    let crl = read(&GOOD).unwrap();
    for listed in [&[1][..], &[0, 1], &[0x80, 0], &[0, 0x80, 0], &LONG] {
        assert!(crl.lists(&Serial::new(listed)), "{listed:02x?}");
    }
    for other in [&[][..], &[0], &[2], &[1, 0], &[0x80], &LONG[1..], &LONG[..19], &[&LONG[..], &[0]].concat()] {
        assert!(!crl.lists(&Serial::new(other)), "{other:02x?}");
    }
}

#[test]
fn empty_crl_lists_nothing() {
    let crl = read(&CA.crl(&[])).unwrap();
    assert!(!crl.lists(&Serial::new(&[])) && !crl.lists(&Serial::new(&[1])));
    // So does a CRL with an empty sequence of entries instead of none.
    let empty = CA.sign_changed(&CA.crl(&[]), |parts| parts.insert(5, element(0x30, &[])));
    assert!(!read(&empty).unwrap().lists(&Serial::new(&[1])));
}

#[test]
fn serial_is_hexadecimal_without_leading_zeros() {
    for (bytes, digits) in [(&[0, 0x0a, 0xff][..], "0aff"), (&[0x80], "80"), (&[0], "00"), (&[], "00")] {
        assert_eq!(Serial::new(bytes).to_string(), digits);
    }
}

#[test]
fn listed_certificate_is_revoked_for_any_reason() {
    for reason in [RevocationReason::CertificateHold, RevocationReason::Superseded, RevocationReason::KeyCompromise] {
        let der = CA.crl_with(&[&[1]], |params| params.revoked_certs[0].reason_code = Some(reason));
        assert!(read(&der).unwrap().lists(&Serial::new(&[1])), "{reason:?}");
    }
}

#[test]
fn pem_is_parsed_like_der_and_nothing_may_follow_it() {
    let text = pem("X509 CRL", &GOOD);
    for valid in [text.clone(), text.replace('\n', "\r\n"), format!("{text}\n")] {
        assert!(read(valid.as_bytes()).unwrap().lists(&Serial::new(&LONG)));
    }
    for bad in [
        format!("{text}{text}"),
        format!("{text}more"),
        format!("# a comment\n{text}"),
        pem("CERTIFICATE", &GOOD),
        pem("X509 CRL", &[&GOOD[..], &[0]].concat()),
        "-----BEGIN X509 CRL-----\n".to_owned(),
        "-----".to_owned(),
    ] {
        assert_eq!(error(bad.as_bytes()), CrlError::Malformed, "{bad}");
    }
}

#[test]
fn crl_needs_the_name_and_signature_of_its_ca() {
    assert_eq!(error(&Ca::new("Other CA").crl(&[])), CrlError::AnotherIssuer);
    let impostor = error(&Ca::new("Test CA").crl(&[]));
    assert_eq!(impostor.to_string(), "the CRL is not trusted: the signature was not made with the CA's key");
    // A certificate that the CA issued is not a CRL.
    assert_eq!(error(&CA.issue(&device_params("d-1"), &KeyPair::generate().unwrap())), CrlError::Malformed);
}

#[test]
fn unsupported_signature_algorithm_is_named() {
    let openssl = OpenSsl::new("crl");
    let key = openssl.key("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    let ca = Ca::with_key("Test CA", KeyPair::from_pem(&key).unwrap());
    assert!(Crl::parse(&ca.crl(&[&[1]]), &ca.certificate()).unwrap().lists(&Serial::new(&[1])));
    let p384 = Ca::with_key("Test CA", KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    assert!(Crl::parse(&p384.crl(&[]), &p384.certificate()).is_ok());
    fs_write(&openssl, "index", "");
    fs_write(&openssl, "number", "05");
    fs_write(&openssl, "conf", "[ca]\ndefault_ca=c\n[c]\ndatabase=index\ncrlnumber=number\ndefault_crl_days=7\n");
    openssl.run("req -x509 -new -key key.pem -subj /CN=CA -out ca.pem");
    for (digest, expected) in [("sha1", Some("SHA-1 with RSA")), ("md5", Some("MD5 with RSA")), ("sha512", None)] {
        openssl.run(&format!("ca -config conf -gencrl -cert ca.pem -keyfile key.pem -md {digest} -out crl.pem"));
        let ca = CaCertificate::from_pem(&openssl.text("ca.pem")).unwrap();
        let read = Crl::parse(&openssl.read("crl.pem"), &ca);
        match expected {
            None => assert!(read.is_ok(), "{read:?}"),
            Some(name) => {
                let expected = format!("the CRL is not trusted: signatures with {name} cannot be verified");
                assert_eq!(read.unwrap_err().to_string(), expected);
            }
        }
    }
}

fn fs_write(openssl: &OpenSsl, file: &str, text: &str) {
    std::fs::write(openssl.path(file), text).unwrap();
}

#[test]
fn crl_is_current_from_this_update_until_next_update() {
    let checked = |from, until| {
        let der = CA.crl_with(&[], |params| (params.this_update, params.next_update) = (date(from), date(until)));
        read(&der).unwrap().check_current(NOW, SKEW)
    };
    assert_eq!(checked(NOW.plus(SKEW), NOW.plus(DAY)), Ok(()));
    assert_eq!(checked(NOW.plus(SKEW).plus(SECOND), NOW.plus(DAY)), Err(CrlError::NotYetValid));
    assert_eq!(checked(NOW.minus(DAY), NOW.plus(SECOND)), Ok(()));
    // No skew is allowed here: the next CRL must have been published by then.
    assert_eq!(checked(NOW.minus(DAY), NOW), Err(CrlError::Expired));
}

#[test]
fn crl_without_next_update_is_refused() {
    assert_eq!(error(&CA.sign_changed(&GOOD, |parts| drop(parts.remove(4)))), CrlError::NoNextUpdate);
    for date in [&b"later"[..], b"260230000000Z", b"261301000000Z", b"260101250000Z"] {
        let unreadable = CA.sign_changed(&GOOD, |parts| parts[4] = element(23, date));
        assert_eq!(error(&unreadable), CrlError::Malformed, "{date:?}");
    }
}

#[test]
fn numbers_of_up_to_20_bytes_sort_as_text() {
    let numbers: Vec<_> =
        [&[0][..], &[1], &[9], &[10], &[0x80], &[1, 0], &[0xff, 0xff], &[1, 0, 0], &LONG, &[0xff; 20]]
            .into_iter()
            .map(|bytes| read(&number(bytes)).unwrap().number)
            .collect();
    assert!(numbers.is_sorted() && numbers.iter().all(|digits| digits.len() == 40), "{numbers:?}");
    assert_eq!(numbers[3], format!("{}0a", "0".repeat(38)));
}

#[test]
fn missing_long_or_invalid_crl_number_is_refused() {
    assert_eq!(error(&number(&[&[1][..], &[0; 20]].concat())), CrlError::NoNumber);
    for number in [&[2, 1, 0xff][..], &[4, 1, 5], &[]] {
        assert_eq!(error(&with_extensions(&[extension(20, false, number)])), CrlError::NoNumber, "{number:02x?}");
    }
    assert_eq!(error(&with_extensions(&[extension(35, false, &[0x30, 0])])), CrlError::NoNumber);
    assert_eq!(error(&CA.sign_changed(&GOOD, |parts| drop(parts.pop()))), CrlError::NoNumber);
}

#[test]
fn partial_crl_is_refused_even_if_not_marked_as_critical() {
    for critical in [true, false] {
        let delta = error(&with_extensions(&[crl_number(), extension(27, critical, &[2, 1, 4])]));
        assert_eq!(delta, CrlError::CriticalExtension("2.5.29.27".to_owned()), "{critical}");
        for value in
            [&[0x82, 1, 0xff][..], &[0x83, 2, 0, 1], &[0x84, 1, 0xff], &[0x85, 1, 1], &[0x81, 1, 0xff, 0x82, 1, 1]]
        {
            let point = extension(28, critical, &element(0x30, value));
            assert_eq!(error(&with_extensions(&[crl_number(), point])), CrlError::Partial, "{critical} {value:02x?}");
        }
    }
}

/// An issuing distribution point with this name, for user certificates only.
fn point_of_users(name: &[u8]) -> Vec<u8> {
    let name = element(0xa0, &element(0xa0, &element(0x86, name)));
    extension(28, true, &element(0x30, &[name, vec![0x81, 1, 0xff]].concat()))
}

#[test]
fn crl_for_all_user_certificates_is_complete() {
    let only_users = extension(28, true, &element(0x30, &[0x81, 1, 0xff]));
    for point in [only_users, point_of_users(b"http://ca.example/crl")] {
        let crl = read(&with_extensions(&[crl_number(), point])).unwrap();
        assert!(crl.lists(&Serial::new(&[1])) && crl.count() == 3);
        assert_eq!(crl.check_covers(&[]), Ok(()));
    }
}

#[test]
fn crl_of_another_distribution_point_does_not_cover_a_certificate() {
    let crl = read(&with_extensions(&[crl_number(), point_of_users(b"http://ca.example/1.crl")])).unwrap();
    let names = |number: u8| vec![format!("URI(http://ca.example/{number}.crl)")];
    assert_eq!(crl.check_covers(&names(1)), Ok(()));
    assert_eq!(crl.check_covers(&names(2)), Err(CrlError::AnotherDistributionPoint));
    assert_eq!(read(&GOOD).unwrap().check_covers(&names(2)), Ok(()));
}

#[test]
fn issuer_without_crl_sign_may_not_issue_crls() {
    let key = || KeyPair::from_pem(&CA.issuer.key().serialize_pem()).unwrap();
    let without = Ca::customized("Test CA", key(), |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let refused = Crl::parse(&GOOD, &without.certificate()).unwrap_err();
    assert_eq!(refused.to_string(), "the CA may not sign CRLs: its key usage lacks cRLSign");
    // Without any key usage, it may.
    let any = Ca::customized("Test CA", key(), |params| params.key_usages = Vec::new());
    assert!(Crl::parse(&GOOD, &any.certificate()).is_ok());
}

#[test]
fn only_critical_extensions_must_be_supported() {
    let freshest = |critical| with_extensions(&[crl_number(), extension(46, critical, &[0x30, 0])]);
    assert_eq!(error(&freshest(true)), CrlError::CriticalExtension("2.5.29.46".to_owned()));
    assert!(read(&freshest(false)).is_ok());
    assert!(read(&with_extensions(&[extension(20, true, &[2, 1, 5])])).is_ok());
    assert_eq!(error(&with_extensions(&[crl_number(), crl_number()])), CrlError::Malformed);
}

#[test]
fn critical_entry_extension_is_refused() {
    let issuer = |critical| with_entry_extension(&extension(29, critical, &[0x30, 0]));
    assert_eq!(error(&issuer(true)), CrlError::CriticalExtension("2.5.29.29".to_owned()));
    assert!(read(&issuer(false)).unwrap().lists(&Serial::new(&[1])));
}

#[test]
fn malformed_entry_does_not_make_the_crl_empty() {
    for broken in [&[0x30, 0][..], &[0x30, 3, 2, 1, 1], &[5, 0], &[0x30, 5, 4, 1, 1, 23, 0]] {
        let der = CA.sign_changed(&GOOD, |parts| {
            let entries = [content(&parts[5]), broken].concat();
            parts[5] = element(0x30, &entries);
        });
        assert_eq!(error(&der), CrlError::Malformed, "{broken:02x?}");
    }
    let no_sequence = CA.sign_changed(&GOOD, |parts| parts[5][0] = 0x31);
    assert_eq!(error(&no_sequence), CrlError::Malformed);
}

#[test]
fn extra_bytes_in_or_after_the_crl_are_refused() {
    let [signed, algorithm, signature] = elements(&GOOD)[..] else { panic!("three parts") };
    let whole = |parts: &[&[u8]]| element(0x30, &parts.concat());
    let inner = [content(algorithm), &[5, 0]].concat();
    for der in [
        [&GOOD[..], &[0]].concat(),
        whole(&[signed, algorithm, signature, &[5, 0]]),
        whole(&[signed, &element(0x30, &inner), signature]),
        whole(&[signed, &element(0x30, &element(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])), signature]),
        element(0x70, content(&GOOD)),
    ] {
        assert_eq!(error(&der), CrlError::Malformed);
    }
    assert_eq!(whole(&[signed, algorithm, signature]), *GOOD);
    let hidden = element(0x30, &[content(signed), &[5, 0]].concat());
    assert_eq!(error(&CA.sign(&hidden)), CrlError::Malformed);
}

#[test]
fn crl_above_the_size_limit_is_not_parsed() {
    assert_eq!(error(&vec![b'-'; MAX_CRL_BYTES + 1]), CrlError::TooLarge(MAX_CRL_BYTES + 1));
    assert_eq!(error(&vec![b'-'; MAX_CRL_BYTES]), CrlError::Malformed);
}

#[test]
fn large_crl_is_parsed_and_searched() {
    let serial = |n: u32| [&[0x55; 12][..], &n.to_be_bytes()].concat();
    let serials: Vec<_> = (0..20_000).rev().map(|n| serial(2 * n)).collect();
    let crl = read(&CA.crl(&serials.iter().map(|serial| &**serial).collect::<Vec<_>>())).unwrap();
    for n in 0..20_000 {
        assert_eq!(crl.lists(&Serial::new(&serial(n))), n % 2 == 0, "{n}");
    }
}

#[test]
fn crl_with_a_flipped_bit_or_cut_off_is_refused() {
    for bit in 0..8 * GOOD.len() {
        let mut der = GOOD.clone();
        der[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&der).is_err(), "bit {bit}");
    }
    for length in 0..GOOD.len() {
        assert_eq!(error(&GOOD[..length]), CrlError::Malformed, "{length} bytes");
    }
}

/// A CRL with bytes inserted, removed, overwritten or swapped.
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
                _ => drop(der.splice(at..der.len().min(at + bytes.len()), bytes)),
            }
        }
        der
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_crl_is_never_accepted(der in changed(&GOOD)) {
        prop_assert!(der == *GOOD || read(&der).is_err());
    }

    #[test]
    fn signed_garbage_never_panics(signed in changed(elements(&GOOD)[0])) {
        let signature = rcgen::SigningKey::sign(CA.issuer.key(), &signed).unwrap();
        if let Ok(crl) = read(&element(0x30, &[&signed, elements(&GOOD)[1], &bit_string(&signature)].concat())) {
            let _ = crl.check_current(NOW, SKEW);
            prop_assert_eq!(crl.number.len(), 40);
        }
    }

    #[test]
    fn random_bytes_never_panic_and_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read(&[b"-----BEGIN X509 CRL-----\n", &*bytes].concat()).is_err());
    }
}

/// The devices table with a CA's status and the chunks of its CRL.
struct Published {
    aws: FakeAws,
    devices: Devices,
}

fn ca() -> CertificateId {
    CertificateId::new(&"ab".repeat(32)).unwrap()
}

impl Published {
    /// This CRL, published in chunks of this size.
    fn new(crl: &[u8], chunk_size: usize) -> Self {
        let table = Table::new("devices", &["id", "part"], &["GetItem", "Query"]);
        let aws = FakeAws::new("sample").table(table).page_size(2).env("DEVICES_TABLE", "devices");
        let process = aws.process();
        let devices = Devices::from_environment(&process.environment(), process.dynamodb()).unwrap();
        let published = Self { aws, devices };
        published.publish(crl, chunk_size);
        published
    }

    fn publish(&self, crl: &[u8], chunk_size: usize) {
        let number = read(crl).map_or_else(|_| "0".repeat(40), |crl| crl.number);
        let chunks: Vec<_> = crl.chunks(chunk_size).map(<[u8]>::to_vec).collect();
        self.set_status(&json!({
            "crlNumber": {"S": number}, "crlChunks": {"N": chunks.len().to_string()},
            "crlBytes": {"N": crl.len().to_string()},
        }));
        self.set_chunks(ca().as_str(), &number, &chunks);
    }

    fn set_status(&self, attributes: &Value) {
        self.aws.state().set_attributes("devices", &[&format!("ca#{}", ca()), "status"], attributes);
    }

    fn set_chunks(&self, ca: &str, number: &str, chunks: &[Vec<u8>]) {
        let mut state = self.aws.state();
        let id = format!("ca#{ca}");
        state.tables.retain(|(_, key), _| key[0] != id || !key[1].starts_with("crl#"));
        for (n, chunk) in chunks.iter().enumerate() {
            let bytes = json!({"bytes": {"B": BASE64_STANDARD.encode(chunk)}});
            state.set_attributes("devices", &[&id, &format!("crl#{number}#{n:04}")], &bytes);
        }
    }

    fn queries(&self) -> usize {
        self.aws.state().calls_to("Query").len()
    }

    async fn status(&self) -> CaStatus {
        self.devices.ca_status(&ca()).await.unwrap()
    }

    async fn reference(&self) -> PublishedCrl {
        self.status().await.crl.unwrap()
    }

    async fn fetch(&self) -> Result<Arc<Crl>, CrlFetchError> {
        self.devices.crl(&ca(), &CA_CERTIFICATE, &self.reference().await).await
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_ca_is_not_blocked_and_has_no_crl() {
    let published = Published::new(&GOOD, 100);
    published.aws.state().tables.clear();
    assert_eq!(published.status().await, CaStatus::default());
}

#[tokio::test(start_paused = true)]
async fn blocked_ca_is_reported_with_the_reason_and_its_crl() {
    let published = Published::new(&GOOD, 100);
    published.set_status(&json!({"blocked": {"BOOL": false}}));
    assert_eq!(published.status().await.block_reason, None);
    published.set_status(&json!({"blocked": {"BOOL": true}}));
    let status = published.status().await;
    assert_eq!(status.block_reason.as_deref(), Some("no reason was given"));
    assert_eq!(status.crl.unwrap().number, read(&GOOD).unwrap().number);
    published.set_status(&json!({"blockReason": {"S": "its key is stolen"}}));
    assert_eq!(published.status().await.block_reason.as_deref(), Some("its key is stolen"));
}

#[tokio::test(start_paused = true)]
async fn crl_is_joined_from_its_chunks_over_all_pages() {
    for size in [1, 7, 100, GOOD.len()] {
        let published = Published::new(&GOOD, size);
        assert!(published.fetch().await.unwrap().lists(&Serial::new(&LONG)), "chunks of {size}");
        assert_eq!(published.queries(), GOOD.len().div_ceil(size).div_ceil(2));
    }
    let text = pem("X509 CRL", &GOOD).into_bytes();
    let published = Published::new(&text, 100);
    assert_eq!(published.reference().await.number, read(&GOOD).unwrap().number);
    assert!(published.fetch().await.unwrap().lists(&Serial::new(&LONG)));
}

#[tokio::test(start_paused = true)]
async fn crl_is_cached_until_a_new_number_is_published() {
    let published = Published::new(&CA.crl(&[&[1]]), 4096);
    for _ in 0..3 {
        assert!(!published.fetch().await.unwrap().lists(&Serial::new(&[2])));
    }
    assert_eq!(published.queries(), 1);
    let next = CA.crl_with(&[&[1], &[2]], |params| params.crl_number = SerialNumber::from_slice(&[6]));
    published.publish(&next, 4096);
    for _ in 0..3 {
        assert!(published.fetch().await.unwrap().lists(&Serial::new(&[2])));
    }
    assert_eq!(published.queries(), 2);
}

#[tokio::test(start_paused = true)]
async fn cached_crl_is_used_for_its_own_ca_only() {
    let published = Published::new(&GOOD, 4096);
    published.fetch().await.unwrap();
    let other = CertificateId::new(&"cd".repeat(32)).unwrap();
    let fetched = published.devices.crl(&other, &CA_CERTIFICATE, &published.reference().await).await;
    assert!(matches!(fetched, Err(CrlFetchError::Incomplete(_))));
}

#[tokio::test(start_paused = true)]
async fn only_a_few_crls_are_cached() {
    let published = Published::new(&GOOD, 4096);
    let reference = published.reference().await;
    for digit in 1..=5 {
        published.set_chunks(&digit.to_string().repeat(64), &reference.number, std::slice::from_ref(&*GOOD));
    }
    let queries = async |digits: &str| {
        let before = published.queries();
        for digit in digits.chars() {
            let ca = CertificateId::new(&digit.to_string().repeat(64)).unwrap();
            published.devices.crl(&ca, &CA_CERTIFICATE, &reference).await.unwrap();
        }
        published.queries() - before
    };
    assert_eq!((queries("1234").await, queries("1234").await), (4, 0));
    // The fifth replaces all others in the cache.
    assert_eq!((queries("5").await, queries("5").await, queries("1").await), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn crl_with_missing_extra_or_wrong_chunks_is_not_used() {
    let published = Published::new(&GOOD, 50);
    let number = read(&GOOD).unwrap().number;
    let whole: Vec<_> = GOOD.chunks(50).map(<[u8]>::to_vec).collect();
    let set_chunks = |chunks: &[Vec<u8>]| published.set_chunks(ca().as_str(), &number, chunks);
    let incomplete = format!("CRL {number} is incomplete in the devices table");
    let without = |index| [&whole[..index], &whole[index + 1..]].concat();
    let doubled = [&whole[..1], &whole[..]].concat();
    for chunks in [without(0), without(2), without(whole.len() - 1), doubled, vec![]] {
        set_chunks(&chunks);
        assert_eq!(published.fetch().await.unwrap_err().to_string(), incomplete);
    }
    let mut exchanged = whole.clone();
    exchanged.swap(1, 2);
    set_chunks(&exchanged);
    assert!(matches!(published.fetch().await, Err(CrlFetchError::Crl(_))));
    // The chunks are valid, but belong to another CRL than the status names.
    let another = format!("{}6", "0".repeat(39));
    published.set_chunks(ca().as_str(), &another, &whole);
    published.set_status(&json!({"crlNumber": {"S": another}}));
    assert!(matches!(published.fetch().await, Err(CrlFetchError::Incomplete(_))));
    published.publish(&GOOD, 50);
    assert!(published.fetch().await.is_ok(), "nothing of that is cached");
}

#[tokio::test(start_paused = true)]
async fn crl_that_is_too_large_is_not_joined() {
    let published = Published::new(&GOOD, 4096);
    let number = published.reference().await.number;
    published.set_chunks(ca().as_str(), &number, &vec![vec![0; 400_000]; 11]);
    let error = published.fetch().await.unwrap_err();
    assert!(matches!(error, CrlFetchError::Crl(CrlError::TooLarge(4_400_000))), "{error}");
}
