//! Reads alarms from the table: those of one thing by key, others through the index by state.

use std::cmp::Reverse;

use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use gatehouse::store::item::string;
use gatehouse::{AlarmState, Item};

use crate::alarms::record::{DeviceAlarm, Filter, INDEXED, RECORD};
use crate::context::Context;

/// The index of alarms by state. It does not contain NORMAL alarms.
const INDEX: &str = "state";

/// Number of partitions of each state in the index.
const SHARDS: u8 = 8;

/// Maximum number of concurrent queries of the index.
const CONCURRENCY: usize = 8;

/// Returns the alarms that a filter selects, in order of urgency.
pub async fn select(filter: &Filter, context: &Context) -> Result<Vec<DeviceAlarm>> {
    let mut alarms = match filter.exact_thing() {
        Some(thing) => of_thing(thing.as_str(), context).await?,
        None if filter.includes_normal() => scan(context).await?,
        None => by_state(filter.indexed_states(), context).await?,
    };
    alarms.retain(|alarm| filter.selects(alarm));
    alarms.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(alarms)
}

fn order(alarm: &DeviceAlarm) -> impl Ord + '_ {
    let attention = INDEXED.iter().position(|state| *state == alarm.alarm_state).unwrap_or(INDEXED.len());
    (attention, Reverse(alarm.severity), &alarm.rule, &alarm.thing)
}

/// Returns the alarms of a thing.
pub async fn of_thing(thing: &str, context: &Context) -> Result<Vec<DeviceAlarm>> {
    let items = with_prefix(thing, RECORD, context).await?;
    Ok(items.iter().filter_map(DeviceAlarm::parse).collect())
}

/// Returns the items of a thing whose sort keys start with a prefix.
pub async fn with_prefix(thing: &str, prefix: &str, context: &Context) -> Result<Vec<Item>> {
    let table = context.names.of("alarms");
    let query = context.dynamodb().query().table_name(&table).consistent_read(true);
    let query = query.key_condition_expression("id = :id AND begins_with(part, :part)");
    let query = query.expression_attribute_values(":id", string(format!("thing#{thing}")));
    let query = query.expression_attribute_values(":part", string(prefix));
    let items = query.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    items.with_context(|| format!("failed to read table {table}"))
}

async fn by_state(states: Vec<AlarmState>, context: &Context) -> Result<Vec<DeviceAlarm>> {
    let shards = states.into_iter().flat_map(|state| (0..SHARDS).map(move |shard| shard_key(state, shard)));
    let queries = stream::iter(shards).map(|shard| query_shard(shard, context)).buffer_unordered(CONCURRENCY);
    let alarms: Vec<Vec<DeviceAlarm>> = queries.try_collect().await?;
    Ok(alarms.into_iter().flatten().collect())
}

fn shard_key(state: AlarmState, shard: u8) -> String {
    format!("{}#{shard:02}", state.as_str())
}

async fn query_shard(shard: String, context: &Context) -> Result<Vec<DeviceAlarm>> {
    let table = context.names.of("alarms");
    let query = context.dynamodb().query().table_name(&table).index_name(INDEX);
    let query = query.key_condition_expression("stateShard = :shard");
    let query = query.expression_attribute_values(":shard", string(shard));
    let items = query.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let items = items.with_context(|| format!("failed to read the index {INDEX} of table {table}"))?;
    Ok(items.iter().filter_map(DeviceAlarm::parse).collect())
}

async fn scan(context: &Context) -> Result<Vec<DeviceAlarm>> {
    let table = context.names.of("alarms");
    let scan = context.dynamodb().scan().table_name(&table).filter_expression("begins_with(part, :record)");
    let scan = scan.expression_attribute_values(":record", string(RECORD));
    let items = scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let items = items.with_context(|| format!("failed to read table {table}"))?;
    Ok(items.iter().filter_map(DeviceAlarm::parse).collect())
}

#[cfg(test)]
mod tests {
    use gatehouse::Severity;

    use super::*;
    use crate::alarms::record::tests::alarm;

    #[test]
    fn what_needs_attention_is_first() {
        let with = |state, severity| DeviceAlarm { alarm_state: state, severity, ..alarm() };
        let mut alarms = vec![
            with(AlarmState::Normal, None),
            with(AlarmState::Active, None),
            with(AlarmState::Latched, Some(Severity::Critical)),
            with(AlarmState::Active, Some(Severity::Warning)),
            with(AlarmState::Active, Some(Severity::Critical)),
        ];
        alarms.sort_by(|a, b| order(a).cmp(&order(b)));
        let order: Vec<_> = alarms.into_iter().map(|alarm| (alarm.alarm_state, alarm.severity)).collect();
        let expected = [
            (AlarmState::Active, Some(Severity::Critical)),
            (AlarmState::Active, Some(Severity::Warning)),
            (AlarmState::Active, None),
            (AlarmState::Latched, Some(Severity::Critical)),
            (AlarmState::Normal, None),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn shards_are_named_as_the_function_names_them() {
        assert_eq!(shard_key(AlarmState::SnoozeDisabled, 7), "SNOOZE_DISABLED#07");
    }
}
