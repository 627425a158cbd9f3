//! As much of AWS as `forward` uses, behind the SDK's own clients: Amazon SQS's queues, and DynamoDB's single items.
//! Requests and answers are the real ones, so that what the SDK sends a second time arrives a second time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::{fmt, fs};

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use forward::Forward;
use forward::queues::Queues;
use gatehouse::{Environment, Function, Invocation, Quarantine, Records, Timestamp};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A time of the template's: `Timeout`, which Lambda gives an invocation, or `VisibilityTimeout`, after which a message
/// comes again.
pub fn template(name: &str) -> Duration {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra/forward.yaml");
    let text = fs::read_to_string(path).unwrap();
    let seconds = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    Duration::from_secs(seconds.unwrap().parse().unwrap())
}

/// How long a FIFO queue remembers a deduplication id, in milliseconds.
const REMEMBERED: u64 = 5 * 60 * 1000;

/// An account with its tables, and the queues of others.
#[derive(Clone, Default)]
pub struct Aws(Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    /// Queues by URL.
    pub queues: BTreeMap<String, Queue>,
    /// Items by table and key.
    pub tables: BTreeMap<(String, String), Value>,
    /// The hosts that were asked, one a call of `SendMessageBatch`.
    pub hosts: Vec<String>,
    /// What goes wrong with an entry.
    pub entry_fault: Option<EntryFaults>,
    /// What goes wrong with the next calls of `SendMessageBatch`.
    pub call_faults: VecDeque<CallFault>,
    /// What goes wrong with the calls of DynamoDB that are named.
    pub dynamodb_faults: BTreeSet<&'static str>,
    /// How long `SendMessageBatch` takes.
    pub delay: Duration,
    now: u64,
}

type EntryFaults = Box<dyn FnMut(&Value) -> Option<EntryFault> + Send>;

/// A queue.
#[derive(Default)]
pub struct Queue {
    /// The entries that it took.
    pub messages: Vec<Value>,
    /// What every call is answered, if the queue is closed: a code and a message.
    pub closed: Option<(&'static str, &'static str)>,
    seen: HashMap<String, u64>,
}

/// What goes wrong with one entry of a batch.
#[derive(Clone, Copy)]
pub enum EntryFault {
    /// It is not taken, for this reason, which may count as the sender's fault.
    Failed(&'static str, bool),
    /// It is taken, and the answer says that it is not.
    TakenAndFailed,
    /// It is not taken, and the answer does not name it.
    Forgotten,
}

/// What goes wrong with a whole call.
pub enum CallFault {
    Error(u16, &'static str),
    /// It is served, and the answer is lost: the SDK sends it again.
    Lost,
    /// Nothing.
    None,
}

/// What came of a delivery.
#[derive(Debug)]
pub struct Delivered {
    pub answer: Result<Value, String>,
    pub counted: BTreeMap<&'static str, u64>,
}

impl Delivered {
    /// The ids of what is handed back.
    pub fn back(&self) -> Vec<&str> {
        let failures = self.answer.as_ref().unwrap()["batchItemFailures"].as_array().unwrap();
        failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect()
    }
}

impl Aws {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn with_queue(self, url: &str) -> Self {
        self.state().queues.insert(url.to_owned(), Queue::default());
        self
    }

    /// Hands something to a new process of the function.
    pub async fn deliver(&self, variables: &[(&str, &str)], delivery: &Value, now: Timestamp) -> Delivered {
        macro_rules! config {
            ($sdk:ident) => {
                $sdk::Config::builder()
                    .behavior_version($sdk::config::BehaviorVersion::latest())
                    .region($sdk::config::Region::new("eu-west-1"))
                    .credentials_provider($sdk::config::Credentials::new("id", "secret", None, None, "test"))
                    .http_client(self.http_client())
            };
        }
        let always = [("QUARANTINE_TABLE", "quarantine")];
        let environment: Environment = always.iter().chain(variables).copied().collect();
        let dynamodb = aws_sdk_dynamodb::Client::from_conf(config!(aws_sdk_dynamodb).build());
        let mut queues = config!(aws_sdk_sqs);
        queues.set_endpoint_url(environment.get("AWS_ENDPOINT_URL").map(str::to_owned));
        let records = Records::new(dynamodb.clone(), "devices");
        let forward = Forward::from(&environment, Queues::new(queues), records).unwrap();
        let quarantine = Quarantine::from(&environment, dynamodb, "forward").unwrap();
        let function = Function::new("forward", forward, quarantine);
        self.state().now = now.millis();
        let invocation = Invocation::new("request-1", now, now.plus(template("Timeout")));
        let answer = function.invoke(&to_raw_value(delivery).unwrap(), &invocation).await;
        Delivered { answer: answer.map_err(|error| error.to_string()), counted: invocation.counts() }
    }

