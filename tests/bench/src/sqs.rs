//! SQS, as a function finds it on either side: the records that it is woken with, and the queues that it sends to.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use hyper::{Request, StatusCode, body::Bytes};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use local_cloud::pki::hex;

use crate::aws::{ACCOUNT, AWS_JSON, Answer, Call, REGION};

/// The most messages of a batch that is sent, and the most bytes of them together.
const ENTRIES: usize = 10;
const BYTES: usize = 1 << 20;

/// What a function is woken with: these records.
pub fn delivery(records: &[Value]) -> Value {
    json!({ "Records": records })
}

/// A message of `function`'s queue, as it is handed over. `sent_at` is in milliseconds since 1970.
pub fn record(function: &str, id: &str, sent_at: u64, body: &Value) -> Value {
    json!({
        "messageId": id,
        // As long as real ones are.
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a".repeat(12),
        "body": body.to_string(),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": sent_at.to_string(),
            "SenderId": "AROAIENQZJOLO23YVJ4VO:gatehouse",
            "ApproximateFirstReceiveTimestamp": (sent_at + 5).to_string(),
        },
        "messageAttributes": {},
        "md5OfBody": "098f6bcd4621d373cade4e832627b4f6",
        "eventSource": "aws:sqs",
        "eventSourceARN": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:gatehouse-{function}"),
        "awsRegion": REGION,
    })
}

/// Answers one call. What is sent is nowhere kept but in the record of calls.
pub fn sqs(request: &Request<Bytes>) -> Result<Answer> {
    let target = request.headers().get("x-amz-target").context("no x-amz-target")?.to_str()?;
    let operation = target.strip_prefix("AmazonSQS.").with_context(|| format!("x-amz-target is {target}"))?;
    let fields: Value = serde_json::from_slice(request.body())?;
    let url = text(&fields, "QueueUrl")?;
    let queue = url.rsplit('/').next().context("the queue's URL names no queue")?.to_owned();
    let answer = match operation {
        "GetQueueAttributes" => {
            json!({ "Attributes": { "QueueArn": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}") } })
        }
        "SendMessage" => taken(&fields)?,
        "SendMessageBatch" => {
            let taken: Result<Vec<Value>> = entries(&fields)?.iter().map(taken).collect();
            json!({ "Successful": taken?, "Failed": [] })
        }
        other => bail!("{other} is not among the fake's operations"),
    };
    Ok(Answer {
        call: Call { operation: operation.to_owned(), target: queue, body: fields.to_string() },
        status: StatusCode::OK,
        error_type: None,
        content_type: AWS_JSON,
        body: answer.to_string(),
    })
}

/// The messages of a `SendMessageBatch` call. An error where SQS would refuse the call.
pub fn entries(fields: &Value) -> Result<&Vec<Value>> {
    let entries = fields.get("Entries").and_then(Value::as_array).context("no Entries")?;
    ensure!((1..=ENTRIES).contains(&entries.len()), "a call has {} entries", entries.len());
    let (mut ids, mut bytes) = (BTreeSet::new(), 0);
    for entry in entries {
        ensure!(ids.insert(text(entry, "Id")?), "an id stands twice in one call");
        bytes += text(entry, "MessageBody")?.len();
    }
    ensure!(bytes <= BYTES, "the messages of a call have {bytes} bytes");
    Ok(entries)
}

/// What SQS says of a message that it took, with its id in the call if it has one. Some SDKs check the digest.
fn taken(message: &Value) -> Result<Value> {
    let digest = hex(&Md5::digest(text(message, "MessageBody")?));
    let id = message.get("Id");
    Ok(json!({ "Id": id, "MessageId": "3f1c9a0e-7a59-4d0c-9a55-0c6f3d0d8f11", "MD5OfMessageBody": digest }))
}

/// A field that is a text.
pub fn text<'a>(fields: &'a Value, name: &str) -> Result<&'a str> {
    fields.get(name).and_then(Value::as_str).with_context(|| format!("{name} is no text"))
}
