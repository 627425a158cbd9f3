//! AWS IoT, the devices table, the queue and the topic, in memory: what `revoke` asks of them they do, every call can be
//! made to fail or to take the process with it, and the queue's messages can be delivered until there are none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_dynamodb::operation::batch_get_item::{BatchGetItemError, BatchGetItemInput, BatchGetItemOutput};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemError, DeleteItemInput, DeleteItemOutput};
use aws_sdk_dynamodb::operation::get_item::{GetItemError, GetItemInput, GetItemOutput};
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::query::{QueryError, QueryInput, QueryOutput};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemInput, UpdateItemOutput};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use aws_sdk_iot::Client as Iot;
use aws_sdk_iot::operation::describe_ca_certificate::{DescribeCACertificateError, DescribeCaCertificateOutput};
use aws_sdk_iot::operation::describe_certificate::{DescribeCertificateError, DescribeCertificateOutput};
use aws_sdk_iot::operation::list_certificates_by_ca::{
    ListCertificatesByCAError, ListCertificatesByCaInput, ListCertificatesByCaOutput,
};
use aws_sdk_iot::operation::update_ca_certificate::{UpdateCACertificateError, UpdateCaCertificateOutput};
use aws_sdk_iot::operation::update_certificate::{UpdateCertificateError, UpdateCertificateOutput};
use aws_sdk_iot::types::error::ResourceNotFoundException;
use aws_sdk_iot::types::{
    CaCertificateDescription, CaCertificateStatus, Certificate, CertificateDescription, CertificateStatus,
};
use aws_sdk_sns::Client as Sns;
use aws_sdk_sns::operation::publish::{PublishError, PublishInput, PublishOutput};
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::operation::send_message::{SendMessageError, SendMessageInput, SendMessageOutput};
use aws_smithy_mocks::{MockResponse, Rule, RuleMode, mock, mock_client};
use gatehouse::{
    Invocation, Devices, Environment, Function, Idempotency, InitError, Concurrent, Quarantine, Queue, Timestamp, Topic,
};
use revoke::Revoke;
use revoke::registry::Registry;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub const NOW: Timestamp = Timestamp::from_millis(1_763_715_700_000);

/// How long the queue waits before it delivers a message again that was handed back.
pub const VISIBILITY: Duration = Duration::from_mins(30);

pub type Item = HashMap<String, AttributeValue>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The service does nothing, and says that something is wrong.
    Error,
    /// It does what it was asked, and the answer is lost.
    LostAnswer,
    /// The process dies before the service has heard of the call.
    CrashBefore,
    /// The process dies once the service has done it.
    CrashAfter,
}

pub const FAULTS: [Fault; 4] = [Fault::Error, Fault::LostAnswer, Fault::CrashBefore, Fault::CrashAfter];

#[derive(Debug, Clone)]
pub struct Device {
    pub id: String,
    pub status: CertificateStatus,
    pub pem: String,
}

#[derive(Default)]
pub struct State {
    /// In the order of their registration.
    pub devices: Vec<Device>,
    pub ca: Option<(CaCertificateStatus, String)>,
    /// What was changed in the world, in order.
    pub changes: Vec<String>,
    /// When each certificate was revoked, and in which delivery.
    pub revocations: Vec<(usize, Instant)>,
    pub tables: BTreeMap<String, BTreeMap<(String, String), Item>>,
    pub published: Vec<PublishInput>,
    /// How many times each of these certificates is yet to be refused a revocation.
    pub throttled: HashMap<String, usize>,
    pub is_listing_broken: bool,
    /// Fewer certificates on a page than were asked for.
    pub page: Option<usize>,
    /// Fewer items in an answer than were asked for.
    pub batch: Option<usize>,
    /// What goes wrong with which call, counted from 0.
    pub fault: Option<(usize, Fault)>,
    pub calls: usize,
    /// How often each call was made.
    pub made: BTreeMap<&'static str, usize>,
    deliveries: usize,
    sent: Vec<(String, Duration)>,
}

#[derive(Clone)]
pub struct Cloud {
    pub state: Arc<Mutex<State>>,
    began: Instant,
    pub deadline: Duration,
}

