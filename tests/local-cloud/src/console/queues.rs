//! `/api/v1/queues`, `/quarantine` and `/dead-letters`.

use std::sync::Arc;

use aws_sdk_sqs::types::QueueAttributeName;
use axum::Json;
use axum::extract::{Path, State};
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::error::{ApiError, ApiResult};

/// Returns the depth of each queue.
pub async fn depths(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    let prefix = format!("{}-", app.deployment.stack);
    let listed = app.clients.sqs.list_queues().queue_name_prefix(prefix).max_results(1000).send().await?;
    let depths = stream::iter(listed.queue_urls.unwrap_or_default()).map(|url| depth(&app, url)).buffered(8);
    let depths: Vec<Option<Value>> = depths.collect().await;
    Ok(Json(json!({"queues": depths.into_iter().flatten().collect::<Vec<_>>()})))
}

async fn depth(app: &App, url: String) -> Option<Value> {
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        QueueAttributeName::ApproximateNumberOfMessagesDelayed,
    ];
    let get = app.clients.sqs.get_queue_attributes().queue_url(&url).set_attribute_names(Some(names.to_vec()));
    let found = get.send().await.ok()?.attributes?;
    let [visible, in_flight, delayed] =
        names.map(|name| found.get(&name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default());
    let name = url.rsplit('/').next().unwrap_or_default();
    Some(json!({
        "name": name,
        "visible": visible,
        "inFlight": in_flight,
        "delayed": delayed,
        "deadLetters": name.ends_with("-dlq"),
    }))
}

/// Lists the refused events.
pub async fn quarantine(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    Ok(Json(json!({"events": app.gatehouse(&["quarantine", "list"]).await?})))
}

/// Returns a refused event in full.
pub async fn refused_event(
    State(app): State<Arc<App>>,
    Path((function, id)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    let found =
        app.gatehouse(&["quarantine", "show", "--function", argument(&function)?, "--", argument(&id)?]).await?;
    first(&found)
}

/// Lists the dead letters, by queue.
pub async fn dead_letters(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    Ok(Json(json!({"queues": app.gatehouse(&["dead-letters", "list", "--limit", "200"]).await?})))
}

/// Returns a dead letter in full.
pub async fn dead_letter(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    first(&app.gatehouse(&["dead-letters", "show", "--", argument(&id)?]).await?)
}

fn first(found: &Value) -> ApiResult<Json<Value>> {
    let first = found.as_array().and_then(|all| all.first()).cloned();
    first.map(Json).ok_or_else(|| ApiError::missing("There is no such event."))
}

/// The events to resend or discard.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    ids: Vec<String>,
}

/// Resends or discards refused events.
pub async fn quarantine_action(
    State(app): State<Arc<App>>,
    Path(action): Path<String>,
    Json(events): Json<Events>,
) -> ApiResult<Json<Value>> {
    act(&app, "quarantine", &action, &events).await
}

/// Resends or discards dead letters.
pub async fn dead_letters_action(
    State(app): State<Arc<App>>,
    Path(action): Path<String>,
    Json(events): Json<Events>,
) -> ApiResult<Json<Value>> {
    act(&app, "dead-letters", &action, &events).await
}

async fn act(app: &App, subject: &str, action: &str, events: &Events) -> ApiResult<Json<Value>> {
    let mut arguments = match action {
        "resend" => vec![subject, "resend"],
        "discard" => vec![subject, "discard", "--yes"],
        _ => return Err(ApiError::missing("The actions are resend and discard.")),
    };
    if events.ids.is_empty() {
        return Err(ApiError::invalid("Name at least one event."));
    }
    arguments.push("--");
    for id in &events.ids {
        arguments.push(argument(id)?);
    }
    Ok(Json(app.gatehouse(&arguments).await?))
}

/// Returns a text that can be an argument of a program.
fn argument(text: &str) -> ApiResult<&str> {
    if text.is_empty() || text.contains('\0') {
        return Err(ApiError::invalid("An ID must not be empty."));
    }
    Ok(text)
}
