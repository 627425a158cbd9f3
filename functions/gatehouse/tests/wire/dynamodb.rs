//! DynamoDB: items, their conditions and updates, many read at once, and queries of a table or its index. What it does
//! not know it does not take.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::discriminant;

use serde_json::{Map, Value, json};

use super::{Account, Answer, State};

pub type Item = Map<String, Value>;

/// Items by table and key.
pub type Tables = BTreeMap<(String, Vec<String>), Item>;

/// A table, as far as the function's role reaches.
pub struct Table {
    pub name: &'static str,
    pub key: &'static [&'static str],
    pub operations: &'static [&'static str],
    pub index: Option<Index>,
    /// What an item is called in the names of calls, by its key.
    pub called: fn(&[String]) -> String,
}

/// An index that may be queried. An item without its key is not in it.
pub struct Index {
    pub name: &'static str,
    pub key: &'static [&'static str],
    /// Whether it holds items whole, or nothing but keys.
    pub is_whole: bool,
}

/// What every function has.
static COMMON: [Table; 2] = [
    Table {
        name: "idempotency",
        key: &["id"],
        operations: &["PutItem", "UpdateItem", "DeleteItem"],
        index: None,
        called: |_| "idempotency".to_owned(),
    },
    Table {
        name: "quarantine",
        key: &["function", "eventId"],
        operations: &["PutItem"],
        index: None,
        called: |_| "quarantine".to_owned(),
    },
];

/// What a request may say.
const FIELDS: [&str; 14] = [
    "TableName",
    "IndexName",
    "Key",
    "Item",
    "RequestItems",
    "ConsistentRead",
    "ConditionExpression",
    "ReturnValuesOnConditionCheckFailure",
    "UpdateExpression",
    "KeyConditionExpression",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "ExclusiveStartKey",
    "Limit",
];

/// The kind of thing that an id such as `thing#greenhouse-1` is of.
pub fn kind(id: &str) -> &str {
    id.split('#').next().unwrap()
}

impl Table {
    fn of<A: Account>(body: &Value) -> &'static Self {
        let name = match body["RequestItems"].as_object() {
            Some(wanted) => {
                assert_eq!(wanted.len(), 1, "one table at a time is known here");
                wanted.keys().next().unwrap()
            }
            None => body["TableName"].as_str().unwrap(),
        };
        let mut tables = COMMON.iter().chain(A::TABLES);
        tables.find(|table| table.name == name).unwrap_or_else(|| panic!("there is no table {name}"))
    }

    fn key(&self, from: &Value) -> (String, Vec<String>) {
        (self.name.to_owned(), self.key.iter().map(|name| from[name]["S"].as_str().unwrap().to_owned()).collect())
    }
}

/// The item that a request is about, or its key.
fn subject(body: &Value) -> &Value {
    if body["Key"].is_null() { &body["Item"] } else { &body["Key"] }
}

/// What a request is about, without ids: an item, an index, or a table.
pub fn named<A: Account>(body: &Value) -> String {
    let table = Table::of::<A>(body);
    match body["IndexName"].as_str() {
        Some(index) => index.to_owned(),
        None if subject(body).is_null() => table.name.to_owned(),
        None => (table.called)(&table.key(subject(body)).1),
    }
}

impl<A: Account> State<A> {
    pub fn dynamodb(&mut self, operation: &str, body: &Value) -> Answer {
        for field in body.as_object().unwrap().keys() {
            assert!(FIELDS.contains(&field.as_str()), "{field} is not known here");
        }
        let table = Table::of::<A>(body);
        // Whoever may query an index may not query its table.
        let is_of_index = operation == "Query" && body["IndexName"].is_string();
        assert!(is_of_index || table.operations.contains(&operation), "{operation} of {} is not allowed", table.name);
        match operation {
            "Query" => return self.query(table, body),
            "BatchGetItem" => return self.read_together(table, body),
            _ => {}
        }
        let key = table.key(subject(body));
        let item = self.tables.get(&key).cloned().unwrap_or_default();
        let mut expressions = Expressions::new(body, &item);
        let holds = body["ConditionExpression"].as_str().is_none_or(|text| expressions.holds(text));
        let next = match operation {
            "GetItem" => {
                assert_eq!(body["ConsistentRead"], json!(true), "all that is decided by is read consistently");
                let found = self.tables.get(&key);
                return Answer::good(&found.map_or_else(|| json!({}), |item| json!({"Item": item})));
            }
            "PutItem" => Some(body["Item"].as_object().unwrap().clone()),
            "UpdateItem" => Some(expressions.updated(body["UpdateExpression"].as_str().unwrap(), &body["Key"])),
            "DeleteItem" => None,
            other => panic!("{other} is not known here"),
        };
        expressions.assert_all_used();
        if !holds {
            let with_item = body["ReturnValuesOnConditionCheckFailure"] == json!("ALL_OLD");
            let more = if with_item { json!({"Item": item}) } else { json!({}) };
            return Answer::error_with(400, "ConditionalCheckFailedException", more);
        }
        match next {
            Some(item) => self.tables.insert(key, item),
            None => self.tables.remove(&key),
        };
        Answer::good(&json!({}))
    }