/// What came of it all.
#[derive(Debug, Default)]
pub struct Played {
    pub deliveries: usize,
    /// The messages that the function sent itself.
    pub messages: Vec<String>,
    pub dead_letters: Vec<String>,
    pub counted: BTreeMap<&'static str, u64>,
}

pub fn id(number: usize) -> String {
    format!("{number:064x}")
}

pub fn ca() -> String {
    "c".repeat(64)
}

fn environment(more: &[(&str, &str)]) -> Environment {
    let always = [
        ("TOPIC_ARN", "arn:admissions"),
        ("QUEUE_URL", "https://queue"),
        ("QUARANTINE_TABLE", "quarantine"),
        ("IDEMPOTENCY_TABLE", "idempotency"),
        ("DEVICES_TABLE", "devices"),
    ];
    always.iter().chain(more).copied().collect()
}

impl Cloud {
    /// A CA with so many active certificates, all of which were admitted.
    pub fn with(certificates: usize) -> Self {
        let cloud = Self { state: Arc::default(), began: Instant::now(), deadline: Duration::from_mins(5) };
        cloud.change(|state| state.ca = Some((CaCertificateStatus::Active, String::new())));
        for number in 0..certificates {
            cloud.register(&id(number), CertificateStatus::Active, "");
            cloud.record(&id(number), "admitted");
        }
        cloud
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub fn register(&self, id: &str, status: CertificateStatus, pem: &str) {
        self.change(|state| state.devices.push(Device { id: id.to_owned(), status, pem: pem.to_owned() }));
    }

    /// A record as `jitr` leaves it.
    pub fn record(&self, id: &str, admission: &str) {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = [("state", text(admission)), ("owner", text("jitr")), ("runsOutOn", text("2026-11-20"))];
        self.put("devices", &format!("certificate#{id}"), "admission", item);
    }

    pub fn put<const N: usize>(&self, table: &str, id: &str, part: &str, item: [(&str, AttributeValue); N]) {
        let key = [("id", AttributeValue::S(id.to_owned())), ("part", AttributeValue::S(part.to_owned()))];
        let item = key.into_iter().chain(item).map(|(name, value)| (name.to_owned(), value)).collect();
        self.change(|state| state.table(table).insert((id.to_owned(), part.to_owned()), item));
    }

    pub fn item(&self, id: &str, part: &str) -> Option<Item> {
        self.change(|state| state.table("devices").get(&(id.to_owned(), part.to_owned())).cloned())
    }

    pub fn status(&self, id: &str) -> CertificateStatus {
        self.change(|state| state.devices.iter().find(|device| device.id == id).unwrap().status.clone())
    }

    pub fn reports(&self) -> Vec<String> {
        self.change(|state| state.published.iter().map(|sent| sent.message().unwrap().to_owned()).collect())
    }

    pub fn subjects(&self) -> Vec<String> {
        self.change(|state| state.published.iter().map(|sent| sent.subject().unwrap().to_owned()).collect())
    }

    /// What was refused, by its reason.
    pub fn quarantined(&self) -> Vec<(String, String)> {
        let text = |item: &Item, name: &str| item[name].as_s().unwrap().clone();
        self.change(|state| {
            let refused = state.table("quarantine").values();
            refused.map(|item| (text(item, "reason"), text(item, "why"))).collect()
        })
    }

    pub fn now(&self) -> Timestamp {
        NOW.plus(self.began.elapsed())
    }

    /// One process, that answers one delivery.
    pub async fn invoke(&self, delivery: &Value) -> (Result<Value, String>, Invocation) {
        self.change(|state| state.deliveries += 1);
        let dynamodb = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, &self.dynamodb());
        let handler = Concurrent::new(self.revoke(dynamodb.clone(), &[]).unwrap(), NonZeroUsize::MIN);
        let quarantine = Quarantine::from(&environment(&[]), dynamodb, "revoke").unwrap();
        let function = Function::new("revoke", handler, quarantine);
        let invocation = Invocation::new("request-1", self.now(), self.now().plus(self.deadline));
        let delivery: Box<RawValue> = serde_json::value::to_raw_value(delivery).unwrap();
        (function.invoke(&delivery, &invocation).await.map_err(|error| error.to_string()), invocation)
    }

