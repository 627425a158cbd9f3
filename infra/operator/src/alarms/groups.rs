//! Fills a rules document's groups from AWS IoT, so that rules can apply by thing group or attribute, and evaluations
//! need not read the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use alarm::rules::RulesDocument;
use anyhow::{Context as _, Result};
use aws_sdk_iot::operation::list_things_in_thing_group::ListThingsInThingGroupError;
use clap::Args;
use gatehouse::parse_document;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::context::Context;
use crate::output::Output;
use crate::status::{MissingError, Status, UsageError};

/// The arguments of `gatehouse alarms groups`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A rules document, version 2. It is not changed: the filled document is printed.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Fill this group, from the thing group of the same name or of another one (may be repeated). Without --group and
    /// --attribute, all groups that rules name are filled from the thing groups of the same names.
    #[arg(long, value_name = "NAME[=THING_GROUP]", value_parser = source)]
    group: Vec<(String, String)>,
    /// Fill this group with the things that have an attribute with this value (may be repeated).
    #[arg(long, value_name = "NAME=ATTRIBUTE:VALUE", value_parser = attribute)]
    attribute: Vec<(String, Attribute)>,
}

/// An attribute of things, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    name: String,
    value: String,
}

fn source(text: &str) -> Result<(String, String), &'static str> {
    let (group, source) = text.split_once('=').unwrap_or((text, text));
    if group.is_empty() || source.is_empty() {
        return Err("it must be a group's name, such as north, or north=thing-group");
    }
    Ok((group.to_owned(), source.to_owned()))
}

fn attribute(text: &str) -> Result<(String, Attribute), &'static str> {
    const FORM: &str = "it must be a group's name and an attribute with its value, such as north=site:north";
    let (group, attribute) = text.split_once('=').ok_or(FORM)?;
    let (name, value) = attribute.split_once(':').ok_or(FORM)?;
    if group.is_empty() || name.is_empty() || value.is_empty() {
        return Err(FORM);
    }
    Ok((group.to_owned(), Attribute { name: name.to_owned(), value: value.to_owned() }))
}

/// A rules document. Everything but the groups is kept verbatim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: Box<RawValue>,
    #[serde(default)]
    groups: BTreeMap<String, BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overrides: Option<Box<RawValue>>,
    rules: Box<RawValue>,
}

impl Document {
    fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Returns the names of the groups that rules refer to.
    fn named(&self) -> BTreeSet<String> {
        #[derive(Deserialize)]
        struct Rule {
            things: serde_json::Value,
        }
        let rules: Vec<Rule> = serde_json::from_str(self.rules.get()).unwrap_or_default();
        let names = rules.iter().filter_map(|rule| rule.things.get("group")?.as_str().map(str::to_owned));
        names.collect()
    }
}

/// Prints the document with its groups filled.
pub async fn run(arguments: &Arguments, context: &Context) -> Result<Status> {
    let file = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("failed to read {file}"))?;
    let invalid = |error| UsageError(format!("{file} is not a rules document of version 2: {error}"));
    let mut document = Document::parse(&text).map_err(invalid)?;
    let groups = if arguments.group.is_empty() && arguments.attribute.is_empty() {
        document.named().into_iter().map(|name| (name.clone(), name)).collect()
    } else {
        arguments.group.clone()
    };
    let mut filled = BTreeMap::<String, BTreeSet<String>>::new();
    for (name, source) in &groups {
        filled.entry(name.clone()).or_default().extend(things_in_group(source, context).await?);
    }
    for (name, attribute) in &arguments.attribute {
        filled.entry(name.clone()).or_default().extend(things_with(attribute, context).await?);
    }
    if filled.is_empty() {
        return Err(UsageError(format!("no rule of {file} names a group; use --group or --attribute")).into());
    }
    for (name, things) in filled {
        eprintln!("{name}: {} things", things.len());
        document.groups.insert(name, things);
    }
    let filled = serde_json::to_string(&document).context("failed to write JSON")?;
    if let Err(refusal) = parse_document::<RulesDocument>(&filled) {
        // A large group can exceed the limits of a document; a name pattern can replace it.
        return Err(UsageError(format!("the filled document is not valid: {}", refusal.why)).into());
    }
    Output::Json.print(&document, String::new)?;
    Ok(Status::Success)
}

/// Returns the things of a thing group, and of the groups within it.
async fn things_in_group(group: &str, context: &Context) -> Result<Vec<String>> {
    let list = context.iot().list_things_in_thing_group().thing_group_name(group).recursive(true);
    let things = list.into_paginator().items().send().collect::<Result<Vec<String>, _>>().await;
    things.map_err(|error| match error.as_service_error() {
        Some(ListThingsInThingGroupError::ResourceNotFoundException(_)) => {
            MissingError(format!("thing group {group} does not exist")).into()
        }
        _ => anyhow::Error::from(error).context(format!("failed to list the things of thing group {group}")),
    })
}

/// Returns the things that have an attribute with this value.
async fn things_with(attribute: &Attribute, context: &Context) -> Result<Vec<String>> {
    let Attribute { name, value } = attribute;
    let list = context.iot().list_things().attribute_name(name).attribute_value(value);
    let things = list.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let things = things.with_context(|| format!("failed to list the things whose attribute {name} is {value}"))?;
    Ok(things.into_iter().filter_map(|thing| thing.thing_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_parse() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(source("north"), Ok(pair("north", "north")));
        assert_eq!(source("north=site-7"), Ok(pair("north", "site-7")));
        assert!(source("=north").is_err() && source("north=").is_err());
        let site = Attribute { name: "site".to_owned(), value: "a:b".to_owned() };
        assert_eq!(attribute("north=site:a:b"), Ok(("north".to_owned(), site)));
        assert!(attribute("north").is_err() && attribute("north=site").is_err() && attribute("north=:x").is_err());
    }

    #[test]
    fn everything_but_the_groups_stays_as_it_is_written() {
        let text = r#"{"rules": [{"things": {"group": "north"}, "value": 22.50}, {"things": "a-*"}], "version": 2}"#;
        let mut document = Document::parse(text).expect("a document");
        assert_eq!(document.named(), BTreeSet::from(["north".to_owned()]));
        document.groups.insert("north".to_owned(), BTreeSet::from(["b".to_owned(), "a".to_owned()]));
        let printed = serde_json::to_string(&document).expect("JSON");
        let rules = r#"[{"things": {"group": "north"}, "value": 22.50}, {"things": "a-*"}]"#;
        assert_eq!(printed, format!(r#"{{"version":2,"groups":{{"north":["a","b"]}},"rules":{rules}}}"#));
    }

    #[test]
    fn other_documents_are_not_accepted() {
        for text in ["{}", r#"{"thresholds": []}"#, r#"{"version": 2}"#, "not JSON"] {
            assert!(Document::parse(text).is_err(), "{text}");
        }
    }
}
