use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The units and their lengths in seconds, longest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];

/// A duration as people write it: a whole number and a unit, such as `90 s`, `15 min`, `2 h` or `1 d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

/// The text is not a [`Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration must be a whole number and a unit (s, min, h or d), such as 15 min, and at most 366 d")]
pub struct ParseSpanError;

impl Span {
    /// The longest duration in seconds: 366 days.
    const MAX_SECONDS: u64 = 366 * 86_400;

    /// A duration of this many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Converts it to a standard duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or(ParseSpanError)?;
        let (_, seconds) =
            UNITS.into_iter().find(|(name, _)| *name == unit.trim_start_matches(' ')).ok_or(ParseSpanError)?;
        let number: u64 = number.parse().map_err(|_| ParseSpanError)?;
        let length = number.checked_mul(seconds).filter(|length| *length <= Self::MAX_SECONDS).ok_or(ParseSpanError)?;
        Ok(Self::from_secs(length))
    }
}

/// Uses the longest unit that gives a whole number.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let whole = UNITS.into_iter().find(|(_, length)| seconds > 0 && seconds.is_multiple_of(*length));
        let (unit, length) = whole.unwrap_or(("s", 1));
        write!(f, "{} {unit}", seconds / length)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 90 s, 15 min, 2 h or 1 d")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_parse_with_and_without_a_space() {
        for (text, seconds) in
            [("0 s", 0), ("90 s", 90), ("15 min", 900), ("15min", 900), ("2 h", 7200), ("1 d", 86_400)]
        {
            assert_eq!(text.parse(), Ok(Span::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn display_uses_the_longest_unit_that_fits() {
        for (seconds, text) in [(0, "0 s"), (90, "90 s"), (900, "15 min"), (5400, "90 min"), (7200, "2 h")] {
            assert_eq!(Span::from_secs(seconds).to_string(), text);
        }
    }

    #[test]
    fn other_text_does_not_parse() {
        for text in [
            "",
            "15",
            "min",
            "15 m",
            "1.5 h",
            "-1 s",
            "15 min ",
            "367 d",
            "15\tmin",
            "15\u{a0}min",
            "99999999999999999999 s",
        ] {
            assert_eq!(text.parse::<Span>(), Err(ParseSpanError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_back(seconds in 0..=Span::MAX_SECONDS) {
            let span = Span::from_secs(seconds);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in ".*") {
            let _ = text.parse::<Span>();
        }
    }
}
