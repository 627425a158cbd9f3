use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::event::payload;
use crate::event::strict_json::{self, elements, entries};
use crate::event::timestamp::Timestamp;
use crate::runtime::invocation::Invocation;
use crate::runtime::outcome::{Failure, Refusal};
use crate::store::item::{integer, number, string, text};
use crate::store::versioned_table::{Key, TableError, Update, VersionedTable};

/// The maximum size of a document in bytes: a DynamoDB item has room for 400 KB, attribute names included.
pub const MAX_DOCUMENT_BYTES: usize = 350_000;

const TEXT: &str = "document";
const GIVEN_AT: &str = "givenAt";

/// A JSON document with which an operator configures a function, such as the thresholds of `alarm`.
///
/// It is a record of a [`VersionedTable`] with the partition key `document#<name>` and the sort key `current`. It is
/// changed by a command to the function, which validates it first: an invalid document is refused, and the last valid
/// one stays in force.
#[derive(Debug)]
pub struct Document<T> {
    table: VersionedTable,
    key: Key,
    /// The document that was parsed last, with its version.
    cached: Mutex<Option<(u64, Arc<T>)>>,
}

/// A document in force, and where it comes from.
#[derive(Debug)]
pub struct CurrentDocument<T> {
    /// When the command that put it into force was given.
    pub given_at: Timestamp,
    /// How many times a document has been put into force, this one included.
    pub number: u64,
    /// The document.
    pub document: Arc<T>,
}

/// A kind of document, with validation rules that its types do not express.
pub trait Validate: DeserializeOwned {
    /// The field with the name of an entry in the document's lists. Refusals repeat the name.
    const ENTRY_NAME: &'static str = "name";

    /// Checks a document that has the right types.
    fn validate(&self) -> Result<(), ValidationError>;
}

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationError {
    /// The path of the invalid part, such as `thresholds[2].raise`.
    pub path: String,
    /// One plain sentence.
    pub why: String,
}

impl ValidationError {
    /// An error at this path, for this reason.
    pub fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), why: why.into() }
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path, self.why)
    }
}

impl ValidationError {
    /// Returns the refusal. `entry` is the name of the document's entry that the error is in.
    fn refusal(&self, entry: Option<&str>) -> Refusal {
        let Self { path, why } = self;
        let of = entry.map_or_else(String::new, |entry| format!(" of `{entry}`"));
        Refusal::new("bad-document", format!("`{path}`{of}: {why}"))
    }
}

/// Parses and validates an operator's document.
///
/// Refused with the codes of [`DeviceEvent::payload`](crate::DeviceEvent::payload), or with `bad-document`; the
/// sentence names the path of the invalid part and the entry of the document that contains it.
pub fn parse_document<T: Validate>(text: &str) -> Result<T, Refusal> {
    let json = payload::json(text.as_bytes(), MAX_DOCUMENT_BYTES)?;
    payload::check_object(json, "The document")?;
    let name = |path: &str| entry_name(json, path, T::ENTRY_NAME);
    let document: T =
        strict_json::parse(json).map_err(|error| error.refusal("Field", name(&error.path()).as_deref()))?;
    document.validate().map_err(|error| error.refusal(name(&error.path).as_deref()))?;
    Ok(document)
}

/// Returns the name of the entry that contains a path such as `thresholds[2].raise`, if it looks like a name.
fn entry_name(document: &RawValue, path: &str, name: &str) -> Option<String> {
    fn field<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
        entries(object).ok()?.into_iter().find_map(|(field, value)| (field == name).then_some(value))
    }
    let (list, rest) = path.split_once('[')?;
    let index: usize = rest.split_once(']')?.0.parse().ok()?;
    let entry = elements(field(document, list)?).ok()?.into_iter().nth(index)?;
    let name: String = serde_json::from_str(field(entry, name)?.get()).ok()?;
    let is_ordinary =
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    is_ordinary.then_some(name)
}

/// Why a document could not be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The new document is not valid; the last valid one stays in force.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The stored document is not valid, although only valid ones are stored: it was changed by hand, or stored by a
    /// version of the function with other rules.
    #[error("the stored document {0} is not valid: {1}")]
    Invalid(String, #[source] Refusal),
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::Refused(refusal) => refusal.into(),
            other @ (DocumentError::Table(_) | DocumentError::Invalid(..)) => Self::retry(other),
        }
    }
}

impl<T: Validate> Document<T> {
    /// The document of this name in this table.
    pub fn new(table: VersionedTable, name: &str) -> Self {
        Self { table, key: Key::new(format!("document#{name}"), "current"), cached: Mutex::default() }
    }

    /// Returns the document in force; `None` if nobody has uploaded one.
    ///
    /// Reads the table on every call, but parses the document only when it has changed.
    pub async fn current(&self) -> Result<Option<Arc<T>>, DocumentError> {
        Ok(self.current_version().await?.map(|current| current.document))
    }

    /// Returns the document in force with its number and time; `None` if nobody has uploaded one.
    pub async fn current_version(&self) -> Result<Option<CurrentDocument<T>>, DocumentError> {
        let record = self.table.get(&self.key).await?;
        let Some(document) = text(&record.item, TEXT) else { return Ok(None) };
        let given_at = Timestamp::from_millis(integer(&record.item, GIVEN_AT).unwrap_or_default());
        let number = record.version();
        if let Some((version, document)) = &*self.cached.lock().unwrap_or_else(PoisonError::into_inner)
            && *version == number
        {
            return Ok(Some(CurrentDocument { given_at, number, document: Arc::clone(document) }));
        }
        let document =
            parse_document(document).map_err(|refusal| DocumentError::Invalid(self.key.pk.clone(), refusal))?;
        let document = Arc::new(document);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        *cached = Some((number, Arc::clone(&document)));
        Ok(Some(CurrentDocument { given_at, number, document }))
    }

    /// Puts a document into force in place of the previous one. `given_at` is when the command was given: a command
    /// that is delivered late or again does not undo a later one.
    ///
    /// Returns whether the document is in force now.
    pub async fn put(
        &self,
        document: &str,
        given_at: Timestamp,
        invocation: &Invocation,
    ) -> Result<bool, DocumentError> {
        parse_document::<T>(document)?;
        let updated = self.table.update(&self.key, invocation, async |old| {
            if integer(&old.item, GIVEN_AT).is_some_and(|newest| newest > given_at.millis()) {
                return Ok::<_, DocumentError>(Update::Keep(false));
            }
            let item = [(TEXT, string(document)), (GIVEN_AT, number(given_at.millis()))];
            Ok(Update::Write(item.map(|(name, value)| (name.to_owned(), value)).into(), true))
        });
        Ok(updated.await?.value)
    }
}
