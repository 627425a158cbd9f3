//! `gatehouse documents`: validates, compares, uploads and prints the documents that operators configure.
//!
//! A document is validated by the code of the function that reads it, and uploaded through a command to that function.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use actuator::Actions;
use alarm::rules::RulesDocument;
use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use forward::Destinations;
use gatehouse::store::item::{integer, string, text};
use gatehouse::{Refusal, Timestamp, parse_document};
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use crate::context::Context;
use crate::invoke::{Invoked, invoke};
use crate::output::{Output, escape, utc};
use crate::status::{MissingError, Status, UsageError};

/// The arguments of `gatehouse documents`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate documents, as their functions do. Needs no access to AWS.
    Validate {
        /// Files with a document of thresholds or rules, actions or destinations.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the document in force.
    Get {
        /// Which document.
        kind: Kind,
    },
    /// Compare a file with the document in force.
    Diff {
        /// The file.
        file: PathBuf,
    },
    /// Validate a file, and put it into force.
    Put {
        /// The file.
        file: PathBuf,
        /// Print what would change, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// When `alarm` raises and clears alarms: thresholds, or rules.
    Thresholds,
    /// What `actuator` does about them.
    Actions,
    /// Where `forward` sends messages.
    Destinations,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Thresholds, Self::Actions, Self::Destinations];

    /// Returns the name: that of the list in the document's first version.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thresholds => "thresholds",
            Self::Actions => "actions",
            Self::Destinations => "destinations",
        }
    }

    /// Returns the function that reads the document.
    pub fn function(self) -> &'static str {
        match self {
            Self::Thresholds => "alarm",
            Self::Actions => "actuator",
            Self::Destinations => "forward",
        }
    }

    /// Returns the table and the partition key of the document in force.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Thresholds => ("alarms", "document#thresholds"),
            // The key's name is older than the document's.
            Self::Actions => ("actuator", "document#answers"),
            Self::Destinations => ("devices", "document#destinations"),
        }
    }

    /// Returns the kind of a document, from its fields.
    fn of(document: &str) -> Option<Self> {
        let document: serde_json::Map<String, Value> = serde_json::from_str(document).ok()?;
        let is_of = |kind: &Self| kind.lists().iter().any(|list| document.contains_key(*list));
        Self::ALL.into_iter().find(is_of)
    }

    /// Returns the fields that can contain the document's list. Rules are version 2 of thresholds.
    fn lists(self) -> &'static [&'static str] {
        match self {
            Self::Thresholds => &["thresholds", "rules"],
            Self::Actions => &["actions"],
            Self::Destinations => &["destinations"],
        }
    }

    /// Parses a document as its function does.
    pub fn parse(self, document: &str) -> Result<(), Refusal> {
        match self {
            Self::Thresholds => parse_document::<RulesDocument>(document).map(drop),
            Self::Actions => parse_document::<Actions>(document).map(drop),
            Self::Destinations => parse_document::<Destinations>(document).map(drop),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The document in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Current {
    /// Its text, as it was uploaded.
    pub document: String,
    /// When the upload was received.
    pub given_at: Timestamp,
    /// The number of the upload, from 1.
    pub version: u64,
}

/// Reads the document in force, if there is one.
pub async fn current(context: &Context, kind: Kind) -> Result<Option<Current>> {
    let (table, key) = kind.place();
    let table = context.names.of(table);
    let get = context.dynamodb().get_item().table_name(&table).consistent_read(true);
    let found = get.key("id", string(key)).key("part", string("current")).send().await;
    let found = found.with_context(|| format!("failed to read table {table}"))?;
    Ok(found.item.and_then(|item| {
        Some(Current {
            document: text(&item, "document")?.to_owned(),
            given_at: Timestamp::from_millis(integer(&item, "givenAt").unwrap_or_default()),
            version: integer(&item, "version").unwrap_or_default(),
        })
    }))
}

/// Runs the subcommand, except for `validate`, which needs no context.
pub async fn run(command: Command, context: &Context) -> Result<Status> {
    match command {
        Command::Validate { files } => validate(&files, context.output),
        Command::Get { kind } => get(kind, context).await,
        Command::Diff { file } => diff(&file, context).await,
        Command::Put { file, dry_run } => put(&file, dry_run, context).await,
    }
}

#[derive(Serialize)]
struct Validated {
    file: PathBuf,
    kind: Option<Kind>,
    faults: Vec<String>,
}

/// Validates files.
pub fn validate(files: &[PathBuf], output: Output) -> Result<Status> {
    let mut results = Vec::new();
    for file in files {
        let document = read(file)?;
        results.push(Validated { file: file.clone(), kind: Kind::of(&document), faults: faults(&document) });
    }
    output.print(&results, || {
        let mut text = String::new();
        for Validated { file, kind, faults } in &results {
            let file = escape(&file.display().to_string());
            match kind {
                Some(kind) if faults.is_empty() => {
                    let _ = writeln!(text, "{file}: valid document of {kind}");
                }
                _ => {
                    for fault in faults {
                        let _ = writeln!(text, "{file}: {}", escape(fault));
                    }
                }
            }
        }
        text
    })?;
    Ok(if results.iter().all(|result| result.faults.is_empty()) { Status::Success } else { Status::Difference })
}

/// Returns all faults of a document; empty if it is valid.
///
/// The function's own validation stops at the first fault, so each entry is also validated alone.
fn faults(document: &str) -> Vec<String> {
    let Some(kind) = Kind::of(document) else {
        let fields: Vec<_> = Kind::ALL.iter().flat_map(|kind| kind.lists()).map(|list| format!("`{list}`")).collect();
        return vec![match serde_json::from_str::<Value>(document) {
            Err(error) => format!("it is not JSON: {error}"),
            Ok(_) => format!("it must be an object with one of the fields {}", fields.join(", ")),
        }];
    };
    let Err(first) = kind.parse(document) else { return Vec::new() };
    let parsed: Value = serde_json::from_str(document).unwrap_or_default();
    let list = kind.lists().iter().copied().find(|list| parsed.get(list).is_some()).unwrap_or(kind.as_str());
    let entries = parsed.get(list).and_then(Value::as_array);
    let alone: Vec<(usize, String)> = entries
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, entry)| {
            let refusal = kind.parse(&with_one_entry(&parsed, list, entry)).err()?;
            Some((index, refusal.why.replacen(&format!("{list}[0]"), &format!("{list}[{index}]"), 1)))
        })
        .collect();
    // A fault that concerns several entries, or none.
    let is_of_an_entry = alone.iter().any(|(_, why)| *why == first.why);
    let whole = (!is_of_an_entry).then(|| first.why.into_owned());
    // A few messages contain no path.
    let alone = alone.into_iter().map(|(index, why)| {
        let path = format!("{list}[{index}]");
        if why.contains(&path) { why } else { format!("`{path}`: {why}") }
    });
    whole.into_iter().chain(alone).collect()
}

