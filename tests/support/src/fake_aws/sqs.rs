//! Amazon SQS: `SendMessage` with a delay, and `SendMessageBatch` to standard and FIFO queues of any account.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use gatehouse::Timestamp;
use serde_json::{Value, json};

use super::State;
use super::request::Call;
use super::response::Response;

/// How long a FIFO queue remembers a deduplication id.
const DEDUPLICATION_INTERVAL: Duration = Duration::from_mins(5);

/// The longest delay of a message, in seconds.
const MAX_DELAY: u64 = 15 * 60;

/// The maximum number of bytes in one call.
const MAX_BYTES: usize = 1_048_576;

/// A queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// The messages, as they were sent: each is the request of `SendMessage`, or an entry of `SendMessageBatch`.
    pub messages: Vec<Value>,
    /// The code and message of the error that every call receives; `None` if the queue is open.
    pub closed: Option<(&'static str, &'static str)>,
    deduplication: HashMap<String, Timestamp>,
}

/// A message that was sent to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// The body.
    pub body: String,
    /// How long the queue holds it back.
    pub delay: Duration,
}

/// How one entry of a batch fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryFault {
    /// It is not accepted. The response contains this error code, and whether the fault is the sender's.
    Failed(&'static str, bool),
    /// It is accepted, but the response says that it failed.
    AcceptedAndFailed,
    /// It is not accepted, and the response does not mention it.
    Omitted,
}

/// Chooses what goes wrong with an entry.
pub type EntryFaults = Box<dyn FnMut(&Value) -> Option<EntryFault> + Send>;

impl Queue {
    /// The bodies of the messages.
    pub fn bodies(&self) -> Vec<&str> {
        self.messages.iter().map(|message| message["MessageBody"].as_str().unwrap()).collect()
    }

    /// The messages with their delays.
    pub fn sent(&self) -> Vec<SentMessage> {
        let sent = |message: &Value| SentMessage {
            body: message["MessageBody"].as_str().unwrap().to_owned(),
            delay: Duration::from_secs(message["DelaySeconds"].as_u64().unwrap_or_default()),
        };
        self.messages.iter().map(sent).collect()
    }

    /// Removes the messages, and returns them with their delays.
    pub fn take(&mut self) -> Vec<SentMessage> {
        let sent = self.sent();
        self.messages.clear();
        sent
    }

    fn accept(&mut self, url: &str, message: &Value, now: Timestamp) {
        assert!(!message["MessageBody"].as_str().unwrap().is_empty(), "SQS does not accept an empty message");
        let delay = message["DelaySeconds"].as_u64().unwrap_or_default();
        assert!(delay <= MAX_DELAY, "SQS does not accept a delay of {delay} s");
        let (id, is_fifo) = (&message["MessageDeduplicationId"], url.strip_suffix(".fifo").is_some());
        assert_eq!((id.is_string(), message["MessageGroupId"].is_string()), (is_fifo, is_fifo), "{message}");
        if let Some(id) = id.as_str() {
            if self.deduplication.get(id).is_some_and(|accepted| now < accepted.plus(DEDUPLICATION_INTERVAL)) {
                return;
            }
            self.deduplication.insert(id.to_owned(), now);
        }
        self.messages.push(message.clone());
    }
}

impl State {
    pub(super) fn sqs(&mut self, call: &Call) -> Response {
        let (url, now) = (call.body["QueueUrl"].as_str().unwrap(), self.now());
        let Some(queue) = self.queues.get_mut(url) else {
            let message = "The specified queue does not exist.";
            return Response::error_message(400, "AWS.SimpleQueueService.NonExistentQueue", message);
        };
        if let Some((code, message)) = queue.closed {
            return Response::error_message(400, code, message);
        }
        match call.operation.as_str() {
            "SendMessage" => {
                queue.accept(url, &call.body, now);
                Response::Output(json!({"MessageId": "m"}))
            }
            "SendMessageBatch" => self.send_message_batch(url, &call.body, now),
            other => panic!("the fake SQS does not support {other}"),
        }
    }

    fn send_message_batch(&mut self, url: &str, body: &Value, now: Timestamp) -> Response {
        let entries = body["Entries"].as_array().unwrap();
        assert!((1..=10).contains(&entries.len()), "{} entries", entries.len());
        assert!(entries.iter().map(size).sum::<usize>() <= MAX_BYTES, "the batch is too large");
        let ids: BTreeSet<_> = entries.iter().map(|entry| entry["Id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), entries.len(), "two entries have the same id");

        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for entry in entries {
            let fault = self.entry_fault.as_mut().and_then(|fault| fault(entry));
            if matches!(fault, None | Some(EntryFault::AcceptedAndFailed)) {
                self.queues.get_mut(url).unwrap().accept(url, entry, now);
            }
            let id = &entry["Id"];
            match fault {
                None => successful.push(json!({"Id": id, "MessageId": "m", "MD5OfMessageBody": "d"})),
                Some(EntryFault::Failed(code, is_senders)) => {
                    failed.push(json!({"Id": id, "Code": code, "SenderFault": is_senders}));
                }
                Some(EntryFault::AcceptedAndFailed) => {
                    failed.push(json!({"Id": id, "Code": "InternalError", "SenderFault": false}));
                }
                Some(EntryFault::Omitted) => {}
            }
        }
        Response::Output(json!({"Successful": successful, "Failed": failed}))
    }
}

/// The size of an entry, as SQS counts it.
fn size(entry: &Value) -> usize {
    let text = |value: &Value| value.as_str().unwrap().len();
    let attributes = entry["MessageAttributes"].as_object().into_iter().flatten();
    let attributes =
        attributes.map(|(name, value)| name.len() + text(&value["DataType"]) + text(&value["StringValue"]));
    text(&entry["MessageBody"]) + attributes.sum::<usize>()
}
