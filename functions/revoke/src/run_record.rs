//! The record of a run in the devices table, which keeps the run from being lost or worked on twice.
//!
//! An invocation works on a run only under a lease. A step ends by storing the run together with a pending message, the
//! command that starts the next step; the message is sent afterwards, then removed. If the process dies at any point,
//! the step's command is delivered again, and either continues the step or sends the pending message. A command for a
//! step that the run is already past does nothing else. So the message needs no claim: sending it twice is harmless.

use std::slice;
use std::time::Duration;

use gatehouse::pki::CertificateId;
use gatehouse::store::item::{number, string, text};
use gatehouse::{
    Failure, Invocation, Item, Key, Lease, Outbox, Queue, Refusal, Timestamp, VersionedItem, VersionedTable,
};
use serde::{Deserialize, Serialize};

use crate::command::{RevocationCommand, RevocationRequest, RevocationTarget};
use crate::run::RevocationRun;

/// How long a run is kept after its last change: longer than any message about it can exist.
const RETENTION: Duration = Duration::from_hours(30 * 24);

/// The attribute with the pending messages.
const PENDING: &str = "owed";

const RUN: &str = "run";

/// The records of runs in the devices table.
#[derive(Debug, Clone)]
pub struct RunRecords {
    table: VersionedTable,
    outbox: Outbox,
    queue: Queue,
}

/// A run that this invocation works on, until its deadline.
#[derive(Debug)]
pub struct RunLease {
    /// What it revokes.
    pub target: RevocationTarget,
    /// The run's id: that of the command that started it.
    pub id: String,
    /// How far the run has come.
    pub progress: RevocationRun,
    pending: Option<Continuation>,
    lease: Lease,
}

/// The result of an attempt to work on a step.
#[derive(Debug)]
pub enum StepClaim {
    /// This invocation may work on the step.
    Acquired(Box<RunLease>),
    /// The run is already past the step. This is its stored record.
    Past(VersionedItem),
}

/// A pending message: the step to start, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Continuation {
    step: u64,
    due_at: Timestamp,
}

impl RunRecords {
    /// The runs in this table, which send the commands that continue them to this queue.
    pub fn new(table: VersionedTable, queue: Queue) -> Self {
        Self { outbox: Outbox::without_claims(table.clone(), PENDING), table, queue }
    }

    /// Acquires a step of a run. With a request, starts a new run unless it exists already.
    pub async fn claim_step(
        &self,
        target: &RevocationTarget,
        id: &str,
        step: u64,
        request: Option<&RevocationRequest>,
        invocation: &Invocation,
    ) -> Result<StepClaim, Failure> {
        let key = key(target, id);
        let mut stored = self.table.get(&key).await?;
        let run = match request {
            _ if !stored.item.is_empty() => read(&mut stored)?,
            Some(request) => RevocationRun::new(request.clone()),
            None => return Err(unknown_run().into()),
        };
        if run.is_past(step) {
            return Ok(StepClaim::Past(stored));
        }
        if run.step != step {
            return Err(unknown_run().into());
        }
        let attributes = attributes(&run, None, invocation.now())?;
        let lease = Lease::acquire(&self.table, key, &stored, invocation, |item| {
            item.extend(attributes);
            // The pending message is the command being handled now.
            item.remove(PENDING);
        });
        let lease = lease.await?.ok_or_else(|| Failure::retry("another invocation is working on this run"))?;
        Ok(StepClaim::Acquired(Box::new(RunLease {
            target: target.clone(),
            id: id.to_owned(),
            progress: run,
            pending: None,
            lease,
        })))
    }

    /// Sends the pending messages of a run, and removes them.
    pub async fn send_pending(
        &self,
        target: &RevocationTarget,
        id: &str,
        run: VersionedItem,
        invocation: &Invocation,
    ) -> Result<(), Failure> {
        let send = async |pending: &Continuation| {
            let command = RevocationCommand::continuation(target, id, pending.step);
            self.queue.send(&command, pending.due_at.since(invocation.now())).await
        };
        let message_id = |pending: &Continuation| pending.step.to_string();
        self.outbox.flush(&key(target, id), run, invocation, message_id, send, |_, _| ()).await?;
        Ok(())
    }
}

impl RunLease {
    /// Stores the run's progress, and keeps the lease.
    pub async fn save(&mut self, invocation: &Invocation) -> Result<(), Failure> {
        let attributes = attributes(&self.progress, self.pending.as_ref(), invocation.now())?;
        Ok(self.lease.change(invocation, |item| item.extend(attributes.clone())).await?)
    }

    /// Stores the run's progress, and releases the lease.
    pub async fn release(&mut self, invocation: &Invocation) -> Result<(), Failure> {
        let attributes = attributes(&self.progress, self.pending.as_ref(), invocation.now())?;
        Ok(self.lease.release(invocation, |item| item.extend(attributes.clone())).await?)
    }

    /// Stores the run together with the command that starts its next step after `delay`, and releases the lease.
    /// Returns the record, whose pending message must then be sent.
    ///
    /// If this fails, a later [`release`](Self::release) stores both.
    pub async fn hand_over(&mut self, delay: Duration, invocation: &Invocation) -> Result<VersionedItem, Failure> {
        self.pending = Some(Continuation { step: self.progress.step, due_at: invocation.now().plus(delay) });
        self.release(invocation).await?;
        Ok(self.lease.record().clone())
    }
}

/// Reads a run. Older versions of the function stored in the run itself when its next step is due; this is converted to
/// a pending message.
fn read(stored: &mut VersionedItem) -> Result<RevocationRun, Failure> {
    let run = text(&stored.item, RUN).ok_or_else(|| Failure::retry("the record is not one of a run"))?;
    let mut run: RevocationRun = serde_json::from_str(run).map_err(Failure::retry)?;
    if let Some(due_at) = run.due_at.take() {
        let next = Continuation { step: run.step, due_at };
        Outbox::set_pending(&mut stored.item, PENDING, &[next]).map_err(Failure::retry)?;
        stored.item.insert(RUN.to_owned(), string(serde_json::to_string(&run).map_err(Failure::retry)?));
    }
    Ok(run)
}

fn attributes(run: &RevocationRun, pending: Option<&Continuation>, now: Timestamp) -> Result<Item, Failure> {
    let run = serde_json::to_string(run).map_err(Failure::retry)?;
    let expiration = number(now.plus(RETENTION).seconds());
    let attributes = [(RUN, string(run)), ("updatedAt", number(now.millis())), ("expiration", expiration)];
    let mut attributes: Item = attributes.map(|(name, value)| (name.to_owned(), value)).into();
    Outbox::set_pending(&mut attributes, PENDING, pending.map_or(&[], slice::from_ref)).map_err(Failure::retry)?;
    Ok(attributes)
}

fn unknown_run() -> Refusal {
    let why = "There is no run of this id at this step. It may have ended long ago; a new command starts a new run.";
    Refusal::new("unknown-run", why)
}

fn key(target: &RevocationTarget, id: &str) -> Key {
    let (kind, subject): (_, &CertificateId) = match target {
        RevocationTarget::Ca(ca) => ("ca", ca),
        RevocationTarget::Certificate(certificate) => ("certificate", certificate),
    };
    Key::new(format!("{kind}#{subject}"), format!("revocation#{id}"))
}
