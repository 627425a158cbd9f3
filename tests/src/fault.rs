//! A proxy between a function and the services that it calls, in which calls go wrong.
//!
//! A function is put behind it by its environment (`AWS_ENDPOINT_URL_DYNAMODB` and so on, for each of [`SERVICES`]); it
//! has no switch of its own for that.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cloud::Cloud;
use crate::isolation::Endpoint;
use crate::keeper;

/// The services whose calls the proxy can tell apart, as their names are in `AWS_ENDPOINT_URL_<SERVICE>`.
pub const SERVICES: [&str; 4] = ["DYNAMODB", "IOT", "SNS", "SQS"];

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
    /// The service fails of its own, to be tried again.
    Failed,
    /// DynamoDB writes the first half of a batch and leaves the rest unprocessed; any other call is left alone.
    Unprocessed,
    /// SQS takes every second message of a batch, and answers for the others that it failed or that they were too many;
    /// any other call is left alone.
    PartlyTaken,
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
    /// What happens to the next calls of this operation, one after the other, and to each other one in between nothing.
    series: Option<(&'static str, VecDeque<Fault>)>,
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

    /// Forgets what was; from now on every second call of this operation meets the next of these faults, until there is
    /// none left.
    pub fn plan_series(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        *lock(&self.state) = State { series: Some((operation, faults.into_iter().collect())), ..State::default() };
    }

    /// Whether every fault that was planned has happened.
    pub fn is_over(&self) -> bool {
        let state = lock(&self.state);
        state.series.as_ref().is_none_or(|(_, faults)| faults.is_empty())
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
        let (service, operation) = asked(&head.method, head.uri.path(), &head.headers, &body);
        let fault = {
            let mut state = lock(&self.state);
            let nth = state.calls.len() + 1;
            let calls_before = state.calls.iter().filter(|call| call.operation == operation).count();
            let in_series = match &mut state.series {
                Some((struck, faults)) if *struck == operation && calls_before % 2 == 1 => faults.pop_front(),
                _ => None,
            };
            let fault = state.plan.filter(|(planned, _)| *planned == nth).map(|(_, fault)| fault).or(in_series);
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
            Some(Fault::Throttled) => return throttled(service),
            Some(Fault::Failed) => return Ok(Response::builder().status(500).body(Full::default())?),
            Some(Fault::Unprocessed) if operation == "BatchWriteItem" => return self.halve(head, &body).await,
            Some(Fault::PartlyTaken) if operation == "SendMessageBatch" => return self.take_some(head, &body).await,
            // Until the caller gives up: this ends with the connection.
            Some(Fault::Hangs) => return std::future::pending().await,
            Some(Fault::KilledBefore) => {
                kill(&self.cloud, &url);
                return broken();
            }
            None | Some(Fault::LostAnswer | Fault::KilledAfter | Fault::Unprocessed | Fault::PartlyTaken) => {}
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

impl Handler {
    /// Has the first half of a batch written, and gives the rest back.
    async fn halve(&self, mut head: Parts, body: &[u8]) -> Result<Response<Full<Bytes>>> {
        let mut now: Value = serde_json::from_slice(body)?;
        let mut later = Map::new();
        let tables = now.get_mut("RequestItems").and_then(Value::as_object_mut).context("no RequestItems")?;
        for (table, puts) in tables {
            let puts = puts.as_array_mut().context("no list of puts")?;
            let rest = puts.split_off(puts.len().div_ceil(2));
            if !rest.is_empty() {
                later.insert(table.clone(), Value::Array(rest));
            }
        }
        let now = Bytes::from(now.to_string());
        head.headers.insert("content-length", now.len().into());
        let answer = forward(self.cloud.endpoint, Request::from_parts(head, Full::new(now))).await?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let answer = Response::builder().header("content-type", "application/x-amz-json-1.0");
        Ok(answer.body(Full::new(json!({"UnprocessedItems": later}).to_string().into()))?)
    }

    /// Has every second message of a batch sent, and answers for the others that they were not.
    async fn take_some(&self, mut head: Parts, body: &[u8]) -> Result<Response<Full<Bytes>>> {
        let mut now: Value = serde_json::from_slice(body)?;
        let entries = now.get_mut("Entries").and_then(Value::as_array_mut).context("no list of messages")?;
        let (mut failed, mut taken) = (Vec::new(), Vec::new());
        for (at, entry) in std::mem::take(entries).into_iter().enumerate() {
            if at % 2 == 1 {
                taken.push(entry);
                continue;
            }
            // Throttling counts as the sender's fault.
            let (code, is_senders) = if at % 4 == 0 { ("InternalError", false) } else { ("RequestThrottled", true) };
            failed
                .push(json!({"Id": entry.get("Id"), "Code": code, "SenderFault": is_senders, "Message": "as planned"}));
        }
        let mut answer = json!({"Successful": []});
        if !taken.is_empty() {
            *entries = taken;
            let now = Bytes::from(now.to_string());
            head.headers.insert("content-length", now.len().into());
            let sent = forward(self.cloud.endpoint, Request::from_parts(head, Full::new(now))).await?;
            if !sent.status().is_success() {
                return Ok(sent);
            }
            answer = serde_json::from_slice(&sent.into_body().collect().await?.to_bytes())?;
        }
        let all = answer.as_object_mut().context("no object")?;
        if let Some(others) = all.entry("Failed").or_insert_with(|| json!([])).as_array_mut() {
            others.extend(failed);
        }
        let builder = Response::builder().header("content-type", "application/x-amz-json-1.0");
        Ok(builder.body(Full::new(answer.to_string().into()))?)
    }
}

/// A service, told by the protocol of its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    DynamoDb,
    Iot,
    Sns,
    Sqs,
}

/// Which service is asked, and for what.
fn asked(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> (Service, String) {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    match target.and_then(|target| target.rsplit_once('.')) {
        // In JSON, with the operation in a header.
        Some(("AmazonSQS", operation)) => (Service::Sqs, operation.to_owned()),
        Some((_, operation)) => (Service::DynamoDb, operation.to_owned()),
        // As a form, with the operation in a field.
        None if path == "/" => (Service::Sns, action(body)),
        // In REST, where the method and the path say it.
        None => (Service::Iot, rest(method, path).to_owned()),
    }
}

/// The `Action` of a request in the query protocol.
fn action(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or("unknown").to_owned()
}

/// The operation of a request to AWS IoT.
fn rest(method: &Method, path: &str) -> &'static str {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["certificates", _]) => "DescribeCertificate",
        ("PUT", ["certificates", _]) => "UpdateCertificate",
        ("GET", ["certificates-by-ca", _]) => "ListCertificatesByCA",
        ("GET", ["cacertificate", _]) => "DescribeCACertificate",
        ("PUT", ["cacertificate", _]) => "UpdateCACertificate",
        ("POST", ["things", _]) => "CreateThing",
        ("GET", ["things", _]) => "DescribeThing",
        ("PATCH", ["things", _]) => "UpdateThing",
        ("GET", ["things", _, "principals"]) => "ListThingPrincipals",
        ("GET", ["things", _, "principals-v2"]) => "ListThingPrincipalsV2",
        ("PUT", ["things", _, "principals"]) => "AttachThingPrincipal",
        ("DELETE", ["things", _, "principals"]) => "DetachThingPrincipal",
        ("GET", ["principals", "things"]) => "ListPrincipalThings",
        ("PUT", ["target-policies", _]) => "AttachPolicy",
        ("POST", ["target-policies", _]) => "DetachPolicy",
        ("POST", ["attached-policies", _]) => "ListAttachedPolicies",
        ("GET", ["endpoint"]) => "DescribeEndpoint",
        _ => "unknown",
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

/// What a service answers under load.
fn throttled(service: Service) -> Result<Response<Full<Bytes>>> {
    let answer = Response::builder().status(400);
    let (answer, body) = match service {
        Service::DynamoDb => (
            answer.header("content-type", "application/x-amz-json-1.0"),
            r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"Rate exceeded"}"#,
        ),
        Service::Iot => (
            answer.header("content-type", "application/json").header("x-amzn-errortype", "ThrottlingException"),
            r#"{"message":"Rate exceeded"}"#,
        ),
        Service::Sns => (
            answer.header("content-type", "text/xml"),
            "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type>\
             <Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>throttled</RequestId></ErrorResponse>",
        ),
        Service::Sqs => (
            answer
                .header("content-type", "application/x-amz-json-1.0")
                .header("x-amzn-query-error", "RequestThrottled;Sender"),
            r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"Rate exceeded"}"#,
        ),
    };
    Ok(answer.body(Full::new(body.into()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, path: &str, target: Option<&str>, body: &str) -> (Service, String) {
        let mut headers = HeaderMap::new();
        if let Some(target) = target {
            headers.insert("x-amz-target", target.parse().expect("a header"));
        }
        asked(&method.parse().expect("a method"), path, &headers, body.as_bytes())
    }

    #[test]
    fn each_services_calls_are_known_by_their_operation() {
        for (method, path, target, body, service, operation) in [
            ("POST", "/", Some("DynamoDB_20120810.PutItem"), "{}", Service::DynamoDb, "PutItem"),
            ("POST", "/", Some("AmazonSQS.SendMessage"), "{}", Service::Sqs, "SendMessage"),
            ("POST", "/", None, "Action=Publish&Version=2010-03-31", Service::Sns, "Publish"),
            ("GET", "/certificates/ab", None, "", Service::Iot, "DescribeCertificate"),
            ("PUT", "/certificates/ab", None, "", Service::Iot, "UpdateCertificate"),
            ("GET", "/certificates-by-ca/ab", None, "", Service::Iot, "ListCertificatesByCA"),
            ("PUT", "/cacertificate/ab", None, "", Service::Iot, "UpdateCACertificate"),
            ("POST", "/things/door", None, "{}", Service::Iot, "CreateThing"),
            ("GET", "/things/door/principals", None, "", Service::Iot, "ListThingPrincipals"),
            ("PUT", "/things/door/principals", None, "", Service::Iot, "AttachThingPrincipal"),
            ("PUT", "/target-policies/device", None, "{}", Service::Iot, "AttachPolicy"),
            ("GET", "/no/such/path", None, "", Service::Iot, "unknown"),
        ] {
            assert_eq!(call(method, path, target, body), (service, operation.to_owned()), "{method} {path}");
        }
    }

    /// What each service's SDK makes of a throttled call: whether it knows it for one, and tries again.
    #[tokio::test]
    async fn an_sdk_tries_a_throttled_call_again() {
        use aws_sdk_iot::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let seen = Arc::clone(&seen);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let (service, operation) = asked(&head.method, head.uri.path(), &head.headers, &body);
                        seen.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
                        throttled(service)
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        macro_rules! client {
            ($service:ident) => {
                $service::Client::from_conf(
                    $service::Config::builder()
                        .behavior_version(BehaviorVersion::latest())
                        .region(Region::new("us-east-1"))
                        .endpoint_url(&url)
                        .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
                        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
                        .http_client(aws_smithy_http_client::Builder::new().build_http())
                        .build(),
                )
            };
        }
        let mut codes = Vec::new();
        let sent = client!(aws_sdk_iot).describe_certificate().certificate_id("ab").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let sent = client!(aws_sdk_sqs).send_message().queue_url(&url).message_body("b").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let sent = client!(aws_sdk_sns).publish().topic_arn("arn:aws:sns:us-east-1:1:t").message("m").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let sent = client!(aws_sdk_dynamodb).get_item().table_name("t").send().await;
        codes.push(sent.expect_err("throttled").into_service_error().meta().code().map(str::to_owned));
        let codes: Vec<_> = codes.iter().map(Option::as_deref).collect();
        let [iot, sqs, sns, dynamodb] = codes.as_slice() else { panic!("four codes") };
        assert_eq!(
            [*iot, *sns, *dynamodb],
            [Some("ThrottlingException"), Some("Throttling"), Some("ThrottlingException")]
        );
        assert!(sqs.is_some_and(|code| code.ends_with("RequestThrottled")), "{sqs:?}");
        let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        for operation in ["DescribeCertificate", "SendMessage", "Publish", "GetItem"] {
            assert_eq!(calls.iter().filter(|call| *call == operation).count(), 3, "{operation} in {calls:?}");
        }
    }
}
