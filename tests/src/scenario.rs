//! Scenarios: what devices publish, and what must come of it. The format is told in `events/README.md`.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::device::LARGEST;
use crate::tools;

/// A file of scenarios.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// One sentence: what it shows.
    pub about: String,
    /// What happens, in order for each thing.
    pub steps: Vec<Step>,
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
}

/// One message, or several alike.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    /// A few words for the line that reports it.
    pub what: String,
    /// The device that publishes.
    pub thing: String,
    /// Where it publishes.
    pub topic: String,
    payload: Option<Box<RawValue>>,
    payload_text: Option<String>,
    payload_base64: Option<String>,
    payload_repeat: Option<Repeat>,
    /// How long to wait before it.
    #[serde(default)]
    delay_seconds: f64,
    /// How many alike.
    #[serde(default = "one")]
    pub times: NonZeroUsize,
    /// Whether these are published at the same moment, and not one after the other.
    #[serde(default)]
    pub together: bool,
    /// What must come of each.
    pub expect: Expect,
    /// What must come of all but one of them, where that differs.
    pub expect_others: Option<Expect>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    text: String,
    bytes: usize,
}

/// What must come of a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Expect {
    /// Somebody is told.
    Notification(Notification),
    /// It can never succeed, and is kept with the reason.
    Quarantine(Quarantine),
    /// It is let go, since somebody has just been told the same.
    Quieted,
    /// The function does nothing about it, or no function hears it.
    Nothing,
    /// AWS IoT does not let the device say it.
    Denied,
}

/// Fields that are absent may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Notification {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Attributes that must be among the message's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// Why it cannot succeed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Quarantine {
    /// The reason's code.
    pub reason: String,
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

impl Step {
    /// The bytes to publish.
    pub fn payload(&self) -> Result<Vec<u8>> {
        let given = (&self.payload, &self.payload_text, &self.payload_base64, &self.payload_repeat);
        let bytes = match given {
            (Some(json), None, None, None) => json.get().as_bytes().to_vec(),
            (None, Some(text), None, None) => text.as_bytes().to_vec(),
            (None, None, Some(base64), None) => {
                BASE64_STANDARD.decode(base64).map_err(|error| anyhow!("payloadBase64: {error}"))?
            }
            (None, None, None, Some(Repeat { text, bytes })) => {
                ensure!(!text.is_empty(), "payloadRepeat.text: is empty");
                ensure!(*bytes <= LARGEST, "payloadRepeat.bytes: AWS IoT takes {LARGEST} bytes at most");
                text.bytes().cycle().take(*bytes).collect()
            }
            _ => bail!("must have exactly one of payload, payloadText, payloadBase64 and payloadRepeat"),
        };
        ensure!(bytes.len() <= LARGEST, "the payload is {} bytes; AWS IoT takes {LARGEST} at most", bytes.len());
        Ok(bytes)
    }

    /// How long to wait before it.
    pub fn delay(&self) -> Duration {
        Duration::try_from_secs_f64(self.delay_seconds).unwrap_or_default()
    }

    /// What must come of each copy, in any order.
    pub fn expected(&self) -> Vec<Expect> {
        let others = self.expect_others.as_ref().unwrap_or(&self.expect);
        std::iter::once(&self.expect).chain(std::iter::repeat(others)).take(self.times.get()).cloned().collect()
    }

    fn check(&self) -> Result<()> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        let is_name = (1..=128).contains(&self.thing.len()) && self.thing.bytes().all(allowed);
        ensure!(is_name, "thing: must be 1 to 128 of the characters a-z A-Z 0-9 : _ -");
        let is_topic = !self.topic.is_empty() && self.topic.len() <= 256 && !self.topic.contains(['+', '#', '\0']);
        ensure!(is_topic, "topic: must be 1 to 256 bytes without + and #");
        ensure!(
            Duration::try_from_secs_f64(self.delay_seconds).is_ok_and(|delay| delay <= Duration::from_mins(15)),
            "delaySeconds: must be from 0 to 900"
        );
        ensure!(self.times.get() <= 100, "times: must be 100 at most");
        ensure!(!self.together || self.times.get() > 1, "together: needs `times` of 2 or more");
        ensure!(self.expect_others.is_none() || self.times.get() > 1, "expectOthers: needs `times` of 2 or more");
        self.payload().map(drop)
    }
}

impl Scenario {
    /// Reads a file. An error names the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut scenario = Self::parse(&text).with_context(|| path.display().to_string())?;
        scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(scenario)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let scenario: Self =
            serde_path_to_error::deserialize(&mut json).map_err(|error| match error.path().to_string() {
                path if path == "." => anyhow!("{}", error.inner()),
                path => anyhow!("{path}: {}", error.inner()),
            })?;
        json.end()?;
        ensure!(!scenario.steps.is_empty(), "steps: there is none");
        for (index, step) in scenario.steps.iter().enumerate() {
            step.check().map_err(|error| anyhow!("steps[{index}] ({}): {error:#}", step.what))?;
        }
        Ok(scenario)
    }
}

