//! Finds things that have never reported since their admission: they are in the devices table, but not in the alarms
//! table.
//!
//! This is done only if a rule has `neverReported`. Each scheduled check then scans a few pages of the devices table,
//! starting where the last one ended. After a complete scan, it pauses for a tenth of the shortest `neverReported`, but
//! at least ten minutes and at most six hours. A record in the alarms table holds the scan's position and since when
//! each rule has been in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::scan::ScanError;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse::store::item::{integer, number, string, text};
use gatehouse::{Invocation, Item, Key, ThingName, Timestamp, Update, VersionedTable};

use crate::alarm_record::{self, CurrentRule};
use crate::error::AlarmError;
use crate::evaluation::{Evaluation, Evaluator, Trigger};
use crate::rules::{Rules, ThingRules};
use crate::state_machine;
use crate::version::DocumentVersion;

/// The maximum number of pages per check, and the number of items per page.
const MAX_PAGES: usize = 5;
const PAGE_SIZE: i32 = 1_000;

/// The minimum and maximum pause between two scans.
const MIN_REST: Duration = Duration::from_mins(10);
const MAX_REST: Duration = Duration::from_hours(6);

const CURSOR: &str = "cursor";
const NEXT_AT: &str = "nextAt";
const RULES: &str = "rules";

/// The devices table could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to scan the devices table")]
pub struct DeviceScanError(#[from] Box<SdkError<ScanError>>);

#[derive(Debug, Default)]
struct Progress {
    /// Where it continues; `None` at the start.
    cursor: Option<Item>,
    /// When the next scan begins.
    next_at: Timestamp,
    /// Since when each rule has been in force.
    since: BTreeMap<String, Timestamp>,
}

/// One check.
#[derive(Debug)]
pub(crate) struct NeverReported<'a> {
    pub evaluator: &'a Evaluator,
    pub devices: &'a VersionedTable,
    pub rules: &'a Rules,
    pub version: DocumentVersion,
    pub now: Timestamp,
    pub invocation: &'a Invocation,
}

struct Admitted {
    thing: ThingName,
    at: Timestamp,
    rules: Arc<ThingRules>,
}

fn key() -> Key {
    Key::new("scan#devices", "progress")
}

