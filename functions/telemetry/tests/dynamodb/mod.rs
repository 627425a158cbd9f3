//! A small DynamoDB behind the SDK's own client: the readings' table and the quarantine. It takes what the real one
//! takes, looks at every signature, and can be told how to behave in its next calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::{Client, Config};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use gatehouse::{Invocation, Environment, Function, Quarantine, Timestamp};
use ring::{digest, hmac};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use telemetry::Telemetry;

pub const NOW: Timestamp = Timestamp::from_millis(1_763_715_600_000);
pub const TIME_OUT: Duration = Duration::from_secs(20);
const SECRET: &str = "secret";

/// What the table does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It writes all of it.
    Serve,
    /// It writes all but the last so many, and hands those back.
    Leave(usize),
    /// It writes all of it, and hands something back that nobody sent.
    Muddle,
    /// It asks to come again.
    Throttle,
    /// It fails, and would again.
    Fail,
    /// It never answers.
    Hang,
    /// It writes all of it, and the process ends before it gets the answer.
    Die,
}

#[derive(Default)]
pub struct State {
    /// The readings' items by thing and sort key, as they were sent.
    pub items: BTreeMap<(String, String), Value>,
    /// Why events are in quarantine, by id.
    pub quarantined: BTreeMap<String, (String, String)>,
    /// The keys in each call that was made, in order of arrival.
    pub calls: Vec<Vec<(String, String)>>,
    /// How many times each item was written.
    pub written: BTreeMap<(String, String), usize>,
    next: VecDeque<Act>,
    always: Option<Act>,
    in_flight: usize,
    /// The most calls that were open at one time.
    pub most_in_flight: usize,
    /// The bytes of the longest call.
    pub largest_call: usize,
}

#[derive(Clone, Default)]
pub struct DynamoDb(Arc<Mutex<State>>);

/// What came of a delivery.
pub struct Delivered {
    /// The answer, or the error of a bare event that is to be retried; none where the process died.
    pub answer: Option<Result<Value, String>>,
    pub counted: BTreeMap<&'static str, u64>,
}

impl Delivered {
    /// The messages that come again.
    pub fn handed_back(&self) -> Vec<String> {
        let answer = self.answer.as_ref().expect("the process lives").as_ref().expect("a batch is always answered");
        let failures = answer["batchItemFailures"].as_array().expect("it is a batch").iter();
        failures.map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned()).collect()
    }
}

impl DynamoDb {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What is to be done with the next calls to write readings; after that they are served.
    pub fn next(self, acts: impl IntoIterator<Item = Act>) -> Self {
        self.state().next.extend(acts);
        self
    }

    /// What is to be done with all calls.
    pub fn always(self, act: Act) -> Self {
        self.state().always = Some(act);
        self
    }

    pub fn function(&self, variables: &[(&'static str, &str)]) -> Function<Telemetry> {
        let always = [("TELEMETRY_TABLE", "readings"), ("QUARANTINE_TABLE", "quarantine")];
        let environment: Environment = always.iter().chain(variables).copied().collect();
        let wire = SharedHttpConnector::new(self.clone());
        let client = Client::from_conf(
            Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-west-1"))
                .credentials_provider(Credentials::new("id", SECRET, None, None, "test"))
                .http_client(http_client_fn(move |_, _| wire.clone()))
                .build(),
        );
        let quarantine = Quarantine::from(&environment, client.clone(), "telemetry").unwrap();
        Function::new("telemetry", Telemetry::from(&environment, client).unwrap(), quarantine)
    }

    pub async fn deliver(&self, delivery: &str) -> Delivered {
        self.deliver_with(&[], delivery).await
    }

    /// Hands this to the function with these environment variables.
    pub async fn deliver_with(&self, variables: &[(&'static str, &str)], delivery: &str) -> Delivered {
        let function = self.function(variables);
        let delivery: &RawValue = serde_json::from_str(delivery).unwrap();
        let invocation = Invocation::new("request-1", NOW, NOW.plus(TIME_OUT));
        let is_dead = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if self.state().always == Some(Act::Die) {
                    return;
                }
            }
        };
        let answer = tokio::select! {
            answer = function.invoke(delivery, &invocation) => Some(answer.map_err(|error| error.to_string())),
            () = is_dead => None,
        };
        let mut state = self.state();
        (state.in_flight, state.always) = (0, state.always.filter(|act| *act != Act::Die));
        Delivered { answer, counted: invocation.counts() }
    }
}

impl fmt::Debug for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDb").finish_non_exhaustive()
    }
}

