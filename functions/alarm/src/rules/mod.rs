//! Alarm rules: the document that operators upload, compiled once per version, and the rules that apply to a thing.
//!
//! There are two versions. A document of version 1 has [`thresholds`](crate::thresholds), each of which is compiled to
//! a rule with the one severity `major`. A document of version 2 ([`AlarmRules`]) has conditions over any fields of a
//! reading ([`condition`]), several severities, and a policy for notifications ([`notify`]).
//!
//! Both are compiled to [`Rules`]. [`ThingRules`] is the part that applies to one thing: the rules, the fields that
//! they read without duplicates, and which rules need the same fields. It is cached, so that patterns are not matched
//! for each reading.

mod compile;
pub mod condition;
mod condition_compiler;
mod document;
mod fields;
pub mod notify;
pub mod operand;
pub mod rule;
mod thing_rules;
pub mod value;
mod version1;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use gatehouse::ThingName;

pub use document::RulesDocument;
pub use fields::AlarmRules;
pub use rule::{Hold, Level, Rule};
pub use thing_rules::{ThingRule, ThingRules};
pub use value::Value;

/// The maximum number of cached entries. The cache is cleared when it is full.
const MAX_CACHED_THINGS: usize = 20_000;

/// The values of things that replace rules' defaults, by the override's name.
type Overrides = HashMap<ThingName, BTreeMap<String, Value>>;

/// The compiled rules of a document.
#[derive(Debug, Default)]
pub struct Rules {
    all: Vec<Arc<Rule>>,
    overrides: Overrides,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    by_thing: HashMap<ThingName, Arc<ThingRules>>,
    /// By the indexes of the rules, for things without overrides.
    by_rules: HashMap<Vec<usize>, Arc<ThingRules>>,
}

impl Rules {
    fn new(rules: Vec<Rule>, overrides: Overrides) -> Self {
        Self { all: rules.into_iter().map(Arc::new).collect(), overrides, cache: Mutex::default() }
    }

    /// All rules, in the document's order.
    pub fn all(&self) -> &[Arc<Rule>] {
        &self.all
    }

    /// Returns the rules that apply to this thing.
    pub fn for_thing(&self, thing: &ThingName) -> Arc<ThingRules> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = cache.by_thing.get(thing) {
            return Arc::clone(found);
        }
        let indexes = self.all.iter().enumerate().filter(|(_, rule)| rule.applies_to(thing));
        let indexes: Vec<_> = indexes.map(|(index, _)| index).collect();
        let compile = |overrides| {
            let rules = indexes.iter().filter_map(|index| self.all.get(*index));
            Arc::new(ThingRules::new(rules, overrides))
        };
        let found = if let Some(overrides) = self.overrides.get(thing) {
            compile(Some(overrides))
        } else if let Some(found) = cache.by_rules.get(&indexes) {
            Arc::clone(found)
        } else {
            let found = compile(None);
            if cache.by_rules.len() >= MAX_CACHED_THINGS {
                cache.by_rules.clear();
            }
            cache.by_rules.insert(indexes.clone(), Arc::clone(&found));
            found
        };
        if cache.by_thing.len() >= MAX_CACHED_THINGS {
            cache.by_thing.clear();
        }
        cache.by_thing.insert(thing.clone(), Arc::clone(&found));
        found
    }
}
