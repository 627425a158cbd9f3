//! A proxy between a function and AWS services that injects faults.
//!
//! The function needs no support for it: variables such as `AWS_ENDPOINT_URL_DYNAMODB`, one for each of [`SERVICES`],
//! point to the proxy.

mod partial;
mod protocol;
mod random;

use std::collections::{BTreeSet, HashMap, VecDeque};
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
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cloud::Cloud;
use crate::isolation::Endpoint;
use crate::supervisor;

use protocol::{operation_of, throttled};
use random::RandomFaults;

pub use random::{RandomFault, Strike};

/// The services whose calls the proxy recognizes, as in `AWS_ENDPOINT_URL_<SERVICE>`.
pub const SERVICES: [&str; 4] = ["DYNAMODB", "IOT", "SNS", "SQS"];

/// A fault to inject into a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the service receives the request.
    LostRequest,
    /// The service executes the call, and the connection breaks before the response.
    LostResponse,
    /// The service returns a throttling error.
    Throttled,
    /// The service never receives the request, and no response ever comes.
    Hangs,
    /// The service receives the request late.
    Slow,
    /// The service returns an internal server error.
    ServerError,
    /// DynamoDB writes the first half of a batch and leaves the rest unprocessed. Other calls are not affected.
    UnprocessedItems,
    /// SQS accepts every second message of a batch and fails or throttles the others. Other calls are not affected.
    PartialFailure,
    /// The function's process is killed before the service receives the request.
    KilledBefore,
    /// The service executes the call, and the function's process is killed before the response.
    KilledAfter,
}

impl Fault {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::LostRequest => "lost-request",
            Self::LostResponse => "lost-response",
            Self::Throttled => "throttled",
            Self::Hangs => "hangs",
            Self::Slow => "slow",
            Self::ServerError => "server-error",
            Self::UnprocessedItems => "unprocessed-items",
            Self::PartialFailure => "partial-failure",
            Self::KilledBefore => "killed-before",
            Self::KilledAfter => "killed-after",
        }
    }
}

/// A call through the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The operation, such as `PutItem`.
    pub operation: String,
    /// The injected fault, if any.
    pub fault: Option<Fault>,
    /// Whether the caller received the response, rather than an injected failure or its own timeout.
    pub is_answered: bool,
}

/// A running proxy. Stops when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<Infallible>,
}

/// The delay of a slow request.
const SLOW: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    /// The number of the call to fail, from 1, and its fault.
    nth: Option<(usize, Fault)>,
    /// The operation whose every second call fails, and the remaining faults.
    series: Option<(&'static str, VecDeque<Fault>)>,
    rendezvous: Option<Rendezvous>,
    /// Random faults, and where to report them. Calls are not recorded then, because their number is unlimited.
    random: Option<RandomFaults>,
    calls: Vec<Call>,
}

/// The callers of an operation. The first one waits for a second one.
#[derive(Debug)]
struct Rendezvous {
    operation: &'static str,
    /// Their SDK invocation ids, which stay the same over retries.
    callers: BTreeSet<String>,
}

impl FaultProxy {
    /// Starts a proxy to the local cloud that injects no faults yet.
    pub async fn start(cloud: &Arc<Cloud>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("failed to listen on loopback")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let task =
            tokio::spawn(accept(listener, Handler { cloud: Arc::clone(cloud), address, state: Arc::clone(&state) }));
        Ok(Self { address, state, task })
    }

    /// Changes a function's environment variables so that its calls go to the proxy, and so that its timeouts are those
    /// of a deployment: a hanging call must not take longer than in one.
    pub fn redirect(&self, variables: &mut HashMap<String, String>) {
        variables.extend(SERVICES.map(|service| (format!("AWS_ENDPOINT_URL_{service}"), self.url())));
        variables.insert("OPERATION_TIMEOUT_SECONDS".to_owned(), "3".to_owned());
    }

    /// Resets the proxy. Injects this fault into the `nth` call from now on, counted from 1.
    pub fn fail_nth_call(&self, nth: usize, fault: Fault) {
        *lock(&self.state) = State { nth: Some((nth, fault)), ..State::default() };
    }

    /// Resets the proxy. Injects the next of these faults into every second call of this operation, until none is left.
    pub fn fail_alternate_calls(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        *lock(&self.state) = State { series: Some((operation, faults.into_iter().collect())), ..State::default() };
    }

