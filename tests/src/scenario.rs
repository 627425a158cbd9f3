//! Scenarios: what devices publish and how they connect, and what must come of it. The format is told in
//! `events/README.md`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::authority::{self, ExtendedKeyUsagePurpose, Key, KeyUsagePurpose};
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
    /// What to draw of it.
    pub chart: Option<Chart>,
    /// The things that have the policy of those who publish on `Weather/Corp/…`, and not the devices'.
    #[serde(default)]
    pub publishers: Vec<String>,
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
}

/// A field of one thing's readings over time, and the threshold that is held against it.
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
}

/// One message, or several alike; or a connection, or its end; or an operator's order; or a look at a device shadow, or a
/// change of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    /// A few words for the line that reports it.
    pub what: String,
    /// The device that publishes or connects.
    pub thing: String,
    connect: Option<Connect>,
    #[serde(default)]
    disconnect: bool,
    order: Option<Order>,
    shadow: Option<Shadow>,
    topic: Option<String>,
    payload: Option<Box<RawValue>>,
    payload_text: Option<String>,
    payload_base64: Option<String>,
    payload_repeat: Option<Repeat>,
    /// How long to wait before it.
    #[serde(default)]
    delay_seconds: f64,
    /// How long after the thing's step before it began it comes at the earliest.
    #[serde(default)]
    after_seconds: f64,
    /// Whether the thing's next step comes before it is seen what came of this one.
    #[serde(default)]
    pub go_on: bool,
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

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action<'a> {
    /// The device publishes a message.
    Publish {
        /// Where.
        topic: &'a str,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// The device connects.
    Connect(&'a Connect),
    /// The device goes away without a word.
    Disconnect,
    /// An operator gives a function an order.
    Order(&'a Order),
    /// A device shadow is looked at.
    Look(&'a Shadow),
    /// An operator wants a device to be in this state.
    Desire(&'a Shadow, &'a Value),
}

/// An operator's order to a function.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Order {
    /// The function, as its crate is called.
    pub function: String,
    /// What it is handed.
    pub input: Box<RawValue>,
}

/// Which device shadow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Shadow {
    /// The thing whose shadow it is.
    pub of: String,
    /// The shadow's name; none for the classic one.
    pub name: Option<String>,
    /// What the device is to change; none where the shadow is only looked at.
    desired: Option<Value>,
}

impl Shadow {
    /// Where AWS IoT tells of its updates.
    pub fn documents(&self) -> String {
        let Self { of, name, .. } = self;
        let name = name.as_ref().map(|name| format!("/name/{name}")).unwrap_or_default();
        format!("$aws/things/{of}/shadow{name}/update/documents")
    }
}

/// Where AWS IoT tells what became of a message on this topic, where it is an update of a device shadow, or a deletion.
pub fn told_on(topic: &str) -> Option<String> {
    let (_, shadow) = topic.strip_prefix("$aws/things/")?.split_once("/shadow/")?;
    match shadow.strip_prefix("name/").map_or(Some(shadow), |named| Some(named.split_once('/')?.1))? {
        "update" => Some(format!("{topic}/documents")),
        "delete" => Some(format!("{topic}/accepted")),
        _ => None,
    }
}

/// With what a device connects.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Connect {
    /// A certificate of its own, which is new.
    Certificate(Certificate),
    /// The certificate that it connected with before.
    Again,
}

/// What is special about a device's certificate. It is a good one in everything that is not named.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of its own in the file")]
pub struct Certificate {
    /// The subject's common name; the thing's name when it is not named.
    pub common_name: Option<String>,
    not_before_days: Option<f64>,
    not_after_days: Option<f64>,
    /// Whether it says that it may sign certificates itself.
    pub ca: bool,
    /// The device's key.
    pub key: Option<Key>,
    key_usage: Option<Vec<KeyUsage>>,
    extended_key_usage: Option<Vec<ExtendedKeyUsage>>,
    /// Whether it has an extension that no one knows and that must not be passed over.
    pub unknown_critical_extension: bool,
    /// Whether another authority signed it, of the same name as the one that AWS IoT knows.
    pub signed_by_another: bool,
    /// Whether it is on the authority's list of revoked certificates.
    pub revoked: bool,
}

