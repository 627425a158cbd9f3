use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Unexpected};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The maximum length of a [`Number`] in characters, because notifications repeat it. The 38 digits that DynamoDB
/// stores fit, with a sign, a point and an exponent.
const MAX_CHARACTERS: usize = 64;

/// A JSON number, exactly as it was written: it is serialized with the same characters.
///
/// Comparison is exact, too: by the nearest floats if they differ, because rounding never reverses an order, or else by
/// the decimal digits.
#[derive(Debug, Clone)]
pub struct Number {
    text: Box<str>,
    nearest: f64,
}

/// The text is not a [`Number`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseNumberError {
    /// It is not a number in JSON's form.
    #[error("it is not a number")]
    NotANumber,
    /// It is beyond what a 64-bit float can approximate.
    #[error("it must be {}", Number::RANGE)]
    OutOfRange,
    /// It is too long.
    #[error("it must be {}", Number::LENGTH)]
    TooLong,
}

impl Number {
    /// The expectation to report for a number that is out of range.
    pub(crate) const RANGE: &str = "a number between -1.8e308 and 1.8e308";
    /// The expectation to report for a number that is too long.
    pub(crate) const LENGTH: &str = "a number of at most 64 characters";

    /// Parses well-formed JSON that may be any value.
    pub fn of(json: &RawValue) -> Result<Self, ParseNumberError> {
        let text = json.get();
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Err(ParseNumberError::NotANumber);
        }
        // Correctly rounded, unlike serde_json's own conversion.
        let nearest: f64 = text.parse().map_err(|_| ParseNumberError::NotANumber)?;
        if !nearest.is_finite() || Decimal::parse(text).is_none() {
            return Err(ParseNumberError::OutOfRange);
        }
        if text.len() > MAX_CHARACTERS {
            return Err(ParseNumberError::TooLong);
        }
        Ok(Self { text: text.into(), nearest })
    }

    /// Does the same as [`Self::of`], with a deserializer's error type.
    pub fn deserialize_raw<E: de::Error>(json: &RawValue) -> Result<Self, E> {
        Self::of(json).map_err(|error| match error {
            ParseNumberError::NotANumber => E::invalid_type(Unexpected::Other("another value"), &"a number"),
            ParseNumberError::OutOfRange => E::invalid_value(Unexpected::Float(f64::INFINITY), &Self::RANGE),
            ParseNumberError::TooLong => E::invalid_value(Unexpected::Other("a long number"), &Self::LENGTH),
        })
    }

    /// The number as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The nearest 64-bit float.
    pub fn nearest(&self) -> f64 {
        self.nearest
    }

    /// Returns a text that is the same however the number was written, such as `10`, `10.0` or `1e1`.
    pub fn canonical(&self) -> String {
        Decimal::parse(&self.text).map_or_else(String::new, |decimal| {
            let sign = if decimal.is_negative { "-" } else { "" };
            format!("{sign}0.{}e{}", decimal.digits, decimal.point)
        })
    }
}

impl FromStr for Number {
    type Err = ParseNumberError;

    fn from_str(text: &str) -> Result<Self, ParseNumberError> {
        let json: &RawValue = serde_json::from_str(text).map_err(|_| ParseNumberError::NotANumber)?;
        Self::of(json)
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self { text: number.to_string().into(), nearest: number.into() }
    }
}

/// As it was written.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.nearest.partial_cmp(&other.nearest) {
            Some(order) if order != Ordering::Equal => order,
            _ if self.text == other.text => Ordering::Equal,
            _ => Decimal::parse(&self.text).cmp(&Decimal::parse(&other.text)),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.text.to_string()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        Self::deserialize_raw(&json)
    }
}

/// A number's sign, its digits without zeros at either end, and its decimal exponent: the value is `0.<digits>` ×
/// 10^`point`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    is_negative: bool,
    digits: String,
    point: i64,
}

