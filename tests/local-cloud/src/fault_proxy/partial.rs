//! Partial failures of batch calls.

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use serde_json::{Map, Value, json};

use super::{Handler, forward};

impl Handler {
    /// Forwards the first half of a batch and returns the rest as unprocessed.
    pub(super) async fn leave_unprocessed(&self, mut head: Parts, body: &[u8]) -> Result<Response<Full<Bytes>>> {
        let mut request: Value = serde_json::from_slice(body)?;
        let mut unprocessed = Map::new();
        let tables = request.get_mut("RequestItems").and_then(Value::as_object_mut).context("no RequestItems")?;
        for (table, puts) in tables {
            let puts = puts.as_array_mut().context("the puts are not an array")?;
            let rest = puts.split_off(puts.len().div_ceil(2));
            if !rest.is_empty() {
                unprocessed.insert(table.clone(), Value::Array(rest));
            }
        }
        let body = Bytes::from(request.to_string());
        head.headers.insert("content-length", body.len().into());
        let response = forward(self.cloud.endpoint, Request::from_parts(head, Full::new(body))).await?;
        if !response.status().is_success() {
            return Ok(response);
        }
        let response = Response::builder().header("content-type", "application/x-amz-json-1.0");
        Ok(response.body(Full::new(json!({"UnprocessedItems": unprocessed}).to_string().into()))?)
    }

    /// Forwards every second message of a batch and reports the others as failed.
    pub(super) async fn fail_some(&self, mut head: Parts, body: &[u8]) -> Result<Response<Full<Bytes>>> {
        let mut request: Value = serde_json::from_slice(body)?;
        let entries =
            request.get_mut("Entries").and_then(Value::as_array_mut).context("the entries are not an array")?;
        let (mut failed, mut forwarded) = (Vec::new(), Vec::new());
        for (at, entry) in std::mem::take(entries).into_iter().enumerate() {
            if at % 2 == 1 {
                forwarded.push(entry);
                continue;
            }
            // SQS reports throttling as a sender fault.
            let (code, is_senders) = if at % 4 == 0 { ("InternalError", false) } else { ("RequestThrottled", true) };
            failed.push(json!({"Id": entry.get("Id"), "Code": code, "SenderFault": is_senders, "Message": "injected"}));
        }
        let mut response = json!({"Successful": []});
        if !forwarded.is_empty() {
            *entries = forwarded;
            let body = Bytes::from(request.to_string());
            head.headers.insert("content-length", body.len().into());
            let sent = forward(self.cloud.endpoint, Request::from_parts(head, Full::new(body))).await?;
            if !sent.status().is_success() {
                return Ok(sent);
            }
            response = serde_json::from_slice(&sent.into_body().collect().await?.to_bytes())?;
        }
        let all = response.as_object_mut().context("the response is not an object")?;
        if let Some(others) = all.entry("Failed").or_insert_with(|| json!([])).as_array_mut() {
            others.extend(failed);
        }
        let builder = Response::builder().header("content-type", "application/x-amz-json-1.0");
        Ok(builder.body(Full::new(response.to_string().into()))?)
    }
}
