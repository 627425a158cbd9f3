//! Compares how a function validates an operator's document with the JSON Schema that is published for it.

use gatehouse::{Validate, parse_document};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::event::workspace_file;

/// A JSON Schema in `infra/`.
#[derive(Debug)]
pub struct DocumentSchema {
    validator: Validator,
    /// Parts of the function's refusals of documents that the schema accepts because it cannot express the rule.
    beyond: &'static [&'static str],
}

impl DocumentSchema {
    /// The schema in this file.
    pub fn new(path: &str, beyond: &'static [&'static str]) -> Self {
        let schema: Value = serde_json::from_str(&workspace_file(path)).unwrap();
        Self { validator: jsonschema::validator_for(&schema).unwrap(), beyond }
    }

    /// Fails unless the schema and the function agree on this document, apart from rules that the schema cannot
    /// express.
    pub fn assert_agrees<T: Validate>(&self, document: &Value) {
        let text = document.to_string();
        let is_valid = self.validator.is_valid(document);
        match parse_document::<T>(&text).map(drop) {
            Ok(()) => assert!(is_valid, "only the function accepts {text}"),
            Err(refusal) => {
                let is_beyond = self.beyond.iter().any(|part| refusal.why.contains(part));
                assert!(!is_valid || is_beyond, "only the schema accepts {text}: {}", refusal.why);
            }
        }
    }
}

/// Returns the document with one change for each pair of numbers, which select the changed value and the kind of
/// change.
pub fn mutated(document: &Value, changes: &[(u16, u16)]) -> Value {
    let mut document = document.clone();
    for (place, change) in changes {
        let mut places = Vec::new();
        collect(&document, String::new(), &mut places);
        let pointer = &places[usize::from(*place) % places.len()];
        mutate(&mut document, pointer, usize::from(*change));
    }
    document
}

/// Adds the JSON Pointers of a value and of all values in it.
fn collect(value: &Value, pointer: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(value, format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        Value::Array(elements) => {
            for (index, value) in elements.iter().enumerate() {
                collect(value, format!("{pointer}/{index}"), places);
            }
        }
        _ => {}
    }
    places.push(pointer);
}

fn mutate(document: &mut Value, pointer: &str, change: usize) {
    let pool = pool();
    let (kind, choice) = (change % 8, change / 8);
    let value = document.pointer_mut(pointer).unwrap();
    match (kind, value) {
        (0..=2, value) => *value = pool[choice % pool.len()].clone(),
        (3, Value::Object(fields)) => *value_of(document, pointer) = fields.values().cloned().collect(),
        (3, value) => *value = json!([value.clone()]),
        (4, Value::String(text)) => {
            let text = text.clone();
            *value_of(document, pointer) = json!({text: null});
        }
        (4 | 5, Value::Object(fields)) => {
            let names: Vec<_> = fields.keys().cloned().collect();
            if let Some(name) = names.get(choice % names.len().max(1)) {
                let removed = fields.remove(name).unwrap();
                if kind == 4 {
                    fields.insert(format!("{name}x"), removed);
                }
            }
        }
        (5 | 6, Value::String(text)) => {
            let parts = [
                "x", " ", "\t", "\u{a0}", "é", "/", "#", "+", "~", "~1", "*", "$", "{thing}", "\n", "0", "A", ":", "-",
            ];
            let part = parts[choice % parts.len()];
            if choice % 2 == 0 { text.push_str(part) } else { text.insert_str(0, part) }
        }
        (6 | 7, Value::Object(fields)) => {
            let names =
                ["extra", "above", "below", "stale", "things", "device", "name", "binary", "answers", "infrared"];
            fields.insert(names[choice % names.len()].to_owned(), pool[(choice / names.len()) % pool.len()].clone());
        }
        (_, Value::Array(elements)) => {
            if let Some(last) = elements.last().cloned() {
                elements.extend(std::iter::repeat_n(last, [1, 2, 16, 200][choice % 4]));
            }
        }
        (_, value) => *value = pool[choice % pool.len()].clone(),
    }
}

fn value_of<'a>(document: &'a mut Value, pointer: &str) -> &'a mut Value {
    document.pointer_mut(pointer).unwrap()
}

/// Returns values of every type and at every limit.
fn pool() -> Vec<Value> {
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
    let mut pool = vec![
        Value::Null,
        json!(true),
        json!([]),
        json!({}),
        json!(["x"]),
        json!({"above": 1, "for": "0 s"}),
        json!({"below": 1, "for": "0 s"}),
        json!({"shadow": {"desired": {"a": 1}}}),
        json!({"shadow": {"desired": {}}}),
        json!({"infrared": {"host": "h", "send": ["sendir,1:1,1,1"]}}),
        json!([nested(7)]),
        json!(Map::from_iter([("a".to_owned(), json!([[[[[[[[1]]]]]]]]))])),
    ];
    pool.extend([0, 1, 6, 7, 8, 9, 50].map(nested));
    pool.extend([-1, 0, 1, 65535, 65536].map(Value::from));
    pool.extend([0.0, 1.0, 1.5, 4998.0, -0.5, 1e300].map(Value::from));
    let texts = [
        "",
        "x",
        "OK",
        "STALE",
        "CLOSED",
        "alarm",
        "0 s",
        "15min",
        "15  min",
        "1 s",
        "10 s",
        "11 s",
        "010 s",
        "366 d",
        "367 d",
        "8784 h",
        "8785 h",
        "527040 min",
        "527041 min",
        "31622400 s",
        "31622401 s",
        "1.5 h",
        "-1 s",
        "1 d ",
        "/",
        "/a/~0/~1",
        "/a~2",
        "lux",
        "#",
        "+/a/#",
        "a/#/b",
        "1/2/3/4/5/6/7/8",
        "1/2/3/4/5/6/7/8/9",
        "1/2/3/4/5/6/7/#",
        "1/2/3/4/5/6/7/8/#",
        "$aws/things/a",
        "a//b",
        "refuse",
        "base64",
        "$name",
        "sendir,1:1,65535,1",
        "sendir,1:1,65536,1",
        "sendir,01:1,00001,1,,2",
        "sendir,1:1,1,",
        "https://sqs.eu-west-1.amazonaws.com/222222222222/other.fifo",
        "http://[::1]:80/222222222222/a",
    ];
    pool.extend(texts.map(Value::from));
    pool.extend([64, 65, 128, 129, 253, 254, 256, 257].map(|length| Value::from("a".repeat(length))));
    pool.extend([256, 257].map(|length| Value::from(format!("/{}", "a".repeat(length - 1)))));
    pool
}