impl NeverReported<'_> {
    /// Checks some of the devices, if a rule asks for it and a scan is due.
    pub async fn run(&self) -> Result<(), Arc<AlarmError>> {
        let intervals = self.rules.all().iter().filter_map(|rule| rule.never_reported);
        let Some(shortest) = intervals.min() else { return Ok(()) };
        let rest = (shortest.duration() / 10).clamp(MIN_REST, MAX_REST);
        let failed = |error: AlarmError| Arc::new(error);
        let key = key();
        let record = self.evaluator.table.get(&key).await.map_err(|error| failed(error.into()))?;
        let mut progress = Progress::parse(&record.item);
        let is_new_rule = progress.set_rules(self.rules, self.version.given_at);
        if progress.cursor.is_none() && progress.next_at > self.now && !is_new_rule {
            return Ok(());
        }
        if progress.cursor.is_none() {
            // It stays due until its first page is read, even if that fails.
            progress.next_at = self.now;
        }
        let mut outcome = Ok(());
        for _ in 0..MAX_PAGES {
            if self.invocation.is_running_late() {
                break;
            }
            let page = match self.page(progress.cursor.clone()).await {
                Ok(page) => page,
                // The next check continues here.
                Err(error) => {
                    outcome = outcome.and(Err(failed(error.into())));
                    break;
                }
            };
            outcome = outcome.and(self.check_things(&page.0, &progress.since).await);
            progress.cursor = page.1;
            if progress.cursor.is_none() {
                progress.next_at = self.now.plus(rest);
                break;
            }
        }
        // Another invocation may have progressed further; scanning some devices twice changes nothing.
        let version = record.version();
        let updated = self.evaluator.table.update_from(record, &key, self.invocation, async |found| {
            if found.version() == version {
                Ok::<_, AlarmError>(Update::Write(progress.item(), ()))
            } else {
                Ok(Update::Keep(()))
            }
        });
        updated.await.map_err(failed)?;
        outcome
    }

    /// Reads a page of admitted things, and where the next page starts.
    async fn page(&self, start: Option<Item>) -> Result<(Vec<Admitted>, Option<Item>), DeviceScanError> {
        let scan = self.devices.client().scan().table_name(self.devices.name());
        let scan = scan
            .filter_expression("#part = :name AND begins_with(#id, :thing)")
            .projection_expression("#id, #part, claimedAt")
            .expression_attribute_names("#id", "id")
            .expression_attribute_names("#part", "part")
            .expression_attribute_values(":name", string("name"))
            .expression_attribute_values(":thing", string("thing#"))
            .limit(PAGE_SIZE)
            .set_exclusive_start_key(start);
        let found = Box::pin(scan.send()).await.map_err(Box::new)?;
        let admitted = |item: &Item| {
            let thing = ThingName::new(text(item, "id")?.strip_prefix("thing#")?).ok()?;
            let at = integer(item, "claimedAt").map(Timestamp::from_millis)?;
            Some(Admitted { rules: self.rules.for_thing(&thing), thing, at })
        };
        let things = found.items().iter().filter_map(admitted).collect();
        Ok((things, found.last_evaluated_key))
    }

    /// Evaluates the things that should have reported by now. For most of them, reading their records shows that they
    /// have.
    async fn check_things(
        &self,
        things: &[Admitted],
        since: &BTreeMap<String, Timestamp>,
    ) -> Result<(), Arc<AlarmError>> {
        let evaluations: Vec<_> = things
            .iter()
            .flat_map(|admitted| admitted.rules.rules.iter().map(move |rule| (admitted, rule)))
            .filter_map(|(admitted, rule)| {
                let expected_since = since.get(&rule.name).copied().unwrap_or(self.now).max(admitted.at);
                state_machine::never_reported_at(rule, expected_since).filter(|at| *at < self.now)?;
                Some(Evaluation {
                    key: alarm_record::key(admitted.thing.as_str(), &rule.name),
                    thing: &admitted.thing,
                    current: CurrentRule {
                        name: &rule.name,
                        rule: Some(rule),
                        given_at: self.version.given_at,
                        version: self.version.number,
                    },
                    trigger: Trigger::NeverReported(expected_since, self.now),
                    events: &[],
                })
            })
            .collect();
        let mut outcome = Ok(());
        self.evaluator
            .evaluate_all(&evaluations, self.invocation, |_, result| {
                if outcome.is_ok() {
                    outcome = result;
                }
            })
            .await;
        outcome
    }
}

impl Progress {
    /// Parses a record. An invalid one counts as empty, so that the scan starts over.
    fn parse(item: &Item) -> Self {
        let cursor = || {
            let cursor: BTreeMap<String, String> = serde_json::from_str(text(item, CURSOR)?).ok()?;
            Some(cursor.into_iter().map(|(name, value)| (name, AttributeValue::S(value))).collect())
        };
        let since = text(item, RULES).and_then(|rules| serde_json::from_str(rules).ok());
        Self {
            cursor: cursor(),
            next_at: Timestamp::from_millis(integer(item, NEXT_AT).unwrap_or_default()),
            since: since.unwrap_or_default(),
        }
    }

    /// Keeps since when each rule with `neverReported` has been in force. Returns whether there is a new one.
    fn set_rules(&mut self, rules: &Rules, given_at: Timestamp) -> bool {
        let asking = rules.all().iter().filter(|rule| rule.never_reported.is_some());
        let asking: BTreeMap<_, _> =
            asking.map(|rule| (rule.name.clone(), self.since.get(&rule.name).copied().unwrap_or(given_at))).collect();
        let is_new = asking.keys().any(|name| !self.since.contains_key(name));
        self.since = asking;
        is_new
    }

    fn item(&self) -> Item {
        let cursor = self.cursor.as_ref().map(|cursor| {
            let texts = cursor.iter().filter_map(|(name, value)| Some((name, value.as_s().ok()?)));
            texts.collect::<BTreeMap<_, _>>()
        });
        let cursor = cursor.and_then(|cursor| serde_json::to_string(&cursor).ok());
        let attributes = [
            (CURSOR, cursor.map(string)),
            (NEXT_AT, Some(number(self.next_at.millis()))),
            (RULES, serde_json::to_string(&self.since).ok().map(string)),
        ];
        attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
