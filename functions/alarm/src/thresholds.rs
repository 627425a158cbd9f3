//! Version 1 of the document that operators upload: thresholds. [`rules`](crate::rules) has version 2.

use std::collections::HashSet;

use gatehouse::{Number, Span, ThingPattern, Validate, ValidationError};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer};

use crate::pointer::MAX_POINTER_LENGTH;
pub use crate::pointer::Pointer;

/// The maximum number of thresholds in a document.
pub const MAX_THRESHOLDS: usize = 200;

/// The maximum length of a threshold's name.
pub(crate) const MAX_NAME_LENGTH: usize = 64;

/// The document.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// The thresholds, in the document's order.
    pub thresholds: Vec<Threshold>,
}

/// A threshold: a limit for a value that some things report.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Its name: 1 to 64 of the characters `a-z 0-9 -`.
    pub name: String,
    /// The things that it applies to.
    pub things: ThingPattern,
    /// The field of a reading that has the value.
    pub field: Pointer,
    /// The condition that raises an alarm.
    pub raise: Limit,
    /// The condition that clears it.
    pub clear: Limit,
    /// The maximum gap in a thing's data; `None` if any gap is allowed.
    #[serde(default, deserialize_with = "not_null")]
    pub stale: Option<Span>,
}

/// The meaning of a state under a threshold: the field and its limits. A threshold with another definition starts with
/// new states. Durations and things are not part of it: they affect when a state is entered, not its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Definition {
    /// The field, as a JSON pointer.
    pub field: String,
    /// The limit that raises an alarm.
    pub raise: Side,
    /// The limit that clears it.
    pub clear: Side,
}

/// A limit, and how long the value must stay beyond it.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    #[serde(default, deserialize_with = "not_null")]
    above: Option<Number>,
    #[serde(default, deserialize_with = "not_null")]
    below: Option<Number>,
    /// How long the condition must be sustained; `0 s` means that one value is enough.
    #[serde(rename = "for")]
    pub for_duration: Span,
}

/// The values beyond a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Values greater than this.
    Above(Number),
    /// Values less than this.
    Below(Number),
}

/// Deserializes a field that may be omitted, but must not be null.
pub(crate) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Validate for Thresholds {
    fn validate(&self) -> Result<(), ValidationError> {
        if self.thresholds.len() > MAX_THRESHOLDS {
            let why = format!("There are {} thresholds; the limit is {MAX_THRESHOLDS}.", self.thresholds.len());
            return Err(ValidationError::new("thresholds", why));
        }
        let mut names = HashSet::new();
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let error = |part: &str, why| ValidationError::new(format!("thresholds[{index}]{part}"), why);
            threshold.validate().map_err(|(part, why)| error(part, why))?;
            if !names.insert(&threshold.name) {
                return Err(error(".name", "Another threshold has this name."));
            }
        }
        Ok(())
    }
}

impl Threshold {
    /// Returns the invalid part, and why it is invalid.
    fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        const ONE: &str = "It must have exactly one of `above` and `below`.";
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=MAX_NAME_LENGTH).contains(&self.name.len()) || !self.name.bytes().all(allowed) {
            return Err((".name", "A name must be 1 to 64 of the characters a-z 0-9 -."));
        }
        if self.field.length() > MAX_POINTER_LENGTH {
            return Err((".field", "A pointer must have at most 256 characters."));
        }
        let raise = self.raise.side().ok_or((".raise", ONE))?;
        let clear = self.clear.side().ok_or((".clear", ONE))?;
        match (raise, clear) {
            (Side::Above(raise), Side::Below(clear)) if clear > raise => Err((
                ".clear.below",
                "It must not be greater than `raise.above`: both conditions would be met at once.",
            )),
            (Side::Below(raise), Side::Above(clear)) if clear < raise => {
                Err((".clear.above", "It must not be less than `raise.below`: both conditions would be met at once."))
            }
            (Side::Above(_), Side::Above(_)) => Err((".clear", "It must have `below`, because `raise` has `above`.")),
            (Side::Below(_), Side::Below(_)) => Err((".clear", "It must have `above`, because `raise` has `below`.")),
            _ if self.stale.is_some_and(|stale| stale <= self.raise.for_duration.max(self.clear.for_duration)) => {
                Err((".stale", "It must be longer than both `raise.for` and `clear.for`."))
            }
            _ => Ok(()),
        }
    }
}

