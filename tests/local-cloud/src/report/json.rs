//! The report for machines: one JSON document.

use std::time::Duration;

use serde_json::{Value, json};

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

/// Returns one event.
pub(super) fn event(result: &StepResult) -> Value {
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
    match &result.effect {
        Some(effect) => effect.json(),
        None => json!({"kind": if result.denied { "denied" } else { "nothing" }}),
    }
}
