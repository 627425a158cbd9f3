//! A small AWS behind the SDK's own clients: DynamoDB's tables, and what a function's account has beside them. Requests
//! and answers are the real ones, so that what the SDK sends a second time arrives a second time.
//!
//! It says who is served next, lets any call fail before or after it is served, and changes things between two calls.
#![allow(dead_code, reason = "each function uses a part of it")]

pub mod dynamodb;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use dynamodb::{Table, Tables};
use gatehouse::{BatchHandler, Invocation, Environment, Function, Quarantine, Timestamp};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// A client of an SDK crate for this process.
#[macro_export]
macro_rules! client {
    ($sdk:ident, $process:expr) => {
        $sdk::Client::from_conf(
            $sdk::Config::builder()
                .behavior_version($sdk::config::BehaviorVersion::latest())
                .region($sdk::config::Region::new("eu-west-1"))
                .credentials_provider($sdk::config::Credentials::new("id", "secret", None, None, "test"))
                .http_client($process.http_client())
                .build(),
        )
    };
}

/// What is in a function's account beside the tables, and how the function is set up.
pub trait Account: Default + Send + 'static {
    /// How long Lambda gives an invocation.
    const TIME_OUT: Duration;
    /// The function's own variables.
    const ENVIRONMENT: &'static [(&'static str, &'static str)];
    /// The function's own tables.
    const TABLES: &'static [Table];
    /// How many items a page of a query has: few, so that there are pages.
    const PAGE: usize = 1;

    /// The name of a call that only this function makes.
    fn name(request: &HttpRequest) -> String {
        panic!("{} {} is not known here", request.method(), request.uri())
    }

    /// Serves what is no table's.
    fn answer(&mut self, request: &Request<'_>) -> Answer;
}

/// An account, and the processes that are at work in it.
#[derive(Default)]
pub struct Aws<A>(Arc<Shared<A>>);

#[derive(Default)]
struct Shared<A> {
    state: Mutex<State<A>>,
    served: Notify,
}

/// What is in the account.
#[derive(Default)]
pub struct State<A> {
    pub tables: Tables,
    /// What was called, by whom, in order of service.
    pub calls: Vec<(usize, String)>,
    account: A,
    /// Who is served next, where that matters.
    turns: VecDeque<usize>,
    gone: BTreeSet<usize>,
    processes: usize,
}

impl<A> Deref for State<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.account
    }
}

impl<A> DerefMut for State<A> {
    fn deref_mut(&mut self) -> &mut A {
        &mut self.account
    }
}

impl<A> State<A> {
    /// The names of the calls that this process made, in order.
    pub fn calls_of(&self, process: usize) -> Vec<&str> {
        self.calls.iter().filter(|(number, _)| *number == process).map(|(_, invocation)| invocation.as_str()).collect()
    }
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends before AWS has got it.
    DiesBefore,
    /// The process ends once AWS has done it.
    DiesAfter,
    /// AWS refuses it, and will refuse it again.
    Denied,
    /// AWS asks to come again.
    Throttled,
    /// AWS does it, and its answer is lost: the SDK sends it again.
    Lost,
}

pub const FAULTS: [Fault; 5] = [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied, Fault::Throttled, Fault::Lost];

// What is derived would ask the same of `A`.
impl<A> Clone for Aws<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Account> Aws<A> {
    pub fn state(&self) -> MutexGuard<'_, State<A>> {
        self.0.state.lock().unwrap()
    }

    /// A new process of the function.
    pub fn process(&self) -> Process<A> {
        let mut state = self.state();
        state.processes += 1;
        Process { aws: self.clone(), number: state.processes, variables: Vec::new(), plan: Arc::default() }
    }

    /// Serves these processes' calls in this order, each number once for each call; after that, as they come.
    pub fn serve_in_order(&self, turns: impl IntoIterator<Item = usize>) {
        self.state().turns = turns.into_iter().collect();
    }
}

/// One process of the function.
pub struct Process<A> {
    pub aws: Aws<A>,
    pub number: usize,
    variables: Vec<(&'static str, String)>,
    plan: Arc<Mutex<Plan<A>>>,
}

type Change<A> = Box<dyn Fn(&mut State<A>) + Send>;

/// What is to happen at which of a process's calls.
#[derive(Default)]
struct Plan<A> {
    calls: usize,
    /// By number, counted from 1.
    faults: BTreeMap<usize, Fault>,
    changes: BTreeMap<usize, Change<A>>,
    /// By name.
    always: BTreeMap<&'static str, Fault>,
    is_dead: bool,
    died: Arc<Notify>,
}

/// What came of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The function's answer or its error; none where the process died.
    pub answer: Option<Result<Value, String>>,
    pub counted: BTreeMap<&'static str, u64>,
}

