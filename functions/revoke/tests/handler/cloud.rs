//! An account with one CA, in which `revoke` receives a command, and then every message that it sends itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_iotdataplane::Client;
use aws_sdk_iotdataplane::config::{self, timeout::TimeoutConfig};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::{Concurrent, Devices, Idempotency, InitError, Queue, Timestamp, Topic};
use iot_registry::Registry;
use revoke::{RevokeHandler, Sessions};
use serde_json::{Value, json};
use test_support::{
    Call, Delivered, FakeAws, Fault, Item, NOW, Process, SentMessage, State, Table, label_by_kind_and_sort_key,
    sqs_record,
};
use tokio::time::{Instant, sleep};

/// How long the queue waits before it redelivers a message that was not deleted.
pub const VISIBILITY_TIMEOUT: Duration = Duration::from_mins(30);

const QUEUE_URL: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/revoke";

static DEVICES: Table =
    Table::new("devices", &["id", "part"], &["GetItem", "PutItem", "UpdateItem", "Query", "BatchGetItem"])
        .label(label_by_kind_and_sort_key);

#[derive(Clone)]
pub struct Cloud {
    pub aws: FakeAws,
    pub timeout: Duration,
    started: Instant,
    /// What was blocked, deactivated and revoked, in order.
    changes: Arc<Mutex<Vec<String>>>,
}

/// The result of all deliveries.
#[derive(Debug, Default)]
pub struct Played {
    pub deliveries: usize,
    /// The messages that the function sent itself.
    pub messages: Vec<String>,
    pub dead_letters: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
}

pub fn id(number: usize) -> String {
    format!("{number:064x}")
}

pub fn ca() -> String {
    "c".repeat(64)
}

pub fn handler(process: &Process) -> Result<RevokeHandler, InitError> {
    let environment = process.environment();
    RevokeHandler::from_environment(
        &environment,
        Registry::new(process.iot()),
        Sessions::new(sessions_client(process)),
        Queue::from_environment(&environment, process.sqs())?,
        Devices::from_environment(&environment, process.dynamodb())?,
        Idempotency::from_environment(&environment, process.dynamodb(), "revoke")?,
        Topic::from_environment(&environment, process.sns())?,
    )
}

/// A client with the timeouts of a deployed function.
fn sessions_client(process: &Process) -> Client {
    let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(3)).build();
    Client::from_conf(config::Builder::from(&process.sdk_config()).timeout_config(timeouts).build())
}