    fn read_together(&self, table: &Table, body: &Value) -> Answer {
        let wanted = &body["RequestItems"][table.name];
        let known = json!({"Keys": wanted["Keys"], "ConsistentRead": true});
        assert_eq!(*wanted, known, "all that is decided by is read consistently, and whole");
        let keys: Vec<_> = wanted["Keys"].as_array().unwrap().iter().map(|key| table.key(key)).collect();
        assert!(keys.len() <= 100, "DynamoDB reads a hundred at once");
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "a key stands there twice");
        let items: Vec<_> = keys.iter().filter_map(|key| self.tables.get(key)).collect();
        Answer::good(&json!({"Responses": {table.name: items}, "UnprocessedKeys": {}}))
    }

    /// A page, in the order of the key.
    fn query(&self, table: &Table, body: &Value) -> Answer {
        let index = body["IndexName"].as_str().map(|name| {
            let index = table.index.as_ref().filter(|index| index.name == name);
            index.unwrap_or_else(|| panic!("there is no index {name}"))
        });
        let is_consistent = body["ConsistentRead"] == json!(true);
        assert_eq!(is_consistent, index.is_none(), "a table is read consistently, an index cannot be");
        let key = index.map_or(table.key, |index| index.key);
        let condition = body["KeyConditionExpression"].as_str().unwrap();
        Expressions::new(body, &Item::new()).assert_is_of_key(condition, key);
        let is_found = |((of, _), item): &(&(String, Vec<String>), &Item)| {
            let is_in = of == table.name && key.iter().all(|name| item.contains_key(*name));
            is_in && Expressions::new(body, item).holds(condition)
        };
        let mut items: Vec<_> = self.tables.iter().filter(is_found).map(|(_, item)| item).collect();
        // Where the index has one key twice, the table's own tells them apart.
        let names: Vec<_> = key.iter().chain(table.key).copied().collect();
        let keys = |item: &Item| names.iter().map(|name| ((*name).to_owned(), item[*name].clone())).collect::<Item>();
        let place = |item: &Item| names.iter().map(|name| Ordered::of(&item[*name]).unwrap()).collect::<Vec<_>>();
        items.sort_by_key(|item| place(item));
        if let Some(from) = body["ExclusiveStartKey"].as_object() {
            assert_eq!(keys(from), *from, "a page begins where another ended");
            let from = place(from);
            items.retain(|item| place(item) > from);
        }
        let size = body["Limit"].as_u64().map_or(A::PAGE, |limit| A::PAGE.min(limit.try_into().unwrap()));
        let is_whole = index.is_none_or(|index| index.is_whole);
        let page: Vec<_> =
            items.iter().take(size).map(|item| if is_whole { (*item).clone() } else { keys(item) }).collect();
        let mut answer = json!({"Items": page});
        if items.len() > size {
            answer["LastEvaluatedKey"] = keys(items[size - 1]).into();
        }
        Answer::good(&answer)
    }
}

/// Expressions over an item, with their placeholders.
struct Expressions<'a> {
    item: &'a Item,
    names: &'a Value,
    values: &'a Value,
    /// The placeholders that were used, and the attributes that were looked at.
    used: BTreeSet<String>,
    seen: BTreeSet<String>,
    tokens: VecDeque<String>,
}

impl<'a> Expressions<'a> {
    fn new(body: &'a Value, item: &'a Item) -> Self {
        let (names, values) = (&body["ExpressionAttributeNames"], &body["ExpressionAttributeValues"]);
        Self { item, names, values, used: BTreeSet::new(), seen: BTreeSet::new(), tokens: VecDeque::new() }
    }

    fn read(&mut self, text: &str) {
        let spaced =
            ["(", ")", ",", "="].iter().fold(text.to_owned(), |text, sign| text.replace(sign, &format!(" {sign} ")));
        let spaced = spaced.replace("< =", "<=").replace("> =", ">=");
        self.tokens = spaced.split_whitespace().map(str::to_owned).collect();
    }