/// Returns the document with this entry only. Omits overrides, which may concern other entries.
fn with_one_entry(document: &Value, list: &str, entry: &Value) -> String {
    let mut alone = serde_json::Map::from_iter([(list.to_owned(), Value::from([entry.clone()].to_vec()))]);
    for field in ["version", "groups"] {
        alone.extend(document.get(field).map(|value| (field.to_owned(), value.clone())));
    }
    Value::Object(alone).to_string()
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}

/// Reads a file. An invalid document is a [`UsageError`].
fn read_valid(file: &Path) -> Result<(Kind, String)> {
    let document = read(file)?;
    let faults = faults(&document);
    match Kind::of(&document) {
        Some(kind) if faults.is_empty() => Ok((kind, document)),
        _ => Err(UsageError(format!("{} is not valid:\n  {}", file.display(), faults.join("\n  "))).into()),
    }
}

async fn get(kind: Kind, context: &Context) -> Result<Status> {
    let Some(current) = current(context, kind).await? else {
        return Err(MissingError(format!("no document of {kind} has been uploaded")).into());
    };
    context.output.print(&current, || {
        eprintln!("version {}, uploaded {}", current.version, utc(current.given_at));
        escape(&pretty(&current.document))
    })?;
    Ok(Status::Success)
}

/// Formats JSON with one field per line, so that two documents can be compared.
fn pretty(document: &str) -> String {
    let value: Option<Value> = serde_json::from_str(document).ok();
    let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
    pretty.unwrap_or_else(|| document.to_owned()) + "\n"
}

/// Returns the differences as a unified diff; `None` if there are none.
fn difference(old: &str, new: &str, file: &Path) -> Option<String> {
    let (old, new) = (pretty(old), pretty(new));
    if old == new {
        return None;
    }
    let diff = TextDiff::from_lines(old.as_str(), new.as_str());
    Some(diff.unified_diff().context_radius(4).header("in force", &file.display().to_string()).to_string())
}

#[derive(Serialize)]
struct Difference {
    kind: Kind,
    difference: Option<String>,
}

async fn diff(file: &Path, context: &Context) -> Result<Status> {
    let (kind, document) = read_valid(file)?;
    let old = current(context, kind).await?.map_or_else(String::new, |current| current.document);
    let difference = difference(&old, &document, file);
    let status = if difference.is_some() { Status::Difference } else { Status::Success };
    print_difference(&Difference { kind, difference }, context.output)?;
    Ok(status)
}

fn print_difference(difference: &Difference, output: Output) -> Result<()> {
    output.print(difference, || match &difference.difference {
        Some(text) => escape(text),
        None => format!("The {} in force are the same.", difference.kind),
    })
}

