//! The scheduled check of all records that are due: devices that may have become stale, alarms whose rule may no longer
//! apply, snoozes and quiet hours that have ended, notifications that are to be repeated or are still pending, and
//! rate-limit windows that have ended.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use gatehouse::{Invocation, Key, Timestamp};

use crate::alarm_record::{self, CurrentRule};
use crate::due_index::{self, SHARDS};
use crate::error::AlarmError;
use crate::evaluation::{Evaluation, Evaluator, Trigger};
use crate::notification_limit;
use crate::rules::Rules;
use crate::version::DocumentVersion;

/// How many partitions of the index are checked concurrently.
const MAX_CONCURRENT_SHARDS: usize = 4;

/// One check.
#[derive(Debug)]
pub(crate) struct DueChecks<'a> {
    pub evaluator: &'a Evaluator,
    pub rules: &'a Rules,
    pub version: DocumentVersion,
    /// When the schedule sent the command. Records are checked as of this time, so data received later never counts as
    /// missing, even if it is still in the queue.
    pub now: Timestamp,
    pub invocation: &'a Invocation,
}

impl DueChecks<'_> {
    /// Checks everything that is due. Anything that there is no time for is still due when the schedule sends the next
    /// command, a minute later.
    pub async fn run(&self) -> Result<(), Arc<AlarmError>> {
        // Starts at a different partition each minute, so that none is starved.
        let first = self.now.seconds() / 60;
        let shards = (0..u64::from(SHARDS)).filter_map(|n| u8::try_from((first + n) % u64::from(SHARDS)).ok());
        let mut checks = stream::iter(shards)
            .map(async |shard| self.check_shard(&due_index::shard_name(shard)).await)
            .buffer_unordered(MAX_CONCURRENT_SHARDS);
        let mut outcome = Ok(());
        while let Some(checked) = checks.next().await {
            outcome = outcome.and(checked);
        }
        outcome
    }

    async fn check_shard(&self, shard: &str) -> Result<(), Arc<AlarmError>> {
        let mut outcome = Ok(());
        let mut start = None;
        while !self.invocation.is_running_late() {
            let page = due_index::query(&self.evaluator.table, shard, self.now, start).await;
            let page = page.map_err(|error| Arc::new(error.into()))?;
            outcome = outcome.and(self.check_records(page.keys).await);
            start = page.next;
            if start.is_none() {
                break;
            }
        }
        outcome
    }

    async fn check_records(&self, keys: Vec<Key>) -> Result<(), Arc<AlarmError>> {
        let mut outcome = Ok(());
        let mut devices = Vec::new();
        for key in &keys {
            if let Some(rule) = notification_limit::parse_key(key) {
                outcome = outcome.and(self.check_window(key, rule).await.map_err(Arc::new));
            } else if let Some((thing, rule)) = alarm_record::parse_key(key) {
                let rules = self.rules.for_thing(&thing);
                devices.push((key, thing, rule, rules));
            } else {
                outcome = outcome.and(Err(Arc::new(AlarmError::InvalidRecord(key.clone()))));
            }
        }
        let evaluations: Vec<_> = devices
            .iter()
            .map(|(key, thing, name, rules)| Evaluation {
                key: (*key).clone(),
                thing,
                current: CurrentRule {
                    name,
                    rule: rules.get(name),
                    given_at: self.version.given_at,
                    version: self.version.number,
                },
                trigger: Trigger::Schedule(self.now),
                events: &[],
            })
            .collect();
        self.evaluator
            .evaluate_all(&evaluations, self.invocation, |_, result| {
                if outcome.is_ok() {
                    outcome = result;
                }
            })
            .await;
        outcome
    }

    /// Ends a rule's rate-limit window if its time is over, and sends the summary.
    async fn check_window(&self, key: &Key, rule: &str) -> Result<(), AlarmError> {
        let Evaluator { limiter, notifier, .. } = self.evaluator;
        let record = limiter.end_window(rule, self.now, self.invocation).await?;
        Ok(notifier.send_pending(key, rule, record, self.invocation).await?)
    }
}
