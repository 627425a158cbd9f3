//! The record of a certificate's admission in the devices table.
//!
//! An invocation works on a certificate only under a lease on its record. So two invocations never do at the same time,
//! and an event that is delivered twice cannot reactivate a certificate that an operator deactivated in between.
//! `revoke` writes the same records, to block or revoke a certificate: every write replaces the version that was read,
//! and keeps all attributes that it does not set.

use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::pki::CertificateId;
use gatehouse::store::item::{is_true, number, string, text};
use gatehouse::{
    Invocation, Item, Key, Lease, LeaseError, TableError, ThingName, Timestamp, Update, VersionedItem, VersionedTable,
};

use crate::certificate::DeviceCertificate;
use crate::event::Registration;
use crate::expiry::{EXPIRES_ON, day};
use crate::rejection::Rejection;

/// The state of an admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmissionState {
    /// It has started: the certificate may be active before everything is in place.
    Admitting,
    /// It is complete.
    Admitted,
    /// The rejection is decided, but may not have taken effect.
    Rejecting(Rejection),
    /// The rejection is complete.
    Rejected,
    /// Somebody else activated the certificate.
    FoundActive,
    /// `revoke` has revoked the certificate.
    Revoked,
}

/// As it is stored.
impl fmt::Display for AdmissionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitting => "admitting",
            Self::Admitted => "admitted",
            Self::Rejecting(_) => "refusing",
            Self::Rejected => "refused",
            Self::FoundActive => "found-active",
            Self::Revoked => "revoked",
        })
    }
}

impl AdmissionState {
    fn read(item: &Item) -> Option<Self> {
        match text(item, "state")? {
            "admitting" => Some(Self::Admitting),
            "admitted" => Some(Self::Admitted),
            "refusing" => Some(Self::Rejecting(Rejection {
                code: text(item, "reason")?.to_owned(),
                why: text(item, "why")?.to_owned(),
                status: text(item, "refusedStatus")?.into(),
            })),
            "refused" => Some(Self::Rejected),
            "found-active" => Some(Self::FoundActive),
            "revoked" => Some(Self::Revoked),
            _ => None,
        }
    }
}

/// The record of a certificate.
#[derive(Debug, Clone)]
pub struct AdmissionRecord {
    /// The state of its admission; `None` if none has started.
    pub state: Option<AdmissionState>,
    /// Whether an operator has blocked the certificate.
    pub is_blocked: bool,
    /// Whether an invocation is working on it.
    pub is_leased: bool,
    stored: VersionedItem,
}

/// The records in the devices table.
#[derive(Debug, Clone)]
pub struct AdmissionRecords(VersionedTable);

impl AdmissionRecords {
    /// The records in this table.
    pub const fn new(table: VersionedTable) -> Self {
        Self(table)
    }

    /// Reads the record of a certificate.
    pub async fn get(
        &self,
        certificate: &CertificateId,
        invocation: &Invocation,
    ) -> Result<AdmissionRecord, TableError> {
        let stored = self.0.get(&key(certificate)).await?;
        Ok(AdmissionRecord {
            state: AdmissionState::read(&stored.item),
            is_blocked: is_true(&stored.item, "blocked"),
            is_leased: Lease::is_active(&stored, invocation.now()),
            stored,
        })
    }

    /// Starts an admission, or continues one that another invocation left unfinished. A stored decision to reject is
    /// kept.
    ///
    /// Returns `None` if another invocation is working on it, or the record has changed since it was read.
    pub async fn begin(
        &self,
        ids: &Registration,
        seen: &AdmissionRecord,
        invocation: &Invocation,
    ) -> Result<Option<AdmissionLease>, TableError> {
        let state = match &seen.state {
            Some(rejecting @ AdmissionState::Rejecting(_)) => rejecting,
            _ => &AdmissionState::Admitting,
        };
        let lease = Lease::acquire(&self.0, key(&ids.certificate), &seen.stored, invocation, |item| {
            set_state(item, state, invocation.now());
            set(item, [("caCertificateId", string(ids.ca.as_str()))]);
        });
        Ok(lease.await?.map(|lease| AdmissionLease { lease, certificate: ids.certificate.clone() }))
    }

