//! Reads JSON that nobody vouches for, and says in one sentence what is wrong with it.

use std::str;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::outcome::Refusal;

/// Reads one JSON object of at most `limit` bytes.
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8], limit: usize) -> Result<T, Refusal> {
    read_object(json(bytes, limit)?, "The payload")
}

/// Reads one JSON object, or an array of any values, each to be read by [`read_object`], of at most `limit` bytes.
pub(crate) fn items(bytes: &[u8], limit: usize) -> Result<Vec<&RawValue>, Refusal> {
    let value = json(bytes, limit)?;
    match kind(value) {
        "an object" => Ok(vec![value]),
        "an array" => serde_json::from_str(value.get())
            .map_err(|_| Refusal::new("not-json", "The payload is not JSON that can be read.")),
        other => {
            let why = format!("The payload is {other}, not an object or an array of objects.");
            Err(Refusal::new("not-an-object", why))
        }
    }
}

/// Reads a JSON value that must be an object. `noun` is what it is called where it is another kind of value.
pub fn read_object<'a, T: Deserialize<'a>>(value: &'a RawValue, noun: &str) -> Result<T, Refusal> {
    // Asked here because serde reads an array into a struct without complaint.
    match kind(value) {
        "an object" => fields(value.get(), "Field"),
        other => Err(Refusal::new("not-an-object", format!("{noun} is {other}, not an object."))),
    }
}

fn json(bytes: &[u8], limit: usize) -> Result<&RawValue, Refusal> {
    if bytes.len() > limit {
        let why = format!("The payload has {} bytes; at most {limit} are taken.", bytes.len());
        return Err(Refusal::new("payload-too-large", why));
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let why = format!("The payload is not UTF-8: byte {} does not belong to a character.", error.valid_up_to());
        Refusal::new("invalid-utf8", why)
    })?;
    if text.trim().is_empty() {
        return Err(Refusal::new("empty-payload", "The payload is empty."));
    }
    serde_json::from_str(text).map_err(|error| {
        let why = format!("The payload is not JSON: line {} column {} does not parse.", error.line(), error.column());
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

/// Reads an envelope. Whatever is wrong with it, the code is `bad-envelope`: the sender is at fault, not the device.
pub(crate) fn envelope<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::new("bad-envelope", "The envelope is not a JSON object."));
    }
    fields(text, "Envelope field").map_err(|refusal| Refusal { code: "bad-envelope", ..refusal })
}

fn fields<'a, T: Deserialize<'a>>(text: &'a str, noun: &str) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, &error.into_inner(), noun)
    })
}

