//! Reads what functions log.

use std::collections::HashSet;

use anyhow::Result;
use aws_sdk_cloudwatchlogs::operation::filter_log_events::FilterLogEventsError;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use tokio::time::sleep;

use super::watcher::{POLL_INTERVAL, Watcher};
use super::{Effect, InvocationCounts, Rule, now};
use crate::aws::Clients;

/// The log of a function.
pub(super) struct FunctionLog {
    function: String,
    group: String,
    /// The quarantine table.
    quarantine: Option<String>,
    /// Whether the observer has to redeliver what the function retries, because no queue does.
    needs_redelivery: bool,
    /// The lines that were already read.
    lines: HashSet<String>,
    /// The timestamp of the newest one.
    newest: i64,
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
            lines: HashSet::new(),
            newest: 0,
        });
    }
    Ok(logs)
}

impl Watcher {
    /// Observes what a function logs.
    pub(super) async fn watch_log(self, mut log: FunctionLog) {
        loop {
            if let Err(error) = self.read_log(&mut log).await {
                self.add_error(&log.group, &error);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn read_log(&self, log: &mut FunctionLog) -> Result<()> {
        let mut next = None;
        loop {
            // Lines are written when an invocation ends, so an older one may follow a newer one.
            let since = log.newest.saturating_sub(5_000);
            let read = self.clients.logs.filter_log_events().log_group_name(&log.group).start_time(since);
            let page = match read.set_next_token(next).send().await {
                Ok(page) => page,
                // A group that the stack does not declare is created with the first line.
                Err(error)
                    if error.as_service_error().is_some_and(FilterLogEventsError::is_resource_not_found_exception) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            for event in page.events() {
                let at = event.timestamp().unwrap_or_default();
                let message = event.message().unwrap_or_default();
                let stream = event.log_stream_name().unwrap_or_default();
                if log.lines.insert(format!("{at} {stream} {message}")) {
                    log.newest = log.newest.max(at);
                    self.add_line(log, message, u64::try_from(at).unwrap_or_default()).await?;
                }
            }
            next = page.next_token;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    async fn add_line(&self, log: &FunctionLog, line: &str, at: u64) -> Result<()> {
        let platform = ["START RequestId", "END RequestId", "REPORT RequestId"];
        if platform.iter().any(|prefix| line.starts_with(prefix)) {
            return Ok(());
        }
        self.add(|state| state.lines.push((log.function.clone(), line.to_owned())));
        let Ok(json) = serde_json::from_str::<Value>(line) else { return Ok(()) };
        let is_metric = json.get("_aws").is_some();
        // A line about several events has none.
        let event_id = field(&json, "eventId");
        if is_metric {
            let invocation = (log.function.clone(), event_id.map(str::to_owned), counts(&json));
            self.add(|state| state.invocations.push(invocation));
        }
        let Some(event_id) = event_id else { return Ok(()) };
        let effect = if is_metric {
            metric_effect(&json)
        } else {
            match field(&json, "message") {
                Some("refused") => return self.add_quarantined(log, event_id).await,
                Some("retry") => {
                    if log.needs_redelivery {
                        self.redeliver(&log.function, event_id);
                    }
                    Some(Effect::Retried { error: field(&json, "error").unwrap_or_default().to_owned() })
                }
                _ => None,
            }
        };
        if let Some(effect) = effect {
            self.add_effect(event_id, effect, at);
        }
        Ok(())
    }

    /// Adds a quarantined event as it is in the table, which proves more than the log.
    async fn add_quarantined(&self, log: &FunctionLog, event_id: &str) -> Result<()> {
        let key = |value: &str| AttributeValue::S(value.to_owned());
        let get = self.clients.dynamodb.get_item().set_table_name(log.quarantine.clone()).consistent_read(true);
        let found = get.key("function", key(&log.function)).key("eventId", key(event_id)).send().await?;
        let Some(item) = found.item() else { return Ok(()) };
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
        let at = item.get("refusedAt").and_then(|value| value.as_n().ok()?.parse().ok()).unwrap_or_else(now);
        self.add_effect(event_id, Effect::Quarantined { reason: text("reason"), why: text("why") }, at);
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
