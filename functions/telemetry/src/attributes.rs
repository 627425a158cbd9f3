//! Converts a reading's JSON into DynamoDB's JSON with typed attributes, in a single pass over the text.
//!
//! No tree of values is built in between, which makes the conversion fast and keeps every digit of a number.

use std::borrow::Cow;
use std::fmt::Write;
use std::str::FromStr;

use gatehouse::Refusal;

use crate::decimal::{Decimal, DecimalError, MAX_DIGITS};

/// The maximum nesting of maps and lists in a reading, including the map of all its fields. DynamoDB's limit is 32
/// levels, and the value in the innermost map or list counts as one.
pub const MAX_DEPTH: usize = 31;

/// The maximum number of names that are compared pairwise; more are sorted first.
const MAX_PAIRWISE: usize = 8;

/// A field's name, or a JSON pointer (RFC 6901) to it, such as `/meta/seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPath(Vec<String>);

impl FromStr for FieldPath {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unescaped = |token: &str| token.replace("~1", "/").replace("~0", "~");
        Ok(Self(match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(unescaped).collect(),
            None => vec![text.to_owned()],
        }))
    }
}

/// A field that the conversion looks for.
#[derive(Debug)]
pub struct FieldSearch<'a, 'p> {
    path: Option<&'p FieldPath>,
    /// Its JSON text, once it is found.
    pub found: Option<&'a str>,
}

impl<'p> FieldSearch<'_, 'p> {
    /// A search for the field at this path. Without a path, it finds nothing.
    pub fn new(path: Option<&'p FieldPath>) -> Self {
        Self { path, found: None }
    }
}

/// Why DynamoDB cannot store a value, and where the value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeError {
    problem: Problem,
    /// The value's position at each level, from 0, innermost first. Used in place of field names, which the device
    /// chose.
    place: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    TooManyDigits(usize),
    OutOfRange,
    TooDeep,
    EmptyName,
    DuplicateName,
    Unreadable,
}

impl From<Problem> for AttributeError {
    fn from(problem: Problem) -> Self {
        Self { problem, place: Vec::new() }
    }
}

impl AttributeError {
    fn within(mut self, position: usize) -> Self {
        self.place.push(position);
        self
    }

    /// Returns the event's refusal. `item` is the reading's position, from 0, if the payload is an array.
    pub fn refusal(&self, item: Option<usize>) -> Refusal {
        let mut why = item.map_or_else(String::new, |item| format!("In item {item}, "));
        let noun = match self.problem {
            Problem::EmptyName | Problem::DuplicateName => "the name of value",
            _ => "value",
        };
        why.push_str(noun);
        for (depth, position) in self.place.iter().rev().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(why, "{}{position}", if depth == 0 { ' ' } else { '.' });
        }
        let (code, why_not) = match self.problem {
            Problem::TooManyDigits(count) => (
                "too-many-digits",
                format!("is a number of {count} significant digits; DynamoDB stores at most {MAX_DIGITS}"),
            ),
            Problem::OutOfRange => {
                ("number-out-of-range", "is a number outside DynamoDB's range, 1E-130 to 9.9E+125".to_owned())
            }
            Problem::TooDeep => ("too-deep", format!("is nested too deep; DynamoDB stores at most {MAX_DEPTH} levels")),
            Problem::EmptyName => ("empty-name", "is empty".to_owned()),
            Problem::DuplicateName => ("duplicate-field", "appears twice".to_owned()),
            Problem::Unreadable => ("not-json", "is not JSON that can be parsed".to_owned()),
        };
        if item.is_none() {
            let first: String = why.drain(..1).collect();
            why.insert_str(0, &first.to_uppercase());
        }
        Refusal::new(code, format!("{why} {why_not}."))
    }
}

