//! JSON is converted to DynamoDB's JSON without loss, or refused with the location of the error.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use telemetry::attributes::{FieldPath, FieldSearch, append};
use telemetry::decimal::{Decimal, DecimalError};

fn transcoded(json: &str) -> Result<Value, String> {
    let mut out = Vec::new();
    append(json, &mut [], &mut out).map_err(|error| error.refusal(None).why.into_owned())?;
    Ok(serde_json::from_slice(&out).unwrap())
}

fn found<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
    let path: FieldPath = pointer.parse().unwrap();
    let mut searches = [FieldSearch::new(None), FieldSearch::new(Some(&path))];
    append(json, &mut searches, &mut Vec::new()).unwrap();
    let [_, search] = searches;
    search.found
}

/// Reads DynamoDB's JSON, with each number as its digits and exponent.
fn read(attribute: &Value) -> Value {
    let typed = attribute.as_object().unwrap();
    assert_eq!(typed.len(), 1, "an attribute has one type");
    let (kind, value) = typed.iter().next().unwrap();
    match kind.as_str() {
        "S" => json!({"text": value.as_str().unwrap()}),
        "N" => exact(value.as_str().unwrap()),
        "BOOL" => json!(value.as_bool().unwrap()),
        "NULL" => Value::Null,
        "L" => value.as_array().unwrap().iter().map(read).collect(),
        "M" => Value::Object(value.as_object().unwrap().iter().map(|(k, v)| (k.clone(), read(v))).collect()),
        other => panic!("{other} is not a type of a reading"),
    }
}

/// A number's value, computed independently: its digits without zeros at either end, and the power of ten of the last
/// digit.
fn exact(number: &str) -> Value {
    let (mantissa, power) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let fraction = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let digits = mantissa.replace('.', "");
    let significant = digits.trim_end_matches('0');
    let power = power.parse::<i64>().unwrap() - i64::try_from(fraction).unwrap()
        + i64::try_from(digits.len() - significant.len()).unwrap();
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        json!({"number": "0"})
    } else {
        json!({"number": format!("{sign}{significant}E{power}")})
    }
}

/// JSON as a device may write it, and its meaning.
#[derive(Debug, Clone)]
struct Sample {
    text: String,
    says: Value,
}

fn number() -> impl Strategy<Value = Sample> {
    let sign = prop_oneof![Just(""), Just("-")];
    let whole = prop_oneof![Just("0".to_owned()), "[1-9][0-9]{0,20}"];
    let fraction = prop_oneof![Just(String::new()), r"\.[0-9]{1,17}"];
    let power = prop_oneof![3 => Just(String::new()), 1 => "[eE][+-]?[0-9]{1,2}"];
    (sign, whole, fraction, power).prop_map(|(sign, whole, fraction, power)| {
        let text = format!("{sign}{whole}{fraction}{power}");
        Sample { says: exact(&text), text }
    })
}

/// A string with each character either as it is or escaped.
fn string() -> impl Strategy<Value = (String, String)> {
    let character = prop_oneof![any::<char>(), prop::char::range(' ', '~'), Just('"'), Just('\\'), Just('\0')];
    prop::collection::vec((character, prop::bool::weighted(0.2)), 1..12).prop_map(|characters| {
        let plain: String = characters.iter().map(|(c, _)| *c).collect();
        let written = characters.iter().map(|(c, is_escaped)| {
            if *is_escaped {
                let escape = |text: String, unit: &u16| text + &format!("\\u{unit:04x}");
                c.encode_utf16(&mut [0; 2]).iter().fold(String::new(), escape)
            } else {
                let quoted = serde_json::to_string(c).unwrap();
                quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap().to_owned()
            }
        });
        let written: String = written.collect();
        (format!("\"{written}\""), plain)
    })
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("\r\n\t ")]
}

fn sample() -> impl Strategy<Value = Sample> {
    let leaf = prop_oneof![
        number(),
        string().prop_map(|(text, plain)| Sample { text, says: json!({"text": plain}) }),
        Just(Sample { text: "\"\"".to_owned(), says: json!({"text": ""}) }),
        any::<bool>().prop_map(|value| Sample { text: value.to_string(), says: json!(value) }),
        Just(Sample { text: "null".to_owned(), says: Value::Null }),
    ];
    leaf.prop_recursive(6, 60, 12, |inner| {
        let list = (prop::collection::vec((inner.clone(), space()), 0..6), space()).prop_map(|(items, space)| {
            let texts: Vec<_> = items.iter().map(|(item, space)| format!("{space}{}{space}", item.text)).collect();
            Sample {
                text: format!("[{space}{}]", texts.join(",")),
                says: items.into_iter().map(|(item, _)| item.says).collect(),
            }
        });
        let map = (prop::collection::vec((string(), inner, space()), 0..14), space()).prop_map(|(fields, space)| {
            let mut says = Map::new();
            let mut texts = Vec::new();
            for ((name, plain), value, space) in fields {
                if !says.contains_key(&plain) {
                    texts.push(format!("{space}{name}{space}:{space}{}{space}", value.text));
                    says.insert(plain, value.says);
                }
            }
            Sample { text: format!("{{{space}{}}}", texts.join(",")), says: Value::Object(says) }
        });
        prop_oneof![list, map]
    })
}

/// The size of an attribute's value in bytes, by DynamoDB's rules.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
fn size(attribute: &Value) -> usize {
    let (kind, value) = attribute.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "S" => value.as_str().unwrap().len(),
        "N" => value.as_str().unwrap().bytes().filter(u8::is_ascii_digit).count().div_ceil(2) + 2,
        "L" => 3 + value.as_array().unwrap().iter().map(|item| 1 + size(item)).sum::<usize>(),
        "M" => 3 + value.as_object().unwrap().iter().map(|(name, item)| 1 + name.len() + size(item)).sum::<usize>(),
        _ => 1,
    }
}

