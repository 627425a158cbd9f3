//! Parses untrusted JSON, and says in one sentence what is wrong with it.

use std::borrow::Cow;
use std::str;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::strict_json::{self, kind};
use crate::runtime::outcome::Refusal;

/// Parses one JSON object of at most `limit` bytes.
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8], limit: usize) -> Result<T, Refusal> {
    parse_object(json(bytes, limit)?, "The payload")
}

/// Splits one JSON object, or an array of any values, of at most `limit` bytes into items for [`parse_object`].
pub(crate) fn items(bytes: &[u8], limit: usize) -> Result<Vec<&RawValue>, Refusal> {
    let value = json(bytes, limit)?;
    match kind(value) {
        "an object" => Ok(vec![value]),
        "an array" => strict_json::elements(value).map_err(|error| error.refusal("Field", None)),
        other => {
            let why = format!("The payload is {other}, not an object or an array of objects.");
            Err(Refusal::new("not-an-object", why))
        }
    }
}

/// Parses a JSON value that must be an object. `noun` names it in the refusal if it is another kind of value.
///
/// Refused as [`DeviceEvent::payload`](crate::DeviceEvent::payload) describes.
pub fn parse_object<'a, T: Deserialize<'a>>(value: &'a RawValue, noun: &str) -> Result<T, Refusal> {
    check_object(value, noun)?;
    strict_json::parse(value).map_err(|error| error.refusal("Field", None))
}

/// Returns the fields of a JSON value that must be an object, each with its text, in their order. `noun` names the
/// value in the refusal if it is of another kind.
///
/// A name that appears twice is not refused. A number anywhere in the object that no float can approximate is, with
/// `number-out-of-range`.
pub fn object_fields<'a>(value: &'a RawValue, noun: &str) -> Result<ObjectFields<'a>, Refusal> {
    check_object(value, noun)?;
    let fields = strict_json::check_numbers(value).and_then(|()| strict_json::entries(value));
    fields.map(ObjectFields).map_err(|error| error.refusal("Field", None))
}

/// The fields of a JSON object, each with its text, in their order.
#[derive(Debug, Clone)]
pub struct ObjectFields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> ObjectFields<'a> {
    /// Returns the value of a field: the last one if the name appears twice.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rfind(|(field, _)| field == name).map(|(_, value)| *value)
    }

    /// The number of fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for ObjectFields<'a> {
    type Item = (Cow<'a, str>, &'a RawValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Follows one step of a JSON pointer (RFC 6901): returns the value of an object's field, the last one if the name
/// appears twice, or an element of an array.
pub fn json_child<'a>(value: &'a RawValue, step: &str) -> Option<&'a RawValue> {
    match kind(value) {
        "an object" => ObjectFields(strict_json::entries(value).ok()?).get(step),
        "an array" => {
            let is_index = step.bytes().all(|b| b.is_ascii_digit()) && (step == "0" || !step.starts_with('0'));
            let index = step.parse().ok().filter(|_| is_index)?;
            strict_json::elements(value).ok()?.into_iter().nth(index)
        }
        _ => None,
    }
}

/// Returns the elements of a JSON array; `None` for any other value.
pub fn array_elements(value: &RawValue) -> Option<Vec<&RawValue>> {
    (kind(value) == "an array").then(|| strict_json::elements(value).ok())?
}

pub(crate) fn check_object(value: &RawValue, noun: &str) -> Result<(), Refusal> {
    match kind(value) {
        "an object" => Ok(()),
        other => Err(Refusal::new("not-an-object", format!("{noun} is {other}, not an object."))),
    }
}

pub(crate) fn json(bytes: &[u8], limit: usize) -> Result<&RawValue, Refusal> {
    if bytes.len() > limit {
        let why = format!("The payload has {} bytes; the limit is {limit}.", bytes.len());
        return Err(Refusal::new("payload-too-large", why));
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let why = format!("The payload is not UTF-8: byte {} is invalid.", error.valid_up_to());
        Refusal::new("invalid-utf8", why)
    })?;
    if text.trim().is_empty() {
        return Err(Refusal::new("empty-payload", "The payload is empty."));
    }
    serde_json::from_str(text).map_err(|error| {
        let why = format!("The payload is not JSON: syntax error at line {} column {}.", error.line(), error.column());
        Refusal::new("not-json", why)
    })
}

/// Parses an envelope, whose fields are strings, numbers and unparsed JSON; `None` if it is invalid in any way.
pub(crate) fn valid_envelope<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    // Checked here because serde accepts an array for a struct.
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
}