impl Cloud {
    /// A CA with this many active certificates, all of which were admitted.
    pub fn with(certificates: usize) -> Self {
        let aws = FakeAws::new("revoke")
            .env("TOPIC_ARN", "arn:aws:sns:eu-west-1:123456789012:admissions")
            .env("QUEUE_URL", QUEUE_URL)
            .env("DEVICES_TABLE", "devices")
            .queue(QUEUE_URL)
            .table(DEVICES);
        let changes: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&changes);
        aws.observe(move |state, call| {
            seen.lock().unwrap().extend(change_of(state, call));
            Ok(())
        });
        aws.state().iot.register_ca(&ca(), "");
        let cloud = Self { aws, timeout: Duration::from_mins(5), started: Instant::now(), changes };
        for number in 0..certificates {
            cloud.register(&id(number), "ACTIVE", "");
            cloud.record(&id(number), "admitted");
        }
        cloud
    }

    pub fn register(&self, id: &str, status: &str, pem: &str) {
        self.aws.state().iot.register(id, status, pem, Some(&ca()));
    }

    /// A record as an older version of `jitr` left it, without a version.
    pub fn record(&self, id: &str, admission: &str) {
        let attributes = json!({"state": {"S": admission}, "owner": {"S": "jitr"}, "runsOutOn": {"S": "2026-11-20"}});
        self.set(&format!("certificate#{id}"), "admission", &attributes);
    }

    /// Records the thing that a certificate was admitted for, and whether it is connected.
    pub fn admit(&self, number: usize, thing: &str, is_connected: bool) {
        self.set(&format!("certificate#{}", id(number)), "admission", &json!({"thing": {"S": thing}}));
        if is_connected {
            self.aws.state().connections.insert(thing.to_owned(), true);
        }
    }

    pub fn set(&self, pk: &str, sk: &str, attributes: &Value) {
        self.aws.state().set_attributes("devices", &[pk, sk], attributes);
    }

    pub fn item(&self, pk: &str, sk: &str) -> Option<Item> {
        self.aws.state().item("devices", &[pk, sk]).cloned()
    }

    pub fn record_of(&self, number: usize) -> Item {
        self.item(&format!("certificate#{}", id(number)), "admission").unwrap()
    }

    pub fn status(&self, id: &str) -> String {
        self.aws.state().iot.status(id).to_owned()
    }

    pub fn set_status(&self, id: &str, status: &str) {
        self.aws.state().iot.set_status(id, status);
    }

    pub fn are_all_revoked(&self) -> bool {
        self.aws.state().iot.certificates.values().all(|certificate| certificate.status == "REVOKED")
    }

    pub fn changes(&self) -> Vec<String> {
        self.changes.lock().unwrap().clone()
    }

    pub fn calls_to(&self, operation: &str) -> usize {
        self.aws.state().calls_to(operation).len()
    }

    /// Makes the next revocations of these certificates fail, this many times each.
    pub fn fail_revocations<const N: usize>(&self, failures: [(String, usize); N]) {
        let mut left = HashMap::from(failures);
        self.aws.fail_when("UpdateCertificate", move |call| {
            let left = left.get_mut(&call.path[1]).filter(|left| **left > 0)?;
            *left -= 1;
            Some(Fault::Denied)
        });
    }

    pub fn reports(&self) -> Vec<String> {
        self.aws.state().published.iter().map(|published| published.message.clone()).collect()
    }

    pub fn subjects(&self) -> Vec<String> {
        self.aws.state().published.iter().map(|published| published.subject.clone()).collect()
    }

    /// The reason code and sentence of each refused command.
    pub fn quarantined(&self) -> Vec<(String, String)> {
        let state = self.aws.state();
        state.quarantined().into_iter().map(|(_, reason, why)| (reason.to_owned(), why.to_owned())).collect()
    }

    pub fn now(&self) -> Timestamp {
        NOW.plus(self.started.elapsed())
    }

    /// Passes a delivery to a new process.
    pub async fn invoke(&self, delivery: &Value) -> Delivered {
        let process = self.aws.clone().timeout(self.timeout).process();
        let handler = Concurrent::new(handler(&process).unwrap(), NonZeroUsize::MIN);
        process.deliver_to(handler, delivery, self.now()).await
    }

    /// Delivers one message. Returns whether it is deleted, and what was counted.
    pub async fn deliver(&self, message_id: &str, body: &str) -> (bool, BTreeMap<&'static str, u64>) {
        let delivered = self.invoke(&json!({"Records": [sqs_record(message_id, body)]})).await;
        let is_deleted = delivered.retried_messages().is_some_and(|retried| retried.is_empty());
        (is_deleted, delivered.counts)
    }

    /// The messages that were sent since the last time.
    pub fn take_sent(&self) -> Vec<SentMessage> {
        self.aws.state().queues.get_mut(QUEUE_URL).unwrap().take()
    }

    /// Delivers a command, and then every message that the function sends itself, each `times` times.
    pub async fn play_each(&self, command: &Value, times: usize, mut after: impl FnMut(&Self, usize)) -> Played {
        let mut played = Played::default();
        let mut queue = VecDeque::from([("message-0".to_owned(), command.to_string(), self.now(), times, 0)]);
        while let Some((message_id, body, due, times, receives)) = queue.pop_front() {
            sleep(due.since(self.now())).await;
            let (is_deleted, counts) = self.deliver(&message_id, &body).await;
            played.deliveries += 1;
            for (name, number) in counts {
                *played.counts.entry(name).or_default() += number;
            }
            match (is_deleted, times - 1) {
                (false, _) if receives == 4 => played.dead_letters.push(body.clone()),
                (false, _) => {
                    let again = self.now().plus(VISIBILITY_TIMEOUT);
                    queue.push_back((message_id.clone(), body.clone(), again, times, receives + 1));
                }
                (true, 0) => {}
                (true, left) => queue.push_back((message_id.clone(), body.clone(), self.now(), left, 0)),
            }
            for SentMessage { body, delay } in self.take_sent() {
                played.messages.push(body.clone());
                queue.push_back((format!("message-{}", played.messages.len()), body, self.now().plus(delay), times, 0));
            }
            queue.make_contiguous().sort_by_key(|(_, _, due, ..)| *due);
            after(self, played.deliveries);
            assert!(played.deliveries < 500, "it never ends");
        }
        played
    }

    pub async fn play(&self, command: &Value) -> Played {
        self.play_each(command, 1, |_, _| {}).await
    }

    /// Publishes a CRL as `gatehouse ca publish-crl` does.
    pub fn publish(&self, crl: &[u8], number: u64) {
        let (pk, number) = (format!("ca#{}", ca()), format!("{number:040x}"));
        self.set(&pk, &format!("crl#{number}#0000"), &json!({"bytes": {"B": BASE64_STANDARD.encode(crl)}}));
        let size = crl.len().to_string();
        self.set(&pk, "status", &json!({"crlNumber": {"S": number}, "crlChunks": {"N": "1"}, "crlBytes": {"N": size}}));
    }
}

/// A change by a call that matters to devices.
fn change_of(state: &State, call: &Call) -> Option<String> {
    match call.name.as_str() {
        "UpdateItem ca/status" => Some("blocked".to_owned()),
        // A later write of the record keeps the block.
        "PutItem certificate/admission" if call.body["Item"]["state"]["S"] != "revoked" => {
            let is_block = call.body["Item"]["blocked"]["BOOL"] == true && call.body["Item"]["revokedBy"].is_null();
            is_block.then(|| "blocked".to_owned())
        }
        "UpdateCertificate REVOKED" => {
            let id = &call.path[1];
            state.iot.certificates.contains_key(id).then(|| format!("REVOKED {id}"))
        }
        _ if call.operation == "UpdateCACertificate" => {
            let ca = state.iot.cas.get(&call.path[1])?;
            Some(format!("CA {} {}", ca.status, ca.auto_registration))
        }
        _ => None,
    }
}
