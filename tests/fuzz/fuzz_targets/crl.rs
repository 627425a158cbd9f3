//! Parses a CRL as `jitr` and `revoke` do. The first byte selects whether the rest is a CRL (DER or PEM), or content for the
//! CA to sign.
#![no_main]

use std::time::Duration;

use fuzz::{NOW, ca_certificate, is_signed, measure, sign};
use gatehouse::pki::{Crl, Serial};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::seeds::write_crls(), |input: &[u8]| {
    let Some((format, bytes)) = input.split_first() else { return };
    let bytes = if format % 2 == 0 { bytes.to_vec() } else { sign(bytes) };
    let ca = ca_certificate();
    let (parsed, peak) = measure(|| Crl::parse(&bytes, ca));
    assert!(peak <= 64 * input.len() + 64 * 1024, "{peak} bytes for {}", input.len());
    let Ok(crl) = parsed else { return };
    assert!(bytes.starts_with(b"-----") || is_signed(&bytes), "the CA did not sign this");
    assert!(crl.number.len() == 40 && crl.number.bytes().all(|b| b.is_ascii_hexdigit()));
    let _ = crl.check_current(NOW, Duration::from_secs(300));
    let _ = crl.lists(&Serial::new(b"\x00\x01"));
});