impl Limit {
    /// Returns the limit's side; `None` if there are both, or neither.
    pub fn side(&self) -> Option<Side> {
        match (&self.above, &self.below) {
            (Some(above), None) => Some(Side::Above(above.clone())),
            (None, Some(below)) => Some(Side::Below(below.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::RulesDocument;
    use gatehouse::parse_document;
    use serde_json::{Value, json};

    fn valid() -> Value {
        json!({"name": "too-bright", "things": "greenhouse-*", "field": "/lux", "stale": "1 h",
               "raise": {"above": 35000, "for": "15 min"}, "clear": {"below": 35000, "for": "15 min"}})
    }

    type Change = fn(&mut Value);

    /// A valid document with its second threshold changed.
    fn document(change: impl Fn(&mut Value)) -> String {
        let mut second = valid();
        second["name"] = "second".into();
        change(&mut second);
        json!({"thresholds": [valid(), second]}).to_string()
    }

    fn refusal(text: &str) -> (&'static str, String) {
        let refusal = parse_document::<Thresholds>(text).expect_err("should be refused");
        (refusal.code, refusal.why.into_owned())
    }

    #[test]
    fn sample_document_is_valid() {
        let sample = include_str!("../../../infra/thresholds.json");
        assert!(!parse_document::<Thresholds>(sample).expect("a valid document").thresholds.is_empty());
    }

    #[test]
    fn document_without_thresholds_is_valid() {
        assert!(parse_document::<Thresholds>(r#"{"thresholds": []}"#).is_ok());
    }

    #[test]
    fn limits_may_leave_a_band_and_point_either_way() {
        for (raise, clear) in [
            (json!({"above": 10, "for": "0 s"}), json!({"below": 10, "for": "0 s"})),
            (json!({"above": 10.5, "for": "0 s"}), json!({"below": -3, "for": "1 d"})),
            (json!({"below": 10, "for": "5 s"}), json!({"above": 10, "for": "0 s"})),
            (json!({"below": 10, "for": "5 s"}), json!({"above": 12, "for": "0 s"})),
        ] {
            let text = document(|threshold| {
                threshold["raise"] = raise.clone();
                threshold["clear"] = clear.clone();
                threshold["stale"] = "2 d".into();
            });
            assert!(parse_document::<Thresholds>(&text).is_ok(), "{raise} and {clear}");
        }
    }

    macro_rules! refuses {
        ($($name:ident: $change:expr => $code:literal, $why:literal;)*) => {$(
            #[test]
            fn $name() {
                assert_eq!(refusal(&document($change)), ($code, $why.to_owned()));
            }
        )*};
    }

    refuses! {
        name_in_capitals_is_refused: |t| t["name"] = "Too-Bright".into() =>
            "bad-document", "`thresholds[1].name` of `Too-Bright`: A name must be 1 to 64 of the characters a-z 0-9 -.";
        empty_name_is_refused: |t| t["name"] = "".into() =>
            "bad-document", "`thresholds[1].name`: A name must be 1 to 64 of the characters a-z 0-9 -.";
        too_long_name_is_refused: |t| t["name"] = "a".repeat(65).into() =>
            "bad-document", "`thresholds[1].name`: A name must be 1 to 64 of the characters a-z 0-9 -.";
        duplicate_name_is_refused: |t| t["name"] = "too-bright".into() =>
            "bad-document", "`thresholds[1].name` of `too-bright`: Another threshold has this name.";
        pattern_that_matches_no_name_is_refused: |t| t["things"] = "green house".into() =>
            "invalid-value", "Field `thresholds[1].things` of `second` must be 1 to 128 of the characters a-z A-Z 0-9 : _ - and *.";
        field_other_than_a_pointer_is_refused: |t| t["field"] = "lux".into() =>
            "invalid-value", "Field `thresholds[1].field` of `second` must be a JSON pointer to a field, such as /lux.";
        pointer_to_the_whole_reading_is_refused: |t| t["field"] = "".into() =>
            "invalid-value", "Field `thresholds[1].field` of `second` must be a JSON pointer to a field, such as /lux.";
        pointer_with_a_stray_tilde_is_refused: |t| t["field"] = "/a~2".into() =>
            "invalid-value", "Field `thresholds[1].field` of `second` must be a JSON pointer to a field, such as /lux.";
        limit_on_both_sides_is_refused: |t| t["raise"]["below"] = 1.into() =>
            "bad-document", "`thresholds[1].raise` of `second`: It must have exactly one of `above` and `below`.";
        limit_on_neither_side_is_refused: |t| t["clear"] = json!({"for": "1 s"}) =>
            "bad-document", "`thresholds[1].clear` of `second`: It must have exactly one of `above` and `below`.";
        null_limit_is_refused: |t| t["raise"]["below"] = Value::Null =>
            "wrong-type", "Field `thresholds[1].raise.below` of `second` must be a number.";
        limit_in_quotes_is_refused: |t| t["raise"]["above"] = "35000".into() =>
            "wrong-type", "Field `thresholds[1].raise.above` of `second` must be a number.";
        clear_above_is_refused_if_raise_is_above: |t| t["clear"] = json!({"above": 35000, "for": "1 s"}) =>
            "bad-document", "`thresholds[1].clear` of `second`: It must have `below`, because `raise` has `above`.";
        clear_below_is_refused_if_raise_is_below: |t| t["raise"] = json!({"below": 35000, "for": "1 s"}) =>
            "bad-document", "`thresholds[1].clear` of `second`: It must have `above`, because `raise` has `below`.";
        clear_below_more_than_raise_above_is_refused: |t| t["clear"]["below"] = json!(35000.5) =>
            "bad-document",
            "`thresholds[1].clear.below` of `second`: It must not be greater than `raise.above`: both conditions would be met at once.";
        clear_above_less_than_raise_below_is_refused: |t| {
            t["raise"] = json!({"below": 5, "for": "1 s"});
            t["clear"] = json!({"above": 4, "for": "1 s"});
        } => "bad-document",
            "`thresholds[1].clear.above` of `second`: It must not be less than `raise.below`: both conditions would be met at once.";
        missing_duration_is_refused: |t| t["raise"] = json!({"above": 1}) =>
            "missing-field", "Field `thresholds[1].raise.for` of `second` is missing.";
        duration_in_another_form_is_refused: |t| t["raise"]["for"] = "PT15M".into() =>
            "invalid-value",
            "Field `thresholds[1].raise.for` of `second` must be a duration such as 90 s, 15 min, 2 h or 1 d.";
        stale_must_be_longer_than_for: |t| t["stale"] = "15 min".into() =>
            "bad-document", "`thresholds[1].stale` of `second`: It must be longer than both `raise.for` and `clear.for`.";
        null_stale_is_refused: |t| t["stale"] = Value::Null =>
            "wrong-type",
            "Field `thresholds[1].stale` of `second` must be a duration such as 90 s, 15 min, 2 h or 1 d.";
        number_for_a_limit_is_refused: |t| t["raise"] = 10.into() =>
            "wrong-type", "Field `thresholds[1].raise` of `second` must be an object.";
        array_for_a_limit_is_refused: |t| t["clear"] = json!([null, 10, "0 s"]) =>
            "wrong-type", "Field `thresholds[1].clear` of `second` must be an object.";
        too_long_pointer_is_refused: |t| t["field"] = format!("/{}", "a".repeat(256)).into() =>
            "bad-document", "`thresholds[1].field` of `second`: A pointer must have at most 256 characters.";
        unknown_field_is_refused: |t| t["rise"] = 1.into() =>
            "unknown-field",
            "Field `thresholds[1].rise` of `second` is unknown; \
             the name must be one of `name`, `things`, `field`, `raise`, `clear`, `stale`.";
        unknown_field_of_a_limit_is_refused: |t| t["raise"]["during"] = 1.into() =>
            "unknown-field",
            "Field `thresholds[1].raise.during` of `second` is unknown; the name must be one of `above`, `below`, `for`.";
    }

    #[test]
    fn number_that_no_float_approximates_is_refused() {
        let text = document(|_| ()).replace("35000", "1e400");
        let why = "Field `thresholds[0].raise.above` of `too-bright` must be a number between -1.8e308 and 1.8e308.";
        let (code, found) = refusal(&text);
        assert_eq!(code, "number-out-of-range");
        // The order of the fields is that of the text.
        assert_eq!(found.replace("clear.below", "raise.above"), why);
    }

    #[test]
    fn positional_array_is_no_threshold() {
        let array = r#"{"thresholds": [["x", "a-*", "/v", {"above": 10, "for": "0 s"}, {"below": 10, "for": "0 s"}]]}"#;
        let why = "Field `thresholds[0]` must be an object.";
        assert_eq!(refusal(array), ("wrong-type", why.to_owned()));
    }

    #[test]
    fn definition_ignores_spelling_and_everything_but_field_and_limits() {
        let definition = |change: &dyn Fn(&mut Value)| {
            let parsed: RulesDocument = parse_document(&document(change)).expect("a valid document");
            let definition = parsed.rules().all()[1].definition(&[]);
            serde_json::from_str::<Definition>(&definition).expect("a definition")
        };
        let original = definition(&|_| ());
        let changes: [(bool, Change); 9] = [
            (true, |t| t["raise"]["above"] = json!(35000.0)),
            (true, |t| t["raise"]["for"] = "1 s".into()),
            (true, |t| t["stale"] = "2 d".into()),
            (true, |t| t["things"] = "*".into()),
            (true, |t| t["name"] = "third".into()),
            (false, |t| t["field"] = "/v".into()),
            (false, |t| t["raise"]["above"] = json!(35001)),
            (false, |t| t["clear"]["below"] = json!(34999)),
            (false, |t| {
                t["raise"] = json!({"below": 35000, "for": "1 s"});
                t["clear"] = json!({"above": 35000, "for": "1 s"});
            }),
        ];
        for (same, change) in changes {
            let found = definition(&change);
            assert_eq!(found == original, same, "{found:?}");
        }
    }

    #[test]
    fn more_than_two_hundred_thresholds_are_refused() {
        let of = |number: usize| {
            let one = |index: usize| {
                let mut threshold = valid();
                threshold["name"] = format!("threshold-{index}").into();
                threshold
            };
            json!({"thresholds": (0..number).map(one).collect::<Vec<_>>()}).to_string()
        };
        assert!(parse_document::<Thresholds>(&of(200)).is_ok());
        let why = "`thresholds`: There are 201 thresholds; the limit is 200.";
        assert_eq!(refusal(&of(201)), ("bad-document", why.to_owned()));
    }
}
