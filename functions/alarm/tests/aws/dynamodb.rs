//! DynamoDB: items, their conditions and updates, many read at once, and the index of what is due. What it does not
//! know it does not take.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::{Answer, Item, State};

fn keys(table: &str) -> &'static [&'static str] {
    match table {
        "alarms" => &["id", "part"],
        "idempotency" => &["id"],
        "quarantine" => &["function", "eventId"],
        other => panic!("there is no table {other}"),
    }
}

fn table(body: &Value) -> &str {
    body["TableName"].as_str().unwrap()
}

fn key_of(table: &str, from: &Value) -> (String, Vec<String>) {
    (table.to_owned(), keys(table).iter().map(|name| from[name]["S"].as_str().unwrap().to_owned()).collect())
}

/// The table, and the key in it that a request is about.
fn key(body: &Value) -> (String, Vec<String>) {
    key_of(table(body), if body["Key"].is_null() { &body["Item"] } else { &body["Key"] })
}

/// What a request is about: a table, and in that of the alarms the kind of record.
pub fn named(body: &Value) -> String {
    if body["RequestItems"].is_object() {
        return "alarms".to_owned();
    }
    if body["IndexName"].is_string() {
        return "due".to_owned();
    }
    match table(body) {
        "alarms" => key(body).1[0].split('#').next().unwrap().to_owned(),
        other => other.to_owned(),
    }
}

impl State {
    pub fn dynamodb(&mut self, operation: &str, body: &Value) -> Answer {
        match operation {
            "Query" => return self.query(body),
            "BatchGetItem" => return self.read_together(body),
            _ => {}
        }
        let key = key(body);
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

    fn read_together(&self, body: &Value) -> Answer {
        let (table, wanted) = body["RequestItems"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(wanted["ConsistentRead"], json!(true), "all that is decided by is read consistently");
        let keys: Vec<_> = wanted["Keys"].as_array().unwrap().iter().map(|key| key_of(table, key)).collect();
        assert!(keys.len() <= 100, "DynamoDB reads a hundred at once");
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "a key stands there twice");
        let items: Vec<_> = keys.iter().filter_map(|key| self.tables.get(key)).collect();
        Answer::good(&json!({"Responses": {table: items}, "UnprocessedKeys": {}}))
    }

    /// Pages of two, in the order of the index.
    fn query(&self, body: &Value) -> Answer {
        assert_eq!(body["IndexName"], json!("due"));
        let wanted = |item: &Item| {
            let mut expressions = Expressions::new(body, item);
            let holds = expressions.holds(body["KeyConditionExpression"].as_str().unwrap());
            expressions.assert_all_used();
            item.contains_key("due") && item.contains_key("dueAt") && holds
        };
        let at = |item: &Item| -> u64 { item["dueAt"]["N"].as_str().unwrap().parse().unwrap() };
        let place = |item: &Item| (at(item), item["id"].to_string(), item["part"].to_string());
        let mut items: Vec<_> =
            self.tables.iter().filter(|((of, _), _)| of == table(body)).map(|(_, item)| item).collect();
        items.retain(|item| wanted(item));
        items.sort_by_key(|item| place(item));
        if let Some(from) = body["ExclusiveStartKey"].as_object() {
            items.retain(|item| place(item) > place(from));
        }
        let keys = |item: &Item| -> Value {
            ["id", "part", "due", "dueAt"]
                .map(|name| (name.to_owned(), item[name].clone()))
                .into_iter()
                .collect::<Item>()
                .into()
        };
        let page: Vec<_> = items.iter().take(2).map(|item| keys(item)).collect();
        let mut answer = json!({"Items": page});
        if items.len() > 2 {
            answer["LastEvaluatedKey"] = page[1].clone();
        }
        Answer::good(&answer)
    }
}

/// Expressions over an item, with their placeholders.
struct Expressions<'a> {
    item: &'a Item,
    names: &'a Value,
    values: &'a Value,
    used: BTreeSet<String>,
    tokens: VecDeque<String>,
}

impl<'a> Expressions<'a> {
    fn new(body: &'a Value, item: &'a Item) -> Self {
        let (names, values) = (&body["ExpressionAttributeNames"], &body["ExpressionAttributeValues"]);
        Self { item, names, values, used: BTreeSet::new(), tokens: VecDeque::new() }
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
                left.zip(right).is_some_and(|(left, right)| order(&left, &right) == Some(Ordering::Less))
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
        self.item.get(&name).cloned()
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
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    let number = |value: &Value| value["N"].as_str().map(|number| number.parse::<u64>().unwrap());
    let text = |value: &Value| value["S"].as_str().map(str::to_owned);
    match (number(left), number(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => Some(text(left)?.cmp(&text(right)?)),
    }
}
