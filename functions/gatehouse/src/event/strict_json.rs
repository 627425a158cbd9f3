//! Deserializes JSON strictly, and says in a user's terms what is wrong and where.
//!
//! With the deserializer of `serde_json`, serde's derived code accepts an array for a struct and an object for an enum
//! value, calls some valid JSON a syntax error, and describes other errors in Rust's terms. Here, at any depth, a
//! struct must be an object and an enum value a string, and an error has a kind and a path.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::marker::PhantomData;

use serde::de::value::{CowStrDeserializer, MapAccessDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::value::RawValue;

use crate::event::number::{Decimal, Number};
use crate::runtime::outcome::Refusal;

/// The newtype name by which [`RawValue`] requests its text, which only `serde_json` supports.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

const MAX_DEPTH: usize = 127;

/// The maximum length of a field name that a refusal repeats.
const MAX_NAME_LENGTH: usize = 64;

/// Parses a value.
pub(crate) fn parse<'de, T: Deserialize<'de>>(json: &'de RawValue) -> Result<T, JsonError> {
    T::deserialize(Json { json, depth: 0 })
}

/// Returns the kind of a value, as text for people.
pub(crate) fn kind(value: &RawValue) -> &'static str {
    match value.get().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Returns an object's fields in order. A name that appears twice is not an error.
pub(crate) fn entries(json: &RawValue) -> Result<Vec<(Cow<'_, str>, &RawValue)>, JsonError> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::with_capacity(8);
            while let Some((Text(name), value)) = map.next_entry()? {
                entries.push((name, value));
            }
            Ok(entries)
        }
    }
    serde_json::Deserializer::from_str(json.get()).deserialize_map(Entries).map_err(|_| Problem::Unparsable.into())
}

/// Returns an array's elements.
pub(crate) fn elements(json: &RawValue) -> Result<Vec<&RawValue>, JsonError> {
    serde_json::from_str(json.get()).map_err(|_| Problem::Unparsable.into())
}

/// A string that is copied only if it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A struct that even a deserializer that is not strict deserializes only from an object.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(OnlyMap(PhantomData)).map(Self)
    }
}

/// Why and where a value cannot be deserialized.
#[derive(Debug)]
pub(crate) struct JsonError {
    problem: Problem,
    /// Innermost first.
    path: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Field(String),
    Index(usize),
}

/// What is wrong. The strings say what the value must be, or name a field.
#[derive(Debug)]
enum Problem {
    Missing(&'static str),
    Duplicate(&'static str),
    UnknownField(String, &'static [&'static str]),
    WrongType(String),
    UnknownValue(String),
    OutOfRange(String),
    Invalid(String),
    /// The syntax is valid, but an escape does not denote a character.
    Unparsable,
    TooDeep,
    Other,
}

impl From<Problem> for JsonError {
    fn from(problem: Problem) -> Self {
        Self { problem, path: Vec::new() }
    }
}

impl JsonError {
    pub(crate) fn out_of_range() -> Self {
        Problem::OutOfRange(Number::RANGE.to_owned()).into()
    }

    pub(crate) fn within_field(mut self, name: &str) -> Self {
        self.path.push(Step::Field(name.to_owned()));
        self
    }

    pub(crate) fn within_element(mut self, index: usize) -> Self {
        self.path.push(Step::Index(index));
        self
    }

    /// The path, such as `thresholds[2].raise`; empty for the whole value.
    pub(crate) fn path(&self) -> String {
        let mut path = String::new();
        for step in self.path.iter().rev() {
            append(&mut path, step);
        }
        path
    }

