//! Parses and validates a device certificate as `jitr` does. The first byte selects whether the rest is DER, PEM, or
//! content for the CA to sign.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use fuzz::{NOW, ca_certificate, is_signed, measure, sign};
use gatehouse::pki::parse_pem;
use jitr::certificate::DeviceCertificate;
use libfuzzer_sys::fuzz_target;
use regex_lite::Regex;

static ANY: LazyLock<Regex> = LazyLock::new(|| Regex::new("^(?:.*)$").expect("a pattern"));

fuzz_target!(init: fuzz::seeds::write_certificates(), |input: &[u8]| {
    let Some((format, bytes)) = input.split_first() else { return };
    let signed = (format % 3 == 2).then(|| sign(bytes));
    LazyLock::force(&ANY);
    let ca = ca_certificate();
    let (found, peak) = measure(|| {
        let der = match format % 3 {
            0 => bytes.to_vec(),
            1 => parse_pem(std::str::from_utf8(bytes).ok()?).ok()?,
            _ => signed?,
        };
        let unverified = DeviceCertificate::parse_unverified(&der);
        let validated = DeviceCertificate::validate(&der, ca, NOW, Duration::from_secs(300));
        Some((der, unverified, validated.map(|certificate| (certificate.thing(&ANY), certificate))))
    });
    // Most of a certificate is borrowed. Copies and error messages are at most as long as the input or a name.
    assert!(peak <= 64 * input.len() + 64 * 1024, "{peak} bytes for {}", input.len());
    let Some((der, unverified, Ok((thing, certificate)))) = found else { return };
    assert!(is_signed(&der), "the CA did not sign this");
    assert_eq!(unverified.as_ref(), Some(&certificate));
    assert!(certificate.not_after.plus(Duration::from_secs(300)) >= NOW);
    if let Ok(thing) = thing {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b":_-".contains(&b);
        assert!((1..=128).contains(&thing.as_str().len()) && thing.as_str().bytes().all(allowed), "{thing}");
    }
});
