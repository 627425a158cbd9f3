//! The Lambda Runtime API, for one process at a time.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::clock;

/// A request from the function's process.
#[derive(Debug)]
pub enum RuntimeRequest {
    /// It polls for its next event.
    Poll {
        /// When it polled, by [`clock::now`].
        at: Duration,
        /// Sends the event.
        sender: oneshot::Sender<Event>,
    },
    /// It responded to an event.
    Response {
        /// The time from sending the event to receiving the response.
        duration: Duration,
        /// The response, or the function error.
        response: Result<String, String>,
    },
    /// It failed to start.
    InitError(String),
}

/// An event on its way to the function.
#[derive(Debug)]
pub struct Event {
    /// The Lambda request id.
    pub request_id: String,
    /// The function's ARN.
    pub arn: String,
    /// The function's input.
    pub body: String,
}

/// The host. It closes its port when dropped.
#[derive(Debug)]
pub struct RuntimeApi {
    /// `AWS_LAMBDA_RUNTIME_API`
    pub address: SocketAddr,
    /// The requests of the process, in order.
    pub requests: mpsc::UnboundedReceiver<RuntimeRequest>,
    server: JoinHandle<()>,
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Host {
    requests: mpsc::UnboundedSender<RuntimeRequest>,
    sent_at: Mutex<Duration>,
}

impl RuntimeApi {
    /// Listens on a free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (sender, requests) = mpsc::unbounded_channel();
        let host = Arc::new(Host { requests: sender, sent_at: Mutex::default() });
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let host = host.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| host.respond(request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, requests, server })
    }
}

impl Host {
    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        const PREFIX: &str = "/2018-06-01/runtime/";
        let path = request.uri().path().strip_prefix(PREFIX).map(str::to_owned);
        match (request.method(), path.as_deref()) {
            (&Method::GET, Some("invocation/next")) => self.next().await,
            (&Method::POST, Some("init/error")) => {
                let error = text(request).await?;
                let _ = self.requests.send(RuntimeRequest::InitError(error));
                accepted()
            }
            (&Method::POST, Some(path)) if path.starts_with("invocation/") => {
                let failed = path.ends_with("/error");
                if !failed && !path.ends_with("/response") {
                    return empty(StatusCode::NOT_FOUND);
                }
                let body = text(request).await?;
                let sent_at = *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = self.requests.send(RuntimeRequest::Response {
                    duration: clock::now().saturating_sub(sent_at),
                    response: if failed { Err(body) } else { Ok(body) },
                });
                accepted()
            }
            _ => empty(StatusCode::NOT_FOUND),
        }
    }

    /// Handles the long poll.
    async fn next(&self) -> Result<Response<Full<Bytes>>> {
        /// The longest timeout of a deployed function, which is that of `alarm`.
        const TIMEOUT: Duration = Duration::from_mins(1);
        let at = clock::now();
        let (sender, event) = oneshot::channel();
        let _ = self.requests.send(RuntimeRequest::Poll { at, sender });
        let event = event.await.context("there are no more events")?;
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH)? + TIMEOUT;
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", event.request_id)
            .header("lambda-runtime-deadline-ms", deadline.as_millis().to_string())
            .header("lambda-runtime-invoked-function-arn", event.arn)
            .header("lambda-runtime-trace-id", "Root=1-5e1b4151-43a0913a12345678901234567;Sampled=0")
            .body(Full::new(Bytes::from(event.body)))?;
        *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner) = clock::now();
        Ok(response)
    }
}

async fn text(request: Request<Incoming>) -> Result<String> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn accepted() -> Result<Response<Full<Bytes>>> {
    Ok(Response::builder()
        .status(StatusCode::ACCEPTED)
        .header("content-type", "application/json")
        .body(Full::from(r#"{"status":"OK"}"#))?)
}

fn empty(status: StatusCode) -> Result<Response<Full<Bytes>>> {
    Ok(Response::builder().status(status).body(Full::default())?)
}
