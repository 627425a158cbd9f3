//! Compares effects with expectations.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::StepResult;
use crate::observer::{Effect, Notification, QueueMessage};
use crate::scenario::{Expectation, ExpectedNotification, Stored};

/// Returns whether a forwarded message has the payload that the device sent, byte for byte.
pub(super) fn is_unmodified(message: &QueueMessage, payload: &[u8]) -> bool {
    match message.attributes.get("contentTransferEncoding").map(String::as_str) {
        Some("base64") => BASE64_STANDARD.decode(&message.body).is_ok_and(|body| body == payload),
        Some(_) => false,
        None => message.body.as_bytes() == payload,
    }
}

/// Returns whether an effect is of the expected kind. Does not compare the content of notifications and forwarded
/// messages.
pub(super) fn matches_kind(expected: &Expectation, effect: &Effect) -> bool {
    match (expected, effect) {
        (Expectation::Quarantine(expected), Effect::Quarantined { reason, .. })
        | (Expectation::Refused(expected), Effect::Refused { reason, .. })
        | (Expectation::Rejected(expected), Effect::Rejected { reason, .. }) => *reason == expected.reason,
        (Expectation::Stored(Stored { readings: expected }), Effect::Stored { readings }) => readings == expected,
        (Expectation::Desired(expected), Effect::Desired(state)) => state == expected,
        (Expectation::Recorded(expected), Effect::Recorded(state)) => state == expected,
        (Expectation::Alarm(expected), Effect::Alarm(alarm)) => alarm.meets(expected),
        (Expectation::Forwarded(_), Effect::Forwarded(_))
        | (Expectation::Connected, Effect::Connected)
        | (Expectation::Disconnected, Effect::Disconnected)
        | (Expectation::Notification(_), Effect::Notified(_))
        | (Expectation::Suppressed, Effect::Suppressed)
        | (Expectation::Nothing, Effect::Accepted)
        | (Expectation::Done, Effect::Done)
        | (Expectation::Admitted, Effect::Admitted { .. }) => true,
        _ => false,
    }
}

/// Returns how a result differs from the expected outcome, if it does.
pub(super) fn mismatch(expected: &Expectation, result: &StepResult) -> Option<String> {
    let is_expected = match (expected, &result.effect) {
        (Expectation::Notification(expected), Some(Effect::Notified(notification))) => {
            return notification_differs(expected, notification);
        }
        (Expectation::Forwarded(expected), Some(Effect::Forwarded(message))) => {
            return attribute_differs(&expected.attributes, &message.attributes);
        }
        (Expectation::Nothing, None) => true,
        (Expectation::Denied, None) => result.denied,
        (expected, Some(effect)) => matches_kind(expected, effect),
        _ => false,
    };
    if is_expected {
        return None;
    }
    Some(match &result.effect {
        None if result.denied => "AWS IoT denied it".to_owned(),
        None if matches!(expected, Expectation::Desired(_)) => "the shadow has no desired state".to_owned(),
        None if matches!(expected, Expectation::Recorded(_)) => "the shadow is not recorded".to_owned(),
        None if result.function.is_none() => "no rule matches this topic".to_owned(),
        None => "there was no effect".to_owned(),
        Some(effect) => format!("got {effect}"),
    })
}

fn notification_differs(expected: &ExpectedNotification, notification: &Notification) -> Option<String> {
    text_differs("message", expected.message.as_deref(), Some(&notification.message))
        .or_else(|| text_differs("subject", expected.subject.as_deref(), notification.subject.as_deref()))
        .or_else(|| attribute_differs(&expected.attributes, &notification.attributes))
}

fn attribute_differs(expected: &BTreeMap<String, String>, actual: &BTreeMap<String, String>) -> Option<String> {
    expected.iter().find_map(|(name, value)| {
        text_differs(&format!("attribute {name}"), Some(value), actual.get(name).map(String::as_str))
    })
}

fn text_differs(name: &str, expected: Option<&str>, actual: Option<&str>) -> Option<String> {
    let expected = expected?;
    (actual != Some(expected)).then(|| match actual {
        Some(actual) => format!("the {name} is {actual:?}"),
        None => format!("there is no {name}"),
    })
}