    pub fn revoke(&self, dynamodb: DynamoDb, more: &[(&str, &str)]) -> Result<Revoke, InitError> {
        let environment = environment(more);
        let iot = mock_client!(aws_sdk_iot, RuleMode::MatchAny, &self.iot());
        let sns = mock_client!(aws_sdk_sns, RuleMode::MatchAny, &[self.sns()]);
        let sqs = mock_client!(aws_sdk_sqs, RuleMode::MatchAny, &[self.sqs()]);
        Revoke::from(
            &environment,
            Registry::new(iot),
            Queue::from(&environment, sqs)?,
            Devices::from(&environment, dynamodb.clone())?,
            Idempotency::from(&environment, dynamodb, "revoke")?,
            Topic::from(&environment, sns)?,
        )
    }

    /// Delivers one message. Whether it is done with; and what was counted.
    pub async fn deliver(&self, message_id: &str, body: &str) -> (bool, Invocation) {
        let record = json!({"messageId": message_id, "eventSource": "aws:sqs", "body": body});
        let (answer, invocation) = self.invoke(&json!({"Records": [record]})).await;
        let is_crash = self.change(|state| {
            let fault = state.fault.filter(|(at, _)| *at < state.calls);
            state.fault = state.fault.filter(|_| fault.is_none());
            matches!(fault, Some((_, Fault::CrashBefore | Fault::CrashAfter)))
        });
        // A process that died has answered nothing, whatever is in the answer.
        (!is_crash && answer.unwrap()["batchItemFailures"] == json!([]), invocation)
    }

    /// The messages that were sent since the last time.
    pub fn take_sent(&self) -> Vec<(String, Duration)> {
        self.change(|state| std::mem::take(&mut state.sent))
    }

    /// Delivers an order, and then every message that the function sends itself, each so many times.
    pub async fn play_each(&self, order: &Value, times: usize, mut after: impl FnMut(&Self, usize)) -> Played {
        let mut played = Played::default();
        let mut queue = VecDeque::from([("message-0".to_owned(), order.to_string(), self.now(), times, 0)]);
        while let Some((message_id, body, due, times, receives)) = queue.pop_front() {
            sleep(due.since(self.now())).await;
            let (is_done, invocation) = self.deliver(&message_id, &body).await;
            played.deliveries += 1;
            for (name, number) in invocation.counts() {
                *played.counted.entry(name).or_default() += number;
            }
            match (is_done, times - 1) {
                (false, _) if receives == 4 => played.dead_letters.push(body.clone()),
                (false, _) => {
                    let again = self.now().plus(VISIBILITY);
                    queue.push_back((message_id.clone(), body.clone(), again, times, receives + 1));
                }
                (true, 0) => {}
                (true, left) => queue.push_back((message_id.clone(), body.clone(), self.now(), left, 0)),
            }
            for (body, delay) in self.take_sent() {
                played.messages.push(body.clone());
                queue.push_back((format!("message-{}", played.messages.len()), body, self.now().plus(delay), times, 0));
            }
            queue.make_contiguous().sort_by_key(|(_, _, due, ..)| *due);
            after(self, played.deliveries);
            assert!(played.deliveries < 500, "it goes on and on");
        }
        played
    }

    pub async fn play(&self, order: &Value) -> Played {
        self.play_each(order, 1, |_, _| {}).await
    }

    /// Serves one call, or lets it go wrong.
    fn serve<O, E>(
        &self,
        what: &'static str,
        broken: impl FnOnce() -> E,
        serve: impl FnOnce(&mut State) -> Result<O, E>,
    ) -> MockResponse<O, E> {
        let (fault, served) = self.change(|state| {
            let fault = state.fault.and_then(|(at, fault)| (at == state.calls).then_some(fault));
            state.calls += 1;
            *state.made.entry(what).or_default() += 1;
            let is_heard = !matches!(fault, Some(Fault::Error | Fault::CrashBefore));
            (fault, is_heard.then(|| serve(state)))
        });
        match (fault, served) {
            (Some(Fault::CrashBefore | Fault::CrashAfter), _) => panic!("the process dies at {what}"),
            (None, Some(Ok(output))) => MockResponse::Output(output),
            (None, Some(Err(error))) => MockResponse::Error(error),
            _ => MockResponse::Error(broken()),
        }
    }

