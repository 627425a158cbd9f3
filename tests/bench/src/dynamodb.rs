//! The part of DynamoDB that the functions use. Only the alarms table stores what functions write. No benchmark reads
//! what it has written to other tables, so reads of those return only documents that the benchmark has put there, and
//! every condition holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use hyper::{Request, StatusCode, body::Bytes};
use serde_json::{Map, Value, json};

use crate::aws::{AWS_JSON, Call, FakeResponse};

/// The table of readings.
pub const TELEMETRY_TABLE: &str = "gatehouse-telemetry";
/// The table of alarm states and the thresholds document.
pub const ALARMS_TABLE: &str = "gatehouse-alarms";
/// The table of device records and the destinations document.
pub const DEVICES_TABLE: &str = "gatehouse-devices";
/// The table of the commands to devices and the actions document.
pub const ACTUATOR_TABLE: &str = "gatehouse-actuator";

/// The maximum numbers of items in batch calls.
const MAX_PUTS: usize = 25;
const MAX_GETS: usize = 100;
const MAX_STATEMENTS: usize = 25;

type Item = Map<String, Value>;
/// The partition key and the sort key.
type Key = (String, String);

/// The stored items.
#[derive(Debug, Clone, Default)]
pub struct Tables(Arc<Mutex<BTreeMap<Key, Item>>>);

impl Tables {
    /// Handles a call.
    pub fn handle(&self, request: &Request<Bytes>) -> Result<FakeResponse> {
        let target = request.headers().get("x-amz-target").context("no x-amz-target")?.to_str()?;
        let operation =
            target.strip_prefix("DynamoDB_20120810.").with_context(|| format!("x-amz-target is {target}"))?;
        let fields: Value = serde_json::from_slice(request.body())?;
        let (table, response) = match operation {
            "BatchWriteItem" => {
                let (table, requests) = single_table(&fields)?;
                puts(table, requests)?;
                (table, json!({ "UnprocessedItems": {} }))
            }
            "BatchGetItem" => {
                let (table, wanted) = single_table(&fields)?;
                let found = self.get_all(table, wanted)?;
                (table, json!({ "Responses": { table: found }, "UnprocessedKeys": {} }))
            }
            "GetItem" => {
                let table = table_name(&fields)?;
                let found = self.get(table, object(&fields, "Key")?)?;
                (table, found.map_or(json!({}), |item| json!({ "Item": item })))
            }
            "BatchExecuteStatement" => {
                let mut table = "";
                let statements = array(&fields, "Statements")?;
                ensure!((1..=MAX_STATEMENTS).contains(&statements.len()), "a call has {} statements", statements.len());
                for statement in statements {
                    table = self.update(statement)?;
                }
                (table, json!({ "Responses": vec![json!({ "TableName": table }); statements.len()] }))
            }
            "PutItem" => {
                let table = table_name(&fields)?;
                self.put(table, object(&fields, "Item")?)?;
                (table, json!({}))
            }
            "UpdateItem" | "DeleteItem" => {
                let table = table_name(&fields)?;
                ensure!(table != ALARMS_TABLE, "{operation} is not supported by the fake on {table}");
                (table, json!({}))
            }
            other => bail!("{other} is not supported by the fake"),
        };
        Ok(FakeResponse {
            call: Call { operation: operation.to_owned(), target: table.to_owned(), body: fields.to_string() },
            status: StatusCode::OK,
            error_type: None,
            content_type: AWS_JSON,
            body: response.to_string(),
        })
    }

    /// Puts an operator's document into a table.
    pub fn put_document(&self, table: &str, name: &str, document: &Value) -> Result<()> {
        let item = json!({
            "id": { "S": format!("document#{name}") },
            "part": { "S": "current" },
            "document": { "S": document.to_string() },
            "givenAt": { "N": "1763715600000" },
            "version": { "N": "1" },
        });
        self.store(table, item.as_object().context("the item is not an object")?)
    }

    fn put(&self, table: &str, item: &Item) -> Result<()> {
        well_formed(item)?;
        if table == ALARMS_TABLE { self.store(table, item) } else { Ok(()) }
    }

