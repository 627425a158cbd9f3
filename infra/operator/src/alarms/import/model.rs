//! The models as `aws iotevents describe-alarm-model` and `describe-detector-model` print them; only the fields in use.
//!
//! Fields: <https://docs.aws.amazon.com/iotevents/latest/apireference/API_DescribeAlarmModel.html> and
//! <https://docs.aws.amazon.com/iotevents/latest/apireference/API_DescribeDetectorModel.html>

#![expect(clippy::struct_field_names, reason = "the fields have AWS's names")]

use serde::Deserialize;
use serde_json::{Map, Value};

/// A model.
#[derive(Debug)]
pub enum Model {
    /// An alarm model.
    Alarm(Box<AlarmModel>),
    /// A detector model.
    Detector(Box<DetectorModel>),
}

impl Model {
    /// Parses the output of one of the commands, or returns why it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let invalid = |error: serde_json::Error| format!("it is not a model: {error}");
        if let Some(detector) = value.get("detectorModel") {
            return Ok(Self::Detector(Box::new(DetectorModel::deserialize(detector).map_err(invalid)?)));
        }
        if value.get("alarmModelName").is_some() {
            return Ok(Self::Alarm(Box::new(AlarmModel::deserialize(&value).map_err(invalid)?)));
        }
        Err("it has neither `alarmModelName` nor `detectorModel`; pass what `aws iotevents describe-alarm-model` or \
             `describe-detector-model` prints"
            .to_owned())
    }
}

/// The output of `describe-alarm-model`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlarmModel {
    pub alarm_model_name: String,
    pub key: Option<String>,
    pub severity: Option<u64>,
    pub status: Option<String>,
    #[serde(default)]
    pub alarm_rule: AlarmRule,
    #[serde(default)]
    pub alarm_notification: AlarmNotification,
    #[serde(default)]
    pub alarm_event_actions: AlarmEventActions,
    #[serde(default)]
    pub alarm_capabilities: AlarmCapabilities,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlarmRule {
    pub simple_rule: Option<SimpleRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SimpleRule {
    pub input_property: String,
    pub comparison_operator: String,
    pub threshold: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlarmNotification {
    #[serde(default)]
    pub notification_actions: Vec<NotificationAction>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationAction {
    #[serde(default)]
    pub action: Map<String, Value>,
    #[serde(default)]
    pub sms_configurations: Vec<Value>,
    #[serde(default)]
    pub email_configurations: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlarmEventActions {
    #[serde(default)]
    pub alarm_actions: Vec<Action>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlarmCapabilities {
    pub initialization_configuration: Option<InitializationConfiguration>,
    pub acknowledge_flow: Option<AcknowledgeFlow>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InitializationConfiguration {
    pub disabled_on_initialization: bool,
}

#[derive(Debug, Deserialize)]
pub struct AcknowledgeFlow {
    pub enabled: bool,
}

/// The field `detectorModel` of the output of `describe-detector-model`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DetectorModel {
    pub detector_model_definition: Definition,
    pub detector_model_configuration: Configuration,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    pub states: Vec<State>,
    pub initial_state_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    pub detector_model_name: String,
    pub key: Option<String>,
    pub evaluation_method: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub state_name: String,
    #[serde(default)]
    pub on_input: OnInput,
    #[serde(default)]
    pub on_enter: Lifecycle,
    #[serde(default)]
    pub on_exit: Lifecycle,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnInput {
    #[serde(default)]
    pub events: Vec<Event>,
    #[serde(default)]
    pub transition_events: Vec<Transition>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Lifecycle {
    #[serde(default)]
    pub events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub event_name: String,
    pub condition: Option<String>,
    #[serde(default)]
    pub actions: Vec<Action>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    pub event_name: String,
    pub condition: String,
    #[serde(default)]
    pub actions: Vec<Action>,
    pub next_state: String,
}

/// An action: an object with one field, whose name is the kind of action.
pub type Action = Map<String, Value>;