/// Puts serde's message into a reason code and a sentence that names the field and leaves the value out: serde's own
/// message repeats the value, and a payload is never logged.
fn describe(path: &str, error: &serde_json::Error, noun: &str) -> Refusal {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let named = |prefix: &str| message.strip_prefix(prefix)?.strip_suffix('`');
    let expected = || message.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);

    if let Some(name) = named("missing field `") {
        let path = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
        Refusal::new("missing-field", format!("{noun} `{path}` is missing."))
    } else if let Some(name) = named("duplicate field `") {
        Refusal::new("duplicate-field", format!("{noun} `{name}` stands there twice."))
    } else if message.starts_with("unknown field ") {
        let noun = noun.to_lowercase();
        Refusal::new("unknown-field", format!("A {noun} that is not known stands there; it must be {}.", expected()))
    } else if message.starts_with("invalid type: ") {
        Refusal::new("wrong-type", format!("{noun} `{path}` must be {}.", expected()))
    } else if message.starts_with("unknown variant ") {
        Refusal::new("unknown-value", format!("{noun} `{path}` must be {}.", expected()))
    } else if message.starts_with("invalid value: ") || message.starts_with("invalid length ") {
        Refusal::new("invalid-value", format!("{noun} `{path}` must be {}.", expected()))
    } else if error.is_data() {
        Refusal::new("invalid-value", format!("{noun} `{path}` has a value that cannot be read."))
    } else {
        // The text was parsed once already, but only skipped over: an escape may still name no character, or the
        // nesting be deeper than a parser should follow.
        Refusal::new("not-json", format!("{noun} `{path}` is not JSON that can be read."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "read for its errors alone")]
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
    #[expect(dead_code, reason = "read for its errors alone")]
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
        an_empty_payload_is_refused: "" => "empty-payload", "The payload is empty.";
        white_space_alone_is_an_empty_payload: " \n" => "empty-payload", "The payload is empty.";
        bytes_that_are_not_utf8_are_refused: b"{\"name\":\"\xff\"}" =>
            "invalid-utf8", "The payload is not UTF-8: byte 9 does not belong to a character.";
        text_that_is_not_json_is_refused: "SINGLE" =>
            "not-json", "The payload is not JSON: line 1 column 1 does not parse.";
        a_truncated_object_is_refused: r#"{"name":"a""# =>
            "not-json", "The payload is not JSON: line 1 column 11 does not parse.";
        two_objects_are_refused: "{}{}" => "not-json", "The payload is not JSON: line 1 column 3 does not parse.";
        an_array_is_refused_even_if_its_items_fit_the_fields: r#"["a",1,"SINGLE",null]"# =>
            "not-an-object", "The payload is an array, not an object.";
        a_number_is_refused: "1" => "not-an-object", "The payload is a number, not an object.";
        a_missing_field_is_named: r#"{"level":1,"kind":"SINGLE"}"# =>
            "missing-field", "Field `name` is missing.";
        a_missing_field_within_a_field_is_named: r#"{"name":"a","level":1,"kind":"SINGLE","place":{}}"# =>
            "missing-field", "Field `place.floor` is missing.";
        a_field_that_stands_twice_is_named: r#"{"name":"a","name":"b"}"# =>
            "duplicate-field", "Field `name` stands there twice.";
        a_field_of_the_wrong_type_is_named_without_its_value: r#"{"name":{"secret":1}}"# =>
            "wrong-type", "Field `name` must be a string.";
        an_unknown_value_is_named_with_the_known_ones: r#"{"name":"a","level":1,"kind":"TRIPLE"}"# =>
            "unknown-value", "Field `kind` must be `SINGLE` or `DOUBLE`.";
        a_number_out_of_range_is_named: r#"{"name":"a","level":256}"# =>
            "invalid-value", "Field `level` must be u8.";
        an_escape_that_names_no_character_is_refused: r#"{"name":"\ud800"}"# =>
            "not-json", "Field `name` is not JSON that can be read.";
        a_payload_over_the_limit_is_refused: "x".repeat(201) =>
            "payload-too-large", "The payload has 201 bytes; at most 200 are taken.";
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read for its errors alone")]
    struct Strict {
        name: Option<String>,
        level: Option<u8>,
    }

    #[test]
    fn an_unknown_field_is_refused_where_only_known_ones_are_taken_and_is_not_repeated() {
        let refusal = object::<Strict>(br#"{"name":"a","secret":1}"#, 200).expect_err("should be refused");
        let why = "A field that is not known stands there; it must be `name` or `level`.";
        assert_eq!((refusal.code, refusal.why.as_ref()), ("unknown-field", why));
    }

    fn texts(bytes: &[u8]) -> Result<Vec<&str>, (&'static str, String)> {
        let found = items(bytes, 200).map_err(|refusal| (refusal.code, refusal.why.into_owned()))?;
        Ok(found.into_iter().map(RawValue::get).collect())
    }

    #[test]
    fn an_object_is_one_item_and_an_array_is_as_many_as_stand_in_it() {
        assert_eq!(texts(br#" {"a": 1.50} "#), Ok(vec![r#"{"a": 1.50}"#]));
        assert_eq!(texts(br#"[{"a":1}, 2,{"b":[3]}]"#), Ok(vec![r#"{"a":1}"#, "2", r#"{"b":[3]}"#]));
        assert_eq!(texts(b"[]"), Ok(vec![]));
    }

    #[test]
    fn what_is_neither_an_object_nor_an_array_has_no_items() {
        let why = "The payload is a string, not an object or an array of objects.";
        assert_eq!(texts(br#""a""#), Err(("not-an-object", why.to_owned())));
        assert_eq!(texts(b"[1,").map_err(|(code, _)| code), Err("not-json"));
    }

    #[test]
    fn an_item_that_is_no_object_is_refused_by_its_name() {
        let found = items(br#"[{"name":"a"},2]"#, 200).expect("items");
        let refusal = read_object::<Sample>(found[1], "Item 2").expect_err("should be refused");
        assert_eq!((refusal.code, refusal.why.as_ref()), ("not-an-object", "Item 2 is a number, not an object."));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = object::<Sample>(&bytes, 200);
            let _ = items(&bytes, 200);
        }

        #[test]
        fn a_refusal_never_repeats_what_the_device_sent(secret in "[a-z]{12}") {
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
