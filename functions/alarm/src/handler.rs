use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use gatehouse::{
    BatchHandler, DeviceEvent, Document, Environment, Failure, Idempotency, Incoming, InitError, Invocation, Outcome,
    Outcomes, PartialOutcomes, Setup, Timestamp, Topic, VersionedTable, parse_document,
};

use crate::alarm_record::{self, CurrentRule};
use crate::alarm_state::ActionCommand;
use crate::batch;
use crate::command::{AlarmCommand, CommandFields};
use crate::due_checks::DueChecks;
use crate::error::AlarmError;
use crate::evaluation::{Evaluation, Evaluator, Trigger};
use crate::history::History;
use crate::never_reported::NeverReported;
use crate::notification_limit::NotificationLimiter;
use crate::notifier::Notifier;
use crate::rules::{AlarmRules, Rules, RulesDocument};
use crate::version::DocumentVersion;

/// Handles readings and commands.
#[derive(Debug)]
pub struct AlarmHandler {
    document: Document<RulesDocument>,
    devices: VersionedTable,
    evaluator: Evaluator,
}

impl AlarmHandler {
    /// Assembles the handler from the process's environment, and connects to the topic.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let topic = Topic::connect(setup).await?;
        Self::from_environment(setup.environment(), setup.dynamodb(), setup.idempotency()?, topic)
    }

    /// Reads `ALARMS_TABLE`, `DEVICES_TABLE`, `MAX_NOTIFICATIONS` (how many transitions per rule and window people
    /// receive individually, default 20), `NOTIFICATION_WINDOW_SECONDS` (1 to 86,400, default 300) and
    /// `HISTORY_RETENTION_DAYS` (default 90).
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
        let retention = environment.optional::<u64>("HISTORY_RETENTION_DAYS")?.unwrap_or(90);
        let retention = Duration::from_secs(retention.saturating_mul(DAY));
        let devices = VersionedTable::new(dynamodb.clone(), environment.required::<String>("DEVICES_TABLE")?);
        let table =
            VersionedTable::new(dynamodb, environment.required::<String>("ALARMS_TABLE")?).with_batched_writes();
        let history = History::new(table.clone(), retention);
        Ok(Self {
            devices,
            document: Document::new(table.clone(), "thresholds"),
            evaluator: Evaluator {
                limiter: NotificationLimiter::new(table.clone(), max, Duration::from_secs(window)),
                notifier: Notifier::new(table.clone(), idempotency, topic, history),
                table,
            },
        })
    }

    /// Evaluates the rules of each thing that sent readings. A thing's events are settled together, once all its
    /// evaluations are settled.
    async fn handle_readings(
        &self,
        (version, rules): (DocumentVersion, &Rules),
        events: Vec<(usize, &DeviceEvent)>,
        mut outcomes: PartialOutcomes<'_>,
        invocation: &Invocation,
    ) {
        let mut batches = batch::group(rules, events);
        invocation.add("MissingValue", batches.iter().map(|batch| batch.missing_values).sum());
        for batch in &mut batches {
            let evaluations = batch.evaluations(version).count();
            for &event in &batch.events {
                outcomes.expect(event, evaluations);
            }
            for (event, refusal) in batch.refusals.drain(..) {
                // The refusal counts as another part, so that the event also waits for the values that could be read.
                outcomes.expect(event, evaluations + 1);
                outcomes.settle(event, Err(refusal.into()));
            }
        }
        let evaluations: Vec<_> = batches.iter().flat_map(|batch| batch.evaluations(version)).collect();
        self.evaluator
            .evaluate_all(&evaluations, invocation, |evaluation, result| {
                for &event in evaluation.events {
                    outcomes.settle(event, result.clone().map_err(Failure::retry));
                }
            })
            .await;
    }

    async fn act(
        &self,
        (version, rules): (DocumentVersion, &Rules),
        command: &ActionCommand,
        invocation: &Invocation,
    ) -> Outcome {
        let ActionCommand { thing, rule, .. } = command;
        let rules = rules.for_thing(thing);
        let evaluation = Evaluation {
            key: alarm_record::key(thing.as_str(), rule),
            thing,
            current: CurrentRule {
                name: rule,
                rule: rules.get(rule),
                given_at: version.given_at,
                version: version.number,
            },
            trigger: Trigger::Action(command),
            events: &[],
        };
        let mut outcome = Ok(());
        self.evaluator
            .evaluate_all(std::slice::from_ref(&evaluation), invocation, |_, result| {
                outcome = result.map_err(|error| match &*error {
                    AlarmError::Refused(refusal) => refusal.clone().into(),
                    _ => Failure::retry(error),
                });
            })
            .await;
        outcome
    }

    /// Puts a document into force. A version-2 document is parsed as such first, for the clearest refusal.
    async fn put(&self, document: &str, is_version2: bool, given_at: Timestamp, invocation: &Invocation) -> Outcome {
        if is_version2 {
            parse_document::<AlarmRules>(document)?;
        }
        self.document.put(document, given_at, invocation).await?;
        Ok(())
    }
}

