//! Which CRLs can be relied on, what is on them, and how they come out of the devices table.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod pki;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::get_item::GetItemOutput;
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use gatehouse::x509::{CaCertificate, Serial};
use gatehouse::{CertificateId, Crl, CrlError, Devices, Environment, FetchError, MAX_CRL_BYTES, PublishedCrl};
use pki::{Ca, DAY, NOW, OpenSsl, bit_string, content, date, element, elements};
use proptest::prelude::*;
use proptest::sample::Index;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, RevocationReason, SerialNumber};

const SKEW: Duration = Duration::from_mins(5);
const SECOND: Duration = Duration::from_secs(1);

/// A serial number as long as they may be.
const LONG: [u8; 20] = [0x7f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19];

static CA: LazyLock<Ca> = LazyLock::new(|| Ca::new("Test CA"));
static AUTHORITY: LazyLock<CaCertificate> = LazyLock::new(|| CA.authority());
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| CA.crl(&[&[1], &[0x80, 0], &LONG]));

fn read(bytes: &[u8]) -> Result<Crl, CrlError> {
    Crl::read(bytes, &AUTHORITY)
}

fn error(bytes: &[u8]) -> CrlError {
    read(bytes).unwrap_err()
}

fn number(number: &[u8]) -> Vec<u8> {
    CA.crl_with(&[], |params| params.crl_number = SerialNumber::from_slice(number))
}

/// An extension; `oid` is what follows 2.5.29.
fn extension(oid: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { element(1, &[0xff]) } else { Vec::new() };
    element(0x30, &[element(6, &[0x55, 0x1d, oid]), critical, element(4, value)].concat())
}

/// The good CRL with these extensions (each whole) instead of its own, signed again.
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
fn what_is_on_the_list_is_found_and_what_is_not_is_not() {
    let crl = read(&GOOD).unwrap();
    for listed in [&[1][..], &[0, 1], &[0x80, 0], &[0, 0x80, 0], &LONG] {
        assert!(crl.lists(&Serial::new(listed)), "{listed:02x?}");
    }
    for other in [&[][..], &[0], &[2], &[1, 0], &[0x80], &LONG[1..], &LONG[..19], &[&LONG[..], &[0]].concat()] {
        assert!(!crl.lists(&Serial::new(other)), "{other:02x?}");
    }
}

#[test]
fn an_empty_list_lists_nothing() {
    let crl = read(&CA.crl(&[])).unwrap();
    assert!(!crl.lists(&Serial::new(&[])) && !crl.lists(&Serial::new(&[1])));
    // So does one with an empty sequence in place of none.
    let empty = CA.sign_changed(&CA.crl(&[]), |parts| parts.insert(5, element(0x30, &[])));
    assert!(!read(&empty).unwrap().lists(&Serial::new(&[1])));
}

#[test]
fn a_serial_number_is_written_in_hexadecimal_digits_without_leading_zeros() {
    for (bytes, digits) in [(&[0, 0x0a, 0xff][..], "0aff"), (&[0x80], "80"), (&[0], "00"), (&[], "00")] {
        assert_eq!(Serial::new(bytes).to_string(), digits);
    }
}

#[test]
fn whatever_the_reason_a_listed_certificate_does_not_count() {
    for reason in [RevocationReason::CertificateHold, RevocationReason::Superseded, RevocationReason::KeyCompromise] {
        let der = CA.crl_with(&[&[1]], |params| params.revoked_certs[0].reason_code = Some(reason));
        assert!(read(&der).unwrap().lists(&Serial::new(&[1])), "{reason:?}");
    }
}

#[test]
fn pem_is_read_like_der_and_nothing_may_follow_it() {
    let text = pki::pem("X509 CRL", &GOOD);
    for good in [text.clone(), text.replace('\n', "\r\n"), format!("{text}\n")] {
        assert!(read(good.as_bytes()).unwrap().lists(&Serial::new(&LONG)));
    }
    for bad in [
        format!("{text}{text}"),
        format!("{text}more"),
        format!("# a comment\n{text}"),
        pki::pem("CERTIFICATE", &GOOD),
        pki::pem("X509 CRL", &[&GOOD[..], &[0]].concat()),
        "-----BEGIN X509 CRL-----\n".to_owned(),
        "-----".to_owned(),
    ] {
        assert_eq!(error(bad.as_bytes()), CrlError::Malformed, "{bad}");
    }
}

