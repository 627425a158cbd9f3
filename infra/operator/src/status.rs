//! Exit codes.

use std::fmt;
use std::process::ExitCode;

/// The result of a subcommand that did not end with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Everything that was asked for is done.
    Success,
    /// A check found a problem, or part of what was asked for failed.
    Problems,
    /// A function refused an event again.
    RefusedAgain,
    /// An event was not accepted, or not recognized. It stays where it was.
    NotAccepted,
    /// Nothing is known about the named event.
    Missing,
    /// A difference was found, or a document is invalid.
    Difference,
    /// The operator interrupted it. Running it again continues.
    Interrupted,
}

impl Status {
    /// Returns the process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Problems => 1,
            Self::RefusedAgain => 3,
            Self::NotAccepted => 4,
            Self::Missing => 5,
            Self::Difference => 6,
            Self::Interrupted => 130,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// Something that the operator named does not exist.
#[derive(Debug)]
pub struct MissingError(pub String);

impl fmt::Display for MissingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for MissingError {}

/// The command line is well-formed, but its values are not valid.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for UsageError {}

/// Prints an error with its causes. Returns the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", crate::output::escape(&format!("{error:#}")));
    let code = if error.is::<UsageError>() {
        2
    } else if error.is::<MissingError>() {
        5
    } else {
        1
    };
    ExitCode::from(code)
}
