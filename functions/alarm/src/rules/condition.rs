//! Compiled conditions over a reading, in Kleene's three-valued logic: a comparison with a field that is missing or of
//! another type is unknown.

use std::cmp::Ordering;

use serde::Deserialize;

use super::value::Value;

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Compares two values.
    Compare {
        /// The left-hand side.
        left: Left,
        /// How they are compared.
        op: Op,
        /// The right-hand side.
        right: Right,
    },
    /// Checks whether the reading has a field.
    Is {
        /// The field, by its index in the rule.
        field: usize,
        /// Whether it must be present, or missing.
        present: bool,
    },
    /// All of these.
    All(Vec<Condition>),
    /// At least one of these.
    Any(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Op {
    /// Greater.
    #[serde(rename = ">")]
    Greater,
    /// Greater or equal.
    #[serde(rename = ">=")]
    GreaterOrEqual,
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Less or equal.
    #[serde(rename = "<=")]
    LessOrEqual,
    /// Equal.
    #[serde(rename = "==")]
    Equal,
    /// Not equal.
    #[serde(rename = "!=")]
    NotEqual,
}

/// The left-hand side of a comparison, by its index in the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// A field of the reading.
    Field(usize),
    /// The value of an operand, computed from this and earlier readings.
    Operand(usize),
}

/// The right-hand side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Right {
    /// A constant.
    Value(Value),
    /// Another field of the reading, by its index in the rule.
    Field(usize),
    /// The thing's value of an override, by the override's index in the rule.
    Override(usize),
}

/// The values that a condition is evaluated on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The values of the reading's fields.
    pub values: &'a [Value],
    /// For each field of the rule, its index in `values`.
    pub slots: &'a [usize],
    /// The values of the rule's operands.
    pub operands: &'a [Option<f64>],
    /// The thing's values for the rule's overrides.
    pub overrides: &'a [Value],
}

impl<'a> Context<'a> {
    /// The value of a field of the rule.
    pub fn field(&self, index: usize) -> &'a Value {
        self.slots.get(index).and_then(|slot| self.values.get(*slot)).unwrap_or(&Value::Missing)
    }
}

impl Op {
    /// Whether it needs an order, which strings and booleans do not have.
    pub fn needs_order(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
        }
    }

    fn compare(self, left: &Value, right: &Value) -> Option<bool> {
        match (left, right) {
            (Value::Number(left), Value::Number(right)) => Some(self.holds(left.cmp(right))),
            (Value::Text(left), Value::Text(right)) => (!self.needs_order()).then(|| self.holds(left.cmp(right))),
            (Value::Boolean(left), Value::Boolean(right)) => (!self.needs_order()).then(|| self.holds(left.cmp(right))),
            _ => None,
        }
    }
}

impl Condition {
    /// Whether the condition is met; `None` if that is unknown.
    pub fn evaluate(&self, context: &Context<'_>) -> Option<bool> {
        match self {
            Self::Compare { left, op, right } => {
                let right = match right {
                    Right::Value(value) => value,
                    Right::Field(field) => context.field(*field),
                    Right::Override(index) => context.overrides.get(*index)?,
                };
                match left {
                    Left::Field(field) => op.compare(context.field(*field), right),
                    Left::Operand(index) => {
                        let left = context.operands.get(*index).copied().flatten()?;
                        left.partial_cmp(&right.nearest()?).map(|order| op.holds(order))
                    }
                }
            }
            Self::Is { field, present } => Some((*context.field(*field) == Value::Missing) != *present),
            Self::All(conditions) => kleene(conditions, context, false),
            Self::Any(conditions) => kleene(conditions, context, true),
            Self::Not(condition) => condition.evaluate(context).map(|met| !met),
        }
    }
}

/// Combines conditions in Kleene's logic: `deciding` if any condition evaluates to it; otherwise unknown if any is
/// unknown; otherwise the opposite.
fn kleene(conditions: &[Condition], context: &Context<'_>, deciding: bool) -> Option<bool> {
    let mut result = Some(!deciding);
    for condition in conditions {
        match condition.evaluate(context) {
            Some(met) if met == deciding => return Some(deciding),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        Value::from_json(json).expect("a value")
    }

    fn compare(left: &str, op: Op, right: &str) -> Option<bool> {
        op.compare(&value(left), &value(right))
    }

    #[test]
    fn numbers_are_compared_exactly_and_other_types_for_equality() {
        assert_eq!(compare("10", Op::Equal, "10.0"), Some(true));
        assert_eq!(compare("35000.0000000000000001", Op::Greater, "35000"), Some(true));
        assert_eq!(compare("1", Op::GreaterOrEqual, "1"), Some(true));
        assert_eq!(compare("\"open\"", Op::Equal, "\"open\""), Some(true));
        assert_eq!(compare("\"open\"", Op::NotEqual, "\"Open\""), Some(true));
        assert_eq!(compare("true", Op::NotEqual, "true"), Some(false));
    }

    #[test]
    fn other_types_are_unknown() {
        for (left, op, right) in [
            ("1", Op::Equal, "\"1\""),
            ("1", Op::NotEqual, "true"),
            ("null", Op::NotEqual, "1"),
            ("\"a\"", Op::Less, "\"b\""),
            ("false", Op::Less, "true"),
        ] {
            assert_eq!(compare(left, op, right), None, "{left} and {right}");
        }
    }

    #[test]
    fn unknown_follows_kleene() {
        let context = Context { values: &[], slots: &[], operands: &[], overrides: &[] };
        let unknown = || Condition::Compare { left: Left::Field(0), op: Op::Equal, right: Right::Field(1) };
        let of = |met: bool| Condition::Is { field: 0, present: !met };
        assert_eq!(unknown().evaluate(&context), None);
        for (conditions, all, any) in [
            (vec![of(true), of(true)], Some(true), Some(true)),
            (vec![of(true), of(false)], Some(false), Some(true)),
            (vec![unknown(), of(true)], None, Some(true)),
            (vec![unknown(), of(false)], Some(false), None),
            (vec![unknown(), unknown()], None, None),
        ] {
            assert_eq!(Condition::All(conditions.clone()).evaluate(&context), all, "all of {conditions:?}");
            assert_eq!(Condition::Any(conditions.clone()).evaluate(&context), any, "any of {conditions:?}");
        }
        assert_eq!(Condition::Not(Box::new(unknown())).evaluate(&context), None);
        assert_eq!(Condition::Not(Box::new(of(true))).evaluate(&context), Some(false));
    }
}
