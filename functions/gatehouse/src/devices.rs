use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::operation::query::QueryError;

use crate::crl::{Crl, CrlError, LARGEST_CRL};
use crate::environment::{Environment, InitError};
use crate::item::{Item, integer, is_true, string, text};
use crate::x509::Authority;

/// How many CRLs a process keeps; most fleets have one CA.
const CRLS_KEPT: usize = 4;

/// The id of a device's or a CA's certificate: the SHA-256 digest of its DER, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateId(String);

impl CertificateId {
    /// An id in digits of either case; `None` for anything else.
    pub fn new(id: &str) -> Option<Self> {
        let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then(|| Self(id.to_ascii_lowercase()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The devices table: what is known of each CA, certificate and thing.
///
/// | `id` | `part` | what it holds |
/// | --- | --- | --- |
/// | `ca#<id>` | `status` | whether the CA is blocked, and which CRL is in force |
/// | `ca#<id>` | `crl#<number>#<n>` | the CRL's bytes, in pieces that fit an item |
/// | `ca#<id>` | `certificate` | when the CA certificate runs out |
/// | `ca#<id>` | `revocation#…` | how far `revoke` is |
/// | `certificate#<id>` | `admission` | what `jitr` made of a device's certificate |
/// | `certificate#<id>` | `revocation#…` | how far `revoke` is with this one certificate |
/// | `certificate#<digest>` | `signed` | the certificate in which what a CA signed was seen first |
/// | `thing#<name>` | `name` | the certificate that holds a thing's name |
///
/// Every part that runs out one day names it in `runsOutOn` (`YYYY-MM-DD`, UTC), by which the index `runs-out` finds it.
#[derive(Debug, Clone)]
pub struct Devices {
    client: Client,
    table: String,
    crls: Arc<Mutex<HashMap<CertificateId, Arc<Crl>>>>,
}

/// What the table says of a CA. None of it is known of a CA of which nobody has said anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why nothing that it signed is let in; none where it is not blocked.
    pub block: Option<String>,
    /// The CRL in force.
    pub publication: Option<Publication>,
}

/// A CRL that an operator published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its number, as 40 hexadecimal digits.
    pub number: String,
    chunks: u64,
    bytes: u64,
}

/// Why a published CRL could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The table did not answer.
    #[error("the devices table could not be read")]
    Table(#[from] Box<SdkError<QueryError>>),
    /// Pieces of it are missing, or it is not the one that it is said to be.
    #[error("CRL {0} is not whole in the devices table")]
    Incomplete(String),
    /// It cannot be relied on.
    #[error(transparent)]
    Crl(#[from] CrlError),
}

impl Devices {
    /// Reads `DEVICES_TABLE`.
    pub fn from(environment: &Environment, client: Client) -> Result<Self, InitError> {
        Ok(Self { client, table: environment.required("DEVICES_TABLE")?, crls: Arc::default() })
    }

    /// The client and the name, for what only one function reads or writes.
    pub fn table(&self) -> (&Client, &str) {
        (&self.client, &self.table)
    }

    /// One part of an item, read consistently.
    pub async fn get(&self, id: String, part: &str) -> Result<Option<Item>, Box<SdkError<GetItemError>>> {
        let get = self.client.get_item().table_name(&self.table).consistent_read(true);
        let found = get.key("id", string(id)).key("part", string(part)).send().await;
        found.map(|found| found.item).map_err(Box::new)
    }

    /// What the table says of a CA now.
    pub async fn standing(&self, ca: &CertificateId) -> Result<Standing, Box<SdkError<GetItemError>>> {
        let item = self.get(format!("ca#{ca}"), "status").await?.unwrap_or_default();
        let reason = || text(&item, "blockReason").unwrap_or("no reason was given").to_owned();
        Ok(Standing {
            block: is_true(&item, "blocked").then(reason),
            publication: text(&item, "crlNumber").map(|number| Publication {
                number: number.to_owned(),
                chunks: integer(&item, "crlChunks").unwrap_or_default(),
                bytes: integer(&item, "crlBytes").unwrap_or_default(),
            }),
        })
    }

    /// A CA's published CRL, its signature verified. One that was fetched before is not fetched again.
    pub async fn crl(
        &self,
        ca: &CertificateId,
        authority: &Authority,
        publication: &Publication,
    ) -> Result<Arc<Crl>, FetchError> {
        let kept = |crls: &HashMap<_, Arc<Crl>>| crls.get(ca).filter(|crl| crl.number == publication.number).cloned();
        if let Some(crl) = kept(&self.crls.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(crl);
        }
        let crl = Arc::new(Crl::read(&self.fetch(ca, publication).await?, authority)?);
        if crl.number != publication.number {
            return Err(FetchError::Incomplete(publication.number.clone()));
        }
        let mut crls = self.crls.lock().unwrap_or_else(PoisonError::into_inner);
        if crls.len() >= CRLS_KEPT {
            crls.clear();
        }
        crls.insert(ca.clone(), Arc::clone(&crl));
        Ok(crl)
    }

    /// A CRL's bytes, put together.
    async fn fetch(&self, ca: &CertificateId, publication: &Publication) -> Result<Vec<u8>, FetchError> {
        let Publication { number, chunks, bytes } = publication;
        let mut crl = Vec::new();
        let mut found = 0;
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("id = :id AND begins_with(part, :part)")
            .expression_attribute_values(":id", string(format!("ca#{ca}")))
            .expression_attribute_values(":part", string(format!("crl#{number}#")))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            for item in page.map_err(Box::new)?.items() {
                let piece =
                    item.get("bytes").and_then(|piece| piece.as_b().ok()).map(AsRef::as_ref).unwrap_or_default();
                if crl.len() + <[u8]>::len(piece) > LARGEST_CRL {
                    return Err(CrlError::TooLarge(crl.len() + <[u8]>::len(piece)).into());
                }
                crl.extend_from_slice(piece);
                found += 1;
            }
        }
        let is_whole = found == *chunks && u64::try_from(crl.len()) == Ok(*bytes);
        is_whole.then_some(crl).ok_or_else(|| FetchError::Incomplete(number.clone()))
    }
}