    /// Returns whether every fault of [`Self::fail_alternate_calls`] has been injected.
    pub fn is_exhausted(&self) -> bool {
        let state = lock(&self.state);
        state.series.as_ref().is_none_or(|(_, faults)| faults.is_empty())
    }

    /// Resets the proxy. The first call of this operation waits until another process makes one too, so that neither
    /// can have seen the effect of the other one.
    pub fn wait_for_second_caller(&self, operation: &'static str) {
        let rendezvous = Rendezvous { operation, callers: BTreeSet::new() };
        *lock(&self.state) = State { rendezvous: Some(rendezvous), ..State::default() };
    }

    /// Resets the proxy. Injects these faults into calls at random, and reports each to `strikes`.
    pub fn fail_randomly(&self, faults: Vec<RandomFault>, strikes: mpsc::UnboundedSender<Strike>) {
        *lock(&self.state) = State { random: Some(RandomFaults { faults, strikes }), ..State::default() };
    }

    /// Returns the calls since the last reset.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.state).calls.clone()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills the processes of the function behind the proxy.
    pub fn kill(&self, cloud: &Cloud) {
        kill(cloud, &self.url());
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every process that has this URL in its environment.
fn kill(cloud: &Cloud, url: &str) {
    for pid in cloud.processes() {
        let is_behind =
            |variables: std::collections::BTreeMap<String, String>| variables.values().any(|value| value == url);
        if supervisor::environment(pid).is_ok_and(is_behind) {
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
            // An error means that a fault broke the connection.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Handler {
    /// Returns whether a call may proceed, or must wait for a second caller.
    fn may_proceed(&self, operation: &str, caller: &str) -> bool {
        let mut state = lock(&self.state);
        let Some(rendezvous) = state.rendezvous.as_mut().filter(|rendezvous| rendezvous.operation == operation) else {
            return true;
        };
        rendezvous.callers.insert(caller.to_owned());
        rendezvous.callers.len() >= 2
    }

    /// Handles a request. An error breaks the connection.
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let (service, operation) = operation_of(&head.method, head.uri.path(), &head.headers, &body);
        let (nth, fault) = {
            let mut state = lock(&self.state);
            let nth = state.calls.len() + 1;
            let calls_before = state.calls.iter().filter(|call| call.operation == operation).count();
            let in_series = match &mut state.series {
                Some((affected, faults)) if *affected == operation && calls_before % 2 == 1 => faults.pop_front(),
                _ => None,
            };
            let fault = state.nth.filter(|(number, _)| *number == nth).map(|(_, fault)| fault).or(in_series);
            if let Some(random) = &state.random {
                (nth, random.strike(service, &operation, &body))
            } else {
                state.calls.push(Call { operation: operation.clone(), fault, is_answered: false });
                (nth, fault)
            }
        };
        let caller = head.headers.get("amz-sdk-invocation-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        while !self.may_proceed(&operation, caller) {
            sleep(Duration::from_millis(5)).await;
        }
        let broken = || Err(anyhow!("injected fault"));
        let url = format!("http://{}", self.address);
        match fault {
            Some(Fault::LostRequest) => return broken(),
            Some(Fault::Throttled) => return throttled(service),
            Some(Fault::ServerError) => return Ok(Response::builder().status(500).body(Full::default())?),
            Some(Fault::UnprocessedItems) if operation == "BatchWriteItem" => {
                return self.leave_unprocessed(head, &body).await;
            }
            Some(Fault::PartialFailure) if operation == "SendMessageBatch" => return self.fail_some(head, &body).await,
            // Ends when the caller closes the connection.
            Some(Fault::Hangs) => return std::future::pending().await,
            Some(Fault::KilledBefore) => {
                kill(&self.cloud, &url);
                return broken();
            }
            Some(Fault::Slow) => sleep(SLOW).await,
            None | Some(Fault::LostResponse | Fault::KilledAfter | Fault::UnprocessedItems | Fault::PartialFailure) => {
            }
        }
        let response = forward(self.cloud.endpoint, Request::from_parts(head, Full::new(body))).await?;
        match fault {
            Some(Fault::KilledAfter) => {
                kill(&self.cloud, &url);
                broken()
            }
            Some(Fault::LostResponse) => broken(),
            _ => {
                // Not reached if the caller has closed the connection. A reset may have removed the call.
                if let Some(call) = lock(&self.state).calls.get_mut(nth - 1) {
                    call.is_answered = true;
                }
                Ok(response)
            }
        }
    }
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
