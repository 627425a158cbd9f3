//! The attributes of a DynamoDB item, written and read.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

/// An item, as the SDK has it.
pub type Item = HashMap<String, AttributeValue>;

/// A text to write.
pub fn string(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A whole number to write.
pub fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// An attribute that is a text.
pub fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// An attribute that is a whole number.
pub fn integer(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// Whether an attribute is there and true.
pub fn is_true(item: &Item, name: &str) -> bool {
    item.get(name).is_some_and(|value| value.as_bool() == Ok(&true))
}
