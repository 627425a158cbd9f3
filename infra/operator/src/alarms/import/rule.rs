//! The rules that an import prints.

use gatehouse::{Severity, Span, ThingPattern};
use serde::Serialize;

use crate::alarms::import::expression::{Comparison, Expression, Field, Literal, Operator};

/// The document, in version 2.
#[derive(Debug, Serialize)]
pub struct Document {
    /// The schema's version.
    pub version: u8,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The things that it applies to.
    pub things: ThingPattern,
    /// Its one severity.
    pub severities: [Level; 1],
    /// Whether clearing needs an acknowledgment.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub latch: bool,
    /// Whether its alarms are disabled until an operator enables them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub start_disabled: bool,
}

/// A severity with its conditions.
#[derive(Debug, Serialize)]
pub struct Level {
    /// The severity.
    pub severity: Severity,
    /// What raises it.
    pub raise: Sustained,
    /// What clears it; `None` is the opposite of `raise`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear: Option<Sustained>,
}

/// A condition, and how long or how often it must hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sustained {
    /// The condition.
    pub when: Condition,
    /// How long it must hold.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub for_duration: Option<Span>,
    /// How many readings must meet it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
}

/// `n` of the last `of` readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The number that must meet the condition.
    pub n: u64,
    /// The number of latest readings to look at.
    pub of: u64,
}

impl Sustained {
    /// A condition that one reading is enough for.
    pub fn at_once(when: Condition) -> Self {
        Self { when, for_duration: Some(Span::from_secs(0)), count: None }
    }
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Condition {
    Value {
        field: String,
        op: Comparison,
        value: Literal,
    },
    #[serde(rename_all = "camelCase")]
    OtherField {
        field: String,
        op: Comparison,
        other_field: String,
    },
    Is {
        field: String,
        is: Presence,
    },
    All {
        all: Vec<Condition>,
    },
    Any {
        any: Vec<Condition>,
    },
}

/// Whether a field is in a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Present,
    Missing,
}

impl Condition {
    /// Converts an expression, or returns why rules cannot express it. All fields must be of `input`; the first one
    /// sets it.
    pub fn of(expression: &Expression, input: &mut Option<String>) -> Result<Self, String> {
        match expression {
            Expression::Binary(left, Operator::And, right) => {
                let all = Self::both(left, right, input, Operator::And)?;
                Ok(Self::All { all })
            }
            Expression::Binary(left, Operator::Or, right) => {
                let any = Self::both(left, right, input, Operator::Or)?;
                Ok(Self::Any { any })
            }
            Expression::Not(inner) => Ok(Self::of(inner, input)?.negated()),
            Expression::IsUndefined(field) => Ok(Self::Is { field: pointer(field, input)?, is: Presence::Missing }),
            Expression::Field(field) => {
                Ok(Self::Value { field: pointer(field, input)?, op: Comparison::Equal, value: Literal::Boolean(true) })
            }
            Expression::Binary(left, Operator::Compare(op), right) => Self::comparison(left, *op, right, input),
            Expression::Variable(name) => Err(format!("it depends on the variable {name}")),
            Expression::Timeout(timer) => Err(format!("it depends on the timer {timer}")),
            Expression::Literal(_) | Expression::Binary(..) => Err("it is not a comparison".to_owned()),
        }
    }

    fn both(
        left: &Expression,
        right: &Expression,
        input: &mut Option<String>,
        operator: Operator,
    ) -> Result<Vec<Self>, String> {
        let mut parts = Vec::new();
        for side in [left, right] {
            match (Self::of(side, input)?, operator) {
                (Self::All { all }, Operator::And) => parts.extend(all),
                (Self::Any { any }, Operator::Or) => parts.extend(any),
                (part, _) => parts.push(part),
            }
        }
        Ok(parts)
    }

    /// Converts the comparison of a field with a value, or with another field of the same message.
    pub fn comparison(
        left: &Expression,
        op: Comparison,
        right: &Expression,
        input: &mut Option<String>,
    ) -> Result<Self, String> {
        match (left, right) {
            (Expression::Field(left), Expression::Field(right)) => {
                Ok(Self::OtherField { field: pointer(left, input)?, op, other_field: pointer(right, input)? })
            }
            (Expression::Field(field), Expression::Literal(value)) => {
                if op.is_ordering() && !matches!(value, Literal::Number(_)) {
                    return Err(format!("rules compare only numbers with {op}"));
                }
                Ok(Self::Value { field: pointer(field, input)?, op, value: value.clone() })
            }
            (Expression::Literal(_), Expression::Field(_)) => Self::comparison(right, op.mirrored(), left, input),
            (Expression::Variable(name), _) | (_, Expression::Variable(name)) => {
                Err(format!("it depends on the variable {name}"))
            }
            _ => Err("it does not compare a field of the message with a constant or another field".to_owned()),
        }
    }

    /// Returns the opposite. Negates a comparison through its operator, so that equivalent conditions are equal.
    #[must_use]
    pub fn negated(&self) -> Self {
        let each = |parts: &[Self]| parts.iter().map(Self::negated).collect();
        match self.clone() {
            Self::Value { field, op, value } => Self::Value { field, op: op.negated(), value },
            Self::OtherField { field, op, other_field } => Self::OtherField { field, op: op.negated(), other_field },
            Self::Is { field, is: Presence::Missing } => Self::Is { field, is: Presence::Present },
            Self::Is { field, is: Presence::Present } => Self::Is { field, is: Presence::Missing },
            Self::All { all } => Self::Any { any: each(&all) },
            Self::Any { any } => Self::All { all: each(&any) },
        }
    }
}

/// Returns the field's pointer. All fields must be of the same input, because a reading is one message.
fn pointer(field: &Field, input: &mut Option<String>) -> Result<String, String> {
    let known = input.get_or_insert_with(|| field.input.clone());
    if *known != field.input {
        return Err(format!(
            "it compares messages of two inputs, {known} and {}; a rule sees one reading",
            field.input
        ));
    }
    Ok(field.pointer.clone())
}