    /// Returns the refusal, which repeats field names but no values. `noun` is the word for a field, and `entry` the
    /// name of the document's entry that contains it.
    pub(crate) fn refusal(&self, noun: &str, entry: Option<&str>) -> Refusal {
        let of = entry.map_or_else(String::new, |entry| format!(" of `{entry}`"));
        let path = self.path();
        let within = |name: &str| {
            let mut path = path.clone();
            append(&mut path, &Step::Field(name.to_owned()));
            format!("{noun} `{path}`{of}")
        };
        let place = if path.is_empty() { "The payload".to_owned() } else { format!("{noun} `{path}`{of}") };
        match &self.problem {
            Problem::Missing(name) => Refusal::new("missing-field", format!("{} is missing.", within(name))),
            Problem::Duplicate(name) => Refusal::new("duplicate-field", format!("{} appears twice.", within(name))),
            Problem::UnknownField(name, known) => {
                let field = if is_presentable(name) {
                    within(name)
                } else if path.is_empty() {
                    "A field".to_owned()
                } else {
                    format!("A field in `{path}`{of}")
                };
                Refusal::new("unknown-field", format!("{field} is unknown; the name must be {}.", one_of(known)))
            }
            Problem::WrongType(expected) => Refusal::new("wrong-type", format!("{place} must be {expected}.")),
            Problem::UnknownValue(expected) => Refusal::new("unknown-value", format!("{place} must be {expected}.")),
            Problem::OutOfRange(range) => Refusal::new("number-out-of-range", format!("{place} must be {range}.")),
            Problem::Invalid(expected) => Refusal::new("invalid-value", format!("{place} must be {expected}.")),
            Problem::Unparsable => Refusal::new("not-json", format!("{place} is not JSON that can be parsed.")),
            Problem::TooDeep => {
                Refusal::new("too-deep", format!("{place} is nested more than {MAX_DEPTH} levels deep."))
            }
            Problem::Other => Refusal::new("invalid-value", format!("{place} has an invalid value.")),
        }
    }
}

/// Appends a step to a path. A name that is not presentable is replaced by `…`.
fn append(path: &mut String, step: &Step) {
    // Writing to a String cannot fail.
    let _ = match step {
        Step::Index(index) => write!(path, "[{index}]"),
        Step::Field(name) => {
            let dot = if path.is_empty() { "" } else { "." };
            write!(path, "{dot}{}", if is_presentable(name) { name } else { "…" })
        }
    };
}

/// Whether a field's name may be repeated in logs: it is short and looks like a name.
fn is_presentable(name: &str) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// Lists values for people.
fn one_of(values: &[&str]) -> String {
    match values {
        [one] => format!("`{one}`"),
        [one, other] => format!("`{one}` or `{other}`"),
        _ => format!("one of `{}`", values.join("`, `")),
    }
}

impl Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.refusal("field", None).why)
    }
}

impl std::error::Error for JsonError {}

impl de::Error for JsonError {
    fn custom<T: Display>(_: T) -> Self {
        Problem::Other.into()
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Problem::WrongType(expected.to_string()).into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match found {
            Unexpected::Float(number) if !number.is_finite() => Problem::OutOfRange(expected.to_string()),
            _ => Problem::Invalid(expected.to_string()),
        }
        .into()
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Problem::Invalid(expected.to_string()).into()
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Problem::UnknownValue(one_of(expected)).into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Problem::UnknownField(field.to_owned(), expected).into()
    }

    fn missing_field(field: &'static str) -> Self {
        Problem::Missing(field).into()
    }

    fn duplicate_field(field: &'static str) -> Self {
        Problem::Duplicate(field).into()
    }
}

#[derive(Clone, Copy)]
struct Json<'de> {
    json: &'de RawValue,
    depth: usize,
}

impl<'de> Json<'de> {
    fn starts_with(self, first: char) -> bool {
        self.json.get().starts_with(first)
    }

    fn inner(self, json: &'de RawValue) -> Self {
        Self { json, depth: self.depth + 1 }
    }

