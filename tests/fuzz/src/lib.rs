//! Shared by the targets: a CA with a public key pair, a minimal DER parser, and a memory counter.

pub mod seeds;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use gatehouse::Timestamp;
use gatehouse::pki::CaCertificate;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SigningKey, date_time_ymd};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

/// 2026-01-15, within the validity period of all seeds.
pub const NOW: Timestamp = Timestamp::from_millis(1_768_435_200_000);

/// ECDSA with SHA-256, as an algorithm identifier.
const ALGORITHM: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";

/// A PKCS #8 key on P-256: the number 1, whose public key is the curve's generator. It is constant and not secret.
const KEY: [&[u8]; 4] = [
    b"\x30\x81\x87\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\
      \x04\x6d\x30\x6b\x02\x01\x01\x04\x20",
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
    b"\xa1\x44\x03\x42\x00",
    b"\x04\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\
      \x39\x45\xd8\x98\xc2\x96\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\
      \x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5",
];

static ISSUER: LazyLock<(Issuer<'static, KeyPair>, CaCertificate)> = LazyLock::new(|| {
    let key = KeyPair::try_from(KEY.concat()).expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Fuzz CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2035, 1, 1));
    let certificate = params.self_signed(&key).expect("a CA certificate");
    (Issuer::new(params, key), CaCertificate::from_der(certificate.der()).expect("a CA"))
});

/// Returns the CA as the issuer of seeds.
fn issuer() -> &'static Issuer<'static, KeyPair> {
    &ISSUER.0
}

/// Returns the CA certificate as the functions parse it.
pub fn ca_certificate() -> &'static CaCertificate {
    &ISSUER.1
}

/// Signs content with the CA. Without a valid signature, the fuzzer would not reach the code behind the verification.
pub fn sign(signed: &[u8]) -> Vec<u8> {
    let signature = issuer().key().sign(signed).expect("a signature");
    sequence(&[signed, ALGORITHM, &bit_string(&signature)])
}

/// Returns whether this is a sequence of content, algorithm and valid signature, encoded as by `sign`. Shares no code
/// with the functions.
pub fn is_signed(der: &[u8]) -> bool {
    let parts = || {
        let (0x30, content, []) = element(der)? else { return None };
        let (0x30, _, rest) = element(content)? else { return None };
        let signed = content.strip_suffix(rest)?;
        let (3, signature, []) = element(rest.strip_prefix(ALGORITHM)?)? else { return None };
        Some((signed, signature.strip_prefix(&[0])?))
    };
    parts().is_some_and(|(signed, signature)| {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, KEY[3]);
        key.verify(signed, signature).is_ok() && der == sequence(&[signed, ALGORITHM, &bit_string(signature)])
    })
}

/// Returns the signed part of a certificate or CRL.
fn signed_part(der: &[u8]) -> &[u8] {
    let (_, content, _) = element(der).expect("DER");
    let (_, _, rest) = element(content).expect("DER");
    content.strip_suffix(rest).expect("a suffix")
}

/// Parses an element. Returns the tag, the content, and the rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        (length.iter().try_fold(0_usize, |sum, byte| Some(sum.checked_mul(256)? + usize::from(*byte)))?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    encode(0x30, &parts.concat())
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    encode(3, &[&[0], bytes].concat())
}

fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    match content.len() {
        short @ 0..0x80 => [&[tag, short as u8], content].concat(),
        _ => [&[tag, 0x80 | length.len() as u8], length, content].concat(),
    }
}

/// The system allocator with a count of the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all calls are forwarded to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Relaxed);
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Calls a function. Returns its result and its peak memory in bytes.
pub fn measure<T>(function: impl FnOnce() -> T) -> (T, usize) {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = function();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}
