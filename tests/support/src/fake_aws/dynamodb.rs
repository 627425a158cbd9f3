//! Amazon DynamoDB: single items with conditions and updates, batches, PartiQL updates, and queries of a table or an
//! index.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::expression::{Expressions, Ordered};
use super::response::Response;
use super::{Fault, State};

/// An item, in DynamoDB's JSON.
pub type Item = Map<String, Value>;

/// A table's name and the values of an item's key.
pub type ItemKey = (String, Vec<String>);

/// A table, with the operations on it that the function's role allows.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The attributes of its key, which are strings.
    pub key: &'static [&'static str],
    /// The operations that the role allows.
    pub operations: &'static [&'static str],
    /// Its index, which may be queried.
    pub index: Option<Index>,
    /// Returns the label, in [`Call::name`](super::Call::name), of an item in the named table with this key.
    pub label: fn(&str, &[String]) -> String,
}

/// An index. An item without its key is not in it.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// The attributes of its key.
    pub key: &'static [&'static str],
    /// Whether it holds all attributes, or only keys.
    pub projects_all: bool,
}

/// The tables of every function.
pub(super) static COMMON: [Table; 2] = [
    Table::new("idempotency", &["id"], &["PutItem", "UpdateItem", "DeleteItem"]),
    Table::new("quarantine", &["function", "eventId"], &["PutItem"]),
];

/// The fields that a request may contain.
const FIELDS: [&str; 17] = [
    "TableName",
    "IndexName",
    "Key",
    "Item",
    "RequestItems",
    "Statements",
    "ConsistentRead",
    "ConditionExpression",
    "ReturnValuesOnConditionCheckFailure",
    "UpdateExpression",
    "KeyConditionExpression",
    "FilterExpression",
    "ProjectionExpression",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "ExclusiveStartKey",
    "Limit",
];

/// The maximum numbers of keys in a `BatchGetItem`, of items in a `BatchWriteItem`, and of statements in a batch.
const MAX_BATCH_GET: usize = 100;
const MAX_BATCH_WRITE: usize = 25;
const MAX_STATEMENTS: usize = 25;

/// The kind in a partition key such as `thing#greenhouse-1`.
pub fn kind(partition_key: &str) -> &str {
    partition_key.split('#').next().unwrap()
}

/// Labels an item by the kind in its partition key, such as `thing`.
pub fn label_by_kind(_table: &str, key: &[String]) -> String {
    kind(&key[0]).to_owned()
}

/// Labels an item by the kind in its partition key and by its sort key, such as `thing/presence`.
pub fn label_by_kind_and_sort_key(_table: &str, key: &[String]) -> String {
    format!("{}/{}", kind(&key[0]), key[1])
}

fn label_by_table(table: &str, _key: &[String]) -> String {
    table.to_owned()
}

impl Table {
    /// A table without an index, whose items are labeled by its name.
    pub const fn new(name: &'static str, key: &'static [&'static str], operations: &'static [&'static str]) -> Self {
        Self { name, key, operations, index: None, label: label_by_table }
    }

    /// Adds an index.
    #[must_use]
    pub const fn index(self, index: Index) -> Self {
        Self { index: Some(index), ..self }
    }

    /// Sets how items are labeled.
    #[must_use]
    pub const fn label(self, label: fn(&str, &[String]) -> String) -> Self {
        Self { label, ..self }
    }

    fn key_of(&self, item: &Value) -> ItemKey {
        let part = |name: &&str| {
            let value = item[*name]["S"].as_str().unwrap_or_else(|| panic!("{name} of table {} is missing", self.name));
            assert!(!value.is_empty(), "{name} of table {} is empty", self.name);
            value.to_owned()
        };
        (self.name.to_owned(), self.key.iter().map(part).collect())
    }
}

/// A PartiQL update: `UPDATE "table" SET "a"=? REMOVE "b" WHERE "c"=? AND "d"=?`, with any number of changes.
struct UpdateStatement<'a> {
    table: &'a str,
    /// The values of attributes that are set; `None` if one is removed.
    changes: Vec<(&'a str, Option<&'a Value>)>,
    conditions: Vec<(&'a str, &'a Value)>,
}

impl<'a> UpdateStatement<'a> {
    fn parse(statement: &'a Value) -> Self {
        let mut values = statement["Parameters"].as_array().unwrap().iter();
        let mut words = statement["Statement"].as_str().unwrap().split(' ');
        let unquoted = |word: &'a str| word.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
        let mut assigned = |word: &'a str| (unquoted(word.strip_suffix("=?").unwrap()), values.next().unwrap());
        assert_eq!(words.next(), Some("UPDATE"), "the fake supports updates only");
        let table = unquoted(words.next().unwrap());
        let (mut changes, mut conditions) = (Vec::new(), Vec::new());
        while let (Some(keyword), Some(word)) = (words.next(), words.next()) {
            match keyword {
                "SET" => {
                    let (name, value) = assigned(word);
                    changes.push((name, Some(value)));
                }
                "REMOVE" => changes.push((unquoted(word), None)),
                "WHERE" | "AND" => conditions.push(assigned(word)),
                other => panic!("the fake does not support {other}"),
            }
        }
        assert_eq!(values.next(), None, "there are more parameters than the statement uses");
        Self { table, changes, conditions }
    }