/// Appends the value in DynamoDB's JSON, such as `{"M":{"lux":{"N":"41250"}}}`, and performs the searches in the same
/// pass.
///
/// The JSON must come from a `RawValue`, which is well-formed except for its escapes. On error, discard whatever was
/// appended.
pub fn append<'a>(
    json: &'a str,
    searches: &mut [FieldSearch<'a, '_>],
    out: &mut Vec<u8>,
) -> Result<(), AttributeError> {
    let all = searches.iter().enumerate().fold(0, |all, (bit, _)| all | 1 << bit);
    Pass { text: json, at: 0, names: Vec::with_capacity(2 * MAX_PAIRWISE), searches, out }.value(0, all)
}

/// Returns the text of a JSON string; `None` for any other value, and for an escape that does not denote a character.
pub fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    // Only escapes need parsing.
    if inner.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

struct Pass<'a, 'p, 'w> {
    text: &'a str,
    at: usize,
    /// The names in the objects that are not closed yet, as they are written, with their positions.
    names: Vec<(&'a str, usize)>,
    searches: &'w mut [FieldSearch<'a, 'p>],
    out: &'w mut Vec<u8>,
}

impl<'a> Pass<'a, '_, '_> {
    /// Returns the next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn since(&self, start: usize) -> Result<&'a str, Problem> {
        self.text.get(start..self.at).ok_or(Problem::Unreadable)
    }

    /// Skips to the first byte for which `is_end` is true.
    fn skip_to(&mut self, is_end: impl Fn(u8) -> bool) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        self.at += rest.iter().position(|byte| is_end(*byte)).unwrap_or(rest.len());
    }

    /// Reads a string with its quotes. Also returns whether it has escapes.
    fn string(&mut self) -> Result<(&'a str, bool), Problem> {
        let (start, mut has_escapes) = (self.at, false);
        self.at += 1;
        loop {
            self.skip_to(|byte| matches!(byte, b'"' | b'\\'));
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => break,
                Some(_) => (self.at, has_escapes) = (self.at + 2, true),
                None => return Err(Problem::Unreadable),
            }
        }
        self.at += 1;
        Ok((self.since(start)?, has_escapes))
    }

    /// Converts a value. `leading` has a bit for each search whose path leads to it.
    fn value(&mut self, depth: usize, leading: u8) -> Result<(), AttributeError> {
        match self.peek() {
            Some(b'"') => {
                let (string, has_escapes) = self.string()?;
                // DynamoDB's JSON has the same escapes, and half of a surrogate pair is invalid there, too.
                if has_escapes && text(string).is_none() {
                    return Err(Problem::Unreadable.into());
                }
                self.out.extend_from_slice(b"{\"S\":");
                self.out.extend_from_slice(string.as_bytes());
                self.out.push(b'}');
            }
            Some(b'{') => {
                self.out.extend_from_slice(b"{\"M\":{");
                self.object(depth, leading)?;
                self.out.extend_from_slice(b"}}");
            }
            Some(b'[') => {
                self.out.extend_from_slice(b"{\"L\":[");
                self.list(depth, leading)?;
                self.out.extend_from_slice(b"]}");
            }
            Some(b't') => self.literal("true", b"{\"BOOL\":true}"),
            Some(b'f') => self.literal("false", b"{\"BOOL\":false}"),
            Some(b'n') => self.literal("null", b"{\"NULL\":true}"),
            _ => self.number()?,
        }
        Ok(())
    }

    fn literal(&mut self, text: &str, attribute: &[u8]) {
        self.at += text.len();
        self.out.extend_from_slice(attribute);
    }

    fn number(&mut self) -> Result<(), Problem> {
        let start = self.at;
        self.skip_to(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let number = self.since(start)?;
        self.out.extend_from_slice(b"{\"N\":\"");
        // A number this short, without an exponent, is always in range.
        if number.len() <= MAX_DIGITS && !number.is_empty() && !number.contains(['e', 'E']) {
            self.out.extend_from_slice(number.as_bytes());
        } else {
            let decimal = Decimal::parse(number).map_err(|error| match error {
                DecimalError::NotANumber => Problem::Unreadable,
                DecimalError::TooManyDigits(count) => Problem::TooManyDigits(count),
                DecimalError::OutOfRange => Problem::OutOfRange,
            })?;
            self.out.extend_from_slice(decimal.to_string().as_bytes());
        }
        self.out.extend_from_slice(b"\"}");
        Ok(())
    }

    fn object(&mut self, depth: usize, leading: u8) -> Result<(), AttributeError> {
        self.open(depth)?;
        let outer = self.names.len();
        let (mut position, mut are_plain) = (0, true);
        while self.peek() == Some(b'"') {
            if position > 0 {
                self.out.push(b',');
            }
            let (name, has_escapes) = self.string()?;
            if name == "\"\"" {
                return Err(AttributeError::from(Problem::EmptyName).within(position));
            }
            if has_escapes && text(name).is_none() {
                return Err(AttributeError::from(Problem::Unreadable).within(position));
            }
            are_plain &= !has_escapes;
            self.names.push((name, position));
            self.out.extend_from_slice(name.as_bytes());
            self.out.push(b':');
            if self.peek() == Some(b':') {
                self.at += 1;
            }
            let leading = self.leading(depth, leading, |token| text(name).is_some_and(|name| name == token));
            self.inner(depth, leading, position)?;
            position += 1;
        }
        // The closing brace.
        self.at += 1;
        let names = self.names.get_mut(outer..).unwrap_or_default();
        let duplicate = if are_plain {
            duplicate(names)
        } else {
            duplicate(&mut names.iter().map(|(name, position)| (text(name), *position)).collect::<Vec<_>>())
        };
        self.names.truncate(outer);
        duplicate.map_or(Ok(()), |position| Err(AttributeError::from(Problem::DuplicateName).within(position)))
    }

    fn list(&mut self, depth: usize, leading: u8) -> Result<(), AttributeError> {
        self.open(depth)?;
        let mut position = 0;
        while self.peek().is_some_and(|byte| byte != b']') {
            if position > 0 {
                self.out.push(b',');
            }
            let leading = self.leading(depth, leading, |token| token == position.to_string());
            self.inner(depth, leading, position)?;
            position += 1;
        }
        // The closing bracket.
        self.at += 1;
        Ok(())
    }

    fn open(&mut self, depth: usize) -> Result<(), Problem> {
        self.at += 1;
        if depth < MAX_DEPTH { Ok(()) } else { Err(Problem::TooDeep) }
    }

    /// Converts a value within an object or a list, and skips the comma after it.
    fn inner(&mut self, depth: usize, leading: u8, position: usize) -> Result<(), AttributeError> {
        self.peek();
        let start = self.at;
        self.value(depth + 1, leading).map_err(|error| error.within(position))?;
        if leading != 0 {
            let found = self.since(start)?;
            for (bit, search) in self.searches.iter_mut().enumerate() {
                if leading & 1 << bit != 0 && search.path.is_some_and(|path| path.0.len() == depth + 1) {
                    search.found = Some(found);
                }
            }
        }
        if self.peek() == Some(b',') {
            self.at += 1;
        }
        Ok(())
    }

    /// Returns the bits of the paths that lead here and continue with this name or position.
    fn leading(&self, depth: usize, leading: u8, is_next: impl Fn(&str) -> bool) -> u8 {
        if leading == 0 {
            return 0;
        }
        let leads_on = |(bit, search): &(usize, &FieldSearch<'_, '_>)| {
            let token = search.path.and_then(|path| path.0.get(depth));
            leading & 1 << bit != 0 && token.is_some_and(|token| is_next(token))
        };
        self.searches.iter().enumerate().filter(leads_on).fold(0, |all, (bit, _)| all | 1 << bit)
    }
}

/// Returns the position of a name that is a duplicate.
fn duplicate<N: Ord>(names: &mut [(N, usize)]) -> Option<usize> {
    if names.len() <= MAX_PAIRWISE {
        let is_repeated =
            |(index, (name, _)): &(usize, &(N, usize))| names.iter().take(*index).any(|(before, _)| before == name);
        return names.iter().enumerate().find(is_repeated).map(|(_, (_, position))| *position);
    }
    names.sort_unstable();
    let repeated = names.iter().zip(names.iter().skip(1)).find(|((name, _), (next, _))| name == next);
    repeated.map(|(_, (_, position))| *position)
}
