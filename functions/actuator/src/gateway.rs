//! Talks to a TCP infrared gateway that understands Global Caché's commands: it accepts one code per line, terminated
//! by a carriage return, and replies with a line once it has sent the code.
//! <https://www.globalcache.com/files/docs/API-iTach.pdf>

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::{error::Elapsed, sleep, timeout};

use crate::infrared::{Infrared, InfraredCode, MAX_CODE};

const LINE_END: u8 = b'\r';

/// The maximum length of a reply in bytes.
const MAX_REPLY: usize = MAX_CODE;

/// Pause before sending a code again to a gateway that was busy.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Why a gateway did not send all codes. The next attempt may succeed. Numbers are codes' positions, from 1.
///
/// No error repeats the gateway's reply: anything may listen on that port.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its name does not resolve, nothing listens there, or the network is down.
    #[error("failed to connect to the gateway")]
    Connect(#[source] std::io::Error),
    /// It did not accept the connection in time.
    #[error("timed out connecting to the gateway")]
    ConnectTimeout(#[source] Elapsed),
    /// It did not reply in time.
    #[error("timed out waiting for the gateway's reply to code {0}")]
    ReadTimeout(usize, #[source] Elapsed),
    /// It closed the connection before its reply was complete.
    #[error("the gateway closed the connection before its reply to code {0} was complete")]
    Closed(usize),
    /// The connection broke.
    #[error("the connection to the gateway broke at code {0}")]
    Broken(usize, #[source] std::io::Error),
    /// It replied that it cannot send the code.
    #[error("the gateway rejected code {0}")]
    ErrorReply(usize),
    /// Its reply does not match the code.
    #[error("the gateway's reply to code {0} is not valid")]
    UnknownReply(usize),
}

impl GatewayError {
    /// A stable code for machines.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Connect(_) => "not-connected",
            Self::ConnectTimeout(_) => "connect-timeout",
            Self::ReadTimeout(..) => "read-timeout",
            Self::Closed(_) => "closed",
            Self::Broken(..) => "broken",
            Self::ErrorReply(_) => "error-reply",
            Self::UnknownReply(_) => "unknown-reply",
        }
    }
}

/// What a line from the gateway says about a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Complete,
    Busy,
    Error,
    /// Not a reply: a sensor that is connected to the gateway has changed.
    SensorChange,
    Unknown,
}

impl Reply {
    fn parse(line: &str, code: InfraredCode<'_>) -> Self {
        let line = line.trim();
        let is_ours = |prefix: &str| line.strip_prefix(prefix) == Some(code.address());
        if is_ours("completeir,") {
            Self::Complete
        } else if is_ours("busyIR,") {
            Self::Busy
        } else if line.starts_with("ERR") || line.starts_with("unknowncommand") {
            Self::Error
        } else if line.starts_with("statechange,") {
            Self::SensorChange
        } else {
            Self::Unknown
        }
    }
}

/// Sends a command's codes in order, each after the gateway has confirmed the previous one.
///
/// On error, some codes may have been sent, including the last one, even if no reply arrived.
pub async fn send_codes(infrared: &Infrared) -> Result<(), GatewayError> {
    let Infrared { host, port, send, connect_timeout, read_timeout } = infrared;
    // Resolved every time: a gateway's address may change.
    let connected = timeout(connect_timeout.duration(), TcpStream::connect((host.as_str(), *port))).await;
    let stream = connected.map_err(GatewayError::ConnectTimeout)?.map_err(GatewayError::Connect)?;
    let mut stream = BufStream::new(stream);
    for (number, text) in (1..).zip(send) {
        let code = InfraredCode::parse(text).ok_or(GatewayError::UnknownReply(number))?;
        let sent = timeout(read_timeout.duration(), send_code(&mut stream, number, code)).await;
        sent.map_err(|elapsed| GatewayError::ReadTimeout(number, elapsed))??;
    }
    Ok(())
}

async fn send_code(
    stream: &mut BufStream<TcpStream>,
    number: usize,
    code: InfraredCode<'_>,
) -> Result<(), GatewayError> {
    let broken = |error| GatewayError::Broken(number, error);
    loop {
        stream.write_all(code.as_str().as_bytes()).await.map_err(broken)?;
        stream.write_u8(LINE_END).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let reply = loop {
            match Reply::parse(&read_line(stream, number).await?, code) {
                Reply::SensorChange => {}
                other => break other,
            }
        };
        match reply {
            Reply::Complete => return Ok(()),
            Reply::Busy => sleep(BUSY_PAUSE).await,
            Reply::Error => return Err(GatewayError::ErrorReply(number)),
            Reply::SensorChange | Reply::Unknown => return Err(GatewayError::UnknownReply(number)),
        }
    }
}

async fn read_line(stream: &mut BufStream<TcpStream>, number: usize) -> Result<String, GatewayError> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_REPLY).unwrap_or(u64::MAX);
    let read = stream.take(limit).read_until(LINE_END, &mut line).await;
    read.map_err(|error| GatewayError::Broken(number, error))?;
    if line.last() == Some(&LINE_END) {
        Ok(String::from_utf8_lossy(&line).into_owned())
    } else if line.len() < MAX_REPLY {
        Err(GatewayError::Closed(number))
    } else {
        Err(GatewayError::UnknownReply(number))
    }
}
