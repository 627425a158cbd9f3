//! Lambda: functions, event source mappings, and the account's concurrency.

use anyhow::{Context as _, Result};
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationError;
use aws_sdk_lambda::types::{EventSourceMappingConfiguration, LastUpdateStatus, State};

use crate::context::Context;
use crate::doctor::Findings;
use crate::names::{FUNCTIONS, INVOKED_DIRECTLY};

/// Checks that every function exists, can be invoked, and that its last update did not fail.
pub async fn state(context: &Context, findings: &mut Findings) -> Result<()> {
    let lambda = context.lambda();
    for name in FUNCTIONS {
        let function = context.names.of(name);
        let found = lambda.get_function_configuration().function_name(&function).send().await;
        let found = match found {
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(GetFunctionConfigurationError::is_resource_not_found_exception) =>
            {
                findings
                    .problem(format!("{function} does not exist"), "Deploy the stack, or check --prefix and --region.");
                continue;
            }
            found => found.with_context(|| format!("failed to read the configuration of {function}")),
        };
        let Some(found) = findings.take(found) else { continue };
        let why = |reason: Option<&str>| reason.unwrap_or("AWS names no reason").to_owned();
        if found.last_update_status == Some(LastUpdateStatus::Failed) {
            findings.problem(
                format!("the last update of {function} failed: {}", why(found.last_update_status_reason())),
                "Deploy again, and read the events of the stack if that fails.",
            );
        }
        if found.state == Some(State::Failed) {
            findings.problem(
                format!("{function} cannot be invoked: {}", why(found.state_reason())),
                "Deploy again, and read the events of the stack if that fails.",
            );
        }
    }
    findings.or_ok(format!("{} functions are active", FUNCTIONS.len()));
    Ok(())
}

/// Checks that every work queue has an enabled event source mapping.
pub async fn event_sources(context: &Context, findings: &mut Findings) -> Result<()> {
    let mut number = 0;
    for name in queue_fed() {
        let function = context.names.of(name);
        let Some(mappings) = findings.take(mappings(context, &function).await) else { continue };
        if mappings.is_empty() {
            findings.problem(format!("no queue feeds {function}"), "Deploy the stack again.");
        }
        for mapping in mappings {
            number += 1;
            let state = mapping.state.unwrap_or_default();
            if matches!(state.as_str(), "Disabled" | "Disabling") {
                findings.problem(
                    format!("the queue of {function} is not read: its event source mapping is {state}"),
                    "Enable the event source mapping: aws lambda update-event-source-mapping --enabled --uuid …",
                );
            }
        }
    }
    findings.or_ok(format!("{number} queues are read"));
    Ok(())
}

/// Compares the account's concurrency limit with the deployment's maximum concurrency.
pub async fn concurrency(context: &Context, findings: &mut Findings) -> Result<()> {
    let account = context.lambda().get_account_settings().send().await;
    let limit = account.context("failed to read the account's settings")?.account_limit;
    let available =
        limit.and_then(|limit| limit.unreserved_concurrent_executions.or(Some(limit.concurrent_executions)));
    let available = available.context("Lambda names no concurrency limit")?;
    // Each function that AWS IoT invokes directly needs at least one.
    let mut needed = i32::try_from(INVOKED_DIRECTLY.len()).unwrap_or(i32::MAX);
    for name in queue_fed() {
        for mapping in mappings(context, &context.names.of(name)).await? {
            needed += mapping.scaling_config.and_then(|scaling| scaling.maximum_concurrency).unwrap_or(available);
        }
    }
    compare(available, needed, findings);
    Ok(())
}

fn compare(available: i32, needed: i32, findings: &mut Findings) {
    let text = format!("Lambda may run {available} invocations concurrently; the deployment may need {needed}");
    if available < needed {
        let advice = "Request a higher quota for Lambda's concurrent executions: a new account may have only 10. Until \
                      then, events are throttled under load.";
        findings.warning(text, advice);
    } else {
        findings.ok(text);
    }
}

fn queue_fed() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.into_iter().filter(|name| !INVOKED_DIRECTLY.contains(name))
}

async fn mappings(context: &Context, function: &str) -> Result<Vec<EventSourceMappingConfiguration>> {
    let list = context.lambda().list_event_source_mappings().function_name(function);
    let mappings = list.into_paginator().items().send().collect::<Result<_, _>>().await;
    mappings.with_context(|| format!("failed to list the event sources of {function}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn low_quota_is_a_warning() {
        for (available, level) in [(10, Level::Warning), (38, Level::Ok), (1000, Level::Ok)] {
            let mut findings = Findings::new("concurrency");
            compare(available, 38, &mut findings);
            assert_eq!(findings.findings.first().map(|finding| finding.level), Some(level), "{available}");
        }
    }
}
