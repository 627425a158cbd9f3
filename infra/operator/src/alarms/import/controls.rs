//! The variables and timers with which a detector model debounces a threshold.

use serde_json::Value;

use crate::alarms::import::expression::{Comparison, Expression, Literal, Operator};
use crate::alarms::import::model::{Action, Event};

/// Returns the operands of `&&`, or the expression itself.
pub(super) fn conjuncts(expression: &Expression) -> Vec<&Expression> {
    match expression {
        Expression::Binary(left, Operator::And, right) => [conjuncts(left), conjuncts(right)].concat(),
        other => vec![other],
    }
}

/// Returns the variable of an expression that depends on exactly one variable and on nothing else.
pub(super) fn variable_of(expression: &Expression) -> Option<&str> {
    match expression {
        Expression::Variable(name) => Some(name),
        Expression::Not(inner) => variable_of(inner),
        Expression::Binary(left, Operator::Compare(_), right) => match (left.as_ref(), right.as_ref()) {
            (Expression::Variable(name), Expression::Literal(_))
            | (Expression::Literal(_), Expression::Variable(name)) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// Parses the comparison of a variable with a whole number.
pub(super) fn count(expression: &Expression) -> Option<(String, Comparison, u64)> {
    let Expression::Binary(left, Operator::Compare(op), right) = expression else { return None };
    match (left.as_ref(), right.as_ref()) {
        (Expression::Variable(name), Expression::Literal(value)) => Some((name.clone(), *op, whole(value)?)),
        (Expression::Literal(value), Expression::Variable(name)) => Some((name.clone(), op.mirrored(), whole(value)?)),
        _ => None,
    }
}

fn whole(value: &Literal) -> Option<u64> {
    let Literal::Number(number) = value else { return None };
    number.as_str().parse().ok()
}

/// What an event does to a counter.
pub(super) enum Step {
    /// Adds this to it.
    By(i64),
    /// Sets it to this.
    To(u64),
}

/// Returns what an expression does to the variable that it is assigned to.
pub(super) fn step(value: &str, variable: &str) -> Option<Step> {
    match Expression::parse(value).ok()? {
        Expression::Literal(value) => whole(&value).map(Step::To),
        Expression::Binary(left, operator, right) if *left == Expression::Variable(variable.to_owned()) => {
            let Expression::Literal(value) = right.as_ref() else { return None };
            let by = i64::try_from(whole(value)?).ok()?;
            match operator {
                Operator::Add => Some(Step::By(by)),
                Operator::Subtract => Some(Step::By(by.checked_neg()?)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Returns whether an action changes a variable or a timer.
pub(super) fn is_control(action: &Action) -> bool {
    ["setVariable", "setTimer", "clearTimer", "resetTimer"].iter().any(|name| action.contains_key(*name))
}

/// Returns a text field of an action, if the action is of this kind.
pub(super) fn names<'a>(action: &'a Action, kind: &str, field: &str) -> Option<&'a str> {
    action.get(kind)?.get(field)?.as_str()
}

/// Returns the variables that an event sets, with the expressions of their values.
pub(super) fn variables(event: &Event) -> impl Iterator<Item = (&str, &str)> {
    event.actions.iter().filter_map(set_variable)
}

/// Returns the variable that an action sets, with the expression of its value.
pub(super) fn set_variable(action: &Action) -> Option<(&str, &str)> {
    Some((names(action, "setVariable", "variableName")?, names(action, "setVariable", "value")?))
}

/// Returns the timer that an action starts, with its duration in seconds, or why that is not known.
pub(super) fn set_timer(action: &Action) -> Option<(&str, Result<u64, String>)> {
    let name = names(action, "setTimer", "timerName")?;
    let settings = action.get("setTimer")?;
    let expression = settings.get("durationExpression").and_then(Value::as_str);
    let seconds = match expression {
        Some(text) => text.trim().parse().ok(),
        None => settings.get("seconds").and_then(Value::as_u64),
    };
    Some((name, seconds.ok_or_else(|| format!("the duration of the timer {name} is not a constant"))))
}