impl BatchHandler for AlarmHandler {
    type Input = Incoming<CommandFields>;

    async fn handle_batch(&self, inputs: &[Incoming<CommandFields>], outcomes: &mut Outcomes, invocation: &Invocation) {
        let mut events = Vec::new();
        let mut actions = Vec::new();
        let mut checks = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            match input {
                Incoming::Event(event) => events.push((index, event)),
                Incoming::Command(command) => {
                    let given_at = command.received_at;
                    match command.body.command(command.id.as_str(), given_at) {
                        Ok(AlarmCommand::CheckDue) => checks.push((index, given_at)),
                        Ok(AlarmCommand::Act(action)) => actions.push((index, action)),
                        Ok(AlarmCommand::PutThresholds(document)) => {
                            outcomes.set(index, self.put(&document, false, given_at, invocation).await);
                        }
                        Ok(AlarmCommand::PutRules(document)) => {
                            outcomes.set(index, self.put(&document, true, given_at, invocation).await);
                        }
                        Err(refusal) => outcomes.set(index, Err(refusal.into())),
                    }
                }
            }
        }
        if events.is_empty() && actions.is_empty() && checks.is_empty() {
            return;
        }
        let (version, document) = match self.document.current_version().await {
            Ok(Some(current)) => {
                (DocumentVersion { given_at: current.given_at, number: current.number }, current.document)
            }
            Ok(None) => (DocumentVersion { given_at: Timestamp::from_millis(0), number: 0 }, Arc::default()),
            Err(error) => {
                let error = Arc::new(error);
                let checks = checks.iter().map(|(index, _)| index);
                let indexes = events.iter().map(|(index, _)| index).chain(actions.iter().map(|(index, _)| index));
                indexes.chain(checks).for_each(|index| outcomes.set(*index, Err(Failure::retry(Arc::clone(&error)))));
                return;
            }
        };
        let rules = document.rules();
        let partial = PartialOutcomes::new(inputs.len(), outcomes);
        self.handle_readings((version, rules), events, partial, invocation).await;
        // After the readings, because they may raise the alarm that the action is about.
        for (index, action) in actions {
            outcomes.set(index, self.act((version, rules), &action, invocation).await);
        }
        // After the readings, so that they do not count as missing data. Once for all commands, as of the latest one.
        if let Some(now) = checks.iter().map(|(_, at)| *at).max() {
            let evaluator = &self.evaluator;
            let due = DueChecks { evaluator, rules, version, now, invocation };
            let mut checked = due.run().await;
            let never_reported = NeverReported { evaluator, devices: &self.devices, rules, version, now, invocation };
            checked = checked.and(never_reported.run().await);
            for (index, _) in checks {
                outcomes.set(index, checked.clone().map_err(Failure::retry));
            }
        }
    }
}
