//! `gatehouse alarms import`: turns models of AWS IoT Events into rules.
//!
//! - [`model`]: the models, as the AWS CLI prints them.
//! - [`expression`], with [`tokens`]: the models' expressions.
//! - [`alarm_model`] and [`detector_model`], with [`debounce`] and [`controls`]: the rule of a model.
//! - [`actions`]: what can replace a model's actions.
//! - [`rule`]: the rules, as they are printed.
//! - [`notes`]: what could not be carried over.

mod actions;
mod alarm_model;
mod controls;
mod debounce;
mod detector_model;
mod expression;
mod model;
mod notes;
mod rule;
mod tokens;

use std::collections::HashSet;
use std::path::PathBuf;

use alarm::rules::RulesDocument;
use anyhow::{Context as _, Result};
use clap::Args;
use gatehouse::{Severity, ThingPattern, parse_document};

use crate::alarms::import::model::Model;
use crate::alarms::import::notes::Notes;
use crate::alarms::import::rule::{Document, Rule};
use crate::output::{Output, escape_line};
use crate::status::Status;

/// Maximum length of a rule's name.
const MAX_NAME_LENGTH: usize = 64;

/// The arguments of `gatehouse alarms import`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Files with what `aws iotevents describe-alarm-model` or `describe-detector-model` printed.
    #[arg(required = true, value_name = "MODEL.json")]
    files: Vec<PathBuf>,
    /// The options.
    #[command(flatten)]
    options: ImportOptions,
}

/// What a model does not say.
#[derive(Debug, Clone, Args)]
pub struct ImportOptions {
    /// The things that the rules apply to; `*` matches any characters.
    #[arg(long, value_name = "THING", default_value = "*", value_parser = crate::selection::thing_pattern)]
    pub things: ThingPattern,
    /// What a severity's number means, such as `1=critical` (may be repeated). The default is 0 and 1=critical, 2=major,
    /// 3=minor, 4=warning, and info for all others.
    #[arg(long = "severity", value_name = "NUMBER=NAME", value_parser = severity)]
    pub severities: Vec<(u64, Severity)>,
}

fn severity(text: &str) -> Result<(u64, Severity), String> {
    let (number, name) = text.split_once('=').ok_or("it must be a number and a name, such as 1=critical")?;
    let number = number.trim().parse().map_err(|_| "the number must be a whole number of at least 0")?;
    let name = name.trim().to_lowercase();
    let severity = Severity::parse(&name)
        .ok_or_else(|| format!("the name must be one of {}", Severity::ALL.map(Severity::as_str).join(", ")))?;
    Ok((number, severity))
}

impl ImportOptions {
    /// Returns the severity that a number means. The default is `major`, as for thresholds.
    fn severity(&self, number: Option<u64>, notes: &mut Notes) -> Severity {
        let Some(number) = number else { return Severity::Major };
        let chosen = self.severities.iter().rev().find(|(of, _)| *of == number).map(|(_, severity)| *severity);
        let severity = chosen.unwrap_or(match number {
            0 | 1 => Severity::Critical,
            2 => Severity::Major,
            3 => Severity::Minor,
            4 => Severity::Warning,
            _ => Severity::Info,
        });
        if chosen.is_none() {
            let option =
                format!("{number} is {}; if it means something else, use --severity {number}=NAME", severity.as_str());
            notes.changed("severity", &option);
        }
        severity
    }
}

/// Returns the name of a model's rule.
fn rule_name(model: &str, notes: &mut Notes) -> String {
    let mut name = String::new();
    for c in model.chars() {
        // `TankLevel` becomes `tank-level`.
        let starts_word = c.is_ascii_uppercase() && name.ends_with(|c: char| c != '-' && !c.is_ascii_uppercase());
        if starts_word {
            name.push('-');
        }
        name.push(if c == '_' { '-' } else { c });
    }
    let name: String = name.to_ascii_lowercase().chars().take(MAX_NAME_LENGTH).collect();
    if name != model {
        notes.changed("name", &format!("the rule is named {name}: 1 to {MAX_NAME_LENGTH} of the characters a-z 0-9 -"));
    }
    name
}

/// Returns the note on what replaces a model's key.
fn key_note(key: &str) -> String {
    format!("there is one alarm per thing, not per `{key}`: the thing is that of the topic, telemetry/<thing>")
}

/// Prints the rules of all models. Makes no call to AWS.
pub fn run(arguments: &Arguments) -> Result<Status> {
    let mut texts = Vec::new();
    for file in &arguments.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        texts.push((file.display().to_string(), text));
    }
    let (document, notes) = import(&texts, &arguments.options);
    for note in notes.all() {
        eprintln!("{}", escape_line(&note.line()));
    }
    let (models, rules) = (texts.len(), document.rules.len());
    eprintln!("{rules} of {models} models are rules now; upload them with `gatehouse documents put FILE`");
    Output::Json.print(&document, String::new)?;
    Ok(if rules == models { Status::Success } else { Status::Problems })
}

/// Returns the rules of these models, which are pairs of file name and text.
fn import(models: &[(String, String)], options: &ImportOptions) -> (Document, Notes) {
    let (mut rules, mut notes) = (Vec::<Rule>::new(), Notes::default());
    let mut names = HashSet::new();
    for (file, text) in models {
        notes.begin(file);
        let rule = match Model::parse(text) {
            Ok(Model::Alarm(model)) => {
                notes.begin(&model.alarm_model_name);
                alarm_model::rule(&model, options, &mut notes)
            }
            Ok(Model::Detector(model)) => {
                notes.begin(&model.detector_model_configuration.detector_model_name);
                detector_model::rule(&model, options, &mut notes)
            }
            Err(why) => {
                notes.lost("file", &why);
                None
            }
        };
        let Some(rule) = rule else { continue };
        // Validated by the function's own code.
        let alone = serde_json::json!({"version": 2, "rules": [rule]}).to_string();
        if let Err(refusal) = parse_document::<RulesDocument>(&alone) {
            notes.lost("rule", &refusal.why);
        } else if names.insert(rule.name.clone()) {
            rules.push(rule);
        } else {
            notes.lost("name", &format!("another model's rule is named {}; rename one and import it alone", rule.name));
        }
    }
    (Document { version: 2, rules }, notes)
}

#[cfg(test)]
mod tests;