    /// Executes `UPDATE "table" SET "a"=? … REMOVE "b" … WHERE "id"=? AND "part"=? AND "version"=?`, and returns the
    /// table.
    fn update<'a>(&self, statement: &'a Value) -> Result<&'a str> {
        let text = statement.get("Statement").and_then(Value::as_str).context("no Statement")?;
        let mut values = array(statement, "Parameters")?.iter();
        let words: Vec<_> = text.split(' ').collect();
        let Some((["UPDATE", table], changes)) = words.split_first_chunk().map(|(first, rest)| (*first, rest)) else {
            bail!("{text} is not supported by the fake");
        };
        let unquoted = |word: &'a str| word.trim_matches('"');
        let (mut set, mut removed, mut expected) = (Item::new(), Vec::new(), Item::new());
        for change in changes.chunks(2) {
            let [keyword, word] = *change else { bail!("{text} is incomplete") };
            if keyword == "REMOVE" {
                removed.push(unquoted(word));
                continue;
            }
            let name = unquoted(word.strip_suffix("=?").with_context(|| format!("{word} has no parameter"))?);
            let fields = if keyword == "SET" { &mut set } else { &mut expected };
            fields.insert(name.to_owned(), values.next().context("a parameter is missing")?.clone());
        }
        let table = unquoted(table);
        well_formed(&set)?;
        let mut item = self.get(table, &expected)?.context("the item does not exist")?;
        ensure!(item.get("version") == expected.get("version"), "the item has another version");
        item.extend(set);
        item.retain(|name, _| !removed.contains(&name.as_str()));
        self.store(table, &item)?;
        Ok(table)
    }

    fn store(&self, table: &str, item: &Item) -> Result<()> {
        let key = key(table, item)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, item.clone());
        Ok(())
    }

    fn get(&self, table: &str, wanted: &Item) -> Result<Option<Item>> {
        if !matches!(table, ALARMS_TABLE | ACTUATOR_TABLE) {
            return Ok(None);
        }
        let key = key(table, wanted)?;
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned())
    }

    fn get_all(&self, table: &str, wanted: &Value) -> Result<Vec<Item>> {
        let keys = array(wanted, "Keys")?;
        ensure!((1..=MAX_GETS).contains(&keys.len()), "a call asks for {} items", keys.len());
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for wanted in keys {
            let wanted = wanted.as_object().context("the key is not an object")?;
            ensure!(seen.insert(key(table, wanted)?), "a call has a key twice");
            found.extend(self.get(table, wanted)?);
        }
        Ok(found)
    }
}

/// Returns the items that a `BatchWriteItem` call puts.
///
/// Fails where DynamoDB would refuse the call: more than 25 items, a duplicate key, or an attribute without a type.
pub fn puts<'a>(table: &str, requests: &'a Value) -> Result<Vec<&'a Item>> {
    let requests = requests.as_array().context("the requests are not an array")?;
    ensure!((1..=MAX_PUTS).contains(&requests.len()), "a call has {} requests", requests.len());
    let mut seen = BTreeSet::new();
    let put = |request: &'a Value| -> Result<&'a Item> {
        ensure!(request.as_object().is_some_and(|it| it.len() == 1), "the request has more than one kind");
        let item = object(request.get("PutRequest").context("no PutRequest")?, "Item")?;
        well_formed(item)?;
        ensure!(seen.insert(key(table, item)?), "a call has a key twice");
        Ok(item)
    };
    requests.iter().map(put).collect()
}

/// Returns the only table of a batch call, and its requests.
pub fn single_table(fields: &Value) -> Result<(&str, &Value)> {
    let tables = object(fields, "RequestItems")?;
    ensure!(tables.len() == 1, "the call has {} tables", tables.len());
    let (table, requests) = tables.iter().next().context("the call has no table")?;
    Ok((table, requests))
}

fn table_name(fields: &Value) -> Result<&str> {
    fields.get("TableName").and_then(Value::as_str).context("no TableName")
}

fn object<'a>(fields: &'a Value, name: &str) -> Result<&'a Item> {
    fields.get(name).and_then(Value::as_object).with_context(|| format!("no {name}"))
}

fn array<'a>(fields: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    fields.get(name).and_then(Value::as_array).with_context(|| format!("no {name}"))
}

/// Returns the key of an item.
fn key(table: &str, item: &Item) -> Result<Key> {
    let (hash, range) = match table {
        TELEMETRY_TABLE => ("thing", "at"),
        ALARMS_TABLE | ACTUATOR_TABLE | DEVICES_TABLE => ("id", "part"),
        other => bail!("the key of {other} is unknown"),
    };
    Ok((text(item, hash)?.to_owned(), text(item, range)?.to_owned()))
}

/// Returns a text attribute.
pub fn text<'a>(item: &'a Item, name: &str) -> Result<&'a str> {
    let found = item.get(name).and_then(|value| value.get("S")).and_then(Value::as_str);
    found.with_context(|| format!("{name} is not a text"))
}

/// Converts a JSON value to an attribute value.
pub fn attribute(value: &Value) -> Value {
    match value {
        Value::Null => json!({ "NULL": true }),
        Value::Bool(it) => json!({ "BOOL": it }),
        Value::Number(it) => json!({ "N": it.to_string() }),
        Value::String(it) => json!({ "S": it }),
        Value::Array(it) => json!({ "L": it.iter().map(attribute).collect::<Vec<_>>() }),
        Value::Object(it) => {
            json!({ "M": it.iter().map(|(name, it)| (name.clone(), attribute(it))).collect::<Item>() })
        }
    }
}

fn well_formed(item: &Item) -> Result<()> {
    for (name, value) in item {
        ensure!(is_attribute(value), "{name} is not an attribute value: {value}");
    }
    Ok(())
}

/// Returns whether this is an attribute value of a type that the functions use.
fn is_attribute(value: &Value) -> bool {
    let Some((kind, value)) = value.as_object().filter(|it| it.len() == 1).and_then(|it| it.iter().next()) else {
        return false;
    };
    match (kind.as_str(), value) {
        ("S", Value::String(_)) | ("BOOL", Value::Bool(_)) | ("NULL", Value::Bool(true)) => true,
        ("N", Value::String(number)) => number.parse::<f64>().is_ok(),
        ("L", Value::Array(items)) => items.iter().all(is_attribute),
        ("SS", Value::Array(items)) => !items.is_empty() && items.iter().all(Value::is_string),
        ("M", Value::Object(fields)) => fields.values().all(is_attribute),
        _ => false,
    }
}
