//! The common name of a certificate's subject (RFC 5280, section 4.1.2.4).

use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::x509::X509Name;

/// Why a common name cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommonNameError {
    /// It has none.
    #[error("it has no common name")]
    Missing,
    /// It has more than one.
    #[error("it has more than one common name")]
    Several,
    /// Its value is not of a string type, or not valid for it.
    #[error("its common name is not a valid string")]
    NotAString,
}

/// Returns the only common name in a distinguished name, whatever its string type.
pub fn common_name(name: &X509Name<'_>) -> Result<String, CommonNameError> {
    let mut names = name.iter_common_name();
    match (names.next(), names.next()) {
        (None, _) => Err(CommonNameError::Missing),
        (Some(only), None) => decode(only.attr_value()).ok_or(CommonNameError::NotAString),
        (Some(_), Some(_)) => Err(CommonNameError::Several),
    }
}

/// Decodes a string of any type that names use in practice; `None` for any other value.
fn decode(value: &Any<'_>) -> Option<String> {
    let (header, data) = (&value.header, value.data);
    if header.class() != Class::Universal || header.is_constructed() {
        return None;
    }
    match header.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            std::str::from_utf8(data).ok().map(str::to_owned)
        }
        // Latin-1, as OpenSSL and others write it. T.61 itself agrees with ASCII except for a few symbols.
        Tag::T61String => Some(data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, []) = data.as_chunks() else { return None };
            String::from_utf16(&units.iter().copied().map(u16::from_be_bytes).collect::<Vec<_>>()).ok()
        }
        Tag::UniversalString => {
            let (units, []) = data.as_chunks() else { return None };
            units.iter().copied().map(|unit| char::from_u32(u32::from_be_bytes(unit))).collect()
        }
        _ => None,
    }
}
