//! The actuator's table, its queue, AWS IoT's shadows and the operators' topic, in memory: what `actuator` asks of them
//! they do, every call can be made to fail or to take the process with it, and the queue delivers its messages until
//! there are none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actuator::Actuator;
use actuator::shadows::Shadows;
use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemError, DeleteItemInput, DeleteItemOutput};
use aws_sdk_dynamodb::operation::get_item::{GetItemError, GetItemInput, GetItemOutput};
use aws_sdk_dynamodb::operation::put_item::{PutItemError, PutItemInput, PutItemOutput};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemInput, UpdateItemOutput};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_iotdataplane::Client as Iot;
use aws_sdk_iotdataplane::operation::update_thing_shadow::{
    UpdateThingShadowError, UpdateThingShadowInput, UpdateThingShadowOutput,
};
use aws_sdk_sns::Client as Sns;
use aws_sdk_sns::operation::publish::{PublishError, PublishInput, PublishOutput};
use aws_sdk_sqs::Client as Sqs;
use aws_sdk_sqs::operation::send_message::{SendMessageError, SendMessageInput, SendMessageOutput};
use aws_smithy_mocks::{MockResponse, Rule, RuleMode, mock, mock_client};
use gatehouse::{
    Concurrent, Environment, Function, Idempotency, InitError, Invocation, Quarantine, Queue, Records, Timestamp, Topic,
};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::time::Instant;

/// When every story begins.
pub const BEGIN: Timestamp = Timestamp::from_millis(1_763_715_600_000);

/// How long Lambda gives an invocation.
pub const TIME_OUT: Duration = Duration::from_mins(1);

/// How long the queue waits before it delivers a message again that was handed back.
pub const VISIBILITY: Duration = Duration::from_mins(6);

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

type Change = Box<dyn FnOnce(&mut State) + Send>;
type Refuse = fn() -> UpdateThingShadowError;

#[derive(Default)]
pub struct State {
    pub tables: BTreeMap<String, BTreeMap<(String, String), Item>>,
    /// Each desired state that was set, when, and of whose shadow: `thing` or `thing/name`.
    pub desired: Vec<(Timestamp, String, Value)>,
    pub published: Vec<PublishInput>,
    /// The messages that the function has sent itself, with their delays.
    pub sent: Vec<(String, Duration)>,
    /// What AWS IoT says to the next updates of shadows.
    pub refused: VecDeque<Refuse>,
    /// What goes wrong with which call, counted from 0.
    pub fault: Option<(usize, Fault)>,
    /// What another process does just before which call.
    pub change: Option<(usize, Change)>,
    /// What was called, in order.
    pub calls: Vec<&'static str>,
    skipped: Duration,
}

#[derive(Clone)]
pub struct Cloud {
    state: Arc<Mutex<State>>,
    began: Instant,
    variables: Vec<(&'static str, &'static str)>,
}

/// What came of a message.
#[derive(Debug)]
pub struct Delivered {
    /// Whether the queue is done with it.
    pub is_done: bool,
    pub counted: BTreeMap<&'static str, u64>,
}

impl Delivered {
    pub fn count(&self, name: &str) -> u64 {
        self.counted.get(name).copied().unwrap_or_default()
    }
}

impl Cloud {
    pub fn new() -> Self {
        Self { state: Arc::default(), began: Instant::now(), variables: Vec::new() }
    }

    /// A cloud in which this document is in force.
    pub async fn with(answers: &Value) -> Self {
        let cloud = Self::new();
        let put = cloud.deliver(&answers.to_string()).await;
        assert!(put.is_done && cloud.quarantined().is_empty(), "{:?}", cloud.quarantined());
        cloud.change(|state| state.calls.clear());
        cloud
    }

    pub fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub fn now(&self) -> Timestamp {
        BEGIN.plus(self.change(|state| state.skipped)).plus(self.began.elapsed())
    }

