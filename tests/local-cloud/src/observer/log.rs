//! Reads the logs of functions.

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::Deserialize;
use serde_json::Value;

use super::state::Observed;
use super::watcher::Watcher;
use super::{Attempt, Effect, InvocationCounts, LogLine, Rule, Timed, now};
use crate::aws::Clients;

/// The log of a function.
pub(super) struct FunctionLog {
    function: String,
    group: String,
    /// The quarantine table.
    quarantine: Option<String>,
    /// Whether the observer must redeliver events that the function wants to retry, because no queue does.
    needs_redelivery: bool,
}

/// Lists the functions' logs.
pub(super) async fn list(clients: &Clients, rules: &[Rule]) -> Result<Vec<FunctionLog>> {
    let functions = clients.lambda.list_functions().into_paginator().items().send();
    let functions: Vec<_> = functions.collect::<Result<_, _>>().await?;
    let mut logs = Vec::new();
    for function in functions.into_iter().filter_map(|function| function.function_name) {
        let found = clients.lambda.get_function_configuration().function_name(&function).send().await?;
        let group = found.logging_config().and_then(|logging| logging.log_group()).map(str::to_owned);
        let variables = found.environment().and_then(|environment| environment.variables());
        let is_invoked = |rule: &Rule| rule.function.as_ref() == Some(&function) && rule.invokes_directly();
        logs.push(FunctionLog {
            group: group.unwrap_or_else(|| format!("/aws/lambda/{function}")),
            quarantine: variables.and_then(|variables| variables.get("QUARANTINE_TABLE")).cloned(),
            needs_redelivery: rules.iter().any(is_invoked),
            function,
        });
    }
    Ok(logs)
}

/// The log of one invocation.
struct Invocation {
    attempt: Attempt,
    /// The events that its lines name.
    event_ids: Vec<String>,
}

impl Default for Invocation {
    fn default() -> Self {
        let attempt = Attempt { request_id: String::new(), started_at: 0, ended_at: 0, lines: Vec::new() };
        Self { attempt, event_ids: Vec::new() }
    }
}

impl Invocation {
    fn add(&mut self, line: &str, at: u64) {
        if let Some(request) = line.strip_prefix("START RequestId: ") {
            request.split(' ').next().unwrap_or_default().clone_into(&mut self.attempt.request_id);
        } else if line.starts_with("REPORT RequestId: ") {
            // The local cloud writes all lines when the invocation ends.
            let duration = line.split_once("Duration: ").and_then(|(_, rest)| rest.split_once(" ms"));
            let millis = duration.and_then(|(text, _)| text.split('.').next()?.parse().ok()).unwrap_or(0);
            self.attempt.ended_at = at;
            self.attempt.started_at = at.saturating_sub(millis);
        } else if !line.starts_with("END RequestId: ") {
            let json: Option<Value> = serde_json::from_str(line).ok();
            let event_id = json.as_ref().and_then(|json| field(json, "eventId")).map(str::to_owned);
            if let Some(id) = event_id.as_ref().filter(|id| !self.event_ids.contains(*id)) {
                self.event_ids.push(id.clone());
            }
            if json.is_none_or(|json| json.get("_aws").is_none()) {
                self.attempt.lines.push(LogLine { event_id, text: line.to_owned() });
            }
        }
    }
}

