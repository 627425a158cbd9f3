use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_types::SdkConfig;
use gatehouse::{BatchHandler, Environment, Function, Invocation, Quarantine, Timestamp};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::fault::FaultPlan;
use super::request::{Call, Service};
use super::response::Response;
use super::{FakeAws, Fault, MAX_RECEIVES, State, signature};

/// One process of the function.
pub struct Process {
    /// The account.
    pub aws: FakeAws,
    /// Its number, from 1.
    pub number: usize,
    environment: Vec<(&'static str, String)>,
    life: Arc<Life>,
}

#[derive(Default)]
struct Life {
    plan: Mutex<FaultPlan>,
    is_dead: Mutex<bool>,
    died: Notify,
}

/// What a delivery resulted in.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The function's response or error; `None` if the process died.
    pub response: Option<Result<Value, String>>,
    /// The metrics that were counted.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Delivered {
    /// Whether a bare event is done.
    pub fn is_done(&self) -> bool {
        self.response == Some(Ok(json!({"outcome": "done"})))
    }

    /// Whether the whole delivery is made again: the process died, or a bare event must be retried.
    pub fn is_retried(&self) -> bool {
        matches!(self.response, None | Some(Err(_)))
    }

    /// The reason code and the sentence of a bare event's refusal.
    pub fn refusal(&self) -> Option<(&str, &str)> {
        let response = self.response.as_ref()?.as_ref().ok()?;
        Some((response["reason"].as_str()?, response["why"].as_str()?))
    }

    /// The reason code of a bare event's refusal, or what happened instead.
    pub fn refusal_code(&self) -> &str {
        match (self.refusal(), self.is_retried()) {
            (Some((code, _)), _) => code,
            (None, true) => "retried",
            (None, false) => "not refused",
        }
    }

    /// The ids of a batch's messages that are delivered again; `None` if the process died, because all are.
    pub fn retried_messages(&self) -> Option<Vec<&str>> {
        let response = self.response.as_ref()?.as_ref().expect("a batch has a response");
        let failures = response["batchItemFailures"].as_array().expect("the response is a batch's");
        Some(failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect())
    }

    /// How often something was counted.
    pub fn count(&self, metric: &str) -> u64 {
        self.counts.get(metric).copied().unwrap_or_default()
    }
}

impl Process {
    pub(super) fn new(aws: FakeAws, number: usize) -> Self {
        Self { aws, number, environment: Vec::new(), life: Arc::default() }
    }

    /// Sets an environment variable of this process.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Makes this call fail, counted from 1 over the calls of this process.
    #[must_use]
    pub fn fail(self, call: usize, fault: Fault) -> Self {
        self.plan().numbered.insert(call, fault);
        self
    }

    /// Makes every call of this name or operation fail.
    #[must_use]
    pub fn fail_each(self, name: &str, fault: Fault) -> Self {
        self.plan().always.insert(name.to_owned(), fault);
        self
    }

    /// Changes something just before this call of the process is served.
    #[must_use]
    pub fn change(self, call: usize, change: impl FnOnce(&mut State) + Send + 'static) -> Self {
        self.plan().changes.insert(call, Box::new(change));
        self
    }

