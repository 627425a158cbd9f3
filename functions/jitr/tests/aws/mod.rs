//! As much of AWS as `jitr` uses, behind the SDK's own clients: AWS IoT's registry, DynamoDB's conditional writes, and an SNS
//! topic. Requests and answers are the real ones, so that what the SDK sends a second time arrives a second time.
//!
//! It says who is served next, lets any call fail before or after it is served, changes things between two calls, and looks
//! after every call whether a certificate is active that should not be.

mod dynamodb;
mod iot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use gatehouse::{Call, Devices, Environment, Function, Idempotency, InitError, OneByOne, Quarantine, Timestamp, Topic};
use jitr::Jitr;
use jitr::registry::Registry;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// How long Lambda gives an invocation, and how long the queue waits for it.
const TIME_OUT: Duration = Duration::from_mins(1);
const VISIBILITY: Duration = Duration::from_mins(6);

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
    /// Certificates by id.
    pub certificates: BTreeMap<String, Certificate>,
    /// CAs' status and PEM by id.
    pub authorities: BTreeMap<String, (String, String)>,
    /// Things' attributes by name, with the thing's type under the empty name.
    pub things: BTreeMap<String, BTreeMap<String, String>>,
    /// Things and what is attached to them, in that order of attaching.
    pub attached: Vec<(String, String)>,
    /// Policies and what they are attached to.
    pub policies: BTreeSet<(String, String)>,
    /// Items by table and key.
    pub tables: BTreeMap<(String, Vec<String>), Item>,
    /// What the topic's subscribers got.
    pub published: Vec<BTreeMap<String, String>>,
    /// What was called, by whom, in order of service.
    pub calls: Vec<(usize, String)>,
    /// The certificates that may be activated; none may where none are named.
    pub good: BTreeSet<String>,
    /// What should not have been, in words.
    pub wrong: Vec<String>,
    /// Who is served next, where that matters.
    turns: VecDeque<usize>,
    gone: BTreeSet<usize>,
    processes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub status: String,
    pub pem: String,
    pub ca: Option<String>,
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

type Change = Box<dyn Fn(&mut State) + Send>;

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

/// What is to happen at which of a process's calls, counted from 1.
#[derive(Default)]
struct Plan {
    calls: usize,
    faults: BTreeMap<usize, Fault>,
    changes: BTreeMap<usize, Change>,
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

    /// Changes something just before this call is served.
    pub fn change(self, call: usize, change: impl Fn(&mut State) + Send + 'static) -> Self {
        self.plan.lock().unwrap().changes.insert(call, Box::new(change));
        self
    }

    pub fn environment(&self) -> Environment {
        let always = [
            ("ACCOUNT_ID", "123456789012"),
            ("DEVICE_POLICY", "device"),
            ("DEVICES_TABLE", "devices"),
            ("IDEMPOTENCY_TABLE", "idempotency"),
            ("QUARANTINE_TABLE", "quarantine"),
            ("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:admissions"),
        ];
        let own = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        always.into_iter().chain(own).collect()
    }

    pub fn jitr(&self) -> Result<(Jitr, Quarantine), InitError> {
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
        let jitr = Jitr::from(
            &environment,
            Registry::from(&environment, client!(aws_sdk_iot))?,
            Devices::from(&environment, dynamodb.clone())?,
            Idempotency::from(&environment, dynamodb.clone(), "jitr")?,
            Topic::from(&environment, client!(aws_sdk_sns))?,
        )?;
        Ok((jitr, Quarantine::from(&environment, dynamodb, "jitr")?))
    }