    /// Records that somebody else activated a certificate. Returns `false` if an admission has been recorded meanwhile.
    pub async fn record_active(
        &self,
        ids: &Registration,
        seen: AdmissionRecord,
        invocation: &Invocation,
    ) -> Result<bool, TableError> {
        let key = key(&ids.certificate);
        let updated = self.0.update_from(seen.stored, &key, invocation, async |record| {
            if record.item.contains_key("state") {
                return Ok::<_, TableError>(Update::Keep(false));
            }
            let mut item = record.item.clone();
            set_state(&mut item, &AdmissionState::FoundActive, invocation.now());
            set(&mut item, [("caCertificateId", string(ids.ca.as_str()))]);
            Ok(Update::Write(item, true))
        });
        Ok(updated.await?.value)
    }
}

/// The exclusive right to work on a certificate.
#[derive(Debug)]
pub struct AdmissionLease {
    lease: Lease,
    certificate: CertificateId,
}

impl AdmissionLease {
    /// Stores the decision to reject, before it takes effect.
    pub async fn decide_rejection(&mut self, rejection: &Rejection, invocation: &Invocation) -> Result<(), LeaseError> {
        let state = AdmissionState::Rejecting(rejection.clone());
        let change = |item: &mut Item| {
            set_state(item, &state, invocation.now());
            set_rejection(item, rejection);
        };
        self.lease.change(invocation, change).await
    }

    /// Completes an admission.
    pub async fn complete_admission(
        &mut self,
        thing: &ThingName,
        certificate: &DeviceCertificate,
        invocation: &Invocation,
    ) -> Result<(), LeaseError> {
        let id = self.certificate.as_str();
        let change = |item: &mut Item| {
            set_state(item, &AdmissionState::Admitted, invocation.now());
            set_certificate(item, certificate);
            set(item, [("thing", string(thing.as_str())), ("fingerprint", string(id))]);
            set(item, [(EXPIRES_ON, string(day(certificate.not_after)))]);
            for rejection in ["reason", "why", "refusedStatus"] {
                item.remove(rejection);
            }
        };
        self.lease.release(invocation, change).await
    }

    /// Completes a rejection. `certificate` is `None` if the certificate could not be parsed.
    pub async fn complete_rejection(
        &mut self,
        rejection: &Rejection,
        certificate: Option<&DeviceCertificate>,
        invocation: &Invocation,
    ) -> Result<(), LeaseError> {
        let id = self.certificate.as_str();
        let change = |item: &mut Item| {
            set_state(item, &AdmissionState::Rejected, invocation.now());
            set_rejection(item, rejection);
            set(item, [("fingerprint", string(id))]);
            if let Some(certificate) = certificate {
                set_certificate(item, certificate);
            }
            item.remove(EXPIRES_ON);
        };
        self.lease.release(invocation, change).await
    }

    /// Releases the lease, so that the next attempt need not wait until it expires.
    pub async fn release(&mut self, invocation: &Invocation) -> Result<(), LeaseError> {
        self.lease.release(invocation, |item| set_updated(item, invocation.now())).await
    }
}

fn key(certificate: &CertificateId) -> Key {
    Key::new(format!("certificate#{certificate}"), "admission")
}

fn set<const N: usize>(item: &mut Item, attributes: [(&str, AttributeValue); N]) {
    item.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
}

fn set_updated(item: &mut Item, now: Timestamp) {
    set(item, [("updatedAt", number(now.millis()))]);
}

fn set_state(item: &mut Item, state: &AdmissionState, now: Timestamp) {
    set(item, [("state", string(state.to_string()))]);
    set_updated(item, now);
}

fn set_rejection(item: &mut Item, rejection: &Rejection) {
    let Rejection { code, why, status } = rejection;
    set(item, [("reason", string(code)), ("why", string(why)), ("refusedStatus", string(status.as_str()))]);
}

fn set_certificate(item: &mut Item, certificate: &DeviceCertificate) {
    let DeviceCertificate { serial, issuer, not_after, .. } = certificate;
    if let Some(thing) = certificate.thing_name() {
        set(item, [("thing", string(thing.as_str()))]);
    }
    set(item, [("serial", string(serial.to_string())), ("issuer", string(issuer))]);
    set(item, [("notAfter", number(not_after.millis()))]);
}