    /// Another process with the same environment.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { environment: self.environment.clone(), ..self.aws.process() }
    }

    /// How many calls it has made.
    pub fn call_count(&self) -> usize {
        self.plan().calls
    }

    /// The process's environment variables.
    pub fn environment(&self) -> Environment {
        let shared = self.aws.state().settings.environment.clone();
        shared.into_iter().chain(self.environment.iter().cloned()).collect()
    }

    /// A configuration for SDK clients of this process.
    pub fn sdk_config(&self) -> SdkConfig {
        let credentials = Credentials::new("id", signature::SECRET, None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(self.http_client())
            .build()
    }

    /// A DynamoDB client.
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.sdk_config())
    }

    /// An SNS client.
    pub fn sns(&self) -> aws_sdk_sns::Client {
        aws_sdk_sns::Client::new(&self.sdk_config())
    }

    /// An SQS client.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.sdk_config())
    }

    /// A client of AWS IoT's registry.
    pub fn iot(&self) -> aws_sdk_iot::Client {
        aws_sdk_iot::Client::new(&self.sdk_config())
    }

    /// A client of AWS IoT's data plane.
    pub fn iot_data(&self) -> aws_sdk_iotdataplane::Client {
        aws_sdk_iotdataplane::Client::new(&self.sdk_config())
    }

    fn http_client(&self) -> SharedHttpClient {
        let connection = Connection { aws: self.aws.clone(), number: self.number, life: Arc::clone(&self.life) };
        let connector = SharedHttpConnector::new(connection);
        http_client_fn(move |_, _| connector.clone())
    }

    /// Passes a delivery to the function in this process, at this time.
    pub async fn deliver_to<H: BatchHandler>(&self, handler: H, delivery: &Value, now: Timestamp) -> Delivered {
        let (name, timeout) = {
            let mut state = self.aws.state();
            state.clock = Some((now, Instant::now()));
            (state.settings.function, state.settings.timeout)
        };
        let quarantine = Quarantine::from_environment(&self.environment(), self.dynamodb(), name).unwrap();
        let function = Function::new(name, handler, quarantine);
        let invocation = Invocation::new(format!("request-{}", self.number), now, now.plus(timeout));
        let delivery = to_raw_value(delivery).unwrap();
        let response = tokio::select! {
            response = function.invoke(&delivery, &invocation) => Some(response.map_err(|error| error.to_string())),
            () = self.life.died.notified() => None,
        };
        self.aws.state().finished.insert(self.number);
        self.aws.0.served.notify_waiters();
        self.aws.assert_no_violations();
        Delivered { response, counts: invocation.counts() }
    }

    /// Passes a bare event to this process, and to other processes until it is no longer retried, as the queue does:
    /// returns the last delivery's result and time. For tests whose clock is paused.
    pub async fn deliver_until_done<H: BatchHandler>(
        self,
        handler: impl Fn(&Self) -> H,
        event: &Value,
        mut now: Timestamp,
    ) -> (Delivered, Timestamp) {
        let visibility_timeout = self.aws.state().settings.visibility_timeout;
        let mut process = self;
        for _ in 0..MAX_RECEIVES {
            let delivered = process.deliver_to(handler(&process), event, now).await;
            if !delivered.is_retried() {
                return (delivered, now);
            }
            now = now.plus(visibility_timeout);
            sleep(visibility_timeout).await;
            process = process.another();
        }
        panic!("the event failed {MAX_RECEIVES} times");
    }

    fn plan(&self) -> MutexGuard<'_, FaultPlan> {
        lock(&self.life.plan)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process's connection to AWS.
#[derive(Clone)]
struct Connection {
    aws: FakeAws,
    number: usize,
    life: Arc<Life>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("process", &self.number).finish_non_exhaustive()
    }
}

impl HttpConnector for Connection {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connection = self.clone();
        HttpConnectorFuture::new(async move {
            let call = connection.checked(|| connection.parse(&request));
            let _open = OpenCall::new(connection.aws.clone(), call.operation.clone());
            // Lets other processes be served in between, even if no order is fixed.
            tokio::task::yield_now().await;
            let latency = connection.latency(&call);
            if !latency.is_zero() {
                sleep(latency).await;
            }
            connection.wait_for_turn().await;
            let service = call.service;
            let response = connection.checked(|| connection.serve(call));
            connection.aws.0.served.notify_waiters();
            match response {
                Some(response) => Ok(response.into_http(service)),
                // The process is dead, or AWS never responds.
                None => std::future::pending().await,
            }
        })
    }
}

