use std::time::Duration;

use aws_sdk_dynamodb::Client;
use gatehouse::store::item::{number, string, text};
use gatehouse::{
    BoxError, Environment, Failure, InitError, Invocation, Item, Key, TableError, ThingName, Update, VersionedItem,
    VersionedTable,
};
use tokio::time::sleep;
use uuid::Uuid;

use crate::debounce::{Debounce, REMEMBERED, RecentRings, Ring, RingClaim};

/// How often, and how many times at most, to poll while another ring is being sent. People often press a doorbell twice
/// in quick succession: without polling, the second ring would result in an error and a retry a minute later.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const MAX_POLLS: u32 = 20;

const RINGS: &str = "rings";

/// The doorbells' recent rings, one record of the idempotency table per doorbell.
#[derive(Debug, Clone)]
pub struct RingTable {
    table: VersionedTable,
    function: String,
    window: Duration,
}

/// The result of claiming a ring.
#[derive(Debug)]
pub enum Claimed {
    /// This invocation must send the ring.
    Acquired(ClaimGuard),
    /// The ring has been sent before.
    Duplicate,
    /// Another ring within its debounce window has been sent.
    Suppressed,
}

/// A claim that this invocation holds.
#[derive(Debug)]
pub struct ClaimGuard {
    key: Key,
    ring: Ring,
    owner: String,
    record: VersionedItem,
}

impl ClaimGuard {
    /// The partition key of the doorbell's record.
    pub fn id(&self) -> &str {
        &self.key.pk
    }
}

/// Why a ring could not be claimed, or its record could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum RingTableError {
    /// Another invocation is sending a ring of this doorbell, and may fail.
    #[error("another ring of this doorbell is being sent")]
    AlreadyInProgress,
    /// The record could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The record was changed by hand, or by a newer version of the function.
    #[error("failed to parse the doorbell's record in the idempotency table")]
    Parse(#[source] BoxError),
}

impl From<RingTableError> for Failure {
    fn from(error: RingTableError) -> Self {
        Self::retry(error)
    }
}

impl RingTable {
    /// Reads `IDEMPOTENCY_TABLE` and `DEBOUNCE_SECONDS` (1 to 900, default 10).
    pub fn from_environment(environment: &Environment, client: Client, function: &str) -> Result<Self, InitError> {
        let seconds = environment.optional("DEBOUNCE_SECONDS")?.unwrap_or(10);
        if !(1..=900).contains(&seconds) {
            return Err(Environment::invalid("DEBOUNCE_SECONDS", seconds, &"it must be from 1 to 900"));
        }
        Ok(Self {
            table: VersionedTable::new(client, environment.required::<String>("IDEMPOTENCY_TABLE")?),
            function: function.to_owned(),
            window: Duration::from_secs(seconds),
        })
    }

    /// Claims a ring until the invocation's deadline, unless it is a duplicate or suppressed.
    pub async fn claim(
        &self,
        thing: &ThingName,
        ring: Ring,
        invocation: &Invocation,
    ) -> Result<Claimed, RingTableError> {
        let key = Key::partition(format!("{}#{thing}", self.function));
        let owner = Uuid::new_v4().to_string();
        let mut polls = 0;
        loop {
            let updated = self.table.update(&key, invocation, async |old| {
                let (rings, now) = (parse(&old.item)?, invocation.now());
                // The response to this invocation's write was lost, and another invocation has written since.
                if rings.is_claimed_by(&owner) {
                    return Ok::<_, RingTableError>(Update::Keep(Debounce::Send));
                }
                let decision = rings.decide(&ring, self.window, now);
                if decision != Debounce::Send {
                    return Ok(Update::Keep(decision));
                }
                let claim = RingClaim { ring: ring.clone(), owner: owner.clone(), expires: invocation.deadline() };
                Ok(Update::Write(self.item(&rings.with_claim(claim, self.window, now), invocation)?, decision))
            });
            let updated = updated.await?;
            match updated.value {
                Debounce::Send => {
                    return Ok(Claimed::Acquired(ClaimGuard { key, ring, owner, record: updated.record }));
                }
                Debounce::Duplicate => return Ok(Claimed::Duplicate),
                Debounce::Suppress => return Ok(Claimed::Suppressed),
                Debounce::Wait if polls == MAX_POLLS || invocation.is_running_late() => {
                    return Err(RingTableError::AlreadyInProgress);
                }
                Debounce::Wait => {
                    polls += 1;
                    sleep(POLL_INTERVAL).await;
                }
            }
        }
    }

    /// Marks a ring as sent.
    pub async fn mark_sent(&self, claim: &ClaimGuard, invocation: &Invocation) -> Result<(), BoxError> {
        let ClaimGuard { ring, owner, .. } = claim;
        self.change(claim, invocation, |rings| (!rings.is_sent(ring)).then(|| rings.with_sent(ring, owner))).await
    }

    /// Releases a claim, so that the retry need not wait for it to expire.
    pub async fn release(&self, claim: &ClaimGuard, invocation: &Invocation) -> Result<(), BoxError> {
        let owner = &claim.owner;
        self.change(claim, invocation, |rings| rings.is_claimed_by(owner).then(|| rings.without_claim(owner))).await
    }

    /// Writes what `change` returns, if anything.
    async fn change(
        &self,
        claim: &ClaimGuard,
        invocation: &Invocation,
        change: impl Fn(&RecentRings) -> Option<RecentRings>,
    ) -> Result<(), BoxError> {
        let updated = self.table.update_from(claim.record.clone(), &claim.key, invocation, async |old| {
            let Some(rings) = change(&parse(&old.item)?) else { return Ok::<_, RingTableError>(Update::Keep(())) };
            Ok(Update::Write(self.item(&rings, invocation)?, ()))
        });
        updated.await?;
        Ok(())
    }

    fn item(&self, rings: &RecentRings, invocation: &Invocation) -> Result<Item, RingTableError> {
        let rings = serde_json::to_string(rings).map_err(|error| RingTableError::Parse(error.into()))?;
        let expiration = invocation.now().plus(self.window + REMEMBERED);
        Ok(Item::from([(RINGS.to_owned(), string(rings)), ("expiration".to_owned(), number(expiration.seconds()))]))
    }
}

fn parse(item: &Item) -> Result<RecentRings, RingTableError> {
    if item.is_empty() {
        return Ok(RecentRings::default());
    }
    let rings = text(item, RINGS).ok_or_else(|| RingTableError::Parse("attribute rings is missing".into()))?;
    serde_json::from_str(rings).map_err(|error| RingTableError::Parse(error.into()))
}