#[test]
fn a_list_counts_only_from_its_ca_and_with_that_cas_signature() {
    assert_eq!(error(&Ca::new("Other CA").crl(&[])), CrlError::AnotherIssuer);
    let impostor = error(&Ca::new("Test CA").crl(&[]));
    assert_eq!(impostor.to_string(), "the CRL does not count: the signature was not made with the CA's key");
    // A device's certificate of the CA is no list of it.
    assert_eq!(error(&CA.issue(&pki::named("d-1"), &KeyPair::generate().unwrap())), CrlError::Malformed);
}

#[test]
fn a_signature_that_nobody_can_verify_is_refused_by_name() {
    let openssl = OpenSsl::new("crl");
    let key = openssl.key("-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    let ca = Ca::with("Test CA", KeyPair::from_pem(&key).unwrap());
    assert!(Crl::read(&ca.crl(&[&[1]]), &ca.authority()).unwrap().lists(&Serial::new(&[1])));
    let p384 = Ca::with("Test CA", KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    assert!(Crl::read(&p384.crl(&[]), &p384.authority()).is_ok());
    fs_write(&openssl, "index", "");
    fs_write(&openssl, "number", "05");
    fs_write(&openssl, "conf", "[ca]\ndefault_ca=c\n[c]\ndatabase=index\ncrlnumber=number\ndefault_crl_days=7\n");
    openssl.run("req -x509 -new -key key.pem -subj /CN=CA -out ca.pem");
    for (digest, expected) in [("sha1", Some("SHA-1 with RSA")), ("md5", Some("MD5 with RSA")), ("sha512", None)] {
        openssl.run(&format!("ca -config conf -gencrl -cert ca.pem -keyfile key.pem -md {digest} -out crl.pem"));
        let authority = CaCertificate::from_pem(&openssl.text("ca.pem")).unwrap();
        let read = Crl::read(&openssl.read("crl.pem"), &authority);
        match expected {
            None => assert!(read.is_ok(), "{read:?}"),
            Some(name) => {
                let expected = format!("the CRL does not count: signatures by {name} cannot be verified");
                assert_eq!(read.unwrap_err().to_string(), expected);
            }
        }
    }
}

fn fs_write(openssl: &OpenSsl, file: &str, text: &str) {
    std::fs::write(openssl.path(file), text).unwrap();
}

#[test]
fn a_list_counts_from_its_this_update_until_its_next_update() {
    let checked = |from, until| {
        let der = CA.crl_with(&[], |params| (params.this_update, params.next_update) = (date(from), date(until)));
        read(&der).unwrap().check_current(NOW, SKEW)
    };
    assert_eq!(checked(NOW.plus(SKEW), NOW.plus(DAY)), Ok(()));
    assert_eq!(checked(NOW.plus(SKEW).plus(SECOND), NOW.plus(DAY)), Err(CrlError::NotYetValid));
    assert_eq!(checked(NOW.minus(DAY), NOW.plus(SECOND)), Ok(()));
    // No skew here: by then the next one is there already.
    assert_eq!(checked(NOW.minus(DAY), NOW), Err(CrlError::Expired));
}

#[test]
fn a_list_that_does_not_say_when_the_next_one_comes_cannot_be_relied_on() {
    assert_eq!(error(&CA.sign_changed(&GOOD, |parts| drop(parts.remove(4)))), CrlError::NoNextUpdate);
    let unreadable = CA.sign_changed(&GOOD, |parts| parts[4] = element(23, b"later"));
    assert_eq!(error(&unreadable), CrlError::Malformed);
}

#[test]
fn numbers_of_up_to_20_bytes_are_in_order_as_text() {
    let numbers: Vec<_> =
        [&[0][..], &[1], &[9], &[10], &[0x80], &[1, 0], &[0xff, 0xff], &[1, 0, 0], &LONG, &[0xff; 20]]
            .into_iter()
            .map(|bytes| read(&number(bytes)).unwrap().number)
            .collect();
    assert!(numbers.is_sorted() && numbers.iter().all(|digits| digits.len() == 40), "{numbers:?}");
    assert_eq!(numbers[3], format!("{}0a", "0".repeat(38)));
}

#[test]
fn a_number_that_is_missing_too_long_negative_or_no_number_cannot_be_ordered() {
    assert_eq!(error(&number(&[&[1][..], &[0; 20]].concat())), CrlError::NoNumber);
    for number in [&[2, 1, 0xff][..], &[4, 1, 5], &[]] {
        assert_eq!(error(&with_extensions(&[extension(20, false, number)])), CrlError::NoNumber, "{number:02x?}");
    }
    assert_eq!(error(&with_extensions(&[extension(35, false, &[0x30, 0])])), CrlError::NoNumber);
    assert_eq!(error(&CA.sign_changed(&GOOD, |parts| drop(parts.pop()))), CrlError::NoNumber);
}

#[test]
fn a_list_of_a_part_of_the_certificates_is_refused_also_where_it_is_not_marked_as_critical() {
    for critical in [true, false] {
        for (oid, value) in [(27, &[2, 1, 4][..]), (28, &[0x30, 3, 0x81, 1, 0xff])] {
            let refused = error(&with_extensions(&[crl_number(), extension(oid, critical, value)]));
            assert_eq!(refused, CrlError::CriticalExtension(format!("2.5.29.{oid}")), "{critical}");
        }
    }
}

#[test]
fn a_critical_extension_must_be_understood_and_any_other_may_be_ignored() {
    let freshest = |critical| with_extensions(&[crl_number(), extension(46, critical, &[0x30, 0])]);
    assert_eq!(error(&freshest(true)), CrlError::CriticalExtension("2.5.29.46".to_owned()));
    assert!(read(&freshest(false)).is_ok());
    assert!(read(&with_extensions(&[extension(20, true, &[2, 1, 5])])).is_ok());
    assert_eq!(error(&with_extensions(&[crl_number(), crl_number()])), CrlError::Malformed);
}

#[test]
fn an_entry_may_not_say_anything_critical_such_as_that_it_is_another_cas() {
    let issuer = |critical| with_entry_extension(&extension(29, critical, &[0x30, 0]));
    assert_eq!(error(&issuer(true)), CrlError::CriticalExtension("2.5.29.29".to_owned()));
    assert!(read(&issuer(false)).unwrap().lists(&Serial::new(&[1])));
}

#[test]
fn an_entry_that_cannot_be_read_does_not_make_the_list_empty() {
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
fn bytes_in_or_after_the_list_are_refused() {
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
fn more_than_the_largest_size_is_not_even_looked_at() {
    assert_eq!(error(&vec![b'-'; MAX_CRL_BYTES + 1]), CrlError::TooLarge(MAX_CRL_BYTES + 1));
    assert_eq!(error(&vec![b'-'; MAX_CRL_BYTES]), CrlError::Malformed);
}

#[test]
fn a_large_list_is_read_and_searched() {
    let serial = |n: u32| [&[0x55; 12][..], &n.to_be_bytes()].concat();
    let serials: Vec<_> = (0..20_000).rev().map(|n| serial(2 * n)).collect();
    let crl = read(&CA.crl(&serials.iter().map(|serial| &**serial).collect::<Vec<_>>())).unwrap();
    for n in 0..20_000 {
        assert_eq!(crl.lists(&Serial::new(&serial(n))), n % 2 == 0, "{n}");
    }
}

#[test]
fn no_bit_of_a_list_can_be_turned_and_no_part_of_it_is_one() {
    for bit in 0..8 * GOOD.len() {
        let mut der = GOOD.clone();
        der[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&der).is_err(), "bit {bit}");
    }
    for length in 0..GOOD.len() {
        assert_eq!(error(&GOOD[..length]), CrlError::Malformed, "{length} bytes");
    }
}

/// Bytes put in, taken out, written over, or exchanged.
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
    fn a_changed_list_never_passes(der in changed(&GOOD)) {
        prop_assert!(der == *GOOD || read(&der).is_err());
    }

    #[test]
    fn what_a_ca_signs_is_read_without_a_panic_however_broken_it_is(signed in changed(elements(&GOOD)[0])) {
        let signature = rcgen::SigningKey::sign(CA.issuer.key(), &signed).unwrap();
        if let Ok(crl) = read(&element(0x30, &[&signed, elements(&GOOD)[1], &bit_string(&signature)].concat())) {
            let _ = crl.check_current(NOW, SKEW);
            prop_assert_eq!(crl.number.len(), 40);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_none_pass(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read(&[b"-----BEGIN X509 CRL-----\n", &*bytes].concat()).is_err());
    }
}

/// The devices table with a CA's standing and the pieces of a CRL in it; counts the queries.
struct Table {
    devices: Devices,
    pieces: Arc<Mutex<Vec<Vec<u8>>>>,
    status: Arc<Mutex<HashMap<String, AttributeValue>>>,
    query: Rule,
}

fn ca() -> CertificateId {
    CertificateId::new(&"ab".repeat(32)).unwrap()
}

fn environment() -> Environment {
    [("DEVICES_TABLE", "devices")].into_iter().collect()
}

impl Table {
    /// With this CRL published in pieces of so many bytes.
    fn with(crl: &[u8], size: usize) -> Self {
        let (pieces, status) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
        let (queried, got) = (Arc::clone(&pieces), Arc::clone(&status));
        let query = mock!(Client::query).then_compute_output(move |input| {
            assert_eq!((input.table_name(), input.consistent_read()), (Some("devices"), Some(true)));
            let condition = input.key_condition_expression().unwrap();
            assert_eq!(condition, "id = :id AND begins_with(part, :part)");
            let values = input.expression_attribute_values().unwrap();
            // The CA `ab…` has published, and those of one digit.
            let id = values[":id"].as_s().unwrap().strip_prefix("ca#").unwrap();
            if id != ca().as_str() && !id.chars().all(|digit| id.starts_with(digit)) {
                return QueryOutput::builder().build();
            }
            assert!(values[":part"].as_s().unwrap().starts_with("crl#") && values[":part"].as_s().unwrap().len() == 45);
            // Two a page.
            let pieces: std::sync::MutexGuard<'_, Vec<Vec<u8>>> = queried.lock().unwrap();
            let from =
                input.exclusive_start_key().map_or(0, |key| key["part"].as_s().unwrap().parse::<usize>().unwrap());
            let page = pieces
                .iter()
                .skip(from)
                .take(2)
                .map(|piece| HashMap::from([("bytes".to_owned(), AttributeValue::B(Blob::new(piece.clone())))]));
            let page = page.collect();
            let next = (from + 2 < pieces.len())
                .then(|| HashMap::from([("part".to_owned(), AttributeValue::S((from + 2).to_string()))]));
            QueryOutput::builder().set_items(Some(page)).set_last_evaluated_key(next).build()
        });
        let get = mock!(Client::get_item).then_compute_output(move |input| {
            assert_eq!(input.consistent_read(), Some(true));
            let status: std::sync::MutexGuard<'_, HashMap<_, _>> = got.lock().unwrap();
            GetItemOutput::builder().set_item((!status.is_empty()).then(|| status.clone())).build()
        });
        let client = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, [&query, &get]);
        let table = Self { devices: Devices::from(&environment(), client).unwrap(), pieces, status, query };
        table.publish(crl, size);
        table
    }

    fn publish(&self, crl: &[u8], size: usize) {
        let number = read(crl).map_or_else(|_| "0".repeat(40), |crl| crl.number);
        let pieces: Vec<_> = crl.chunks(size).map(<[u8]>::to_vec).collect();
        self.say("crlNumber", AttributeValue::S(number));
        self.say("crlChunks", AttributeValue::N(pieces.len().to_string()));
        self.say("crlBytes", AttributeValue::N(crl.len().to_string()));
        *self.pieces.lock().unwrap() = pieces;
    }

    fn say(&self, name: &str, value: AttributeValue) {
        self.status.lock().unwrap().insert(name.to_owned(), value);
    }

    async fn publication(&self) -> PublishedCrl {
        self.devices.standing(&ca()).await.unwrap().publication.unwrap()
    }

    async fn fetch(&self) -> Result<Arc<Crl>, FetchError> {
        self.devices.crl(&ca(), &AUTHORITY, &self.publication().await).await
    }
}

#[tokio::test]
async fn a_ca_of_which_nothing_is_said_is_not_blocked_and_has_no_list() {
    let table = Table::with(&GOOD, 100);
    table.status.lock().unwrap().clear();
    let standing = table.devices.standing(&ca()).await.unwrap();
    assert_eq!((standing.block, standing.publication), (None, None));
}

#[tokio::test]
async fn a_block_is_seen_with_its_reason_also_beside_a_list() {
    let table = Table::with(&GOOD, 100);
    table.say("blocked", AttributeValue::Bool(false));
    assert_eq!(table.devices.standing(&ca()).await.unwrap().block, None);
    table.say("blocked", AttributeValue::Bool(true));
    let standing = table.devices.standing(&ca()).await.unwrap();
    assert_eq!(standing.block.as_deref(), Some("no reason was given"));
    assert_eq!(standing.publication.unwrap().number, read(&GOOD).unwrap().number);
    table.say("blockReason", AttributeValue::S("its key is stolen".to_owned()));
    assert_eq!(table.devices.standing(&ca()).await.unwrap().block.as_deref(), Some("its key is stolen"));
}

#[tokio::test]
async fn a_list_is_put_together_from_its_pieces_over_all_pages() {
    for size in [1, 7, 100, GOOD.len()] {
        let table = Table::with(&GOOD, size);
        assert!(table.fetch().await.unwrap().lists(&Serial::new(&LONG)), "pieces of {size}");
        assert_eq!(table.query.num_calls(), GOOD.len().div_ceil(size).div_ceil(2));
    }
    let text = pki::pem("X509 CRL", &GOOD).into_bytes();
    let table = Table::with(&text, 100);
    table.say("crlNumber", AttributeValue::S(read(&GOOD).unwrap().number));
    assert!(table.fetch().await.unwrap().lists(&Serial::new(&LONG)));
}

#[tokio::test]
async fn a_list_is_fetched_once_and_again_when_a_new_number_is_published() {
    let table = Table::with(&CA.crl(&[&[1]]), 4096);
    for _ in 0..3 {
        assert!(!table.fetch().await.unwrap().lists(&Serial::new(&[2])));
    }
    assert_eq!(table.query.num_calls(), 1);
    let next = CA.crl_with(&[&[1], &[2]], |params| params.crl_number = SerialNumber::from_slice(&[6]));
    table.publish(&next, 4096);
    for _ in 0..3 {
        assert!(table.fetch().await.unwrap().lists(&Serial::new(&[2])));
    }
    assert_eq!(table.query.num_calls(), 2);
}

#[tokio::test]
async fn a_list_that_is_kept_is_its_own_cas_alone() {
    let table = Table::with(&GOOD, 4096);
    table.fetch().await.unwrap();
    let other = CertificateId::new(&"cd".repeat(32)).unwrap();
    let fetched = table.devices.crl(&other, &AUTHORITY, &table.publication().await).await;
    assert!(matches!(fetched, Err(FetchError::Incomplete(_))));
}

#[tokio::test]
async fn only_a_few_lists_are_kept() {
    let table = Table::with(&GOOD, 4096);
    let publication = table.publication().await;
    let queries = async |digits: &str| {
        let before = table.query.num_calls();
        for digit in digits.chars() {
            let ca = CertificateId::new(&digit.to_string().repeat(64)).unwrap();
            table.devices.crl(&ca, &AUTHORITY, &publication).await.unwrap();
        }
        table.query.num_calls() - before
    };
    assert_eq!((queries("1234").await, queries("1234").await), (4, 0));
    // The fifth takes the place of all the others.
    assert_eq!((queries("5").await, queries("5").await, queries("1").await), (1, 0, 1));
}

#[tokio::test]
async fn a_list_of_which_a_piece_is_missing_too_many_or_another_is_not_used() {
    let table = Table::with(&GOOD, 50);
    let whole = table.pieces.lock().unwrap().clone();
    let incomplete = format!("CRL {} is not whole in the devices table", read(&GOOD).unwrap().number);
    let without = |index| [&whole[..index], &whole[index + 1..]].concat();
    let doubled = [&whole[..1], &whole[..]].concat();
    for pieces in [without(0), without(2), without(whole.len() - 1), doubled, vec![]] {
        *table.pieces.lock().unwrap() = pieces;
        assert_eq!(table.fetch().await.unwrap_err().to_string(), incomplete);
    }
    let mut exchanged = whole.clone();
    exchanged.swap(1, 2);
    *table.pieces.lock().unwrap() = exchanged;
    assert!(matches!(table.fetch().await, Err(FetchError::Crl(_))));
    // What is in the pieces is good, and not what is said to be there.
    *table.pieces.lock().unwrap() = whole.clone();
    table.say("crlNumber", AttributeValue::S(format!("{}6", "0".repeat(39))));
    assert!(matches!(table.fetch().await, Err(FetchError::Incomplete(_))));
    table.publish(&GOOD, 50);
    assert!(table.fetch().await.is_ok(), "and nothing of that is kept");
}

#[tokio::test]
async fn a_list_that_is_too_large_is_not_put_together() {
    let table = Table::with(&GOOD, 4096);
    *table.pieces.lock().unwrap() = vec![vec![0; 400_000]; 11];
    let error = table.fetch().await.unwrap_err();
    assert!(matches!(error, FetchError::Crl(CrlError::TooLarge(4_400_000))), "{error}");
}
