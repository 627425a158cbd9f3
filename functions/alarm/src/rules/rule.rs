//! A compiled rule, as it applies to any thing.

use gatehouse::{Severity, Span, ThingName, ThingPattern};
use ring::digest::{SHA256, digest};
use serde_json::json;

use super::condition::{Condition, Left, Op, Right};
use super::notify::NotifyPolicy;
use super::operand::{Operand, OperandKind};
use super::value::{Kind, Value};
use crate::pointer::Pointer;
use crate::thresholds::{Definition, Side};

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name: 1 to 64 of the characters `a-z 0-9 -`.
    pub name: String,
    /// Patterns of the things that it applies to.
    pub things: Vec<ThingPattern>,
    /// Its severities, most severe first. There is at least one.
    pub levels: Vec<Level>,
    /// The fields that it reads from a reading. Messages name the first one.
    pub fields: Vec<Pointer>,
    /// The values that it computes from earlier readings.
    pub operands: Vec<Operand>,
    /// The names and defaults of its overrides.
    pub overrides: Vec<(String, Value)>,
    /// When a reading is relevant to the rule.
    pub needs: Needs,
    /// The maximum gap in a thing's data; `None` if any gap is allowed.
    pub stale: Option<Span>,
    /// How long after its admission a thing must have reported at the latest; `None` if that is not checked.
    pub never_reported: Option<Span>,
    /// Whether an alarm that has cleared stays LATCHED until somebody acknowledges it.
    pub latch: bool,
    /// Whether the alarm of a new thing is disabled until somebody enables it.
    pub start_disabled: bool,
    /// How people are notified.
    pub notify: NotifyPolicy,
}

/// A severity, and the conditions that raise and clear it.
#[derive(Debug, Clone)]
pub struct Level {
    /// The severity.
    pub severity: Severity,
    /// When it begins.
    pub raise: Sustained,
    /// When it ends.
    pub clear: Sustained,
}

/// A condition, and how long or how often it must be met.
#[derive(Debug, Clone)]
pub struct Sustained {
    /// The condition.
    pub when: Condition,
    /// How long or how often.
    pub hold: Hold,
}

/// How long or how often a condition must be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// By every reading for this duration; `0 s` means that one reading is enough.
    For(Span),
    /// By `n` of the last `of` readings.
    Count {
        /// How many.
        n: u32,
        /// Out of how many.
        of: u32,
    },
}

/// Decides which readings are relevant to a rule: those that have one of these fields with the given type (or any
/// comparable type if none is given), or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Needs {
    /// Whether every reading is relevant, because a missing field matters, too.
    pub nothing: bool,
    /// The fields, by their index.
    pub fields: Vec<(usize, Option<Kind>)>,
}

impl Hold {
    /// The duration; zero for a count.
    pub fn duration(self) -> std::time::Duration {
        match self {
            Self::For(span) => span.duration(),
            Self::Count { .. } => std::time::Duration::ZERO,
        }
    }
}

impl Needs {
    /// Whether a reading with these values is relevant.
    pub fn are_met_by(&self, values: &[Value]) -> bool {
        let is_met = |(field, kind): &(usize, Option<Kind>)| {
            let found = values.get(*field).and_then(Value::kind);
            found.is_some() && (kind.is_none() || *kind == found)
        };
        self.nothing || self.fields.iter().any(is_met)
    }

    /// Whether a needed field has a number that cannot be evaluated.
    pub fn are_invalid_in(&self, values: &[Value]) -> bool {
        self.fields.iter().any(|(field, _)| values.get(*field) == Some(&Value::Invalid))
    }

    /// Returns the same needs with fields at other indexes: `slots` maps each old index to the new one.
    #[must_use]
    pub fn mapped(&self, slots: &[usize]) -> Self {
        let fields = self.fields.iter().filter_map(|(field, kind)| Some((*slots.get(*field)?, *kind))).collect();
        Self { nothing: self.nothing, fields }
    }
}

