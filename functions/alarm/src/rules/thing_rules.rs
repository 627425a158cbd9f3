use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use super::condition::Context;
use super::rule::{Needs, Rule};
use super::value::Value;
use crate::pointer::Pointer;

/// The rules that apply to a thing, prepared for its readings.
#[derive(Debug, Default)]
pub struct ThingRules {
    /// The rules, in the document's order.
    pub rules: Vec<ThingRule>,
    /// The fields that they read, without duplicates.
    pub fields: Vec<Pointer>,
    /// The rules' distinct needs: when a reading is relevant to a rule. Many rules have the same needs.
    pub series: Vec<Needs>,
    by_name: HashMap<String, usize>,
}

/// A rule as it applies to a thing.
#[derive(Debug, Clone)]
pub struct ThingRule {
    rule: Arc<Rule>,
    /// For each field of the rule, its index in [`ThingRules::fields`].
    slots: Vec<usize>,
    /// The thing's values for the rule's overrides.
    pub overrides: Vec<Value>,
    /// The meaning of a state under this rule, as JSON: see [`Rule::definition`].
    pub definition: String,
    /// The index of its needs in [`ThingRules::series`].
    pub series: usize,
}

impl ThingRules {
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = &'a Arc<Rule>>,
        overrides: Option<&BTreeMap<String, Value>>,
    ) -> Self {
        let mut all = Self::default();
        let (mut slots_by_field, mut series_by_needs) = (HashMap::new(), HashMap::new());
        for rule in rules {
            let slot = |field: &Pointer| {
                *slots_by_field.entry(field.clone()).or_insert_with(|| {
                    all.fields.push(field.clone());
                    all.fields.len() - 1
                })
            };
            let slots: Vec<_> = rule.fields.iter().map(slot).collect();
            let needs = rule.needs.mapped(&slots);
            let series = *series_by_needs.entry(needs.clone()).or_insert_with(|| {
                all.series.push(needs);
                all.series.len() - 1
            });
            let own =
                |(name, default): &(String, Value)| overrides.and_then(|own| own.get(name)).unwrap_or(default).clone();
            let overrides: Vec<_> = rule.overrides.iter().map(own).collect();
            let definition = rule.definition(&overrides);
            all.by_name.insert(rule.name.clone(), all.rules.len());
            all.rules.push(ThingRule { rule: Arc::clone(rule), slots, overrides, definition, series });
        }
        all
    }

    /// Returns the rule of this name.
    pub fn get(&self, name: &str) -> Option<&ThingRule> {
        self.by_name.get(name).and_then(|index| self.rules.get(*index))
    }
}

impl ThingRule {
    /// Returns the values to evaluate its conditions on: a reading's, and those of the rule's operands.
    pub fn context<'a>(&'a self, values: &'a [Value], operands: &'a [Option<f64>]) -> Context<'a> {
        Context { values, slots: &self.slots, operands, overrides: &self.overrides }
    }

    /// Returns the value that messages repeat, which is that of the rule's first field.
    pub fn value(&self, values: &[Value]) -> Value {
        self.context(values, &[]).field(0).shortened()
    }
}

impl Deref for ThingRule {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        &self.rule
    }
}
