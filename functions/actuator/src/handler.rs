use std::time::Duration;

use futures_util::future::join_all;
use gatehouse::{
    BoxError, Document, Environment, EventHandler, Failure, Idempotency, InitError, Invocation, Key, Queue, Setup,
    ThingName, Timestamp, Topic, Update, Updated, VersionedItem, VersionedTable, error_chain,
};
use tokio::time::sleep;

use crate::actions::Actions;
use crate::device_command::DeviceCommand;
use crate::dispatch::{CommandRecord, Dispatch, TransitionOrder};
use crate::gateway::{GatewayError, send_codes};
use crate::gateway_failure::GatewayFailure;
use crate::input::{ActuatorInput, Transition};
use crate::shadows::{ShadowError, Shadows};

/// The maximum that can be configured for the interval between different commands to one device.
const MAX_INTERVAL: Duration = Duration::from_hours(24);

/// Pause before checking again whether another invocation has finished with a device.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Handles transitions, and documents of actions.
#[derive(Debug)]
pub struct ActuatorHandler {
    actions: Document<Actions>,
    table: VersionedTable,
    shadows: Shadows,
    queue: Queue,
    idempotency: Idempotency,
    operators: Topic,
    min_interval: Duration,
    notify_after: Duration,
}

/// A command that a transition triggers.
struct TriggeredCommand<'a> {
    device: &'a ThingName,
    command: &'a DeviceCommand,
    transition: &'a Transition,
    /// The transition's text.
    text: &'a str,
}

#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("failed to command device {0} through its shadow")]
    Shadow(ThingName, #[source] ShadowError),
    #[error("failed to command device {0} through its gateway")]
    Gateway(ThingName, #[source] GatewayError),
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Shadow(_, ShadowError::Refused(refusal)) => refusal.into(),
            other @ (CommandError::Shadow(_, ShadowError::Update(_)) | CommandError::Gateway(..)) => Self::retry(other),
        }
    }
}