impl Rule {
    /// Whether it applies to a thing.
    pub fn applies_to(&self, thing: &ThingName) -> bool {
        self.things.iter().any(|pattern| pattern.matches(thing))
    }

    /// The field that messages name.
    pub fn field(&self) -> String {
        self.fields.first().map_or_else(String::new, Pointer::to_string)
    }

    /// Returns the meaning of a state under this rule for a thing with these overrides, as JSON: the conditions, but
    /// not how long or how often they must be met. A rule with another definition starts with new states.
    ///
    /// A rule that a threshold could express has the definition of that threshold, so that moving to version 2 keeps
    /// states.
    pub fn definition(&self, overrides: &[Value]) -> String {
        if let Some(definition) = self.as_threshold(overrides) {
            return serde_json::to_string(&definition).unwrap_or_default();
        }
        let levels: Vec<_> = self
            .levels
            .iter()
            .map(|level| {
                let [raise, clear] =
                    [&level.raise, &level.clear].map(|sustained| self.canonical(&sustained.when, overrides));
                json!([level.severity, raise, clear])
            })
            .collect();
        let digest = digest(&SHA256, json!(levels).to_string().as_bytes());
        let half: [u8; 16] = digest.as_ref().first_chunk().copied().unwrap_or_default();
        json!({"field": self.field(), "conditions": format!("{:032x}", u128::from_be_bytes(half))}).to_string()
    }

    fn as_threshold(&self, overrides: &[Value]) -> Option<Definition> {
        let [Level { severity: Severity::Major, raise, clear }] = &self.levels[..] else { return None };
        let side = |sustained: &Sustained| {
            let Condition::Compare { left: Left::Field(field), op, right } = &sustained.when else { return None };
            let limit = match right {
                Right::Value(value) => value,
                Right::Override(index) => overrides.get(*index)?,
                Right::Field(_) => return None,
            };
            let Value::Number(limit) = limit else { return None };
            match op {
                Op::Greater => Some((*field, Side::Above((**limit).clone()))),
                Op::Less => Some((*field, Side::Below((**limit).clone()))),
                _ => None,
            }
        };
        let ((raised, raise), (cleared, clear)) = (side(raise)?, side(clear)?);
        let are_opposite =
            matches!((&raise, &clear), (Side::Above(_), Side::Below(_)) | (Side::Below(_), Side::Above(_)));
        (raised == cleared && are_opposite).then(|| Definition { field: self.field(), raise, clear })
    }

    /// Returns a JSON value that is the same for conditions with the same meaning and structure.
    fn canonical(&self, condition: &Condition, overrides: &[Value]) -> serde_json::Value {
        let field = |index: usize| self.fields.get(index).map_or_else(String::new, Pointer::to_string);
        let all = |conditions: &[Condition]| -> Vec<_> {
            conditions.iter().map(|condition| self.canonical(condition, overrides)).collect()
        };
        match condition {
            Condition::Compare { left, op, right } => {
                let left = match left {
                    Left::Field(index) => json!(field(*index)),
                    Left::Operand(index) => match self.operands.get(*index) {
                        Some(Operand { field: of, kind: OperandKind::Change(per) }) => {
                            json!(["change", field(*of), per])
                        }
                        Some(Operand { field: of, kind: OperandKind::Window(statistic, over) }) => {
                            json!([statistic, field(*of), over])
                        }
                        None => json!(null),
                    },
                };
                let right = match right {
                    Right::Value(value) => json!(["value", value.canonical()]),
                    Right::Override(index) => {
                        json!(["value", overrides.get(*index).map(Value::canonical)])
                    }
                    Right::Field(index) => json!(["field", field(*index)]),
                };
                json!([left, format!("{op:?}"), right])
            }
            Condition::Is { field: index, present } => json!([field(*index), present]),
            Condition::All(conditions) => json!({"all": all(conditions)}),
            Condition::Any(conditions) => json!({"any": all(conditions)}),
            Condition::Not(condition) => json!({"not": self.canonical(condition, overrides)}),
        }
    }
}
