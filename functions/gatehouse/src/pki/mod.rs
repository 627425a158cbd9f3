//! X.509 certificates (RFC 5280) and certificate revocation lists, for both admission and revocation.
//!
//! Parsing and signature verification only: `jitr` and `revoke` decide what to do about a certificate.

mod certificate;
mod certificate_id;
mod crl;
mod name;

pub use certificate::{
    CaCertificate, CaError, CertificateError, Serial, SignatureError, algorithm_name, curve, parse_certificate,
    parse_pem, rsa_bits, timestamp,
};
pub use certificate_id::CertificateId;
pub use crl::{Crl, CrlError, MAX_CRL_BYTES, distribution_points};
pub use name::{CommonNameError, common_name};
