//! `$aws/events/certificates/registered/+`: checks a new device's certificate, then admits or refuses it.
//!
//! AWS IoT turns a device away that it does not know, registers its certificate as `PENDING_ACTIVATION` if a registered
//! CA signed it, and tells so here. *Admitting* is to let it in from now on: its thing is there, the certificate is attached
//! to it and has the policy that every device has, and is activated, **last**. Between any two steps the process may die;
//! the event then comes again, and every step may be taken again.
//!
//! What an admission stands on (the certificate, its CA, the CA's block and its revocation list) is looked at at first,
//! again just before the activation, and once more just after: an activation that it no longer allows is taken back. So
//! whoever shuts a CA needs only to write the block down first: then either that last look sees it, or the certificate
//! was active by then, and the sweep of `revoke` finds it.

mod admission;
pub mod certificate;
pub mod event;
pub mod reason;
pub mod records;
pub mod registry;
pub mod runs_out;

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_iot::types::CertificateStatus;
use gatehouse::x509::CaCertificate;
use gatehouse::{
    BoxError, Invocation, CertificateId, Devices, EventHandler, Environment, Failure, FetchError, Idempotency, Incoming, InitError,
    PublishError, IdempotencyError, Refusal, Setup, Topic,
};
use regex_lite::Regex;

use crate::admission::Admission;
use crate::event::Registered;
use crate::records::{RecordError, Records};
use crate::registry::{Registry, RegistryError};
use crate::runs_out::Check;

/// The handler of devices at the door.
#[derive(Debug)]
pub struct Jitr {
    registry: Registry,
    devices: Devices,
    records: Records,
    idempotency: Idempotency,
    topic: Topic,
    rules: Rules,
    /// The CAs whose end this process has noted.
    noted: Mutex<HashSet<CertificateId>>,
}

/// What the operator has decided.
#[derive(Debug)]
struct Rules {
    account: String,
    thing_name: Regex,
    may_rotate: bool,
    needs_crl: bool,
    refused_status: CertificateStatus,
    skew: Duration,
    runs_out_within: Duration,
}

/// Why an event is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not an event that we take.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// AWS IoT did not do its part.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The devices table did not do its part.
    #[error("the devices table could not be read")]
    Devices(#[source] BoxError),
    /// The record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Whether the CA has revoked the certificate cannot be told now.
    #[error("whether the CA has revoked it cannot be told: {0}")]
    Crl(#[source] FetchError),
    /// Another invocation is working on this certificate, or on another one of the same name.
    #[error("another invocation is working on {0}")]
    Busy(&'static str),
    /// It was not told now; the next try may.
    #[error(transparent)]
    NotTold(#[from] IdempotencyError<PublishError>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::NotTold(error) => error.into(),
            other @ (Error::Registry(_) | Error::Devices(_) | Error::Record(_) | Error::Crl(_) | Error::Busy(_)) => {
                Self::retry(other)
            }
        }
    }
}

impl Jitr {
    /// The handler that the process's environment describes.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let devices = Devices::from(setup.environment(), setup.dynamodb())?;
        let (registry, topic) = tokio::join!(Registry::connect(setup), Topic::connect(setup));
        Self::from(setup.environment(), registry?, devices, setup.idempotency()?, topic?)
    }

    /// Reads `ACCOUNT_ID`, `THING_NAME_PATTERN` (a regular expression that a whole name must match; default any),
    /// `ALLOW_ROTATION` and `REQUIRE_CRL` (`true` or `false`, the default), `REFUSED_STATUS` (`REVOKED`, the default, or
    /// `INACTIVE`), `CLOCK_SKEW_SECONDS` (default 300) and `RUNS_OUT_WITHIN_DAYS` (default 30).
    pub fn from(
        environment: &Environment,
        registry: Registry,
        devices: Devices,
        idempotency: Idempotency,
        topic: Topic,
    ) -> Result<Self, InitError> {
        const DAY: Duration = Duration::from_hours(24);
        let pattern: String = environment.optional("THING_NAME_PATTERN")?.unwrap_or_else(|| ".*".to_owned());
        let thing_name = Regex::new(&format!("^(?:{pattern})$"))
            .map_err(|error| Environment::invalid("THING_NAME_PATTERN", &pattern, &error))?;
        let RefusedStatus(refused_status) =
            environment.optional("REFUSED_STATUS")?.unwrap_or(RefusedStatus(CertificateStatus::Revoked));
        let rules = Rules {
            account: environment.required("ACCOUNT_ID")?,
            thing_name,
            may_rotate: environment.optional("ALLOW_ROTATION")?.unwrap_or(false),
            needs_crl: environment.optional("REQUIRE_CRL")?.unwrap_or(false),
            refused_status,
            skew: Duration::from_secs(environment.optional("CLOCK_SKEW_SECONDS")?.unwrap_or(300)),
            runs_out_within: DAY * environment.optional("RUNS_OUT_WITHIN_DAYS")?.unwrap_or(30),
        };
        let records = Records::new(devices.clone());
        Ok(Self { registry, devices, records, idempotency, topic, rules, noted: Mutex::default() })
    }

    /// Notes when a CA certificate runs out, once in the life of a process.
    async fn note(&self, ca: &CertificateId, authority: &CaCertificate) -> Result<(), Error> {
        let noted = || self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted().contains(ca) {
            self.records.note_authority(ca, authority.not_after).await?;
            noted().insert(ca.clone());
        }
        Ok(())
    }
}

impl EventHandler for Jitr {
    type Input = Incoming<Check>;
    type Error = Error;

    async fn handle(&self, input: &Incoming<Check>, invocation: &Invocation) -> Result<(), Error> {
        match input {
            Incoming::Event(event) => {
                let ids = Registered::read(event, &self.rules.account)?;
                Admission { jitr: self, ids, event_id: event.id.as_str(), invocation }.run().await
            }
            Incoming::Command(order) => self.tell_what_runs_out(order, invocation).await,
        }
    }
}

/// What becomes of a certificate that is turned away.
struct RefusedStatus(CertificateStatus);

impl FromStr for RefusedStatus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match CertificateStatus::from(text) {
            status @ (CertificateStatus::Revoked | CertificateStatus::Inactive) => Ok(Self(status)),
            _ => Err("it must be REVOKED or INACTIVE"),
        }
    }
}