    fn next(&mut self) -> String {
        self.tokens.pop_front().expect("more of the expression")
    }

    fn take(&mut self, token: &str) -> bool {
        self.tokens.pop_front_if(|next| next.as_str() == token).is_some()
    }

    fn expect(&mut self, token: &str) {
        assert!(self.take(token), "{token} before {:?}", self.tokens);
    }

    fn holds(&mut self, text: &str) -> bool {
        self.read(text);
        let holds = self.any();
        assert!(self.tokens.is_empty(), "{:?} is left of {text}", self.tokens);
        holds
    }

    fn any(&mut self) -> bool {
        let mut holds = self.all();
        while self.take("OR") {
            holds |= self.all();
        }
        holds
    }

    fn all(&mut self) -> bool {
        let mut holds = self.one();
        while self.take("AND") {
            holds &= self.one();
        }
        holds
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let holds = self.any();
            self.expect(")");
            return holds;
        }
        if self.take("attribute_not_exists") {
            self.expect("(");
            let value = self.value();
            self.expect(")");
            return value.is_none();
        }
        if self.take("begins_with") {
            self.expect("(");
            let value = self.value();
            self.expect(",");
            let start = self.value();
            self.expect(")");
            let text = |value: Option<Value>| value.and_then(|value| value["S"].as_str().map(str::to_owned));
            return text(value).zip(text(start)).is_some_and(|(text, start)| text.starts_with(&start));
        }
        let left = self.value();
        match self.next().as_str() {
            "IN" => {
                self.expect("(");
                let mut holds = false;
                loop {
                    let one = self.value();
                    holds |= left.is_some() && one == left;
                    if !self.take(",") {
                        break;
                    }
                }
                self.expect(")");
                holds
            }
            "=" => {
                let right = self.value();
                left.is_some() && right == left
            }
            "<" => {
                let right = self.value();
                let both = left.zip(right).and_then(|(left, right)| Ordered::of(&left).zip(Ordered::of(&right)));
                both.is_some_and(|(left, right)| discriminant(&left) == discriminant(&right) && left < right)
            }
            other => panic!("{other} is not known here"),
        }
    }

    /// The name of an attribute.
    fn name(&mut self, token: &str) -> String {
        if !token.starts_with('#') {
            return token.to_owned();
        }
        self.used.insert(token.to_owned());
        self.names[token].as_str().unwrap_or_else(|| panic!("{token} is no name")).to_owned()
    }

    /// A value, or an attribute's.
    fn value(&mut self) -> Option<Value> {
        let token = self.next();
        if token.starts_with(':') {
            self.used.insert(token.clone());
            return Some(self.values.get(&token).unwrap_or_else(|| panic!("{token} is no value")).clone());
        }
        let name = self.name(&token);
        let value = self.item.get(&name).cloned();
        self.seen.insert(name);
        value
    }

    /// The item after `SET … REMOVE …`.
    fn updated(&mut self, text: &str, key: &Value) -> Item {
        self.read(text);
        let mut next = self.item.clone();
        next.extend(key.as_object().unwrap().clone());
        self.expect("SET");
        loop {
            let token = self.next();
            let name = self.name(&token);
            self.expect("=");
            next.insert(name, self.value().expect("a value to set"));
            if !self.take(",") {
                break;
            }
        }
        if self.take("REMOVE") {
            loop {
                let token = self.next();
                next.remove(&self.name(&token));
                if !self.take(",") {
                    break;
                }
            }
        }
        assert!(self.tokens.is_empty(), "{:?} is left of {text}", self.tokens);
        next
    }

    /// DynamoDB refuses a request with a placeholder that nothing names.
    fn assert_all_used(&self) {
        for given in [self.names, self.values].into_iter().filter_map(Value::as_object).flat_map(|given| given.keys()) {
            assert!(self.used.contains(given), "{given} is used nowhere");
        }
    }

    /// DynamoDB takes nothing but a key in the condition of a query.
    fn assert_is_of_key(mut self, text: &str, key: &[&str]) {
        self.holds(text);
        self.assert_all_used();
        assert!(self.seen.iter().all(|name| key.contains(&name.as_str())), "{text} is not of the key {key:?}");
    }
}

/// A value that others of its kind come before or after.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Ordered {
    Number(u64),
    Text(String),
}

impl Ordered {
    fn of(value: &Value) -> Option<Self> {
        let number = value["N"].as_str().map(|number| Self::Number(number.parse().unwrap()));
        number.or_else(|| Some(Self::Text(value["S"].as_str()?.to_owned())))
    }
}
