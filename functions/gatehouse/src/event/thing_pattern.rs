use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::event::ids::ThingName;

/// Selects things by name, such as `greenhouse-*`: each `*` matches any characters, or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ThingPattern(String);

impl ThingPattern {
    /// A pattern of 1 to 128 characters, each `*` or valid in a thing's name; `None` for anything else.
    pub fn new(pattern: impl Into<String>) -> Option<Self> {
        let pattern = pattern.into();
        ThingName::new(pattern.replace('*', "-")).is_ok().then_some(Self(pattern))
    }

    /// Whether the pattern matches a thing's name.
    ///
    /// The pattern's first part must start the name, its last part must end it, and the others must follow each other
    /// in between. The earliest match of a part is as good as any later one, so there is no backtracking.
    pub fn matches(&self, thing: &ThingName) -> bool {
        let name = thing.as_str();
        let Some((first, rest)) = self.0.split_once('*') else { return name == self.0 };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let mut parts = rest.split('*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return name.ends_with(part);
            }
            let Some((_, after)) = name.split_once(part) else { return false };
            name = after;
        }
        true
    }
}

impl fmt::Display for ThingPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for ThingPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "1 to 128 of the characters a-z A-Z 0-9 : _ - and *";
        let text = String::deserialize(deserializer)?;
        let refused = || de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED);
        Self::new(text.as_str()).ok_or_else(refused)
    }
}

impl Serialize for ThingPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        let name = ThingName::new(name).expect("a thing's name");
        ThingPattern::new(pattern).expect("a pattern").matches(&name)
    }

    #[test]
    fn star_matches_any_characters_or_none() {
        for (pattern, name, expected) in [
            ("lux", "lux", true),
            ("lux", "lux-1", false),
            ("*", "lux", true),
            ("lux-*", "lux-", true),
            ("lux-*", "lux-1", true),
            ("lux-*", "my-lux-1", false),
            ("*-1", "lux-1-1", true),
            ("*-1", "lux-12", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a**c", "abc", true),
            ("*b*", "abc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} and {name}");
        }
    }

    #[test]
    fn characters_outside_thing_names_are_rejected() {
        for pattern in ["", "green house", "a/b", "a?", &"a".repeat(129)] {
            assert_eq!(ThingPattern::new(pattern), None, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_recursive_definition(pattern in "[ab*]{1,8}", name in "[ab]{1,8}") {
            fn plain(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) => (0..=name.len()).any(|skipped| plain(rest, &name[skipped..])),
                    (Some((a, pattern)), Some((b, name))) => a == b && plain(pattern, name),
                    _ => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &name), plain(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
