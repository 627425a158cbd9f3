//! `$aws/events/presence/+/+`: who is connected; tells when a device stays away.
//!
//! AWS IoT's lifecycle events come late, repeated and in any order. Each is held against the device's record, under
//! optimistic locking, and only what is newer changes it: see [`presence`].
//!
//! A disconnect is not news until it lasts. So the function sends itself a check, which its queue holds back for the
//! grace period, and only then acknowledges the event; a process that dies in between leaves the event to come again,
//! and then the check is sent again, which harms nothing. If the device is still away by the same disconnect when the
//! check comes, the topic is told, once; a return before that is not told at all, and one after it is. What is to be
//! told is stored in the record together with the change that it tells of, and struck off once it is sent.
//!
//! Anybody may be refused in a device's name, and AWS IoT may tell that as a disconnect of the device. Such an end
//! counts only for the connection that it belongs to: see [`Device::refusals`].

pub mod check;
pub mod device;
pub mod event;
pub mod notice;
pub mod presence;

use std::convert::Infallible;
use std::mem;
use std::time::Duration;

use gatehouse::{
    Invocation, Command, DeviceEvent, EventHandler, Environment, Failure, Idempotency, Incoming, InitError, PublishError, SendError,
    Execution, IdempotencyError, Queue, Record, RecordError, Records, Refusal, Setup, ThingName, Topic,
};

use crate::check::Check;
use crate::device::{Device, Heard, Unreadable};
use crate::event::Lifecycle;
use crate::presence::Presence;

/// The record's part of what the devices table has of a thing.
const PART: &str = "presence";

/// The handler of lifecycle events and of its own checks.
#[derive(Debug)]
pub struct Handler {
    records: Records,
    queue: Queue,
    topic: Topic,
    idempotency: Idempotency,
    grace: Duration,
}

/// Why an event is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not an event, or not an order, that we take.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The device's record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The device's record is not one that this function writes.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The check could not be sent.
    #[error(transparent)]
    SendError(#[from] SendError),
    /// What is owed was not told now; the next try may.
    #[error(transparent)]
    NotTold(#[from] IdempotencyError<PublishError>),
    /// A failure was not counted now; the next try may.
    #[error(transparent)]
    NotCounted(#[from] IdempotencyError<Infallible>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::NotTold(error) => error.into(),
            other @ (Error::Record(_) | Error::Unreadable(_) | Error::SendError(_) | Error::NotCounted(_)) => {
                Self::retry(other)
            }
        }
    }
}

