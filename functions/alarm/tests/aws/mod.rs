//! As much of AWS as `alarm` uses, behind the SDK's own clients: DynamoDB's conditional writes and an index, and an SNS
//! topic. Requests and answers are the real ones, so that what the SDK sends a second time arrives a second time.
//!
//! It says who is served next, and lets any call fail before or after it is served.

mod dynamodb;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use alarm::Alarm;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use gatehouse::{Call, Environment, Function, Idempotency, InitError, Quarantine, Timestamp, Topic};
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// How long Lambda gives an invocation, and how long the queue waits for it.
pub const TIME_OUT: Duration = Duration::from_mins(1);
pub const VISIBILITY: Duration = Duration::from_mins(6);

pub type Item = Map<String, Value>;

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
    pub published: Vec<Published>,
    /// What was called, by whom, in order of service.
    pub calls: Vec<(usize, String)>,
    /// Who is served next, where that matters.
    turns: VecDeque<usize>,
    gone: BTreeSet<usize>,
    processes: usize,
}

/// A message, as its subscribers get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    pub subject: String,
    /// What a phone shows.
    pub words: String,
    /// What a queue gets.
    pub data: Value,
    pub attributes: BTreeMap<String, String>,
}

impl Published {
    pub fn is_for_people(&self) -> bool {
        self.attributes["audience"] == "people"
    }

