use std::convert::Infallible;
use std::time::Duration;

use gatehouse::{
    Command, DeviceEvent, Environment, EventHandler, Failure, Idempotency, IdempotencyError, Incoming, InitError,
    Invocation, Key, Outbox, PublishError, Queue, Setup, ThingName, Topic, Update, VersionedItem, VersionedTable,
};

use crate::connection::ConnectionEvent;
use crate::device_record::{Applied, DeviceRecord, PENDING};
use crate::lifecycle_event::LifecycleEvent;
use crate::notification::PresenceNotification;
use crate::offline_check::OfflineCheck;

/// Handles lifecycle events, and the checks that the function sends itself.
#[derive(Debug)]
pub struct PresenceHandler {
    devices: VersionedTable,
    outbox: Outbox,
    queue: Queue,
    topic: Topic,
    idempotency: Idempotency,
    grace_period: Duration,
}

impl PresenceHandler {
    /// Assembles the handler during INIT.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let devices = VersionedTable::new(setup.dynamodb(), setup.environment().required::<String>("DEVICES_TABLE")?);
        let (queue, topic) = tokio::join!(Queue::connect(setup), Topic::connect(setup));
        Self::from_environment(setup.environment(), devices, queue?, topic?, setup.idempotency()?)
    }

    /// Reads `GRACE_SECONDS`: how long a device may be offline before that is news, from 0 to 900 (default 300).
    pub fn from_environment(
        environment: &Environment,
        devices: VersionedTable,
        queue: Queue,
        topic: Topic,
        idempotency: Idempotency,
    ) -> Result<Self, InitError> {
        let grace_period = Duration::from_secs(environment.optional("GRACE_SECONDS")?.unwrap_or(300));
        if grace_period > Queue::MAX_DELAY {
            let why = "it must be from 0 to 900, because Amazon SQS does not delay messages for longer";
            return Err(Environment::invalid("GRACE_SECONDS", grace_period.as_secs(), &why));
        }
        let outbox = Outbox::new(devices.clone(), idempotency.clone(), PENDING);
        Ok(Self { devices, outbox, queue, topic, idempotency, grace_period })
    }

    async fn handle_event(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Failure> {
        let lifecycle_event = LifecycleEvent::parse(event)?;
        if let LifecycleEvent::Connection(connection) = &lifecycle_event {
            self.apply(&event.thing, connection, invocation).await?;
        }
        self.count_failure(&event.thing, &lifecycle_event, invocation).await
    }

    /// Updates the device's record, and performs what follows from it.
    async fn apply(&self, thing: &ThingName, event: &ConnectionEvent, invocation: &Invocation) -> Result<(), Failure> {
        let key = key(thing);
        let updated = self.devices.update(&key, invocation, async |old| {
            let mut device = DeviceRecord::parse(&old.item)?;
            let applied = device.apply(event.clone());
            let value = (applied, device.needs_check(event));
            Ok::<_, Failure>(match applied {
                Applied::Changed => Update::Write(device.to_item()?, value),
                Applied::Duplicate | Applied::OutOfOrder => Update::Keep(value),
            })
        });
        let updated = updated.await?;
        let (applied, needs_check) = updated.value;
        match applied {
            Applied::Changed => {}
            Applied::Duplicate => invocation.count("Duplicate"),
            Applied::OutOfOrder => invocation.count("OutOfOrder"),
        }
        // Also for a duplicate: the process that stored the disconnect may have died before it sent the check.
        if needs_check {
            // The grace period starts now, however late the event is: the device's return may be just as late.
            self.queue.send(&OfflineCheck::new(thing, event), self.grace_period).await?;
        }
        self.flush(thing, updated.record, invocation).await
    }

    async fn handle_check(&self, check: &OfflineCheck, invocation: &Invocation) -> Result<(), Failure> {
        let thing = ThingName::new(check.thing.as_str())?;
        let key = key(&thing);
        let updated = self.devices.update(&key, invocation, async |old| {
            let mut device = DeviceRecord::parse(&old.item)?;
            let is_offline = device.check(check.version, &check.session);
            Ok::<_, Failure>(if is_offline { Update::Write(device.to_item()?, ()) } else { Update::Keep(()) })
        });
        self.flush(&thing, updated.await?.record, invocation).await
    }

    /// Sends the pending notifications of a device.
    async fn flush(&self, thing: &ThingName, record: VersionedItem, invocation: &Invocation) -> Result<(), Failure> {
        let id = |notification: &PresenceNotification| format!("{thing}#{}", notification.id());
        let send = async |notification: &PresenceNotification| {
            self.topic.publish(notification.to_sns(thing)).await?;
            invocation.count("Notified");
            Ok::<_, PublishError>(())
        };
        Ok(self.outbox.flush(&key(thing), record, invocation, id, send, |_, _| {}).await?)
    }

    /// Counts and logs a failure that concerns an operator, once per event.
    async fn count_failure(
        &self,
        thing: &ThingName,
        event: &LifecycleEvent,
        invocation: &Invocation,
    ) -> Result<(), Failure> {
        let Some((metric, reason)) = event.failure() else { return Ok(()) };
        let count = async {
            invocation.count(metric);
            let (request_id, thing) = (invocation.request_id(), thing.as_str());
            tracing::warn!(requestId = request_id, thing, reason, "a client was disconnected or rejected");
            Ok::<_, Infallible>(())
        };
        let id = format!("{thing}#{metric}#{}", event.id());
        match self.idempotency.run_once(&id, invocation, count).await {
            // The invocation that holds the claim counts it, now or when its own event is retried.
            Ok(_) | Err(IdempotencyError::AlreadyInProgress) => Ok(()),
            Err(error) => Err(Failure::retry(error)),
        }
    }
}

impl EventHandler for PresenceHandler {
    type Input = Incoming<OfflineCheck>;
    type Error = Failure;

    async fn handle(&self, input: &Incoming<OfflineCheck>, invocation: &Invocation) -> Result<(), Failure> {
        match input {
            Incoming::Event(event) => self.handle_event(event, invocation).await,
            Incoming::Command(Command { body, .. }) => self.handle_check(body, invocation).await,
        }
    }
}

fn key(thing: &ThingName) -> Key {
    Key::new(format!("thing#{thing}"), "presence")
}
