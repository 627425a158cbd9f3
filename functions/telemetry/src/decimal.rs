//! Exact decimal numbers in the range of Amazon DynamoDB. Nothing is converted to a float.
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>

use std::fmt;

/// The maximum number of significant digits that DynamoDB stores.
pub const MAX_DIGITS: usize = 38;

/// The range of magnitudes: the power of ten of a number's first significant digit.
const MAGNITUDES: std::ops::RangeInclusive<i64> = -130..=125;

/// A number that DynamoDB can store: its significand times ten to the power of its exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    is_negative: bool,
    significand: u128,
    exponent: i64,
}

/// Why a text is not a [`Decimal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalError {
    /// It is not a number.
    NotANumber,
    /// It has this many significant digits, more than DynamoDB stores.
    TooManyDigits(usize),
    /// It is too large, or too close to zero.
    OutOfRange,
}

impl Decimal {
    /// Parses a number in JSON's form.
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        let (is_negative, unsigned) = text.strip_prefix('-').map_or((false, text), |unsigned| (true, unsigned));
        let (mantissa, power) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let power_digits = power.strip_prefix(['+', '-']).unwrap_or(power);
        if ![whole, fraction, power_digits].into_iter().all(is_digits) {
            return Err(DecimalError::NotANumber);
        }

        let digits = || whole.bytes().chain(fraction.bytes());
        let Some(leading) = digits().position(|digit| digit != b'0') else {
            return Ok(Self { is_negative: false, significand: 0, exponent: 0 });
        };
        let trailing = digits().rev().take_while(|digit| *digit == b'0').count();
        let count = whole.len() + fraction.len() - leading - trailing;
        if count > MAX_DIGITS {
            return Err(DecimalError::TooManyDigits(count));
        }
        let append = |number, digit| number * 10 + u128::from(digit - b'0');
        let significand = digits().skip(leading).take(count).fold(0, append);

        let signed = |length: usize| i64::try_from(length).map_err(|_| DecimalError::OutOfRange);
        let power: i64 = power.parse().map_err(|_| DecimalError::OutOfRange)?;
        let exponent =
            power.checked_add(signed(trailing)? - signed(fraction.len())?).ok_or(DecimalError::OutOfRange)?;
        let magnitude = exponent.checked_add(signed(count)? - 1).ok_or(DecimalError::OutOfRange)?;
        if !MAGNITUDES.contains(&magnitude) {
            return Err(DecimalError::OutOfRange);
        }
        Ok(Self { is_negative, significand, exponent })
    }

    /// Returns the whole part of this number times ten to the power of `power`; `None` if it is negative or too large.
    pub fn times_ten_to(self, power: i64) -> Option<u64> {
        let exponent = self.exponent + power;
        let factor = u32::try_from(exponent.unsigned_abs()).ok().and_then(|times| 10_u128.checked_pow(times));
        let product = match factor {
            _ if self.significand == 0 => Some(0),
            Some(factor) if exponent >= 0 => self.significand.checked_mul(factor),
            None if exponent >= 0 => None,
            Some(factor) => self.significand.checked_div(factor),
            None => Some(0),
        };
        product.filter(|_| !self.is_negative).and_then(|product| product.try_into().ok())
    }
}

/// In a form that DynamoDB accepts.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_negative, significand, exponent } = self;
        let sign = if *is_negative { "-" } else { "" };
        match exponent {
            0 => write!(f, "{sign}{significand}"),
            _ => write!(f, "{sign}{significand}E{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<String, DecimalError> {
        Decimal::parse(text).map(|decimal| decimal.to_string())
    }

    #[test]
    fn number_keeps_its_value_without_extra_zeros() {
        for (text, expected) in [
            ("0", "0"),
            ("-0.00e999999999999999999999", "0"),
            ("7", "7"),
            ("-22.50", "-225E-1"),
            ("1200", "12E2"),
            ("1e125", "1E125"),
            ("0.1E-129", "1E-130"),
            ("1.2e+3", "12E2"),
            ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
            ("000.00012345678901234567890123456789012345678000", "12345678901234567890123456789012345678E-41"),
        ] {
            assert_eq!(written(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn number_of_more_than_38_digits_is_an_error() {
        let text = "1.00000000000000000000000000000000000001";
        assert_eq!(written(text), Err(DecimalError::TooManyDigits(39)));
    }

    #[test]
    fn number_out_of_range_is_an_error() {
        for text in ["1e126", "0.9e-130", "1e99999999999999999999", "-1e-99999999999999999999", "10e125"] {
            assert_eq!(written(text), Err(DecimalError::OutOfRange), "{text}");
        }
    }

    #[test]
    fn other_text_is_an_error() {
        for text in ["", "-", ".5", "5.", "1e", "1e+", "+1", "0x1", "1 ", "１", "1e5.0", "--1", "NaN"] {
            assert_eq!(written(text), Err(DecimalError::NotANumber), "{text}");
        }
    }

    #[test]
    fn whole_part_is_truncated_not_rounded() {
        for (text, power, expected) in [
            ("1468958915.41", 3, Some(1_468_958_915_410)),
            ("1468958915.4199", 3, Some(1_468_958_915_419)),
            ("1.5e-120", 3, Some(0)),
            ("0", 3, Some(0)),
            ("18446744073709551615", 0, Some(u64::MAX)),
            ("18446744073709551616", 0, None),
            ("1e125", 3, None),
            ("-1", 0, None),
        ] {
            assert_eq!(Decimal::parse(text).map(|decimal| decimal.times_ten_to(power)), Ok(expected), "{text}");
        }
    }
}
