//! `gatehouse trace --export`: exports an event as a scenario that `make replay` plays locally.

use std::path::Path;

use anyhow::{Context as _, Result};
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gatehouse::Item;
use gatehouse::store::item::{string, text};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::dead_letters;
use crate::quarantine::{QuarantineTable, payload};
use crate::status::MissingError;

/// An event that can be published again.
#[derive(Debug, Clone, PartialEq)]
struct ExportedEvent {
    thing: String,
    topic: String,
    payload: Vec<u8>,
    expect: Value,
    /// Where it was found.
    place: String,
}

/// Writes the event to a file, and returns where it was found.
pub async fn export(event_id: &str, thing: Option<&str>, file: &Path, context: &Context) -> Result<String> {
    let found = match in_quarantine(event_id, context).await? {
        Some(found) => Some(found),
        None => match in_dead_letters(event_id, context).await? {
            Some(found) => Some(found),
            None => in_telemetry(event_id, thing, context).await?,
        },
    };
    let why = || {
        let thing = if thing.is_none() { "; readings are searched with --thing" } else { "" };
        MissingError(format!("the payload of {event_id} is in no table and in no dead-letter queue{thing}"))
    };
    let event = found.ok_or_else(why)?;
    let scenario = format!("{:#}\n", event.scenario(event_id));
    std::fs::write(file, scenario).with_context(|| format!("failed to write {}", file.display()))?;
    Ok(event.place)
}

impl ExportedEvent {
    fn scenario(&self, event_id: &str) -> Value {
        let mut step = json!({
            "what": format!("event {event_id}, from the {}", self.place),
            "thing": self.thing,
            "topic": self.topic,
            "expect": self.expect,
        });
        // As text, to keep whitespace and digits.
        let (name, payload) = match std::str::from_utf8(&self.payload) {
            Ok(text) => ("payloadText", text.to_owned()),
            Err(_) => ("payloadBase64", BASE64_STANDARD.encode(&self.payload)),
        };
        if let Some(step) = step.as_object_mut() {
            step.insert(name.to_owned(), payload.into());
        }
        json!({"about": format!("exported event {event_id}"), "steps": [step]})
    }
}

/// Finds the event in quarantine. The scenario expects it to be refused again.
async fn in_quarantine(event_id: &str, context: &Context) -> Result<Option<ExportedEvent>> {
    let events = QuarantineTable::new(context).find(event_id, None, &context.names).await?;
    let exported = events.into_iter().find_map(|event| {
        Some(ExportedEvent {
            payload: payload(&event.event)?,
            thing: event.summary.thing?,
            topic: event.topic?,
            expect: json!({"quarantine": {"reason": event.summary.reason}}),
            place: format!("quarantine of {}", event.summary.function),
        })
    });
    Ok(exported)
}

/// Finds the event in a dead-letter queue. The scenario expects it to succeed.
async fn in_dead_letters(event_id: &str, context: &Context) -> Result<Option<ExportedEvent>> {
    let letters = dead_letters::find(event_id, context).await?;
    Ok(letters.into_iter().find_map(|(queue, message)| {
        let letter = message.letter;
        let (topic, payload) = (letter.topic?, payload(letter.event.as_deref()?)?);
        let expect = success(&topic, &payload);
        Some(ExportedEvent { thing: letter.thing?, topic, payload, expect, place: format!("queue {queue}") })
    }))
}

