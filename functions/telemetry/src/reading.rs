//! One reading: what is looked at in it, the key that it is stored under, and its item in the table.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::time::Duration;

use gatehouse::{DeviceEvent, Refusal, Timestamp};
use serde_json::value::RawValue;

use crate::attributes::{self, Pointer, Wanted};
use crate::decimal::Decimal;

/// The longest text that counts as an identity, in bytes. DynamoDB's sort keys have 1,024.
const LONGEST_IDENTITY: usize = 256;

/// From here on a time is one in milliseconds, not in seconds: 1973 in the one, the year 5138 in the other.
const FIRST_MILLIS: u64 = 100_000_000_000;

/// Which fields of a reading are looked at. All are stored as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    identity: Option<Pointer>,
    time: Pointer,
}

impl Fields {
    /// The fields that hold a reading's identity, if there is one, and its own time; each a name or a JSON pointer.
    pub fn new(identity: Option<&str>, time: &str) -> Self {
        let pointer = |field: &str| {
            let Ok(pointer) = field.parse();
            pointer
        };
        Self { identity: identity.map(pointer), time: pointer(time) }
    }
}

/// The sort key: of two readings of a thing, the later one comes later.
///
/// It is the time of receipt and the event's id, with the position in the payload's array if it is one; or, where the
/// reading has an identity, its own time and that, so that what the device sends again overwrites itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct At<'a> {
    time: Timestamp,
    id: Cow<'a, str>,
    position: Option<usize>,
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, id, position } = self;
        write!(f, "{:013}#{id}", time.millis())?;
        position.map_or(Ok(()), |position| write!(f, "#{position:06}"))
    }
}

/// A reading on its way into the table.
#[derive(Debug, Clone)]
pub struct Reading<'a> {
    /// The event that it came in.
    pub event: &'a DeviceEvent,
    /// Where it stands in the event's array, from 0, if the payload is one.
    pub position: Option<usize>,
    /// Its sort key.
    pub at: At<'a>,
    json: &'a RawValue,
    fields: &'a Fields,
}

impl<'a> Reading<'a> {
    /// Takes up a reading, which must be a JSON object, and makes its key.
    ///
    /// Unless an identity has to be looked for, what is in it is not looked at yet.
    pub fn new(
        event: &'a DeviceEvent,
        json: &'a RawValue,
        position: Option<usize>,
        fields: &'a Fields,
        tolerance: Duration,
    ) -> Result<Self, Refusal> {
        if !json.get().starts_with('{') {
            let why = format!("Item {} is not a JSON object.", position.unwrap_or_default());
            return Err(Refusal::new("not-an-object", why));
        }
        let at = At { time: event.received_at, id: Cow::Borrowed(event.id.as_str()), position };
        let mut reading = Self { event, position, at, json, fields };
        if fields.identity.is_some() {
            let (time, identity) = reading.append_fields(&mut Vec::with_capacity(4 * json.get().len()))?;
            let time = time.and_then(time_in).filter(|time| time.distance(event.received_at) <= tolerance);
            if let Some((time, id)) = time.zip(identity.and_then(identity_in)) {
                reading.at = At { time, id, position: None };
            }
        }
        Ok(reading)
    }

    /// What tells it from every other item in the table: the thing's name, and the sort key.
    pub fn key(&self) -> (&'a str, At<'a>) {
        (self.event.thing.as_str(), self.at.clone())
    }

    /// The length of its JSON, in bytes.
    pub fn size(&self) -> usize {
        self.json.get().len()
    }

    /// Whether DynamoDB could hold it.
    pub fn check(&self) -> Result<(), Refusal> {
        self.append_fields(&mut Vec::new()).map(drop)
    }

    /// Appends the request to put its item, which expires so long after its receipt, as `BatchWriteItem` wants it.
    ///
    /// Refused where DynamoDB could not hold it; what was appended by then is good for nothing.
    pub fn append_put(&self, retention: Duration, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let Self { event, at, .. } = self;
        out.extend_from_slice(b"{\"PutRequest\":{\"Item\":{\"reading\":");
        let (time, _) = self.append_fields(out)?;
        // A list or a map is no time; it is kept among the fields.
        if let Some(time) = time.filter(|json| !json.starts_with(['[', '{'])) {
            out.extend_from_slice(b",\"deviceTime\":");
            // It was appended once already, and had no fault.
            let _ = attributes::append(time, &mut [], out);
        }
        out.extend_from_slice(b",\"thing\":{\"S\":\"");
        out.extend_from_slice(event.thing.as_str().as_bytes());
        out.extend_from_slice(b"\"},\"at\":{\"S\":");
        append_quoted(&at.to_string(), out);
        out.extend_from_slice(b"},\"eventId\":{\"S\":");
        append_quoted(event.id.as_str(), out);
        out.extend_from_slice(b"},\"topic\":{\"S\":");
        append_quoted(&event.topic, out);
        let (received, expires) = (event.received_at.millis(), event.received_at.plus(retention).seconds());
        // A Vec takes whatever is written to it.
        let _ = write!(out, "}},\"receivedAt\":{{\"N\":\"{received}\"}},\"expiration\":{{\"N\":\"{expires}\"}}}}}}}}");
        Ok(())
    }

    /// Appends all its fields, as one attribute; the JSON of its own time and of its identity, where they are.
    fn append_fields(&self, out: &mut Vec<u8>) -> Result<(Option<&'a str>, Option<&'a str>), Refusal> {
        let Fields { time, identity } = self.fields;
        let mut wanted = [Wanted::new(Some(time)), Wanted::new(identity.as_ref())];
        let appended = attributes::append(self.json.get(), &mut wanted, out);
        appended.map_err(|fault| fault.refusal(self.position))?;
        let [time, identity] = wanted.map(|wanted| wanted.found);
        Ok((time, identity))
    }
}

/// Appends a JSON string.
pub fn append_quoted(text: &str, out: &mut Vec<u8>) {
    // Neither a text nor a Vec can fail there.
    let _ = serde_json::to_writer(out, text);
}

/// The identity in a field: a number as it is written there, or a text that is neither empty nor too long. A reading
/// with anything else has none.
fn identity_in(json: &str) -> Option<Cow<'_, str>> {
    let identity = match json.bytes().next() {
        Some(b'"') => attributes::text(json),
        Some(b'-' | b'0'..=b'9') => Some(Cow::Borrowed(json)),
        _ => None,
    };
    identity.filter(|identity| (1..=LONGEST_IDENTITY).contains(&identity.len()))
}

/// The moment in a field: a number, or one in a text, of seconds or milliseconds since the epoch.
fn time_in(json: &str) -> Option<Timestamp> {
    let text = if json.starts_with('"') { attributes::text(json)? } else { Cow::Borrowed(json) };
    let decimal = Decimal::parse(&text).ok()?;
    let whole = decimal.times_ten_to(0)?;
    let millis = if whole >= FIRST_MILLIS { whole } else { decimal.times_ten_to(3)? };
    Some(Timestamp::from_millis(millis))
}
