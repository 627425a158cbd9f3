//! `/api/v1/subscriptions`: a test client like the one of the AWS console, and the messages that it receives.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::App;
use super::error::{ApiError, ApiResult};
use crate::device::{Device, Identity, Message, Subscribed};
use crate::observer::{now, payload};

/// Maximum number of messages to keep.
const KEPT: usize = 500;

/// Maximum number of concurrent subscriptions.
const MAX_SUBSCRIPTIONS: usize = 20;

/// The test client's IoT policy, which allows everything.
const POLICY: &str = "local-cloud-console";

/// The test client's subscriptions and received messages.
#[derive(Debug)]
pub struct Subscriptions {
    state: Arc<Mutex<Received>>,
    active: Mutex<Vec<Subscription>>,
    change: watch::Sender<()>,
    next_id: AtomicU64,
}

/// The newest messages.
#[derive(Debug, Default)]
struct Received {
    messages: VecDeque<Value>,
    last_number: u64,
}

/// A subscription, which has its own connection.
#[derive(Debug)]
struct Subscription {
    id: u64,
    filter: String,
    task: JoinHandle<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        let (change, _) = watch::channel(());
        Self { state: Arc::default(), active: Mutex::default(), change, next_id: AtomicU64::new(1) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriptions {
    /// Returns a receiver that changes with each message.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.change.subscribe()
    }

    /// Returns the kept messages after a number, and the number of the last.
    pub fn after(&self, number: u64) -> (u64, Vec<Value>) {
        let state = lock(&self.state);
        let is_new = |message: &&Value| message.get("number").and_then(Value::as_u64).is_some_and(|its| its > number);
        (state.last_number.max(number), state.messages.iter().filter(is_new).cloned().collect())
    }
}

/// A topic filter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    filter: String,
}

/// Lists the subscriptions.
pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let active = lock(&app.subscriptions.active);
    let listed = active.iter().map(|subscription| {
        let is_connected = !subscription.task.is_finished();
        json!({"id": subscription.id, "filter": subscription.filter, "connected": is_connected})
    });
    Json(json!({"subscriptions": listed.collect::<Vec<_>>()}))
}

/// Subscribes to a topic filter.
pub async fn subscribe(
    State(app): State<Arc<App>>,
    Json(Filter { filter }): Json<Filter>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    if filter.is_empty() || filter.len() > 256 || filter.contains('\0') {
        return Err(ApiError::invalid("A topic filter has 1 to 256 bytes."));
    }
    if lock(&app.subscriptions.active).len() >= MAX_SUBSCRIPTIONS {
        return Err(ApiError::conflict("There are 20 subscriptions; end one first."));
    }
    let id = app.subscriptions.next_id.fetch_add(1, Ordering::Relaxed);
    let mut client = client(&app, id).await?;
    if client.subscribe(&filter).await? == Subscribed::Denied {
        return Err(ApiError::invalid("AWS IoT denied the subscription: the topic filter is not valid."));
    }
    let (state, change) = (Arc::clone(&app.subscriptions.state), app.subscriptions.change.clone());
    let task = tokio::spawn(receive(client, id, state, change));
    lock(&app.subscriptions.active).push(Subscription { id, filter: filter.clone(), task });
    Ok((StatusCode::CREATED, Json(json!({"id": id, "filter": filter}))))
}

/// Returns a new test client. `presence` ignores its name, as it ignores the AWS console's clients.
async fn client(app: &App, id: u64) -> Result<Device> {
    let document = json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}],
    });
    // Fails if the policy already exists.
    let create = app.clients.iot.create_policy().policy_name(POLICY).policy_document(document.to_string());
    let _ = create.send().await;
    let identity = Identity::register(&app.clients, &format!("iotconsole-{id}"), POLICY).await?;
    let mut client = Device::new(&app.cloud, identity);
    client.connect().await?;
    Ok(client)
}

async fn receive(mut client: Device, id: u64, state: Arc<Mutex<Received>>, change: watch::Sender<()>) {
    loop {
        match client.receive().await {
            Ok(Message { topic, payload: bytes }) => {
                {
                    let mut state = lock(&state);
                    state.last_number += 1;
                    let (number, at) = (state.last_number, now());
                    let message = json!({"number": number, "subscription": id, "at": at, "topic": topic, "payload": payload(&bytes)});
                    state.messages.push_back(message);
                    if state.messages.len() > KEPT {
                        state.messages.pop_front();
                    }
                }
                change.send_replace(());
            }
            // A timeout: there was no message for a while.
            Err(_) if client.is_connected() => {}
            Err(_) => return,
        }
    }
}

/// Ends a subscription.
pub async fn unsubscribe(State(app): State<Arc<App>>, Path(id): Path<u64>) -> ApiResult<StatusCode> {
    let mut active = lock(&app.subscriptions.active);
    let before = active.len();
    active.retain(|subscription| subscription.id != id);
    if active.len() == before {
        return Err(ApiError::missing("There is no such subscription."));
    }
    Ok(StatusCode::NO_CONTENT)
}
