//! Resends refused events to their functions.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;
use aws_sdk_lambda::Client;
use gatehouse::EventId;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::invoke::{Invoked, invoke};
use crate::quarantine::{QuarantineTable, RefusedEvent, RefusedEventSummary};

/// Sends refused events to their functions.
#[derive(Debug)]
pub struct Resend {
    table: QuarantineTable,
    lambda: Client,
}

/// The result of sending an event to its function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Resent {
    /// The function accepted it, and it was removed from quarantine.
    Accepted {
        /// A note for the operator.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// The function refused it again, and it is still in quarantine.
    #[serde(rename_all = "camelCase")]
    RefusedAgain {
        /// The ID under which it is in quarantine now.
        event_id: String,
        /// The reason code.
        reason: String,
        /// The reason in one sentence.
        why: String,
    },
    /// It was not accepted, and is still in quarantine.
    Failed {
        /// What failed.
        error: String,
    },
}

impl fmt::Display for Resent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { note } => {
                write!(f, "accepted{}", note.as_ref().map_or_else(String::new, |note| format!("; {note}")))
            }
            Self::RefusedAgain { event_id, reason, why } => {
                write!(f, "refused again ({reason}): {why} It stays in quarantine as {event_id}.")
            }
            Self::Failed { error } => write!(f, "failed: {error}"),
        }
    }
}

impl Resend {
    /// Creates a resender with this client, which must not repeat requests.
    pub fn new(table: QuarantineTable, lambda: Client) -> Self {
        Self { table, lambda }
    }

    /// Sends an event to the function that refused it, and removes it once the function accepts it.
    pub async fn resend(&self, summary: &RefusedEventSummary) -> Resent {
        let result = self.try_resend(summary).await;
        result.unwrap_or_else(|error| Resent::Failed { error: format!("{error:#}") })
    }

    async fn try_resend(&self, summary: &RefusedEventSummary) -> Result<Resent> {
        let (function, event_id) = (&summary.function, &summary.event_id);
        let Some(event) = self.table.get(function, event_id).await? else {
            return Ok(Resent::Accepted { note: Some("it had left quarantine before it was sent".to_owned()) });
        };
        let text = with_trace_id(&event.event, event_id);
        match invoke(&self.lambda, function, &text).await? {
            Invoked::Done => self.accepted(&event).await,
            Invoked::Refused { reason, why } => self.refused(&event, reason, why).await,
            Invoked::Failed(error) => Ok(Resent::Failed { error }),
        }
    }

    async fn accepted(&self, event: &RefusedEvent) -> Result<Resent> {
        let RefusedEventSummary { function, event_id, refused_at, .. } = &event.summary;
        if self.table.remove(function, event_id, *refused_at).await? {
            return Ok(Resent::Accepted { note: None });
        }
        Ok(match self.table.get(function, event_id).await? {
            // Another operator resent it, or it expired.
            None => Resent::Accepted { note: Some("someone else had removed it".to_owned()) },
            Some(RefusedEvent { summary, why, .. }) => {
                Resent::RefusedAgain { event_id: summary.event_id, reason: summary.reason, why }
            }
        })
    }

    /// Removes the old copy of an event that was refused again. The function writes an event under the same ID, but a
    /// command under a new one, that of the request, so its old copy remains. This decides by the table's content, not
    /// by the function's response.
    async fn refused(&self, event: &RefusedEvent, reason: String, why: String) -> Result<Resent> {
        let RefusedEventSummary { function, event_id, refused_at, .. } = &event.summary;
        let is_rewritten =
            self.table.get(function, event_id).await?.is_none_or(|now| now.summary.refused_at != *refused_at);
        let copy = if is_rewritten { None } else { self.table.newer_copy(function, &event.event, *refused_at).await? };
        if copy.is_some() {
            self.table.remove(function, event_id, *refused_at).await?;
        }
        let event_id = copy.unwrap_or_else(|| event_id.clone());
        Ok(Resent::RefusedAgain { event_id, reason, why })
    }
}

/// Adds a trace ID to an event from AWS IoT that has none, so that the function recognizes the event if it is sent once
/// more. Other events are returned unchanged.
///
/// The rest of the text is unchanged: numbers keep their digits.
pub fn with_trace_id(event: &str, id: &str) -> String {
    let fields: HashMap<String, &RawValue> = serde_json::from_str(event).unwrap_or_default();
    let has_payload = fields.contains_key("payload") || fields.contains_key("payloadBase64");
    let is_anonymous = has_payload && !fields.contains_key("traceId");
    match event.trim_start().strip_prefix('{') {
        Some(rest) if is_anonymous && EventId::new(id).is_some() => {
            format!("{{\"traceId\":{},{rest}", serde_json::Value::from(id))
        }
        _ => event.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_without_trace_id_gets_one_and_is_otherwise_unchanged() {
        let event = r#" {"payload": {"a": 22.50}, "thing": "a"}"#;
        assert_eq!(with_trace_id(event, "an-id"), r#"{"traceId":"an-id","payload": {"a": 22.50}, "thing": "a"}"#);
    }

    #[test]
    fn trace_id_and_commands_are_left_alone() {
        for event in [
            r#"{"payloadBase64": "", "traceId": "its-own"}"#,
            r#"{"payload": {}, "traceId": null}"#,
            r#"{"thresholds": []}"#,
            r#"{"check": "due"}"#,
            "[1]",
            "not JSON",
        ] {
            assert_eq!(with_trace_id(event, "an-id"), event);
        }
        assert_eq!(with_trace_id(r#"{"payload": {}}"#, "not an id"), r#"{"payload": {}}"#);
    }
}
