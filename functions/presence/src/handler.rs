use std::convert::Infallible;
use std::time::Duration;

use gatehouse::{
    Command, DeviceEvent, Environment, EventHandler, Failure, Idempotency, IdempotencyError, Incoming, InitError,
    Invocation, Key, Outbox, PublishError, Queue, Setup, ThingName, Topic, Update, VersionedItem, VersionedTable,
};

use crate::client_status::{ClientStatus, Connectivity};
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
    /// Confirms that a device is offline before that is announced; `None` if that is turned off.
    client_status: Option<ClientStatus>,
}

impl PresenceHandler {
    /// Assembles the handler during INIT.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let devices = VersionedTable::new(setup.dynamodb(), setup.environment().required::<String>("DEVICES_TABLE")?);
        let client_status = async {
            let is_asked = setup.environment().optional("CONFIRM_OFFLINE")?.unwrap_or(true);
            Ok::<_, InitError>(if is_asked { Some(ClientStatus::connect(setup).await) } else { None })
        };
        let (queue, topic, client_status) = tokio::join!(Queue::connect(setup), Topic::connect(setup), client_status);
        let (environment, idempotency) = (setup.environment(), setup.idempotency()?);
        Self::from_environment(environment, devices, queue?, topic?, idempotency, client_status?)
    }

    /// Reads `GRACE_SECONDS`: how long a device may be offline before that is announced, from 0 to 900 (default 300).
    /// ([`Self::new`] also reads `CONFIRM_OFFLINE`: whether to ask AWS IoT for confirmation first, by default `true`.)
    pub fn from_environment(
        environment: &Environment,
        devices: VersionedTable,
        queue: Queue,
        topic: Topic,
        idempotency: Idempotency,
        client_status: Option<ClientStatus>,
    ) -> Result<Self, InitError> {
        let grace_period = Duration::from_secs(environment.optional("GRACE_SECONDS")?.unwrap_or(300));
        if grace_period > Queue::MAX_DELAY {
            let why = "it must be from 0 to 900, because Amazon SQS does not delay messages for longer";
            return Err(Environment::invalid("GRACE_SECONDS", grace_period.as_secs(), &why));
        }
        let outbox = Outbox::new(devices.clone(), idempotency.clone(), PENDING);
        Ok(Self { devices, outbox, queue, topic, idempotency, grace_period, client_status })
    }

    async fn handle_event(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Failure> {
        let lifecycle_event = LifecycleEvent::parse(event)?;
        if let LifecycleEvent::Connection(connection) = &lifecycle_event {
            self.apply(&event.thing, connection, invocation).await?;
        }
        self.count_failure(&event.thing, &lifecycle_event, invocation).await
    }

    /// Updates the device's record, schedules a check if necessary, and sends pending notifications.
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
        let record = self.devices.get(&key).await?;
        let is_due = DeviceRecord::parse(&record.item)?.is_unannounced(check.version, &check.session);
        if is_due && self.is_connected(&thing, invocation).await? {
            return self.flush(&thing, record, invocation).await;
        }
        // If the record has changed while AWS IoT was asked, the new record decides.
        let updated = self.devices.update_from(record, &key, invocation, async |old| {
            let mut device = DeviceRecord::parse(&old.item)?;
            let is_offline = device.check(check.version, &check.session);
            Ok::<_, Failure>(if is_offline { Update::Write(device.to_item()?, ()) } else { Update::Keep(()) })
        });
        self.flush(&thing, updated.await?.record, invocation).await
    }

    /// Whether AWS IoT says that the device is connected, whatever its record says: the event of its return may be late
    /// or lost.
    ///
    /// Without permission to ask, the function relies on the record. A missing permission does not fix itself, and must
    /// not hold back notifications.
    async fn is_connected(&self, thing: &ThingName, invocation: &Invocation) -> Result<bool, Failure> {
        let Some(client_status) = &self.client_status else { return Ok(false) };
        let request_id = invocation.request_id();
        match client_status.of(thing).await? {
            Connectivity::NotConnected => Ok(false),
            Connectivity::Connected => {
                invocation.count("StillConnected");
                let why = "AWS IoT says that it is connected; the event of its return is late or lost";
                tracing::warn!(requestId = request_id, thing = thing.as_str(), why, "not announced as offline");
                Ok(true)
            }
            Connectivity::Denied => {
                let why = "the role of the function does not allow iot:GetConnection on this client";
                tracing::error!(requestId = request_id, thing = thing.as_str(), why, "announced without confirmation");
                Ok(false)
            }
        }
    }

    async fn flush(&self, thing: &ThingName, record: VersionedItem, invocation: &Invocation) -> Result<(), Failure> {
        let id = |notification: &PresenceNotification| format!("{thing}#{}", notification.id());
        let send = async |notification: &PresenceNotification| {
            self.topic.publish(notification.to_sns(thing)).await?;
            invocation.count("Notified");
            Ok::<_, PublishError>(())
        };
        Ok(self.outbox.flush(&key(thing), record, invocation, id, send, |_, _| {}).await?)
    }

    /// Counts and logs, once per event, a failure that concerns an operator.
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
