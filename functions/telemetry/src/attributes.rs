//! A reading's fields as DynamoDB's typed attributes: JSON text in, DynamoDB's JSON text out, in one pass.
//!
//! No tree of values is built in between. That is what makes it fast; and a number is never anything but its digits.

use std::borrow::Cow;
use std::fmt::Write;
use std::str::FromStr;

use gatehouse::Refusal;

use crate::decimal::{Decimal, MOST_DIGITS, NotHeld};

/// How many maps and lists DynamoDB holds within each other, the one that holds all the fields included.
pub const DEEPEST: usize = 32;

/// So many names are compared each with each; more are sorted first.
const FEW: usize = 8;

/// Where a field stands: by its name, or by a JSON pointer (RFC 6901) such as `/meta/seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl FromStr for Pointer {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unescaped = |token: &str| token.replace("~1", "/").replace("~0", "~");
        Ok(Self(match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(unescaped).collect(),
            None => vec![text.to_owned()],
        }))
    }
}

/// A field that is looked for on the way.
#[derive(Debug)]
pub struct Wanted<'a, 'p> {
    pointer: Option<&'p Pointer>,
    /// Its JSON text, once it was found.
    pub found: Option<&'a str>,
}

impl<'p> Wanted<'_, 'p> {
    /// The field that stands there; none is found where no pointer is given.
    pub fn new(pointer: Option<&'p Pointer>) -> Self {
        Self { pointer, found: None }
    }
}

/// What DynamoDB would not hold, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    what: What,
    /// Positions from 0, the innermost first: names are the device's own words and are not repeated.
    place: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    TooManyDigits(usize),
    OutOfRange,
    TooDeep,
    EmptyName,
    DuplicateName,
    Unreadable,
}

impl From<What> for Fault {
    fn from(what: What) -> Self {
        Self { what, place: Vec::new() }
    }
}

impl Fault {
    fn within(mut self, position: usize) -> Self {
        self.place.push(position);
        self
    }

    /// The refusal of an event for this; `item` is the reading's position in the payload's array, if it is one.
    pub fn refusal(&self, item: Option<usize>) -> Refusal {
        let mut why = item.map_or_else(String::new, |item| format!("In item {item}, "));
        let noun = match self.what {
            What::EmptyName | What::DuplicateName => "the name of value",
            _ => "value",
        };
        why.push_str(noun);
        for (depth, position) in self.place.iter().rev().enumerate() {
            // A String takes whatever is written to it.
            let _ = write!(why, "{}{position}", if depth == 0 { ' ' } else { '.' });
        }
        let (code, fault) = match self.what {
            What::TooManyDigits(count) => {
                ("too-many-digits", format!("is a number of {count} significant digits; DynamoDB holds {MOST_DIGITS}"))
            }
            What::OutOfRange => {
                ("number-out-of-range", "is a number beyond what DynamoDB holds, 1E-130 to 9.9E+125".to_owned())
            }
            What::TooDeep => ("too-deep", format!("stands {DEEPEST} levels deep and holds more; DynamoDB does not")),
            What::EmptyName => ("empty-name", "is empty".to_owned()),
            What::DuplicateName => ("duplicate-field", "stands there twice".to_owned()),
            What::Unreadable => ("not-json", "is not JSON that can be read".to_owned()),
        };
        if item.is_none() {
            let first: String = why.drain(..1).collect();
            why.insert_str(0, &first.to_uppercase());
        }
        Refusal::new(code, format!("{why} {fault}."))
    }
}

/// Appends the value as DynamoDB's JSON has it, such as `{"M":{"lux":{"N":"41250"}}}`, and looks for fields on the way.
///
/// The JSON is that of a `RawValue`, or a part of it: known to be well-formed but for its escapes. After a fault, what
/// was appended is good for nothing.
pub fn append<'a>(json: &'a str, wanted: &mut [Wanted<'a, '_>], out: &mut Vec<u8>) -> Result<(), Fault> {
    let all = wanted.iter().enumerate().fold(0, |all, (bit, _)| all | 1 << bit);
    Pass { text: json, at: 0, names: Vec::with_capacity(2 * FEW), wanted, out }.value(0, all)
}

/// The text of a JSON string, without its quotes; `None` for any other value, or where an escape names no character.
pub fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    // Only an escape needs reading.
    if inner.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// One pass over JSON.
struct Pass<'a, 'p, 'w> {
    text: &'a str,
    at: usize,
    /// The names in the objects that are open, as they are written there, with their positions.
    names: Vec<(&'a str, usize)>,
    wanted: &'w mut [Wanted<'a, 'p>],
    out: &'w mut Vec<u8>,
}

