//! Sends the command that answers an alarm: a desired state for a device's shadow, or codes to an infrared gateway.
//!
//! Transitions come from the alarm topic, late, repeated and out of order. What each device was commanded last, and by
//! which transition, is kept in a [record](device::Device) of its own, which a process changes before it sends a
//! command and once more after that. So the same transition twice commands once; different commands to one device are
//! kept apart, whichever alarms they answer; and the newest transition has the last word.
//!
//! A command that comes too soon is put off: its transition is sent to the function's own queue, to come again.
//!
//! What cannot be helped: where a process dies, or an answer is lost, between a command and the record of it, the
//! command is sent again. A desired state is the same state again; codes are sent twice.

pub mod answers;
pub mod device;
pub mod gateway;
pub mod order;
pub mod shadows;

use std::time::Duration;

use futures_util::future::join_all;
use gatehouse::{
    Attribute, Invocation, Document, DocumentError, EventHandler, Environment, Failure, Idempotency, InitError, SendError,
    Notification, Queue, Record, RecordError, Records, Refusal, Setup, ThingName, Timestamp, Topic, chain,
};
use serde_json::json;
use tokio::time::sleep;

use crate::answers::{Actions, Command, Infrared};
use crate::device::{Decision, Device, Mark};
use crate::gateway::GatewayError;
use crate::order::{Order, Transition};
use crate::shadows::{ShadowError, Shadows};

/// The longest interval that may be set between different commands to one device.
const LONGEST_INTERVAL: Duration = Duration::from_hours(24);

/// How long to wait before looking again whether another process is done with a device.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The part of a device's item that holds its record.
const PART: &str = "command";

/// The handler of alarms' transitions.
#[derive(Debug)]
pub struct Actuator {
    answers: Document<Actions>,
    records: Records,
    shadows: Shadows,
    queue: Queue,
    idempotency: Idempotency,
    operators: Topic,
    interval: Duration,
    tell_after: Duration,
}

/// Why a transition is not answered, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It never can be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The document of answers could not be read or put.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The device's record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another process is sending a command to the device.
    #[error("another invocation is sending a command to this device")]
    Busy,
    /// Too little time is left to send the command.
    #[error("too little time is left to send the command")]
    TooLate,
    /// The device's shadow was not updated.
    #[error("device {0}")]
    Shadow(ThingName, #[source] ShadowError),
    /// The device's gateway did not send the codes.
    #[error("device {0}")]
    Gateway(ThingName, #[source] GatewayError),
    /// The transition could not be put off.
    #[error(transparent)]
    SendError(#[from] SendError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) | Error::Shadow(_, ShadowError::Refused(refusal)) => refusal.into(),
            Error::Document(error) => error.into(),
            other => Self::retry(other),
        }
    }
}