    fn iot(&self) -> [Rule; 5] {
        let not_found = || ResourceNotFoundException::builder().build();
        let list = mock!(Iot::list_certificates_by_ca).then_compute_response({
            let cloud = self.clone();
            move |input| {
                let broken = || ListCertificatesByCAError::generic(injected());
                cloud.serve("ListCertificatesByCA", broken, |state| state.list(input).ok_or_else(broken))
            }
        });
        let describe = mock!(Iot::describe_certificate).then_compute_response({
            let cloud = self.clone();
            move |input| {
                let broken = || DescribeCertificateError::generic(injected());
                cloud.serve("DescribeCertificate", broken, |state| {
                    let found = state.devices.iter().find(|device| Some(&*device.id) == input.certificate_id());
                    let found = found.ok_or(DescribeCertificateError::ResourceNotFoundException(not_found()))?;
                    let description = CertificateDescription::builder().certificate_id(&found.id);
                    let description = description.status(found.status.clone()).certificate_pem(&found.pem).build();
                    Ok(DescribeCertificateOutput::builder().certificate_description(description).build())
                })
            }
        });
        let update = mock!(Iot::update_certificate).then_compute_response({
            let cloud = self.clone();
            move |input| {
                let broken = || UpdateCertificateError::generic(injected());
                cloud.serve("UpdateCertificate", broken, |state| {
                    let id = input.certificate_id().unwrap();
                    state.revocations.push((state.deliveries, Instant::now()));
                    if let Some(times) = state.throttled.get_mut(id).filter(|times| **times > 0) {
                        *times -= 1;
                        return Err(broken());
                    }
                    let found = state.devices.iter_mut().find(|device| device.id == id);
                    let found = found.ok_or(UpdateCertificateError::ResourceNotFoundException(not_found()))?;
                    found.status = input.new_status().unwrap().clone();
                    state.changes.push(format!("{} {id}", found.status));
                    Ok(UpdateCertificateOutput::builder().build())
                })
            }
        });
        let describe_ca = mock!(Iot::describe_ca_certificate).then_compute_response({
            let cloud = self.clone();
            move |_| {
                let broken = || DescribeCACertificateError::generic(injected());
                cloud.serve("DescribeCACertificate", broken, |state| {
                    let ca = state.ca.as_ref();
                    let (status, pem) = ca.ok_or(DescribeCACertificateError::ResourceNotFoundException(not_found()))?;
                    let description = CaCertificateDescription::builder().status(status.clone()).certificate_pem(pem);
                    Ok(DescribeCaCertificateOutput::builder().certificate_description(description.build()).build())
                })
            }
        });
        let update_ca = mock!(Iot::update_ca_certificate).then_compute_response({
            let cloud = self.clone();
            move |input| {
                let broken = || UpdateCACertificateError::generic(injected());
                cloud.serve("UpdateCACertificate", broken, |state| {
                    let ca = state.ca.as_mut();
                    let ca = ca.ok_or(UpdateCACertificateError::ResourceNotFoundException(not_found()))?;
                    let (status, auto) = (input.new_status().unwrap(), input.new_auto_registration_status().unwrap());
                    ca.0 = status.clone();
                    state.changes.push(format!("CA {status} {auto}"));
                    Ok(UpdateCaCertificateOutput::builder().build())
                })
            }
        });
        [list, describe, update, describe_ca, update_ca]
    }

