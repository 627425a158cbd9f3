//! Recognizes a dead letter, and rebuilds the event that did not arrive.
//!
//! | kind | found in | what it is |
//! | --- | --- | --- |
//! | `rule` | `-rule-dlq` | AWS IoT's report of a rule's failed actions, with the device's message |
//! | `invocation` | `-dlq` | Lambda's report of a failed asynchronous invocation, with the input |
//! | `event` | `-dlq` | an unchanged message of the function's work queue |
//! | `topic` | `-dlq` | a message that SNS could not deliver to the work queue |
//! | `schedule` | both | a message that `EventBridge` Scheduler could not deliver to the work queue |
//! | `unrecognized` | both | anything else |

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::{EventId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::dead_letters::rule::{PayloadForm, Rule};
use crate::names::{INVOKED_DIRECTLY, Names};
use crate::quarantine::with_trace_id;

/// A message as it is in a dead-letter queue.
#[derive(Debug, Clone, Default)]
pub struct RawLetter {
    /// The function that the queue belongs to.
    pub function: &'static str,
    /// Whether the queue belongs to the function's rules.
    pub is_of_rule: bool,
    /// The message's ID in SQS.
    pub message_id: String,
    /// When it was sent to the dead-letter queue, or to its source queue, in milliseconds since 1970.
    pub sent_at: u64,
    /// The message attributes that are strings.
    pub attributes: BTreeMap<String, String>,
    /// The message's body.
    pub body: String,
}

/// The kind of a message in a dead-letter queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// AWS IoT's report of a rule's failed actions.
    Rule,
    /// Lambda's report of a failed asynchronous invocation.
    Invocation,
    /// A message of the function's work queue.
    Event,
    /// A message that SNS could not deliver.
    Topic,
    /// A message that a schedule could not deliver.
    Schedule,
    /// Anything else.
    Unrecognized,
}

impl Kind {
    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Invocation => "invocation",
            Self::Event => "event",
            Self::Topic => "topic",
            Self::Schedule => "schedule",
            Self::Unrecognized => "unrecognized",
        }
    }
}

/// A target that did not receive an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// The work queue of this function.
    Queue(&'static str),
    /// This function.
    Function(&'static str),
    /// A function in another account, by its ARN.
    ForeignFunction(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(function) => write!(f, "queue {function}"),
            Self::Function(function) => write!(f, "function {function}"),
            Self::ForeignFunction(arn) => f.write_str(arn),
        }
    }
}

/// A message in a dead-letter queue, parsed as far as possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// The message's ID in SQS.
    pub message_id: String,
    /// Its kind.
    pub kind: Kind,
    /// The function that the queue belongs to.
    pub function: &'static str,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// The event's ID, by which the function identifies it, if that is known.
    pub event_id: Option<String>,
    /// The thing, if there is one.
    pub thing: Option<String>,
    /// The topic, if there is one.
    pub topic: Option<String>,
    /// What failed.
    pub error: Option<String>,
    /// The event to be sent. Absent if it cannot be rebuilt.
    pub event: Option<String>,
    /// The targets that did not receive it.
    pub targets: Vec<Target>,
    /// Why it cannot be resent.
    pub problem: Option<String>,
}

/// Why a message is not recognized, or an event cannot be rebuilt, in one sentence.
type Problem = String;

impl DeadLetter {
    /// Parses a message. One that is not recognized has a [`problem`](Self::problem).
    pub fn recognize(letter: &RawLetter, names: &Names) -> Self {
        let unknown = Self {
            message_id: letter.message_id.clone(),
            kind: Kind::Unrecognized,
            function: letter.function,
            sent_at: Timestamp::from_millis(letter.sent_at),
            event_id: None,
            thing: None,
            topic: None,
            error: None,
            event: None,
            targets: Vec::new(),
            problem: None,
        };
        if let Some(record) = parse::<RuleErrorRecord>(&letter.body) {
            return record.letter(unknown, letter, names);
        }
        if let Some(record) = parse::<InvocationRecord<'_>>(&letter.body) {
            return record.letter(unknown, letter, names);
        }
        // A subscription without raw message delivery wraps the message in a notification.
        let notification =
            parse::<Notification>(&letter.body).filter(|notification| notification.kind == "Notification");
        let body = notification.as_ref().map_or(letter.body.as_str(), |notification| notification.message.as_str());
        let Some(fields) = parse::<EventFields<'_>>(body) else {
            return Self { problem: Some("It is not a JSON object.".to_owned()), ..unknown };
        };
        let (kind, error) = if letter.attributes.contains_key("SCHEDULE_ARN") {
            (Kind::Schedule, letter.attributes.get("ERROR_MESSAGE"))
        } else if notification.is_some() || letter.attributes.contains_key("ErrorCode") {
            (Kind::Topic, letter.attributes.get("ErrorMessage"))
        } else if letter.is_of_rule && !is_check(body) {
            let problem = "It is not a report of AWS IoT about a rule's failed actions.";
            return Self { problem: Some(problem.to_owned()), ..unknown };
        } else if letter.is_of_rule {
            // Only this function's schedule sends a check here.
            (Kind::Schedule, None)
        } else {
            (Kind::Event, None)
        };
        let event = with_trace_id(body, &letter.message_id);
        let target = if INVOKED_DIRECTLY.contains(&letter.function) {
            Target::Function(letter.function)
        } else {
            Target::Queue(letter.function)
        };
        Self {
            kind,
            event_id: Some(fields.event_id().unwrap_or_else(|| letter.message_id.clone())),
            thing: fields.thing(),
            topic: fields.topic(),
            error: error.cloned(),
            event: Some(event),
            targets: vec![target],
            ..unknown
        }
    }
}