impl Delivered {
    pub fn is_done(&self) -> bool {
        self.answer == Some(Ok(json!({"outcome": "done"})))
    }

    /// Whether the event comes again.
    pub fn is_handed_back(&self) -> bool {
        matches!(self.answer, None | Some(Err(_)))
    }

    /// The code of the reason for which the event is in quarantine.
    pub fn quarantined(&self) -> &str {
        match &self.answer {
            Some(Ok(answer)) => answer["reason"].as_str().unwrap_or("not at all"),
            _ => "handed back",
        }
    }

    /// How often something was counted.
    pub fn count(&self, metric: &str) -> u64 {
        self.counted.get(metric).copied().unwrap_or_default()
    }
}

impl<A: Account> Process<A> {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub fn fail(self, invocation: usize, fault: Fault) -> Self {
        self.plan.lock().unwrap().faults.insert(invocation, fault);
        self
    }

    /// Fails every call of this name.
    pub fn fail_each(self, name: &'static str, fault: Fault) -> Self {
        self.plan.lock().unwrap().always.insert(name, fault);
        self
    }

    /// Changes something just before this call is served.
    pub fn change(self, invocation: usize, change: impl Fn(&mut State<A>) + Send + 'static) -> Self {
        self.plan.lock().unwrap().changes.insert(invocation, Box::new(change));
        self
    }

    /// Another process with the same variables.
    pub fn another(&self) -> Self {
        Self { variables: self.variables.clone(), ..self.aws.process() }
    }

    /// How many calls it has made.
    pub fn calls(&self) -> usize {
        self.plan.lock().unwrap().calls
    }

    pub fn environment(&self) -> Environment {
        let always = [("IDEMPOTENCY_TABLE", "idempotency"), ("QUARANTINE_TABLE", "quarantine")];
        let own = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        always.into_iter().chain(A::ENVIRONMENT.iter().copied()).chain(own).collect()
    }

    /// Hands something to the function in this process, by this clock.
    pub async fn deliver_to<H: BatchHandler>(&self, handler: H, delivery: &Value, now: Timestamp) -> Delivered {
        let name = env!("CARGO_PKG_NAME");
        let quarantine = Quarantine::from(&self.environment(), client!(aws_sdk_dynamodb, self), name).unwrap();
        let function = Function::new(name, handler, quarantine);
        let invocation = Invocation::new(format!("request-{}", self.number), now, now.plus(A::TIME_OUT));
        let (delivery, died) = (to_raw_value(delivery).unwrap(), Arc::clone(&self.plan.lock().unwrap().died));
        let answer = tokio::select! {
            answer = function.invoke(&delivery, &invocation) => Some(answer.map_err(|error| error.to_string())),
            () = died.notified() => None,
        };
        self.aws.state().gone.insert(self.number);
        self.aws.0.served.notify_waiters();
        Delivered { answer, counted: invocation.counts() }
    }

    pub fn http_client(&self) -> SharedHttpClient {
        let wire =
            SharedHttpConnector::new(Wire { aws: self.aws.clone(), number: self.number, plan: Arc::clone(&self.plan) });
        http_client_fn(move |_, _| wire.clone())
    }
}

/// A process's connection to AWS.
struct Wire<A> {
    aws: Aws<A>,
    number: usize,
    plan: Arc<Mutex<Plan<A>>>,
}

impl<A> Clone for Wire<A> {
    fn clone(&self) -> Self {
        Self { aws: self.aws.clone(), number: self.number, plan: Arc::clone(&self.plan) }
    }
}

impl<A> fmt::Debug for Wire<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl<A: Account> HttpConnector for Wire<A> {
    fn invocation(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = self.clone();
        HttpConnectorFuture::new(async move {
            // Others may be served in between also where no order is given.
            tokio::task::yield_now().await;
            wire.turn().await;
            let answer = wire.serve(&request);
            wire.aws.0.served.notify_waiters();
            match answer {
                Some(answer) => Ok(answer.into_response()),
                // Nobody is there any more to get it.
                None => std::future::pending().await,
            }
        })
    }
}

