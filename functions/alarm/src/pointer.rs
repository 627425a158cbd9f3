//! JSON pointers to the fields of readings.

use std::fmt;

use gatehouse::{ObjectFields, json_child};
use serde::de::{Deserialize, Deserializer, Error, Unexpected};
use serde_json::value::RawValue;

/// The maximum length of a pointer in characters, because notifications repeat it.
pub(crate) const MAX_POINTER_LENGTH: usize = 256;

/// A JSON pointer (RFC 6901) to a value within a document, such as `/air/lux`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pointer {
    text: String,
    steps: Vec<String>,
}

impl Pointer {
    /// Parses a pointer to a value within a document; `None` for any other text, and for a pointer to the whole
    /// document.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let escaped = text.strip_prefix('/')?;
        // `~` is only valid before 0 and 1.
        let is_valid = escaped.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        let steps = escaped.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        is_valid.then_some(Self { text, steps })
    }

    /// Returns the value that it points to in an object with these fields.
    pub fn find<'a>(&self, object: &ObjectFields<'a>) -> Option<&'a RawValue> {
        let (first, rest) = self.steps.split_first()?;
        rest.iter().try_fold(object.get(first)?, |value, step| json_child(value, step))
    }

    /// The number of its characters.
    pub(crate) fn length(&self) -> usize {
        self.text.chars().count()
    }

    /// Returns its steps for people, such as `air/lux`.
    pub fn label(&self) -> String {
        self.steps.join("/")
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refused = || D::Error::invalid_value(Unexpected::Str(&text), &"a JSON pointer to a field, such as /lux");
        Self::new(text.as_str()).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse::object_fields;
    use serde_json::{Value, json};

    #[test]
    fn pointer_agrees_with_serde_json() {
        let document = json!({"lux": 1, "air": {"lux": 2, "a/b": 3, "m~n": 4, "": 5}, "list": [6, {"x": 7}], "10": 8});
        for (pointer, found) in [
            ("/lux", Some(1)),
            ("/air/lux", Some(2)),
            ("/air/a~1b", Some(3)),
            ("/air/m~0n", Some(4)),
            ("/air/", Some(5)),
            ("/list/0", Some(6)),
            ("/list/1/x", Some(7)),
            ("/10", Some(8)),
            ("/list/2", None),
            ("/list/00", None),
            ("/list/+1", None),
            ("/list/-", None),
            ("/lux/deeper", None),
            ("/", None),
        ] {
            let text = RawValue::from_string(document.to_string()).expect("JSON");
            let fields = object_fields(&text, "The document").expect("an object");
            let value = Pointer::new(pointer).expect("a pointer").find(&fields);
            let value: Option<Value> = value.map(|value| serde_json::from_str(value.get()).expect("JSON"));
            assert_eq!(value, found.map(Value::from), "{pointer}");
            assert_eq!(value, document.pointer(pointer).cloned(), "{pointer} in serde_json");
        }
    }
}
