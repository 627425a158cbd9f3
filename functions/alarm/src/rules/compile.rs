//! Validates rules of version 2 and compiles them.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use gatehouse::{Severity, Span, ThingName, ThingPattern, ValidationError};

use super::condition::Condition;
use super::condition_compiler::ConditionCompiler;
use super::fields::{AlarmRules, NotifyFields, QuietFields, RuleFields, SeverityFields, SideFields, ThingsFields};
use super::notify::{NotifyPolicy, Part, QuietHours, Template};
use super::rule::{Hold, Level, Rule, Sustained};
use super::value::{Literal, Value};
use super::{Overrides, Rules};
use crate::pointer::{MAX_POINTER_LENGTH, Pointer};
use crate::thresholds::{MAX_NAME_LENGTH, MAX_THRESHOLDS};

const MAX_GROUPS: usize = 100;
const MAX_PATTERNS: usize = 1000;
const MAX_SEVERITIES: usize = 5;
const MAX_COUNT: u32 = 32;
const MAX_TEXT_LENGTH: usize = 500;
const MIN_REPEAT: Duration = Duration::from_mins(1);
const MIN_NEVER_REPORTED: Duration = Duration::from_mins(10);

pub(super) fn error(path: impl Into<String>, why: impl Into<String>) -> ValidationError {
    ValidationError::new(path, why)
}

/// Whether this is a valid name of a rule, a group or an override.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_NAME_LENGTH).contains(&name.len()) && name.bytes().all(allowed)
}

pub(super) const NAME: &str = "A name must be 1 to 64 of the characters a-z 0-9 -.";

pub(super) fn check_pointer(pointer: &Pointer, path: &str) -> Result<(), ValidationError> {
    if pointer.length() > MAX_POINTER_LENGTH {
        return Err(error(path, "A pointer must have at most 256 characters."));
    }
    Ok(())
}

impl AlarmRules {
    /// Validates the document and compiles its rules.
    pub(super) fn compile(&self) -> Result<Rules, ValidationError> {
        if self.version != 2 {
            return Err(error("version", "It must be 2."));
        }
        if self.rules.len() > MAX_THRESHOLDS {
            let why = format!("There are {} rules; the limit is {MAX_THRESHOLDS}.", self.rules.len());
            return Err(error("rules", why));
        }
        let none = BTreeMap::new();
        let groups = self.groups.as_ref().unwrap_or(&none);
        check_groups(groups)?;
        let mut names = HashSet::new();
        let mut rules = Vec::with_capacity(self.rules.len());
        for (index, fields) in self.rules.iter().enumerate() {
            let path = format!("rules[{index}]");
            rules.push(compile_rule(fields, groups, &path)?);
            if !names.insert(&fields.name) {
                return Err(error(format!("{path}.name"), "Another rule has this name."));
            }
        }
        let overrides = self.overrides.as_ref().map_or_else(|| Ok(Overrides::new()), |all| overrides(all, &rules))?;
        Ok(Rules::new(rules, overrides))
    }
}

fn check_groups(groups: &BTreeMap<String, Vec<ThingPattern>>) -> Result<(), ValidationError> {
    if groups.len() > MAX_GROUPS {
        return Err(error("groups", format!("There are {} groups; the limit is {MAX_GROUPS}.", groups.len())));
    }
    for (name, patterns) in groups {
        if !is_name(name) {
            return Err(error("groups", NAME));
        }
        if !(1..=MAX_PATTERNS).contains(&patterns.len()) {
            return Err(error(format!("groups.{name}"), "A group must have 1 to 1000 patterns."));
        }
    }
    Ok(())
}

