//! Certificates and CRLs: valid ones from `rcgen`, others with modified DER, and those with algorithms that `rcgen`
//! lacks from the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, process};

use gatehouse::Timestamp;
use gatehouse::pki::CaCertificate;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, DnValue, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SerialNumber, SigningKey,
};
use time::OffsetDateTime;

/// 2026-01-15T00:00:00Z.
pub const NOW: Timestamp = Timestamp::from_millis(1_768_435_200_000);

/// 24 hours.
pub const DAY: Duration = Duration::from_hours(24);

/// A time as `rcgen` takes it.
pub fn date(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.seconds().try_into().unwrap()).unwrap()
}

/// A CA, valid from a year before [`NOW`] to a year after it.
pub struct Ca {
    /// The signer of its certificates and CRLs.
    pub issuer: Issuer<'static, KeyPair>,
    /// Its certificate in DER.
    pub der: Vec<u8>,
    /// Its certificate in PEM.
    pub pem: String,
}

impl Ca {
    /// A CA with this common name and a new P-256 key.
    pub fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    /// A CA with this key.
    pub fn with_key(name: &str, key: KeyPair) -> Self {
        Self::customized(name, key, |_| ())
    }

    /// A CA whose certificate has changed parameters.
    pub fn customized(name: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = device_params(name);
        (params.not_before, params.not_after) = (date(NOW.minus(365 * DAY)), date(NOW.plus(365 * DAY)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().to_vec(),
            pem: pem("CERTIFICATE", certificate.der()),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate as parsed by the library.
    pub fn certificate(&self) -> CaCertificate {
        CaCertificate::from_der(&self.der).unwrap()
    }

    /// Issues a certificate, and returns its DER.
    pub fn issue(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Vec<u8> {
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    /// Signs a certificate's or CRL's content.
    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let signature = self.issuer.key().sign(signed).unwrap();
        let algorithm = elements(signed).into_iter().find(|part| part[0] == 0x30).unwrap();
        element(0x30, &[signed, algorithm, &bit_string(&signature)].concat())
    }

    /// Changes the elements of a certificate's or CRL's content, and signs it again.
    pub fn sign_changed(&self, der: &[u8], change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
        let mut parts: Vec<_> = elements(elements(der)[0]).into_iter().map(<[u8]>::to_vec).collect();
        change(&mut parts);
        self.sign(&element(0x30, &parts.concat()))
    }

    /// Issues a CRL, and returns its DER: number 5, from yesterday, for a week.
    pub fn crl(&self, serials: &[&[u8]]) -> Vec<u8> {
        self.crl_with(serials, |_| ())
    }

    /// Issues a CRL whose parameters are changed.
    pub fn crl_with(&self, serials: &[&[u8]], change: impl FnOnce(&mut CertificateRevocationListParams)) -> Vec<u8> {
        let entry = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date(NOW.minus(2 * DAY)),
            reason_code: None,
            invalidity_date: None,
        };
        let mut params = CertificateRevocationListParams {
            this_update: date(NOW.minus(DAY)),
            next_update: date(NOW.plus(6 * DAY)),
            crl_number: SerialNumber::from_slice(&[5]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

/// The parameters of a device's certificate: valid from a day before [`NOW`] to a month after it.
pub fn device_params(name: impl Into<DnValue>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date(NOW.minus(DAY)), date(NOW.plus(30 * DAY)));
    params
}

/// Encodes DER as PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Encodes an element of DER.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<_> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let length = match content.len() {
        short @ 0..0x80 => vec![short.try_into().unwrap()],
        _ => [&[0x80 | u8::try_from(length.len()).unwrap()], &*length].concat(),
    };
    [&[tag], &*length, content].concat()
}

/// Encodes a bit string.
pub fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(3, &[&[0], bytes].concat())
}

/// Returns the length of an element's header, and of its content.
fn lengths(der: &[u8]) -> (usize, usize) {
    let first = usize::from(der[1]);
    if first < 0x80 {
        return (2, first);
    }
    let end = 2 + (first & 0x7f);
    (end, der[2..end].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

/// Returns an element's content.
pub fn content(der: &[u8]) -> &[u8] {
    let (header, length) = lengths(der);
    &der[header..header + length]
}

/// Returns the elements within an element.
pub fn elements(der: &[u8]) -> Vec<&[u8]> {
    let mut rest = content(der);
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (header, length) = lengths(rest);
        let (element, after) = rest.split_at(header + length);
        elements.push(element);
        rest = after;
    }
    elements
}

/// A directory in which `openssl` works; deleted when dropped.
pub struct OpenSsl(PathBuf);

impl OpenSsl {
    /// A directory with the test's name.
    pub fn new(test: &str) -> Self {
        let directory = env::temp_dir().join(format!("gatehouse-{}-{test}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    /// The path of a file in it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Runs `openssl` with these arguments.
    pub fn run(&self, arguments: &str) {
        let done = Command::new("openssl").args(arguments.split_whitespace()).current_dir(&self.0).output();
        let done = done.unwrap_or_else(|error| panic!("openssl: {error}"));
        assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Reads a file in it.
    pub fn read(&self, file: impl AsRef<Path>) -> Vec<u8> {
        fs::read(self.0.join(file)).unwrap()
    }

    /// Reads a text file in it.
    pub fn text(&self, file: &str) -> String {
        String::from_utf8(self.read(file)).unwrap()
    }

    /// Generates a private key, with these options of `openssl genpkey`.
    pub fn key(&self, options: &str) -> String {
        self.run(&format!("genpkey {options} -out key.pem"));
        self.text("key.pem")
    }

    /// Generates a key, and returns its public part as a certificate contains it.
    pub fn public_key(&self, options: &str) -> Vec<u8> {
        self.key(options);
        self.run("pkey -in key.pem -pubout -outform DER -out public.der");
        self.read("public.der")
    }

    /// Generates a CA with these options of `openssl genpkey`, and a certificate that it signs with these options of
    /// `openssl x509`. Both are valid now, not at [`NOW`].
    pub fn issue(&self, key: &str, signature: &str) -> (CaCertificate, Vec<u8>) {
        self.run(&format!("genpkey {key} -out ca.key"));
        // Self-signed with the default of `openssl` for such a key: nothing here verifies that signature.
        self.run("req -x509 -new -key ca.key -subj /CN=CA -days 30 -outform DER -out ca.der");
        self.run(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout device.key -subj /CN=d-1 -out d.csr",
        );
        self.run(&format!(
            "x509 -req -in d.csr -CA ca.der -CAform DER -CAkey ca.key -set_serial 7 -days 7 {signature} -outform DER \
             -out device.der"
        ));
        (CaCertificate::from_der(&self.read("ca.der")).unwrap(), self.read("device.der"))
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