/// Reads the files, or where none is named, all that are shipped.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<Scenario>> {
    let files = if files.is_empty() { shipped()? } else { files.to_owned() };
    let scenarios: Vec<_> = files.iter().map(|file| Scenario::read(file)).collect::<Result<_>>()?;
    // A thing's messages come in the order of its file; two files would meet at random.
    let mut user = HashMap::new();
    for (scenario, file) in scenarios.iter().zip(&files) {
        for step in &scenario.steps {
            let first = *user.entry(&step.thing).or_insert(file);
            ensure!(
                first == file,
                "{}: thing {} is in {} too; give it another name, or play the files one by one",
                file.display(),
                step.thing,
                first.display()
            );
        }
    }
    Ok(scenarios)
}

/// The scenarios in `events/scenarios`.
pub fn shipped() -> Result<Vec<PathBuf>> {
    let directory = tools::root().join("events/scenarios");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(step: &str) -> String {
        format!(r#"{{"about": "A test.", "steps": [{{"what": "w", "thing": "t", "topic": "a/t", {step}}}]}}"#)
    }

    fn payload(step: &str) -> Vec<u8> {
        let scenario = Scenario::parse(&steps(&format!(r#"{step}, "expect": "nothing""#))).expect("valid");
        scenario.steps.first().expect("one").payload().expect("valid")
    }

    fn error(text: &str) -> String {
        format!("{:#}", Scenario::parse(text).expect_err("invalid"))
    }

    #[test]
    fn a_payload_is_published_as_it_is_written() {
        assert_eq!(payload(r#""payload": {"b":  22.50, "a": 1e2}"#), br#"{"b":  22.50, "a": 1e2}"#);
        assert_eq!(payload(r#""payloadText": "{broken""#), b"{broken");
        assert_eq!(payload(r#""payloadBase64": "/w==""#), [0xff]);
        assert_eq!(payload(r#""payloadRepeat": {"text": "ab", "bytes": 5}"#), b"ababa");
    }

    #[test]
    fn an_error_names_the_field() {
        let nothing = r#""expect": "nothing""#;
        for (text, part) in [
            (steps(&format!(r#""payload": 1, "wait": 2, {nothing}"#)), "steps[0].wait: unknown field"),
            (steps(&format!(r#""payload": 1, "times": 0, {nothing}"#)), "steps[0].times: invalid value"),
            (steps(&format!(r#""payload": 1, "times": 101, {nothing}"#)), "steps[0] (w): times: must be"),
            (steps(&format!(r#""payload": 1, "payloadText": "", {nothing}"#)), "steps[0] (w): must have exactly one"),
            (steps(&format!(r#""payloadBase64": "?", {nothing}"#)), "steps[0] (w): payloadBase64: "),
            (
                steps(&format!(r#""payloadRepeat": {{"text": "x", "bytes": 131073}}, {nothing}"#)),
                "payloadRepeat.bytes: ",
            ),
            (steps(&format!(r#""payload": 1, "delaySeconds": -1, {nothing}"#)), "steps[0] (w): delaySeconds: "),
            (steps(&format!(r#""payload": 1, "together": true, {nothing}"#)), "steps[0] (w): together: "),
            (steps(r#""payload": 1, "expect": "noise""#), "steps[0].expect: unknown variant `noise`"),
            (
                steps(r#""payload": 1, "expect": {"quarantine": {"code": "x"}}"#),
                "expect.quarantine.code: unknown field",
            ),
            (steps(r#""payload": 1"#), "steps[0]: missing field `expect`"),
            (r#"{"about": "x", "steps": []}"#.to_owned(), "steps: there is none"),
            ("[".to_owned(), "EOF while parsing"),
        ] {
            let error = error(&text);
            assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
        }
    }

    #[test]
    fn what_is_shipped_and_what_the_readme_shows_can_be_read() {
        assert!(read_all(&[]).expect("valid").len() >= 2);
        let readme = std::fs::read_to_string(tools::root().join("events/README.md")).expect("a text");
        let blocks = readme.split("```json\n").skip(1).filter_map(|block| block.split("```").next());
        let scenarios: Vec<_> = blocks.filter(|block| block.contains("\"steps\"")).map(Scenario::parse).collect();
        assert_eq!(scenarios.len(), 1);
        for scenario in scenarios {
            scenario.expect("valid");
        }
    }

    #[test]
    fn a_thing_name_and_a_topic_are_what_aws_iot_takes() {
        let step = r#""payload": 1, "expect": "nothing""#;
        assert!(error(&steps(step).replace(r#""t""#, r#""t/1""#)).contains("thing: must be"));
        assert!(error(&steps(step).replace("a/t", "a/+")).contains("topic: must be"));
    }
}