    /// Hands something to the process, by this clock.
    pub async fn deliver(&self, delivery: &Value, now: Timestamp) -> Delivered {
        let (jitr, quarantine) = self.jitr().unwrap();
        let function = Function::new("jitr", OneByOne(jitr, NonZeroUsize::MIN), quarantine);
        let call = Call::new(format!("request-{}", self.number), now, now.plus(TIME_OUT));
        let (delivery, died) = (to_raw_value(delivery).unwrap(), Arc::clone(&self.plan.lock().unwrap().died));
        let answer = tokio::select! {
            answer = function.invoke(&delivery, &call) => Some(answer.map_err(|error| error.to_string())),
            () = died.notified() => None,
        };
        self.aws.state().gone.insert(self.number);
        self.aws.0.served.notify_waiters();
        assert_eq!(self.aws.state().wrong, [""; 0]);
        Delivered { answer, counted: call.counted() }
    }

    /// Hands an event to this process, and as long as it comes back, to others, as the queue does: the last answer. For
    /// tests whose clock is paused.
    pub async fn deliver_until_done(self, event: &Value, now: Timestamp) -> Delivered {
        let variables = self.variables.clone();
        let (mut process, mut now) = (self, now);
        for _ in 0..5 {
            let delivered = process.deliver(event, now).await;
            if !delivered.is_handed_back() {
                return delivered;
            }
            now = now.plus(VISIBILITY);
            tokio::time::sleep(VISIBILITY).await;
            process = Self { variables: variables.clone(), ..process.aws.process() };
        }
        panic!("the event came back five times");
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
        let mut plan = self.plan.lock().unwrap();
        let mut state = self.aws.state();
        plan.calls += 1;
        let number = plan.calls;
        if let Some(change) = plan.changes.get(&number) {
            change(&mut state);
        }
        let fault = plan.faults.get(&number).copied();
        if plan.is_dead || fault == Some(Fault::DiesBefore) {
            plan.is_dead = true;
            plan.died.notify_one();
            return None;
        }
        if let Some(Fault::Denied | Fault::Throttled) = fault {
            let request = Request::read(request);
            state.calls.push((self.number, format!("{}, refused", request.names().1)));
            let code = if fault == Some(Fault::Denied) { "AccessDeniedException" } else { "ThrottlingException" };
            let is_sns = matches!(request, Request::Sns(_));
            return Some(if is_sns { Answer::sns_error(code) } else { Answer::error(400, code) });
        }
        let answer = state.answer(self.number, request);
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
    Iot { method: String, path: Vec<String>, query: BTreeMap<String, String>, principal: String, body: Value },
    Sns(BTreeMap<String, String>),
}

impl Request {
    fn read(request: &HttpRequest) -> Self {
        let bytes = request.body().bytes().unwrap();
        let form = |bytes| form_urlencoded::parse(bytes).into_owned().collect::<BTreeMap<_, _>>();
        if let Some(target) = request.headers().get("x-amz-target") {
            let operation = target.strip_prefix("DynamoDB_20120810.").unwrap().to_owned();
            return Self::DynamoDb { operation, body: serde_json::from_slice(bytes).unwrap() };
        }
        let (_, uri) = request.uri().split_once("://").unwrap();
        if uri.starts_with("sns.") {
            return Self::Sns(form(bytes));
        }
        let (_, path) = uri.split_once('/').unwrap();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let decoded = |part: &str| form_urlencoded::parse(part.as_bytes()).next().map(|(part, _)| part.into_owned());
        Self::Iot {
            method: request.method().to_owned(),
            path: path.split('/').map(|part| decoded(part).unwrap_or_default()).collect(),
            query: form(query.as_bytes()),
            principal: request.headers().get("x-amzn-principal").unwrap_or_default().to_owned(),
            body: serde_json::from_slice(bytes).unwrap_or_default(),
        }
    }