impl<'a> Pass<'a, '_, '_> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn since(&self, start: usize) -> Result<&'a str, What> {
        self.text.get(start..self.at).ok_or(What::Unreadable)
    }

    /// What follows, up to the first byte for which this is so.
    fn skip_to(&mut self, is_end: impl Fn(u8) -> bool) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        self.at += rest.iter().position(|byte| is_end(*byte)).unwrap_or(rest.len());
    }

    /// A string with its quotes, and whether there are escapes in it.
    fn string(&mut self) -> Result<(&'a str, bool), What> {
        let (start, mut has_escapes) = (self.at, false);
        self.at += 1;
        loop {
            self.skip_to(|byte| matches!(byte, b'"' | b'\\'));
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => break,
                Some(_) => (self.at, has_escapes) = (self.at + 2, true),
                None => return Err(What::Unreadable),
            }
        }
        self.at += 1;
        Ok((self.since(start)?, has_escapes))
    }

    /// A value, into which these of the wanted fields' pointers lead, one a bit.
    fn value(&mut self, depth: usize, leading: u8) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => {
                let (string, has_escapes) = self.string()?;
                // The escapes are the same in DynamoDB's JSON; half of a surrogate pair is no character in either.
                if has_escapes && text(string).is_none() {
                    return Err(What::Unreadable.into());
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

    fn number(&mut self) -> Result<(), What> {
        let start = self.at;
        self.skip_to(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let number = self.since(start)?;
        self.out.extend_from_slice(b"{\"N\":\"");
        // Where it is as short as this and has no exponent, it can have neither too many digits nor too many zeros.
        if number.len() <= MOST_DIGITS && !number.is_empty() && !number.contains(['e', 'E']) {
            self.out.extend_from_slice(number.as_bytes());
        } else {
            let decimal = Decimal::parse(number).map_err(|error| match error {
                NotHeld::NotANumber => What::Unreadable,
                NotHeld::TooManyDigits(count) => What::TooManyDigits(count),
                NotHeld::OutOfRange => What::OutOfRange,
            })?;
            self.out.extend_from_slice(decimal.to_string().as_bytes());
        }
        self.out.extend_from_slice(b"\"}");
        Ok(())
    }

    fn object(&mut self, depth: usize, leading: u8) -> Result<(), Fault> {
        self.open(depth)?;
        let outer = self.names.len();
        let (mut position, mut are_plain) = (0, true);
        while self.peek() == Some(b'"') {
            if position > 0 {
                self.out.push(b',');
            }
            let (name, has_escapes) = self.string()?;
            if name == "\"\"" {
                return Err(Fault::from(What::EmptyName).within(position));
            }
            if has_escapes && text(name).is_none() {
                return Err(Fault::from(What::Unreadable).within(position));
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
        // The brace.
        self.at += 1;
        let names = self.names.get_mut(outer..).unwrap_or_default();
        let duplicate = if are_plain {
            duplicate(names)
        } else {
            duplicate(&mut names.iter().map(|(name, position)| (text(name), *position)).collect::<Vec<_>>())
        };
        self.names.truncate(outer);
        duplicate.map_or(Ok(()), |position| Err(Fault::from(What::DuplicateName).within(position)))
    }

    fn list(&mut self, depth: usize, leading: u8) -> Result<(), Fault> {
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
        // The bracket.
        self.at += 1;
        Ok(())
    }

    fn open(&mut self, depth: usize) -> Result<(), What> {
        self.at += 1;
        if depth < DEEPEST { Ok(()) } else { Err(What::TooDeep) }
    }

    /// A value within an object or a list, and the comma after it.
    fn inner(&mut self, depth: usize, leading: u8, position: usize) -> Result<(), Fault> {
        self.peek();
        let start = self.at;
        self.value(depth + 1, leading).map_err(|fault| fault.within(position))?;
        if leading != 0 {
            let found = self.since(start)?;
            for (bit, wanted) in self.wanted.iter_mut().enumerate() {
                if leading & 1 << bit != 0 && wanted.pointer.is_some_and(|pointer| pointer.0.len() == depth + 1) {
                    wanted.found = Some(found);
                }
            }
        }
        if self.peek() == Some(b',') {
            self.at += 1;
        }
        Ok(())
    }

    /// Which of the pointers that lead here lead on by the name or position for which this is so.
    fn leading(&self, depth: usize, leading: u8, is_next: impl Fn(&str) -> bool) -> u8 {
        if leading == 0 {
            return 0;
        }
        let leads_on = |(bit, wanted): &(usize, &Wanted<'_, '_>)| {
            let token = wanted.pointer.and_then(|pointer| pointer.0.get(depth));
            leading & 1 << bit != 0 && token.is_some_and(|token| is_next(token))
        };
        self.wanted.iter().enumerate().filter(leads_on).fold(0, |all, (bit, _)| all | 1 << bit)
    }
}

/// The position of a name that stands there before.
fn duplicate<N: Ord>(names: &mut [(N, usize)]) -> Option<usize> {
    if names.len() <= FEW {
        let stands_before =
            |(index, (name, _)): &(usize, &(N, usize))| names.iter().take(*index).any(|(before, _)| before == name);
        return names.iter().enumerate().find(stands_before).map(|(_, (_, position))| *position);
    }
    names.sort_unstable();
    let twice = names.iter().zip(names.iter().skip(1)).find(|((name, _), (next, _))| name == next);
    twice.map(|(_, (_, position))| *position)
}
