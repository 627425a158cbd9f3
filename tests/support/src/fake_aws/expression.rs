//! The parts of DynamoDB's condition, key condition and update expressions that the functions use.

use std::collections::{BTreeSet, VecDeque};
use std::mem::discriminant;

use serde_json::Value;

use super::dynamodb::Item;

/// Expressions over an item, with their placeholders.
pub(super) struct Expressions<'a> {
    item: &'a Item,
    names: &'a Value,
    values: &'a Value,
    /// The placeholders that were used.
    used: BTreeSet<String>,
    /// The attributes whose values were read.
    read: BTreeSet<String>,
    tokens: VecDeque<String>,
}

impl<'a> Expressions<'a> {
    pub(super) fn new(body: &'a Value, item: &'a Item) -> Self {
        let (names, values) = (&body["ExpressionAttributeNames"], &body["ExpressionAttributeValues"]);
        Self { item, names, values, used: BTreeSet::new(), read: BTreeSet::new(), tokens: VecDeque::new() }
    }

    fn tokenize(&mut self, text: &str) {
        let spaced =
            ["(", ")", ",", "="].iter().fold(text.to_owned(), |text, sign| text.replace(sign, &format!(" {sign} ")));
        let spaced = spaced.replace("< =", "<=").replace("> =", ">=");
        self.tokens = spaced.split_whitespace().map(str::to_owned).collect();
    }

    fn next(&mut self) -> String {
        self.tokens.pop_front().expect("the expression ends too early")
    }

    fn take(&mut self, token: &str) -> bool {
        self.tokens.pop_front_if(|next| next.as_str() == token).is_some()
    }

    fn expect(&mut self, token: &str) {
        assert!(self.take(token), "{token} is missing before {:?}", self.tokens);
    }

    pub(super) fn holds(&mut self, text: &str) -> bool {
        self.tokenize(text);
        let holds = self.any();
        assert!(self.tokens.is_empty(), "the fake does not support {:?} in {text}", self.tokens);
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
        for (function, expected) in [("attribute_not_exists", false), ("attribute_exists", true)] {
            if self.take(function) {
                self.expect("(");
                let value = self.value();
                self.expect(")");
                return value.is_some() == expected;
            }
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
            comparison @ ("<" | "<=" | ">" | ">=") => {
                let right = self.value();
                let both = left.zip(right).and_then(|(left, right)| Ordered::of(&left).zip(Ordered::of(&right)));
                both.filter(|(left, right)| discriminant(left) == discriminant(right)).is_some_and(|(left, right)| {
                    match comparison {
                        "<" => left < right,
                        "<=" => left <= right,
                        ">" => left > right,
                        _ => left >= right,
                    }
                })
            }
            other => panic!("the fake does not support {other} in a condition"),
        }
    }

    /// Returns the name of an attribute, or the one that a placeholder stands for.
    fn name(&mut self, token: &str) -> String {
        if !token.starts_with('#') {
            return token.to_owned();
        }
        self.used.insert(token.to_owned());
        self.names[token].as_str().unwrap_or_else(|| panic!("name {token} is missing")).to_owned()
    }

    /// Parses a placeholder, an attribute, or `if_not_exists`, and returns its value.
    fn value(&mut self) -> Option<Value> {
        if self.take("if_not_exists") {
            self.expect("(");
            let present = self.value();
            self.expect(",");
            let default = self.value();
            self.expect(")");
            return present.or(default);
        }
        let token = self.next();
        if token.starts_with(':') {
            self.used.insert(token.clone());
            return Some(self.values.get(&token).unwrap_or_else(|| panic!("value {token} is missing")).clone());
        }
        let name = self.name(&token);
        let value = self.item.get(&name).cloned();
        self.read.insert(name);
        value
    }

    /// Returns the item after `SET … REMOVE …`.
    pub(super) fn updated(&mut self, text: &str, key: &Value) -> Item {
        self.tokenize(text);
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
        assert!(self.tokens.is_empty(), "the fake does not support {:?} in {text}", self.tokens);
        next
    }

    /// Fails unless every placeholder is used; DynamoDB rejects other requests.
    pub(super) fn assert_all_used(&self) {
        for given in [self.names, self.values].into_iter().filter_map(Value::as_object).flat_map(|given| given.keys()) {
            assert!(self.used.contains(given), "{given} is not used");
        }
    }

    /// Fails unless the condition reads only key attributes; DynamoDB rejects other queries.
    pub(super) fn assert_is_key_condition(mut self, text: &str, key: &[&str]) {
        self.holds(text);
        self.assert_all_used();
        assert!(
            self.read.iter().all(|name| key.contains(&name.as_str())),
            "{text} must be a condition on the key {key:?}"
        );
    }
}

/// A value that can be compared with others of its type.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ordered {
    Number(u64),
    Text(String),
}

impl Ordered {
    pub(super) fn of(value: &Value) -> Option<Self> {
        let number = value["N"].as_str().map(|number| Self::Number(number.parse().unwrap()));
        number.or_else(|| Some(Self::Text(value["S"].as_str()?.to_owned())))
    }
}
