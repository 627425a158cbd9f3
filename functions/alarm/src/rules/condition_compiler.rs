//! Validates conditions and compiles them.

use gatehouse::ValidationError;

use super::compile::{NAME, check_pointer, error, is_name};
use super::condition::{Condition, Left, Op, Right};
use super::fields::{ConditionFields, Presence};
use super::operand::{Operand, OperandKind};
use super::rule::Needs;
use super::value::{Kind, Literal, Value};
use crate::pointer::Pointer;

const MAX_DEPTH: usize = 5;
const MAX_LEAVES: usize = 32;

/// Compiles the conditions of one rule, and collects the fields, operands and overrides that they share.
#[derive(Debug, Default)]
pub(super) struct ConditionCompiler {
    pub fields: Vec<Pointer>,
    pub operands: Vec<Operand>,
    pub overrides: Vec<(String, Value)>,
    pub needs: Needs,
    leaves: usize,
}

fn index_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|other| *other == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

impl ConditionCompiler {
    /// Returns the index of a field, which is added if it is new.
    pub fn field(&mut self, pointer: &Pointer) -> usize {
        index_of(&mut self.fields, pointer.clone())
    }

    /// Compiles a condition at this nesting depth.
    pub fn compile(
        &mut self,
        fields: &ConditionFields,
        path: &str,
        depth: usize,
    ) -> Result<Condition, ValidationError> {
        const ONE: &str = "It must have exactly one of `field`, `change`, `window`, `all`, `any` and `not`.";
        if depth > MAX_DEPTH {
            return Err(error(path, "Conditions must be nested at most 5 levels deep."));
        }
        let ConditionFields { field, change, window, all, any, not, .. } = fields;
        let kinds = [field.is_some(), change.is_some(), window.is_some(), all.is_some(), any.is_some(), not.is_some()];
        if kinds.into_iter().filter(|present| *present).count() != 1 {
            return Err(error(path, ONE));
        }
        let is_combination = all.is_some() || any.is_some() || not.is_some();
        if is_combination {
            let has_more = fields.op.is_some()
                || fields.value.is_some()
                || fields.other_field.is_some()
                || fields.override_name.is_some()
                || fields.default.is_some()
                || fields.is.is_some();
            if has_more {
                return Err(error(path, "A combination of conditions must have no other field."));
            }
        }
        if let Some(conditions) = all {
            return Ok(Condition::All(self.compile_all(conditions, &format!("{path}.all"), depth)?));
        }
        if let Some(conditions) = any {
            return Ok(Condition::Any(self.compile_all(conditions, &format!("{path}.any"), depth)?));
        }
        if let Some(condition) = not {
            return Ok(Condition::Not(Box::new(self.compile(condition, &format!("{path}.not"), depth + 1)?)));
        }
        self.leaves += 1;
        if self.leaves > MAX_LEAVES {
            return Err(error(path, "A rule must have at most 32 comparisons."));
        }
        self.compile_leaf(fields, path)
    }

    fn compile_all(
        &mut self,
        conditions: &[ConditionFields],
        path: &str,
        depth: usize,
    ) -> Result<Vec<Condition>, ValidationError> {
        if !(1..=MAX_LEAVES).contains(&conditions.len()) {
            return Err(error(path, "It must have 1 to 32 conditions."));
        }
        let conditions = conditions.iter().enumerate();
        conditions.map(|(index, condition)| self.compile(condition, &format!("{path}[{index}]"), depth + 1)).collect()
    }

