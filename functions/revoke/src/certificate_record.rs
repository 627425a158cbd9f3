//! What `revoke` writes to the devices table for `jitr` to read: a CA's block, and each certificate's record.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::pki::{CertificateId, Serial};
use gatehouse::store::item::{number, string, text};
use gatehouse::{Failure, Invocation, Item, Key, TableError, Timestamp, Update, VersionedItem, VersionedTable};
use iot_registry::ListedCertificate;

/// The admission records of certificates, which `jitr` also writes, and the status of CAs.
#[derive(Debug, Clone)]
pub struct CertificateRecords(VersionedTable);

/// What the devices table says about a certificate. Empty if the certificate has no record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CertificateRecord {
    /// The record's state.
    pub state: Option<String>,
    /// The id of the last run that claimed it for revocation.
    pub revoked_by: Option<String>,
    /// Its serial number.
    pub serial: Option<Serial>,
    /// The thing that it was admitted for; `None` if it was rejected, because it may name a thing of another
    /// certificate.
    pub thing: Option<String>,
    /// Whether AWS IoT knew a session under the thing's name when the last run to revoke it ended the session; `None`
    /// if that run has not ended it, or could not.
    pub is_disconnected: Option<bool>,
    /// The record, as it is stored.
    pub stored: VersionedItem,
}

impl CertificateRecord {
    fn read(stored: VersionedItem) -> Self {
        let item = &stored.item;
        Self {
            state: text(item, "state").map(str::to_owned),
            revoked_by: text(item, "revokedBy").map(str::to_owned),
            serial: text(item, "serial").and_then(Serial::from_hex),
            thing: text(item, "thing").filter(|_| !item.contains_key("refusedStatus")).map(str::to_owned),
            is_disconnected: item.get("disconnected").and_then(|value| value.as_bool().ok().copied()),
            stored,
        }
    }
}

/// The reason for a revocation, as stored in the certificate's record.
#[derive(Debug, Clone, Copy)]
pub struct RevocationReason<'a> {
    /// A code for machines.
    pub code: &'static str,
    /// A sentence, or the reason in the operator's command.
    pub text: &'a str,
}

/// A CA could not be blocked.
#[derive(Debug, thiserror::Error)]
#[error("failed to block the CA in the devices table")]
pub struct BlockError(#[from] Box<SdkError<UpdateItemError>>);

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        Self::retry(error)
    }
}

impl CertificateRecords {
    /// The records in this table.
    pub const fn new(table: VersionedTable) -> Self {
        Self(table)
    }

    /// Blocks a CA: from now on, none of its certificates are admitted. `blockedAt` keeps the time of the first block.
    ///
    /// Sets only these attributes, without a version, because operators' scripts write other attributes of the same
    /// item.
    pub async fn block_ca(&self, ca: &CertificateId, reason: Option<&str>, now: Timestamp) -> Result<(), BlockError> {
        const SET: &str = "SET blocked = :true, blockedAt = if_not_exists(blockedAt, :now)";
        let Self(table) = self;
        let update = table.client().update_item().table_name(table.name());
        let update = update.key("id", string(format!("ca#{ca}"))).key("part", string("status"));
        let update = update.expression_attribute_values(":true", AttributeValue::Bool(true));
        let update = update.expression_attribute_values(":now", number(now.millis()));
        let update = match reason {
            Some(reason) => update
                .update_expression(format!("{SET}, blockReason = :reason"))
                .expression_attribute_values(":reason", string(reason)),
            None => update.update_expression(SET),
        };
        update.send().await.map_err(Box::new)?;
        Ok(())
    }

    /// Blocks a certificate, so that it is no longer admitted.
    pub async fn block(&self, certificate: &CertificateId, invocation: &Invocation) -> Result<(), TableError> {
        let record = self.0.get(&key(certificate)).await?;
        let blocked = |item: &mut Item| drop(item.insert("blocked".to_owned(), AttributeValue::Bool(true)));
        self.change(certificate, record, invocation, blocked).await?;
        Ok(())
    }

    /// Reads the records of these certificates consistently. Those without a record are left out.
    pub async fn get_all(
        &self,
        certificates: &[ListedCertificate],
    ) -> Result<HashMap<CertificateId, CertificateRecord>, TableError> {
        let keys: HashMap<_, _> =
            certificates.iter().map(|certificate| (key(&certificate.id), certificate.id.clone())).collect();
        let found = self.0.get_all(keys.keys()).await?.into_iter();
        let record = |(key, stored)| Some((keys.get(&key)?.clone(), CertificateRecord::read(stored)));
        Ok(found.filter_map(record).collect())
    }

    /// Records that a run is about to revoke a certificate, so that the run recognizes its own work. An admission that
    /// holds a lease on the record loses it.
    pub async fn claim(
        &self,
        certificate: &CertificateId,
        record: VersionedItem,
        run_id: &str,
        invocation: &Invocation,
    ) -> Result<VersionedItem, TableError> {
        let claim = |item: &mut Item| {
            item.insert("revokedBy".to_owned(), string(run_id));
            item.remove("disconnected");
            take_over(item, run_id);
        };
        self.change(certificate, record, invocation, claim).await
    }

    /// Records that a certificate is revoked, and whether its session ended. Its expiry is no longer reported.
    pub async fn mark_revoked(
        &self,
        certificate: &CertificateId,
        record: VersionedItem,
        run_id: &str,
        reason: RevocationReason<'_>,
        is_disconnected: Option<bool>,
        invocation: &Invocation,
    ) -> Result<(), TableError> {
        let revoke = |item: &mut Item| {
            let RevocationReason { code, text } = reason;
            let attributes = [("state", string("revoked")), ("reason", string(code)), ("why", string(text))];
            item.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
            if let Some(is_disconnected) = is_disconnected {
                item.insert("disconnected".to_owned(), AttributeValue::Bool(is_disconnected));
            }
            item.remove("runsOutOn");
            take_over(item, run_id);
        };
        self.change(certificate, record, invocation, revoke).await?;
        Ok(())
    }

    /// Changes a record that was read or written before, and keeps what others have changed since.
    async fn change(
        &self,
        certificate: &CertificateId,
        record: VersionedItem,
        invocation: &Invocation,
        change: impl Fn(&mut Item),
    ) -> Result<VersionedItem, TableError> {
        let key = key(certificate);
        let updated = self.0.update_from(record, &key, invocation, async |record| {
            let mut item = record.item.clone();
            change(&mut item);
            item.insert("updatedAt".to_owned(), number(invocation.now().millis()));
            Ok::<_, TableError>(Update::Write(item, ()))
        });
        Ok(updated.await?.record)
    }
}

/// Takes the record's lease away from its holder.
fn take_over(item: &mut Item, run_id: &str) {
    item.insert("owner".to_owned(), string(run_id));
    item.remove("ownedUntil");
}

fn key(certificate: &CertificateId) -> Key {
    Key::new(format!("certificate#{certificate}"), "admission")
}