/// What a key may be used for, in X.509's words.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum KeyUsage {
    DigitalSignature,
    KeyEncipherment,
    KeyAgreement,
    KeyCertSign,
    CrlSign,
}

/// What a certificate may be used for, in X.509's words.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ExtendedKeyUsage {
    ClientAuth,
    ServerAuth,
    CodeSigning,
    Any,
}

/// As far from now as a certificate may be dated.
const DAYS: f64 = 36_500.0;

impl Certificate {
    /// The certificate of this thing.
    pub fn of(&self, thing: &str) -> authority::Certificate {
        let mut certificate = authority::Certificate::named(self.common_name.as_deref().unwrap_or(thing));
        if let Some(days) = self.not_before_days {
            certificate.not_before = in_days(days);
        }
        if let Some(days) = self.not_after_days {
            certificate.not_after = in_days(days);
        }
        certificate.is_ca = self.ca;
        certificate.key = self.key.unwrap_or(certificate.key);
        if let Some(usages) = &self.key_usage {
            certificate.key_usage = usages.iter().map(|usage| (*usage).into()).collect();
        }
        if let Some(usages) = &self.extended_key_usage {
            certificate.extended_key_usage = usages.iter().map(|usage| (*usage).into()).collect();
        }
        certificate.has_unknown_critical_extension = self.unknown_critical_extension;
        certificate
    }

    fn check(&self) -> Result<()> {
        for (name, days) in [("notBeforeDays", self.not_before_days), ("notAfterDays", self.not_after_days)] {
            let is_near = days.is_none_or(|days| days.abs() <= DAYS);
            ensure!(is_near, "connect.certificate.{name}: must be from -{DAYS} to {DAYS}");
        }
        ensure!(
            self.not_before_days.unwrap_or(-1.0) < self.not_after_days.unwrap_or(365.0),
            "connect.certificate.notAfterDays: must be later than notBeforeDays, which is -1 where it is not named"
        );
        Ok(())
    }
}

/// So many days from now; a negative number is in the past.
fn in_days(days: f64) -> SystemTime {
    let away = Duration::try_from_secs_f64(days.abs() * 86_400.0).unwrap_or_default();
    if days < 0.0 { SystemTime::now() - away } else { SystemTime::now() + away }
}

impl From<KeyUsage> for KeyUsagePurpose {
    fn from(usage: KeyUsage) -> Self {
        match usage {
            KeyUsage::DigitalSignature => Self::DigitalSignature,
            KeyUsage::KeyEncipherment => Self::KeyEncipherment,
            KeyUsage::KeyAgreement => Self::KeyAgreement,
            KeyUsage::KeyCertSign => Self::KeyCertSign,
            KeyUsage::CrlSign => Self::CrlSign,
        }
    }
}

impl From<ExtendedKeyUsage> for ExtendedKeyUsagePurpose {
    fn from(usage: ExtendedKeyUsage) -> Self {
        match usage {
            ExtendedKeyUsage::ClientAuth => Self::ClientAuth,
            ExtendedKeyUsage::ServerAuth => Self::ServerAuth,
            ExtendedKeyUsage::CodeSigning => Self::CodeSigning,
            ExtendedKeyUsage::Any => Self::Any,
        }
    }
}

