//! Where runs are kept, so that none is lost, and none goes two ways.
//!
//! A run is an item of the devices table, worked on under a lease, and replaced only if it is still the one that was
//! read. A step ends by storing that the message which begins the next one is owed; then it is sent, then struck off. So
//! a process may die anywhere: the message of the step that it was at comes again, and is either taken up where the step
//! was, or has what is owed sent. A message that comes twice finds its step behind the run, and does nothing.

use std::time::Duration;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use gatehouse::item::{Item, integer, number, string, text};
use gatehouse::{BoxError, Invocation, Devices, Refusal, Timestamp};
use uuid::Uuid;

use crate::order::{Job, Subject};
use crate::run::Run;

/// How long a run is kept after its last change: longer than any message about it.
const KEPT: Duration = Duration::from_hours(30 * 24);

/// The runs in the devices table.
#[derive(Debug, Clone)]
pub struct Journal(Devices);

/// A run, as it was read or written last.
#[derive(Debug)]
pub struct Entry {
    /// Whom it is about.
    pub subject: Subject,
    /// Its id: that of the event that began it.
    pub id: String,
    /// How far it is.
    pub run: Run,
    version: u64,
    owner: String,
}

/// What came of an attempt to take up a step.
#[derive(Debug)]
pub enum Taken {
    /// It is ours, until the invocation's deadline.
    Ours(Entry),
    /// It is behind the run.
    Past(Entry),
}

/// Why a run was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is none of this id at this step.
    #[error(transparent)]
    Unknown(Refusal),
    /// Another process is at it, or has been since it was read.
    #[error("another invocation is working on this run")]
    Busy,
    /// It could not be read.
    #[error("the devices table could not be read")]
    Read(#[source] BoxError),
    /// It could not be written.
    #[error("the devices table could not be written")]
    Write(#[source] BoxError),
}

impl Journal {
    /// The runs in this table.
    pub fn new(devices: Devices) -> Self {
        Self(devices)
    }

    /// Takes up a step of a run, or begins one with a job.
    pub async fn take(
        &self,
        subject: &Subject,
        id: &str,
        step: u64,
        job: Option<&Job>,
        invocation: &Invocation,
    ) -> Result<Taken, JournalError> {
        let found = self.0.get(key(subject), &part(id)).await.map_err(|error| JournalError::Read(error.into()))?;
        let owner = Uuid::new_v4().to_string();
        let (version, run, is_held) = match (&found, job) {
            (Some(item), _) => {
                let (version, run) = read(item).ok_or_else(|| JournalError::Read("it is not a run".into()))?;
                (version, run, integer(item, "ownedUntil").is_some_and(|until| until >= invocation.now().millis()))
            }
            (None, Some(job)) => (0, Run::new(job.clone()), false),
            (None, None) => return Err(unknown()),
        };
        let mut entry = Entry { subject: subject.clone(), id: id.to_owned(), run, version, owner };
        if entry.run.is_past(step) {
            return Ok(Taken::Past(entry));
        }
        if entry.run.step != step {
            return Err(unknown());
        }
        if is_held {
            return Err(JournalError::Busy);
        }
        // The message that was owed has come.
        entry.run.owed = None;
        self.keep(&mut entry, invocation).await?;
        Ok(Taken::Ours(entry))
    }

    /// Stores how far a run is, and goes on with it.
    pub async fn keep(&self, entry: &mut Entry, invocation: &Invocation) -> Result<(), JournalError> {
        self.store(entry, Some(invocation.deadline()), invocation.now()).await
    }

    /// Stores how far a run is, and lets it go.
    pub async fn release(&self, entry: &mut Entry, invocation: &Invocation) -> Result<(), JournalError> {
        self.store(entry, None, invocation.now()).await
    }

    async fn store(
        &self,
        entry: &mut Entry,
        owned_until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let Entry { subject, id, run, version, owner } = entry;
        let run = serde_json::to_string(run).map_err(|error| JournalError::Write(error.into()))?;
        let (client, table) = self.0.table();
        let put = client
            .put_item()
            .table_name(table)
            .item("id", string(key(subject)))
            .item("part", string(part(id)))
            .item("version", number(*version + 1))
            .item("owner", string(&*owner))
            .item("run", string(run))
            .item("updatedAt", number(now.millis()))
            .item("expiration", number(now.plus(KEPT).seconds()))
            .condition_expression("attribute_not_exists(id) OR version = :version")
            .expression_attribute_values(":version", number(*version))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let put = match owned_until {
            Some(until) => put.item("ownedUntil", number(until.millis())),
            None => put,
        };
        if let Err(error) = put.send().await {
            // Ours where the table took it, the answer was lost, and the SDK's own retry met it.
            let is_ours =
                |item: &Item| text(item, "owner") == Some(&**owner) && integer(item, "version") == Some(*version + 1);
            match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refused)) if refused.item().is_some_and(is_ours) => {
                }
                Some(PutItemError::ConditionalCheckFailedException(_)) => return Err(JournalError::Busy),
                _ => return Err(JournalError::Write(error.into())),
            }
        }
        entry.version += 1;
        Ok(())
    }
}

fn unknown() -> JournalError {
    let why = "There is no run of this id at this step. It may have ended long ago; a new order begins a new run.";
    JournalError::Unknown(Refusal::new("unknown-run", why))
}

fn key(subject: &Subject) -> String {
    match subject {
        Subject::CaCertificate(ca) => format!("ca#{ca}"),
        Subject::Certificate(certificate) => format!("certificate#{certificate}"),
    }
}

fn part(id: &str) -> String {
    format!("revocation#{id}")
}

fn read(item: &Item) -> Option<(u64, Run)> {
    Some((integer(item, "version")?, serde_json::from_str(text(item, "run")?).ok()?))
}
