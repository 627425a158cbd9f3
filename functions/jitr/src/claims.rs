//! Claims in the devices table that only one certificate can hold: a thing's name, and the content that a CA signed.
//!
//! A claim is a single conditional write without a prior read: it succeeds if nobody holds the claim, or if the caller
//! or the holder that the caller names does. Two certificates that claim the same thing concurrently cannot both
//! succeed.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use gatehouse::pki::CertificateId;
use gatehouse::store::item::{number, string, text};
use gatehouse::{Failure, TableError, ThingName, Timestamp, VersionedTable};

/// Who holds a claim after an attempt to take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimHolder {
    /// The certificate that asked for it.
    Ours,
    /// Another certificate.
    Another(CertificateId),
}

/// The claims in the devices table.
#[derive(Debug, Clone)]
pub struct Claims(VersionedTable);

impl Claims {
    /// The claims in this table.
    pub const fn new(table: VersionedTable) -> Self {
        Self(table)
    }

    /// Claims a thing's name for a certificate, if nobody or only `from` holds it.
    pub async fn claim_name(
        &self,
        thing: &ThingName,
        certificate: &CertificateId,
        from: Option<&CertificateId>,
        now: Timestamp,
    ) -> Result<ClaimHolder, Failure> {
        self.claim(format!("thing#{thing}"), "name", certificate, from.unwrap_or(certificate), now).await
    }

    /// Claims signed content, by its digest, permanently for the certificate in which it is first seen.
    pub async fn claim_signed_content(
        &self,
        digest: &str,
        certificate: &CertificateId,
        now: Timestamp,
    ) -> Result<ClaimHolder, Failure> {
        self.claim(format!("certificate#{digest}"), "signed", certificate, certificate, now).await
    }

    async fn claim(
        &self,
        pk: String,
        sk: &str,
        certificate: &CertificateId,
        from: &CertificateId,
        now: Timestamp,
    ) -> Result<ClaimHolder, Failure> {
        let Self(table) = self;
        let put = table
            .client()
            .put_item()
            .table_name(table.name())
            .item("id", string(pk))
            .item("part", string(sk))
            .item("certificateId", string(certificate.as_str()))
            .item("claimedAt", number(now.millis()))
            // If the response was lost, the SDK's retry finds our own claim, and succeeds.
            .condition_expression("attribute_not_exists(id) OR certificateId IN (:ours, :from)")
            .expression_attribute_values(":ours", string(certificate.as_str()))
            .expression_attribute_values(":from", string(from.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = put.send().await else { return Ok(ClaimHolder::Ours) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                let holder = failed.item().and_then(|item| CertificateId::new(text(item, "certificateId")?));
                holder.map(ClaimHolder::Another).ok_or_else(|| Failure::retry("a claim does not name its holder"))
            }
            _ => Err(TableError::Put(table.name().to_owned(), error.into()).into()),
        }
    }
}
