//! Events as JSON: a summary for lists, and the whole path.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{Attempt, Effect, EventPath, FaultStrike, FunctionPath, PublishedMessage, Rule, Totals};

/// Outcomes that matter more to a reader than others, in order of importance.
const NOTABLE: [&str; 6] = ["quarantine", "retried", "pending", "rejected", "notification", "forwarded"];

impl EventPath {
    /// Returns the thing that the event is about.
    pub fn thing(&self) -> Cow<'_, str> {
        thing(&self.message)
    }

    /// Returns the most notable outcome of all functions.
    pub fn kind(&self) -> &'static str {
        let kinds = || self.functions.iter().map(FunctionPath::kind);
        let notable = NOTABLE.into_iter().find(|notable| kinds().any(|kind| kind == *notable));
        notable.or_else(|| kinds().next()).unwrap_or("nothing")
    }

    /// Returns the summary for lists.
    pub fn summary(&self) -> Value {
        let functions = self.functions.iter().map(|path| {
            let text = path.outcome.as_ref().map(ToString::to_string);
            json!({"function": path.function, "kind": path.kind(), "text": text, "attempts": path.attempt_count})
        });
        json!({
            "number": self.number,
            "version": self.version,
            "id": self.message.trace_id,
            "at": self.message.at,
            "thing": self.thing(),
            "topic": self.message.topic,
            "system": self.is_system,
            "bytes": self.message.payload.len(),
            "kind": self.kind(),
            "millis": self.finished_at().map(|at| at.saturating_sub(self.message.at)),
            "functions": functions.collect::<Vec<_>>(),
            "faults": self.strikes.len(),
        })
    }

    /// Returns the whole path.
    pub fn path(&self, rules: &[Rule]) -> Value {
        let rules = rules.iter().filter(|rule| self.rules.contains(&rule.name));
        let rules = rules.map(|rule| json!({"name": rule.name, "filter": rule.filter, "sql": rule.sql}));
        let since = |at: u64| at.saturating_sub(self.message.at);
        let notifications = self.notifications.iter().map(|(at, notification)| {
            with(notification.json(), json!({"text": notification.text(), "millis": since(*at)}))
        });
        let forwarded = self
            .forwarded
            .iter()
            .map(|(at, message)| with(Effect::Forwarded(message.clone()).json(), json!({"millis": since(*at)})));
        let mut path = self.summary();
        if let Some(functions) = path.get_mut("functions") {
            *functions = self.functions.iter().map(|path| path.json(self.message.at)).collect();
        }
        let details = json!({
            "clientId": self.message.client_id,
            "payload": payload(&self.message.payload),
            "rules": rules.collect::<Vec<_>>(),
            "envelopes": self.envelopes,
            "notifications": notifications.collect::<Vec<_>>(),
            "forwarded": forwarded.collect::<Vec<_>>(),
            "strikes": self.strikes.iter().map(|strike| strike.json(self.message.at)).collect::<Vec<_>>(),
        });
        with(path, details)
    }
}

impl FunctionPath {
    fn json(&self, published_at: u64) -> Value {
        json!({
            "function": self.function,
            "rule": self.rule,
            "queue": self.queue.as_ref().and_then(|url| url.rsplit('/').next()),
            "kind": self.kind(),
            "text": self.outcome.as_ref().map(ToString::to_string),
            "outcome": self.outcome.as_ref().map(Effect::json),
            "millis": self.finished_at.map(|at| at.saturating_sub(published_at)),
            "attempts": self.attempts.iter().map(|attempt| attempt.json(published_at)).collect::<Vec<_>>(),
            "attemptCount": self.attempt_count,
        })
    }
}

impl Attempt {
    fn json(&self, published_at: u64) -> Value {
        json!({
            "requestId": self.request_id,
            "startedMillis": self.started_at.saturating_sub(published_at),
            "endedMillis": self.ended_at.saturating_sub(published_at),
            "lines": self.lines.iter().map(|line| &line.text).collect::<Vec<_>>(),
        })
    }
}

impl FaultStrike {
    fn json(&self, published_at: u64) -> Value {
        json!({
            "function": self.function,
            "service": self.service,
            "operation": self.operation,
            "fault": self.fault,
            "millis": self.at.saturating_sub(published_at),
        })
    }
}

impl Totals {
    /// Returns them as JSON.
    pub fn json(&self) -> Value {
        json!({
            "messages": self.messages,
            "systemMessages": self.system_messages,
            "rules": self.rules,
            "outcomes": self.outcomes,
            "notifications": self.notifications,
            "strikes": self.strikes,
        })
    }
}

/// Returns a payload as text, or as base64 if it is not text.
pub fn payload(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({"text": text}),
        Err(_) => json!({"base64": BASE64_STANDARD.encode(bytes)}),
    }
}

/// Returns the thing that a message is about: its publisher, or the one that AWS IoT names. For a new certificate,
/// which has no thing yet, this is the certificate's id.
fn thing(message: &PublishedMessage) -> Cow<'_, str> {
    let topic = &message.topic;
    if let Some(rest) = topic.strip_prefix("$aws/things/") {
        return rest.split('/').next().unwrap_or_default().into();
    }
    if topic.starts_with("$aws/events/certificates/") {
        let event: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        return event.get("certificateId").and_then(Value::as_str).unwrap_or_default().to_owned().into();
    }
    if topic.starts_with("$aws/events/") {
        return topic.rsplit('/').next().unwrap_or_default().into();
    }
    message.client_id.as_str().into()
}

/// Adds the fields of one object to another.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}