    fn key(&self, table: &Table) -> ItemKey {
        assert_eq!(self.table, table.name, "the fake supports batches of one table");
        let is_key = |name: &str| table.key.contains(&name);
        assert!(self.changes.iter().all(|(name, _)| !is_key(name)), "an update cannot change the key");
        let key: Item = self.conditions.iter().map(|(name, value)| ((*name).to_owned(), (*value).clone())).collect();
        table.key_of(&key.into())
    }
}

/// The item that a request is about, or its key.
fn subject(body: &Value) -> &Value {
    if body["Key"].is_null() { &body["Item"] } else { &body["Key"] }
}

impl State {
    pub(super) fn table_named(&self, name: &str) -> Table {
        let table = self.settings.tables.iter().rfind(|table| table.name == name);
        *table.unwrap_or_else(|| panic!("there is no table {name}"))
    }

    fn table_of(&self, body: &Value) -> Table {
        let name = match body["RequestItems"].as_object() {
            Some(requests) => {
                assert_eq!(requests.len(), 1, "the fake supports batches of one table");
                requests.keys().next().unwrap()
            }
            None => match body["Statements"].as_array() {
                Some(statements) => UpdateStatement::parse(&statements[0]).table,
                None => body["TableName"].as_str().unwrap(),
            },
        };
        self.table_named(name)
    }

    /// Returns what a request is about, without ids: an item, an index, or a table.
    pub(super) fn dynamodb_label(&self, body: &Value) -> String {
        let table = self.table_of(body);
        match body["IndexName"].as_str() {
            Some(index) => index.to_owned(),
            None if subject(body).is_null() => table.name.to_owned(),
            None => (table.label)(table.name, &table.key_of(subject(body)).1),
        }
    }

    pub(super) fn dynamodb(&mut self, operation: &str, body: &Value, fault: Option<Fault>) -> Response {
        for field in body.as_object().unwrap().keys() {
            assert!(FIELDS.contains(&field.as_str()), "the fake does not support {field}");
        }
        let table = self.table_of(body);
        // Permission to query an index does not require permission to query its table.
        let is_of_index = operation == "Query" && body["IndexName"].is_string();
        assert!(is_of_index || table.operations.contains(&operation), "{operation} of {} is not allowed", table.name);
        match operation {
            "Query" => self.query(&table, body),
            "Scan" => self.scan(&table, body),
            "BatchGetItem" => self.batch_get(&table, body, fault),
            "BatchWriteItem" => self.batch_write(&table, body, fault),
            "BatchExecuteStatement" => self.batch_execute(&table, body, fault),
            "GetItem" => {
                assert_eq!(
                    body["ConsistentRead"],
                    json!(true),
                    "what decisions are based on must be read consistently"
                );
                let found = self.tables.get(&table.key_of(&body["Key"]));
                Response::Output(found.map_or_else(|| json!({}), |item| json!({"Item": item})))
            }
            "PutItem" | "UpdateItem" | "DeleteItem" => self.write(&table, operation, body),
            other => panic!("the fake DynamoDB does not support {other}"),
        }
    }

