use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;

use crate::item::{Item, integer, number, string, text};
use crate::outcome::{Failure, Refusal};
use crate::payload;
use crate::records::{RecordError, Records};
use crate::timestamp::Timestamp;

/// The longest document, in bytes: an item of Amazon DynamoDB has room for 400 KB, attribute names included.
pub const LARGEST_DOCUMENT: usize = 350_000;

const TEXT: &str = "document";

/// What an operator has set down for a function in a JSON document, such as an alarm's thresholds.
///
/// It is kept in a table of [`Records`], under the id `document#<name>` and the part `current`. It is changed by an order
/// to the function, which checks it first: a bad one is refused, and the last good one stays in force.
#[derive(Debug)]
pub struct Document<T> {
    records: Records,
    id: String,
    /// The one read last, with its version.
    kept: Mutex<Option<(u64, Arc<T>)>>,
}

/// A kind of document: what it must hold beyond its shape.
pub trait Checked: DeserializeOwned {
    /// Finds what is wrong with a document that has the right shape.
    fn check(&self) -> Result<(), Fault>;
}

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The path of the part at fault, such as `thresholds[2].raise`.
    pub path: String,
    /// One plain sentence.
    pub why: String,
}

impl Fault {
    /// A fault at this path, for this reason.
    pub fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), why: why.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path, self.why)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::new("bad-document", fault.to_string())
    }
}

/// Reads and checks a document that somebody wrote.
///
/// Refused with the codes of [`DeviceEvent::payload`](crate::DeviceEvent::payload), or with `bad-document`; the sentence
/// names the path of the fault.
pub fn read_document<T: Checked>(text: &str) -> Result<T, Refusal> {
    let document: T = payload::object(text.as_bytes(), LARGEST_DOCUMENT)?;
    document.check()?;
    Ok(document)
}

/// Why a document could not be read or put.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The new document is not a good one; the last good one stays in force.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The table did not answer, or another process changed it at the same moment.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What stands in the table is not a good document, although only good ones are written: it was changed by hand, or
    /// by a newer version of the function.
    #[error("the document {0} in the table cannot be used: {1}")]
    Unusable(String, #[source] Refusal),
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::Refused(refusal) => refusal.into(),
            other @ (DocumentError::Record(_) | DocumentError::Unusable(..)) => Self::retry(other),
        }
    }
}

impl<T: Checked> Document<T> {
    /// The document of this name in this table.
    pub fn new(records: Records, name: &str) -> Self {
        Self { records, id: format!("document#{name}"), kept: Mutex::default() }
    }

    /// The document in force; `None` where nobody has put one.
    ///
    /// One small read a call; it is parsed only when it has changed.
    pub async fn current(&self) -> Result<Option<Arc<T>>, DocumentError> {
        let record = self.records.get(&self.id, "current").await?;
        let Some(document) = text(&record.item, TEXT) else { return Ok(None) };
        let kept = |kept: &Option<(u64, Arc<T>)>| {
            kept.as_ref().filter(|(version, _)| *version == record.version()).map(|(_, document)| Arc::clone(document))
        };
        if let Some(document) = kept(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Some(document));
        }
        let document = read_document(document).map_err(|refusal| DocumentError::Unusable(self.id.clone(), refusal))?;
        let document = Arc::new(document);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some((record.version(), Arc::clone(&document)));
        Ok(Some(document))
    }

    /// Puts a document into force, in the place of the one before. `given_at` is when the order was given: an order that
    /// comes again, or late, does not undo a later one.
    ///
    /// Returns whether it is in force now.
    pub async fn put(&self, document: &str, given_at: Timestamp) -> Result<bool, DocumentError> {
        read_document::<T>(document)?;
        loop {
            let was = self.records.get(&self.id, "current").await?;
            if integer(&was.item, "givenAt").is_some_and(|newest| newest > given_at.millis()) {
                return Ok(false);
            }
            let item =
                Item::from([(TEXT.to_owned(), string(document)), ("givenAt".to_owned(), number(given_at.millis()))]);
            match self.records.put(&self.id, "current", item, &was).await {
                // Somebody else put one meanwhile: whose was given later is decided anew.
                Err(RecordError::Conflict) => {}
                other => return Ok(other.map(|_| true)?),
            }
        }
    }
}