    fn http_client(&self) -> SharedHttpClient {
        let wire = SharedHttpConnector::new(Wire(self.clone()));
        http_client_fn(move |_, _| wire.clone())
    }
}

impl State {
    /// The bodies of the messages in a queue.
    pub fn bodies(&self, queue: &str) -> Vec<&str> {
        self.queues[queue].messages.iter().map(|message| message["MessageBody"].as_str().unwrap()).collect()
    }

    /// The reasons of what is in quarantine, by event id.
    pub fn quarantined(&self) -> BTreeMap<&str, &str> {
        let items = self.tables.iter().filter(|((table, _), _)| table == "quarantine");
        items.map(|(_, item)| (item["eventId"]["S"].as_str().unwrap(), item["reason"]["S"].as_str().unwrap())).collect()
    }

    fn send_message_batch(&mut self, body: &Value) -> Answer {
        let (fault, url) = (self.call_faults.pop_front(), body["QueueUrl"].as_str().unwrap());
        if let Some(CallFault::Error(status, code)) = fault {
            return Answer::error(status, code, "The test says so.");
        }
        let Some(queue) = self.queues.get_mut(url) else {
            return Answer::error(
                400,
                "AWS.SimpleQueueService.NonExistentQueue",
                "The specified queue does not exist.",
            );
        };
        if let Some((code, message)) = queue.closed {
            return Answer::error(400, code, message);
        }
        let entries = body["Entries"].as_array().unwrap();
        assert!((1..=10).contains(&entries.len()), "{} entries", entries.len());
        assert!(entries.iter().map(bytes).sum::<usize>() <= 1_048_576, "too long");
        let ids: BTreeSet<_> = entries.iter().map(|entry| entry["Id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), entries.len(), "two entries have the same id");

        // As where a queue takes smaller messages than SQS: the call fails as a whole.
        if entries.iter().any(|entry| entry["MessageBody"] == "\"poison\"") {
            return Answer::error(400, "InvalidParameterValue", "Message must be shorter than 262144 bytes.");
        }
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for entry in entries {
            let fault = self.entry_fault.as_mut().and_then(|fault| fault(entry));
            if matches!(fault, None | Some(EntryFault::TakenAndFailed)) {
                queue.take(url, entry, self.now);
            }
            let id = &entry["Id"];
            match fault {
                None => successful.push(json!({"Id": id, "MessageId": "m", "MD5OfMessageBody": "d"})),
                Some(EntryFault::Failed(code, is_senders)) => {
                    failed.push(json!({"Id": id, "Code": code, "SenderFault": is_senders}));
                }
                Some(EntryFault::TakenAndFailed) => {
                    failed.push(json!({"Id": id, "Code": "InternalError", "SenderFault": false}));
                }
                Some(EntryFault::Forgotten) => {}
            }
        }
        if let Some(CallFault::Lost) = fault {
            return Answer::error(500, "InternalFailure", "The test says so.");
        }
        Answer { status: 200, error: None, body: json!({"Successful": successful, "Failed": failed}) }
    }

    fn dynamodb(&mut self, operation: &str, body: &Value) -> Answer {
        if self.dynamodb_faults.contains(operation) {
            return Answer::error(400, "ResourceNotFoundException", "The test says so.");
        }
        if operation == "BatchGetItem" {
            let wanted = body["RequestItems"]["devices"]["Keys"].as_array().unwrap();
            let found: Vec<_> = wanted.iter().filter_map(|key| self.tables.get(&place("devices", key))).collect();
            return Answer { status: 200, error: None, body: json!({"Responses": {"devices": found}}) };
        }
        let table = body["TableName"].as_str().unwrap();
        if operation == "GetItem" {
            let found = self.tables.get(&place(table, &body["Key"]));
            let body = found.map_or_else(|| json!({}), |item| json!({"Item": item}));
            return Answer { status: 200, error: None, body };
        }
        assert_eq!(operation, "PutItem");
        let place = place(table, &body["Item"]);
        let version = self.tables.get(&place).map_or(&Value::Null, |item| &item["version"]);
        let holds = match body["ConditionExpression"].as_str() {
            None => true,
            Some("attribute_not_exists(#version)") => version.is_null(),
            Some("#version = :was") => *version == body["ExpressionAttributeValues"][":was"],
            Some(other) => panic!("{other} is not known here"),
        };
        if !holds {
            return Answer::error(400, "ConditionalCheckFailedException", "The conditional request failed");
        }
        self.tables.insert(place, body["Item"].clone());
        Answer { status: 200, error: None, body: json!({}) }
    }
}

fn place(table: &str, item: &Value) -> (String, String) {
    let names = if table == "quarantine" { ["function", "eventId"] } else { ["id", "part"] };
    (table.to_owned(), names.map(|name| item[name]["S"].as_str().unwrap().to_owned()).join("/"))
}

/// How SQS counts an entry.
fn bytes(entry: &Value) -> usize {
    let text = |value: &Value| value.as_str().unwrap().len();
    let attributes = entry["MessageAttributes"].as_object().unwrap().iter();
    text(&entry["MessageBody"])
        + attributes
            .map(|(name, value)| name.len() + text(&value["DataType"]) + text(&value["StringValue"]))
            .sum::<usize>()
}

impl Queue {
    fn take(&mut self, url: &str, entry: &Value, now: u64) {
        assert!(!entry["MessageBody"].as_str().unwrap().is_empty(), "SQS takes no empty message");
        let (id, is_fifo) = (&entry["MessageDeduplicationId"], url.strip_suffix(".fifo").is_some());
        assert_eq!((id.is_string(), entry["MessageGroupId"].is_string()), (is_fifo, is_fifo), "{entry}");
        if let Some(id) = id.as_str() {
            if self.seen.get(id).is_some_and(|seen| now < seen + REMEMBERED) {
                return;
            }
            self.seen.insert(id.to_owned(), now);
        }
        self.messages.push(entry.clone());
    }
}

struct Answer {
    status: u16,
    error: Option<&'static str>,
    body: Value,
}

impl Answer {
    fn error(status: u16, code: &'static str, message: &str) -> Self {
        Self { status, error: Some(code), body: json!({"__type": format!("com.amazonaws#{code}"), "message": message}) }
    }
}

/// A process's connection to AWS.
#[derive(Clone)]
struct Wire(Aws);

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl HttpConnector for Wire {
    fn invocation(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self(aws) = self.clone();
        HttpConnectorFuture::new(async move {
            let body: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            let (service, operation) = request.headers().get("x-amz-target").unwrap().split_once('.').unwrap();
            let delay = if service == "AmazonSQS" { aws.state().delay } else { Duration::ZERO };
            tokio::time::sleep(delay).await;
            let mut state = aws.state();
            let answer = match (service, operation) {
                ("AmazonSQS", "SendMessageBatch") => {
                    let (_, rest) = request.uri().split_once("://").unwrap();
                    state.hosts.push(rest.split('/').next().unwrap().to_owned());
                    state.send_message_batch(&body)
                }
                ("DynamoDB_20120810", operation) => state.dynamodb(operation, &body),
                other => panic!("{other:?} is not known here"),
            };
            let status = StatusCode::try_from(answer.status).unwrap();
            let mut response = HttpResponse::new(status, SdkBody::from(answer.body.to_string()));
            // SQS's own codes are older than its JSON, and come in a header that wins over what the body says.
            if let Some(code) = answer.error.filter(|_| service == "AmazonSQS") {
                response.headers_mut().insert("x-amzn-query-error", format!("{code};Sender"));
            }
            Ok(response)
        })
    }
}