    fn write(&mut self, table: &Table, operation: &str, body: &Value) -> Response {
        let key = table.key_of(subject(body));
        let item = self.tables.get(&key).cloned().unwrap_or_default();
        let mut expressions = Expressions::new(body, &item);
        let holds = body["ConditionExpression"].as_str().is_none_or(|text| expressions.holds(text));
        let next = match operation {
            "PutItem" => Some(body["Item"].as_object().unwrap().clone()),
            "UpdateItem" => Some(expressions.updated(body["UpdateExpression"].as_str().unwrap(), &body["Key"])),
            _ => None,
        };
        expressions.assert_all_used();
        if !holds {
            let returns_item = body["ReturnValuesOnConditionCheckFailure"] == json!("ALL_OLD") && !item.is_empty();
            let more = if returns_item { json!({"Item": item}) } else { json!({}) };
            return Response::error_with(400, "ConditionalCheckFailedException", more);
        }
        match next {
            Some(item) => self.store(key, item),
            None => drop(self.tables.remove(&key)),
        }
        Response::empty()
    }

    fn store(&mut self, key: ItemKey, item: Item) {
        *self.writes.entry(key.clone()).or_default() += 1;
        self.tables.insert(key, item);
    }

    fn batch_get(&self, table: &Table, body: &Value, fault: Option<Fault>) -> Response {
        let request = &body["RequestItems"][table.name];
        let expected = json!({"Keys": request["Keys"], "ConsistentRead": true});
        assert_eq!(*request, expected, "what decisions are based on must be read consistently, and whole");
        let keys = request["Keys"].as_array().unwrap();
        let distinct: BTreeSet<_> = keys.iter().map(|key| table.key_of(key)).collect();
        assert!((1..=MAX_BATCH_GET).contains(&keys.len()), "DynamoDB does not read {} keys in one call", keys.len());
        assert_eq!(distinct.len(), keys.len(), "a key appears twice");
        let unprocessed = match fault {
            Some(Fault::Unprocessed(count)) => count,
            _ => keys.len().saturating_sub(self.max_batch_get.unwrap_or(MAX_BATCH_GET)),
        };
        let (now, later) = keys.split_at(keys.len().saturating_sub(unprocessed));
        let items: Vec<_> = now.iter().filter_map(|key| self.tables.get(&table.key_of(key))).collect();
        let later =
            if later.is_empty() { json!({}) } else { json!({table.name: {"Keys": later, "ConsistentRead": true}}) };
        Response::Output(json!({"Responses": {table.name: items}, "UnprocessedKeys": later}))
    }

    fn batch_write(&mut self, table: &Table, body: &Value, fault: Option<Fault>) -> Response {
        let puts = body["RequestItems"][table.name].as_array().unwrap();
        let item = |put: &Value| put["PutRequest"]["Item"].clone();
        let distinct: BTreeSet<_> = puts.iter().map(|put| table.key_of(&item(put))).collect();
        if !(1..=MAX_BATCH_WRITE).contains(&puts.len()) || distinct.len() < puts.len() {
            return Response::error(400, "ValidationException");
        }
        let unprocessed = if let Some(Fault::Unprocessed(count)) = fault { count } else { 0 };
        let (now, later) = puts.split_at(puts.len().saturating_sub(unprocessed));
        for put in now {
            let item = item(put);
            self.store(table.key_of(&item), item.as_object().unwrap().clone());
        }
        let later = if fault == Some(Fault::UnknownUnprocessed) {
            let key = table.key.iter().map(|name| ((*name).to_owned(), json!({"S": "unknown"}))).collect::<Item>();
            json!({table.name: [{"PutRequest": {"Item": key}}]})
        } else if later.is_empty() {
            json!({})
        } else {
            json!({table.name: later})
        };
        Response::Output(json!({"UnprocessedItems": later}))
    }

    fn batch_execute(&mut self, table: &Table, body: &Value, fault: Option<Fault>) -> Response {
        let statements = body["Statements"].as_array().unwrap();
        let distinct: BTreeSet<_> =
            statements.iter().map(|statement| UpdateStatement::parse(statement).key(table)).collect();
        assert!((1..=MAX_STATEMENTS).contains(&statements.len()), "a call has {} statements", statements.len());
        assert_eq!(distinct.len(), statements.len(), "a key appears twice");
        let throttled = if let Some(Fault::Unprocessed(count)) = fault { count } else { 0 };
        let throttled_from = statements.len().saturating_sub(throttled);
        let responses: Vec<_> = statements
            .iter()
            .enumerate()
            .map(|(index, statement)| {
                let error = if index < throttled_from {
                    self.execute(table, statement)
                } else {
                    Some(json!({"Code": "ThrottlingError"}))
                };
                error.map_or_else(|| json!({"TableName": table.name}), |error| json!({"Error": error}))
            })
            .collect();
        Response::Output(json!({"Responses": responses}))
    }