impl Watcher {
    /// Adds the log of an invocation.
    pub(super) async fn add_log(&self, body: &str, logs: &[FunctionLog]) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Logged {
            log_group: String,
            log_events: Vec<Event>,
        }
        #[derive(Deserialize)]
        struct Event {
            timestamp: u64,
            message: String,
        }
        let Logged { log_group, log_events } = serde_json::from_str(body)?;
        let Some(log) = logs.iter().find(|log| log.group == log_group) else { return Ok(()) };
        let mut invocation = Invocation::default();
        for event in log_events {
            invocation.add(&event.message, event.timestamp);
            self.add_line(log, &event.message, event.timestamp).await?;
        }
        let attempt = invocation.attempt;
        self.add(|state| {
            if let Some(journal) = &mut state.journal {
                journal.add_attempt(&log.function, &invocation.event_ids, &attempt);
            }
        });
        Ok(())
    }

    async fn add_line(&self, log: &FunctionLog, line: &str, at: u64) -> Result<()> {
        let platform = ["START RequestId", "END RequestId", "REPORT RequestId"];
        if platform.iter().any(|prefix| line.starts_with(prefix)) {
            return Ok(());
        }
        self.add(|state| state.lines.push((log.function.clone(), line.to_owned())));
        let Ok(json) = serde_json::from_str::<Value>(line) else { return Ok(()) };
        // A line about several events has no event id.
        let event_id = field(&json, "eventId");
        if json.get("_aws").is_some() {
            let invocation = (log.function.clone(), event_id.map(str::to_owned), counts(&json));
            let observed = event_id.zip(metric_effect(&json)).map(|(id, effect)| Observed {
                event_id: id.to_owned(),
                function: Some(log.function.clone()),
                timed: Timed { effect, at },
            });
            // In one change, so that whoever sees the counts sees the effect.
            self.add(|state| {
                state.invocations.push(invocation);
                if let Some(observed) = observed {
                    state.add_effect(observed);
                }
            });
            return Ok(());
        }
        let Some(event_id) = event_id else { return Ok(()) };
        match field(&json, "message") {
            // Logged at level DEBUG, which the console uses.
            Some("done") => {
                self.add(|state| {
                    if let Some(journal) = &mut state.journal {
                        journal.add_effect(event_id, Some(&log.function), &Effect::Done, at);
                    }
                });
                Ok(())
            }
            Some("refused") => self.add_quarantined(log, event_id).await,
            Some("retry") => {
                if log.needs_redelivery {
                    self.redeliver(&log.function, event_id);
                }
                let error = field(&json, "error").unwrap_or_default().to_owned();
                self.add_effect(event_id, Some(&log.function), Effect::Retried { error }, at);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Adds a quarantined event from the table, which proves more than the log.
    async fn add_quarantined(&self, log: &FunctionLog, event_id: &str) -> Result<()> {
        let key = |value: &str| AttributeValue::S(value.to_owned());
        let get = self.clients.dynamodb.get_item().set_table_name(log.quarantine.clone()).consistent_read(true);
        let found = get.key("function", key(&log.function)).key("eventId", key(event_id)).send().await?;
        let Some(item) = found.item() else { return Ok(()) };
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
        let at = item.get("refusedAt").and_then(|value| value.as_n().ok()?.parse().ok()).unwrap_or_else(now);
        let effect = Effect::Quarantined { reason: text("reason"), why: text("why") };
        self.add_effect(event_id, Some(&log.function), effect, at);
        Ok(())
    }
}

fn count(json: &Value, metric: &str) -> u64 {
    json.get(metric).and_then(Value::as_u64).unwrap_or_default()
}

fn counts(json: &Value) -> InvocationCounts {
    InvocationCounts { done: count(json, "Done"), refused: count(json, "Refused"), retried: count(json, "Retried") }
}

/// Returns the effect that an invocation's metrics prove. Notifications come from topics, and refusals have log lines.
fn metric_effect(json: &Value) -> Option<Effect> {
    let is_counted = |metric: &str| count(json, metric) > 0;
    if is_counted("Suppressed") {
        Some(Effect::Suppressed)
    } else if is_counted("Duplicate") {
        Some(Effect::Duplicate)
    } else if is_counted("Done") && !is_counted("Notified") {
        Some(Effect::Done)
    } else {
        None
    }
}

/// Returns a text field of a log line: of the record itself, or of its `fields`.
fn field<'a>(line: &'a Value, name: &str) -> Option<&'a str> {
    line.get(name).or_else(|| line.get("fields")?.get(name))?.as_str()
}
