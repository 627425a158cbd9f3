//! The implementations of functions to measure.

use std::{
    cell::Cell,
    ffi::OsString,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use crate::{
    aws::{ACCOUNT, REGION},
    batch::Size,
    event::{PREFIX, Turn},
    expected::{BenchEvent, Expected},
    function::{BUTTON, Function},
    iot::Registry,
};

/// The language of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A function as it ships.
    Rust,
    /// The same function with the SDK's default TLS provider.
    AwsLc,
    /// An empty Rust function.
    Empty,
    /// JavaScript with the AWS SDK.
    Node,
    /// Python with boto3.
    Python,
}

impl Peer {
    /// Returns the name in `bench.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::AwsLc => "aws-lc",
            Self::Empty => "empty",
            Self::Node => "node",
            Self::Python => "python",
        }
    }
}

/// An implementation of a function to measure.
#[derive(Debug)]
pub struct Subject {
    /// The function; `None` for the empty one.
    pub function: Option<&'static Function>,
    /// Its language.
    pub peer: Peer,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// `/var/task`
    pub task_root: PathBuf,
    /// The size of its deployment package in bytes.
    pub zip_bytes: u64,
    /// Additional environment variables.
    pub environment: Vec<(&'static str, String)>,
    /// The number of events so far.
    pub events: Cell<usize>,
    /// When the newest event was received, in milliseconds since 1970.
    pub newest: Cell<u64>,
}

impl Subject {
    /// Returns the name for the report.
    pub fn name(&self) -> String {
        format!("{} ({})", self.function_name(), self.peer.name())
    }

    /// Returns the function's name, or `empty`.
    pub fn function_name(&self) -> &'static str {
        self.function.map_or("empty", |function| function.name)
    }

    /// Returns the function's ARN.
    pub fn arn(&self) -> String {
        format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{PREFIX}-{}", self.function_name())
    }

    /// Returns whether each event needs a new device.
    pub fn needs_devices(&self) -> bool {
        self.function.is_some_and(|function| function.needs_devices)
    }

    /// Returns the batch sizes to compare.
    pub fn batches(&self) -> &'static [Size] {
        self.function.map(|function| function.batches).unwrap_or_default()
    }

    /// Returns whether it is measured with single events. Peers of batch functions are measured with batches only.
    pub fn is_measured_with_single_events(&self) -> bool {
        self.batches().is_empty() || self.peer == Peer::Rust
    }

    /// Returns a new event. The first event of a process may have additional effects.
    pub fn next_event(&self, size: Size, registry: &Registry, is_first: bool) -> Result<BenchEvent> {
        let n = self.events.replace(self.events.get() + 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Readings are never older than those of the previous event.
        let received_at = u64::try_from(now.as_millis())?.max(self.newest.get());
        self.newest.set(received_at + u64::try_from(size.messages)?);
        let turn = Turn { n, size, received_at, peer: self.peer, is_first, registry };
        let (event, expected) = (self.function.unwrap_or(&BUTTON).event)(&turn)?;
        Ok(BenchEvent {
            request_id: format!("8476a536-e9f4-11e8-9739-{n:012x}"),
            is_delivery: self.function.is_some() && event.get("Records").is_some(),
            body: event.to_string(),
            expected: if self.function.is_some() { expected } else { Expected::Calls(Vec::new()) },
        })
    }
}
