//! What `revoke` writes into the devices table of a CA and of each certificate, where `jitr` reads it.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::item::{Item, number, string, text};
use gatehouse::x509::Serial;
use gatehouse::{BoxError, CertificateId, Devices, Timestamp};

use crate::verdict::Known;

/// The devices table, as far as `revoke` writes of it.
#[derive(Debug, Clone)]
pub struct Records(Devices);

/// The table did not do what it was asked; it may next time.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It could not be read.
    #[error("the devices table could not be read")]
    Read(#[source] BoxError),
    /// It could not be written.
    #[error("the devices table could not be written")]
    Write(#[source] BoxError),
}

/// Why a certificate is revoked, for its record.
#[derive(Debug, Clone, Copy)]
pub struct Why<'a> {
    /// A code for machines.
    pub code: &'static str,
    /// A sentence, or the operator's own words.
    pub text: &'a str,
}

impl Records {
    /// The records in this table.
    pub fn new(devices: Devices) -> Self {
        Self(devices)
    }

    /// Blocks a CA: from now on nothing that it signed is admitted. It has been blocked since the first time.
    pub async fn block_authority(
        &self,
        ca: &CertificateId,
        reason: Option<&str>,
        now: Timestamp,
    ) -> Result<(), RecordError> {
        const SET: &str = "SET blocked = :true, blockedAt = if_not_exists(blockedAt, :now)";
        let update = self.update(format!("ca#{ca}"), "status");
        let update = update.expression_attribute_values(":true", AttributeValue::Bool(true));
        let update = update.expression_attribute_values(":now", number(now.millis()));
        written(match reason {
            Some(reason) => update
                .update_expression(format!("{SET}, blockReason = :reason"))
                .expression_attribute_values(":reason", string(reason)),
            None => update.update_expression(SET),
        })
        .await
    }

    /// Blocks a certificate: from now on it is not admitted.
    pub async fn block(&self, certificate: &CertificateId, now: Timestamp) -> Result<(), RecordError> {
        let update = self.record(certificate).update_expression("SET blocked = :true, updatedAt = :now");
        let update = update.expression_attribute_values(":true", AttributeValue::Bool(true));
        written(update.expression_attribute_values(":now", number(now.millis()))).await
    }

    /// What the table says of each of these certificates, read consistently. Those without a record are left out.
    pub async fn known(
        &self,
        certificates: impl IntoIterator<Item = &CertificateId>,
    ) -> Result<HashMap<String, Known>, RecordError> {
        let keys: Vec<String> = certificates.into_iter().map(key).collect();
        let found = self.records().get_all(keys.iter().map(|key| (key.as_str(), "admission"))).await;
        let found = found.map_err(|error| RecordError::Read(error.into()))?;
        let known =
            found.iter().filter_map(|((id, _), record)| Some((id.split_once('#')?.1.to_owned(), read(&record.item))));
        Ok(known.collect())
    }

    fn records(&self) -> gatehouse::Records {
        let (client, table) = self.0.table();
        gatehouse::Records::new(client.clone(), table)
    }

    /// Sets down that a run is about to revoke a certificate, so that it knows its own work again. An admission that
    /// holds the record loses it.
    pub async fn claim(&self, certificate: &CertificateId, run: &str, now: Timestamp) -> Result<(), RecordError> {
        let update = self
            .record(certificate)
            .update_expression("SET revokedBy = :run, #owner = :run, updatedAt = :now REMOVE ownedUntil")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":run", string(run))
            .expression_attribute_values(":now", number(now.millis()));
        written(update).await
    }

    /// Notes that a certificate is revoked. It runs out no more.
    pub async fn revoked(
        &self,
        certificate: &CertificateId,
        run: &str,
        why: Why<'_>,
        now: Timestamp,
    ) -> Result<(), RecordError> {
        let update = self
            .record(certificate)
            .update_expression(
                "SET #state = :state, reason = :code, why = :why, #owner = :run, updatedAt = :now \
                 REMOVE ownedUntil, runsOutOn, refusedStatus",
            )
            .expression_attribute_names("#state", "state")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":state", string("revoked"))
            .expression_attribute_values(":code", string(why.code))
            .expression_attribute_values(":why", string(why.text))
            .expression_attribute_values(":run", string(run))
            .expression_attribute_values(":now", number(now.millis()));
        written(update).await
    }

    fn record(&self, certificate: &CertificateId) -> UpdateItemFluentBuilder {
        self.update(key(certificate), "admission")
    }

    fn update(&self, id: String, part: &str) -> UpdateItemFluentBuilder {
        let (client, table) = self.0.table();
        client.update_item().table_name(table).key("id", string(id)).key("part", string(part))
    }
}

async fn written(update: UpdateItemFluentBuilder) -> Result<(), RecordError> {
    update.send().await.map_err(|error| RecordError::Write(error.into()))?;
    Ok(())
}

fn key(certificate: &CertificateId) -> String {
    format!("certificate#{certificate}")
}

fn read(item: &Item) -> Known {
    Known {
        state: text(item, "state").map(str::to_owned),
        revoked_by: text(item, "revokedBy").map(str::to_owned),
        serial: text(item, "serial").and_then(Serial::from_hex),
    }
}
