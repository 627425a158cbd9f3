//! As much of AWS as `presence` and `shadow` use, behind the SDK's own clients: DynamoDB's conditional writes, an SNS
//! topic and an SQS queue. Requests and answers are the real ones, so that what the SDK sends a second time arrives a
//! second time.
//!
//! It says who is served next, and lets any call fail before or after it is served.
#![allow(dead_code, reason = "each of the two functions uses a part of it")]

#[path = "../../../jitr/tests/aws/dynamodb.rs"]
mod dynamodb;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use gatehouse::{Bulk, Call, Environment, Function, Quarantine, Timestamp};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// How long Lambda gives an invocation, and how long the queue waits for it.
const TIME_OUT: Duration = Duration::from_secs(30);
pub const VISIBILITY: Duration = Duration::from_mins(3);

pub type Item = Map<String, Value>;

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

/// An account, and the processes that are at work in it.
#[derive(Clone, Default)]
pub struct Aws(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    served: Notify,
}

/// What is in the account.
#[derive(Default)]
pub struct State {
    /// Items by table and key.
    pub tables: BTreeMap<(String, Vec<String>), Item>,
    /// What the topic's subscribers got.
    pub published: Vec<BTreeMap<String, String>>,
    /// What the queue got, and for how many seconds it is to hold it back.
    pub sent: Vec<(Value, u64)>,
    /// What was called, by whom, in order of service.
    pub calls: Vec<(usize, String)>,
    /// Who is served next, where that matters.
    turns: VecDeque<usize>,
    gone: BTreeSet<usize>,
    processes: usize,
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

impl Aws {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// A new process of the function.
    pub fn process(&self) -> Process {
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
pub struct Process {
    pub aws: Aws,
    pub number: usize,
    variables: Vec<(&'static str, String)>,
    plan: Arc<Mutex<Plan>>,
}

/// What is to happen at which of a process's calls, counted from 1.
#[derive(Default)]
struct Plan {
    calls: usize,
    faults: BTreeMap<usize, Fault>,
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

impl Process {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub fn fail(self, call: usize, fault: Fault) -> Self {
        self.plan.lock().unwrap().faults.insert(call, fault);
        self
    }

    /// How many calls it has made.
    pub fn calls(&self) -> usize {
        self.plan.lock().unwrap().calls
    }

    pub fn environment(&self) -> Environment {
        let always = [
            ("DEVICES_TABLE", "devices"),
            ("IDEMPOTENCY_TABLE", "idempotency"),
            ("QUARANTINE_TABLE", "quarantine"),
            ("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:presence"),
            ("QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/presence"),
        ];
        let own = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        always.into_iter().chain(own).collect()
    }

    /// Hands something to the process, by this clock.
    pub async fn deliver<H: Bulk>(&self, handler: H, delivery: &Value, now: Timestamp) -> Delivered {
        let quarantine = Quarantine::from(&self.environment(), client!(aws_sdk_dynamodb, self), "function").unwrap();
        let function = Function::new("function", handler, quarantine);
        let call = Call::new(format!("request-{}", self.number), now, now.plus(TIME_OUT));
        let (delivery, died) = (to_raw_value(delivery).unwrap(), Arc::clone(&self.plan.lock().unwrap().died));
        let answer = tokio::select! {
            answer = function.invoke(&delivery, &call) => Some(answer.map_err(|error| error.to_string())),
            () = died.notified() => None,
        };
        self.aws.state().gone.insert(self.number);
        self.aws.0.served.notify_waiters();
        Delivered { answer, counted: call.counted() }
    }

    pub fn http_client(&self) -> SharedHttpClient {
        let wire =
            SharedHttpConnector::new(Wire { aws: self.aws.clone(), number: self.number, plan: Arc::clone(&self.plan) });
        http_client_fn(move |_, _| wire.clone())
    }
}

/// A process's connection to AWS.
#[derive(Clone)]
struct Wire {
    aws: Aws,
    number: usize,
    plan: Arc<Mutex<Plan>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
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

impl Wire {
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
        let mut plan = self.plan.lock().unwrap();
        let mut state = self.aws.state();
        plan.calls += 1;
        let fault = plan.faults.get(&plan.calls).copied();
        if plan.is_dead || fault == Some(Fault::DiesBefore) {
            plan.is_dead = true;
            plan.died.notify_one();
            return None;
        }
        let request = Request::read(request);
        if let Some(Fault::Denied | Fault::Throttled) = fault {
            state.calls.push((self.number, format!("{}, refused", request.name())));
            let code = if fault == Some(Fault::Denied) { "AccessDeniedException" } else { "ThrottlingException" };
            let is_sns = matches!(request, Request::Sns(_));
            return Some(if is_sns { Answer::sns_error(code) } else { Answer::error(400, code) });
        }
        let answer = state.answer(self.number, &request);
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
enum Request {
    DynamoDb { operation: String, body: Value },
    Sqs { operation: String, body: Value },
    Sns(BTreeMap<String, String>),
}

impl Request {
    fn read(request: &HttpRequest) -> Self {
        let bytes = request.body().bytes().unwrap();
        let Some(target) = request.headers().get("x-amz-target") else {
            return Self::Sns(form_urlencoded::parse(bytes).into_owned().collect());
        };
        let body = serde_json::from_slice(bytes).unwrap();
        match target.split_once('.').unwrap() {
            ("DynamoDB_20120810", operation) => Self::DynamoDb { operation: operation.to_owned(), body },
            ("AmazonSQS", operation) => Self::Sqs { operation: operation.to_owned(), body },
            (other, _) => panic!("{other} is not known here"),
        }
    }

    /// The operation, with what it is done to.
    fn name(&self) -> String {
        match self {
            Self::DynamoDb { operation, body } => format!("{operation} {}", dynamodb::named(body)),
            Self::Sqs { operation, .. } => operation.clone(),
            Self::Sns(form) => form["Action"].clone(),
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
    fn good(body: &Value) -> Self {
        Self { status: 200, error: None, body: body.to_string() }
    }

    fn error(status: u16, code: &'static str) -> Self {
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

impl State {
    fn answer(&mut self, process: usize, request: &Request) -> Answer {
        self.calls.push((process, request.name()));
        match request {
            Request::DynamoDb { operation, body } if body["TableName"] == "history" => self.history(operation, body),
            Request::DynamoDb { operation, body } => self.dynamodb(operation, body),
            Request::Sqs { operation, body } => {
                assert_eq!(operation, "SendMessage");
                let message = serde_json::from_str(body["MessageBody"].as_str().unwrap()).unwrap();
                self.sent.push((message, body["DelaySeconds"].as_u64().unwrap()));
                Answer::good(&json!({"MessageId": "m"}))
            }
            Request::Sns(form) => {
                self.published.push(form.clone());
                let body = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult>\
                            <MessageId>m</MessageId></PublishResult></PublishResponse>";
                Answer { status: 200, error: None, body: body.to_owned() }
            }
        }
    }

    /// A table that is only ever added to.
    fn history(&mut self, operation: &str, body: &Value) -> Answer {
        assert_eq!(operation, "PutItem");
        let item = body["Item"].as_object().unwrap();
        let key = ["shadow", "at"].map(|name| item[name]["S"].as_str().unwrap().to_owned());
        self.tables.insert(("history".to_owned(), key.to_vec()), item.clone());
        Answer::good(&json!({}))
    }

    /// The names of the calls that this process made, in order.
    pub fn calls_of(&self, process: usize) -> Vec<&str> {
        self.calls.iter().filter(|(number, _)| *number == process).map(|(_, call)| call.as_str()).collect()
    }

    /// A part of an item of the devices table, without what is different from one run to the next; null where there is
    /// none.
    pub fn record(&self, id: &str, part: &str) -> Value {
        let Some(item) = self.tables.get(&("devices".to_owned(), vec![id.to_owned(), part.to_owned()])) else {
            return Value::Null;
        };
        let own = |name: &str| !["id", "part", "version", "writer"].contains(&name);
        item.iter().filter(|(name, _)| own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
