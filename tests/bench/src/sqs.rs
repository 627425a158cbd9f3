//! SQS: the batches that trigger a function, and the queues that it sends to.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use hyper::{Request, StatusCode, body::Bytes};
use local_cloud::pki::hex;
use md5::{Digest, Md5};
use serde_json::{Value, json};

use crate::aws::{ACCOUNT, AWS_JSON, Call, FakeResponse, REGION};

/// The maximum number of entries, and of bytes, in a `SendMessageBatch` call.
const MAX_ENTRIES: usize = 10;
const MAX_BYTES: usize = 1 << 20;

/// Returns a function input with these records.
pub fn delivery(records: &[Value]) -> Value {
    json!({ "Records": records })
}

/// Returns a record of a function's queue. `sent_at` is in milliseconds since 1970.
pub fn record(function: &str, id: &str, sent_at: u64, body: &Value) -> Value {
    json!({
        "messageId": id,
        // About as long as a real one.
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

/// Handles a call.
pub fn sqs(request: &Request<Bytes>) -> Result<FakeResponse> {
    let target = request.headers().get("x-amz-target").context("no x-amz-target")?.to_str()?;
    let operation = target.strip_prefix("AmazonSQS.").with_context(|| format!("x-amz-target is {target}"))?;
    let fields: Value = serde_json::from_slice(request.body())?;
    let url = text(&fields, "QueueUrl")?;
    let queue = url.rsplit('/').next().context("the queue's URL names no queue")?.to_owned();
    let response = match operation {
        "GetQueueAttributes" => {
            json!({ "Attributes": { "QueueArn": format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}") } })
        }
        "SendMessage" => sent(&fields)?,
        "SendMessageBatch" => {
            let sent: Result<Vec<Value>> = entries(&fields)?.iter().map(sent).collect();
            json!({ "Successful": sent?, "Failed": [] })
        }
        other => bail!("{other} is not supported by the fake"),
    };
    Ok(FakeResponse {
        call: Call { operation: operation.to_owned(), target: queue, body: fields.to_string() },
        status: StatusCode::OK,
        error_type: None,
        content_type: AWS_JSON,
        body: response.to_string(),
    })
}

/// Returns the entries of a `SendMessageBatch` call. Fails where SQS would refuse the call.
pub fn entries(fields: &Value) -> Result<&Vec<Value>> {
    let entries = fields.get("Entries").and_then(Value::as_array).context("no Entries")?;
    ensure!((1..=MAX_ENTRIES).contains(&entries.len()), "a call has {} entries", entries.len());
    let (mut ids, mut bytes) = (BTreeSet::new(), 0);
    for entry in entries {
        ensure!(ids.insert(text(entry, "Id")?), "a call has an id twice");
        bytes += text(entry, "MessageBody")?.len();
    }
    ensure!(bytes <= MAX_BYTES, "the messages of a call have {bytes} bytes");
    Ok(entries)
}

/// Returns the result for a message. Some SDKs check the digest.
fn sent(message: &Value) -> Result<Value> {
    let digest = hex(&Md5::digest(text(message, "MessageBody")?));
    let id = message.get("Id");
    Ok(json!({ "Id": id, "MessageId": "3f1c9a0e-7a59-4d0c-9a55-0c6f3d0d8f11", "MD5OfMessageBody": digest }))
}

/// Returns a text field.
pub fn text<'a>(fields: &'a Value, name: &str) -> Result<&'a str> {
    fields.get(name).and_then(Value::as_str).with_context(|| format!("{name} is not a text"))
}