impl Decimal {
    /// Parses a number in JSON's form; `None` if its exponent is enormous.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        if significant.is_empty() {
            return Some(Self { is_negative: false, digits: String::new(), point: 0 });
        }
        let leading = i64::try_from(digits.len() - significant.len()).ok()?;
        let point = i64::try_from(whole.len()).ok()?.checked_sub(leading)?.checked_add(exponent.parse().ok()?)?;
        let digits = significant.trim_end_matches('0').to_owned();
        Some(Self { is_negative: text.starts_with('-'), digits, point })
    }

    /// Returns the number if it is whole and not enormous.
    pub(crate) fn to_whole(&self) -> Option<i128> {
        let point = usize::try_from(self.point).ok().filter(|point| *point <= 38);
        if self.digits.is_empty() {
            return Some(0);
        }
        let point = point.filter(|point| self.digits.len() <= *point)?;
        let sign = if self.is_negative { "-" } else { "" };
        format!("{sign}{:0<point$}", self.digits).parse().ok()
    }

    /// Whether the number has no fraction.
    pub(crate) fn is_whole(&self) -> bool {
        i64::try_from(self.digits.len()).is_ok_and(|digits| digits <= self.point) || self.digits.is_empty()
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let magnitude = || (self.point, &self.digits).cmp(&(other.point, &other.digits));
        sign(self).cmp(&sign(other)).then_with(|| if self.is_negative { magnitude().reverse() } else { magnitude() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> Number {
        text.parse().expect("a number")
    }

    #[test]
    fn number_is_serialized_as_it_was_written() {
        for text in ["94.24502837770503", "22.50", "18446744073709551617", "-0", "1E+2", "0.10000000000000000000000001"]
        {
            assert_eq!(serde_json::to_string(&number(text)).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<Number>(text).expect("a number").as_str(), text);
        }
    }

    #[test]
    fn comparison_is_exact() {
        use Ordering::{Equal, Greater, Less};
        for (one, other, expected) in [
            ("10", "10.0", Equal),
            ("1e1", "10", Equal),
            ("0", "-0.0e5", Equal),
            ("35000.0000000000000001", "35000", Greater),
            ("-35000.0000000000000001", "-35000", Less),
            ("9007199254740993", "9007199254740992", Greater),
            ("18446744073709551617", "18446744073709551616", Greater),
            ("1e-400", "0", Greater),
            ("-1e-400", "0", Less),
            ("0.1", "0.10000000000000001", Less),
            ("-2", "1", Less),
        ] {
            assert_eq!(number(one).cmp(&number(other)), expected, "{one} and {other}");
            assert_eq!(number(other).cmp(&number(one)), expected.reverse(), "{other} and {one}");
        }
    }

    #[test]
    fn canonical_text_ignores_spelling() {
        for (one, other) in [("10", "1e1"), ("10", "10.0"), ("0", "-0.00"), ("-0.5", "-5E-1")] {
            assert_eq!(number(one).canonical(), number(other).canonical(), "{one} and {other}");
        }
        for (one, other) in [("10", "100"), ("1", "-1"), ("35000.0000000000000001", "35000")] {
            assert_ne!(number(one).canonical(), number(other).canonical(), "{one} and {other}");
        }
    }

    #[test]
    fn other_texts_are_errors() {
        for text in ["", "x", "\"1\"", "null", "1.", "01", "+1", "NaN", "[1]"] {
            assert_eq!(text.parse::<Number>(), Err(ParseNumberError::NotANumber), "{text}");
        }
        for text in ["1e400", "-1e400", "1e99999999999999999999", "1e-99999999999999999999"] {
            assert_eq!(text.parse::<Number>(), Err(ParseNumberError::OutOfRange), "{text}");
        }
        assert!("1".repeat(64).parse::<Number>().is_ok());
        assert_eq!("1".repeat(65).parse::<Number>(), Err(ParseNumberError::TooLong));
    }

    proptest! {
        #[test]
        fn order_agrees_with_that_of_integers(one: i64, other in any::<i64>(), zeros in 0_usize..4) {
            let written = format!("{other}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(number(&one.to_string()).cmp(&number(&written)), one.cmp(&other));
            prop_assert_eq!(number(&written).cmp(&number(&other.to_string())), Ordering::Equal);
        }

        #[test]
        fn order_agrees_with_that_of_floats(one in -1e9..1e9_f64, other in -1e9..1e9_f64) {
            let expected = one.partial_cmp(&other).expect("finite");
            prop_assert_eq!(number(&format!("{one:e}")).cmp(&number(&format!("{other}"))), expected);
        }
    }
}
