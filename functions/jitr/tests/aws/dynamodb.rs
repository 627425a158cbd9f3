//! DynamoDB: single items, their conditions and updates, and queries of one key. What it does not know it does not take.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use serde_json::{Value, json};

use super::{Answer, Item, State};

fn keys(table: &str) -> &'static [&'static str] {
    match table {
        "devices" => &["id", "part"],
        "idempotency" => &["id"],
        "quarantine" => &["function", "eventId"],
        other => panic!("there is no table {other}"),
    }
}

fn table(body: &Value) -> &str {
    body["TableName"].as_str().unwrap()
}

/// The table, and the key in it that a request is about.
fn key(body: &Value) -> (String, Vec<String>) {
    let table = table(body);
    let from = if body["Key"].is_null() { &body["Item"] } else { &body["Key"] };
    (table.to_owned(), keys(table).iter().map(|name| from[name]["S"].as_str().unwrap().to_owned()).collect())
}

/// What a request is about, without ids.
pub fn named(body: &Value) -> String {
    if body["KeyConditionExpression"].is_string() {
        return body["IndexName"].as_str().unwrap_or("crl").to_owned();
    }
    match table(body) {
        "devices" => {
            let (_, key) = key(body);
            format!("{}/{}", key[0].split('#').next().unwrap(), key[1])
        }
        other => other.to_owned(),
    }
}

impl State {
    pub fn dynamodb(&mut self, operation: &str, body: &Value) -> Answer {
        if operation == "Query" {
            return self.query(body);
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

    fn query(&mut self, body: &Value) -> Answer {
        let wanted = |item: &Item| {
            let mut expressions = Expressions::new(body, item);
            let holds = expressions.holds(body["KeyConditionExpression"].as_str().unwrap());
            expressions.assert_all_used();
            holds
        };
        let items: Vec<_> = self
            .tables
            .iter()
            .filter(|((of, _), item)| of == table(body) && wanted(item))
            .map(|(_, item)| item.clone())
            .collect();
        // One a page.
        let from: usize = body["ExclusiveStartKey"]["n"]["N"].as_str().map_or(0, |n| n.parse().unwrap());
        let page: Vec<_> = items.iter().skip(from).take(1).collect();
        let mut answer = json!({"Items": page});
        if from + 1 < items.len() {
            answer["LastEvaluatedKey"] = json!({"n": {"N": (from + 1).to_string()}});
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
