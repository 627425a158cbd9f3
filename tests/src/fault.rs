//! A proxy between a function and the services that it calls, in which calls go wrong.
//!
//! A function is put behind it by its environment (`AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ENDPOINT_URL_SNS`); it has no
//! switch of its own for that.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cloud::Cloud;
use crate::isolation::Endpoint;
use crate::keeper;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the service gets the request.
    LostRequest,
    /// The service does it, and the connection breaks before the answer.
    LostAnswer,
    /// The service turns it away, to be tried again.
    Throttled,
    /// The service never gets the request, and no answer ever comes.
    Hangs,
    /// The function's process is killed before the service gets the request.
    KilledBefore,
    /// The service does it, and the function's process is killed before the answer.
    KilledAfter,
}

/// A call that came through the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked for, such as `PutItem`.
    pub operation: String,
    /// What happened to it, if anything did.
    pub fault: Option<Fault>,
}

/// A running proxy; it ends with the value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<Infallible>,
}

#[derive(Debug, Default)]
struct State {
    /// Which call from now on, from 1, and what happens to it.
    plan: Option<(usize, Fault)>,
    meeting: Option<Meeting>,
    calls: Vec<Call>,
}

/// Who came to make a call of this operation. The first is held until there is another.
#[derive(Debug)]
struct Meeting {
    operation: &'static str,
    /// Each with an id that stays the same when the SDK tries again.
    callers: BTreeSet<String>,
}

impl Proxy {
    /// A proxy to the local cloud that does nothing yet.
    pub async fn start(cloud: &Arc<Cloud>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let task =
            tokio::spawn(accept(listener, Handler { cloud: Arc::clone(cloud), address, state: Arc::clone(&state) }));
        Ok(Self { address, state, task })
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forgets what was; from now on the `nth` call, counted from 1, meets this fault.
    pub fn plan(&self, nth: usize, fault: Fault) {
        *lock(&self.state) = State { plan: Some((nth, fault)), ..State::default() };
    }

    /// Forgets what was; from now on the first call of this operation reaches the service only once another process
    /// makes one too, so that neither can have seen what comes of the other's.
    pub fn bring_together(&self, operation: &'static str) {
        let meeting = Meeting { operation, callers: BTreeSet::new() };
        *lock(&self.state) = State { meeting: Some(meeting), ..State::default() };
    }

    /// The calls since they were last forgotten.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.state).calls.clone()
    }

    /// Kills the processes of the function that is behind the proxy.
    pub fn kill(&self, cloud: &Cloud) {
        kill(cloud, &self.url());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every process that was told of this address.
fn kill(cloud: &Cloud, url: &str) {
    for pid in cloud.processes() {
        let is_behind =
            |variables: std::collections::BTreeMap<String, String>| variables.values().any(|value| value == url);
        if keeper::variables(pid).is_ok_and(is_behind) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[derive(Clone)]
struct Handler {
    cloud: Arc<Cloud>,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

async fn accept(listener: TcpListener, handler: Handler) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| handler.handle(request));
            // An error is a connection that broke, as planned.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Handler {
    /// Whether a call need not wait for another one.
    fn has_company(&self, operation: &str, caller: &str) -> bool {
        let mut state = lock(&self.state);
        let Some(meeting) = state.meeting.as_mut().filter(|meeting| meeting.operation == operation) else {
            return true;
        };
        meeting.callers.insert(caller.to_owned());
        meeting.callers.len() >= 2
    }

    /// An error breaks the connection.
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok()?.rsplit('.').next());
        let operation = target.map_or_else(|| action(&body), str::to_owned);
        let fault = {
            let mut state = lock(&self.state);
            let nth = state.calls.len() + 1;
            let fault = state.plan.filter(|(planned, _)| *planned == nth).map(|(_, fault)| fault);
            state.calls.push(Call { operation: operation.clone(), fault });
            fault
        };
        let caller = head.headers.get("amz-sdk-invocation-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        while !self.has_company(&operation, caller) {
            sleep(Duration::from_millis(5)).await;
        }
        let broken = || Err(anyhow!("broken as planned"));
        let url = format!("http://{}", self.address);
        match fault {
            Some(Fault::LostRequest) => return broken(),
            Some(Fault::Throttled) => return throttled(target.is_some()),
            // Until the caller gives up: this ends with the connection.
            Some(Fault::Hangs) => return std::future::pending().await,
            Some(Fault::KilledBefore) => {
                kill(&self.cloud, &url);
                return broken();
            }
            None | Some(Fault::LostAnswer | Fault::KilledAfter) => {}
        }
        let answer = forward(self.cloud.endpoint, Request::from_parts(head, Full::new(body))).await?;
        match fault {
            Some(Fault::KilledAfter) => {
                kill(&self.cloud, &url);
                broken()
            }
            Some(Fault::LostAnswer) => broken(),
            _ => Ok(answer),
        }
    }
}

/// The `Action` of a request in the query protocol.
fn action(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or("unknown").to_owned()
}

async fn forward(endpoint: Endpoint, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>> {
    let stream = TcpStream::connect(endpoint.address()).await?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (head, body) = send.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, Full::new(body)))
}

/// What DynamoDB (in JSON) or SNS (in XML) answers under load.
fn throttled(is_json: bool) -> Result<Response<Full<Bytes>>> {
    let (kind, body) = if is_json {
        (
            "application/x-amz-json-1.0",
            r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"Rate exceeded"}"#,
        )
    } else {
        (
            "text/xml",
            "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type>\
             <Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>throttled</RequestId></ErrorResponse>",
        )
    };
    Ok(Response::builder().status(400).header("content-type", kind).body(Full::new(body.into()))?)
}
