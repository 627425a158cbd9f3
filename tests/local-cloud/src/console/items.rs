//! Items of tables as JSON, and the items about an event.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::App;

/// Maximum number of items to show from one table.
const MAX_ITEMS: i32 = 20;

/// An item.
pub type Item = HashMap<String, AttributeValue>;

/// Returns an item as JSON. Numbers become strings, because a browser would round them.
pub fn json(item: &Item) -> Value {
    let mut fields: Vec<_> = item.iter().collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    fields.into_iter().map(|(name, value)| (name.clone(), attribute(value))).collect::<Map<_, _>>().into()
}

fn attribute(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.as_str().into(),
        AttributeValue::Bool(value) => (*value).into(),
        AttributeValue::B(bytes) => BASE64_STANDARD.encode(bytes.as_ref()).into(),
        AttributeValue::Ss(texts) | AttributeValue::Ns(texts) => texts.clone().into(),
        AttributeValue::L(values) => values.iter().map(attribute).collect(),
        AttributeValue::M(fields) => json(fields),
        _ => Value::Null,
    }
}

/// Returns an attribute that is a string or a number.
pub fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    match item.get(name)? {
        AttributeValue::S(text) | AttributeValue::N(text) => Some(text),
        _ => None,
    }
}

/// Returns the items about an event, each with its table and a description: those with the event's id, and the records
/// of its thing that it may have changed. Omits tables that cannot be read.
pub async fn of_event(app: &App, id: &str, thing: &str, functions: &[&str]) -> Vec<Value> {
    let mut found = Vec::new();
    let mut add = |table: &str, what: &str, items: Vec<Item>| {
        found.extend(items.iter().map(|item| json!({"table": table, "what": what, "item": json(item)})));
    };
    for function in functions {
        let key = [("function", *function), ("eventId", id)];
        add("quarantine", "the event, refused", app.item("quarantine", &key).await);
        let claim = format!("{function}#{id}");
        add("idempotency", "the effect of this event", app.item("idempotency", &[("id", &claim)]).await);
    }
    let is_handled_by = |name: &str| functions.iter().any(|function| function.ends_with(name));
    if is_handled_by("telemetry") {
        add("telemetry", "a reading", app.readings_of_event(thing, id).await);
    }
    let of_thing = format!("thing#{thing}");
    if is_handled_by("alarm") {
        add("alarms", "the state of this thing, now", app.items("alarms", &of_thing, "threshold#").await);
    }
    if is_handled_by("presence") {
        add("devices", "the presence of this thing, now", app.items("devices", &of_thing, "presence").await);
    }
    if is_handled_by("shadow") {
        add("devices", "the shadow of this thing, now", app.items("devices", &of_thing, "shadow#").await);
    }
    if is_handled_by("jitr") {
        let certificate = format!("certificate#{thing}");
        add("devices", "the admission of this certificate", app.items("devices", &certificate, "admission").await);
    }
    found
}

impl App {
    /// Returns the full name of a table.
    pub fn table(&self, name: &str) -> String {
        format!("{}-{name}", self.deployment.stack)
    }

    /// Reads one item. Returns an empty list if the item or the table does not exist.
    async fn item(&self, table: &str, key: &[(&str, &str)]) -> Vec<Item> {
        let get = self.clients.dynamodb.get_item().table_name(self.table(table)).consistent_read(true);
        let get = key.iter().fold(get, |get, (name, value)| get.key(*name, AttributeValue::S((*value).to_owned())));
        get.send().await.ok().and_then(|found| found.item).into_iter().collect()
    }

    /// Reads the items of a partition whose sort keys have this prefix.
    pub async fn items(&self, table: &str, id: &str, prefix: &str) -> Vec<Item> {
        let query = self.clients.dynamodb.query().table_name(self.table(table)).consistent_read(true).limit(MAX_ITEMS);
        let query = query
            .key_condition_expression("id = :id AND begins_with(part, :prefix)")
            .expression_attribute_values(":id", AttributeValue::S(id.to_owned()))
            .expression_attribute_values(":prefix", AttributeValue::S(prefix.to_owned()));
        query.send().await.ok().and_then(|found| found.items).unwrap_or_default()
    }

    /// Returns the stored readings of a message.
    pub async fn readings_of_event(&self, thing: &str, id: &str) -> Vec<Item> {
        let query = self.clients.dynamodb.query().table_name(self.table("telemetry")).consistent_read(true);
        let query = query
            .key_condition_expression("thing = :thing")
            .filter_expression("eventId = :event")
            .expression_attribute_values(":thing", AttributeValue::S(thing.to_owned()))
            .expression_attribute_values(":event", AttributeValue::S(id.to_owned()));
        query.send().await.ok().and_then(|found| found.items).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits() {
        let item = Item::from([
            ("n".to_owned(), AttributeValue::N("22.50".to_owned())),
            ("m".to_owned(), AttributeValue::M(Item::from([("x".to_owned(), AttributeValue::Bool(true))]))),
            ("l".to_owned(), AttributeValue::L(vec![AttributeValue::S("<b>".to_owned())])),
        ]);
        assert_eq!(json(&item), json!({"n": "22.50", "m": {"x": true}, "l": ["<b>"]}));
    }
}
