//! The report for machines: one JSON document.

use std::time::Duration;

use serde_json::{Value, json};

use crate::observer::Effect;
use crate::player::StepResult;

/// Returns the report on all scenarios.
pub fn json(results: &[StepResult], duration: Duration) -> Value {
    let events: Vec<_> = results.iter().map(event).collect();
    let failed = results.iter().filter(|result| result.problem.is_some()).count();
    json!({
        "ok": failed == 0,
        "total": results.len(),
        "failed": failed,
        "seconds": duration.as_secs_f64(),
        "events": events,
    })
}

fn event(result: &StepResult) -> Value {
    json!({
        "scenario": result.scenario,
        "step": result.step,
        "what": result.what,
        "thing": result.thing,
        "topic": result.topic,
        "eventId": result.event_id,
        "rule": result.rule,
        "function": result.function,
        "effect": effect(result),
        "millis": result.millis,
        "expected": result.expected,
        "ok": result.problem.is_none(),
        "problem": result.problem,
    })
}

fn effect(result: &StepResult) -> Value {
    let Some(effect) = &result.effect else {
        return json!({"kind": if result.denied { "denied" } else { "nothing" }});
    };
    match effect {
        Effect::Notified(notification) => json!({
            "kind": "notification",
            "topic": notification.topic,
            "message": notification.message,
            "data": notification.data,
            "subject": notification.subject,
            "attributes": notification.attributes,
        }),
        Effect::Quarantined { reason, why } => json!({"kind": "quarantine", "reason": reason, "why": why}),
        Effect::Suppressed => json!({"kind": "suppressed"}),
        Effect::Duplicate => json!({"kind": "duplicate"}),
        Effect::Admitted { thing } => json!({"kind": "admitted", "thing": thing}),
        Effect::Rejected { reason, why } => json!({"kind": "rejected", "reason": reason, "why": why}),
        Effect::Accepted => json!({"kind": "accepted"}),
        Effect::Done => json!({"kind": "done"}),
        Effect::Stored { readings } => json!({"kind": "stored", "readings": readings}),
        Effect::Refused { reason, why } => json!({"kind": "refused", "reason": reason, "why": why}),
        Effect::Desired(state) => json!({"kind": "desired", "state": state}),
        Effect::Forwarded(message) => json!({
            "kind": "forwarded",
            "account": message.account,
            "queue": message.queue,
            "body": message.body,
            "attributes": message.attributes,
        }),
        Effect::Connected => json!({"kind": "connected"}),
        Effect::Disconnected => json!({"kind": "disconnected"}),
        Effect::Recorded(state) => json!({"kind": "recorded", "state": state}),
        Effect::Alarm(alarm) => json!({"kind": "alarm", "state": alarm.state, "severity": alarm.severity}),
        Effect::Retried { error } => json!({"kind": "retried", "error": error}),
    }
}