    /// The calls that DynamoDB answers.
    pub fn dynamodb(&self) -> [Rule; 6] {
        let get = mock!(DynamoDb::get_item).then_compute_response({
            let cloud = self.clone();
            move |input: &GetItemInput| {
                assert_eq!(input.consistent_read(), Some(true));
                cloud.serve(
                    "GetItem",
                    || GetItemError::generic(injected_dynamodb()),
                    |state| {
                        let found = state.table(input.table_name().unwrap()).get(&key(input.key().unwrap())).cloned();
                        Ok(GetItemOutput::builder().set_item(found).build())
                    },
                )
            }
        });
        let batch = mock!(DynamoDb::batch_get_item).then_compute_response({
            let cloud = self.clone();
            move |input: &BatchGetItemInput| {
                let broken = || BatchGetItemError::generic(injected_dynamodb());
                cloud.serve("BatchGetItem", broken, |state| Ok(state.batch(input)))
            }
        });
        let query = mock!(DynamoDb::query).then_compute_response({
            let cloud = self.clone();
            move |input: &QueryInput| {
                cloud.serve(
                    "Query",
                    || QueryError::generic(injected_dynamodb()),
                    |state| {
                        let values = input.expression_attribute_values().unwrap();
                        let (id, part) = (values[":id"].as_s().unwrap(), values[":part"].as_s().unwrap());
                        let items = state.table("devices").iter();
                        let found = items.filter(|((of, at), _)| of == id && at.starts_with(part));
                        let found = found.map(|(_, item)| item.clone()).collect();
                        Ok(QueryOutput::builder().set_items(Some(found)).build())
                    },
                )
            }
        });
        let put = mock!(DynamoDb::put_item).then_compute_response({
            let cloud = self.clone();
            move |input: &PutItemInput| {
                cloud.serve("PutItem", || PutItemError::generic(injected_dynamodb()), |state| state.put(input))
            }
        });
        let update = mock!(DynamoDb::update_item).then_compute_response({
            let cloud = self.clone();
            move |input: &UpdateItemInput| {
                let broken = || UpdateItemError::generic(injected_dynamodb());
                cloud.serve("UpdateItem", broken, |state| {
                    state.update(input);
                    Ok(UpdateItemOutput::builder().build())
                })
            }
        });
        let delete = mock!(DynamoDb::delete_item).then_compute_response({
            let cloud = self.clone();
            move |input: &DeleteItemInput| {
                cloud.serve(
                    "DeleteItem",
                    || DeleteItemError::generic(injected_dynamodb()),
                    |state| {
                        state.table(input.table_name().unwrap()).remove(&key(input.key().unwrap()));
                        Ok(DeleteItemOutput::builder().build())
                    },
                )
            }
        });
        [get, batch, query, put, update, delete]
    }

    fn sns(&self) -> Rule {
        let cloud = self.clone();
        mock!(Sns::publish).then_compute_response(move |input: &PublishInput| {
            let broken =
                || PublishError::generic(aws_sdk_sns::error::ErrorMetadata::builder().code("Injected").build());
            cloud.serve("Publish", broken, |state| {
                state.published.push(input.clone());
                Ok(PublishOutput::builder().build())
            })
        })
    }

    fn sqs(&self) -> Rule {
        let cloud = self.clone();
        mock!(Sqs::send_message).then_compute_response(move |input: &SendMessageInput| {
            let code = || aws_sdk_sqs::error::ErrorMetadata::builder().code("Injected").build();
            cloud.serve(
                "SendMessage",
                || SendMessageError::generic(code()),
                |state| {
                    let delay = Duration::from_secs(u64::try_from(input.delay_seconds().unwrap_or_default()).unwrap());
                    state.sent.push((input.message_body().unwrap().to_owned(), delay));
                    Ok(SendMessageOutput::builder().build())
                },
            )
        })
    }
}

fn injected() -> aws_sdk_iot::error::ErrorMetadata {
    aws_sdk_iot::error::ErrorMetadata::builder().code("Injected").build()
}

fn injected_dynamodb() -> aws_sdk_dynamodb::error::ErrorMetadata {
    aws_sdk_dynamodb::error::ErrorMetadata::builder().code("Injected").build()
}

fn key(item: &Item) -> (String, String) {
    let text = |name: &str| item.get(name).map(|value| value.as_s().unwrap().clone()).unwrap_or_default();
    let id = if item.contains_key("function") { text("function") + &text("eventId") } else { text("id") };
    (id, text("part"))
}

impl State {
    pub fn table(&mut self, name: &str) -> &mut BTreeMap<(String, String), Item> {
        self.tables.entry(name.to_owned()).or_default()
    }

    /// A marker is the number of the certificate that the page begins with.
    fn list(&self, input: &ListCertificatesByCaInput) -> Option<ListCertificatesByCaOutput> {
        assert_eq!((input.ascending_order(), input.page_size()), (Some(true), Some(250)));
        assert_eq!(input.ca_certificate_id(), Some(&*ca()));
        if self.is_listing_broken {
            return None;
        }
        let from: usize = input.marker().map_or(0, |marker| marker.parse().unwrap());
        let to = self.devices.len().min(from + self.page.unwrap_or(250));
        let certificates = self.devices[from..to]
            .iter()
            .map(|device| Certificate::builder().certificate_id(&device.id).status(device.status.clone()).build());
        let next = (to < self.devices.len()).then(|| to.to_string());
        let output = ListCertificatesByCaOutput::builder().set_certificates(Some(certificates.collect()));
        Some(output.set_next_marker(next).build())
    }

