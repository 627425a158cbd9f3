use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::query::QueryError;

use crate::pki::{CaCertificate, CertificateId, Crl, CrlError, MAX_CRL_BYTES};
use crate::runtime::environment::{Environment, InitError};
use crate::store::item::{integer, is_true, string, text};
use crate::store::versioned_table::{Key, TableError, VersionedItem, VersionedTable};

/// The maximum number of CRLs that a process caches; most fleets have one CA.
const MAX_CACHED_CRLS: usize = 4;

/// The devices table: what is known of each CA, certificate and thing.
///
/// | partition key (`id`) | sort key (`part`) | content |
/// | --- | --- | --- |
/// | `ca#<id>` | `status` | whether the CA is blocked, and which CRL is in force |
/// | `ca#<id>` | `crl#<number>#<n>` | the CRL's bytes, in chunks that fit an item |
/// | `ca#<id>` | `certificate` | when the CA certificate expires |
/// | `ca#<id>` | `revocation#…` | the progress of a `revoke` run |
/// | `certificate#<id>` | `admission` | how far `jitr` is with a device's certificate, and its decision |
/// | `certificate#<id>` | `revocation#…` | the progress of a `revoke` run for this one certificate |
/// | `certificate#<digest>` | `signed` | the certificate in which this signed content was first seen |
/// | `thing#<name>` | `name` | the certificate that holds a thing's name |
/// | `thing#<name>` | `rejection` | the last rejection of a certificate that names the thing |
/// | `thing#<name>` | `presence` | whether the device is connected |
/// | `thing#<name>` | `shadow#<name>` | the newest state of a device shadow |
///
/// Every item about something that expires has its date in `runsOutOn` (`YYYY-MM-DD`, UTC), the key of the index
/// `runs-out`.
#[derive(Debug, Clone)]
pub struct Devices {
    table: VersionedTable,
    crls: Arc<Mutex<HashMap<CertificateId, Arc<Crl>>>>,
}

/// What the table says about a CA. The default stands for a CA without an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaStatus {
    /// Why the CA is blocked, so that none of its certificates are admitted; `None` if it is not blocked.
    pub block_reason: Option<String>,
    /// The CRL in force.
    pub crl: Option<PublishedCrl>,
}

/// A reference to a CRL that an operator published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedCrl {
    /// Its number, as 40 hexadecimal digits.
    pub number: String,
    chunks: u64,
    bytes: u64,
}

/// Why a published CRL could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum CrlFetchError {
    /// The table could not be read.
    #[error("failed to read the CRL from the devices table")]
    Table(#[from] Box<SdkError<QueryError>>),
    /// Chunks are missing, or the CRL is not the one that the CA's entry names.
    #[error("CRL {0} is incomplete in the devices table")]
    Incomplete(String),
    /// The CRL is not valid.
    #[error(transparent)]
    Crl(#[from] CrlError),
}

impl Devices {
    /// Reads the table's name from `DEVICES_TABLE`.
    pub fn from_environment(environment: &Environment, client: Client) -> Result<Self, InitError> {
        let table: String = environment.required("DEVICES_TABLE")?;
        Ok(Self { table: VersionedTable::new(client, table), crls: Arc::default() })
    }

    /// The table itself, for the records that only one function reads or writes.
    pub fn table(&self) -> &VersionedTable {
        &self.table
    }

    /// Reads a CA's current status.
    pub async fn ca_status(&self, ca: &CertificateId) -> Result<CaStatus, TableError> {
        let VersionedItem { item, .. } = self.table.get(&Key::new(format!("ca#{ca}"), "status")).await?;
        let reason = || text(&item, "blockReason").unwrap_or("no reason was given").to_owned();
        Ok(CaStatus {
            block_reason: is_true(&item, "blocked").then(reason),
            crl: text(&item, "crlNumber").map(|number| PublishedCrl {
                number: number.to_owned(),
                chunks: integer(&item, "crlChunks").unwrap_or_default(),
                bytes: integer(&item, "crlBytes").unwrap_or_default(),
            }),
        })
    }

    /// Returns a CA's published CRL, its signature verified. A CRL that was fetched before comes from the cache.
    pub async fn crl(
        &self,
        ca: &CertificateId,
        ca_certificate: &CaCertificate,
        published: &PublishedCrl,
    ) -> Result<Arc<Crl>, CrlFetchError> {
        let cached = |crls: &HashMap<_, Arc<Crl>>| crls.get(ca).filter(|crl| crl.number == published.number).cloned();
        if let Some(crl) = cached(&self.crls.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(crl);
        }
        let crl = Arc::new(Crl::parse(&self.fetch_crl(ca, published).await?, ca_certificate)?);
        if crl.number != published.number {
            return Err(CrlFetchError::Incomplete(published.number.clone()));
        }
        let mut crls = self.crls.lock().unwrap_or_else(PoisonError::into_inner);
        if crls.len() >= MAX_CACHED_CRLS {
            crls.clear();
        }
        crls.insert(ca.clone(), Arc::clone(&crl));
        Ok(crl)
    }

    /// Reads and joins a CRL's chunks.
    async fn fetch_crl(&self, ca: &CertificateId, published: &PublishedCrl) -> Result<Vec<u8>, CrlFetchError> {
        let PublishedCrl { number, chunks, bytes } = published;
        let mut crl = Vec::new();
        let mut found = 0;
        let mut pages = self
            .table
            .client()
            .query()
            .table_name(self.table.name())
            .consistent_read(true)
            .key_condition_expression("id = :id AND begins_with(part, :part)")
            .expression_attribute_values(":id", string(format!("ca#{ca}")))
            .expression_attribute_values(":part", string(format!("crl#{number}#")))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            for item in page.map_err(Box::new)?.items() {
                let chunk = item.get("bytes").and_then(|chunk| chunk.as_b().ok()).map(AsRef::as_ref);
                let chunk: &[u8] = chunk.unwrap_or_default();
                if crl.len() + chunk.len() > MAX_CRL_BYTES {
                    return Err(CrlError::TooLarge(crl.len() + chunk.len()).into());
                }
                crl.extend_from_slice(chunk);
                found += 1;
            }
        }
        let is_complete = found == *chunks && u64::try_from(crl.len()) == Ok(*bytes);
        is_complete.then_some(crl).ok_or_else(|| CrlFetchError::Incomplete(number.clone()))
    }
}
