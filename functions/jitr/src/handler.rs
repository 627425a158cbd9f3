use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gatehouse::pki::{CaCertificate, CertificateId};
use gatehouse::{
    Devices, Environment, EventHandler, Failure, Idempotency, Incoming, InitError, Invocation, Setup, Topic,
};
use iot_registry::{CertificateStatus, Registry};
use regex_lite::Regex;

use crate::admission::Admission;
use crate::admission_record::AdmissionRecords;
use crate::claims::Claims;
use crate::event::Registration;
use crate::expiry::{self, ExpiryCheck};

const DAY: Duration = Duration::from_hours(24);

/// The maximum number of `DescribeCertificate` calls of a process in any one second. AWS IoT allows an account about
/// ten calls per second, and the templates run two processes.
pub const DESCRIBES_PER_SECOND: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4);

/// Admits or rejects new devices, and reports once a day which certificates and CRLs expire soon.
#[derive(Debug)]
pub struct JitrHandler {
    pub(crate) registry: Registry,
    pub(crate) devices: Devices,
    pub(crate) records: AdmissionRecords,
    pub(crate) claims: Claims,
    pub(crate) idempotency: Idempotency,
    pub(crate) topic: Topic,
    pub(crate) rules: AdmissionRules,
    /// The CAs whose expiry this process has recorded.
    recorded_cas: Mutex<HashSet<CertificateId>>,
}

/// What the operator has configured.
#[derive(Debug)]
pub(crate) struct AdmissionRules {
    account: String,
    pub(crate) device_policy: String,
    pub(crate) thing_type: Option<String>,
    pub(crate) thing_name: Regex,
    pub(crate) allows_rotation: bool,
    pub(crate) requires_crl: bool,
    pub(crate) rejected_status: CertificateStatus,
    /// The allowed difference between the clocks of a CA and AWS.
    pub(crate) clock_skew: Duration,
    pub(crate) expiry_warning: Duration,
}

impl JitrHandler {
    /// Assembles the handler during INIT.
    pub async fn new(setup: &Setup) -> Result<Self, InitError> {
        let devices = Devices::from_environment(setup.environment(), setup.dynamodb())?;
        let (registry, topic) = tokio::join!(Registry::connect(setup), Topic::connect(setup));
        let registry = registry.with_describe_limit(DESCRIBES_PER_SECOND);
        Self::from_environment(setup.environment(), registry, devices, setup.idempotency()?, topic?)
    }

    /// Reads `ACCOUNT_ID`, `DEVICE_POLICY` (the name of the policy that every device gets), `THING_TYPE` (default:
    /// none), `THING_NAME_PATTERN` (a regular expression that a whole name must match; default: any),
    /// `ALLOW_ROTATION` and `REQUIRE_CRL` (`true` or `false`, the default), `REJECTED_STATUS` (`REVOKED`, the default,
    /// or `INACTIVE`), `CLOCK_SKEW_SECONDS` (default 300) and `EXPIRY_WARNING_DAYS` (default 30).
    pub fn from_environment(
        environment: &Environment,
        registry: Registry,
        devices: Devices,
        idempotency: Idempotency,
        topic: Topic,
    ) -> Result<Self, InitError> {
        let pattern: String = environment.optional("THING_NAME_PATTERN")?.unwrap_or_else(|| ".*".to_owned());
        let thing_name = Regex::new(&format!("^(?:{pattern})$"))
            .map_err(|error| Environment::invalid("THING_NAME_PATTERN", &pattern, &error))?;
        let RejectedStatus(rejected_status) =
            environment.optional("REJECTED_STATUS")?.unwrap_or(RejectedStatus(CertificateStatus::Revoked));
        let rules = AdmissionRules {
            account: environment.required("ACCOUNT_ID")?,
            device_policy: environment.required("DEVICE_POLICY")?,
            thing_type: environment.optional("THING_TYPE")?,
            thing_name,
            allows_rotation: environment.optional("ALLOW_ROTATION")?.unwrap_or(false),
            requires_crl: environment.optional("REQUIRE_CRL")?.unwrap_or(false),
            rejected_status,
            clock_skew: Duration::from_secs(environment.optional("CLOCK_SKEW_SECONDS")?.unwrap_or(300)),
            expiry_warning: DAY * environment.optional("EXPIRY_WARNING_DAYS")?.unwrap_or(30),
        };
        Ok(Self {
            registry,
            records: AdmissionRecords::new(devices.table().clone()),
            claims: Claims::new(devices.table().clone()),
            devices,
            idempotency,
            topic,
            rules,
            recorded_cas: Mutex::default(),
        })
    }

    /// Records when a CA certificate expires, once in the life of a process.
    pub(crate) async fn record_ca_expiry(&self, id: &CertificateId, ca: &CaCertificate) -> Result<(), Failure> {
        let recorded = || self.recorded_cas.lock().unwrap_or_else(PoisonError::into_inner);
        if !recorded().contains(id) {
            expiry::record_ca(self.devices.table(), id, ca.not_after).await?;
            recorded().insert(id.clone());
        }
        Ok(())
    }
}

impl EventHandler for JitrHandler {
    type Input = Incoming<ExpiryCheck>;
    type Error = Failure;

    async fn handle(&self, input: &Incoming<ExpiryCheck>, invocation: &Invocation) -> Result<(), Failure> {
        match input {
            Incoming::Event(event) => {
                let ids = Registration::parse(event, &self.rules.account)?;
                Admission { jitr: self, ids, event_id: event.id.as_str(), invocation }.run().await
            }
            Incoming::Command(command) => self.report_expiring(&command.id, invocation).await,
        }
    }
}

struct RejectedStatus(CertificateStatus);

impl FromStr for RejectedStatus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match CertificateStatus::from(text) {
            status @ (CertificateStatus::Revoked | CertificateStatus::Inactive) => Ok(Self(status)),
            _ => Err("it must be REVOKED or INACTIVE"),
        }
    }
}