    fn batch(&mut self, input: &BatchGetItemInput) -> BatchGetItemOutput {
        let wanted = &input.request_items().unwrap()["devices"];
        assert!((1..=100).contains(&wanted.keys().len()) && wanted.consistent_read() == Some(true));
        let (now, later) = wanted.keys().split_at(self.batch.unwrap_or(100).min(wanted.keys().len()));
        let found = now.iter().filter_map(|wanted| self.table("devices").get(&key(wanted)).cloned()).collect();
        let output = BatchGetItemOutput::builder().responses("devices", found);
        if later.is_empty() {
            return output.build();
        }
        let later = KeysAndAttributes::builder().set_keys(Some(later.to_vec())).consistent_read(true);
        output.unprocessed_keys("devices", later.build().unwrap()).build()
    }

    /// Puts an item under the conditions that the library and `revoke` make.
    pub fn put(&mut self, input: &PutItemInput) -> Result<PutItemOutput, PutItemError> {
        let item = input.item().unwrap();
        let number = |item: &Item, name: &str| item[name].as_n().unwrap().parse::<u64>().unwrap();
        let value = |name: &str| input.expression_attribute_values().unwrap()[name].as_n().unwrap().parse::<u64>();
        let found = self.table(input.table_name().unwrap()).get(&key(item)).cloned();
        let may = found.as_ref().is_none_or(|found| match input.table_name().unwrap() {
            "devices" => number(found, "version") == value(":version").unwrap(),
            "idempotency" => {
                number(found, "expiration") < value(":seconds").unwrap()
                    || (found["status"].as_s().unwrap() == "INPROGRESS"
                        && number(found, "in_progress_expiration") < value(":millis").unwrap())
            }
            _ => true,
        });
        if !may {
            let refused = ConditionalCheckFailedException::builder().set_item(found).build();
            return Err(PutItemError::ConditionalCheckFailedException(refused));
        }
        self.table(input.table_name().unwrap()).insert(key(item), item.clone());
        Ok(PutItemOutput::builder().build())
    }

    /// Carries an update expression out: `SET a = :x, b = if_not_exists(b, :y) REMOVE c, d`.
    fn update(&mut self, input: &UpdateItemInput) {
        let names = input.expression_attribute_names().cloned().unwrap_or_default();
        let name = |name: &str| names.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let expression = input.update_expression().unwrap();
        let (set, remove) = expression.split_once(" REMOVE ").unwrap_or((expression, ""));
        let item = self.table(input.table_name().unwrap()).entry(key(input.key().unwrap())).or_default();
        item.extend(input.key().unwrap().clone());
        let mut pieces = set.strip_prefix("SET ").unwrap().split(", ");
        while let Some(piece) = pieces.next() {
            let (left, right) = piece.split_once(" = ").unwrap();
            let is_default = right.starts_with("if_not_exists(");
            let value = if is_default { pieces.next().unwrap().trim_end_matches(')') } else { right };
            if !is_default || !item.contains_key(&name(left)) {
                item.insert(name(left), input.expression_attribute_values().unwrap()[value].clone());
            }
        }
        for left in remove.split(", ") {
            item.remove(&name(left));
        }
        if set.contains("blocked = :true") {
            self.changes.push("blocked".to_owned());
        }
    }

    /// Publishes a CRL as `infra/ca/publish-crl` does.
    pub fn publish(&mut self, crl: &[u8], number: u64) {
        let (id, number) = (format!("ca#{}", ca()), format!("{number:040x}"));
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let whole = |number: usize| AttributeValue::N(number.to_string());
        let chunk = [("bytes".to_owned(), AttributeValue::B(Blob::new(crl)))];
        self.table("devices").insert((id.clone(), format!("crl#{number}#0000")), chunk.into());
        let status = [("crlNumber", text(&number)), ("crlChunks", whole(1)), ("crlBytes", whole(crl.len()))];
        let status = status.map(|(name, value)| (name.to_owned(), value));
        self.table("devices").insert((id, "status".to_owned()), status.into());
    }
}