/// What must come of a message or a connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Expect {
    /// Somebody is told.
    Notification(Notification),
    /// It can never succeed, and is kept with the reason.
    Quarantine(Quarantine),
    /// It is let go, since somebody has just been told the same.
    Quieted,
    /// The function does nothing about it, or no function hears it. Of a connection: the device is let in at once.
    Nothing,
    /// AWS IoT does not let the device say it. Of a connection: it does not let the device in, and tells no function.
    Denied,
    /// The device is turned away, admitted, and let in.
    Admitted,
    /// The device is turned away, and is not admitted.
    TurnedAway(TurnedAway),
    /// Its readings are in the table, so many where that is named.
    Kept(Kept),
    /// An order that is carried out.
    Done,
    /// An order that is refused.
    Refused(Quarantine),
    /// A device shadow's desired state, whole.
    Desired(Value),
    /// It is in the partner's queue, whole and once.
    Forwarded(Forward),
    /// The device is recorded as connected, and nobody is told.
    Connected,
    /// The device is recorded as disconnected, and nobody is told.
    Disconnected,
    /// What is recorded of a device shadow.
    Held(Held),
}

/// How a message comes to the partner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Forward {
    /// Attributes that must be among the message's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// The newest state of a device shadow, as it is in the devices table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Held {
    /// The desired state, whole; none where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<Value>,
    /// The reported state, whole; none where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<Value>,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |name: &str, state: &Option<Value>| Some(format!("{name} {}", state.as_ref()?));
        let states = [state("desired", &self.desired), state("reported", &self.reported)];
        let deleted = self.deleted.then(|| "deleted".to_owned());
        let all: Vec<_> = states.into_iter().chain([deleted]).flatten().collect();
        f.write_str(&if all.is_empty() { "no state".to_owned() } else { all.join(", ") })
    }
}

/// How many readings a message brings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Kept {
    /// How many.
    pub readings: usize,
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

/// Why a device is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TurnedAway {
    /// The reason's code.
    pub reason: String,
}

impl Expect {
    /// Whether it can come of such an action.
    fn fits(&self, action: &Action<'_>) -> bool {
        match self {
            Self::Nothing | Self::Denied => matches!(action, Action::Connect(_) | Action::Publish { .. }),
            Self::Admitted | Self::TurnedAway(_) => matches!(action, Action::Connect(_)),
            Self::Notification(_) => {
                matches!(action, Action::Publish { .. } | Action::Connect(Connect::Again) | Action::Disconnect)
            }
            Self::Connected => matches!(action, Action::Connect(Connect::Again)),
            Self::Disconnected => matches!(action, Action::Disconnect),
            Self::Quarantine(_) | Self::Quieted | Self::Kept(_) | Self::Forwarded(_) => {
                matches!(action, Action::Publish { .. })
            }
            Self::Done | Self::Refused(_) => matches!(action, Action::Order(_)),
            Self::Desired(_) => matches!(action, Action::Look(_)),
            Self::Held(_) => match action {
                Action::Publish { topic, .. } => told_on(topic).is_some(),
                other => matches!(other, Action::Look(_) | Action::Desire(..)),
            },
        }
    }

    /// Whether it is what comes of a device's return.
    pub fn is_of_return(&self) -> bool {
        matches!(self, Self::Notification(_) | Self::Connected)
    }
}