/// Finds the event's readings in the telemetry table. Numbers keep their digits; the order of fields is lost.
async fn in_telemetry(event_id: &str, thing: Option<&str>, context: &Context) -> Result<Option<ExportedEvent>> {
    let Some(thing) = thing else { return Ok(None) };
    let table = context.names.of("telemetry");
    let query = context.dynamodb().query().table_name(&table).key_condition_expression("thing = :thing");
    let query = query.filter_expression("eventId = :event").expression_attribute_values(":thing", string(thing));
    let query = query.expression_attribute_values(":event", string(event_id)).into_paginator().items();
    let items = query.send().collect::<Result<Vec<_>, _>>().await;
    let items = items.with_context(|| format!("failed to read table {table}"))?;
    let Some(topic) = items.first().and_then(|item| text(item, "topic")) else { return Ok(None) };
    let readings: Vec<_> = items.iter().filter_map(|item| json_text(item.get("reading")?)).collect();
    let payload = match readings.as_slice() {
        [only] => only.clone(),
        all => format!("[{}]", all.join(",")),
    };
    let expect = json!({"stored": {"readings": readings.len()}});
    let (topic, place) = (topic.to_owned(), "telemetry table".to_owned());
    Ok(Some(ExportedEvent { thing: thing.to_owned(), topic, payload: payload.into_bytes(), expect, place }))
}

/// Returns the expectation for a message on this topic, if nothing fails.
fn success(topic: &str, payload: &[u8]) -> Value {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Readings {
        Many(Vec<serde::de::IgnoredAny>),
        One(serde::de::IgnoredAny),
    }
    if !topic.starts_with("telemetry/") {
        return json!({"notification": {}});
    }
    let readings = match serde_json::from_slice(payload) {
        Ok(Readings::Many(all)) => all.len(),
        Ok(Readings::One(_)) | Err(_) => 1,
    };
    json!({"stored": {"readings": readings}})
}

/// Formats an attribute as JSON. Numbers keep their digits.
fn json_text(value: &AttributeValue) -> Option<String> {
    Some(match value {
        AttributeValue::N(number) => number.clone(),
        AttributeValue::S(text) => Value::from(text.as_str()).to_string(),
        AttributeValue::Bool(value) => value.to_string(),
        AttributeValue::Null(_) => "null".to_owned(),
        AttributeValue::L(values) => {
            let values: Option<Vec<_>> = values.iter().map(json_text).collect();
            format!("[{}]", values?.join(","))
        }
        AttributeValue::M(fields) => object(fields)?,
        _ => return None,
    })
}

fn object(fields: &Item) -> Option<String> {
    let mut names: Vec<_> = fields.keys().collect();
    names.sort_unstable();
    let fields: Option<Vec<_>> = names
        .into_iter()
        .map(|name| Some(format!("{}:{}", Value::from(name.as_str()), json_text(fields.get(name)?)?)))
        .collect();
    Some(format!("{{{}}}", fields?.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse::store::item::number;

    #[test]
    fn payload_that_is_no_text_is_exported_as_base64() {
        let event = ExportedEvent {
            thing: "a-button".to_owned(),
            topic: "iotbutton/a-button".to_owned(),
            payload: vec![0xff],
            expect: json!({"quarantine": {"reason": "invalid-utf8"}}),
            place: "quarantine of gatehouse-button".to_owned(),
        };
        let scenario = event.scenario("an-event");
        assert_eq!(scenario.pointer("/steps/0/payloadBase64"), Some(&json!("/w==")));
        assert_eq!(scenario.pointer("/steps/0/expect/quarantine/reason"), Some(&json!("invalid-utf8")));
    }

    #[test]
    fn numbers_of_a_reading_keep_their_digits() {
        let reading = AttributeValue::M(Item::from([
            ("b".to_owned(), AttributeValue::N("22.50".to_owned())),
            ("a".to_owned(), AttributeValue::L(vec![string("x\"y"), number(1)])),
        ]));
        assert_eq!(json_text(&reading).as_deref(), Some(r#"{"a":["x\"y",1],"b":22.50}"#));
    }

    #[test]
    fn dead_letter_is_expected_to_succeed() {
        assert_eq!(success("telemetry/a", b"[{},{}]"), json!({"stored": {"readings": 2}}));
        assert_eq!(success("telemetry/a", b"{}"), json!({"stored": {"readings": 1}}));
        assert_eq!(success("doorbell/a", b"{}"), json!({"notification": {}}));
    }
}
