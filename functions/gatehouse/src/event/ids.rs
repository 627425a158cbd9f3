use std::fmt;

use crate::runtime::outcome::Refusal;

/// The id of an event, the same for every retry. Idempotency and quarantine use it as their key.
///
/// A device's event has the `traceId` that AWS IoT assigned to the message. Without one (messages published over HTTP
/// have none), and for a command, the id is the SQS message id or the Lambda request id. It does not reveal that a
/// message is a device's own resend of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId(String);

impl EventId {
    /// An id of 1 to 128 printable ASCII characters; `None` for anything else.
    pub fn new(id: impl Into<String>) -> Option<Self> {
        let id = id.into();
        ((1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())).then_some(Self(id))
    }

    /// The trace id if the envelope has one, or else the delivery's id.
    ///
    /// Refused with `bad-envelope` if the id is not valid.
    pub(crate) fn of(trace_id: Option<String>, delivery_id: &str) -> Result<Self, Refusal> {
        Self::new(trace_id.unwrap_or_else(|| delivery_id.to_owned())).ok_or_else(|| {
            let why = "Field `traceId` of the envelope must be 1 to 128 printable ASCII characters.";
            Refusal::new("bad-envelope", why)
        })
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a thing in AWS IoT's registry: 1 to 128 of the characters `a-z A-Z 0-9 : _ -`.
///
/// None of them can act as a wildcard in a topic or a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ThingName(String);

impl ThingName {
    /// Validates a name; refused with `bad-thing-name` if it is not one.
    pub fn new(name: impl Into<String>) -> Result<Self, Refusal> {
        let name = name.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err(Refusal::new("bad-thing-name", "Field `thing` must be 1 to 128 of the characters a-z A-Z 0-9 : _ -."))
        }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ThingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