    fn text(self) -> Result<Cow<'de, str>, JsonError> {
        serde_json::from_str(self.json.get()).map(|Text(text)| text).map_err(|_| Problem::Unparsable.into())
    }

    fn whole_number(self, min: i128, max: i128) -> Result<i128, JsonError> {
        let expected = || format!("a whole number from {min} to {max}");
        let wrong_type = || JsonError::from(Problem::WrongType(expected()));
        let out_of_range = || JsonError::from(Problem::OutOfRange(expected()));
        if kind(self.json) != "a number" {
            return Err(wrong_type());
        }
        let decimal = Decimal::parse(self.json.get()).ok_or_else(out_of_range)?;
        // `2.0` and `2e0` are whole numbers in JSON Schema, too.
        if !decimal.is_whole() {
            return Err(wrong_type());
        }
        decimal.to_whole().filter(|number| (min..=max).contains(number)).ok_or_else(out_of_range)
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            let number = self.whole_number(<$type>::MIN.into(), <$type>::MAX.into())?;
            visitor.$visit(number.try_into().map_err(JsonError::custom)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Json<'de> {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match kind(self.json) {
            "an object" => self.deserialize_map(visitor),
            "an array" => self.deserialize_seq(visitor),
            "a string" => self.deserialize_str(visitor),
            "a boolean" => self.deserialize_bool(visitor),
            "null" => visitor.visit_unit(),
            _ => {
                let text = self.json.get();
                if let Ok(number) = text.parse::<u64>() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = text.parse::<i64>() {
                    visitor.visit_i64(number)
                } else {
                    self.deserialize_f64(visitor)
                }
            }
        }
    }

    whole_numbers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if kind(self.json) != "a number" {
            return Err(Problem::WrongType("a number".to_owned()).into());
        }
        let number = self.json.get().parse().ok().filter(|number: &f64| number.is_finite());
        visitor.visit_f64(number.ok_or_else(JsonError::out_of_range)?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.json.get() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Problem::WrongType("a boolean".to_owned()).into()),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if !self.starts_with('"') {
            return Err(Problem::WrongType((&visitor as &dyn Expected).to_string()).into());
        }
        match self.text()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.starts_with('n') { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        if name == RAW_VALUE {
            let mut json = serde_json::Deserializer::from_str(self.json.get());
            return json.deserialize_newtype_struct(name, visitor).map_err(|_| Problem::Unparsable.into());
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if !self.starts_with('[') {
            return Err(Problem::WrongType("an array".to_owned()).into());
        }
        if self.depth >= MAX_DEPTH {
            return Err(Problem::TooDeep.into());
        }
        visitor.visit_seq(Elements { array: self, elements: elements(self.json)?.into_iter().enumerate() })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if !self.starts_with('{') {
            return Err(Problem::WrongType("an object".to_owned()).into());
        }
        if self.depth >= MAX_DEPTH {
            return Err(Problem::TooDeep.into());
        }
        visitor.visit_map(Fields { object: self, remaining: entries(self.json)?.into_iter(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        if !self.starts_with('"') {
            return Err(Problem::WrongType(one_of(variants)).into());
        }
        let text: CowStrDeserializer<'_, JsonError> = self.text()?.into_deserializer();
        visitor.visit_enum(text)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The elements of an array that are left.
struct Elements<'de, I> {
    array: Json<'de>,
    elements: I,
}

impl<'de, I: Iterator<Item = (usize, &'de RawValue)>> SeqAccess<'de> for Elements<'de, I> {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, JsonError> {
        let Some((index, element)) = self.elements.next() else { return Ok(None) };
        let element = seed.deserialize(self.array.inner(element));
        element.map(Some).map_err(|error| error.within_element(index))
    }
}

/// The fields of an object that are left.
struct Fields<'de, I> {
    object: Json<'de>,
    remaining: I,
    /// The field whose name was read last.
    value: Option<(Cow<'de, str>, &'de RawValue)>,
}

impl<'de, I: Iterator<Item = (Cow<'de, str>, &'de RawValue)>> MapAccess<'de> for Fields<'de, I> {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        let Some((name, value)) = self.remaining.next() else { return Ok(None) };
        let key: CowStrDeserializer<'_, JsonError> = name.clone().into_deserializer();
        self.value = Some((name, value));
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, JsonError> {
        let Some((name, value)) = self.value.take() else { return Err(Problem::Other.into()) };
        seed.deserialize(self.object.inner(value)).map_err(|error| error.within_field(&name))
    }
}

/// Checks that a float can approximate every number. Scans the text once, and locates the number in the structure only
/// for an error.
pub(crate) fn check_numbers(json: &RawValue) -> Result<(), JsonError> {
    let mut rest = json.get();
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = rest.get(start..).unwrap_or_default();
        if rest.starts_with('"') {
            rest = after_string(rest);
            continue;
        }
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if !is_in_range(number) {
            return Err(locate(json, 0).unwrap_or_else(JsonError::out_of_range));
        }
        rest = after;
    }
    Ok(())
}

/// Returns what follows a string.
fn after_string(text: &str) -> &str {
    let mut is_escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.and_then(|end| text.get(end + 2..)).unwrap_or_default()
}

fn is_in_range(number: &str) -> bool {
    // Without an exponent, this many digits are always in range.
    (number.len() <= 300 && !number.contains(['e', 'E'])) || number.parse().is_ok_and(f64::is_finite)
}

/// Returns the error of the first number that is out of range.
fn locate(json: &RawValue, depth: usize) -> Option<JsonError> {
    let is_too_deep = depth >= MAX_DEPTH;
    match kind(json) {
        "an object" if !is_too_deep => entries(json)
            .ok()?
            .into_iter()
            .find_map(|(name, value)| Some(locate(value, depth + 1)?.within_field(&name))),
        "an array" if !is_too_deep => elements(json)
            .ok()?
            .into_iter()
            .enumerate()
            .find_map(|(index, value)| Some(locate(value, depth + 1)?.within_element(index))),
        "a number" => (!is_in_range(json.get())).then(JsonError::out_of_range),
        _ => None,
    }
}