impl Connection {
    /// Reports a panic, which would otherwise only make the handler retry its event.
    fn checked<T>(&self, serve: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(serve)).unwrap_or_else(|panic| {
            self.aws.report_violation(panic_message(panic.as_ref()));
            resume_unwind(panic)
        })
    }

    fn parse(&self, request: &HttpRequest) -> Call {
        let mut call = Call::parse(self.number, request);
        if call.service == Service::DynamoDb {
            call.name = format!("{} {}", call.operation, self.aws.state().dynamodb_label(&call.body));
        }
        call
    }

    fn latency(&self, call: &Call) -> std::time::Duration {
        let state = self.aws.state();
        let latency = state.settings.latencies.iter().find(|(name, _)| call.is(name));
        latency.map(|(_, latency)| *latency).unwrap_or_default()
    }

    /// Waits until this process's call is the next to be served.
    async fn wait_for_turn(&self) {
        loop {
            let served = self.aws.0.served.notified();
            tokio::pin!(served);
            served.as_mut().enable();
            {
                let mut state = self.aws.state();
                while state.turns.front().is_some_and(|next| state.finished.contains(next)) {
                    state.turns.pop_front();
                }
                match state.turns.front() {
                    None => return,
                    Some(next) if *next == self.number => {
                        state.turns.pop_front();
                        return;
                    }
                    Some(_) => {}
                }
            }
            served.await;
        }
    }

    /// Performs the call; `None` if there is no response.
    fn serve(&self, mut call: Call) -> Option<Response> {
        if *lock(&self.life.is_dead) {
            return None;
        }
        let mut plan = lock(&self.life.plan);
        let mut state = self.aws.state();
        for change in [plan.begin(), state.plan.begin()].into_iter().flatten() {
            change(&mut state);
        }
        let fault = plan.fault_of(&call).or_else(|| state.plan.fault_of(&call));
        call.at = state.now();
        let refused = match fault {
            Some(Fault::DiesBefore) => return self.die(),
            Some(Fault::Denied) => Some(Response::error(400, "AccessDeniedException")),
            Some(Fault::Throttled) => Some(Response::error(400, "ThrottlingException")),
            Some(Fault::Error(status, code)) => Some(Response::error(status, code)),
            _ => None,
        };
        call.is_refused = refused.is_some();
        state.calls.push(call.clone());
        if refused.is_some() || fault == Some(Fault::Hangs) {
            return refused;
        }
        let response = state.perform(&call, fault);
        let mut observers = std::mem::take(&mut state.observers);
        for observer in &mut observers {
            if let Err(violation) = observer(&state, &call) {
                self.aws.report_violation(violation);
            }
        }
        state.observers = observers;
        match fault {
            Some(Fault::DiesAfter) => self.die(),
            Some(Fault::Lost) => Some(Response::error(500, "InternalFailure")),
            Some(Fault::Unconfirmed) => Some(Response::error(400, "UnconfirmedException")),
            _ => Some(response),
        }
    }

    fn die(&self) -> Option<Response> {
        *lock(&self.life.is_dead) = true;
        self.life.died.notify_one();
        None
    }
}

impl State {
    fn perform(&mut self, call: &Call, fault: Option<Fault>) -> Response {
        match call.service {
            Service::DynamoDb => self.dynamodb(&call.operation, &call.body, fault),
            Service::Sns => self.sns(call),
            Service::Sqs => self.sqs(call),
            Service::Iot => self.iot.serve(call),
            Service::IotData => self.iot_data(call),
        }
    }
}

/// Counts a call as open until it is dropped.
struct OpenCall {
    aws: FakeAws,
    operation: String,
}

impl OpenCall {
    fn new(aws: FakeAws, operation: String) -> Self {
        let mut state = aws.state();
        let (open, max) = state.in_flight.entry(operation.clone()).or_default();
        *open += 1;
        *max = (*max).max(*open);
        drop(state);
        Self { aws, operation }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some((open, _)) = self.aws.state().in_flight.get_mut(&self.operation) {
            *open -= 1;
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}
