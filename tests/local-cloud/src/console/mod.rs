//! The console: a page that shows each event's path, publishes, injects faults, and records and replays scenarios.
//!
//! It is part of the local cloud, listens on the loopback interface only, and is never deployed. `docs/console-api.md`
//! describes the API below `/api/v1`, which the page uses.

mod commands;
mod devices;
mod error;
mod events;
mod faults;
mod files;
mod items;
mod operator;
mod publish;
mod queues;
mod runs;
mod samples;
mod scenarios;
mod security;
mod subscriptions;
mod topology;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post, put};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_service::Service;

use crate::aws::Clients;
use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::isolation::Account;
use crate::observer::Observer;

use commands::Commands;
use faults::Faults;
use publish::Publishers;
use runs::Runs;
use security::Guard;
use subscriptions::Subscriptions;

/// Maximum number of events that the console keeps. It counts all events.
pub const KEPT_EVENTS: usize = 5_000;

/// Maximum size of a request: enough for the largest message that AWS IoT accepts, in base64 or as an escaped string.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// The state of the console.
#[derive(Debug)]
pub struct App {
    /// The local cloud.
    pub cloud: Arc<Cloud>,
    /// The account.
    pub account: Account,
    /// The account's clients.
    pub clients: Clients,
    /// The deployed stack.
    pub deployment: Deployment,
    /// The account's observer, which has a journal.
    pub observer: Arc<Observer>,
    /// The path of the operator tool.
    pub gatehouse: PathBuf,
    publishers: Publishers,
    subscriptions: Subscriptions,
    faults: Faults,
    commands: Commands,
    runs: Runs,
}

impl App {
    /// Returns the initial state of a console.
    pub fn new(
        cloud: Arc<Cloud>,
        account: Account,
        deployment: Deployment,
        observer: Arc<Observer>,
        gatehouse: PathBuf,
    ) -> Arc<Self> {
        let clients = Clients::new(cloud.endpoint, &account);
        Arc::new(Self {
            publishers: Publishers::default(),
            subscriptions: Subscriptions::default(),
            faults: Faults::default(),
            commands: Commands::default(),
            runs: Runs::default(),
            cloud,
            account,
            clients,
            deployment,
            observer,
            gatehouse,
        })
    }

    /// Adds the credentials of a device that is registered already.
    pub async fn add_device(&self, identity: crate::device::Identity) {
        self.publishers.add(&self.cloud, identity).await;
    }
}

/// A running console. Stops when dropped.
#[derive(Debug)]
pub struct Console {
    origin: String,
    guard: Arc<Guard>,
    task: JoinHandle<()>,
}

impl Console {
    /// Starts to serve the page on this port of the loopback interface; 0 is any free one.
    pub async fn start(app: Arc<App>, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.with_context(|| format!("failed to listen on port {port} of loopback"))?;
        let address = listener.local_addr()?;
        let guard = Arc::new(Guard::new(address.port())?);
        let task = tokio::spawn(serve(listener, router(app, Arc::clone(&guard))));
        Ok(Self { origin: format!("http://{address}"), guard, task })
    }

    /// Returns its URL, without a trailing slash.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the token that requests need.
    pub fn token(&self) -> &str {
        self.guard.token()
    }

    /// Returns the URL to open, which contains the token.
    pub fn url(&self) -> String {
        format!("{}/?token={}", self.origin, self.token())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let router = router.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| router.clone().call(request));
            // An error means that the client disconnected.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn router(app: Arc<App>, guard: Arc<Guard>) -> Router {
    let api = Router::new()
        .route("/stream", get(events::stream))
        .route("/events", get(events::list))
        .route("/events/{id}", get(events::path))
        .route("/samples", get(samples::list))
        .route("/publish", post(publish::publish))
        .route("/devices", get(devices::list).post(publish::register))
        .route("/devices/{thing}", get(devices::show))
        .route("/devices/{thing}/shadow", put(devices::update_shadow))
        .route("/devices/{thing}/alarms/{rule}", post(devices::alarm_action))
        .route("/commands", post(commands::send))
        .route("/subscriptions", get(subscriptions::list).post(subscriptions::subscribe))
        .route("/subscriptions/{id}", delete(subscriptions::unsubscribe))
        .route("/queues", get(queues::depths))
        .route("/quarantine", get(queues::quarantine))
        .route("/quarantine/{action}", post(queues::quarantine_action))
        .route("/quarantine/{function}/{id}", get(queues::refused_event))
        .route("/dead-letters", get(queues::dead_letters))
        .route("/dead-letters/{action}", post(queues::dead_letters_action))
        .route("/dead-letters/message/{id}", get(queues::dead_letter))
        .route("/faults", get(faults::list).post(faults::add).delete(faults::remove_all))
        .route("/faults/{id}", delete(faults::remove))
        .route("/scenarios", get(scenarios::list).post(scenarios::record))
        .route("/scenarios/{name}", get(scenarios::show))
        .route("/runs", get(runs::list).post(runs::start))
        .route("/topology", get(topology::show))
        .with_state(app);
    let mut router = Router::new().nest("/api/v1", api);
    for (path, route) in files::routes() {
        router = router.route(path, route);
    }
    router.layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES)).layer(from_fn_with_state(guard, security::protect))
}