    /// Lets time pass.
    pub fn skip(&self, time: Duration) {
        self.change(|state| state.skipped += time);
    }

    /// Which desired states were set of whose shadow, in order.
    pub fn desired(&self) -> Vec<(String, Value)> {
        self.change(|state| state.desired.iter().map(|(_, thing, desired)| (thing.clone(), desired.clone())).collect())
    }

    /// Where the one shade was told to go, in order.
    pub fn positions(&self) -> Vec<String> {
        let position = |(_, desired): (String, Value)| desired["position"].as_str().unwrap().to_owned();
        self.desired().into_iter().map(position).collect()
    }

    pub fn record(&self, device: &str) -> Item {
        let key = (format!("device#{device}"), "command".to_owned());
        self.change(|state| state.table("actuator").get(&key).cloned().unwrap_or_default())
    }

    /// What was refused: its reason and why.
    pub fn quarantined(&self) -> Vec<(String, String)> {
        let text = |item: &Item, name: &str| item[name].as_s().unwrap().clone();
        self.change(|state| {
            let refused = state.table("quarantine").values();
            refused.map(|item| (text(item, "reason"), text(item, "why"))).collect()
        })
    }

    /// What the operators were told.
    pub fn told(&self) -> Vec<String> {
        self.change(|state| state.published.iter().map(|sent| sent.message().unwrap().to_owned()).collect())
    }

