use std::collections::BTreeMap;
use std::sync::OnceLock;

use gatehouse::{ThingPattern, Validate, ValidationError};
use serde::Deserialize;

use super::Rules;
use super::fields::{AlarmRules, RuleFields};
use super::value::Literal;
use crate::thresholds::{Threshold, Thresholds, not_null};

impl Validate for AlarmRules {
    fn validate(&self) -> Result<(), ValidationError> {
        self.compile().map(drop)
    }
}

/// The document in force, of either version, and its compiled rules.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "AnyFields")]
pub struct RulesDocument {
    document: AnyDocument,
    rules: OnceLock<Rules>,
}

#[derive(Debug, Default)]
enum AnyDocument {
    #[default]
    None,
    Version1(Thresholds),
    Version2(AlarmRules),
}

/// The fields of both versions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyFields {
    #[serde(default, deserialize_with = "not_null")]
    thresholds: Option<Vec<Threshold>>,
    #[serde(default, deserialize_with = "not_null")]
    version: Option<u64>,
    #[serde(default, deserialize_with = "not_null")]
    groups: Option<BTreeMap<String, Vec<ThingPattern>>>,
    #[serde(default, deserialize_with = "not_null")]
    overrides: Option<BTreeMap<String, BTreeMap<String, Literal>>>,
    #[serde(default, deserialize_with = "not_null")]
    rules: Option<Vec<RuleFields>>,
}

impl From<AnyFields> for RulesDocument {
    fn from(fields: AnyFields) -> Self {
        let AnyFields { thresholds, version, groups, overrides, rules } = fields;
        let document = match (thresholds, version, rules) {
            (Some(thresholds), None, None) if groups.is_none() && overrides.is_none() => {
                AnyDocument::Version1(Thresholds { thresholds })
            }
            (None, Some(version), Some(rules)) => {
                AnyDocument::Version2(AlarmRules { version, groups, overrides, rules })
            }
            _ => AnyDocument::None,
        };
        Self { document, rules: OnceLock::new() }
    }
}

impl Validate for RulesDocument {
    fn validate(&self) -> Result<(), ValidationError> {
        let rules = match &self.document {
            AnyDocument::None => {
                let why = "A document must have either `thresholds`, or `version` and `rules`.";
                return Err(ValidationError::new("thresholds", why));
            }
            AnyDocument::Version1(thresholds) => {
                thresholds.validate()?;
                thresholds.compile()
            }
            AnyDocument::Version2(rules) => rules.compile()?,
        };
        // Setting it cannot fail: a document is validated only once.
        let _ = self.rules.set(rules);
        Ok(())
    }
}

impl RulesDocument {
    /// The compiled rules. There are none if nobody has uploaded a document.
    pub fn rules(&self) -> &Rules {
        self.rules.get_or_init(Rules::default)
    }
}