impl ActuatorHandler {
    /// Assembles the handler during INIT, and opens its connections.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let environment = setup.environment();
        let table = VersionedTable::new(setup.dynamodb(), environment.required::<String>("ACTUATOR_TABLE")?);
        let (shadows, queue, operators) =
            tokio::join!(Shadows::connect(setup), Queue::connect(setup), Topic::connect(setup));
        Self::from_environment(environment, table, shadows, queue?, setup.idempotency()?, operators?)
    }

    /// Reads `MIN_INTERVAL_SECONDS` (0 to 86,400, default 900), the minimum interval between different commands to one
    /// device, and `NOTIFY_AFTER_SECONDS` (default 120), after which operators are notified of a gateway that keeps
    /// failing.
    pub fn from_environment(
        environment: &Environment,
        table: VersionedTable,
        shadows: Shadows,
        queue: Queue,
        idempotency: Idempotency,
        operators: Topic,
    ) -> Result<Self, InitError> {
        let min_interval = Duration::from_secs(environment.optional("MIN_INTERVAL_SECONDS")?.unwrap_or(900));
        if min_interval > MAX_INTERVAL {
            let why = format!("it must be from 0 to {}", MAX_INTERVAL.as_secs());
            return Err(Environment::invalid("MIN_INTERVAL_SECONDS", min_interval.as_secs(), &why));
        }
        let notify_after = Duration::from_secs(environment.optional("NOTIFY_AFTER_SECONDS")?.unwrap_or(120));
        // The key keeps an earlier name of the document.
        let actions = Document::new(table.clone(), "answers");
        Ok(Self { actions, table, shadows, queue, idempotency, operators, min_interval, notify_after })
    }

    async fn handle_transition(
        &self,
        transition: &Transition,
        text: &str,
        invocation: &Invocation,
    ) -> Result<(), Failure> {
        let actions = self.actions.current().await?;
        let commands = actions.as_ref().map(|actions| actions.commands_for(transition)).transpose()?;
        let commands = commands.unwrap_or_default();
        if commands.is_empty() {
            invocation.count("Unmatched");
        }
        // Concurrently, so that a device that does not respond does not delay the others.
        let results = join_all(commands.iter().map(|(device, command)| {
            self.dispatch(TriggeredCommand { device, command, transition, text }, invocation)
        }));
        // A retry takes precedence: a refused event would not be delivered again.
        let failures = results.await.into_iter().filter_map(Result::err);
        failures.max_by_key(|failure| matches!(failure, Failure::Retry(_))).map_or(Ok(()), Err)
    }

    /// Sends, delays or drops a command, depending on the device's record.
    async fn dispatch(&self, triggered: TriggeredCommand<'_>, invocation: &Invocation) -> Result<(), Failure> {
        let TriggeredCommand { device, command, transition, text } = triggered;
        let key = Key::new(format!("device#{device}"), "command");
        let order = TransitionOrder::new(transition.at, &transition.id);
        let json = command.to_json().ok_or_else(|| Failure::retry("failed to write the command as JSON"))?;
        loop {
            let updated = self.table.update(&key, invocation, async |old| {
                let (record, now) = (CommandRecord::read(&old.item), invocation.now());
                let dispatch = record.decide(&order, &json, now, self.min_interval);
                Ok(match dispatch {
                    Dispatch::Send if invocation.is_running_late() => {
                        return Err(Failure::retry("too little time is left to send the command"));
                    }
                    Dispatch::Send => {
                        Update::Write(record.sending(&order, &json, now, invocation.deadline()).item(now), dispatch)
                    }
                    Dispatch::Delay(_) if !record.is_newest(&order) => {
                        Update::Write(record.delayed(&order).item(now), dispatch)
                    }
                    _ => Update::Keep(dispatch),
                })
            });
            let Updated { record, value } = updated.await?;
            match value {
                Dispatch::Send => return self.send_and_record(&triggered, &key, record, invocation).await,
                Dispatch::Delay(until) => {
                    self.queue.send_text(text, until.since(invocation.now())).await?;
                    invocation.count("Delayed");
                    return Ok(());
                }
                Dispatch::Wait(_) if invocation.is_running_late() => {
                    return Err(Failure::retry("another invocation is sending a command to this device"));
                }
                Dispatch::Wait(_) => sleep(POLL_INTERVAL).await,
                Dispatch::Superseded => {
                    invocation.count("Superseded");
                    return Ok(());
                }
                Dispatch::AlreadySent => {
                    invocation.count("Duplicate");
                    return Ok(());
                }
            }
        }
    }

    /// Sends a command, and stores the result in the device's record, which must say that this invocation is sending.
    async fn send_and_record(
        &self,
        triggered: &TriggeredCommand<'_>,
        key: &Key,
        record: VersionedItem,
        invocation: &Invocation,
    ) -> Result<(), Failure> {
        let TriggeredCommand { device, command, transition, .. } = triggered;
        let failing_since = CommandRecord::read(&record.item).failing_since;
        let result = self.send(device, command).await;
        self.record(device, &result, key, record, invocation).await;
        if let (Err(CommandError::Gateway(_, error)), DeviceCommand::Infrared(infrared)) = (&result, command)
            && let Some(since) = failing_since
        {
            let duration = invocation.now().since(since);
            let failure = GatewayFailure { device, infrared, transition, error, duration };
            self.notify(&failure, since, invocation).await;
        }
        result.map_err(Failure::from)
    }

    async fn send(&self, device: &ThingName, command: &DeviceCommand) -> Result<(), CommandError> {
        match command {
            DeviceCommand::Shadow(state) => {
                let updated = self.shadows.set_desired(device, state).await;
                updated.map_err(|error| CommandError::Shadow(device.clone(), error))
            }
            DeviceCommand::Infrared(infrared) => {
                send_codes(infrared).await.map_err(|error| CommandError::Gateway(device.clone(), error))
            }
        }
    }

    /// Records the result of sending a command. A failure here does not change the outcome: retrying a command that was
    /// sent would certainly send it again, and one that was not sent is retried anyway.
    async fn record(
        &self,
        device: &ThingName,
        result: &Result<(), CommandError>,
        key: &Key,
        record: VersionedItem,
        invocation: &Invocation,
    ) {
        let (sending, now) = (CommandRecord::read(&record.item), invocation.now());
        let after = match result {
            Ok(()) => {
                invocation.count("Commanded");
                sending.sent()
            }
            Err(CommandError::Gateway(..)) => {
                invocation.count("GatewayFailed");
                sending.failed(true, now)
            }
            Err(CommandError::Shadow(..)) => sending.failed(false, now),
        };
        let updated = self.table.update_from(record, key, invocation, async |current| {
            if CommandRecord::read(&current.item) != sending {
                return Err(BoxError::from("another invocation has changed the record"));
            }
            Ok(Update::Write(after.item(now), ()))
        });
        if let Err(error) = updated.await {
            invocation.count("Unmarked");
            let (device, error) = (device.as_str(), error_chain(error.as_ref()));
            tracing::warn!(
                requestId = invocation.request_id(),
                device,
                error,
                "failed to record the result of the command"
            );
        }
    }

    /// Notifies the operators of a gateway that has been failing for too long, once until it recovers.
    async fn notify(&self, failure: &GatewayFailure<'_>, since: Timestamp, invocation: &Invocation) {
        if failure.duration < self.notify_after {
            return;
        }
        let key = format!("gateway#{}#{since}", failure.device);
        let publish = self.operators.publish(failure.notification());
        if let Err(error) = self.idempotency.run_once(&key, invocation, publish).await {
            let (device, error) = (failure.device.as_str(), error_chain(&error));
            tracing::warn!(
                requestId = invocation.request_id(),
                device,
                error,
                "failed to notify the operators; the next attempt may succeed"
            );
        }
    }
}

impl EventHandler for ActuatorHandler {
    type Input = ActuatorInput;
    type Error = Failure;

    async fn handle(&self, input: &ActuatorInput, invocation: &Invocation) -> Result<(), Failure> {
        match input {
            ActuatorInput::Transition { transition, text, .. } => {
                self.handle_transition(transition, text, invocation).await
            }
            ActuatorInput::Document { given_at, text, .. } => {
                self.actions.put(text, *given_at, invocation).await?;
                Ok(())
            }
        }
    }
}