/// The notification that SNS wraps a message in.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notification {
    #[serde(rename = "Type")]
    kind: String,
    message: String,
}

/// Parses a JSON object. (Serde would also accept an array with the fields' values.)
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
}

/// Returns whether it is the command that a schedule sends.
fn is_check(body: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Check {
        #[serde(rename = "check")]
        _check: String,
    }
    parse::<Check>(body).is_some()
}

/// The record that a rule sends to its error action.
/// <https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleErrorRecord {
    rule_name: String,
    topic: String,
    #[serde(default)]
    cloudwatch_trace_id: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    base64_original_payload: String,
    failures: Vec<ActionFailure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActionFailure {
    #[serde(default)]
    failed_action: String,
    #[serde(default)]
    failed_resource: String,
    #[serde(default)]
    error_message: String,
}

/// The envelope that a rule builds, in the order of its SQL, without the principal, which the record does not contain.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thing: Option<&'a str>,
    topic: &'a str,
    client_id: &'a str,
    trace_id: &'a str,
    received_at: u64,
}

impl RuleErrorRecord {
    fn letter(self, unknown: DeadLetter, letter: &RawLetter, names: &Names) -> DeadLetter {
        let errors: Vec<&str> = self.failures.iter().map(|failure| failure.error_message.as_str()).collect();
        // The ID that traceid() returned, by which a function that received the message identifies it. Otherwise the
        // message's own ID, which is the same each time that this dead letter is received.
        let trace_id = self.cloudwatch_trace_id.clone().filter(|id| EventId::new(id.as_str()).is_some());
        let trace_id = trace_id.unwrap_or_else(|| letter.message_id.clone());
        let mut known = DeadLetter {
            kind: Kind::Rule,
            event_id: Some(trace_id.clone()),
            topic: Some(self.topic.clone()),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
            ..unknown
        };
        match self.rebuild(&trace_id, letter.sent_at, names) {
            Ok((thing, event, targets)) => {
                known.thing = thing;
                known.event = Some(event);
                known.targets = targets;
            }
            Err(problem) => known.problem = Some(problem),
        }
        known
    }

    fn rebuild(
        &self,
        trace_id: &str,
        sent_at: u64,
        names: &Names,
    ) -> Result<(Option<String>, String, Vec<Target>), Problem> {
        let name = names
            .rule_suffix(&self.rule_name)
            .ok_or_else(|| format!("Rule {} is not one of the deployment {}.", self.rule_name, names.prefix()))?;
        if name == "shadow_delta" {
            let why = "A delta is superseded by the shadow's next one; the device can ask for its shadow.";
            return Err(why.to_owned());
        }
        let rule = Rule::find(name).ok_or_else(|| format!("Rule {} is unknown.", self.rule_name))?;
        let payload = BASE64_STANDARD.decode(&self.base64_original_payload);
        let payload = payload.map_err(|_| "Field `base64OriginalPayload` is not standard base64.".to_owned())?;
        // The record writes N/A where clientid() returns n/a.
        let client_id = self.client_id.as_deref().filter(|id| *id != "N/A").unwrap_or("n/a");
        let thing = rule.thing(&self.topic, client_id, &payload);
        let json = match rule.payload {
            PayloadForm::Base64 => None,
            PayloadForm::Json => {
                let json: Result<&RawValue, _> = serde_json::from_slice(&payload);
                Some(json.map_err(|_| "The payload is not JSON, although AWS IoT itself sent it.".to_owned())?)
            }
        };
        let envelope = Envelope {
            payload_base64: json.is_none().then_some(self.base64_original_payload.as_str()),
            payload: json,
            thing: thing.as_deref(),
            topic: &self.topic,
            client_id,
            trace_id,
            received_at: sent_at,
        };
        let event = serde_json::to_string(&envelope).map_err(|error| error.to_string())?;
        Ok((thing, event, self.targets(rule, names)?))
    }

