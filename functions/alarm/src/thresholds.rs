//! The thresholds that operators have set down, in one JSON document.

use std::collections::HashSet;
use std::fmt;

use gatehouse::{Validate, Fault, Span, ThingName, ThingPattern};
use serde::de::{Deserialize, Deserializer, Error, Unexpected};
use serde_json::Value;

/// The most thresholds in a document.
pub const MOST_THRESHOLDS: usize = 200;

/// The longest name of a threshold.
const LONGEST_NAME: usize = 64;

/// The whole document.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Each threshold, in the document's order.
    pub thresholds: Vec<Threshold>,
}

/// One threshold: which value of which things may not stay beyond which limit.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// What it is called: 1 to 64 of `a-z 0-9 -`.
    pub name: String,
    /// The things that it is held against.
    pub things: ThingPattern,
    /// Where the value stands in a reading.
    pub field: Pointer,
    /// What makes an alarm.
    pub raise: Limit,
    /// What ends it.
    pub clear: Limit,
    /// How long nothing may come from a thing; for ever where there is none.
    #[serde(default, deserialize_with = "there")]
    pub stale: Option<Span>,
}

/// A limit, and how long a value must stay beyond it.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    #[serde(default, deserialize_with = "there")]
    above: Option<f64>,
    #[serde(default, deserialize_with = "there")]
    below: Option<f64>,
    /// How long; `0 s` means at once.
    #[serde(rename = "for")]
    pub held: Span,
}

/// On which side of a limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Side {
    /// More than this.
    Above(f64),
    /// Less than this.
    Below(f64),
}

/// Where a value stands in a JSON document: a JSON pointer (RFC 6901) to something within it, such as `/air/lux`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pointer {
    text: String,
    steps: Vec<String>,
}

/// A field that may be left out, but that is not null where it is there.
fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Thresholds {
    /// Those that are held against this thing.
    pub fn of<'a>(&'a self, thing: &ThingName) -> impl Iterator<Item = &'a Threshold> {
        self.thresholds.iter().filter(move |threshold| threshold.things.matches(thing))
    }
}

impl Validate for Thresholds {
    fn check(&self) -> Result<(), Fault> {
        if self.thresholds.len() > MOST_THRESHOLDS {
            let why = format!("There are {} thresholds; at most {MOST_THRESHOLDS} are taken.", self.thresholds.len());
            return Err(Fault::new("thresholds", why));
        }
        let mut names = HashSet::new();
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let fault = |part: &str, why: String| Fault::new(format!("thresholds[{index}]{part}"), why);
            threshold.check().map_err(|(part, why)| fault(part, why.to_owned()))?;
            if !names.insert(&threshold.name) {
                return Err(fault(".name", "Another threshold has this name.".to_owned()));
            }
        }
        Ok(())
    }
}

impl Threshold {
    /// The part at fault, and why.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        const ONE: &str = "There must be exactly one of `above` and `below`.";
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=LONGEST_NAME).contains(&self.name.len()) || !self.name.bytes().all(allowed) {
            return Err((".name", "A name must be 1 to 64 of the characters a-z 0-9 -."));
        }
        let raise = self.raise.side().ok_or((".raise", ONE))?;
        let clear = self.clear.side().ok_or((".clear", ONE))?;
        match (raise, clear) {
            (Side::Above(raise), Side::Below(clear)) if clear > raise => {
                Err((".clear.below", "It may not be more than the limit that raises: both would hold at once."))
            }
            (Side::Below(raise), Side::Above(clear)) if clear < raise => {
                Err((".clear.above", "It may not be less than the limit that raises: both would hold at once."))
            }
            (Side::Above(_), Side::Above(_)) => Err((".clear", "It must have `below`, since `raise` has `above`.")),
            (Side::Below(_), Side::Below(_)) => Err((".clear", "It must have `above`, since `raise` has `below`.")),
            _ if self.stale.is_some_and(|stale| stale <= self.raise.held.max(self.clear.held)) => {
                Err((".stale", "It must be longer than both `raise.for` and `clear.for`."))
            }
            _ => Ok(()),
        }
    }
}

impl Limit {
    /// Whether a value is beyond the limit. One that is equal to it is not.
    pub fn is_passed_by(&self, value: f64) -> bool {
        self.above.is_some_and(|above| value > above) || self.below.is_some_and(|below| value < below)
    }

