use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use gatehouse::{
    BatchHandler, DeviceEvent, Document, Environment, Failure, Idempotency, Incoming, InitError, Invocation, Outcomes,
    PartialOutcomes, Setup, Timestamp, Topic, VersionedTable,
};

use crate::batch;
use crate::command::{AlarmCommand, CommandFields};
use crate::due_checks::DueChecks;
use crate::evaluation::Evaluator;
use crate::notification_limit::NotificationLimiter;
use crate::notifier::Notifier;
use crate::thresholds::Thresholds;

/// Handles readings and commands.
#[derive(Debug)]
pub struct AlarmHandler {
    document: Document<Thresholds>,
    evaluator: Evaluator,
}

impl AlarmHandler {
    /// Assembles the handler from the process's environment, and connects to the topic.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let topic = Topic::connect(setup).await?;
        Self::from_environment(setup.environment(), setup.dynamodb(), setup.idempotency()?, topic)
    }

    /// Reads `ALARMS_TABLE`, `MAX_NOTIFICATIONS` (how many transitions of one threshold people are notified of within a
    /// window, default 20) and `NOTIFICATION_WINDOW_SECONDS` (1 to 86,400, default 300).
    pub fn from_environment(
        environment: &Environment,
        dynamodb: Client,
        idempotency: Idempotency,
        topic: Topic,
    ) -> Result<Self, InitError> {
        const WINDOW: &str = "NOTIFICATION_WINDOW_SECONDS";
        const DAY: u64 = 86_400;
        let window = environment.optional(WINDOW)?.unwrap_or(300);
        if !(1..=DAY).contains(&window) {
            return Err(Environment::invalid(WINDOW, window, &"it must be from 1 to 86400"));
        }
        let max = environment.optional("MAX_NOTIFICATIONS")?.unwrap_or(20);
        let table = VersionedTable::new(dynamodb, environment.required::<String>("ALARMS_TABLE")?);
        Ok(Self {
            document: Document::new(table.clone(), "thresholds"),
            evaluator: Evaluator {
                limiter: NotificationLimiter::new(table.clone(), max, Duration::from_secs(window)),
                notifier: Notifier::new(table.clone(), idempotency, topic),
                table,
            },
        })
    }

    /// Evaluates the thresholds of each thing that sent readings. A thing's events are settled together, once all its
    /// evaluations are.
    async fn handle_readings(
        &self,
        (given_at, thresholds): (Timestamp, &Thresholds),
        events: Vec<(usize, &DeviceEvent)>,
        mut outcomes: PartialOutcomes<'_>,
        invocation: &Invocation,
    ) {
        let mut batches = batch::group(thresholds, events);
        invocation.add("MissingValue", batches.iter().map(|batch| batch.missing_values).sum());
        for batch in &mut batches {
            let evaluations = batch.evaluations(given_at).len();
            for &event in &batch.events {
                outcomes.expect(event, evaluations);
            }
            for (event, refusal) in batch.refusals.drain(..) {
                // The refusal is one more part, so that it waits for the values that could be read.
                outcomes.expect(event, evaluations + 1);
                outcomes.settle(event, Err(refusal.into()));
            }
        }
        let evaluations: Vec<_> = batches.iter().flat_map(|batch| batch.evaluations(given_at)).collect();
        self.evaluator
            .evaluate_all(&evaluations, invocation, |evaluation, result| {
                for &event in evaluation.events {
                    outcomes.settle(event, result.clone().map_err(Failure::retry));
                }
            })
            .await;
    }
}

impl BatchHandler for AlarmHandler {
    type Input = Incoming<CommandFields>;

    async fn handle_batch(&self, inputs: &[Incoming<CommandFields>], outcomes: &mut Outcomes, invocation: &Invocation) {
        let mut events = Vec::new();
        let mut checks = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            match input {
                Incoming::Event(event) => events.push((index, event)),
                Incoming::Command(command) => match command.body.command() {
                    Ok(AlarmCommand::CheckDue) => checks.push((index, command.received_at)),
                    Ok(AlarmCommand::PutThresholds(document)) => {
                        let put = self.document.put(&document, command.received_at, invocation).await;
                        outcomes.set(index, put.map(drop).map_err(Into::into));
                    }
                    Err(refusal) => outcomes.set(index, Err(refusal.into())),
                },
            }
        }
        if events.is_empty() && checks.is_empty() {
            return;
        }
        let (given_at, thresholds) = match self.document.current_since().await {
            Ok(document) => document.unwrap_or_else(|| (Timestamp::from_millis(0), Arc::default())),
            Err(error) => {
                let error = Arc::new(error);
                let indexes = events.iter().map(|(index, _)| index).chain(checks.iter().map(|(index, _)| index));
                indexes.for_each(|index| outcomes.set(*index, Err(Failure::retry(Arc::clone(&error)))));
                return;
            }
        };
        let partial = PartialOutcomes::new(inputs.len(), outcomes);
        self.handle_readings((given_at, &thresholds), events, partial, invocation).await;
        // After the readings, which would count as missing otherwise; and once, as of the latest command.
        if let Some(now) = checks.iter().map(|(_, at)| *at).max() {
            let check = DueChecks { evaluator: &self.evaluator, thresholds: &thresholds, given_at, now, invocation };
            let checked = check.run().await;
            for (index, _) in checks {
                outcomes.set(index, checked.clone().map_err(Failure::retry));
            }
        }
    }
}