/// Parses an envelope. Every refusal has the code `bad-envelope`: the rule or the sender is at fault, not the device.
pub(crate) fn envelope<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    if let Some(envelope) = valid_envelope(text) {
        return Ok(envelope);
    }
    let bad = |why: &'static str| Refusal::new("bad-envelope", why);
    let json: &RawValue = serde_json::from_str(text).map_err(|_| bad("The envelope is not JSON."))?;
    if kind(json) != "an object" {
        return Err(bad("The envelope is not a JSON object."));
    }
    // Parsed a second time only to find the path of the error.
    let parsed = strict_json::parse(json);
    parsed.map_err(|error| Refusal { code: "bad-envelope", ..error.refusal("Envelope field", None) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "parsed for its errors alone")]
    struct Sample {
        name: String,
        level: u8,
        kind: Kind,
        place: Option<Place>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    enum Kind {
        Single,
        Double,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "parsed for its errors alone")]
    struct Place {
        floor: i32,
    }

    fn refusal(bytes: impl AsRef<[u8]>) -> (&'static str, String) {
        let refusal = object::<Sample>(bytes.as_ref(), 200).expect_err("should be refused");
        (refusal.code, refusal.why.into_owned())
    }

    macro_rules! refuses {
        ($($name:ident: $bytes:expr => $code:literal, $why:literal;)*) => {$(
            #[test]
            fn $name() {
                assert_eq!(refusal($bytes), ($code, $why.to_owned()));
            }
        )*};
    }

    refuses! {
        empty_payload_is_refused: "" => "empty-payload", "The payload is empty.";
        white_space_is_an_empty_payload: " \n" => "empty-payload", "The payload is empty.";
        invalid_utf8_is_refused: b"{\"name\":\"\xff\"}" =>
            "invalid-utf8", "The payload is not UTF-8: byte 9 is invalid.";
        text_other_than_json_is_refused: "SINGLE" =>
            "not-json", "The payload is not JSON: syntax error at line 1 column 1.";
        truncated_object_is_refused: r#"{"name":"a""# =>
            "not-json", "The payload is not JSON: syntax error at line 1 column 11.";
        two_objects_are_refused: "{}{}" => "not-json", "The payload is not JSON: syntax error at line 1 column 3.";
        array_is_refused_even_if_its_items_fit: r#"["a",1,"SINGLE",null]"# =>
            "not-an-object", "The payload is an array, not an object.";
        number_is_refused: "1" => "not-an-object", "The payload is a number, not an object.";
        missing_field_is_named: r#"{"level":1,"kind":"SINGLE"}"# =>
            "missing-field", "Field `name` is missing.";
        missing_nested_field_is_named: r#"{"name":"a","level":1,"kind":"SINGLE","place":{}}"# =>
            "missing-field", "Field `place.floor` is missing.";
        duplicate_field_is_named: r#"{"name":"a","name":"b"}"# =>
            "duplicate-field", "Field `name` appears twice.";
        wrong_type_names_the_field_not_the_value: r#"{"name":{"secret":1}}"# =>
            "wrong-type", "Field `name` must be a string.";
        unknown_value_lists_the_known_ones: r#"{"name":"a","level":1,"kind":"TRIPLE"}"# =>
            "unknown-value", "Field `kind` must be `SINGLE` or `DOUBLE`.";
        number_out_of_range_is_named: r#"{"name":"a","level":256}"# =>
            "number-out-of-range", "Field `level` must be a whole number from 0 to 255.";
        enormous_number_is_out_of_range: r#"{"name":"a","level":1e400}"# =>
            "number-out-of-range", "Field `level` must be a whole number from 0 to 255.";
        negative_number_is_out_of_range: r#"{"name":"a","level":-1}"# =>
            "number-out-of-range", "Field `level` must be a whole number from 0 to 255.";
        fraction_is_not_a_whole_number: r#"{"name":"a","level":1.5}"# =>
            "wrong-type", "Field `level` must be a whole number from 0 to 255.";
        null_for_a_number_is_a_wrong_type: r#"{"name":"a","level":null}"# =>
            "wrong-type", "Field `level` must be a whole number from 0 to 255.";
        null_for_a_known_value_is_a_wrong_type: r#"{"name":"a","level":1,"kind":null}"# =>
            "wrong-type", "Field `kind` must be `SINGLE` or `DOUBLE`.";
        number_for_a_known_value_is_a_wrong_type: r#"{"name":"a","level":1,"kind":1}"# =>
            "wrong-type", "Field `kind` must be `SINGLE` or `DOUBLE`.";
        object_for_a_known_value_is_a_wrong_type: r#"{"name":"a","level":1,"kind":{"SINGLE":null}}"# =>
            "wrong-type", "Field `kind` must be `SINGLE` or `DOUBLE`.";
        array_for_an_inner_object_is_a_wrong_type: r#"{"name":"a","level":1,"kind":"SINGLE","place":[3]}"# =>
            "wrong-type", "Field `place` must be an object.";
        text_for_an_inner_number_has_a_path: r#"{"name":"a","level":1,"kind":"SINGLE","place":{"floor":"3"}}"# =>
            "wrong-type", "Field `place.floor` must be a whole number from -2147483648 to 2147483647.";
        invalid_escape_is_refused: r#"{"name":"\ud800"}"# =>
            "not-json", "Field `name` is not JSON that can be parsed.";
        payload_over_the_limit_is_refused: "x".repeat(201) =>
            "payload-too-large", "The payload has 201 bytes; the limit is 200.";
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[expect(dead_code, reason = "parsed for its errors alone")]
        name: Option<String>,
        level: Option<u8>,
    }

    #[test]
    fn unknown_field_is_named_if_it_looks_like_a_name() {
        let refusal = |name: &str| {
            let text = format!(r#"{{"name":"a","{name}":1}}"#);
            let refusal = object::<Strict>(text.as_bytes(), 200).expect_err("should be refused");
            (refusal.code, refusal.why.into_owned())
        };
        let why = "Field `lvel` is unknown; the name must be `name` or `level`.";
        assert_eq!(refusal("lvel"), ("unknown-field", why.to_owned()));
        let why = "A field is unknown; the name must be `name` or `level`.";
        for name in ["my secret", "", "`", &"x".repeat(65)] {
            assert_eq!(refusal(name), ("unknown-field", why.to_owned()), "{name}");
        }
    }

    #[test]
    fn whole_number_may_be_written_with_a_fraction_or_an_exponent() {
        for level in ["7", "7.0", "70e-1", "0.7E+1", "7e0"] {
            let text = format!(r#"{{"level":{level}}}"#);
            let strict: Strict = object(text.as_bytes(), 200).expect("a valid object");
            assert_eq!(strict.level, Some(7), "{level}");
        }
    }

    #[test]
    fn number_that_no_float_approximates_is_named_at_any_depth() {
        for (text, place) in [
            (r#"{"a":1e400}"#, "Field `a`"),
            (r#"{"a":{"b":[0,{"c":-1e400}]}}"#, "Field `a.b[1].c`"),
            (r#"{"1e400":"1e400 \" 1e400","my secret":1E+999}"#, "Field `…`"),
        ] {
            let value: &RawValue = serde_json::from_str(text).expect("JSON");
            let refusal = object_fields(value, "The payload").expect_err("should be refused");
            let why = format!("{place} must be a number between -1.8e308 and 1.8e308.");
            assert_eq!((refusal.code, refusal.why.as_ref()), ("number-out-of-range", why.as_str()));
        }
        let largest = format!(r#"{{"a":1.7976931348623157e308,"b":1{},"c":"1e400\\","d":1e-400}}"#, "0".repeat(308));
        let value: &RawValue = serde_json::from_str(&largest).expect("JSON");
        assert_eq!(object_fields(value, "The payload").expect("fields").len(), 4);
    }

    #[test]
    fn value_without_a_type_may_be_deep_but_not_endless() {
        let parsed = |depth: usize| {
            let text = format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
            object::<serde_json::Value>(text.as_bytes(), usize::MAX).map(drop).map_err(|refusal| refusal.code)
        };
        assert_eq!(parsed(126), Ok(()));
        assert_eq!(parsed(127), Err("too-deep"));
        assert_eq!(parsed(100_000), Err("too-deep"));
    }

    fn texts(bytes: &[u8]) -> Result<Vec<&str>, (&'static str, String)> {
        let found = items(bytes, 200).map_err(|refusal| (refusal.code, refusal.why.into_owned()))?;
        Ok(found.into_iter().map(RawValue::get).collect())
    }

    #[test]
    fn object_is_one_item_and_array_is_its_elements() {
        assert_eq!(texts(br#" {"a": 1.50} "#), Ok(vec![r#"{"a": 1.50}"#]));
        assert_eq!(texts(br#"[{"a":1}, 2,{"b":[3]}]"#), Ok(vec![r#"{"a":1}"#, "2", r#"{"b":[3]}"#]));
        assert_eq!(texts(b"[]"), Ok(vec![]));
    }

    #[test]
    fn only_objects_and_arrays_have_items() {
        let why = "The payload is a string, not an object or an array of objects.";
        assert_eq!(texts(br#""a""#), Err(("not-an-object", why.to_owned())));
        assert_eq!(texts(b"[1,").map_err(|(code, _)| code), Err("not-json"));
    }

    #[test]
    fn item_other_than_an_object_is_refused_by_name() {
        let found = items(br#"[{"name":"a"},2]"#, 200).expect("items");
        let refusal = parse_object::<Sample>(found[1], "Item 2").expect_err("should be refused");
        assert_eq!((refusal.code, refusal.why.as_ref()), ("not-an-object", "Item 2 is a number, not an object."));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = object::<Sample>(&bytes, 200);
            let _ = items(&bytes, 200);
        }

        #[test]
        fn refusal_never_repeats_the_payload(secret in "[a-z]{12}") {
            for text in [
                format!(r#"{{"name":"a","level":"{secret}"}}"#),
                format!(r#"{{"name":"a","level":1,"kind":"{secret}, expected {secret}"}}"#),
                format!(r#"{{"name":"a","level":1,"kind":{{"{secret}":1}}}}"#),
            ] {
                let (_, why) = refusal(text);
                prop_assert!(!why.contains(&secret), "{}", why);
            }
        }
    }
}
