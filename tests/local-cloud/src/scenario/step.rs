//! One step of a scenario.

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Connect, Expectation, OperatorAction};
use crate::device::MAX_MESSAGE_BYTES;

/// A message (or several copies of it), a connection or its end, a command, an operator's action on an alarm, or a read
/// or update of a device shadow.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    /// A short description for the report.
    pub what: String,
    /// The device that publishes or connects.
    pub thing: String,
    pub(super) connect: Option<Connect>,
    #[serde(default)]
    pub(super) disconnect: bool,
    command: Option<Command>,
    operator: Option<OperatorAction>,
    shadow: Option<Shadow>,
    pub(super) topic: Option<String>,
    payload: Option<Box<RawValue>>,
    payload_text: Option<String>,
    payload_base64: Option<String>,
    payload_repeat: Option<Repeat>,
    /// Delay before the step.
    #[serde(default)]
    pub(super) delay_seconds: f64,
    /// Minimum delay after the thing's previous step started.
    #[serde(default)]
    pub(super) min_interval_seconds: f64,
    /// Whether the thing's next step waits for this step's outcome.
    #[serde(default = "yes")]
    pub wait_for_outcome: bool,
    /// Number of copies.
    #[serde(default = "one")]
    pub times: NonZeroUsize,
    /// Whether the copies are published at the same moment instead of one after another.
    #[serde(default)]
    pub together: bool,
    /// Expected outcome of each copy.
    pub expect: Expectation,
    /// Expected outcome of all copies but one, if it differs.
    pub expect_others: Option<Expectation>,
}

fn yes() -> bool {
    true
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// A payload that repeats a text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    text: String,
    bytes: usize,
}

/// The action of a step.
#[derive(Debug, Clone)]
pub enum StepAction<'a> {
    /// The device publishes a message.
    Publish {
        /// The topic.
        topic: &'a str,
        /// The payload.
        payload: Vec<u8>,
    },
    /// The device connects.
    Connect(&'a Connect),
    /// The device drops its connection without an MQTT DISCONNECT.
    Disconnect,
    /// An operator sends a command to a function.
    Command(&'a Command),
    /// An operator acts on an alarm.
    Operator(&'a OperatorAction),
    /// Reads a device shadow.
    ReadShadow(&'a Shadow),
    /// An operator sets a device shadow's desired state.
    UpdateShadow(&'a Shadow, &'a Value),
}

impl StepAction<'_> {
    /// Returns the action's name for error messages, with an article.
    pub(super) fn description(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "a message",
            Self::Connect(_) => "a connection",
            Self::Disconnect => "a disconnection",
            Self::Command(_) => "a command",
            Self::Operator(_) => "an operator's action",
            Self::ReadShadow(_) => "a shadow read",
            Self::UpdateShadow(..) => "a shadow update",
        }
    }
}

/// An operator's command to a function.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Command {
    /// The function's crate name.
    pub function: String,
    /// The function's input.
    pub input: Box<RawValue>,
}

/// A device shadow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Shadow {
    /// The thing that the shadow belongs to.
    pub thing: String,
    /// The shadow's name; `None` for the classic one.
    pub name: Option<String>,
    /// The desired state to set; `None` reads the shadow.
    pub(super) desired: Option<Value>,
}

impl Shadow {
    /// Returns the topic on which AWS IoT publishes the shadow's updates.
    pub fn documents_topic(&self) -> String {
        let Self { thing, name, .. } = self;
        let name = name.as_ref().map(|name| format!("/name/{name}")).unwrap_or_default();
        format!("$aws/things/{thing}/shadow{name}/update/documents")
    }
}

/// Returns the topic on which AWS IoT confirms a shadow update or deletion that was published to `topic`.
pub fn confirmation_topic(topic: &str) -> Option<String> {
    let (_, shadow) = topic.strip_prefix("$aws/things/")?.split_once("/shadow/")?;
    match shadow.strip_prefix("name/").map_or(Some(shadow), |named| Some(named.split_once('/')?.1))? {
        "update" => Some(format!("{topic}/documents")),
        "delete" => Some(format!("{topic}/accepted")),
        _ => None,
    }
}

