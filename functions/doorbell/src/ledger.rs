//! Where each doorbell's rings are kept, so that processes agree on which one is told.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use gatehouse::{BoxError, Invocation, Environment, InitError};
use uuid::Uuid;

use crate::quiet::{Claim, REMEMBERED, Ring, Rings, Verdict};

/// How often, and how many times, to look again while another ring is being told. Two presses a moment apart are what
/// doorbells do: handing the second back would end each of them as an error and a retry a minute later.
const LOOK_AGAIN: (Duration, usize) = (Duration::from_millis(100), 20);

/// The doorbells' items in the idempotency table, one a doorbell, each under optimistic locking: an item is replaced
/// only if it still has the version that was read.
#[derive(Debug, Clone)]
pub struct Ledger {
    client: Client,
    table: String,
    function: String,
    window: Duration,
}

/// What came of an attempt to claim a ring.
#[derive(Debug)]
pub enum Claimed {
    /// It is ours to tell.
    Held(Held),
    /// It has been told before.
    AlreadyTold,
    /// Another ring within its quiet window has been told.
    Quiet,
}

/// A ring that is ours to tell.
#[derive(Debug)]
pub struct Held {
    id: String,
    ring: Ring,
    owner: String,
    stored: Stored,
}

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another invocation is telling a ring of this doorbell, and may fail.
    #[error("another ring of this doorbell is being told")]
    AnotherRing,
    /// The item could not be read.
    #[error("the idempotency table could not be read")]
    Read(#[from] Box<SdkError<GetItemError>>),
    /// The item could not be written.
    #[error("the idempotency table could not be written")]
    Write(#[from] Box<SdkError<PutItemError>>),
    /// The item is not one that this function writes.
    #[error("item {id} of the idempotency table is not a doorbell's")]
    Foreign {
        /// The item's key.
        id: String,
    },
}

#[derive(Debug, Clone, Default)]
struct Stored {
    version: u64,
    rings: Rings,
}

impl Held {
    /// The key of the doorbell's item.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Ledger {
    /// Reads `IDEMPOTENCY_TABLE` and `QUIET_WINDOW_SECONDS` (1 to 900, default 10).
    pub fn from(environment: &Environment, client: Client, function: &str) -> Result<Self, InitError> {
        let seconds = environment.optional("QUIET_WINDOW_SECONDS")?.unwrap_or(10);
        if !(1..=900).contains(&seconds) {
            return Err(Environment::invalid("QUIET_WINDOW_SECONDS", seconds, &"it must be from 1 to 900"));
        }
        Ok(Self {
            client,
            table: environment.required("IDEMPOTENCY_TABLE")?,
            function: function.to_owned(),
            window: Duration::from_secs(seconds),
        })
    }

    /// Claims a ring, until the invocation's deadline, or says why it need not be told.
    pub async fn claim(&self, thing: &str, ring: Ring, invocation: &Invocation) -> Result<Claimed, LedgerError> {
        let id = format!("{}#{thing}", self.function);
        let owner = Uuid::new_v4().to_string();
        let (pause, mut looks) = LOOK_AGAIN;
        let mut stored = self.load(&id).await?;
        loop {
            let now = invocation.now();
            match stored.rings.decide(&ring, self.window, now) {
                Verdict::AlreadyTold => return Ok(Claimed::AlreadyTold),
                Verdict::Quiet => return Ok(Claimed::Quiet),
                Verdict::Wait if looks == 0 || invocation.is_running_late() => return Err(LedgerError::AnotherRing),
                Verdict::Wait => {
                    looks -= 1;
                    tokio::time::sleep(pause).await;
                    stored = self.load(&id).await?;
                }
                Verdict::Tell => {
                    let claim = Claim { ring: ring.clone(), owner: owner.clone(), expires: invocation.deadline() };
                    let rings = stored.rings.with_claim(claim, self.window, now);
                    stored = self.save(&id, &stored, rings, invocation).await?;
                    // Ours also where the table took the claim, the answer was lost, and the SDK's own retry met it.
                    if stored.rings.is_claimed_by(&owner) {
                        return Ok(Claimed::Held(Held { id, ring, owner, stored }));
                    }
                }
            }
        }
    }

    /// Marks a ring as told.
    pub async fn mark_told(&self, held: &Held, invocation: &Invocation) -> Result<(), BoxError> {
        let Held { id, ring, owner, stored } = held;
        let mut stored = stored.clone();
        while !stored.rings.is_told(ring) {
            let rings = stored.rings.with_told(ring, owner);
            stored = self.save(id, &stored, rings, invocation).await?;
        }
        Ok(())
    }

    /// Gives a claim back, so that the next try need not wait for it to expire.
    pub async fn release(&self, held: &Held, invocation: &Invocation) -> Result<(), BoxError> {
        let Held { id, owner, stored, .. } = held;
        let mut stored = stored.clone();
        while stored.rings.is_claimed_by(owner) {
            let rings = stored.rings.without_claim(owner);
            stored = self.save(id, &stored, rings, invocation).await?;
        }
        Ok(())
    }

    async fn load(&self, id: &str) -> Result<Stored, LedgerError> {
        let request = self.client.get_item().table_name(&self.table).key("id", AttributeValue::S(id.to_owned()));
        let found = request.consistent_read(true).send().await.map_err(Box::new)?;
        found.item().map_or_else(|| Ok(Stored::default()), |item| Stored::read(id, item))
    }

    /// Replaces the item if it still is the one that was read. Returns what it is now: ours, or somebody else's.
    async fn save(&self, id: &str, read: &Stored, rings: Rings, invocation: &Invocation) -> Result<Stored, LedgerError> {
        let written = Stored { version: read.version + 1, rings };
        let text = serde_json::to_string(&written.rings).map_err(|_| LedgerError::Foreign { id: id.to_owned() })?;
        let expiration = invocation.now().plus(self.window + REMEMBERED);
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("id", AttributeValue::S(id.to_owned()))
            .item("version", AttributeValue::N(written.version.to_string()))
            .item("rings", AttributeValue::S(text))
            .item("expiration", AttributeValue::N(expiration.seconds().to_string()))
            .condition_expression("attribute_not_exists(id) OR version = :version")
            .expression_attribute_values(":version", AttributeValue::N(read.version.to_string()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = put.send().await else { return Ok(written) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refused)) => match refused.item() {
                Some(item) => Stored::read(id, item),
                None => self.load(id).await,
            },
            _ => Err(Box::new(error).into()),
        }
    }
}

impl Stored {
    fn read(id: &str, item: &HashMap<String, AttributeValue>) -> Result<Self, LedgerError> {
        let version = item.get("version").and_then(|version| version.as_n().ok()?.parse().ok());
        let rings = item.get("rings").and_then(|rings| serde_json::from_str(rings.as_s().ok()?).ok());
        let stored = version.zip(rings).map(|(version, rings)| Self { version, rings });
        stored.ok_or_else(|| LedgerError::Foreign { id: id.to_owned() })
    }
}