    fn compile_leaf(&mut self, fields: &ConditionFields, path: &str) -> Result<Condition, ValidationError> {
        let ConditionFields { field, op, value, other_field, override_name, default, is, .. } = fields;
        let has_right = value.is_some() || other_field.is_some() || override_name.is_some() || default.is_some();
        if let Some(presence) = is {
            let Some(field) = field.as_ref().filter(|_| op.is_none() && !has_right) else {
                return Err(error(path, "`is` must be beside `field`, and no other field."));
            };
            check_pointer(field, &format!("{path}.field"))?;
            self.needs.nothing = true;
            return Ok(Condition::Is { field: self.field(field), present: *presence == Presence::Present });
        }
        let left = self.left(fields, path)?;
        let Some(op) = *op else { return Err(error(path, "It must have `op`, or `is` beside `field`.")) };
        let right = match (value, other_field, override_name, default) {
            (Some(Literal(value)), None, None, None) => {
                check_kind(value, left, op, &format!("{path}.value"))?;
                Right::Value(value.clone())
            }
            (None, Some(other), None, None) => {
                check_pointer(other, &format!("{path}.otherField"))?;
                Right::Field(self.field(other))
            }
            (None, None, Some(name), Some(Literal(default))) => {
                if !is_name(name) {
                    return Err(error(format!("{path}.override"), NAME));
                }
                check_kind(default, left, op, &format!("{path}.default"))?;
                Right::Override(self.override_index(name, default, path)?)
            }
            _ => {
                let why = "It must have exactly one of `value`, `otherField`, and `override` with `default`.";
                return Err(error(path, why));
            }
        };
        self.add_needs(left, &right);
        Ok(Condition::Compare { left, op, right })
    }

    fn left(&mut self, fields: &ConditionFields, path: &str) -> Result<Left, ValidationError> {
        let operand = match (&fields.field, &fields.change, &fields.window) {
            (Some(field), ..) => {
                check_pointer(field, &format!("{path}.field"))?;
                return Ok(Left::Field(self.field(field)));
            }
            (_, Some(change), _) => (&change.field, OperandKind::Change(change.per), "change"),
            (.., Some(window)) => (&window.field, OperandKind::Window(window.of, window.over), "window"),
            // Unreachable: the caller has checked that there is one.
            (None, None, None) => return Err(error(path, "It must have a left-hand side.")),
        };
        let (field, kind, name) = operand;
        check_pointer(field, &format!("{path}.{name}.field"))?;
        if kind.length().is_zero() {
            return Err(error(format!("{path}.{name}"), "Its time must not be 0 s."));
        }
        let field = self.field(field);
        Ok(Left::Operand(index_of(&mut self.operands, Operand { field, kind })))
    }

    fn override_index(&mut self, name: &str, default: &Value, path: &str) -> Result<usize, ValidationError> {
        if self.overrides.iter().any(|(known, other)| known == name && other != default) {
            return Err(error(format!("{path}.default"), "The override has another default elsewhere in the rule."));
        }
        Ok(index_of(&mut self.overrides, (name.to_owned(), default.clone())))
    }

    fn add_needs(&mut self, left: Left, right: &Right) {
        let kind = match right {
            Right::Value(value) => value.kind(),
            Right::Override(index) => self.overrides.get(*index).and_then(|(_, default)| default.kind()),
            Right::Field(_) => None,
        };
        let need = match left {
            Left::Field(field) => Some((field, kind)),
            Left::Operand(index) => self.operands.get(index).map(|operand| (operand.field, Some(Kind::Number))),
        };
        if let Some(need) = need {
            index_of(&mut self.needs.fields, need);
        }
    }
}

fn check_kind(value: &Value, left: Left, op: Op, path: &str) -> Result<(), ValidationError> {
    let is_number = value.kind() == Some(Kind::Number);
    if !is_number && matches!(left, Left::Operand(_)) {
        return Err(error(path, "It must be a number, as `change` and `window` are."));
    }
    if !is_number && op.needs_order() {
        return Err(error(path, "It must be a number; strings and booleans can only be compared with == and !=."));
    }
    Ok(())
}

impl Condition {
    /// Whether both conditions compare the same field with a number, in opposite directions, and some value would meet
    /// both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (
            Self::Compare { left: Left::Field(one), op: first, right: Right::Value(Value::Number(limit)) },
            Self::Compare { left: Left::Field(two), op: second, right: Right::Value(Value::Number(clear)) },
        ) = (self, other)
        else {
            return false;
        };
        let is_open = matches!(first, Op::Greater | Op::Less) || matches!(second, Op::Greater | Op::Less);
        let (low, high) = match (first, second) {
            (Op::Greater | Op::GreaterOrEqual, Op::Less | Op::LessOrEqual) => (limit, clear),
            (Op::Less | Op::LessOrEqual, Op::Greater | Op::GreaterOrEqual) => (clear, limit),
            _ => return false,
        };
        one == two && (low < high || (low == high && !is_open))
    }
}
