//! The fields of a version-2 document, as operators write them.

use std::collections::BTreeMap;

use gatehouse::{Severity, Span, ThingPattern};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};

use super::condition::Op;
use super::operand::Statistic;
use super::value::Literal;
use crate::pointer::Pointer;
use crate::thresholds::not_null;

/// The document: rules, and what they refer to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlarmRules {
    /// Always 2.
    pub(super) version: u64,
    /// Names for sets of things.
    #[serde(default, deserialize_with = "not_null")]
    pub(super) groups: Option<BTreeMap<String, Vec<ThingPattern>>>,
    /// Values of individual things that replace a rule's defaults.
    #[serde(default, deserialize_with = "not_null")]
    pub(super) overrides: Option<BTreeMap<String, BTreeMap<String, Literal>>>,
    /// The rules, in the document's order.
    pub(super) rules: Vec<RuleFields>,
}

/// A rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RuleFields {
    pub name: String,
    pub things: ThingsFields,
    pub severities: Vec<SeverityFields>,
    #[serde(default, deserialize_with = "not_null")]
    pub stale: Option<Span>,
    #[serde(default, deserialize_with = "not_null")]
    pub never_reported: Option<Span>,
    #[serde(default, deserialize_with = "not_null")]
    pub latch: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    pub start_disabled: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    pub notify: Option<NotifyFields>,
}

/// Which things a rule applies to: a pattern, or a group.
#[derive(Debug)]
pub(super) enum ThingsFields {
    Pattern(ThingPattern),
    Group(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFields {
    group: String,
}

impl<'de> Deserialize<'de> for ThingsFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Things;
        impl<'de> Visitor<'de> for Things {
            type Value = ThingsFields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a pattern of the characters a-z A-Z 0-9 : _ - and *, or an object with the field `group`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ThingsFields, E> {
                const EXPECTED: &str = "1 to 128 of the characters a-z A-Z 0-9 : _ - and *";
                let pattern = ThingPattern::new(text);
                pattern.map(ThingsFields::Pattern).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &EXPECTED))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ThingsFields, A::Error> {
                let GroupFields { group } = GroupFields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ThingsFields::Group(group))
            }
        }
        deserializer.deserialize_any(Things)
    }
}

/// A severity, with its conditions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeverityFields {
    pub severity: Severity,
    pub raise: SideFields,
    #[serde(default, deserialize_with = "not_null")]
    pub clear: Option<SideFields>,
}

/// A condition, and how long or how often it must be met.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SideFields {
    pub when: ConditionFields,
    #[serde(default, rename = "for", deserialize_with = "not_null")]
    pub for_duration: Option<Span>,
    #[serde(default, deserialize_with = "not_null")]
    pub count: Option<CountFields>,
}

/// A number of readings `n` out of the last `of`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CountFields {
    pub n: u32,
    pub of: u32,
}

/// A condition: a comparison, a check for presence, or a combination of conditions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ConditionFields {
    #[serde(default, deserialize_with = "not_null")]
    pub field: Option<Pointer>,
    #[serde(default, deserialize_with = "not_null")]
    pub change: Option<ChangeFields>,
    #[serde(default, deserialize_with = "not_null")]
    pub window: Option<WindowFields>,
    #[serde(default, deserialize_with = "not_null")]
    pub op: Option<Op>,
    #[serde(default, deserialize_with = "not_null")]
    pub value: Option<Literal>,
    #[serde(default, deserialize_with = "not_null")]
    pub other_field: Option<Pointer>,
    #[serde(default, rename = "override", deserialize_with = "not_null")]
    pub override_name: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    pub default: Option<Literal>,
    #[serde(default, deserialize_with = "not_null")]
    pub is: Option<Presence>,
    #[serde(default, deserialize_with = "not_null")]
    pub all: Option<Vec<ConditionFields>>,
    #[serde(default, deserialize_with = "not_null")]
    pub any: Option<Vec<ConditionFields>>,
    #[serde(default, deserialize_with = "not_null")]
    pub not: Option<Box<ConditionFields>>,
}

/// Whether a field must be present or missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Presence {
    Present,
    Missing,
}

/// The rate at which a field changes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeFields {
    pub field: Pointer,
    pub per: Span,
}

/// The minimum, maximum or mean of a field over a period.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowFields {
    pub field: Pointer,
    pub of: Statistic,
    pub over: Span,
}

/// How people are notified.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NotifyFields {
    #[serde(default, deserialize_with = "not_null")]
    pub repeat: Option<Span>,
    #[serde(default, deserialize_with = "not_null")]
    pub severities: Option<BySeverity>,
    #[serde(default, deserialize_with = "not_null")]
    pub quiet_hours: Option<QuietFields>,
    #[serde(default, deserialize_with = "not_null")]
    pub text: Option<String>,
}

/// Settings for one severity.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeverityNotifyFields {
    #[serde(default, deserialize_with = "not_null")]
    pub repeat: Option<Span>,
}

/// Settings for each severity.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BySeverity {
    #[serde(default, deserialize_with = "not_null")]
    critical: Option<SeverityNotifyFields>,
    #[serde(default, deserialize_with = "not_null")]
    major: Option<SeverityNotifyFields>,
    #[serde(default, deserialize_with = "not_null")]
    minor: Option<SeverityNotifyFields>,
    #[serde(default, deserialize_with = "not_null")]
    warning: Option<SeverityNotifyFields>,
    #[serde(default, deserialize_with = "not_null")]
    info: Option<SeverityNotifyFields>,
}

impl BySeverity {
    /// Returns the settings for this severity.
    pub fn of(&self, severity: Severity) -> Option<SeverityNotifyFields> {
        match severity {
            Severity::Critical => self.critical,
            Severity::Major => self.major,
            Severity::Minor => self.minor,
            Severity::Warning => self.warning,
            Severity::Info => self.info,
        }
    }
}

/// When people are not notified.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct QuietFields {
    pub from: String,
    pub to: String,
    #[serde(default, deserialize_with = "not_null")]
    pub utc_offset: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    pub except: Option<Vec<Severity>>,
}