/// Checks the table of overrides against the rules that use them.
fn overrides(
    table: &BTreeMap<String, BTreeMap<String, Literal>>,
    rules: &[Rule],
) -> Result<Overrides, ValidationError> {
    let mut parsed = Overrides::new();
    for (thing, values) in table {
        let Ok(name) = ThingName::new(thing.as_str()) else {
            return Err(error("overrides", "A thing's name must be 1 to 128 of the characters a-z A-Z 0-9 : _ -."));
        };
        for (override_name, Literal(value)) in values {
            if !is_name(override_name) {
                return Err(error(format!("overrides.{thing}"), NAME));
            }
            let path = || format!("overrides.{thing}.{override_name}");
            let mut uses = rules.iter().flat_map(|rule| &rule.overrides).filter(|(used, _)| used == override_name);
            let Some((_, default)) = uses.next() else {
                return Err(error(path(), "No rule has an override of this name."));
            };
            let is_alike = |other: &Value| other.kind() == value.kind();
            if !is_alike(default) || uses.any(|(_, default)| !is_alike(default)) {
                return Err(error(path(), "It must have the type of the defaults of this override."));
            }
        }
        let values = values.iter().map(|(name, Literal(value))| (name.clone(), value.clone())).collect();
        parsed.insert(name, values);
    }
    Ok(parsed)
}

fn compile_rule(
    fields: &RuleFields,
    groups: &BTreeMap<String, Vec<ThingPattern>>,
    path: &str,
) -> Result<Rule, ValidationError> {
    let at = |part: &str| format!("{path}{part}");
    if !is_name(&fields.name) {
        return Err(error(at(".name"), NAME));
    }
    let things = match &fields.things {
        ThingsFields::Pattern(pattern) => vec![pattern.clone()],
        ThingsFields::Group(group) if !is_name(group) => return Err(error(at(".things.group"), NAME)),
        ThingsFields::Group(group) => {
            groups.get(group).cloned().ok_or_else(|| error(at(".things.group"), "There is no group of this name."))?
        }
    };
    if !(1..=MAX_SEVERITIES).contains(&fields.severities.len()) {
        return Err(error(at(".severities"), "A rule must have 1 to 5 severities."));
    }
    let mut compiler = ConditionCompiler::default();
    let mut levels: Vec<Level> = Vec::new();
    for (index, severity) in fields.severities.iter().enumerate() {
        let path = at(&format!(".severities[{index}]"));
        if levels.last().is_some_and(|before| before.severity <= severity.severity) {
            let why = "Severities must be listed with the most severe first, each of them once.";
            return Err(error(format!("{path}.severity"), why));
        }
        levels.push(compile_level(severity, &mut compiler, &path)?);
    }
    check_stale(fields.stale, &levels, &at(".stale"))?;
    if fields.never_reported.is_some_and(|span| span.duration() < MIN_NEVER_REPORTED) {
        return Err(error(at(".neverReported"), "It must be at least 10 min."));
    }
    let notify = fields.notify.as_ref();
    let notify = notify
        .map_or_else(|| Ok(NotifyPolicy::default()), |notify| compile_notify(notify, &mut compiler, &at(".notify")))?;
    let ConditionCompiler { fields: pointers, operands, overrides, needs, .. } = compiler;
    Ok(Rule {
        name: fields.name.clone(),
        things,
        levels,
        fields: pointers,
        operands,
        overrides,
        needs,
        stale: fields.stale,
        never_reported: fields.never_reported,
        latch: fields.latch.unwrap_or_default(),
        start_disabled: fields.start_disabled.unwrap_or_default(),
        notify,
    })
}

fn check_stale(stale: Option<Span>, levels: &[Level], path: &str) -> Result<(), ValidationError> {
    let longest = levels.iter().flat_map(|level| [level.raise.hold, level.clear.hold]).map(Hold::duration).max();
    if stale.is_some_and(|stale| stale.duration() <= longest.unwrap_or_default()) {
        return Err(error(path, "It must be longer than every `for`."));
    }
    Ok(())
}

fn compile_level(
    fields: &SeverityFields,
    compiler: &mut ConditionCompiler,
    path: &str,
) -> Result<Level, ValidationError> {
    let raise = compile_side(&fields.raise, compiler, &format!("{path}.raise"))?;
    let clear = match &fields.clear {
        Some(clear) => compile_side(clear, compiler, &format!("{path}.clear"))?,
        None => Sustained { when: Condition::Not(Box::new(raise.when.clone())), hold: Hold::For(Span::from_secs(0)) },
    };
    if raise.when.overlaps(&clear.when) {
        let why = "Its limit is beyond that of `raise`: both conditions would be met at once.";
        return Err(error(format!("{path}.clear"), why));
    }
    Ok(Level { severity: fields.severity, raise, clear })
}

