//! One reading: its key, and its item in the table.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::time::Duration;

use gatehouse::{DeviceEvent, Refusal, Timestamp};
use serde_json::value::RawValue;

use crate::attributes::{self, FieldPath, FieldSearch};
use crate::decimal::Decimal;

/// The maximum length of an identity in bytes. A sort key may have 1,024, and escapes can triple the length.
const MAX_IDENTITY_BYTES: usize = 256;

/// Times from this number on are in milliseconds (from 1973 on), smaller ones in seconds (up to the year 5138).
const MIN_MILLIS: u64 = 100_000_000_000;

/// The fields of a reading that the function interprets. All fields, including these, are stored unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    identity: Option<FieldPath>,
    time: FieldPath,
}

impl Fields {
    /// The fields with a reading's identity, if there is one, and with its own time. Each is a name or a JSON pointer.
    pub fn new(identity: Option<&str>, time: &str) -> Self {
        let path = |field: &str| {
            let Ok(path) = field.parse();
            path
        };
        Self { identity: identity.map(path), time: path(time) }
    }
}

/// The sort key, which sorts a thing's readings by time.
///
/// It consists of the time of receipt and the event's id, with the position if the payload is an array. If the reading
/// has an identity, it consists of the reading's own time and that identity, so that a device's own resend overwrites
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SortKey<'a> {
    time: Timestamp,
    id: Cow<'a, str>,
    position: Option<usize>,
}

/// A `#` in the id is written as `%23` and a `%` as `%25`, so that no id can look like another id with a position.
impl fmt::Display for SortKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, id, position } = self;
        write!(f, "{:013}#", time.millis())?;
        if id.contains(['#', '%']) {
            f.write_str(&id.replace('%', "%25").replace('#', "%23"))?;
        } else {
            f.write_str(id)?;
        }
        position.map_or(Ok(()), |position| write!(f, "#{position:06}"))
    }
}

/// A reading to be stored.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The event that contained it.
    pub event: &'a DeviceEvent,
    /// Its position from 0 if the event's payload is an array.
    pub position: Option<usize>,
    /// Its sort key.
    pub at: SortKey<'a>,
    json: &'a RawValue,
    fields: &'a Fields,
    /// Its fields in converted form, if they were converted to find its identity.
    converted: Option<Converted<'a>>,
}

/// A reading's fields in DynamoDB's JSON, and the JSON of its own time.
#[derive(Debug)]
struct Converted<'a> {
    json: Box<[u8]>,
    time: Option<&'a str>,
}

impl<'a> Reading<'a> {
    /// Prepares a reading, which must be a JSON object, and determines its key.
    ///
    /// If readings have an identity, converts the fields to find it, using the buffer `scratch`, and keeps the result
    /// for [`append_put`](Self::append_put), so that each reading is converted only once.
    pub fn new(
        event: &'a DeviceEvent,
        json: &'a RawValue,
        position: Option<usize>,
        fields: &'a Fields,
        tolerance: Duration,
        scratch: &mut Vec<u8>,
    ) -> Result<Self, Refusal> {
        if !json.get().starts_with('{') {
            let why = format!("Item {} is not a JSON object.", position.unwrap_or_default());
            return Err(Refusal::new("not-an-object", why));
        }
        let at = SortKey { time: event.received_at, id: Cow::Borrowed(event.id.as_str()), position };
        let mut reading = Self { event, position, at, json, fields, converted: None };
        if fields.identity.is_some() {
            scratch.clear();
            let (time, identity) = reading.append_fields(scratch)?;
            reading.converted = Some(Converted { json: scratch.as_slice().into(), time });
            let time = time.and_then(parse_time).filter(|time| time.distance(event.received_at) <= tolerance);
            if let Some((time, id)) = time.zip(identity.and_then(parse_identity)) {
                reading.at = SortKey { time, id, position: None };
            }
        }
        Ok(reading)
    }

    /// Returns its primary key: the thing's name, and the sort key.
    pub fn key(&self) -> (&'a str, SortKey<'a>) {
        (self.event.thing.as_str(), self.at.clone())
    }

    /// Returns the length of its JSON in bytes.
    pub fn size(&self) -> usize {
        self.json.get().len()
    }

    /// Checks that DynamoDB can store it.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.converted.is_some() {
            return Ok(());
        }
        self.append_fields(&mut Vec::new()).map(drop)
    }

    /// Appends the request to put its item, in the form of `BatchWriteItem`. The item expires after `retention`.
    ///
    /// Refused if DynamoDB cannot store it. On error, discard whatever was appended.
    pub fn append_put(&self, retention: Duration, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let Self { event, at, .. } = self;
        out.extend_from_slice(b"{\"PutRequest\":{\"Item\":{\"reading\":");
        let time = if let Some(converted) = &self.converted {
            out.extend_from_slice(&converted.json);
            converted.time
        } else {
            self.append_fields(out)?.0
        };
        // A list or a map is not a time, but is still stored among the fields.
        if let Some(time) = time.filter(|json| !json.starts_with(['[', '{'])) {
            out.extend_from_slice(b",\"deviceTime\":");
            // Cannot fail: the same value was converted among the fields.
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
        // Writing to a Vec cannot fail.
        let _ = write!(out, "}},\"receivedAt\":{{\"N\":\"{received}\"}},\"expiration\":{{\"N\":\"{expires}\"}}}}}}}}");
        Ok(())
    }

    /// Appends all its fields as one attribute. Returns the JSON of its own time and of its identity, if it has them.
    fn append_fields(&self, out: &mut Vec<u8>) -> Result<(Option<&'a str>, Option<&'a str>), Refusal> {
        let Fields { time, identity } = self.fields;
        let mut searches = [FieldSearch::new(Some(time)), FieldSearch::new(identity.as_ref())];
        let appended = attributes::append(self.json.get(), &mut searches, out);
        appended.map_err(|error| error.refusal(self.position))?;
        let [time, identity] = searches.map(|search| search.found);
        Ok((time, identity))
    }
}

/// Appends a JSON string.
pub fn append_quoted(text: &str, out: &mut Vec<u8>) {
    // Neither serializing a string nor writing to a Vec can fail.
    let _ = serde_json::to_writer(out, text);
}

/// Parses an identity: a number as it is written, or a string that is neither empty nor too long.
fn parse_identity(json: &str) -> Option<Cow<'_, str>> {
    let identity = match json.bytes().next() {
        Some(b'"') => attributes::text(json),
        Some(b'-' | b'0'..=b'9') => Some(Cow::Borrowed(json)),
        _ => None,
    };
    identity.filter(|identity| (1..=MAX_IDENTITY_BYTES).contains(&identity.len()))
}

/// Parses a time: a number, or a string with a number, of seconds or milliseconds since the epoch.
fn parse_time(json: &str) -> Option<Timestamp> {
    let text = if json.starts_with('"') { attributes::text(json)? } else { Cow::Borrowed(json) };
    let decimal = Decimal::parse(&text).ok()?;
    let whole = decimal.times_ten_to(0)?;
    let millis = if whole >= MIN_MILLIS { whole } else { decimal.times_ten_to(3)? };
    Some(Timestamp::from_millis(millis))
}
