//! The daily check for CRLs, CA certificates and device certificates that expire soon, so that somebody renews them in
//! time.

use std::collections::BTreeSet;
use std::time::Duration;

use gatehouse::pki::CertificateId;
use gatehouse::store::item::{Item, number, string, text};
use gatehouse::{
    Attribute, BoxError, EventId, Failure, Invocation, Notification, TableError, Timestamp, VersionedTable,
};
use serde::Deserialize;
use time::OffsetDateTime;

use crate::JitrHandler;

/// The attribute with the day on which something expires (`YYYY-MM-DD`, UTC), the key of the index `runs-out`.
pub const EXPIRES_ON: &str = "runsOutOn";

const DAY: Duration = Duration::from_hours(24);

/// The maximum number of items that a notification lists. Its count includes all of them.
const MAX_LISTED: usize = 20;

/// The schedule's command: `{"check": "runs-out"}`.
#[derive(Debug, Clone, Deserialize)]
pub struct ExpiryCheck {
    #[expect(dead_code, reason = "parsed so that any other command is refused")]
    check: CheckKind,
}

#[derive(Debug, Clone, Deserialize)]
enum CheckKind {
    #[serde(rename = "runs-out")]
    Expiry,
}

/// Something that expires. Sorts by day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Expiring {
    on: String,
    what: String,
}

impl Expiring {
    fn read(item: &Item) -> Option<Self> {
        let (kind, id) = text(item, "id")?.split_once('#')?;
        let what = match (kind, text(item, "part")?) {
            ("ca", "status") => format!("the revocation list of CA {id}"),
            ("ca", "certificate") => format!("the certificate of CA {id}"),
            ("certificate", _) => format!("the certificate {id} of thing {}", text(item, "thing").unwrap_or("?")),
            _ => return None,
        };
        Some(Self { on: text(item, EXPIRES_ON)?.to_owned(), what })
    }
}

/// The notification's text; `None` if nothing expires.
fn message_text(expiring: &BTreeSet<Expiring>, within: Duration, today: &str) -> Option<String> {
    let days = within.as_secs() / DAY.as_secs();
    let first = expiring.first()?;
    let mut lines = vec![format!("{} to renew within {days} days, the first by {}:", expiring.len(), first.on)];
    lines.extend(expiring.iter().take(MAX_LISTED).map(|one| {
        let state = if *one.on < *today { " (expired)" } else { "" };
        format!("{}{state}: {}", one.on, one.what)
    }));
    let more = expiring.len().saturating_sub(MAX_LISTED);
    lines.extend((more > 0).then(|| format!("and {more} more.")));
    Some(lines.join("\n"))
}

impl JitrHandler {
    /// Counts what expires soon or has expired recently, for the alarm, and notifies people once a day.
    pub(crate) async fn report_expiring(&self, event_id: &EventId, invocation: &Invocation) -> Result<(), Failure> {
        let within = self.rules.expiry_warning;
        let mut expiring = BTreeSet::new();
        let today = invocation.now();
        let (mut at, last) = (today.minus(within), today.plus(within));
        while at <= last {
            expiring.extend(expiring_on(self.devices.table(), &day(at)).await.map_err(Failure::Retry)?);
            at = at.plus(DAY);
        }
        // Counted even if zero, which ends the alarm.
        invocation.add("Expiring", u64::try_from(expiring.len()).unwrap_or(u64::MAX));
        let Some(message) = message_text(&expiring, within, &day(today)) else { return Ok(()) };
        let notification = Notification {
            subject: format!("{} certificates or revocation lists expire soon", expiring.len()),
            message,
            data: None,
            attributes: vec![("eventId", Attribute::Text(event_id.to_string()))],
        };
        let publish = self.topic.publish(notification);
        self.idempotency.run_once(&format!("runs-out#{}", day(invocation.now())), invocation, publish).await?;
        Ok(())
    }
}

async fn expiring_on(table: &VersionedTable, on: &str) -> Result<Vec<Expiring>, BoxError> {
    let query = table.client().query().table_name(table.name()).index_name("runs-out");
    let query = query.key_condition_expression("runsOutOn = :day").expression_attribute_values(":day", string(on));
    let mut found = Vec::new();
    let mut pages = query.into_paginator().send();
    while let Some(page) = pages.next().await {
        found.extend(page?.items().iter().filter_map(Expiring::read));
    }
    Ok(found)
}

/// Records when a CA certificate expires. Every write is identical, so the item needs no version.
pub(crate) async fn record_ca(
    table: &VersionedTable,
    ca: &CertificateId,
    not_after: Timestamp,
) -> Result<(), TableError> {
    let put = table
        .client()
        .put_item()
        .table_name(table.name())
        .item("id", string(format!("ca#{ca}")))
        .item("part", string("certificate"))
        .item("notAfter", number(not_after.millis()))
        .item(EXPIRES_ON, string(day(not_after)));
    put.send().await.map_err(|error| TableError::Put(table.name().to_owned(), error.into()))?;
    Ok(())
}

/// Returns the day of a time in UTC, in the form of [`EXPIRES_ON`].
pub fn day(at: Timestamp) -> String {
    let time = i64::try_from(at.seconds()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.map_or_else(|| "9999-12-31".to_owned(), |time| time.date().to_string())
}