async fn put(file: &Path, dry_run: bool, context: &Context) -> Result<Status> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Put {
        kind: Kind,
        changed: bool,
        version: u64,
    }
    let (kind, document) = read_valid(file)?;
    let old = current(context, kind).await?;
    let old_text = old.as_ref().map_or("", |current| current.document.as_str());
    let difference = difference(old_text, &document, file);
    if dry_run {
        print_difference(&Difference { kind, difference }, context.output)?;
        return Ok(Status::Success);
    }
    if let (None, Some(old)) = (&difference, &old) {
        let put = Put { kind, changed: false, version: old.version };
        context.output.print(&put, || format!("The {kind} in force are the same (version {}).", old.version))?;
        return Ok(Status::Success);
    }
    let function = context.names.of(kind.function());
    match invoke(&context.lambda(), &function, &document).await? {
        Invoked::Done => {}
        Invoked::Refused { reason, why } => {
            eprintln!("error: {function} refused it ({reason}): {}", escape(&why));
            return Ok(Status::RefusedAgain);
        }
        Invoked::Failed(error) => {
            eprintln!("error: {}", escape(&error));
            return Ok(Status::NotAccepted);
        }
    }
    let new = current(context, kind).await?.context("the document was accepted, but none is in force")?;
    if pretty(&new.document) != pretty(&document) {
        eprintln!("error: a later document of {kind} is in force (version {})", new.version);
        return Ok(Status::Difference);
    }
    let put = Put { kind, changed: true, version: new.version };
    context
        .output
        .print(&put, || format!("The {kind} of {} are in force (version {}).", file.display(), new.version))?;
    Ok(Status::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> String {
        let path = format!("{}/../{name}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("a document")
    }

    #[test]
    fn shipped_documents_are_valid() {
        for kind in Kind::ALL {
            let document = shipped(kind.as_str());
            assert_eq!(Kind::of(&document), Some(kind));
            assert_eq!(faults(&document), [""; 0], "{kind}");
        }
    }

    #[test]
    fn every_fault_is_found_with_its_path() {
        let destination = |name: &str, queue: &str| {
            format!(r#"{{"name": "{name}", "topics": "Weather/Corp/+", "queueUrl": "{queue}"}}"#)
        };
        let queue = "https://sqs.eu-west-1.amazonaws.com/222222222222/weather";
        let document = format!(
            r#"{{"destinations": [{}, {}, {}]}}"#,
            destination("good", queue),
            destination("a name", queue),
            destination("other", "not a URL")
        );
        let faults = faults(&document);
        for path in ["destinations[1].name", "destinations[2].queueUrl"] {
            assert!(faults.iter().any(|fault| fault.contains(path)), "{path} is not in {faults:?}");
        }
    }

    #[test]
    fn rules_are_version_two_of_thresholds() {
        let rule = |name: &str, op: &str| {
            let when = serde_json::json!({"field": "/t", "op": op, "value": 1});
            serde_json::json!({"name": name, "things": {"group": "north"},
                               "severities": [{"severity": "major", "raise": {"when": when, "for": "0 s"}}]})
        };
        let document = |rules: &[Value]| {
            let groups = serde_json::json!({"north": ["a"]});
            serde_json::json!({"version": 2, "groups": groups, "rules": rules}).to_string()
        };
        let valid = document(&[rule("hot", ">"), rule("cold", "<")]);
        assert_eq!(Kind::of(&valid), Some(Kind::Thresholds));
        assert_eq!(faults(&valid), [""; 0]);
        let faults = faults(&document(&[rule("Hot", ">"), rule("cold", "<"), rule("other", "=")]));
        for path in ["rules[0].name", "rules[2].severities[0].raise.when.op"] {
            assert!(faults.iter().any(|fault| fault.contains(path)), "{path} is not in {faults:?}");
        }
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn fault_between_entries_is_found() {
        let entry = r#"{"name": "a", "topics": "Weather/Corp/+", "queueUrl": "https://sqs.eu-west-1.amazonaws.com/222222222222/weather"}"#;
        let faults = faults(&format!(r#"{{"destinations": [{entry}, {entry}]}}"#));
        assert!(matches!(&faults[..], [fault] if fault.contains("destinations[1].name")), "{faults:?}");
    }

    #[test]
    fn text_that_is_no_document_is_a_fault() {
        assert!(faults("{").first().is_some_and(|fault| fault.contains("not JSON")));
        assert!(faults("{}").first().is_some_and(|fault| fault.contains("`thresholds`")));
    }

    #[test]
    fn difference_ignores_white_space_and_order() {
        let file = Path::new("new.json");
        assert_eq!(difference(r#"{"a": 1, "b": 2}"#, "{\"b\":2,\n\"a\":1}", file), None);
        let difference = difference(r#"{"a": 1}"#, r#"{"a": 2}"#, file).expect("a difference");
        assert!(difference.contains("-  \"a\": 1") && difference.contains("+  \"a\": 2"), "{difference}");
    }
}