impl HttpConnector for DynamoDb {
    fn invocation(&self, request: HttpRequest) -> HttpConnectorFuture {
        let table = self.clone();
        HttpConnectorFuture::new(async move {
            assert_signed(&request);
            let body: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            match request.headers().get("x-amz-target").unwrap() {
                "DynamoDB_20120810.PutItem" => Ok(table.state().quarantine(&body["Item"])),
                "DynamoDB_20120810.BatchWriteItem" => {
                    table.state().begin(request.body().bytes().unwrap().len());
                    // Others come in between.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let answer = table.state().batch_write(&body);
                    match answer {
                        Some(answer) => Ok(answer),
                        None => std::future::pending().await,
                    }
                }
                other => panic!("{other} is not known here"),
            }
        })
    }
}

impl State {
    fn quarantine(&mut self, item: &Value) -> HttpResponse {
        let text = |name: &str| item[name]["S"].as_str().unwrap().to_owned();
        self.quarantined.insert(text("eventId"), (text("reason"), text("why")));
        answer(200, &json!({}))
    }

    fn begin(&mut self, bytes: usize) {
        self.largest_call = self.largest_call.max(bytes);
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    fn batch_write(&mut self, body: &Value) -> Option<HttpResponse> {
        self.in_flight -= 1;
        let puts = body["RequestItems"]["readings"].as_array().expect("writes to the table alone");
        let key = |put: &Value| {
            let item = &put["PutRequest"]["Item"];
            (item["thing"]["S"].as_str().unwrap().to_owned(), item["at"]["S"].as_str().unwrap().to_owned())
        };
        self.calls.push(puts.iter().map(key).collect());
        let act = self.always.or_else(|| self.next.pop_front()).unwrap_or(Act::Serve);
        let written = match act {
            Act::Hang => return None,
            Act::Throttle => return Some(error("ThrottlingException")),
            Act::Fail => return Some(error("AccessDeniedException")),
            Act::Serve | Act::Muddle | Act::Die => puts.len(),
            Act::Leave(left) => puts.len().saturating_sub(left),
        };
        let distinct: BTreeSet<_> = puts.iter().map(key).collect();
        if puts.len() > 25 || puts.is_empty() || distinct.len() < puts.len() {
            return Some(error("ValidationException"));
        }
        // What the function cannot foresee.
        if puts.iter().any(|put| !put["PutRequest"]["Item"]["reading"]["M"]["poison"].is_null()) {
            return Some(error("ValidationException"));
        }
        let (now, left) = puts.split_at(written);
        for put in now {
            *self.written.entry(key(put)).or_default() += 1;
            self.items.insert(key(put), put["PutRequest"]["Item"].clone());
        }
        if act == Act::Die {
            // No call of this process gets an answer any more.
            self.always = Some(Act::Die);
            return None;
        }
        if act == Act::Muddle {
            let item = json!({"thing": {"S": "another"}, "at": {"S": "never"}});
            let unprocessed = json!({"readings": [{"PutRequest": {"Item": item}}]});
            return Some(answer(200, &json!({"UnprocessedItems": unprocessed})));
        }
        let left = if left.is_empty() { json!({}) } else { json!({"readings": left}) };
        Some(answer(200, &json!({"UnprocessedItems": left})))
    }
}

fn error(code: &str) -> HttpResponse {
    answer(400, &json!({"__type": format!("com.amazon.coral.service#{code}"), "message": "So the test says."}))
}

fn answer(status: u16, body: &Value) -> HttpResponse {
    HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body.to_string()))
}

/// What AWS checks of a request: its length and its signature.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
fn assert_signed(request: &HttpRequest) {
    let body = request.body().bytes().unwrap();
    let header = |name: &str| request.headers().get(name).unwrap_or_else(|| panic!("there is no {name}"));
    assert_eq!(header("content-length"), body.len().to_string());

    let authorization = header("authorization").strip_prefix("AWS4-HMAC-SHA256 ").unwrap();
    let parts: BTreeMap<_, _> = authorization.split(", ").map(|part| part.split_once('=').unwrap()).collect();
    let (_, after_scheme) = request.uri().split_once("://").unwrap();
    let host = after_scheme.split('/').next().unwrap();
    let names = parts["SignedHeaders"];
    assert!(names.contains("content-length"), "{names}");
    let line = |name| format!("{name}:{}\n", if name == "host" { host } else { header(name).trim() });
    let lines: String = names.split(';').map(line).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(digest::digest(&digest::SHA256, body)));

    let (_, scope) = parts["Credential"].split_once('/').unwrap();
    let digest = hex(digest::digest(&digest::SHA256, canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", header("x-amz-date"));
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let secret = format!("AWS4{SECRET}");
    let key = scope.split('/').fold(secret.into_bytes(), |key, part| mac(&key, part).as_ref().to_vec());
    assert_eq!(parts["Signature"], hex(mac(&key, &to_sign)));
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
