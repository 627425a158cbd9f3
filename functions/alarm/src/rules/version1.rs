//! Compiles thresholds, the rules of version 1.

use gatehouse::{Number, Severity};

use super::condition::{Condition, Left, Op, Right};
use super::notify::NotifyPolicy;
use super::rule::{Hold, Level, Needs, Rule, Sustained};
use super::value::Kind;
use super::{Overrides, Rules};
use crate::thresholds::{Limit, Side, Threshold, Thresholds};

impl Thresholds {
    /// Returns the rules of a valid document.
    pub(super) fn compile(&self) -> Rules {
        Rules::new(self.thresholds.iter().filter_map(compile).collect(), Overrides::new())
    }
}

fn compile(threshold: &Threshold) -> Option<Rule> {
    let sustained = |limit: &Limit| {
        let compare =
            |op, limit: Number| Condition::Compare { left: Left::Field(0), op, right: Right::Value(limit.into()) };
        let when = match limit.side()? {
            Side::Above(limit) => compare(Op::Greater, limit),
            Side::Below(limit) => compare(Op::Less, limit),
        };
        Some(Sustained { when, hold: Hold::For(limit.for_duration) })
    };
    let level =
        Level { severity: Severity::Major, raise: sustained(&threshold.raise)?, clear: sustained(&threshold.clear)? };
    Some(Rule {
        name: threshold.name.clone(),
        things: vec![threshold.things.clone()],
        levels: vec![level],
        fields: vec![threshold.field.clone()],
        operands: Vec::new(),
        overrides: Vec::new(),
        needs: Needs { nothing: false, fields: vec![(0, Some(Kind::Number))] },
        stale: threshold.stale,
        never_reported: None,
        latch: false,
        start_disabled: false,
        notify: NotifyPolicy::default(),
    })
}
