use std::borrow::Cow;

/// Any error, boxed. The log shows its `source` chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of handling one event: done (`Ok`), refused, or to be retried.
pub type Outcome = Result<(), Failure>;

/// Why an event can never succeed. It is stored with the event in quarantine.
///
/// Both parts are logged, so neither repeats values that the device sent, or field names that do not look like names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// A stable code for machines, in kebab case, such as `missing-field`.
    pub code: &'static str,
    /// One plain sentence for people. It names the field at fault, if there is one.
    pub why: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with this reason code and sentence.
    pub fn new(code: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Self { code, why: why.into() }
    }
}

/// Why an event is not done.
///
/// The library's own errors convert into it, so that a function needs no error type unless somebody matches on its
/// errors.
#[derive(Debug)]
pub enum Failure {
    /// It can never succeed: quarantine it, then acknowledge it.
    Refused(Refusal),
    /// It may succeed later: return this event, and no other, for redelivery.
    Retry(BoxError),
}

impl Failure {
    /// A retry for this cause.
    pub fn retry(cause: impl Into<BoxError>) -> Self {
        Self::Retry(cause.into())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Returns an error and all its sources in one line, for the log.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}
