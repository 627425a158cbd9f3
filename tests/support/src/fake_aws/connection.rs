//! The connection between a process and AWS: each call waits for its turn, and may fail.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::fault::FaultPlan;
use super::request::{Call, Service};
use super::response::Response;
use super::{FakeAws, Fault, State};

/// The fault plan of a process and whether it has died, shared with its connection.
#[derive(Default)]
pub(super) struct Life {
    plan: Mutex<FaultPlan>,
    is_dead: Mutex<bool>,
    died: Notify,
}

impl Life {
    pub(super) fn plan(&self) -> MutexGuard<'_, FaultPlan> {
        lock(&self.plan)
    }

    /// Waits until the process dies.
    pub(super) async fn ended(&self) {
        self.died.notified().await;
    }

    fn is_dead(&self) -> bool {
        *lock(&self.is_dead)
    }

    fn end(&self) {
        *lock(&self.is_dead) = true;
        self.died.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process's connection to AWS.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) aws: FakeAws,
    /// The process's number.
    pub(super) number: usize,
    pub(super) life: Arc<Life>,
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
    pub(super) fn http_client(self) -> SharedHttpClient {
        let connector = SharedHttpConnector::new(self);
        http_client_fn(move |_, _| connector.clone())
    }

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

    fn latency(&self, call: &Call) -> Duration {
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
        if self.life.is_dead() {
            return None;
        }
        let mut plan = self.life.plan();
        let mut state = self.aws.state();
        for change in [plan.begin(), state.plan.begin()].into_iter().flatten() {
            change(&mut state);
        }
        let fault = plan.fault_of(&call).or_else(|| state.plan.fault_of(&call));
        call.at = state.now();
        let refused = match fault {
            Some(Fault::DiesBefore) => return self.die(),
            Some(Fault::Denied) if call.service == Service::IotData => Some(Response::error(403, "ForbiddenException")),
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
        self.life.end();
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
