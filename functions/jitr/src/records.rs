//! What `jitr` writes into the devices table: the record of each admission, which certificate holds a thing's name, and
//! which one holds what a CA signed.
//!
//! A record is worked on under a lease: by one process at a time, until that process's invocation ends. So an event that
//! comes twice cannot activate what an operator took away after the first.

use std::fmt;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use aws_sdk_iot::types::CertificateStatus;
use gatehouse::item::{Item, integer, is_true, number, string, text};
use gatehouse::{BoxError, Invocation, CertificateId, Devices, ThingName, Timestamp};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::certificate::Certificate;
use crate::event::Registered;
use crate::reason::Reason;

const ADMISSION: &str = "admission";
const NAME: &str = "name";
const SIGNED: &str = "signed";

/// How far an admission is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has been begun: the certificate may be active and not all be in place.
    Admitting,
    /// It is done.
    Admitted,
    /// It is decided, and not all that follows is done.
    Refusing(Refused),
    /// It is done.
    Refused,
    /// Somebody else activated the certificate.
    FoundActive,
    /// `revoke` has revoked the certificate.
    Revoked,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitting => "admitting",
            Self::Admitted => "admitted",
            Self::Refusing(_) => "refusing",
            Self::Refused => "refused",
            Self::FoundActive => "found-active",
            Self::Revoked => "revoked",
        })
    }
}

/// A decision to turn a certificate away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason's code.
    pub code: String,
    /// The reason in a sentence.
    pub why: String,
    /// What becomes of the certificate.
    pub status: CertificateStatus,
}

impl Refused {
    /// The decision for this reason.
    pub fn new(reason: &Reason, chosen: &CertificateStatus) -> Self {
        Self { code: reason.code().to_owned(), why: reason.to_string(), status: reason.status(chosen) }
    }
}

/// What the table says of a certificate.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// How far its admission is; none where nothing was ever begun.
    pub state: Option<State>,
    /// Whether an operator has blocked it.
    pub is_blocked: bool,
    owner: Option<String>,
    owned_until: Option<Timestamp>,
}

impl Record {
    fn read(item: &Item) -> Self {
        let state = text(item, "state").and_then(|state| match state {
            "admitting" => Some(State::Admitting),
            "admitted" => Some(State::Admitted),
            "refusing" => Some(State::Refusing(Refused {
                code: text(item, "reason")?.to_owned(),
                why: text(item, "why")?.to_owned(),
                status: text(item, "refusedStatus")?.into(),
            })),
            "refused" => Some(State::Refused),
            "found-active" => Some(State::FoundActive),
            "revoked" => Some(State::Revoked),
            _ => None,
        });
        Self {
            state,
            is_blocked: is_true(item, "blocked"),
            owner: text(item, "owner").map(str::to_owned),
            owned_until: integer(item, "ownedUntil").map(Timestamp::from_millis),
        }
    }
}

/// The right to work on a record.
#[derive(Debug)]
pub struct Lease {
    certificate: CertificateId,
    owner: String,
}

/// The table did not take what it was given, or somebody else is at it.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It could not be read.
    #[error("the devices table could not be read")]
    Read(#[source] BoxError),
    /// It could not be written.
    #[error("the devices table could not be written")]
    Write(#[source] BoxError),
    /// The lease has ended, and another process has taken it.
    #[error("another invocation has taken this certificate over")]
    LeaseLost,
}

/// Who holds what was claimed, after the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The certificate that asked.
    Ours,
    /// Another one.
    Another(CertificateId),
}

/// The devices table, as far as `jitr` writes it.
#[derive(Debug, Clone)]
pub struct Records(Devices);

impl Records {
    /// The records in this table.
    pub fn new(devices: Devices) -> Self {
        Self(devices)
    }

    /// What the table says of a certificate now.
    pub async fn get(&self, certificate: &CertificateId) -> Result<Record, RecordError> {
        let found = self.0.get(key(certificate), ADMISSION).await.map_err(|error| RecordError::Read(error.into()))?;
        Ok(found.as_ref().map(Record::read).unwrap_or_default())
    }