impl Step {
    /// Returns the action of the step.
    pub fn action(&self) -> Result<StepAction<'_>> {
        let payloads = [
            self.payload.is_some(),
            self.payload_text.is_some(),
            self.payload_base64.is_some(),
            self.payload_repeat.is_some(),
        ];
        match (&self.topic, &self.connect, self.disconnect, &self.command, &self.operator, &self.shadow) {
            (Some(topic), None, false, None, None, None) => Ok(StepAction::Publish { topic, payload: self.payload()? }),
            (None, ..) if payloads.contains(&true) => bail!("a payload requires a topic"),
            (None, Some(connect), false, None, None, None) => Ok(StepAction::Connect(connect)),
            (None, None, true, None, None, None) => Ok(StepAction::Disconnect),
            (None, None, false, Some(command), None, None) => Ok(StepAction::Command(command)),
            (None, None, false, None, Some(action), None) => Ok(StepAction::Operator(action)),
            (None, None, false, None, None, Some(shadow)) => Ok(match &shadow.desired {
                Some(desired) => StepAction::UpdateShadow(shadow, desired),
                None => StepAction::ReadShadow(shadow),
            }),
            _ => bail!("must have exactly one of topic, connect, disconnect, command, operator and shadow"),
        }
    }

    /// Returns whether the step is a connection.
    pub fn is_connection(&self) -> bool {
        self.connect.is_some()
    }

    /// Returns the operator's action, if the step is one on this rule's alarm.
    pub fn operator_action(&self, rule: &str) -> Option<&OperatorAction> {
        self.operator.as_ref().filter(|action| action.rule == rule)
    }

    /// Returns a number in the message's payload by its JSON pointer.
    pub fn number(&self, pointer: &str) -> Option<f64> {
        serde_json::from_str::<Value>(self.payload.as_ref()?.get()).ok()?.pointer(pointer)?.as_f64()
    }

    /// Returns the payload to publish.
    pub(super) fn payload(&self) -> Result<Vec<u8>> {
        let given = (&self.payload, &self.payload_text, &self.payload_base64, &self.payload_repeat);
        let bytes = match given {
            (Some(json), None, None, None) => json.get().as_bytes().to_vec(),
            (None, Some(text), None, None) => text.as_bytes().to_vec(),
            (None, None, Some(base64), None) => {
                BASE64_STANDARD.decode(base64).map_err(|error| anyhow!("payloadBase64: {error}"))?
            }
            (None, None, None, Some(Repeat { text, bytes })) => {
                ensure!(!text.is_empty(), "payloadRepeat.text: must not be empty");
                ensure!(*bytes <= MAX_MESSAGE_BYTES, "payloadRepeat.bytes: must be at most {MAX_MESSAGE_BYTES}");
                text.bytes().cycle().take(*bytes).collect()
            }
            _ => bail!("must have exactly one of payload, payloadText, payloadBase64 and payloadRepeat"),
        };
        ensure!(
            bytes.len() <= MAX_MESSAGE_BYTES,
            "the payload has {} bytes; AWS IoT accepts at most {MAX_MESSAGE_BYTES}",
            bytes.len()
        );
        Ok(bytes)
    }

    /// Returns the delay before the step, given the time since the thing's previous step started.
    pub fn delay(&self, since_previous: Duration) -> Duration {
        let seconds = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        seconds(self.delay_seconds).max(seconds(self.min_interval_seconds).saturating_sub(since_previous))
    }

    /// Returns the expected outcomes of all copies, in any order.
    pub fn expected(&self) -> Vec<Expectation> {
        let others = self.expect_others.as_ref().unwrap_or(&self.expect);
        std::iter::once(&self.expect).chain(std::iter::repeat(others)).take(self.times.get()).cloned().collect()
    }
}
