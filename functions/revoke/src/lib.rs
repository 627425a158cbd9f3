//! Takes admissions back: shuts a CA and revokes every certificate that it signed, or only those on its revocation list,
//! or revokes one certificate.
//!
//! What is to be revoked is *blocked* first, which `jitr` reads just before and just after it activates anything; then
//! revoked; then looked at once more when no admission that was under way can be any longer. So whatever an admission
//! activates meanwhile, one of them takes back.
//!
//! One order is a [*run*](run::Run), which may take many invocations: each hands what is left on to the next through the
//! function's own queue. See [`journal`] for why none gets lost on the way.

pub mod journal;
pub mod order;
pub mod records;
pub mod registry;
pub mod report;
pub mod run;
mod step;
pub mod verdict;

use std::time::Duration;

use gatehouse::{
    BoxError, Invocation, Command, Devices, EventHandler, Environment, Failure, Idempotency, InitError, PublishError, SendError,
    IdempotencyError, Queue, Refusal, Setup, Topic,
};

use crate::journal::{Journal, JournalError, Taken};
use crate::order::{Order, Task};
use crate::records::{RecordError, Records};
use crate::registry::{Registry, RegistryError};
use crate::step::Step;

/// The handler of orders to revoke.
#[derive(Debug)]
pub struct Revoke {
    registry: Registry,
    queue: Queue,
    devices: Devices,
    records: Records,
    journal: Journal,
    idempotency: Idempotency,
    topic: Topic,
    /// The shortest time between two changes in the registry.
    pace: Duration,
    sweep_again_after: Duration,
}

/// Why an order is not carried out, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not an order that can be carried out.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// AWS IoT did not do its part.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The devices table did not do its part.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The run could not be read or written, or another invocation is at it.
    #[error(transparent)]
    Journal(JournalError),
    /// The CA's revocation list could not be read.
    #[error("the CA's revocation list could not be read")]
    Crl(#[source] BoxError),
    /// The next step could not be begun.
    #[error(transparent)]
    SendError(#[from] SendError),
    /// The report was not told now; the next try may.
    #[error(transparent)]
    NotTold(#[from] IdempotencyError<PublishError>),
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Unknown(refusal) => Self::Refused(refusal),
            other => Self::Journal(other),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::NotTold(error) => error.into(),
            other @ (Error::Registry(_) | Error::Record(_) | Error::Journal(_) | Error::Crl(_) | Error::SendError(_)) => {
                Self::retry(other)
            }
        }
    }
}

impl Revoke {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let devices = Devices::from(setup.environment(), setup.dynamodb())?;
        let (registry, queue, topic) =
            tokio::join!(Registry::connect(setup), Queue::connect(setup), Topic::connect(setup));
        Self::from(setup.environment(), registry?, queue?, devices, setup.idempotency()?, topic?)
    }

    /// Reads `REVOCATIONS_PER_SECOND` (1 to 1,000, default 8: AWS IoT takes about 10 in an account) and
    /// `SWEEP_AGAIN_AFTER_SECONDS` (1 to 900, default 120: twice the time that an admission may take).
    pub fn from(
        environment: &Environment,
        registry: Registry,
        queue: Queue,
        devices: Devices,
        idempotency: Idempotency,
        topic: Topic,
    ) -> Result<Self, InitError> {
        let per_second = environment.optional("REVOCATIONS_PER_SECOND")?.unwrap_or(8);
        if !(1..=1000).contains(&per_second) {
            return Err(Environment::invalid("REVOCATIONS_PER_SECOND", per_second, &"it must be from 1 to 1000"));
        }
        let seconds = environment.optional("SWEEP_AGAIN_AFTER_SECONDS")?.unwrap_or(120);
        if !(1..=Queue::MAX_DELAY.as_secs()).contains(&seconds) {
            return Err(Environment::invalid("SWEEP_AGAIN_AFTER_SECONDS", seconds, &"it must be from 1 to 900"));
        }
        Ok(Self {
            registry,
            queue,
            records: Records::new(devices.clone()),
            journal: Journal::new(devices.clone()),
            devices,
            idempotency,
            topic,
            pace: Duration::from_secs(1) / per_second,
            sweep_again_after: Duration::from_secs(seconds),
        })
    }
}

impl EventHandler for Revoke {
    type Input = Command<Order>;
    type Error = Error;

    async fn handle(&self, command: &Command<Order>, invocation: &Invocation) -> Result<(), Error> {
        let (subject, task) = command.order.read()?;
        let (run, step, job) = match &task {
            Task::Begin(job) => (&command.id, 1, Some(job)),
            Task::GoOn { run, step } => (run, *step, None),
        };
        match self.journal.take(&subject, run.as_str(), step, job, invocation).await? {
            Taken::Ours(entry) => Step::new(self, entry, invocation).run().await,
            Taken::Past(entry) => {
                invocation.count("Duplicate");
                Step::new(self, entry, invocation).send_what_is_owed().await
            }
        }
    }
}
