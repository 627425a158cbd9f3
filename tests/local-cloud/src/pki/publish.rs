//! Registers the CA with AWS IoT and publishes its CRLs in the devices table.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::{CertificateAuthority, CertificateSpec, Crl, day};
use crate::aws::Clients;
use crate::observer::{millis, now};

/// Maximum size of the chunk of a CRL in one item of the devices table.
pub const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// How long the chunks of a CRL stay in the table after its next update is due.
const RETENTION: Duration = Duration::from_hours(30 * 24);

impl CertificateAuthority {
    /// Registers the CA as `gatehouse ca register` does: active, with automatic registration of its devices.
    pub async fn register(&self, clients: &Clients) -> Result<()> {
        let register = async {
            let code = clients.iot.get_registration_code().send().await?;
            let code = code.registration_code().context("AWS IoT returned no registration code")?;
            let proof = self.issue(&CertificateSpec::named(code))?;
            let register = clients.iot.register_ca_certificate().ca_certificate(&self.pem);
            let register = register.verification_certificate(proof.pem).set_as_active(true);
            let registered = register.allow_auto_registration(true).send().await?;
            let id = registered.certificate_id().unwrap_or_default();
            ensure!(id == self.id, "AWS IoT returned the id {id} instead of {}", self.id);
            Ok(())
        };
        register.await.context("failed to register the CA")
    }

    /// Signs and publishes a CRL as `gatehouse ca publish-crl` does. Returns `false` if the published one is not older.
    pub async fn publish_crl(&self, clients: &Clients, devices_table: &str, crl: &Crl) -> Result<bool> {
        self.publish_crl_bytes(clients, devices_table, crl, self.sign_crl(crl)?.der()).await
    }

    /// Publishes these bytes, which may be invalid, in place of the CRL's.
    pub async fn publish_crl_bytes(
        &self,
        clients: &Clients,
        devices_table: &str,
        crl: &Crl,
        bytes: &[u8],
    ) -> Result<bool> {
        let publish = async {
            let text = |text: &str| AttributeValue::S(text.to_owned());
            let number = |number: String| AttributeValue::N(number);
            let (id, crl_number) = (format!("ca#{}", self.id), crl.sortable_number());
            let mut chunks = 0_u32;
            for chunk in bytes.chunks(MAX_CHUNK_BYTES) {
                let put = clients.dynamodb.put_item().table_name(devices_table).item("id", text(&id));
                let put = put.item("part", text(&format!("crl#{crl_number}#{chunks:04}")));
                let expiration = millis(crl.next_update + RETENTION) / 1000;
                let put = put.item("expiration", number(expiration.to_string()));
                put.item("bytes", AttributeValue::B(Blob::new(chunk))).send().await?;
                chunks += 1;
            }
            // Nothing reads the chunks until this call refers to them.
            let update = clients.dynamodb.update_item().table_name(devices_table);
            let update = update.key("id", text(&id)).key("part", text("status"));
            let update = update
                .update_expression(
                    "SET crlNumber = :number, crlChunks = :chunks, crlBytes = :bytes, crlNextUpdate = :nextUpdate, \
                     crlPublishedAt = :publishedAt, runsOutOn = :runsOutOn",
                )
                .condition_expression("attribute_not_exists(crlNumber) OR crlNumber < :number")
                .expression_attribute_values(":number", text(&crl_number))
                .expression_attribute_values(":chunks", number(chunks.to_string()))
                .expression_attribute_values(":bytes", number(bytes.len().to_string()))
                .expression_attribute_values(":nextUpdate", number(millis(crl.next_update).to_string()))
                .expression_attribute_values(":publishedAt", number(now().to_string()))
                .expression_attribute_values(":runsOutOn", text(&day(crl.next_update)));
            match update.send().await {
                Ok(_) => Ok::<_, anyhow::Error>(true),
                Err(error)
                    if error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
                {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        };
        publish.await.context("failed to publish the CRL")
    }
}
