//! Conversions between a DynamoDB item's attributes and Rust values.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

/// An item, in the SDK's form.
pub type Item = HashMap<String, AttributeValue>;

/// A string attribute.
pub fn string(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A whole number attribute.
pub fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// Returns the value of a string attribute, if there is one of that name.
pub fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// Returns the value of a whole number attribute, if there is one of that name.
pub fn integer(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// Whether there is a Boolean attribute of that name, and it is true.
pub fn is_true(item: &Item, name: &str) -> bool {
    item.get(name).is_some_and(|value| value.as_bool() == Ok(&true))
}