fn is_name(thing: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
    (1..=128).contains(&thing.len()) && thing.bytes().all(allowed)
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

impl Step {
    /// What it does.
    pub fn action(&self) -> Result<Action<'_>> {
        let payloads = [
            self.payload.is_some(),
            self.payload_text.is_some(),
            self.payload_base64.is_some(),
            self.payload_repeat.is_some(),
        ];
        match (&self.topic, &self.connect, self.disconnect, &self.order, &self.shadow) {
            (Some(topic), None, false, None, None) => Ok(Action::Publish { topic, payload: self.payload()? }),
            (None, ..) if payloads.contains(&true) => bail!("only a message, with a topic, has a payload"),
            (None, Some(connect), false, None, None) => Ok(Action::Connect(connect)),
            (None, None, true, None, None) => Ok(Action::Disconnect),
            (None, None, false, Some(order), None) => Ok(Action::Order(order)),
            (None, None, false, None, Some(shadow)) => Ok(match &shadow.desired {
                Some(desired) => Action::Desire(shadow, desired),
                None => Action::Look(shadow),
            }),
            _ => bail!("must have exactly one of topic, connect, disconnect, order and shadow"),
        }
    }

    /// Whether it is a connection.
    pub fn is_connection(&self) -> bool {
        self.connect.is_some()
    }

    /// A number in the message that it publishes, by its JSON pointer.
    pub fn number(&self, pointer: &str) -> Option<f64> {
        serde_json::from_str::<Value>(self.payload.as_ref()?.get()).ok()?.pointer(pointer)?.as_f64()
    }

    /// The bytes to publish.
    fn payload(&self) -> Result<Vec<u8>> {
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

    /// How long to wait before it, where the thing's step before it began so long ago.
    pub fn delay(&self, ago: Duration) -> Duration {
        let seconds = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        seconds(self.delay_seconds).max(seconds(self.after_seconds).saturating_sub(ago))
    }

    /// What must come of each copy, in any order.
    pub fn expected(&self) -> Vec<Expect> {
        let others = self.expect_others.as_ref().unwrap_or(&self.expect);
        std::iter::once(&self.expect).chain(std::iter::repeat(others)).take(self.times.get()).cloned().collect()
    }

    fn check(&self) -> Result<()> {
        ensure!(is_name(&self.thing), "thing: must be 1 to 128 of the characters a-z A-Z 0-9 : _ -");
        for (name, seconds) in [("delaySeconds", self.delay_seconds), ("afterSeconds", self.after_seconds)] {
            let delay = Duration::try_from_secs_f64(seconds);
            ensure!(delay.is_ok_and(|delay| delay <= Duration::from_mins(15)), "{name}: must be from 0 to 900");
        }
        ensure!(self.times.get() <= 100, "times: must be 100 at most");
        ensure!(!self.together || self.times.get() > 1, "together: needs `times` of 2 or more");
        ensure!(self.expect_others.is_none() || self.times.get() > 1, "expectOthers: needs `times` of 2 or more");
        let action = self.action()?;
        let is_one = matches!(action, Action::Publish { .. }) && self.times.get() == 1;
        ensure!(!self.go_on || is_one, "goOn: is for one message");
        let what = match &action {
            Action::Publish { topic, .. } => {
                let is_topic = !topic.is_empty() && topic.len() <= 256 && !topic.contains(['+', '#', '\0']);
                ensure!(is_topic, "topic: must be 1 to 256 bytes without + and #");
                "a message"
            }
            Action::Connect(connect) => {
                ensure!(self.times.get() == 1, "times: a device connects once");
                if let Connect::Certificate(certificate) = connect {
                    certificate.check()?;
                }
                "a connection"
            }
            Action::Disconnect => {
                ensure!(self.times.get() == 1, "times: a device disconnects once");
                "a connection's end"
            }
            Action::Order(_) => {
                ensure!(self.times.get() == 1, "times: an order is given once");
                "an order"
            }
            Action::Look(shadow) | Action::Desire(shadow, _) => {
                ensure!(self.times.get() == 1, "times: a shadow is looked at, or changed, once");
                ensure!(is_name(&shadow.of), "shadow.of: must be 1 to 128 of the characters a-z A-Z 0-9 : _ -");
                let is_shadow = shadow.name.as_ref().is_none_or(|name| is_name(name) && name.len() <= 64);
                ensure!(is_shadow, "shadow.name: must be 1 to 64 of the characters a-z A-Z 0-9 : _ -");
                if shadow.desired.is_none() { "a look at a shadow" } else { "a change of a shadow" }
            }
        };
        ensure!(self.expect.fits(&action), "expect: this cannot come of {what}");
        let others_fit = self.expect_others.as_ref().is_none_or(|others| others.fits(&action));
        ensure!(others_fit, "expectOthers: this cannot come of {what}");
        Ok(())
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
        if let Some(chart) = &scenario.chart {
            let reading = |step: &Step| step.thing == chart.thing && step.number(&chart.field).is_some();
            ensure!(scenario.steps.iter().any(reading), "chart: no step of this thing has a number in this field");
        }
        let (mut connected, mut away) = (HashSet::new(), HashSet::new());
        for (index, step) in scenario.steps.iter().enumerate() {
            let check = step.check().and_then(|()| match step.connect {
                None if step.topic.is_some() && away.contains(&step.thing) => {
                    bail!("topic: this thing has disconnected, and must connect again first")
                }
                Some(Connect::Again) if step.expect.is_of_return() => {
                    ensure!(away.remove(&step.thing), "connect: this thing has not disconnected in a step before");
                    Ok(())
                }
                Some(Connect::Again) if !connected.contains(&step.thing) => {
                    bail!("connect: this thing has no certificate of an earlier step")
                }
                _ => Ok(()),
            });
            check.map_err(|error| anyhow!("steps[{index}] ({}): {error:#}", step.what))?;
            if step.is_connection() {
                connected.insert(step.thing.clone());
            }
            if step.disconnect {
                away.insert(step.thing.clone());
            }
        }
        let newcomers = scenario.newcomers();
        for publisher in &scenario.publishers {
            let is_registered =
                scenario.steps.iter().any(|step| step.thing == *publisher) && !newcomers.contains(&**publisher);
            ensure!(is_registered, "publishers: no step is of thing {publisher}, or it is new to AWS IoT");
        }
        Ok(scenario)
    }

    /// The things that are new to AWS IoT: those that connect before they do anything else.
    pub fn newcomers(&self) -> HashSet<&str> {
        let mut seen = HashSet::new();
        let mut newcomers = HashSet::new();
        for step in &self.steps {
            if seen.insert(&*step.thing) && step.is_connection() {
                newcomers.insert(&*step.thing);
            }
        }
        newcomers
    }

    /// Whether a device connects with a certificate of an authority's.
    pub fn has_connections(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.connect, Some(Connect::Certificate(_))))
    }

    /// Whether it takes a partner to whom messages are forwarded.
    pub fn has_partner(&self) -> bool {
        let expected = self.steps.iter().flat_map(|step| std::iter::once(&step.expect).chain(&step.expect_others));
        expected.into_iter().any(|expect| matches!(expect, Expect::Forwarded(_)))
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

    fn connection(step: &str) -> String {
        format!(r#"{{"about": "A test.", "steps": [{{"what": "w", "thing": "t", {step}}}]}}"#)
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
    fn a_connection_says_what_is_special_about_its_certificate() {
        let text = connection(
            r#""expect": "admitted", "connect": {"certificate": {"commonName": "a/b", "notBeforeDays": -3,
               "notAfterDays": -0.5, "ca": true, "key": "p-384", "keyUsage": [], "extendedKeyUsage": ["serverAuth"],
               "unknownCriticalExtension": true, "signedByAnother": true, "revoked": true}}"#,
        );
        let scenario = Scenario::parse(&text).expect("valid");
        let step = scenario.steps.first().expect("one");
        let Ok(Action::Connect(Connect::Certificate(special))) = step.action() else { panic!("{step:?}") };
        assert!(special.signed_by_another && special.revoked);
        let certificate = special.of("t");
        assert_eq!(certificate.common_name.as_deref(), Some("a/b"));
        let age = certificate.not_before.elapsed().expect("in the past");
        assert_eq!(age.as_secs() / 86_400, 3);
        assert!(certificate.not_after < SystemTime::now());
        assert!(certificate.is_ca && certificate.has_unknown_critical_extension);
        assert_eq!(certificate.key, Key::P384);
        assert_eq!(certificate.key_usage, []);
        assert_eq!(certificate.extended_key_usage, [ExtendedKeyUsagePurpose::ServerAuth]);

        let plain = connection(r#""expect": "admitted", "connect": {"certificate": {}}"#);
        let plain = Scenario::parse(&plain).expect("valid");
        let Some(Connect::Certificate(special)) = &plain.steps.first().expect("one").connect else {
            panic!("{plain:?}")
        };
        assert_eq!(special.of("t").common_name.as_deref(), Some("t"));
        assert!(plain.newcomers().contains("t") && plain.has_connections());
    }

    #[test]
    fn an_error_in_a_connection_names_the_field() {
        let admitted = r#""expect": "admitted""#;
        let certificate =
            |field: &str| connection(&format!(r#""connect": {{"certificate": {{{field}}}}}, {admitted}"#));
        for (text, part) in [
            (certificate(r#""cn": "x""#), "steps[0].connect.certificate.cn: unknown field"),
            (certificate(r#""key": "dsa""#), "steps[0].connect.certificate.key: unknown variant `dsa`"),
            (certificate(r#""key": "rsa-1024""#), "steps[0].connect.certificate.key: unknown variant"),
            (certificate(r#""keyUsage": ["x"]"#), "steps[0].connect.certificate.keyUsage[0]: unknown variant"),
            (certificate(r#""notAfterDays": -1"#), "steps[0] (w): connect.certificate.notAfterDays: "),
            (certificate(r#""notBeforeDays": 1e9"#), "steps[0] (w): connect.certificate.notBeforeDays: "),
            (connection(&format!(r#""connect": "anew", {admitted}"#)), "steps[0].connect: unknown variant `anew`"),
            (connection(&format!(r#""connect": "again", {admitted}"#)), "steps[0] (w): connect: this thing has no"),
            (connection(&format!(r#""connect": {{"certificate": {{}}, "x": 1}}, {admitted}"#)), "steps[0].connect: "),
            (
                connection(&format!(r#""connect": {{"certificate": {{}}}}, "topic": "a/t", {admitted}"#)),
                "steps[0] (w): must have exactly one of topic, connect, disconnect, order and shadow",
            ),
            (
                connection(&format!(r#""connect": {{"certificate": {{}}}}, "payloadText": "", {admitted}"#)),
                "steps[0] (w): only a message, with a topic, has a payload",
            ),
            (
                connection(&format!(r#""connect": {{"certificate": {{}}}}, "times": 2, {admitted}"#)),
                "steps[0] (w): times: ",
            ),
            (
                connection(r#""connect": {"certificate": {}}, "expect": "quieted""#),
                "steps[0] (w): expect: this cannot come of a connection",
            ),
            (
                connection(r#""connect": {"certificate": {}}, "expect": {"turnedAway": {"why": "x"}}"#),
                "steps[0].expect.turnedAway.why: unknown field",
            ),
            (
                connection(admitted),
                "steps[0] (w): must have exactly one of topic, connect, disconnect, order and shadow",
            ),
            (steps(&format!(r#""payload": 1, {admitted}"#)), "steps[0] (w): expect: this cannot come of a message"),
        ] {
            let error = error(&text);
            assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
        }
    }

    #[test]
    fn an_error_in_an_order_or_a_look_names_the_field() {
        let order = |field: &str| connection(&format!(r#""order": {{"function": "alarm", "input": {{}}}}, {field}"#));
        let look = |field: &str| connection(&format!(r#""shadow": {{"of": "a-shade"}}, {field}"#));
        let reading = r#""payload": {"lux": 1}, "expect": {"kept": {"readings": 1}}"#;
        for (text, part) in [
            (order(r#""expect": {"kept": {"readings": 1}}"#), "expect: this cannot come of an order"),
            (order(r#""times": 2, "expect": "done""#), "times: an order is given once"),
            (order(r#""goOn": true, "expect": "done""#), "goOn: is for one message"),
            (look(r#""expect": "done""#), "expect: this cannot come of a look at a shadow"),
            (look(r#""expect": {"desired": {}}"#).replace("a-shade", "a/b"), "shadow.of: must be"),
            (steps(&format!(r#""times": 2, "goOn": true, {reading}"#)), "goOn: is for one message"),
            (steps(&format!(r#""afterSeconds": 901, {reading}"#)), "afterSeconds: must be from 0 to 900"),
        ] {
            let error = error(&text);
            assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
        }
        for good in [order(r#""expect": "done""#), look(r#""expect": {"desired": {"a": 1}}"#), steps(reading)] {
            Scenario::parse(&good).expect("valid");
        }
    }

    #[test]
    fn an_error_in_a_connections_end_or_in_what_comes_of_it_names_the_field() {
        let gone = |field: &str| connection(&format!(r#""disconnect": true, {field}"#));
        let back = |expect: &str| {
            let steps = [
                r#"{"what": "w", "thing": "t", "disconnect": true, "expect": "disconnected"}"#.to_owned(),
                format!(r#"{{"what": "w", "thing": "t", "connect": "again", "expect": {expect}}}"#),
            ];
            format!(r#"{{"about": "A test.", "steps": [{}]}}"#, steps.join(", "))
        };
        let at_once = connection(r#""connect": "again", "expect": "connected""#);
        for (text, part) in [
            (gone(r#""expect": "connected""#), "expect: this cannot come of a connection's end"),
            (gone(r#""expect": "admitted""#), "expect: this cannot come of a connection's end"),
            (gone(r#""times": 2, "expect": "disconnected""#), "times: a device disconnects once"),
            (gone(r#""connect": "again", "expect": "disconnected""#), "must have exactly one of topic, connect, "),
            (gone(r#""expect": "disconnected""#).replace("true", "false"), "must have exactly one of topic, connect, "),
            (
                back(r#""nothing""#).replace(r#""connect": "again""#, r#""topic": "a/t", "payload": 1"#),
                "steps[1] (w): topic: this thing has disconnected",
            ),
            (at_once, "connect: this thing has not disconnected in a step before"),
            (back(r#""nothing""#), "steps[1] (w): connect: this thing has no certificate"),
            (back(r#""disconnected""#), "steps[1] (w): expect: this cannot come of a connection"),
            (
                connection(r#""connect": {"certificate": {}}, "expect": "connected""#),
                "expect: this cannot come of a connection",
            ),
        ] {
            let error = error(&text);
            assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
        }
        for good in [gone(r#""expect": {"notification": {}}"#), back(r#""connected""#), back(r#"{"notification": {}}"#)]
        {
            let scenario = Scenario::parse(&good).expect("valid");
            assert!(scenario.newcomers().is_empty() && !scenario.has_connections(), "{good}");
        }
    }

    #[test]
    fn an_error_in_what_neighbours_get_names_the_field() {
        let forwarded = r#""payload": 1, "expect": {"forwarded": {"attributes": {"thing": "t"}}}"#;
        let held = r#""payload": 1, "expect": {"held": {"reported": {"a": 1}}}"#;
        let update = |topic: &str| steps(held).replace("a/t", topic);
        let desire = |field: &str| connection(&format!(r#""shadow": {{"of": "t", "desired": {{"a": 1}}}}, {field}"#));
        let publishers = |names: &str| steps(forwarded).replacen('{', &format!(r#"{{"publishers": [{names}], "#), 1);
        for (text, part) in [
            (steps(&forwarded.replace("attributes", "body")), "expect.forwarded.body: unknown field"),
            (publishers(r#""t", "u""#), "publishers: no step is of thing u"),
            (steps(held), "expect: this cannot come of a message"),
            (update("$aws/things/t/shadow/get"), "expect: this cannot come of a message"),
            (update("$aws/things/t/shadow/name/update"), "expect: this cannot come of a message"),
            (desire(r#""expect": {"desired": {"a": 1}}"#), "expect: this cannot come of a change of a shadow"),
            (desire(r#""times": 2, "expect": {"held": {}}"#), "times: a shadow is looked at, or changed, once"),
            (desire(r#""expect": {"held": {"state": {}}}"#), "expect.held.state: unknown field"),
            (
                desire(r#""expect": {"held": {}}"#).replace(r#""of": "t""#, r#""of": "t", "name": "a/b""#),
                "shadow.name: must be",
            ),
        ] {
            let error = error(&text);
            assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
        }
        let has_partner = |text: &str| Scenario::parse(text).expect("valid").has_partner();
        assert!(has_partner(&publishers(r#""t""#)));
        for good in [
            update("$aws/things/t/shadow/update"),
            update("$aws/things/t/shadow/name/n/update"),
            update("$aws/things/t/shadow/name/n/delete"),
            desire(r#""expect": {"held": {"desired": {"a": 1}}}"#),
            connection(r#""shadow": {"of": "t", "name": "n"}, "expect": {"held": {"deleted": true}}"#),
        ] {
            assert!(!has_partner(&good), "{good}");
        }
    }

    #[test]
    fn what_becomes_of_a_shadows_update_or_deletion_is_told_beside_its_topic() {
        let name = Some("n".to_owned());
        let named = Shadow { of: "t".to_owned(), name, desired: None };
        let classic = Shadow { name: None, ..named.clone() };
        for (topic, told) in [
            ("$aws/things/t/shadow/update", Some(classic.documents())),
            ("$aws/things/t/shadow/name/n/update", Some(named.documents())),
            ("$aws/things/t/shadow/delete", Some("$aws/things/t/shadow/delete/accepted".to_owned())),
            ("$aws/things/t/shadow/name/n/delete", Some("$aws/things/t/shadow/name/n/delete/accepted".to_owned())),
            ("$aws/things/t/shadow/get", None),
            ("$aws/things/t/shadow/update/documents", None),
            ("telemetry/t", None),
        ] {
            assert_eq!(told_on(topic), told, "{topic}");
        }
    }

    #[test]
    fn a_chart_is_of_a_field_that_its_thing_reports() {
        let chart = |field: &str| {
            steps(r#""payload": {"lux": 1}, "expect": {"kept": {"readings": 1}}"#).replacen(
                '{',
                &format!(r#"{{"chart": {{"thing": "t", "field": "{field}", "threshold": "b", "limit": 5}}, "#),
                1,
            )
        };
        assert!(Scenario::parse(&chart("/lux")).expect("valid").chart.is_some());
        assert!(error(&chart("/heat")).contains("chart: no step of this thing"));
    }

    #[test]
    fn a_step_waits_for_the_longer_of_its_two_delays() {
        let scenario =
            Scenario::parse(&steps(r#""delaySeconds": 1, "afterSeconds": 3, "payload": 1, "expect": "nothing""#));
        let scenario = scenario.expect("valid");
        let step = scenario.steps.first().expect("one");
        for (ago, delay) in [(0, 3), (1, 2), (2, 1), (5, 1)] {
            assert_eq!(step.delay(Duration::from_secs(ago)), Duration::from_secs(delay));
        }
    }

    #[test]
    fn a_thing_is_new_where_it_connects_before_it_says_anything() {
        let text = r#"{"about": "A test.", "steps": [
            {"what": "w", "thing": "new", "connect": {"certificate": {}}, "expect": "admitted"},
            {"what": "w", "thing": "new", "topic": "a/new", "payload": 1, "expect": "nothing"},
            {"what": "w", "thing": "old", "topic": "a/old", "payload": 1, "expect": "nothing"},
            {"what": "w", "thing": "old", "connect": {"certificate": {}}, "expect": {"turnedAway": {"reason": "r"}}},
            {"what": "w", "thing": "old", "connect": "again", "expect": "denied"}
        ]}"#;
        assert_eq!(Scenario::parse(text).expect("valid").newcomers(), HashSet::from(["new"]));
    }

    #[test]
    fn what_is_shipped_and_what_the_readme_shows_can_be_read() {
        assert!(read_all(&[]).expect("valid").len() >= 2);
        let readme = std::fs::read_to_string(tools::root().join("events/README.md")).expect("a text");
        let blocks = readme.split("```json\n").skip(1).filter_map(|block| block.split("```").next());
        let scenarios: Vec<_> = blocks.filter(|block| block.contains("\"steps\"")).map(Scenario::parse).collect();
        assert_eq!(scenarios.len(), 4);
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
