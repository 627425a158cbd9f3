//! Scenarios: steps of devices and operators, with the expected outcome of each. `events/README.md` documents the
//! format.

mod certificate;
mod expectation;
mod operator_action;
mod step;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::tools;

pub use certificate::{CertificateOptions, Connect};
pub use expectation::{AlarmView, Expectation, ExpectedForward, ExpectedNotification, Reason, ShadowState, Stored};
pub use operator_action::{Action, OperatorAction};
pub use step::{Command, Shadow, Step, StepAction, confirmation_topic};

/// A scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// One sentence: what the scenario demonstrates.
    pub about: String,
    /// The steps. Those of one thing run in this order.
    pub steps: Vec<Step>,
    /// The chart to draw at the end.
    pub chart: Option<Chart>,
    /// The things that have another IoT policy than the device policy, with the stack output that names it.
    #[serde(default)]
    pub policies: BTreeMap<String, String>,
    /// The queue in another account that messages are forwarded to.
    pub destination: Option<Destination>,
    /// The file's name without its extension.
    #[serde(skip)]
    pub name: String,
}

/// One field of a thing's readings over time, and the limit of a threshold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Chart {
    /// The thing.
    pub thing: String,
    /// The field, as a JSON pointer.
    pub field: String,
    /// The threshold's name.
    pub threshold: String,
    /// The threshold's limit.
    pub limit: i64,
    /// The limits of further severities.
    #[serde(default)]
    pub other_limits: Vec<i64>,
}

/// A queue in another account, deployed there from `infra/forward-destination.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Destination {
    /// The 12-digit account id.
    pub account: String,
    /// The queue's name.
    pub queue: String,
}

impl Scenario {
    /// Reads and validates a file. An error names the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        let mut scenario = Self::parse(&text).with_context(|| path.display().to_string())?;
        scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(scenario)
    }

    /// Returns the things that are new to AWS IoT: those whose first step is a connection.
    pub fn new_things(&self) -> HashSet<&str> {
        let mut seen = HashSet::new();
        let mut new_things = HashSet::new();
        for step in &self.steps {
            if seen.insert(&*step.thing) && step.is_connection() {
                new_things.insert(&*step.thing);
            }
        }
        new_things
    }

    /// Returns whether any device connects with a new certificate.
    pub fn needs_certificate_authority(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.connect, Some(Connect::Certificate(_))))
    }
}

/// Reads these files, or every shipped scenario if the list is empty. No two files may have steps of the same thing.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<Scenario>> {
    let files = if files.is_empty() { shipped()? } else { files.to_owned() };
    let scenarios: Vec<_> = files.iter().map(|file| Scenario::read(file)).collect::<Result<_>>()?;
    // Steps of one thing run in the order of its file. Two files would interleave at random.
    let mut file_of_thing = HashMap::new();
    for (scenario, file) in scenarios.iter().zip(&files) {
        for step in &scenario.steps {
            let first = *file_of_thing.entry(&step.thing).or_insert(file);
            ensure!(
                first == file,
                "{}: thing {} is also in {}; rename it, or replay the files one by one",
                file.display(),
                step.thing,
                first.display()
            );
        }
    }
    Ok(scenarios)
}

/// Returns the only destination that these scenarios name, if any. Two different ones are an error.
pub fn destination(scenarios: &[Scenario]) -> Result<Option<&Destination>> {
    let mut all = scenarios.iter().filter_map(|scenario| scenario.destination.as_ref());
    let first = all.next();
    ensure!(all.all(|other| Some(other) == first), "the scenarios name different destinations; replay them one by one");
    Ok(first)
}

/// Lists the files in `events/scenarios`.
pub fn shipped() -> Result<Vec<PathBuf>> {
    let directory = tools::root().join("events/scenarios");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("failed to read {}", directory.display()))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}
