use std::time::Duration;

use gatehouse::{
    Command, Devices, Environment, EventHandler, Failure, Idempotency, InitError, Invocation, Queue, Setup, Topic,
};
use iot_registry::Registry;

use crate::certificate_record::CertificateRecords;
use crate::command::{CommandKind, RevocationCommand};
use crate::run_record::{RunRecords, StepClaim};
use crate::sessions::Sessions;
use crate::step::RunStep;

/// Handles revocation commands.
#[derive(Debug)]
pub struct RevokeHandler {
    pub(crate) registry: Registry,
    pub(crate) sessions: Sessions,
    pub(crate) devices: Devices,
    pub(crate) certificates: CertificateRecords,
    pub(crate) runs: RunRecords,
    pub(crate) idempotency: Idempotency,
    pub(crate) topic: Topic,
    /// The minimum time between two revocations.
    pub(crate) pace: Duration,
    pub(crate) resweep_delay: Duration,
}

impl RevokeHandler {
    /// Assembles the handler during INIT.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let devices = Devices::from_environment(setup.environment(), setup.dynamodb())?;
        let (registry, sessions, queue, topic) = tokio::join!(
            Registry::connect(setup),
            Sessions::connect(setup),
            Queue::connect(setup),
            Topic::connect(setup)
        );
        let (environment, idempotency) = (setup.environment(), setup.idempotency()?);
        Self::from_environment(environment, registry, sessions, queue?, devices, idempotency, topic?)
    }

    /// Reads `REVOCATIONS_PER_SECOND` (1 to 1,000, default 8: AWS IoT allows about 10 per account) and
    /// `RESWEEP_DELAY_SECONDS` (1 to 900, default 120: twice as long as an admission may take).
    pub fn from_environment(
        environment: &Environment,
        registry: Registry,
        sessions: Sessions,
        queue: Queue,
        devices: Devices,
        idempotency: Idempotency,
        topic: Topic,
    ) -> Result<Self, InitError> {
        let per_second = environment.optional("REVOCATIONS_PER_SECOND")?.unwrap_or(8);
        if !(1..=1000).contains(&per_second) {
            return Err(Environment::invalid("REVOCATIONS_PER_SECOND", per_second, &"it must be from 1 to 1000"));
        }
        let seconds = environment.optional("RESWEEP_DELAY_SECONDS")?.unwrap_or(120);
        if !(1..=Queue::MAX_DELAY.as_secs()).contains(&seconds) {
            return Err(Environment::invalid("RESWEEP_DELAY_SECONDS", seconds, &"it must be from 1 to 900"));
        }
        Ok(Self {
            registry,
            sessions,
            certificates: CertificateRecords::new(devices.table().clone()),
            runs: RunRecords::new(devices.table().clone(), queue),
            devices,
            idempotency,
            topic,
            pace: Duration::from_secs(1) / per_second,
            resweep_delay: Duration::from_secs(seconds),
        })
    }
}

impl EventHandler for RevokeHandler {
    type Input = Command<RevocationCommand>;
    type Error = Failure;

    async fn handle(&self, command: &Command<RevocationCommand>, invocation: &Invocation) -> Result<(), Failure> {
        let (target, kind) = command.body.parse()?;
        let (run_id, step, request) = match &kind {
            CommandKind::Start(request) => (&command.id, 1, Some(request)),
            CommandKind::Continue { run_id, step } => (run_id, *step, None),
        };
        match self.runs.claim_step(&target, run_id.as_str(), step, request, invocation).await? {
            StepClaim::Acquired(run) => RunStep::new(self, *run, invocation).execute().await,
            StepClaim::Past(run) => {
                invocation.count("Duplicate");
                self.runs.send_pending(&target, run_id.as_str(), run, invocation).await
            }
        }
    }
}
