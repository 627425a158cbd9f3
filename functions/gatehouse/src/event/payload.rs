//! Parses untrusted JSON, and says in one sentence what is wrong with it.

use std::str;

use serde::Deserialize;
use serde_json::value::RawValue;

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
        "an array" => serde_json::from_str(value.get())
            .map_err(|_| Refusal::new("not-json", "The payload is not JSON that can be parsed.")),
        other => {
            let why = format!("The payload is {other}, not an object or an array of objects.");
            Err(Refusal::new("not-an-object", why))
        }
    }
}

/// Parses a JSON value that must be an object. `noun` names it in the refusal if it is another kind of value.
pub fn parse_object<'a, T: Deserialize<'a>>(value: &'a RawValue, noun: &str) -> Result<T, Refusal> {
    // Checked here because serde accepts an array for a struct.
    match kind(value) {
        "an object" => fields(value.get(), "Field"),
        other => Err(Refusal::new("not-an-object", format!("{noun} is {other}, not an object."))),
    }
}

fn json(bytes: &[u8], limit: usize) -> Result<&RawValue, Refusal> {
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

fn kind(value: &RawValue) -> &'static str {
    match value.get().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Parses an envelope; `None` if anything is wrong with it.
pub(crate) fn valid_envelope<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    // Checked here because serde accepts an array for a struct.
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
}

/// Parses an envelope. Whatever is wrong with it, the code is `bad-envelope`: the sender is at fault, not the device.
pub(crate) fn envelope<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::new("bad-envelope", "The envelope is not a JSON object."));
    }
    fields(text, "Envelope field").map_err(|refusal| Refusal { code: "bad-envelope", ..refusal })
}

fn fields<'a, T: Deserialize<'a>>(text: &'a str, noun: &str) -> Result<T, Refusal> {
    // Only an error needs the path; tracking it allocates for every field.
    serde_json::from_str(text).or_else(|_| {
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|error| {
            let path = error.path().to_string();
            describe(&path, &error.into_inner(), noun)
        })
    })
}

/// Turns serde's message into a reason code and a sentence that names the field but not the value: serde's own message
/// repeats the value, and a payload is never logged.
fn describe(path: &str, error: &serde_json::Error, noun: &str) -> Refusal {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let named = |prefix: &str| message.strip_prefix(prefix)?.strip_suffix('`');
    let expected = || message.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);

    if let Some(name) = named("missing field `") {
        let path = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
        Refusal::new("missing-field", format!("{noun} `{path}` is missing."))
    } else if let Some(name) = named("duplicate field `") {
        Refusal::new("duplicate-field", format!("{noun} `{name}` appears twice."))
    } else if message.starts_with("unknown field ") {
        Refusal::new("unknown-field", format!("{noun} names must be {}; an unknown one was found.", expected()))
    } else if message.starts_with("invalid type: ") {
        Refusal::new("wrong-type", format!("{noun} `{path}` must be {}.", expected()))
    } else if message.starts_with("unknown variant ") {
        Refusal::new("unknown-value", format!("{noun} `{path}` must be {}.", expected()))
    } else if message.starts_with("invalid value: ") || message.starts_with("invalid length ") {
        Refusal::new("invalid-value", format!("{noun} `{path}` must be {}.", expected()))
    } else if error.is_data() {
        Refusal::new("invalid-value", format!("{noun} `{path}` has an invalid value."))
    } else {
        // The first pass only checked the syntax: an escape may still name no character, or the nesting may be too deep.
        Refusal::new("not-json", format!("{noun} `{path}` is not JSON that can be parsed."))
    }
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
            "invalid-value", "Field `level` must be u8.";
        invalid_escape_is_refused: r#"{"name":"\ud800"}"# =>
            "not-json", "Field `name` is not JSON that can be parsed.";
        payload_over_the_limit_is_refused: "x".repeat(201) =>
            "payload-too-large", "The payload has 201 bytes; the limit is 200.";
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "parsed for its errors alone")]
    struct Strict {
        name: Option<String>,
        level: Option<u8>,
    }

    #[test]
    fn unknown_field_is_refused_and_not_repeated() {
        let refusal = object::<Strict>(br#"{"name":"a","secret":1}"#, 200).expect_err("should be refused");
        let why = "Field names must be `name` or `level`; an unknown one was found.";
        assert_eq!((refusal.code, refusal.why.as_ref()), ("unknown-field", why));
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
                format!(r#"{{"{secret}":1}}"#),
                format!(r#"{{"name":"a","level":1,"kind":{{"{secret}":1}}}}"#),
            ] {
                let (_, why) = refusal(text);
                prop_assert!(!why.contains(&secret), "{}", why);
            }
        }
    }
}