impl Handler {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let records = Records::new(setup.dynamodb(), setup.environment().required::<String>("DEVICES_TABLE")?);
        let (queue, topic) = tokio::join!(Queue::connect(setup), Topic::connect(setup));
        Self::from(setup.environment(), records, queue?, topic?, setup.idempotency()?)
    }

    /// Reads `GRACE_SECONDS`: how long a device must be away for that to be news, from 0 to 900 (default 300).
    pub fn from(
        environment: &Environment,
        records: Records,
        queue: Queue,
        topic: Topic,
        idempotency: Idempotency,
    ) -> Result<Self, InitError> {
        let grace = Duration::from_secs(environment.optional("GRACE_SECONDS")?.unwrap_or(300));
        if grace > Queue::MAX_DELAY {
            let why = "it must be from 0 to 900: Amazon SQS holds no message back for longer";
            return Err(Environment::invalid("GRACE_SECONDS", grace.as_secs(), &why));
        }
        Ok(Self { records, queue, topic, idempotency, grace })
    }

    async fn hear(&self, event: &DeviceEvent, invocation: &Invocation) -> Result<(), Error> {
        let lifecycle = Lifecycle::read(event)?;
        if let Lifecycle::Presence(presence) = &lifecycle {
            self.take(&event.thing, presence, invocation).await?;
        }
        self.count_failure(&event.thing, &lifecycle, invocation).await
    }

    /// Holds an event against the record, and sees to what follows.
    async fn take(&self, thing: &ThingName, event: &Presence, invocation: &Invocation) -> Result<(), Error> {
        let (device, record) = self
            .change(thing, |device| match device.hear(event.clone()) {
                Heard::Newer => true,
                Heard::Repeated => {
                    invocation.count("Repeated");
                    false
                }
                Heard::Older => {
                    invocation.count("Late");
                    false
                }
            })
            .await?;
        // Not only where it was new: the process that wrote it down may have died before it sent the check.
        if device.awaits_check(event) {
            // From now on, however long ago it was: where events are late, a return may be as late.
            self.queue.send(&Check::of(thing, event), self.grace).await?;
        }
        self.settle(thing, device, record, invocation).await
    }

    async fn check(&self, order: &Command<Check>, invocation: &Invocation) -> Result<(), Error> {
        let check = &order.order;
        let thing = ThingName::new(check.thing.as_str())?;
        let (device, record) = self.change(&thing, |device| device.check(check.version, &check.session)).await?;
        self.settle(&thing, device, record, invocation).await
    }

    /// Changes a device's record, if `change` says that it did; again from the start where another process has changed
    /// it meanwhile. The device as it is now, with its record.
    async fn change(&self, thing: &ThingName, change: impl Fn(&mut Device) -> bool) -> Result<(Device, Record), Error> {
        let id = id(thing);
        loop {
            let was = self.records.get(&id, PART).await?;
            let mut device = Device::read(&was.item)?;
            if !change(&mut device) {
                return Ok((device, was));
            }
            match self.records.put(&id, PART, device.item()?, &was).await {
                Err(RecordError::Conflict) => {}
                now => return Ok((device, now?)),
            }
        }
    }

    /// Tells what is owed, in its order, and strikes it off; also what has come to be owed meanwhile.
    async fn settle(
        &self,
        thing: &ThingName,
        mut device: Device,
        mut record: Record,
        invocation: &Invocation,
    ) -> Result<(), Error> {
        while !device.owed.is_empty() {
            let sent = mem::take(&mut device.owed);
            for notice in &sent {
                let told = self.topic.publish(notice.notification(thing));
                if self.idempotency.run_once(&format!("{thing}#{}", notice.id()), invocation, told).await? == Execution::Completed {
                    invocation.count("Told");
                }
            }
            match self.records.put(&id(thing), PART, device.item()?, &record).await {
                Err(RecordError::Conflict) => {
                    let strike_off = |device: &mut Device| {
                        let owed = device.owed.len();
                        device.owed.retain(|notice| !sent.contains(notice));
                        device.owed.len() < owed
                    };
                    (device, record) = self.change(thing, strike_off).await?;
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Counts a failure that an operator should know of, once for each event, and logs whose it was.
    async fn count_failure(&self, thing: &ThingName, lifecycle: &Lifecycle, invocation: &Invocation) -> Result<(), Error> {
        let Some((metric, reason)) = lifecycle.failure() else { return Ok(()) };
        let count = async {
            invocation.count(metric);
            tracing::warn!(
                requestId = invocation.request_id(),
                thing = thing.as_str(),
                reason,
                "a client was put out or kept out"
            );
            Ok::<_, Infallible>(())
        };
        match self.idempotency.run_once(&format!("{thing}#{metric}#{}", lifecycle.key()), invocation, count).await {
            // Whoever is at it counts it, now or when its own event comes again.
            Err(IdempotencyError::AlreadyInProgress) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }
}

fn id(thing: &ThingName) -> String {
    format!("thing#{thing}")
}

impl EventHandler for Handler {
    type Input = Incoming<Check>;
    type Error = Error;

    async fn handle(&self, input: &Incoming<Check>, invocation: &Invocation) -> Result<(), Error> {
        match input {
            Incoming::Event(event) => self.hear(event, invocation).await,
            Incoming::Command(order) => self.check(order, invocation).await,
        }
    }
}