impl<A: Account> Wire<A> {
    /// Waits until this process is to be served.
    async fn turn(&self) {
        loop {
            let served = self.aws.0.served.notified();
            tokio::pin!(served);
            served.as_mut().enable();
            {
                let mut state = self.aws.state();
                while state.turns.front().is_some_and(|next| state.gone.contains(next)) {
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

    fn serve(&self, request: &HttpRequest) -> Option<Answer> {
        let request = Request::read(request);
        let name = request.name::<A>();
        let mut plan = self.plan.lock().unwrap();
        let mut state = self.aws.state();
        plan.calls += 1;
        if let Some(change) = plan.changes.get(&plan.calls) {
            change(&mut state);
        }
        let fault = plan.faults.get(&plan.calls).or(plan.always.get(name.as_str())).copied();
        if plan.is_dead || fault == Some(Fault::DiesBefore) {
            plan.is_dead = true;
            plan.died.notify_one();
            return None;
        }
        if let Some(Fault::Denied | Fault::Throttled) = fault {
            state.calls.push((self.number, format!("{name}, refused")));
            let code = if fault == Some(Fault::Denied) { "AccessDeniedException" } else { "ThrottlingException" };
            let is_sns = matches!(request, Request::Publish(_));
            return Some(if is_sns { Answer::sns_error(code) } else { Answer::error(400, code) });
        }
        state.calls.push((self.number, name));
        let answer = match &request {
            Request::DynamoDb { operation, body } => state.dynamodb(operation, body),
            other => state.answer(other),
        };
        match fault {
            Some(Fault::DiesAfter) => {
                plan.is_dead = true;
                plan.died.notify_one();
                None
            }
            Some(Fault::Lost) => Some(Answer::error(500, "InternalFailure")),
            _ => Some(answer),
        }
    }
}

/// A request, as far as it is understood here.
#[derive(Debug)]
pub enum Request<'a> {
    DynamoDb {
        operation: String,
        body: Value,
    },
    /// To an SNS topic: the form.
    Publish(BTreeMap<String, String>),
    /// To an SQS queue.
    SendMessage(Value),
    /// What only one function sends, and its account knows.
    Other(&'a HttpRequest),
}

impl<'a> Request<'a> {
    fn read(request: &'a HttpRequest) -> Self {
        let bytes = request.body().bytes().unwrap();
        match request.headers().get("x-amz-target").and_then(|target| target.split_once('.')) {
            Some(("DynamoDB_20120810", operation)) => {
                Self::DynamoDb { operation: operation.to_owned(), body: serde_json::from_slice(bytes).unwrap() }
            }
            Some(("AmazonSQS", "SendMessage")) => Self::SendMessage(serde_json::from_slice(bytes).unwrap()),
            None if request.uri().starts_with("https://sns.") => {
                let form: BTreeMap<_, _> = form_urlencoded::parse(bytes).into_owned().collect();
                assert_eq!(form["Action"], "Publish");
                Self::Publish(form)
            }
            _ => Self::Other(request),
        }
    }

    /// The operation, with what it is done to.
    fn name<A: Account>(&self) -> String {
        match self {
            Self::DynamoDb { operation, body } => format!("{operation} {}", dynamodb::named::<A>(body)),
            Self::Publish(_) => "Publish".to_owned(),
            Self::SendMessage(_) => "SendMessage".to_owned(),
            Self::Other(request) => A::name(request),
        }
    }
}

/// An answer over HTTP.
pub struct Answer {
    status: u16,
    error: Option<&'static str>,
    body: String,
}

impl Answer {
    pub fn good(body: &Value) -> Self {
        Self { status: 200, error: None, body: body.to_string() }
    }

    /// What SNS says of a message that it has taken.
    pub fn published() -> Self {
        let body = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult>\
                    <MessageId>m</MessageId></PublishResult></PublishResponse>";
        Self { status: 200, error: None, body: body.to_owned() }
    }

    pub fn error(status: u16, code: &'static str) -> Self {
        Self::error_with(status, code, json!({}))
    }

    fn error_with(status: u16, code: &'static str, mut body: Value) -> Self {
        body["__type"] = code.into();
        body["message"] = format!("The test says {code}.").into();
        Self { status, error: Some(code), body: body.to_string() }
    }

    fn sns_error(code: &str) -> Self {
        let body = format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>");
        Self { status: 400, error: None, body }
    }

    fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::new(StatusCode::try_from(self.status).unwrap(), SdkBody::from(self.body));
        if let Some(code) = self.error {
            response.headers_mut().insert("x-amzn-errortype", code);
        }
        response
    }
}
