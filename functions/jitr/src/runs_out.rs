//! Once a day: which CRLs, CAs and devices' certificates run out soon, so that somebody renews them in time.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use gatehouse::item::{Item, string, text};
use gatehouse::{Attribute, BoxError, Invocation, Command, Notification};
use serde::Deserialize;

use crate::records::day;
use crate::{Error, Jitr};

const DAY: Duration = Duration::from_hours(24);

/// How many are named in one notification; all of them are counted.
const NAMED: usize = 20;

/// The schedule's order: `{"check": "runs-out"}`.
#[derive(Debug, Clone, Deserialize)]
pub struct Check {
    #[expect(dead_code, reason = "read so that another order is refused")]
    check: What,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    RunsOut,
}

/// Something that runs out on a day; in the order of the days.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RunsOut {
    on: String,
    what: String,
}

impl fmt::Display for RunsOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.on, self.what)
    }
}

impl RunsOut {
    /// What an item of the devices table is about.
    fn read(item: &Item) -> Option<Self> {
        let (kind, id) = text(item, "id")?.split_once('#')?;
        let what = match (kind, text(item, "part")?) {
            ("ca", "status") => format!("the revocation list of CA {id}"),
            ("ca", "certificate") => format!("the certificate of CA {id}"),
            ("certificate", _) => format!("the certificate {id} of thing {}", text(item, "thing").unwrap_or("?")),
            _ => return None,
        };
        Some(Self { on: text(item, "runsOutOn")?.to_owned(), what })
    }
}

/// In words; `None` where nothing runs out.
fn message(runs_out: &BTreeSet<RunsOut>, within: Duration) -> Option<String> {
    let days = within.as_secs() / DAY.as_secs();
    let first = runs_out.first()?;
    let mut lines = vec![format!("{} to renew within {days} days, the first by {}:", runs_out.len(), first.on)];
    lines.extend(runs_out.iter().take(NAMED).map(ToString::to_string));
    let more = runs_out.len().saturating_sub(NAMED);
    lines.extend((more > 0).then(|| format!("and {more} more.")));
    Some(lines.join("\n"))
}

impl Jitr {
    /// Counts what runs out, for the alarm, and tells it once a day.
    pub(crate) async fn tell_what_runs_out(&self, order: &Command<Check>, invocation: &Invocation) -> Result<(), Error> {
        let within = self.rules.runs_out_within;
        let mut runs_out = BTreeSet::new();
        let mut ahead = Duration::ZERO;
        while ahead <= within {
            runs_out.extend(self.that_run_out(&day(invocation.now().plus(ahead))).await.map_err(Error::Devices)?);
            ahead += DAY;
        }
        // Also where there is nothing: an alarm that went off goes out again.
        invocation.add("RunsOut", u64::try_from(runs_out.len()).unwrap_or(u64::MAX));
        let Some(message) = message(&runs_out, within) else { return Ok(()) };
        let notification = Notification {
            subject: format!("{} certificates or revocation lists run out", runs_out.len()),
            message,
            data: None,
            attributes: vec![("eventId", Attribute::Text(order.id.to_string()))],
        };
        let told = self.topic.publish(notification);
        self.idempotency.run_once(&format!("runs-out#{}", day(invocation.now())), invocation, told).await?;
        Ok(())
    }

    async fn that_run_out(&self, on: &str) -> Result<Vec<RunsOut>, BoxError> {
        let (client, table) = self.devices.table();
        let query = client.query().table_name(table).index_name("runs-out");
        let query = query.key_condition_expression("runsOutOn = :day").expression_attribute_values(":day", string(on));
        let mut found = Vec::new();
        let mut pages = query.into_paginator().send();
        while let Some(page) = pages.next().await {
            found.extend(page?.items().iter().filter_map(RunsOut::read));
        }
        Ok(found)
    }
}