fn compile_side(
    fields: &SideFields,
    compiler: &mut ConditionCompiler,
    path: &str,
) -> Result<Sustained, ValidationError> {
    let hold = match (fields.for_duration, fields.count) {
        (Some(_), Some(_)) => return Err(error(path, "It must not have both `for` and `count`.")),
        (_, Some(count)) => {
            if !(1..=MAX_COUNT).contains(&count.n) {
                return Err(error(format!("{path}.count.n"), "It must be 1 to 32."));
            }
            if !(1..=MAX_COUNT).contains(&count.of) {
                return Err(error(format!("{path}.count.of"), "It must be 1 to 32."));
            }
            if count.n > count.of {
                return Err(error(format!("{path}.count.n"), "It must not be greater than `of`."));
            }
            Hold::Count { n: count.n, of: count.of }
        }
        (span, None) => Hold::For(span.unwrap_or(Span::from_secs(0))),
    };
    Ok(Sustained { when: compiler.compile(&fields.when, &format!("{path}.when"), 1)?, hold })
}

fn compile_notify(
    fields: &NotifyFields,
    compiler: &mut ConditionCompiler,
    path: &str,
) -> Result<NotifyPolicy, ValidationError> {
    let check = |repeat: Option<Span>, path: String| match repeat {
        Some(repeat) if repeat.duration() < MIN_REPEAT => Err(error(path, "It must be at least 1 min.")),
        other => Ok(other),
    };
    let repeat = check(fields.repeat, format!("{path}.repeat"))?;
    let mut repeat_by_severity = Vec::new();
    for severity in Severity::ALL {
        let own = fields.severities.and_then(|own| own.of(severity)).and_then(|own| own.repeat);
        let own = check(own, format!("{path}.severities.{severity}.repeat"))?;
        repeat_by_severity.extend(own.map(|own| (severity, own)));
    }
    let quiet_hours = fields.quiet_hours.as_ref();
    let quiet_hours = quiet_hours.map(|quiet| compile_quiet_hours(quiet, &format!("{path}.quietHours"))).transpose()?;
    let text = fields.text.as_ref();
    let text = text.map(|text| compile_text(text, compiler, &format!("{path}.text"))).transpose()?;
    Ok(NotifyPolicy { repeat, repeat_by_severity, quiet_hours, text })
}

fn compile_quiet_hours(fields: &QuietFields, path: &str) -> Result<QuietHours, ValidationError> {
    let except = fields.except.clone().unwrap_or_default();
    if except.len() > MAX_SEVERITIES {
        return Err(error(format!("{path}.except"), "It must have at most 5 severities."));
    }
    let offset = fields.utc_offset.as_deref().unwrap_or("+00:00");
    let Some(hours) = QuietHours::parse(&fields.from, &fields.to, offset, except) else {
        return Err(error(path, "Times must be like 22:00, and `utcOffset` like +01:00."));
    };
    if hours.are_empty() {
        return Err(error(path, "`from` and `to` must differ."));
    }
    Ok(hours)
}

fn compile_text(text: &str, compiler: &mut ConditionCompiler, path: &str) -> Result<Template, ValidationError> {
    const PLACEHOLDER: &str = "A placeholder must be {thing}, {rule}, {severity}, a pointer such as {/lux}, or an \
                               override that the rule's conditions have.";
    if !(1..=MAX_TEXT_LENGTH).contains(&text.chars().count()) {
        return Err(error(path, "A text must have 1 to 500 characters."));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(|| error(path, PLACEHOLDER))?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(match name {
            "thing" => Part::Thing,
            "rule" => Part::Rule,
            "severity" => Part::Severity,
            _ => {
                if let Some(pointer) = Pointer::new(name) {
                    check_pointer(&pointer, path)?;
                    Part::Field(compiler.field(&pointer))
                } else {
                    let index = compiler.overrides.iter().position(|(known, _)| known == name);
                    Part::Override(index.ok_or_else(|| error(path, PLACEHOLDER))?)
                }
            }
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(Template(parts))
}
