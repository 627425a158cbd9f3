//! The values that conditions compare.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use gatehouse::{Number, ParseNumberError};
use serde::de::{Deserialize, Deserializer, Error, Unexpected};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The maximum length, in characters, of a string in a document, and of one that a notification repeats.
pub const MAX_STRING_LENGTH: usize = 256;

/// The value of a reading's field, or a value that it is compared with. Cheap to clone, because several rules read the
/// same field.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// The reading does not have the field, or it is null.
    #[default]
    Missing,
    /// An object or an array, which cannot be compared, or a string with an invalid escape.
    Other,
    /// A number that cannot be evaluated, because no float approximates it or it is too long.
    Invalid,
    /// A number, as it was written.
    Number(Arc<Number>),
    /// A string.
    Text(Arc<str>),
    /// A boolean.
    Boolean(bool),
}

/// The type of a value that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A number.
    Number,
    /// A string.
    Text,
    /// A boolean.
    Boolean,
}

impl Kind {
    /// The type for people, such as "a number".
    pub fn noun(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Text => "a string",
            Self::Boolean => "a boolean",
        }
    }
}

impl Value {
    /// Parses the value of a field; `json` is `None` if the reading does not have it. A number that cannot be evaluated
    /// is an error.
    pub fn of(json: Option<&RawValue>) -> Result<Self, ParseNumberError> {
        let Some(json) = json else { return Ok(Self::Missing) };
        let text = json.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Missing,
            Some(b't' | b'f') => Self::Boolean(text == "true"),
            Some(b'"') => match serde_json::from_str::<String>(text) {
                Ok(text) => Self::Text(text.into()),
                // An escape does not denote a character.
                Err(_) => Self::Other,
            },
            Some(b'{' | b'[') => Self::Other,
            _ => Self::Number(Arc::new(Number::of(json)?)),
        })
    }

    /// The type; `None` if it cannot be compared.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Number(_) => Some(Kind::Number),
            Self::Text(_) => Some(Kind::Text),
            Self::Boolean(_) => Some(Kind::Boolean),
            Self::Missing | Self::Other | Self::Invalid => None,
        }
    }

    /// The nearest float of a number.
    pub fn nearest(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(number.nearest()) } else { None }
    }

    /// Returns the value as it is stored in a status and repeated in notifications: long strings are shortened.
    #[must_use]
    pub fn shortened(&self) -> Self {
        match self {
            Self::Text(text) => match text.char_indices().nth(MAX_STRING_LENGTH) {
                Some((end, _)) => Self::Text(format!("{}…", text.get(..end).unwrap_or_default()).into()),
                None => self.clone(),
            },
            Self::Other | Self::Invalid => Self::Missing,
            _ => self.clone(),
        }
    }

    /// Returns a text that is the same however the value was written.
    pub fn canonical(&self) -> String {
        match self {
            Self::Number(number) => number.canonical(),
            other => other.to_json(),
        }
    }

    /// The value as JSON: numbers as they were written, and null if there is no value.
    pub fn to_json(&self) -> String {
        match self {
            Self::Number(number) => number.as_str().to_owned(),
            other => serde_json::to_string(other).unwrap_or_default(),
        }
    }

    /// Parses what [`to_json`](Self::to_json) returns.
    pub fn from_json(text: &str) -> Option<Self> {
        Self::of(Some(serde_json::from_str(text).ok()?)).ok()
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        Self::Number(Arc::new(number))
    }
}

/// As text for people.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing | Self::Other | Self::Invalid => f.write_str("none"),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Boolean(value) => value.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Missing | Self::Other | Self::Invalid => serializer.serialize_unit(),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Boolean(value) => serializer.serialize_bool(*value),
        }
    }
}

/// Accepts the values in a stored notification: any value that can be compared, or null.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        Self::of(Some(&json)).map_err(Error::custom)
    }
}

/// A number, a string or a boolean in a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Literal(pub Value);

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "a number, a string or a boolean";
        let json = Box::<RawValue>::deserialize(deserializer)?;
        match json.get().as_bytes().first() {
            Some(b'"') => {
                let text: Cow<'_, str> = serde_json::from_str(json.get()).map_err(|_| {
                    Error::invalid_value(Unexpected::Other("an invalid escape"), &"a string of valid characters")
                })?;
                if text.chars().count() > MAX_STRING_LENGTH {
                    let expected = "a string of at most 256 characters";
                    return Err(Error::invalid_value(Unexpected::Other("a long string"), &expected));
                }
                Ok(Self(Value::Text(text.as_ref().into())))
            }
            Some(b't' | b'f') => Ok(Self(Value::Boolean(json.get() == "true"))),
            Some(b'n' | b'{' | b'[') => Err(Error::invalid_type(Unexpected::Other("another value"), &EXPECTED)),
            // Not by `Value::of`, for the errors of this method.
            _ => Number::deserialize_raw(&json).map(|number| Self(number.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_survives_its_json() {
        for text in ["22.50", "-1E+2", "\"a \\\"b\\\"\"", "true", "false", "null"] {
            let value = Value::from_json(text).expect("a value");
            assert_eq!(Value::from_json(&value.to_json()), Some(value.clone()), "{text}");
            assert_eq!(serde_json::to_string(&value).expect("JSON"), value.to_json());
        }
    }

    #[test]
    fn long_strings_are_shortened() {
        let text: String = "é".repeat(300);
        let short = Value::Text(text.into()).shortened().to_string();
        assert_eq!(short.chars().count(), MAX_STRING_LENGTH + 1);
        assert!(short.ends_with('…'));
    }
}