impl Actuator {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let environment = setup.environment();
        let records = Records::new(setup.dynamodb(), environment.required::<String>("ACTUATOR_TABLE")?);
        let (shadows, queue, operators) =
            tokio::join!(Shadows::connect(setup), Queue::connect(setup), Topic::connect(setup));
        Self::from(environment, records, shadows, queue?, setup.idempotency()?, operators?)
    }

    /// Reads `MIN_INTERVAL_SECONDS` (0 to 86,400, default 900), by which different commands to one device are kept
    /// apart, and `TELL_AFTER_SECONDS` (default 120), after which the operators are told of a gateway that still fails.
    pub fn from(
        environment: &Environment,
        records: Records,
        shadows: Shadows,
        queue: Queue,
        idempotency: Idempotency,
        operators: Topic,
    ) -> Result<Self, InitError> {
        let interval = Duration::from_secs(environment.optional("MIN_INTERVAL_SECONDS")?.unwrap_or(900));
        if interval > LONGEST_INTERVAL {
            let why = format!("it must be from 0 to {}", LONGEST_INTERVAL.as_secs());
            return Err(Environment::invalid("MIN_INTERVAL_SECONDS", interval.as_secs(), &why));
        }
        let tell_after = Duration::from_secs(environment.optional("TELL_AFTER_SECONDS")?.unwrap_or(120));
        let answers = Document::new(records.clone(), "answers");
        Ok(Self { answers, records, shadows, queue, idempotency, operators, interval, tell_after })
    }

    async fn answer(&self, transition: &Transition, text: &str, invocation: &Invocation) -> Result<(), Error> {
        let answers = self.answers.current().await?;
        let commands = answers.as_ref().map(|answers| answers.to(transition)).transpose()?.unwrap_or_default();
        if commands.is_empty() {
            invocation.count("Unanswered");
        }
        // All at once: a device that does not answer keeps no other waiting. What may succeed later is worth a retry,
        // even where something else never will.
        let all = commands.iter().map(|(device, command)| self.command(device, command, transition, text, invocation));
        let failures = join_all(all).await.into_iter().filter_map(Result::err);
        failures.max_by_key(Error::may_pass).map_or(Ok(()), Err)
    }

    /// Sends one device its command, puts it off, or lets it be.
    async fn command(
        &self,
        device: &ThingName,
        command: &Command,
        transition: &Transition,
        text: &str,
        invocation: &Invocation,
    ) -> Result<(), Error> {
        let id = format!("device#{device}");
        let mark = Mark::new(transition.at, &transition.id);
        let json = json!(command).to_string();
        loop {
            let record = self.records.get(&id, PART).await?;
            let (known, now) = (Device::read(&record.item), invocation.now());
            match known.decide(&mark, &json, now, self.interval) {
                Decision::Superseded => {
                    invocation.count("Superseded");
                    return Ok(());
                }
                Decision::AlreadyDone => {
                    invocation.count("Repeated");
                    return Ok(());
                }
                Decision::Wait(_) if invocation.is_running_late() => return Err(Error::Busy),
                Decision::Wait(_) => sleep(LOOK_AGAIN).await,
                Decision::Delay(until) => {
                    // First it is known that there is a newer one: an older one must not come between.
                    if !known.knows(&mark) && self.put(&id, &known.delayed(&mark), &record, now).await?.is_none() {
                        continue;
                    }
                    self.queue.send_text(text, until.since(now)).await?;
                    invocation.count("Delayed");
                    return Ok(());
                }
                Decision::Send if invocation.is_running_late() => return Err(Error::TooLate),
                Decision::Send => {
                    let sending = known.sending(&mark, &json, now, invocation.deadline());
                    if let Some(record) = self.put(&id, &sending, &record, now).await? {
                        let sent = self.send(device, command).await;
                        self.note(device, &sent, &sending, &record, invocation).await;
                        if let (Err(Error::Gateway(_, error)), Command::Infrared(infrared)) = (&sent, command) {
                            let failure = Failing { device, infrared, transition, error, since: known.failing_since };
                            self.tell(failure, invocation).await;
                        }
                        return sent;
                    }
                }
            }
        }
    }

    /// Writes what is known of a device now; `None` where another process has written it meanwhile.
    async fn put(
        &self,
        id: &str,
        device: &Device,
        was: &Record,
        now: Timestamp,
    ) -> Result<Option<Record>, RecordError> {
        match self.records.put(id, PART, device.item(now), was).await {
            Err(RecordError::Conflict) => Ok(None),
            other => other.map(Some),
        }
    }

    async fn send(&self, device: &ThingName, command: &Command) -> Result<(), Error> {
        match command {
            Command::Shadow(shadow) => {
                let desired = self.shadows.desire(device, shadow).await;
                desired.map_err(|error| Error::Shadow(device.clone(), error))
            }
            Command::Infrared(infrared) => {
                gateway::send(infrared).await.map_err(|error| Error::Gateway(device.clone(), error))
            }
        }
    }

    /// Notes what came of a command. A note that fails changes nothing about that: what was sent is done, and handing
    /// its transition back would be certain to send it again; what was not is tried again in any case.
    async fn note(&self, device: &ThingName, sent: &Result<(), Error>, sending: &Device, was: &Record, invocation: &Invocation) {
        let now = invocation.now();
        let is_gateways_fault = matches!(sent, Err(Error::Gateway(..)));
        let device_now = if sent.is_ok() { sending.done() } else { sending.failed(is_gateways_fault, now) };
        if sent.is_ok() {
            invocation.count("Commanded");
        } else if is_gateways_fault {
            invocation.count("GatewayFailed");
        }
        if let Err(error) = self.records.put(&format!("device#{device}"), PART, device_now.item(now), was).await {
            invocation.count("Unmarked");
            let (device, error) = (device.as_str(), chain(&error));
            tracing::warn!(requestId = invocation.request_id(), device, error, "what came of the command could not be noted");
        }
    }

    /// Tells the operators of a gateway that has failed for long, once while it goes on failing.
    async fn tell(&self, failing: Failing<'_>, invocation: &Invocation) {
        let Some(since) = failing.since.filter(|since| invocation.now().since(*since) >= self.tell_after) else { return };
        let key = format!("gateway#{}#{since}", failing.device);
        let told = self.operators.publish(failing.notification(invocation.now().since(since)));
        if let Err(error) = self.idempotency.run_once(&key, invocation, told).await {
            let (device, error) = (failing.device.as_str(), chain(&error));
            tracing::warn!(
                requestId = invocation.request_id(),
                device,
                error,
                "the operators could not be told; the next try may"
            );
        }
    }
}

/// A gateway that does not send its device's command.
struct Failing<'a> {
    device: &'a ThingName,
    infrared: &'a Infrared,
    transition: &'a Transition,
    error: &'a GatewayError,
    /// When it failed first, if this is not the first time.
    since: Option<Timestamp>,
}

impl Failing<'_> {
    fn notification(&self, lasting: Duration) -> Notification {
        let Self { device, infrared: Infrared { host, port, .. }, transition, error, .. } = self;
        let Transition { threshold, thing, to, .. } = transition;
        let minutes = lasting.as_secs() / 60;
        Notification {
            subject: format!("Gateway of {device} fails"),
            message: format!(
                "The infrared gateway {host}:{port} has failed for {minutes} min: {error}. {device} has not got the \
                 command that answers {threshold} {to} of {thing}. It is tried again a few times, then kept in the \
                 dead-letter queue."
            ),
            data: None,
            attributes: vec![
                ("device", Attribute::Text(device.to_string())),
                ("error", Attribute::Text(error.class().to_owned())),
            ],
        }
    }
}

impl Error {
    /// Whether the next try may succeed.
    fn may_pass(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Shadow(_, ShadowError::Refused(_)))
    }
}

impl EventHandler for Actuator {
    type Input = Order;
    type Error = Error;

    async fn handle(&self, order: &Order, invocation: &Invocation) -> Result<(), Error> {
        match order {
            Order::Answer { transition, text, .. } => self.answer(transition, text, invocation).await,
            Order::Put { given_at, document, .. } => {
                self.answers.put(document, *given_at).await?;
                Ok(())
            }
        }
    }
}