    /// Which side is meant; `None` where both are named, or neither.
    pub fn side(&self) -> Option<Side> {
        match (self.above, self.below) {
            (Some(above), None) => Some(Side::Above(above)),
            (None, Some(below)) => Some(Side::Below(below)),
            _ => None,
        }
    }
}

impl Pointer {
    /// A pointer to something within a document; `None` for a text that is none, and for a pointer to the whole.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let escaped = text.strip_prefix('/')?;
        // `~` only stands before 0 and 1.
        let is_valid = escaped.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        let steps = escaped.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        is_valid.then_some(Self { text, steps })
    }

    /// What it points to in this document.
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.steps.iter().try_fold(document, |value, step| match value {
            Value::Object(fields) => fields.get(step),
            Value::Array(items) => items.get(position(step)?),
            _ => None,
        })
    }

    /// Its steps as people read them, such as `air/lux`.
    pub fn label(&self) -> String {
        self.steps.join("/")
    }
}

/// A step that is a position in an array: digits without a zero before them.
fn position(step: &str) -> Option<usize> {
    let is_plain = step.bytes().all(|b| b.is_ascii_digit()) && (step == "0" || !step.starts_with('0'));
    step.parse().ok().filter(|_| is_plain)
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
    use gatehouse::parse_document;
    use serde_json::json;

    fn good() -> Value {
        json!({"name": "too-bright", "things": "greenhouse-*", "field": "/lux", "stale": "1 h",
               "raise": {"above": 35000, "for": "15 min"}, "clear": {"below": 35000, "for": "15 min"}})
    }

    /// A good document, with its second threshold changed.
    fn document(change: impl Fn(&mut Value)) -> String {
        let mut second = good();
        second["name"] = "second".into();
        change(&mut second);
        json!({"thresholds": [good(), second]}).to_string()
    }

    fn refusal(text: &str) -> (&'static str, String) {
        let refusal = parse_document::<Thresholds>(text).expect_err("should be refused");
        (refusal.code, refusal.why.into_owned())
    }

    #[test]
    fn the_sample_document_is_a_good_one() {
        let sample = include_str!("../../../infra/thresholds.json");
        assert!(!parse_document::<Thresholds>(sample).expect("a good document").thresholds.is_empty());
    }

    #[test]
    fn no_thresholds_at_all_is_a_good_document() {
        assert!(parse_document::<Thresholds>(r#"{"thresholds": []}"#).is_ok());
    }

    #[test]
    fn limits_may_leave_a_band_between_them_and_lie_either_way() {
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
        a_name_in_capitals_is_refused: |t| t["name"] = "Too-Bright".into() =>
            "bad-document", "`thresholds[1].name`: A name must be 1 to 64 of the characters a-z 0-9 -.";
        an_empty_name_is_refused: |t| t["name"] = "".into() =>
            "bad-document", "`thresholds[1].name`: A name must be 1 to 64 of the characters a-z 0-9 -.";
        a_name_that_is_too_long_is_refused: |t| t["name"] = "a".repeat(65).into() =>
            "bad-document", "`thresholds[1].name`: A name must be 1 to 64 of the characters a-z 0-9 -.";
        a_name_that_stands_there_twice_is_refused: |t| t["name"] = "too-bright".into() =>
            "bad-document", "`thresholds[1].name`: Another threshold has this name.";
        a_pattern_that_could_match_nothing_is_refused: |t| t["things"] = "green house".into() =>
            "invalid-value", "Field `thresholds[1].things` must be 1 to 128 of the characters a-z A-Z 0-9 : _ - and *.";
        a_field_that_is_no_pointer_is_refused: |t| t["field"] = "lux".into() =>
            "invalid-value", "Field `thresholds[1].field` must be a JSON pointer to a field, such as /lux.";
        a_pointer_to_the_whole_reading_is_refused: |t| t["field"] = "".into() =>
            "invalid-value", "Field `thresholds[1].field` must be a JSON pointer to a field, such as /lux.";
        a_pointer_with_a_loose_tilde_is_refused: |t| t["field"] = "/a~2".into() =>
            "invalid-value", "Field `thresholds[1].field` must be a JSON pointer to a field, such as /lux.";
        a_limit_on_both_sides_is_refused: |t| t["raise"]["below"] = 1.into() =>
            "bad-document", "`thresholds[1].raise`: There must be exactly one of `above` and `below`.";
        a_limit_on_neither_side_is_refused: |t| t["clear"] = json!({"for": "1 s"}) =>
            "bad-document", "`thresholds[1].clear`: There must be exactly one of `above` and `below`.";
        a_limit_of_null_is_refused: |t| t["raise"]["below"] = Value::Null =>
            "wrong-type", "Field `thresholds[1].raise.below` must be f64.";
        a_limit_that_is_a_text_is_refused: |t| t["raise"]["above"] = "35000".into() =>
            "wrong-type", "Field `thresholds[1].raise.above` must be f64.";
        clearing_on_the_side_that_raises_is_refused: |t| t["clear"] = json!({"above": 35000, "for": "1 s"}) =>
            "bad-document", "`thresholds[1].clear`: It must have `below`, since `raise` has `above`.";
        clearing_below_where_below_raises_is_refused: |t| t["raise"] = json!({"below": 35000, "for": "1 s"}) =>
            "bad-document", "`thresholds[1].clear`: It must have `above`, since `raise` has `below`.";
        clearing_above_the_limit_that_raises_is_refused: |t| t["clear"]["below"] = json!(35000.5) =>
            "bad-document",
            "`thresholds[1].clear.below`: It may not be more than the limit that raises: both would hold at once.";
        clearing_below_the_limit_that_raises_is_refused: |t| {
            t["raise"] = json!({"below": 5, "for": "1 s"});
            t["clear"] = json!({"above": 4, "for": "1 s"});
        } => "bad-document",
            "`thresholds[1].clear.above`: It may not be less than the limit that raises: both would hold at once.";
        a_missing_hold_is_refused: |t| t["raise"] = json!({"above": 1}) =>
            "missing-field", "Field `thresholds[1].raise.for` is missing.";
        a_hold_in_another_form_is_refused: |t| t["raise"]["for"] = "PT15M".into() =>
            "invalid-value",
            "Field `thresholds[1].raise.for` must be a length of time, such as 90 s, 15 min, 2 h or 1 d.";
        a_silence_that_is_no_longer_than_a_hold_is_refused: |t| t["stale"] = "15 min".into() =>
            "bad-document", "`thresholds[1].stale`: It must be longer than both `raise.for` and `clear.for`.";
        a_silence_of_null_is_refused: |t| t["stale"] = Value::Null =>
            "wrong-type",
            "Field `thresholds[1].stale` must be a length of time, such as 90 s, 15 min, 2 h or 1 d.";
        a_field_that_is_not_known_is_refused: |t| t["rise"] = 1.into() =>
            "unknown-field",
            "A field that is not known stands there; it must be one of `name`, `things`, `field`, `raise`, `clear`, `stale`.";
        a_part_of_a_limit_that_is_not_known_is_refused: |t| t["raise"]["during"] = 1.into() =>
            "unknown-field",
            "A field that is not known stands there; it must be one of `above`, `below`, `for`.";
    }

    #[test]
    fn a_number_that_no_computer_holds_is_refused() {
        let text = document(|_| ()).replace("35000", "1e400");
        assert_eq!(refusal(&text).0, "not-json");
    }

    #[test]
    fn more_thresholds_than_two_hundred_are_refused() {
        let of = |number: usize| {
            let one = |index: usize| {
                let mut threshold = good();
                threshold["name"] = format!("threshold-{index}").into();
                threshold
            };
            json!({"thresholds": (0..number).map(one).collect::<Vec<_>>()}).to_string()
        };
        assert!(parse_document::<Thresholds>(&of(200)).is_ok());
        let why = "`thresholds`: There are 201 thresholds; at most 200 are taken.";
        assert_eq!(refusal(&of(201)), ("bad-document", why.to_owned()));
    }

    #[test]
    fn a_pointer_finds_what_json_says_it_points_to() {
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
            let value = Pointer::new(pointer).expect("a pointer").find(&document).cloned();
            assert_eq!(value, found.map(Value::from), "{pointer}");
            assert_eq!(value, document.pointer(pointer).cloned(), "{pointer}: serde_json finds the same");
        }
    }
}