    /// Executes an update, and returns its error.
    fn execute(&mut self, table: &Table, statement: &Value) -> Option<Value> {
        let update = UpdateStatement::parse(statement);
        let key = update.key(table);
        let Some(item) = self.tables.get(&key) else { return Some(json!({"Code": "ConditionalCheckFailed"})) };
        if !update.conditions.iter().all(|(name, value)| item.get(*name) == Some(*value)) {
            let mut error = json!({"Code": "ConditionalCheckFailed"});
            if statement["ReturnValuesOnConditionCheckFailure"] == json!("ALL_OLD") {
                error["Item"] = item.clone().into();
            }
            return Some(error);
        }
        let mut item = item.clone();
        for (name, value) in update.changes {
            match value {
                Some(value) => drop(item.insert(name.to_owned(), value.clone())),
                None => drop(item.remove(name)),
            }
        }
        self.store(key, item);
        None
    }

    /// Returns a page of the items that pass the filter. Items are in the order of the key, and have all their
    /// attributes regardless of the projection.
    fn scan(&self, table: &Table, body: &Value) -> Response {
        let is_after = |key: &ItemKey| {
            let start = &body["ExclusiveStartKey"];
            start.is_null() || *key > table.key_of(start)
        };
        let of_table = self.tables.iter().filter(|(key, _)| key.0 == table.name && is_after(key));
        let items: Vec<_> = of_table.map(|(_, item)| item).collect();
        let page_size = self.settings.page_size;
        let size = body["Limit"].as_u64().map_or(page_size, |limit| page_size.min(limit.try_into().unwrap()));
        let filter = body["FilterExpression"].as_str();
        let passes = |item: &&&Item| filter.is_none_or(|filter| Expressions::new(body, item).holds(filter));
        let page: Vec<_> = items.iter().take(size).filter(passes).collect();
        let mut output = json!({"Items": page});
        if items.len() > size {
            let last = items[size - 1];
            let key: Item = table.key.iter().map(|name| ((*name).to_owned(), last[*name].clone())).collect();
            output["LastEvaluatedKey"] = key.into();
        }
        Response::Output(output)
    }

    /// Returns a page, in the order of the key.
    fn query(&self, table: &Table, body: &Value) -> Response {
        let index = body["IndexName"].as_str().map(|name| {
            let index = table.index.as_ref().filter(|index| index.name == name);
            index.unwrap_or_else(|| panic!("there is no index {name}"))
        });
        let is_consistent = body["ConsistentRead"] == json!(true);
        assert_eq!(is_consistent, index.is_none(), "a table is read consistently, an index cannot be");
        let key = index.map_or(table.key, |index| index.key);
        let condition = body["KeyConditionExpression"].as_str().unwrap();
        Expressions::new(body, &Item::new()).assert_is_key_condition(condition, key);
        let is_found = |((of, _), item): &(&ItemKey, &Item)| {
            let is_in_index = of == table.name && key.iter().all(|name| item.contains_key(*name));
            is_in_index && Expressions::new(body, item).holds(condition)
        };
        let mut items: Vec<_> = self.tables.iter().filter(is_found).map(|(_, item)| item).collect();
        // Several items may have the same key in an index; the table's key distinguishes them.
        let names: Vec<_> = key.iter().chain(table.key).copied().collect();
        let keys = |item: &Item| names.iter().map(|name| ((*name).to_owned(), item[*name].clone())).collect::<Item>();
        let position = |item: &Item| names.iter().map(|name| Ordered::of(&item[*name]).unwrap()).collect::<Vec<_>>();
        items.sort_by_key(|item| position(item));
        if let Some(from) = body["ExclusiveStartKey"].as_object() {
            assert_eq!(keys(from), *from, "a page starts where another ended");
            let from = position(from);
            items.retain(|item| position(item) > from);
        }
        let page_size = self.settings.page_size;
        let size = body["Limit"].as_u64().map_or(page_size, |limit| page_size.min(limit.try_into().unwrap()));
        let is_whole = index.is_none_or(|index| index.projects_all);
        let page: Vec<_> =
            items.iter().take(size).map(|item| if is_whole { (*item).clone() } else { keys(item) }).collect();
        let mut output = json!({"Items": page});
        if items.len() > size {
            output["LastEvaluatedKey"] = keys(items[size - 1]).into();
        }
        Response::Output(output)
    }
}
