//! Infrared codes for a TCP gateway, as an operator writes them.

use std::time::Duration;

use gatehouse::{Span, ValidationError};
use serde::{Deserialize, Serialize};

/// The maximum length of a code in bytes.
pub(crate) const MAX_CODE: usize = 2048;

const MAX_CODES: usize = 16;

const MIN_TIMEOUT: Span = Span::from_secs(1);
const MAX_TIMEOUT: Span = Span::from_secs(10);

/// The maximum total time that one command may wait for its gateway. It fits into the last third of an invocation, in
/// which no command is started, and leaves time to record the result.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Codes for a TCP infrared gateway that understands Global Caché's commands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrared {
    /// The gateway's DNS name or IP address.
    pub host: String,
    /// Its TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The codes, sent in this order; each is an [`InfraredCode`].
    pub send: Vec<String>,
    /// Maximum time to resolve the host and to connect.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Span,
    /// Maximum time for the gateway's reply to each code.
    #[serde(default = "default_read_timeout")]
    pub read_timeout: Span,
}

const fn default_port() -> u16 {
    4998
}

const fn default_connect_timeout() -> Span {
    Span::from_secs(2)
}

const fn default_read_timeout() -> Span {
    Span::from_secs(3)
}

impl Infrared {
    pub(crate) fn validate(&self, path: &str) -> Result<(), ValidationError> {
        let Self { host, port, send, connect_timeout, read_timeout } = self;
        let invalid = |field: &str, why: String| Err(ValidationError::new(format!("{path}.{field}"), why));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-' | b'_');
        if !(1..=253).contains(&host.len()) || !host.bytes().all(allowed) {
            return invalid("host", "It must be a DNS name or an IP address.".to_owned());
        }
        if *port == 0 {
            return invalid("port", "It must be from 1 to 65535.".to_owned());
        }
        if !(1..=MAX_CODES).contains(&send.len()) {
            return invalid("send", format!("It must have 1 to {MAX_CODES} codes."));
        }
        if let Some(index) = send.iter().position(|code| InfraredCode::parse(code).is_none()) {
            let why =
                "It must be sendir,<connector>,<id>,…, such as sendir,1:1,1,38000,1,1,96,24, without a line break.";
            return invalid(&format!("send[{index}]"), why.to_owned());
        }
        for (field, timeout) in [("connectTimeout", connect_timeout), ("readTimeout", read_timeout)] {
            if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(timeout) {
                return invalid(field, format!("It must be from {MIN_TIMEOUT} to {MAX_TIMEOUT}."));
            }
        }
        let codes = u32::try_from(send.len()).unwrap_or(u32::MAX);
        if connect_timeout.duration() + read_timeout.duration() * codes > MAX_WAIT {
            let max = MAX_WAIT.as_secs();
            let why = format!("Field connectTimeout, plus readTimeout for each code, must be at most {max} s.");
            return Err(ValidationError::new(path, why));
        }
        Ok(())
    }
}

/// One code: `sendir,<connector>,<id>,<frequency>,…`, such as `sendir,1:1,1,38000,1,1,96,24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfraredCode<'a> {
    text: &'a str,
    address: &'a str,
}

impl<'a> InfraredCode<'a> {
    /// Parses a code: printable ASCII with a connector, an id from 0 to 65535, and at least one more field.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_CODE || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let rest = text.strip_prefix("sendir,")?;
        let mut fields = rest.split(',');
        let (connector, id) = (fields.next()?, fields.next()?);
        let (module, port) = connector.split_once(':')?;
        let is_number = |text: &str, max_digits: usize| {
            (1..=max_digits).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit())
        };
        let address = rest.get(..connector.len() + 1 + id.len())?;
        let mut pulses = fields.peekable();
        let is_complete = is_number(module, 2)
            && is_number(port, 2)
            && is_number(id, 5)
            && id.parse::<u16>().is_ok()
            && pulses.peek().is_some()
            && pulses.all(|field| !field.is_empty());
        is_complete.then_some(Self { text, address })
    }

    /// The whole code.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The connector and the id, such as `1:1,1`, which the gateway repeats in its reply.
    pub fn address(&self) -> &'a str {
        self.address
    }
}
