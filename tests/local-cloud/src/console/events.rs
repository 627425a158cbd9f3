//! `GET /api/v1/events…` and `/stream`: the observed events, and a stream of new ones.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::error::{ApiError, ApiResult};
use super::{App, items};

/// Maximum number of events in one frame of the stream.
const MAX_FRAME: usize = 500;

/// The pause between two frames, in which changes collect.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum time between two frames, so that both sides notice a broken connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The events to return.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// Only events that changed after this version.
    #[serde(default)]
    after: u64,
    /// Only messages of subscriptions after this number.
    #[serde(default)]
    messages: u64,
}

/// Lists the events that are kept, oldest first, and the counts of all.
pub async fn list(State(app): State<Arc<App>>, Query(since): Query<Since>) -> Json<Value> {
    Json(frame(&app, since.after, usize::MAX).1)
}

/// Returns the whole path of an event, with the items about it in the tables.
pub async fn path(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let rules = Arc::clone(&app.observer.rules);
    let found = app.observer.read_journal(|journal| {
        let event = journal.event(&id)?;
        Some((event.path(&rules), event.thing().into_owned(), event.functions.clone()))
    });
    let Some((mut path, thing, functions)) = found.flatten() else {
        return Err(ApiError::missing(format!("No event has the ID {id}; only the newest are kept.")));
    };
    let functions: Vec<_> = functions.iter().map(|path| path.function.as_str()).collect();
    let items = items::of_event(&app, &id, &thing, &functions).await;
    if let Some(path) = path.as_object_mut() {
        path.insert("items".to_owned(), items.into());
    }
    Ok(Json(path))
}

/// Streams events as they change, and messages that subscriptions receive.
pub async fn stream(
    State(app): State<Arc<App>>,
    Query(since): Query<Since>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // After an interruption, a browser sends the ID of the last frame that it received.
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.split_once('-'));
    let last = last.and_then(|(events, messages)| Some((events.parse().ok()?, messages.parse().ok()?)));
    let (after, messages) = last.unwrap_or((since.after, since.messages));
    let state = Cursor { app, after, messages, is_first: true };
    Sse::new(stream::unfold(state, |mut cursor| async move {
        let event = cursor.next().await;
        Some((Ok(event), cursor))
    }))
}

/// The position of a reader in the stream.
struct Cursor {
    app: Arc<App>,
    after: u64,
    messages: u64,
    is_first: bool,
}

impl Cursor {
    /// Returns the next frame.
    async fn next(&mut self) -> Event {
        let (mut changes, mut received) = (self.app.observer.changes(), self.app.subscriptions.changes());
        loop {
            changes.mark_unchanged();
            received.mark_unchanged();
            let (after, mut frame) = frame(&self.app, self.after, MAX_FRAME);
            let (number, messages) = self.app.subscriptions.after(self.messages);
            if after > self.after || number > self.messages || self.is_first {
                (self.after, self.messages, self.is_first) = (after, number, false);
                if let Some(frame) = frame.as_object_mut() {
                    frame.insert("messages".to_owned(), messages.into());
                }
                let id = format!("{}-{}", self.after, self.messages);
                return Event::default().id(id).data(frame.to_string());
            }
            let change = async {
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = received.changed() => {}
                }
            };
            if timeout(KEEP_ALIVE, change).await.is_err() {
                return Event::default().comment("");
            }
            sleep(FRAME_INTERVAL).await;
        }
    }
}

/// Returns up to `limit` events that changed after a version, in the order of their changes, and the version of the
/// last one.
fn frame(app: &App, after: u64, limit: usize) -> (u64, Value) {
    let read = app.observer.read_journal(|journal| {
        let mut changed: Vec<_> = journal.events().filter(|event| event.version > after).collect();
        changed.sort_unstable_by_key(|event| event.version);
        changed.truncate(limit);
        let is_all = changed.len() < limit;
        let last = changed.last().map_or(after, |event| event.version);
        let version = if is_all { journal.version().max(last) } else { last };
        let events: Vec<_> = changed.iter().map(|event| event.summary()).collect();
        (version, events, journal.totals().json())
    });
    let (version, events, totals) = read.unwrap_or_default();
    (version, json!({"version": version, "events": events, "totals": totals}))
}