proptest! {
    #[test]
    fn converted_value_equals_the_original(sample in sample()) {
        prop_assert!(serde_json::from_str::<&RawValue>(&sample.text).is_ok(), "{} is not JSON", sample.text);
        prop_assert_eq!(read(&transcoded(&sample.text).unwrap()), sample.says);
    }

    #[test]
    fn growth_stays_within_the_limit(sample in sample()) {
        let mut out = Vec::new();
        append(&sample.text, &mut [], &mut out).unwrap();
        prop_assert!(out.len() <= 5 * sample.text.len() + 9, "{} to {}", sample.text.len(), out.len());
        prop_assert!(2 * size(&serde_json::from_slice(&out).unwrap()) <= 5 * sample.text.len() + 9);
    }

    #[test]
    fn field_is_found_at_its_pointer(sample in sample(), name in "[a-z~/]{1,5}", index in 0..5_usize) {
        let zeros = "0,".repeat(index);
        let json = format!(r#"{{"other":[{{"{name}":1}}],"a":{{"{name}":[{zeros} {}, 7]}}}}"#, sample.text);
        let pointer = format!("/a/{}/{index}", name.replace('~', "~0").replace('/', "~1"));
        prop_assert_eq!(found(&json, &pointer), Some(sample.text.as_str()));
        prop_assert_eq!(found(&json, &format!("{pointer}0")), None);
    }

    #[test]
    fn number_of_38_digits_in_range_is_stored(
        digits in "[1-9][0-9]{0,44}", point in 0..45_usize, power in -200..200_i64,
    ) {
        let point = point.min(digits.len() - 1);
        let (whole, fraction) = digits.split_at(point + 1);
        let text = if fraction.is_empty() { format!("{whole}e{power}") } else { format!("{whole}.{fraction}e{power}") };
        let significant = digits.trim_end_matches('0').len();
        let magnitude = power + i64::try_from(point).unwrap();
        match Decimal::parse(&text) {
            Ok(decimal) => {
                prop_assert!(significant <= 38 && (-130..=125).contains(&magnitude));
                prop_assert_eq!(exact(&decimal.to_string()), exact(&text));
            }
            Err(DecimalError::TooManyDigits(count)) => prop_assert!(count == significant && count > 38),
            Err(DecimalError::OutOfRange) => prop_assert!(significant <= 38 && !(-130..=125).contains(&magnitude)),
            Err(DecimalError::NotANumber) => prop_assert!(false, "{} is a number", text),
        }
    }

    #[test]
    fn arbitrary_text_does_not_panic_or_loop(text in r#"([\[\]{}":,\\u0-9a-f .eE+-]|true|null|"a":|\PC){0,60}"#) {
        let _ = append(&text, &mut [], &mut Vec::new());
    }

    #[test]
    fn refusal_never_repeats_the_payload(secret in "[k-z]{12}") {
        for json in [
            format!(r#"{{"{secret}":{{"a":1e999}}}}"#),
            format!(r#"{{"{secret}":1,"{secret}":2}}"#),
            format!(r#"{{"a":"{secret}\ud800"}}"#),
            format!(r#"{{"{secret}":{{"":1}}}}"#),
        ] {
            let why = transcoded(&json).unwrap_err();
            prop_assert!(!why.contains(&secret), "{}", why);
        }
    }
}

#[test]
fn largest_growth_stays_within_the_limit() {
    for (part, json) in [(2, "0,"), (3, "[],"), (3, "{},"), (3, "\"\","), (5, "true,"), (5, "null,"), (4, "1e9,")] {
        let list = format!("[{}0]", json.repeat(10_000));
        let mut out = Vec::new();
        append(&list, &mut [], &mut out).unwrap();
        assert!(out.len() <= 5 * list.len() + 9, "{json}");
        // A payload of 128 KB has room for this many values; an item has 400 KB, and the metadata of a reading
        // takes one of them.
        let largest = (128 * 1024 / part) * size(&serde_json::from_slice(&out).unwrap()) / 10_000;
        assert!(largest < 399 * 1024, "{json} takes {largest} bytes");
    }
}

#[test]
fn names_are_compared_by_meaning_however_many_there_are() {
    for count in [2, 8, 9, 100] {
        let mut names: Vec<_> = (0..count).map(|n| format!(r#""n{n}":{{"n1":0}}"#)).collect();
        assert!(transcoded(&format!("{{{}}}", names.join(","))).is_ok());
        names.push(r#""\u006e1":0"#.to_owned());
        let why = transcoded(&format!("{{{}}}", names.join(","))).unwrap_err();
        assert_eq!(why, format!("The name of value {count} appears twice."));
    }
}

#[test]
fn thirty_one_maps_above_a_scalar_are_stored_and_no_more() {
    let nested = |levels| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    assert!(transcoded(&nested(31)).is_ok());
    assert!(transcoded(&nested(32)).unwrap_err().ends_with("is nested too deep; DynamoDB stores at most 31 levels."));
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    for json in [r#"{"a":"\ud83d"}"#, r#"{"\ude00":1}"#, r#"{"a":"\ude00\ud83d"}"#] {
        assert_eq!(transcoded(json).unwrap_err(), "Value 0 is not JSON that can be parsed.");
    }
    assert_eq!(transcoded(r#"{"a":"\ud83d\ude00"}"#), Ok(json!({"M": {"a": {"S": "😀"}}})));
}