    pub fn actuator(&self) -> Result<(Actuator, Quarantine), InitError> {
        let always = [
            ("ACTUATOR_TABLE", "actuator"),
            ("QUARANTINE_TABLE", "quarantine"),
            ("IDEMPOTENCY_TABLE", "idempotency"),
            ("QUEUE_URL", "https://queue"),
            ("TOPIC_ARN", "arn:operators"),
        ];
        let environment: Environment = always.into_iter().chain(self.variables.iter().copied()).collect();
        let dynamodb = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, &self.dynamodb());
        let iot = mock_client!(aws_sdk_iotdataplane, RuleMode::MatchAny, &[self.iot()]);
        let sns = mock_client!(aws_sdk_sns, RuleMode::MatchAny, &[self.sns()]);
        let sqs = mock_client!(aws_sdk_sqs, RuleMode::MatchAny, &[self.sqs()]);
        let actuator = Actuator::from(
            &environment,
            Records::new(dynamodb.clone(), "actuator"),
            Shadows::new(iot),
            Queue::from(&environment, sqs)?,
            Idempotency::from(&environment, dynamodb.clone(), "actuator")?,
            Topic::from(&environment, sns)?,
        )?;
        Ok((actuator, Quarantine::from(&environment, dynamodb, "actuator")?))
    }

    /// One process, that answers one delivery.
    pub async fn invoke(&self, delivery: &Value) -> (Result<Value, String>, Invocation) {
        let (actuator, quarantine) = self.actuator().unwrap();
        let handler = Concurrent(actuator, NonZeroUsize::new(10).unwrap());
        let function = Function::new("actuator", handler, quarantine);
        let invocation = Invocation::new("request-1", self.now(), self.now().plus(TIME_OUT));
        let answer = function.invoke(&to_raw_value(delivery).unwrap(), &invocation).await;
        (answer.map_err(|error| error.to_string()), invocation)
    }

    /// Delivers a batch of messages; which of them the queue is done with, and what was counted.
    pub async fn deliver_all(&self, bodies: &[&str]) -> (Vec<bool>, BTreeMap<&'static str, u64>) {
        let record = |(index, body)| json!({"messageId": format!("{index}"), "eventSource": "aws:sqs", "body": body});
        let records: Vec<_> = bodies.iter().enumerate().map(record).collect();
        let (answer, invocation) = self.invoke(&json!({"Records": records})).await;
        // A process that died has answered nothing, whatever is in the answer.
        let is_crash = self.change(|state| {
            let fault = state.fault.filter(|(at, _)| *at < state.calls.len());
            state.fault = state.fault.filter(|_| fault.is_none());
            matches!(fault, Some((_, Fault::CrashBefore | Fault::CrashAfter)))
        });
        let answer = answer.unwrap();
        let failed = answer["batchItemFailures"].as_array().unwrap();
        let is_done = |index: usize| {
            !is_crash && failed.iter().all(|failed| failed["itemIdentifier"] != json!(format!("{index}")))
        };
        ((0..bodies.len()).map(is_done).collect(), invocation.counts())
    }

    /// Delivers one message.
    pub async fn deliver(&self, body: &str) -> Delivered {
        let (done, counted) = self.deliver_all(&[body]).await;
        Delivered { is_done: done == [true], counted }
    }

    /// Delivers each of these so long after the beginning, again what is handed back, and what the function sends
    /// itself, until there are no messages left. The messages that failed five times.
    pub async fn play(&self, messages: &[(Duration, String)]) -> Vec<String> {
        let queued = messages.iter().map(|(after, body)| (BEGIN.plus(*after), body.clone(), 1));
        let (mut queue, mut dead): (Vec<_>, Vec<_>) = (queued.collect(), Vec::new());
        for _ in 0..200 {
            queue.sort_by_key(|(due, ..)| std::cmp::Reverse(*due));
            let Some((due, body, times)) = queue.pop() else { return dead };
            self.skip(due.since(self.now()));
            if !self.deliver(&body).await.is_done {
                if times == 5 {
                    dead.push(body);
                } else {
                    queue.push((self.now().plus(VISIBILITY), body, times + 1));
                }
            }
            for (body, delay) in self.change(|state| std::mem::take(&mut state.sent)) {
                queue.push((self.now().plus(delay), body, 1));
            }
        }
        panic!("it goes on and on");
    }

    /// Serves one call, or lets it go wrong.
    fn serve<O, E>(
        &self,
        what: &'static str,
        broken: impl FnOnce() -> E,
        serve: impl FnOnce(&mut State) -> Result<O, E>,
    ) -> MockResponse<O, E> {
        let (fault, served) = self.change(|state| {
            let invocation = state.calls.len();
            if let Some((_, change)) = state.change.take_if(|(at, _)| *at == invocation) {
                change(state);
            }
            let fault = state.fault.and_then(|(at, fault)| (at == invocation).then_some(fault));
            state.calls.push(what);
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

    fn dynamodb(&self) -> [Rule; 4] {
        let injected = || aws_sdk_dynamodb::error::ErrorMetadata::builder().code("Injected").build();
        let get = mock!(DynamoDb::get_item).then_compute_response({
            let cloud = self.clone();
            move |input: &GetItemInput| {
                assert_eq!(input.consistent_read(), Some(true));
                let serve = |state: &mut State| {
                    let found = state.table(input.table_name().unwrap()).get(&key(input.key().unwrap())).cloned();
                    Ok(GetItemOutput::builder().set_item(found).build())
                };
                cloud.serve("GetItem", || GetItemError::generic(injected()), serve)
            }
        });
        let put = mock!(DynamoDb::put_item).then_compute_response({
            let cloud = self.clone();
            move |input: &PutItemInput| {
                cloud.serve("PutItem", || PutItemError::generic(injected()), |state| state.put(input))
            }
        });
        let update = mock!(DynamoDb::update_item).then_compute_response({
            let cloud = self.clone();
            move |input: &UpdateItemInput| {
                let serve = |state: &mut State| {
                    let values = input.expression_attribute_values().unwrap();
                    let item = state.table(input.table_name().unwrap()).entry(key(input.key().unwrap())).or_default();
                    item.insert("status".to_owned(), values[":completed"].clone());
                    item.insert("expiration".to_owned(), values[":expiration"].clone());
                    Ok(UpdateItemOutput::builder().build())
                };
                cloud.serve("UpdateItem", || UpdateItemError::generic(injected()), serve)
            }
        });
        let delete = mock!(DynamoDb::delete_item).then_compute_response({
            let cloud = self.clone();
            move |input: &DeleteItemInput| {
                let serve = |state: &mut State| {
                    state.table(input.table_name().unwrap()).remove(&key(input.key().unwrap()));
                    Ok(DeleteItemOutput::builder().build())
                };
                cloud.serve("DeleteItem", || DeleteItemError::generic(injected()), serve)
            }
        });
        [get, put, update, delete]
    }

    fn iot(&self) -> Rule {
        let cloud = self.clone();
        mock!(Iot::update_thing_shadow).then_compute_response(move |input: &UpdateThingShadowInput| {
            let code = || aws_sdk_iotdataplane::error::ErrorMetadata::builder().code("Injected").build();
            let now = cloud.now();
            let serve = |state: &mut State| {
                if let Some(refused) = state.refused.pop_front() {
                    return Err(refused());
                }
                let name = input.shadow_name().map(|name| format!("/{name}")).unwrap_or_default();
                let document: Value = serde_json::from_slice(input.payload().unwrap().as_ref()).unwrap();
                let thing = format!("{}{name}", input.thing_name().unwrap());
                state.desired.push((now, thing, document["state"]["desired"].clone()));
                Ok(UpdateThingShadowOutput::builder().build())
            };
            cloud.serve("UpdateThingShadow", || UpdateThingShadowError::generic(code()), serve)
        })
    }

    fn sns(&self) -> Rule {
        let cloud = self.clone();
        mock!(Sns::publish).then_compute_response(move |input: &PublishInput| {
            let code = || aws_sdk_sns::error::ErrorMetadata::builder().code("Injected").build();
            let serve = |state: &mut State| {
                state.published.push(input.clone());
                Ok(PublishOutput::builder().build())
            };
            cloud.serve("Publish", || PublishError::generic(code()), serve)
        })
    }

    fn sqs(&self) -> Rule {
        let cloud = self.clone();
        mock!(Sqs::send_message).then_compute_response(move |input: &SendMessageInput| {
            let code = || aws_sdk_sqs::error::ErrorMetadata::builder().code("Injected").build();
            let serve = |state: &mut State| {
                assert_eq!(input.queue_url(), Some("https://queue"));
                let delay = u64::try_from(input.delay_seconds().unwrap()).unwrap();
                assert!(delay <= 900, "SQS does not take a delay of {delay} s");
                state.sent.push((input.message_body().unwrap().to_owned(), Duration::from_secs(delay)));
                Ok(SendMessageOutput::builder().build())
            };
            cloud.serve("SendMessage", || SendMessageError::generic(code()), serve)
        })
    }
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

    /// Puts an item under the conditions that the library makes.
    fn put(&mut self, input: &PutItemInput) -> Result<PutItemOutput, PutItemError> {
        let item = input.item().unwrap();
        let number = |item: &Item, name: &str| item[name].as_n().unwrap().parse::<u64>().unwrap();
        let value = |name: &str| -> Option<u64> {
            Some(input.expression_attribute_values()?[name].as_n().unwrap().parse().unwrap())
        };
        let found = self.table(input.table_name().unwrap()).get(&key(item)).cloned();
        let may = found.as_ref().is_none_or(|found| match input.table_name().unwrap() {
            "actuator" => Some(number(found, "version")) == value(":was"),
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

    /// What another process writes into a device's record.
    pub fn write(&mut self, device: &str, attributes: &[(&str, AttributeValue)]) {
        let (id, part) = (format!("device#{device}"), "command".to_owned());
        let item = self.table("actuator").entry((id, part)).or_default();
        let version = item.get("version").map_or(0, |version| version.as_n().unwrap().parse::<u64>().unwrap());
        item.insert("version".to_owned(), AttributeValue::N((version + 1).to_string()));
        item.extend(attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    }
}