    /// The operation's name, and the operation with what it is done to.
    fn names(&self) -> (String, String) {
        match self {
            Self::DynamoDb { operation, body } => {
                let on = dynamodb::named(body);
                (operation.clone(), format!("{operation} {on}"))
            }
            Self::Iot { method, path, query, .. } => {
                let operation = iot::operation(method, path);
                let status = query.get("newStatus").map(|status| format!(" {status}")).unwrap_or_default();
                (operation.to_owned(), format!("{operation}{status}"))
            }
            Self::Sns(form) => (form["Action"].clone(), form["Action"].clone()),
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
    fn answer(&mut self, process: usize, request: &HttpRequest) -> Answer {
        let request = Request::read(request);
        self.calls.push((process, request.names().1));
        let activated = |state: &Self| -> BTreeSet<String> {
            state.certificates.iter().filter(|(_, found)| found.status == "ACTIVE").map(|(id, _)| id.clone()).collect()
        };
        let before = activated(self);
        let answer = match request {
            Request::DynamoDb { operation, body } => self.dynamodb(&operation, &body),
            Request::Iot { method, path, query, principal, body } => {
                self.iot(iot::operation(&method, &path), &path, &query, &principal, &body)
            }
            Request::Sns(form) => {
                self.published.push(form);
                let body = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult>\
                            <MessageId>m</MessageId></PublishResult></PublishResponse>";
                Answer { status: 200, error: None, body: body.to_owned() }
            }
        };
        for id in activated(self).difference(&before) {
            self.look_at_activated(id);
        }
        answer
    }

    /// What must hold at the moment in which a certificate is activated.
    fn look_at_activated(&mut self, id: &str) {
        let arn = iot::certificate_arn(id);
        let holds = [
            (self.good.contains(id), "its checks do not hold"),
            (self.policies.contains(&("device".to_owned(), arn.clone())), "it has no policy"),
            (self.attached.iter().any(|(_, attached)| *attached == arn), "it is attached to no thing"),
        ];
        for (_, wrong) in holds.into_iter().filter(|(holds, _)| !holds) {
            self.wrong.push(format!("certificate {id} was activated: {wrong}"));
        }
    }

    /// The names of the calls that this process made, in order.
    pub fn calls_of(&self, process: usize) -> Vec<&str> {
        self.calls.iter().filter(|(number, _)| *number == process).map(|(_, call)| call.as_str()).collect()
    }

    pub fn status(&self, id: &str) -> &str {
        &self.certificates[id].status
    }

    pub fn set_status(&mut self, id: &str, status: &str) {
        status.clone_into(&mut self.certificates.get_mut(id).unwrap().status);
    }

    /// An attribute of an item of the devices table, as text.
    pub fn noted(&self, id: &str, part: &str, name: &str) -> Option<String> {
        let item = self.tables.get(&("devices".to_owned(), vec![id.to_owned(), part.to_owned()]))?;
        let value = item.get(name)?.as_object()?.values().next()?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// An attribute of the record of a certificate.
    pub fn record(&self, certificate: &str, name: &str) -> Option<String> {
        self.noted(&format!("certificate#{certificate}"), "admission", name)
    }

    /// Writes attributes into an item of the devices table.
    pub fn note(&mut self, id: &str, part: &str, attributes: &Value) {
        let key = ("devices".to_owned(), vec![id.to_owned(), part.to_owned()]);
        let item = self.tables.entry(key).or_insert_with(|| {
            [("id", id), ("part", part)]
                .map(|(name, value)| (name.to_owned(), json!({"S": value})))
                .into_iter()
                .collect()
        });
        item.extend(attributes.as_object().unwrap().clone());
    }

    /// All that lasts, without what is different from one run to the next.
    pub fn lasting(&self) -> Value {
        let fleeting = ["owner", "ownedUntil", "updatedAt", "claimedAt"];
        let lasting = |item: &Item| -> Item {
            item.iter()
                .filter(|(name, _)| !fleeting.contains(&name.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        let devices: Vec<_> = self.tables.iter().filter(|((table, _), _)| table == "devices").collect();
        let quarantined = self.tables.keys().filter(|(table, _)| table == "quarantine").count();
        let statuses: Vec<_> = self.certificates.values().map(|certificate| &certificate.status).collect();
        json!({
            "certificates": statuses,
            "things": self.things,
            "attached": self.attached.iter().collect::<BTreeSet<_>>(),
            "policies": self.policies,
            "devices": devices.into_iter().map(|(key, item)| json!([key.1, lasting(item)])).collect::<Vec<_>>(),
            "quarantined": quarantined,
        })
    }
}
