//! Log lines of the functions.

use aws_sdk_cloudwatchlogs::operation::filter_log_events::FilterLogEventsError;
use futures_util::future::join_all;
use gatehouse::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::names::FUNCTIONS;

/// Maximum number of pages to read of a log group: CloudWatch Logs returns empty ones while it searches.
const MAX_PAGES: usize = 100;

/// A log line.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// The function that wrote it.
    pub function: &'static str,
    /// Its time.
    pub at: Timestamp,
    /// Its fields.
    pub fields: Value,
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct LogLines {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Notes on logs that could not be searched, or only in part.
    pub notes: Vec<String>,
}

/// Searches the logs of all functions for lines whose `field` has this value.
pub async fn search(field: &str, value: &str, since: Timestamp, context: &Context) -> LogLines {
    let pattern = pattern(field, value);
    let has_value = |fields: &Value| fields.get(field).and_then(Value::as_str) == Some(value);
    let found = join_all(FUNCTIONS.map(|function| read(function, &pattern, since, &has_value, context))).await;
    let mut all = LogLines::default();
    for lines in found {
        all.lines.extend(lines.lines);
        all.notes.extend(lines.notes);
    }
    all.lines.sort_by_key(|line| line.at);
    all
}

/// Returns the lines in which a function reports its batches.
pub async fn batches(function: &'static str, since: Timestamp, context: &Context) -> LogLines {
    let is_batch = |fields: &Value| fields.get("message").and_then(Value::as_str) == Some("batch");
    read(function, &pattern("message", "batch"), since, &is_batch, context).await
}

/// Reads a function's lines that match a pattern, and filters them again: the local cloud ignores patterns on JSON.
async fn read(
    function: &'static str,
    pattern: &str,
    since: Timestamp,
    is_wanted: &impl Fn(&Value) -> bool,
    context: &Context,
) -> LogLines {
    let group = context.names.log_group(function);
    let mut result = LogLines::default();
    let filter = context.logs().filter_log_events().log_group_name(&group).filter_pattern(pattern);
    let Ok(start) = i64::try_from(since.millis()) else { return result };
    let mut pages = filter.start_time(start).into_paginator().send();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                let is_missing =
                    error.as_service_error().is_some_and(FilterLogEventsError::is_resource_not_found_exception);
                let why = if is_missing {
                    "it does not exist".to_owned()
                } else {
                    format!("{:#}", anyhow::Error::from(error))
                };
                result.notes.push(format!("log group {group} was not searched: {why}"));
                break;
            }
        };
        for event in page.events() {
            let fields = event.message().and_then(|message| serde_json::from_str::<Value>(message).ok());
            if let Some(fields) = fields.filter(|fields| is_wanted(fields)) {
                let at = event.timestamp().and_then(|millis| u64::try_from(millis).ok()).unwrap_or_default();
                result.lines.push(LogLine { function, at: Timestamp::from_millis(at), fields });
            }
        }
        count += 1;
        if count == MAX_PAGES {
            result.notes.push(format!("log group {group} was searched in part; use a later --since"));
            break;
        }
    }
    result
}

/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html>
fn pattern(field: &str, value: &str) -> String {
    format!("{{ $.{field} = {} }}", Value::from(value))
}

/// Formats the informative fields of a line as text.
pub fn summary(fields: &Value) -> String {
    const KNOWN: [&str; 6] = ["timestamp", "level", "message", "eventId", "thing", "requestId"];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut parts: Vec<String> = ["level", "message"].iter().filter_map(|name| fields.get(*name)).map(text).collect();
    let rest = fields.as_object().into_iter().flatten().filter(|(name, _)| !KNOWN.contains(&name.as_str()));
    // Metrics have a member `_aws` that describes them.
    parts.extend(rest.filter(|(name, _)| *name != "_aws").map(|(name, value)| format!("{name}={}", text(value))));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_quotes_the_value() {
        assert_eq!(pattern("eventId", r#"a"b"#), r#"{ $.eventId = "a\"b" }"#);
    }

    #[test]
    fn summary_leaves_out_what_is_known() {
        let fields = serde_json::json!({
            "timestamp": "2026-11-29T13:00:00Z", "level": "WARN", "message": "refused", "eventId": "e",
            "reason": "not-json", "_aws": {}
        });
        assert_eq!(summary(&fields), "WARN refused reason=not-json");
    }
}
