use std::borrow::Cow;
use std::collections::BTreeMap;

use gatehouse::{array_elements, object_fields};
use serde::de::{self, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The maximum nesting that is parsed; a shadow has far less.
const MAX_LEVELS: usize = 127;

/// A JSON object in canonical form, the same for equal objects: without white space, with fields sorted by name, and
/// with each number as it was written.
#[derive(Debug, Clone)]
pub struct DesiredJson {
    json: Box<RawValue>,
    levels: usize,
}

impl DesiredJson {
    /// Parses a JSON object; `None` for any other value, and for an object with a duplicate name, with a number that no
    /// float can approximate, or with more than 127 levels.
    pub fn new(json: &RawValue) -> Option<Self> {
        let mut text = String::with_capacity(json.get().len());
        let levels = append(json, MAX_LEVELS, &mut text).filter(|_| text.starts_with('{'))?;
        Some(Self { json: RawValue::from_string(text).ok()?, levels })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.json.get()
    }

    /// The nesting depth of objects and arrays, not counting empty ones: 1 for `{"a": 1}`.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        self.as_str() == "{}"
    }
}

impl PartialEq for DesiredJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// Appends a value in canonical form. Returns its nesting depth; `None` if it is not valid.
fn append(json: &RawValue, max_levels: usize, out: &mut String) -> Option<usize> {
    let inner = || max_levels.checked_sub(1);
    let mut levels = None;
    match json.get().bytes().next()? {
        b'{' => {
            let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = BTreeMap::new();
            for (name, value) in object_fields(json, "The desired state").ok()? {
                if fields.insert(name, value).is_some() {
                    return None;
                }
            }
            out.push('{');
            for (name, value) in fields {
                separate(out);
                out.push_str(&serde_json::to_string(&name).ok()?);
                out.push(':');
                levels = levels.max(Some(append(value, inner()?, out)?));
            }
            out.push('}');
        }
        b'[' => {
            out.push('[');
            for value in array_elements(json)? {
                separate(out);
                levels = levels.max(Some(append(value, inner()?, out)?));
            }
            out.push(']');
        }
        b'"' => {
            let text: String = serde_json::from_str(json.get()).ok()?;
            out.push_str(&serde_json::to_string(&text).ok()?);
        }
        _ => out.push_str(json.get()),
    }
    Some(levels.map_or(0, |levels| levels + 1))
}

/// Appends a comma unless an object or array has just begun.
fn separate(out: &mut String) {
    if !out.ends_with(['{', '[']) {
        out.push(',');
    }
}

impl Serialize for DesiredJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DesiredJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "an object without duplicate names, and with numbers between -1.8e308 and 1.8e308";
        let json = Box::<RawValue>::deserialize(deserializer)?;
        if !json.get().starts_with('{') {
            return Err(de::Error::invalid_type(Unexpected::Other("another value"), &"an object"));
        }
        Self::new(&json).ok_or_else(|| de::Error::invalid_value(Unexpected::Map, &EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, usize)> {
        let json = RawValue::from_string(text.to_owned()).unwrap();
        DesiredJson::new(&json).map(|json| (json.as_str().to_owned(), json.levels()))
    }

    #[test]
    fn equal_objects_have_one_form_and_numbers_stay() {
        for (text, expected) in [
            ("{ }", r"{}"),
            (r#"{"b": 1.50, "a": 94.24502837770503}"#, r#"{"a":94.24502837770503,"b":1.50}"#),
            (r#"{"a": 18446744073709551617, "b": -0}"#, r#"{"a":18446744073709551617,"b":-0}"#),
            (r#"{"a": [ 1E2, {"c": null, "b": "\u0041 ,\n"} ]}"#, r#"{"a":[1E2,{"b":"A ,\n","c":null}]}"#),
            (r#"{"{": "[", "a": ["[", 1]}"#, r#"{"a":["[",1],"{":"["}"#),
        ] {
            assert_eq!(read(text).map(|(text, _)| text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn levels_count_objects_and_arrays_that_are_not_empty() {
        for (text, levels) in
            [(r"{}", 0), (r#"{"a": 1}"#, 1), (r#"{"a": {}, "b": []}"#, 1), (r#"{"a": [1], "b": {"c": {"d": 1}}}"#, 3)]
        {
            assert_eq!(read(text).map(|(_, levels)| levels), Some(levels), "{text}");
        }
    }

    #[test]
    fn values_that_a_shadow_cannot_have_are_rejected() {
        let deep = |levels: usize| format!(r#"{{"a":{}1{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
        for text in [r#"{"a": 1, "a": 2}"#, r#"{"a": {"b": 1e400}}"#, r#"{"a": "\ud800"}"#, "[1]", "1", &deep(128)] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read(&deep(127)).map(|(_, levels)| levels), Some(127));
    }
}
