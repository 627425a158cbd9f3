//! A TCP infrared gateway that understands Global Caché's commands: a line of text for each code, ended by a carriage
//! return, and a line in reply once the code has been sent.
//! <https://www.globalcache.com/files/docs/API-iTach.pdf>

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, sleep, timeout};

use crate::answers::Infrared;

/// What ends a line.
const END: u8 = b'\r';

/// The longest code, and the longest reply that is read, in bytes.
const LONGEST_LINE: usize = 2048;

/// How long to wait before a code is sent again that the gateway was too busy for.
const BUSY: Duration = Duration::from_millis(200);

/// A code to be sent: `sendir,<connector>,<id>,<frequency>,…`, such as `sendir,1:1,1,38000,1,1,96,24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code<'a> {
    text: &'a str,
    /// The connector and the id, which the gateway repeats in its reply.
    reply: &'a str,
}

/// What a gateway did not do. It may next time.
///
/// What it said is not repeated: it may be anything that listens on that port.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its name is not known, nothing listens there, or the way there is broken.
    #[error("the gateway cannot be connected to")]
    NotConnected(#[source] std::io::Error),
    /// It does not take the connection in time.
    #[error("the gateway does not take the connection in time")]
    ConnectTimeout(#[source] Elapsed),
    /// It does not reply in time.
    #[error("the gateway does not reply to code {0} in time")]
    ReadTimeout(usize, #[source] Elapsed),
    /// It closed the connection before it had replied.
    #[error("the gateway closed the connection before its reply to code {0} was whole")]
    Closed(usize),
    /// The connection broke.
    #[error("the connection to the gateway broke at code {0}")]
    Broken(usize, #[source] std::io::Error),
    /// It says that it cannot send the code.
    #[error("the gateway refuses code {0}")]
    ErrorReply(usize),
    /// What it replies means nothing.
    #[error("the gateway's reply to code {0} is none to a code that was sent")]
    UnknownReply(usize),
}

impl GatewayError {
    /// What went wrong, for machines.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotConnected(_) => "not-connected",
            Self::ConnectTimeout(_) => "connect-timeout",
            Self::ReadTimeout(..) => "read-timeout",
            Self::Closed(_) => "closed",
            Self::Broken(..) => "broken",
            Self::ErrorReply(_) => "error-reply",
            Self::UnknownReply(_) => "unknown-reply",
        }
    }
}

/// What a line from the gateway says of the code that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Complete,
    Busy,
    Error,
    /// News of a sensor that is connected to it: no reply.
    News,
    Unknown,
}

impl<'a> Code<'a> {
    /// Reads a code: printable ASCII with a connector, an id from 0 to 65535, and something to send.
    pub fn read(text: &'a str) -> Option<Self> {
        if text.len() > LONGEST_LINE || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let rest = text.strip_prefix("sendir,")?;
        let mut fields = rest.split(',');
        let (connector, id) = (fields.next()?, fields.next()?);
        let (module, port) = connector.split_once(':')?;
        let is_number = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit())
        };
        let reply = rest.get(..connector.len() + 1 + id.len())?;
        let mut pulses = fields.peekable();
        let is_whole = is_number(module, 2)
            && is_number(port, 2)
            && is_number(id, 5)
            && id.parse::<u16>().is_ok()
            && pulses.peek().is_some()
            && pulses.all(|field| !field.is_empty());
        is_whole.then_some(Self { text, reply })
    }

    fn reply(&self, line: &str) -> Reply {
        let line = line.trim();
        let is_ours = |prefix: &str| line.strip_prefix(prefix) == Some(self.reply);
        if is_ours("completeir,") {
            Reply::Complete
        } else if is_ours("busyIR,") {
            Reply::Busy
        } else if line.starts_with("ERR") || line.starts_with("unknowncommand") {
            Reply::Error
        } else if line.starts_with("statechange,") {
            Reply::News
        } else {
            Reply::Unknown
        }
    }
}

/// Sends a command's codes, one after the other, each once the one before was sent. An error means that some of them
/// may have been sent, and the last of those even where no reply came.
pub async fn send(infrared: &Infrared) -> Result<(), GatewayError> {
    let Infrared { host, port, send, connect_timeout, read_timeout } = infrared;
    // Looked up anew each time: a gateway's address may change.
    let connected = timeout(connect_timeout.duration(), TcpStream::connect((host.as_str(), *port))).await;
    let stream = connected.map_err(GatewayError::ConnectTimeout)?.map_err(GatewayError::NotConnected)?;
    let mut stream = BufStream::new(stream);
    for (number, text) in (1..).zip(send) {
        let code = Code::read(text).ok_or(GatewayError::UnknownReply(number))?;
        let sent = timeout(read_timeout.duration(), send_one(&mut stream, number, code)).await;
        sent.map_err(|elapsed| GatewayError::ReadTimeout(number, elapsed))??;
    }
    Ok(())
}

async fn send_one(stream: &mut BufStream<TcpStream>, number: usize, code: Code<'_>) -> Result<(), GatewayError> {
    let broken = |error| GatewayError::Broken(number, error);
    loop {
        stream.write_all(code.text.as_bytes()).await.map_err(broken)?;
        stream.write_u8(END).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let reply = loop {
            match code.reply(&read_line(stream, number).await?) {
                Reply::News => {}
                other => break other,
            }
        };
        match reply {
            Reply::Complete => return Ok(()),
            Reply::Busy => sleep(BUSY).await,
            Reply::Error => return Err(GatewayError::ErrorReply(number)),
            Reply::News | Reply::Unknown => return Err(GatewayError::UnknownReply(number)),
        }
    }
}

async fn read_line(stream: &mut BufStream<TcpStream>, number: usize) -> Result<String, GatewayError> {
    let mut line = Vec::new();
    let limit = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
    let read = stream.take(limit).read_until(END, &mut line).await;
    read.map_err(|error| GatewayError::Broken(number, error))?;
    if line.last() == Some(&END) {
        Ok(String::from_utf8_lossy(&line).into_owned())
    } else if line.len() < LONGEST_LINE {
        Err(GatewayError::Closed(number))
    } else {
        Err(GatewayError::UnknownReply(number))
    }
}