    fn read(form: &BTreeMap<String, String>) -> Self {
        assert_eq!(form["MessageStructure"], "json");
        let message: Value = serde_json::from_str(&form["Message"]).unwrap();
        let entry = |n: usize, part: &str| form.get(&format!("MessageAttributes.entry.{n}.{part}")).cloned();
        Self {
            subject: form["Subject"].clone(),
            words: message["sms"].as_str().unwrap().to_owned(),
            data: serde_json::from_str(message["sqs"].as_str().unwrap()).unwrap(),
            attributes: (1..).map_while(|n| Some((entry(n, "Name")?, entry(n, "Value.StringValue")?))).collect(),
        }
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
    aws: Aws,
    pub number: usize,
    variables: Vec<(&'static str, String)>,
    plan: Arc<Mutex<Plan>>,
}

/// What is to happen at which of a process's calls.
#[derive(Default)]
struct Plan {
    calls: usize,
    /// By number, counted from 1.
    faults: BTreeMap<usize, Fault>,
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
    pub fn count(&self, metric: &str) -> u64 {
        self.counted.get(metric).copied().unwrap_or_default()
    }

    /// The messages of a batch that come again; none where the process died: all do.
    pub fn handed_back(&self) -> Option<Vec<&str>> {
        let failures = self.answer.as_ref()?.as_ref().ok()?["batchItemFailures"].as_array()?;
        Some(failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect())
    }

    pub fn is_done(&self) -> bool {
        self.answer == Some(Ok(json!({"outcome": "done"})))
    }

    /// The code and the sentence of the reason for which the event is in quarantine.
    pub fn refused(&self) -> Option<(&str, &str)> {
        let answer = self.answer.as_ref()?.as_ref().ok()?;
        Some((answer["reason"].as_str()?, answer["why"].as_str()?))
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

    /// Fails every call of this name.
    pub fn fail_each(self, name: &'static str, fault: Fault) -> Self {
        self.plan.lock().unwrap().always.insert(name, fault);
        self
    }

    pub fn environment(&self) -> Environment {
        let always = [
            ("ALARMS_TABLE", "alarms"),
            ("IDEMPOTENCY_TABLE", "idempotency"),
            ("QUARANTINE_TABLE", "quarantine"),
            ("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:alarms"),
        ];
        let own = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        always.into_iter().chain(own).collect()
    }

    pub fn alarm(&self) -> Result<(Alarm, Quarantine), InitError> {
        macro_rules! client {
            ($sdk:ident) => {
                $sdk::Client::from_conf(
                    $sdk::Config::builder()
                        .behavior_version($sdk::config::BehaviorVersion::latest())
                        .region($sdk::config::Region::new("eu-west-1"))
                        .credentials_provider($sdk::config::Credentials::new("id", "secret", None, None, "test"))
                        .http_client(self.http_client())
                        .build(),
                )
            };
        }
        let (environment, dynamodb) = (self.environment(), client!(aws_sdk_dynamodb));
        let alarm = Alarm::from(
            &environment,
            dynamodb.clone(),
            Idempotency::from(&environment, dynamodb.clone(), "alarm")?,
            Topic::from(&environment, client!(aws_sdk_sns))?,
        )?;
        Ok((alarm, Quarantine::from(&environment, dynamodb, "alarm")?))
    }

    /// Hands something to the process, by this clock.
    pub async fn deliver(&self, delivery: &Value, now: Timestamp) -> Delivered {
        let (alarm, quarantine) = self.alarm().unwrap();
        let function = Function::new("alarm", alarm, quarantine);
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

    /// How many calls it has made.
    pub fn calls(&self) -> usize {
        self.plan.lock().unwrap().calls
    }

    fn http_client(&self) -> SharedHttpClient {
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
        let request = Request::read(request);
        let mut plan = self.plan.lock().unwrap();
        let mut state = self.aws.state();
        plan.calls += 1;
        let name = request.name();
        let fault = plan.faults.get(&plan.calls).or(plan.always.get(name.as_str())).copied();
        if plan.is_dead || fault == Some(Fault::DiesBefore) {
            plan.is_dead = true;
            plan.died.notify_one();
            return None;
        }
        if let Some(Fault::Denied | Fault::Throttled) = fault {
            state.calls.push((self.number, format!("{name}, refused")));
            let code = if fault == Some(Fault::Denied) { "AccessDeniedException" } else { "ThrottlingException" };
            let is_sns = matches!(request, Request::Sns(_));
            return Some(if is_sns { Answer::sns_error(code) } else { Answer::error(400, code) });
        }
        state.calls.push((self.number, name));
        let answer = match request {
            Request::DynamoDb { operation, body } => state.dynamodb(&operation, &body),
            Request::Sns(form) => {
                state.published.push(Published::read(&form));
                let body = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult>\
                            <MessageId>m</MessageId></PublishResult></PublishResponse>";
                Answer { status: 200, error: None, body: body.to_owned() }
            }
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
enum Request {
    DynamoDb { operation: String, body: Value },
    Sns(BTreeMap<String, String>),
}

impl Request {
    fn read(request: &HttpRequest) -> Self {
        let bytes = request.body().bytes().unwrap();
        if let Some(target) = request.headers().get("x-amz-target") {
            let operation = target.strip_prefix("DynamoDB_20120810.").unwrap().to_owned();
            return Self::DynamoDb { operation, body: serde_json::from_slice(bytes).unwrap() };
        }
        Self::Sns(form_urlencoded::parse(bytes).into_owned().collect())
    }

    /// The operation with what it is done to.
    fn name(&self) -> String {
        match self {
            Self::DynamoDb { operation, body } => format!("{operation} {}", dynamodb::named(body)),
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
    /// How often each call was made.
    pub fn made(&self) -> BTreeMap<&str, usize> {
        let mut made = BTreeMap::new();
        for (_, call) in &self.calls {
            *made.entry(call.as_str()).or_default() += 1;
        }
        made
    }

    /// The record of a thing by a threshold.
    pub fn record(&self, thing: &str, threshold: &str) -> Option<&Item> {
        let key = vec![format!("thing#{thing}"), format!("threshold#{threshold}")];
        self.tables.get(&("alarms".to_owned(), key))
    }

    /// An attribute of that record, as text.
    pub fn noted(&self, thing: &str, threshold: &str, name: &str) -> Option<&str> {
        self.record(thing, threshold)?.get(name)?.as_object()?.values().next()?.as_str()
    }

    /// The ids and reasons of what is in quarantine.
    pub fn quarantined(&self) -> Vec<(&str, &str)> {
        let items = self.tables.iter().filter(|((table, _), _)| table == "quarantine");
        items.map(|(_, item)| (item["eventId"]["S"].as_str().unwrap(), item["reason"]["S"].as_str().unwrap())).collect()
    }

    /// What the index holds: the records that somebody must look at, and when.
    pub fn due(&self) -> Vec<(&str, u64)> {
        let items = self.tables.values().filter(|item| item.contains_key("due"));
        items
            .map(|item| (item["id"]["S"].as_str().unwrap(), item["dueAt"]["N"].as_str().unwrap().parse().unwrap()))
            .collect()
    }

    /// The states that were told of a thing by a threshold, in order, each change once.
    pub fn told(&self, thing: &str, threshold: &str) -> Vec<(u64, String)> {
        let mut ids = BTreeSet::new();
        self.published
            .iter()
            .filter(|told| told.data["thing"] == thing && told.data["threshold"] == threshold)
            .filter(|told| ids.insert(told.attributes["eventId"].clone()))
            .map(|told| (told.data["at"].as_u64().unwrap(), told.data["to"].as_str().unwrap().to_owned()))
            .collect()
    }

    /// Whether any record still owes a notice.
    pub fn owes(&self) -> bool {
        self.tables.values().any(|item| item.contains_key("owed"))
    }
}
