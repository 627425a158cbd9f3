//! MQTT topic filters.

use std::fmt;
use std::str::FromStr;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, de};

/// An MQTT topic filter: `+` matches one level, and `#` at the end matches all remaining levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter(String);

/// The text is not an MQTT topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be {EXPECTED}")]
pub struct ParseTopicFilterError;

const EXPECTED: &str =
    "an MQTT topic filter of 1 to 256 bytes and at most 8 levels, with + as a whole level and # as the last one";

/// AWS IoT's limits for a topic. A filter beyond them would match nothing.
const MAX_BYTES: usize = 256;
const MAX_LEVELS: usize = 8;

/// `Weather/Corp/+`.
impl Default for TopicFilter {
    fn default() -> Self {
        Self("Weather/Corp/+".to_owned())
    }
}

impl FromStr for TopicFilter {
    type Err = ParseTopicFilterError;

    fn from_str(text: &str) -> Result<Self, ParseTopicFilterError> {
        // `#` is allowed only at the end.
        let plain = if text == "#" { "+" } else { text.strip_suffix("/#").unwrap_or(text) };
        let is_level = |level: &str| level == "+" || !level.contains(['+', '#', '\0']);
        let is_filter = (1..=MAX_BYTES).contains(&text.len())
            && text.split('/').count() <= MAX_LEVELS
            && plain.split('/').all(is_level);
        is_filter.then(|| Self(text.to_owned())).ok_or(ParseTopicFilterError)
    }
}

impl TopicFilter {
    /// Whether the filter matches a topic.
    pub fn matches(&self, topic: &str) -> bool {
        // A leading wildcard does not match reserved topics, which start with `$`.
        if self.0.starts_with('$') != topic.starts_with('$') {
            return false;
        }
        let mut levels = topic.split('/');
        for expected in self.0.split('/') {
            match (expected, levels.next()) {
                // Matches even if no level follows: `a/#` matches `a`.
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (expected, Some(level)) if expected == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

impl<'de> Deserialize<'de> for TopicFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|ParseTopicFilterError| de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED))
    }
}

/// Deserializes one filter, or a list of at least one.
pub fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TopicFilter>, D::Error> {
    struct OneOrMore;

    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<TopicFilter>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an MQTT topic filter, or a list of at least one")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            TopicFilter::deserialize(text.into_deserializer()).map(|filter| vec![filter])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            let filters = Vec::deserialize(SeqAccessDeserializer::new(list))?;
            if filters.is_empty() { Err(de::Error::invalid_length(0, &self)) } else { Ok(filters) }
        }
    }

    deserializer.deserialize_any(OneOrMore)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(filter: &str, topic: &str) -> bool {
        filter.parse::<TopicFilter>().expect("a filter").matches(topic)
    }

    #[test]
    fn plus_matches_one_level_and_hash_all_that_follow() {
        for (filter, topic, expected) in [
            ("Weather/Corp/+", "Weather/Corp/temperature", true),
            ("Weather/Corp/+", "Weather/Corp/", true),
            ("Weather/Corp/+", "Weather/Corp", false),
            ("Weather/Corp/+", "Weather/Corp/temperature/inside", false),
            ("Weather/Corp/+", "weather/corp/temperature", false),
            ("Weather/+/temperature", "Weather/Corp/temperature", true),
            ("Weather/+/temperature", "Weather/Corp/humidity", false),
            ("Weather/#", "Weather", true),
            ("Weather/#", "Weather/Corp/temperature", true),
            ("Weather/#", "WeatherCorp", false),
            ("+", "Weather", true),
            ("+", "Weather/Corp", false),
            ("+/+", "/Weather", true),
            ("#", "Weather/Corp/temperature", true),
            ("#", "$aws/things/a/shadow/update", false),
            ("+/things/#", "$aws/things/a/shadow/update", false),
            ("$aws/things/#", "$aws/things/a/shadow/update", true),
            ("Weather", "Weather", true),
            ("Weather", "Weather/", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} and {topic}");
        }
    }

    #[test]
    fn invalid_filters_do_not_parse() {
        for text in [
            "",
            "a+",
            "a/+b/c",
            "a#",
            "#/a",
            "a/#/b",
            "a/##",
            "##",
            "a\0",
            &"a".repeat(257),
            "1/2/3/4/5/6/7/8/9",
            "1/2/3/4/5/6/7/8/#",
        ] {
            assert_eq!(text.parse::<TopicFilter>(), Err(ParseTopicFilterError), "{text}");
        }
    }

    #[test]
    fn filters_at_the_limits_parse() {
        for text in ["a".repeat(256).as_str(), "1/2/3/4/5/6/7/8", "1/2/3/4/5/6/7/#", "///////"] {
            assert!(text.parse::<TopicFilter>().is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_recursive_definition(
            filter in "(\\+|a|b|)(/(\\+|a|b|)){0,3}(/#)?",
            topic in "(a|b|)(/(a|b|)){0,4}",
        ) {
            fn plain(filter: &[&str], topic: &[&str]) -> bool {
                match (filter.split_first(), topic.split_first()) {
                    (Some((&"#", [])), _) | (None, None) => true,
                    (Some((a, filter)), Some((b, topic))) => (*a == "+" || a == b) && plain(filter, topic),
                    _ => false,
                }
            }
            prop_assume!(!filter.is_empty());
            let expected = plain(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>());
            prop_assert_eq!(matches(&filter, &topic), expected);
        }
    }
}