    /// Returns the targets of the failed actions.
    fn targets(&self, rule: Rule, names: &Names) -> Result<Vec<Target>, Problem> {
        if self.failures.is_empty() {
            return Err("The record names no failed action.".to_owned());
        }
        let mut targets = Vec::new();
        for ActionFailure { failed_action, failed_resource, .. } in &self.failures {
            let action = failed_action.to_ascii_lowercase();
            // The URL or ARN of a queue, or the ARN of a function.
            let resource = failed_resource.rsplit(['/', ':']).next().unwrap_or_default();
            let fed = names.suffix(resource).and_then(|name| rule.feeds.iter().copied().find(|fed| *fed == name));
            let only = if let [only] = rule.feeds { Some(*only) } else { None };
            let target = match (action.as_str(), fed.or(only)) {
                ("sqsaction" | "sqs", Some(function)) if !INVOKED_DIRECTLY.contains(&function) => {
                    Target::Queue(function)
                }
                ("lambdaaction" | "lambda", Some(function)) if INVOKED_DIRECTLY.contains(&function) => {
                    Target::Function(function)
                }
                ("lambdaaction" | "lambda", None) if rule.feeds.is_empty() && failed_resource.starts_with("arn:") => {
                    Target::ForeignFunction(failed_resource.clone())
                }
                _ => {
                    return Err(format!(
                        "Rule {} has no action {failed_action} for {failed_resource}.",
                        self.rule_name
                    ));
                }
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        Ok(targets)
    }
}

/// The record that Lambda sends to the on-failure destination of an asynchronous invocation.
/// <https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InvocationRecord<'a> {
    request_context: RequestContext,
    #[serde(borrow)]
    request_payload: &'a RawValue,
    #[serde(default, borrow)]
    response_payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    /// Absent in the local cloud.
    #[serde(default)]
    request_id: Option<String>,
    function_arn: String,
    #[serde(default)]
    condition: String,
}

impl InvocationRecord<'_> {
    fn letter(self, unknown: DeadLetter, letter: &RawLetter, names: &Names) -> DeadLetter {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Response {
            error_message: String,
        }
        let RequestContext { request_id, function_arn, condition } = self.request_context;
        let message = self.response_payload.and_then(|response| parse::<Response>(response.get()));
        let error = message
            .map_or_else(|| condition.clone(), |Response { error_message }| format!("{condition}: {error_message}"));
        let payload = self.request_payload.get();
        let fields: EventFields<'_> = parse(payload).unwrap_or_default();
        let function = function_arn.split(':').nth(6).and_then(|name| names.function(name).ok());
        let known = DeadLetter {
            kind: Kind::Invocation,
            event_id: fields.event_id().or_else(|| request_id.clone()).or(unknown.event_id),
            thing: fields.thing(),
            topic: fields.topic(),
            error: Some(error),
            ..unknown
        };
        match function {
            Some(function) if function == letter.function => {
                // The ID by which each attempt identified it.
                let event = request_id.map_or_else(|| payload.to_owned(), |id| with_trace_id(payload, &id));
                DeadLetter { event: Some(event), targets: vec![Target::Function(function)], ..known }
            }
            _ => DeadLetter { problem: Some(format!("{function_arn} is not the function of this queue.")), ..known },
        }
    }
}

/// The fields that identify an event, as raw JSON, because they may be invalid.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EventFields<'a> {
    #[serde(borrow)]
    trace_id: Option<&'a RawValue>,
    #[serde(borrow)]
    thing: Option<&'a RawValue>,
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
}

impl EventFields<'_> {
    fn event_id(&self) -> Option<String> {
        string(self.trace_id).filter(|id| EventId::new(id.as_str()).is_some())
    }

    fn thing(&self) -> Option<String> {
        string(self.thing)
    }

    fn topic(&self) -> Option<String> {
        string(self.topic)
    }
}

fn string(raw: Option<&RawValue>) -> Option<String> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

/// Returns the kind of document that a command uploads. A resent upload must not replace a later one.
pub fn uploaded_document(event: &str) -> Option<crate::documents::Kind> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Upload<'a> {
        #[serde(borrow)]
        thresholds: Option<&'a RawValue>,
        #[serde(borrow)]
        rules: Option<&'a RawValue>,
        #[serde(borrow)]
        actions: Option<&'a RawValue>,
        #[serde(borrow)]
        destinations: Option<&'a RawValue>,
    }
    use crate::documents::Kind::{Actions, Destinations, Thresholds};
    match parse::<Upload<'_>>(event)? {
        Upload { thresholds: Some(_), .. } | Upload { rules: Some(_), .. } => Some(Thresholds),
        Upload { actions: Some(_), .. } => Some(Actions),
        Upload { destinations: Some(_), .. } => Some(Destinations),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
