//! Reads a device's certificate as `jitr` does. The first byte says whether the rest is a certificate, its PEM, or what the
//! CA is to sign.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use fuzz::{NOW, ca_certificate, is_signed, measured, sign};
use gatehouse::pki::parse_pem;
use jitr::certificate::DeviceCertificate;
use libfuzzer_sys::fuzz_target;
use regex_lite::Regex;

static ANY: LazyLock<Regex> = LazyLock::new(|| Regex::new("^(?:.*)$").expect("a pattern"));

fuzz_target!(init: fuzz::seeds::write_certificates(), |input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else { return };
    let signed = (how % 3 == 2).then(|| sign(bytes));
    LazyLock::force(&ANY);
    let ca = ca_certificate();
    let (found, peak) = measured(|| {
        let der = match how % 3 {
            0 => bytes.to_vec(),
            1 => parse_pem(std::str::from_utf8(bytes).ok()?).ok()?,
            _ => signed?,
        };
        let unverified = DeviceCertificate::parse_unverified(&der);
        let validated = DeviceCertificate::validate(&der, ca, NOW, Duration::from_secs(300));
        Some((der, unverified, validated.map(|certificate| (certificate.thing(&ANY), certificate))))
    });
    // A certificate's parts are borrowed; what is taken out of it, and said of it, is of its own size or a name's.
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