    /// Begins, or takes up again what another process left: if nobody else is at it, and nothing has changed since `seen`
    /// was read. `None` if not so.
    pub async fn begin(&self, ids: &Registered, seen: &Record, invocation: &Invocation) -> Result<Option<Lease>, RecordError> {
        let lease = Lease { certificate: ids.certificate.clone(), owner: Uuid::new_v4().to_string() };
        let now = invocation.now();
        if seen.owned_until.is_some_and(|until| until >= now) {
            return Ok(None);
        }
        // A decision to refuse stands until it is carried out.
        let state = match &seen.state {
            Some(refusing @ State::Refusing(_)) => refusing,
            _ => &State::Admitting,
        };
        let update = self
            .update(&ids.certificate)
            .update_expression(
                "SET #state = :state, #owner = :mine, ownedUntil = :until, updatedAt = :now, caCertificateId = :ca",
            )
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":state", string(state.to_string()))
            .expression_attribute_values(":mine", string(&lease.owner))
            .expression_attribute_values(":until", number(invocation.deadline().millis()))
            .expression_attribute_values(":ca", string(ids.ca.as_str()))
            .expression_attribute_values(":now", number(now.millis()));
        // `#owner = :mine` where the table took it, the answer was lost, and the SDK's own retry meets it.
        let update = match &seen.owner {
            Some(owner) => update
                .condition_expression(
                    "#owner = :mine OR (#owner = :seen AND (attribute_not_exists(ownedUntil) OR ownedUntil < :now))",
                )
                .expression_attribute_values(":seen", string(owner)),
            None => update.condition_expression("#owner = :mine OR attribute_not_exists(#owner)"),
        };
        Ok(if is_taken(update).await? { Some(lease) } else { None })
    }

    /// Writes a decision down before anything follows from it.
    pub async fn refusing(&self, lease: &Lease, refused: &Refused, now: Timestamp) -> Result<(), RecordError> {
        let update = self
            .owned(lease, &State::Refusing(refused.clone()), now)
            .update_expression(
                "SET #state = :state, updatedAt = :now, reason = :code, why = :why, refusedStatus = :status",
            )
            .expression_attribute_values(":code", string(&refused.code))
            .expression_attribute_values(":why", string(&refused.why))
            .expression_attribute_values(":status", string(refused.status.as_str()));
        written(update).await
    }

    /// Ends an admission.
    pub async fn admitted(
        &self,
        lease: &Lease,
        thing: &ThingName,
        certificate: &Certificate,
        now: Timestamp,
    ) -> Result<(), RecordError> {
        let update = said(self.owned(lease, &State::Admitted, now), certificate)
            .update_expression(
                "SET #state = :state, updatedAt = :now, thing = :thing, serial = :serial, issuer = :issuer, \
                 notAfter = :notAfter, fingerprint = :id, runsOutOn = :day \
                 REMOVE ownedUntil, reason, why, refusedStatus",
            )
            .expression_attribute_values(":thing", string(thing.as_str()))
            .expression_attribute_values(":day", string(day(certificate.not_after)))
            .expression_attribute_values(":id", string(lease.certificate.as_str()));
        written(update).await
    }

    /// Ends a refusal. `certificate` is what could be read of it.
    pub async fn refused(
        &self,
        lease: &Lease,
        refused: &Refused,
        certificate: Option<&Certificate>,
        now: Timestamp,
    ) -> Result<(), RecordError> {
        let update = self.owned(lease, &State::Refused, now);
        let (update, more) = match certificate {
            Some(certificate) => {
                (said(update, certificate), ", serial = :serial, issuer = :issuer, notAfter = :notAfter")
            }
            None => (update, ""),
        };
        let update = update
            .update_expression(format!(
                "SET #state = :state, updatedAt = :now, reason = :code, why = :why, refusedStatus = :status, \
                 fingerprint = :id{more} REMOVE ownedUntil, runsOutOn"
            ))
            .expression_attribute_values(":code", string(&refused.code))
            .expression_attribute_values(":why", string(&refused.why))
            .expression_attribute_values(":status", string(refused.status.as_str()))
            .expression_attribute_values(":id", string(lease.certificate.as_str()));
        written(update).await
    }

    /// Notes a certificate that somebody else activated. `false` where something is noted of it by now.
    pub async fn found_active(&self, ids: &Registered, now: Timestamp) -> Result<bool, RecordError> {
        let update = self
            .update(&ids.certificate)
            .update_expression("SET #state = :state, updatedAt = :now, caCertificateId = :ca")
            .condition_expression("attribute_not_exists(#state)")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":state", string(State::FoundActive.to_string()))
            .expression_attribute_values(":ca", string(ids.ca.as_str()))
            .expression_attribute_values(":now", number(now.millis()));
        is_taken(update).await
    }

    /// Ends a lease early, so that the next try need not wait for its end.
    pub async fn release(&self, lease: &Lease, now: Timestamp) -> Result<(), RecordError> {
        let update = self
            .update(&lease.certificate)
            .update_expression("SET updatedAt = :now REMOVE ownedUntil")
            .condition_expression("#owner = :mine")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":now", number(now.millis()))
            .expression_attribute_values(":mine", string(&lease.owner));
        written(update).await
    }

    /// Takes a thing's name for a certificate, from nobody, or from `from` and no other.
    pub async fn take_name(
        &self,
        thing: &ThingName,
        certificate: &CertificateId,
        from: Option<&CertificateId>,
        now: Timestamp,
    ) -> Result<Holder, RecordError> {
        self.take(format!("thing#{thing}"), NAME, certificate, from.unwrap_or(certificate), now).await
    }

    /// Takes what a CA signed (its digest) for the certificate that it is seen in first, for good.
    pub async fn take_signed(
        &self,
        signed: &str,
        certificate: &CertificateId,
        now: Timestamp,
    ) -> Result<Holder, RecordError> {
        self.take(format!("certificate#{signed}"), SIGNED, certificate, certificate, now).await
    }

    async fn take(
        &self,
        id: String,
        part: &str,
        certificate: &CertificateId,
        from: &CertificateId,
        now: Timestamp,
    ) -> Result<Holder, RecordError> {
        let (client, table) = self.0.table();
        let put = client
            .put_item()
            .table_name(table)
            .item("id", string(id))
            .item("part", string(part))
            .item("certificateId", string(certificate.as_str()))
            .item("claimedAt", number(now.millis()))
            .condition_expression("attribute_not_exists(id) OR certificateId IN (:ours, :from)")
            .expression_attribute_values(":ours", string(certificate.as_str()))
            .expression_attribute_values(":from", string(from.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = put.send().await else { return Ok(Holder::Ours) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refused)) => {
                let holder = refused.item().and_then(|item| CertificateId::new(text(item, "certificateId")?));
                holder.map(Holder::Another).ok_or_else(|| RecordError::Read("a claim without its holder".into()))
            }
            _ => Err(RecordError::Write(error.into())),
        }
    }

    /// Notes when a CA certificate runs out.
    pub async fn note_authority(&self, ca: &CertificateId, not_after: Timestamp) -> Result<(), RecordError> {
        let (client, table) = self.0.table();
        let put = client
            .put_item()
            .table_name(table)
            .item("id", string(format!("ca#{ca}")))
            .item("part", string("certificate"))
            .item("notAfter", number(not_after.millis()))
            .item("runsOutOn", string(day(not_after)));
        put.send().await.map_err(|error| RecordError::Write(error.into()))?;
        Ok(())
    }

    fn update(&self, certificate: &CertificateId) -> UpdateItemFluentBuilder {
        let (client, table): (&Client, _) = self.0.table();
        client.update_item().table_name(table).key("id", string(key(certificate))).key("part", string(ADMISSION))
    }

    fn owned(&self, lease: &Lease, state: &State, now: Timestamp) -> UpdateItemFluentBuilder {
        self.update(&lease.certificate)
            .condition_expression("#owner = :mine")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":state", string(state.to_string()))
            .expression_attribute_values(":mine", string(&lease.owner))
            .expression_attribute_values(":now", number(now.millis()))
    }
}

/// The day of a moment, as `runsOutOn` names it.
pub fn day(at: Timestamp) -> String {
    let moment = i64::try_from(at.seconds()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.map_or_else(|| "9999-12-31".to_owned(), |moment| moment.date().to_string())
}

fn key(certificate: &CertificateId) -> String {
    format!("certificate#{certificate}")
}

fn said(update: UpdateItemFluentBuilder, certificate: &Certificate) -> UpdateItemFluentBuilder {
    update
        .expression_attribute_values(":serial", string(certificate.serial.to_string()))
        .expression_attribute_values(":issuer", string(&certificate.issuer))
        .expression_attribute_values(":notAfter", number(certificate.not_after.millis()))
}

/// Whether the condition held.
async fn is_taken(update: UpdateItemFluentBuilder) -> Result<bool, RecordError> {
    match update.send().await {
        Ok(_) => Ok(true),
        Err(error) if is_refused(&error) => Ok(false),
        Err(error) => Err(RecordError::Write(error.into())),
    }
}

async fn written(update: UpdateItemFluentBuilder) -> Result<(), RecordError> {
    if is_taken(update).await? { Ok(()) } else { Err(RecordError::LeaseLost) }
}

fn is_refused(error: &SdkError<UpdateItemError>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}
