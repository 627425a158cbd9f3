//! Effects that appear in tables: stored readings, recorded presence and shadows of devices, and states of alarms.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use tokio::time::sleep;

use super::Player;
use super::compare::matches_kind;
use crate::observer::{Effect, PublishedMessage, Timed, Wait, now};
use crate::scenario::{AlarmView, Expectation, ShadowState};

/// How often a table is read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Player {
    /// Waits until a message's readings are in the telemetry table.
    pub(super) async fn stored_readings(
        &self,
        message: &PublishedMessage,
        function: &str,
        expected: &[Expectation],
        wait: &Wait<'_>,
    ) -> Option<Timed> {
        let table = self.deployment.output("TelemetryTable").ok()?;
        loop {
            let is_unexpected = |effect: &Effect| matches!(effect, Effect::Quarantined { .. } | Effect::Notified(_));
            let mut effects = self.observer.effects(&message.trace_id, function).into_iter();
            if let Some(timed) = effects.find(|timed| is_unexpected(&timed.effect)) {
                return Some(timed);
            }
            let query = self.clients.dynamodb.query().table_name(table).consistent_read(true);
            let query = query
                .key_condition_expression("thing = :thing")
                .filter_expression("eventId = :event")
                .expression_attribute_values(":thing", AttributeValue::S(message.client_id.clone()))
                .expression_attribute_values(":event", AttributeValue::S(message.trace_id.clone()));
            let found = query.send().await.map(|found| found.items().len()).unwrap_or_default();
            let effect = Effect::Stored { readings: found };
            let is_expected = expected.iter().any(|expected| matches_kind(expected, &effect));
            if is_expected || (found > 0 && wait.is_over()) {
                return Some(Timed { effect, at: now() });
            }
            if wait.is_over() {
                return self.observer.effects(&message.trace_id, function).into_iter().next();
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a device's presence record has the session that this event started or ended.
    pub(super) async fn recorded_presence(
        &self,
        message: &PublishedMessage,
        thing: &str,
        wait: &Wait<'_>,
    ) -> Option<Timed> {
        let event: Value = serde_json::from_slice(&message.payload).ok()?;
        let session = event.get("sessionIdentifier")?.as_str()?;
        let effect = if event.get("eventType")? == "connected" { Effect::Connected } else { Effect::Disconnected };
        self.await_record(thing, "presence", wait, |item| {
            let is_connected = item.get("connected")?.as_bool().ok().copied()?;
            let is_same_session = item.get("sessionIdentifier")?.as_s().ok()? == session;
            (is_same_session && is_connected == (effect == Effect::Connected)).then(|| effect.clone())
        })
        .await
    }

    /// Waits until the record of a shadow has at least this version and the expected state. Otherwise returns its last
    /// state.
    pub(super) async fn recorded_shadow(
        &self,
        thing: &str,
        name: Option<&str>,
        version: u64,
        expected: &Expectation,
        wait: &Wait<'_>,
    ) -> Option<Timed> {
        let mut last = None;
        let sort_key = format!("shadow#{}", name.unwrap_or_default());
        let found = self
            .await_record(thing, &sort_key, wait, |item| {
                let recorded: u64 = item.get("shadowVersion")?.as_n().ok()?.parse().ok()?;
                let state = |name: &str| serde_json::from_str(item.get(name)?.as_s().ok()?).ok();
                let deleted = item.get("deleted")?.as_bool().ok().copied()?;
                let state = ShadowState { desired: state("desired"), reported: state("reported"), deleted };
                let effect = Effect::Recorded(state);
                last = Some(effect.clone());
                (recorded >= version && matches_kind(expected, &effect)).then_some(effect)
            })
            .await;
        found.or_else(|| Some(Timed { effect: last?, at: now() }))
    }

    /// Reads the state of an alarm, if it has one.
    pub(super) async fn recorded_alarm(&self, thing: &str, rule: &str) -> Result<Option<AlarmView>> {
        let get = self.clients.dynamodb.get_item().table_name(self.deployment.output("AlarmTable")?);
        let get = get.consistent_read(true).key("id", AttributeValue::S(format!("thing#{thing}")));
        let found = get.key("part", AttributeValue::S(format!("threshold#{rule}"))).send().await?;
        let text = |name: &str| Some(found.item()?.get(name)?.as_s().ok()?.clone());
        Ok(text("alarmState").map(|state| AlarmView { state, severity: text("severity") }))
    }

    /// Reads a thing's record in the devices table until `find` returns something, or until the wait is over.
    async fn await_record(
        &self,
        thing: &str,
        sort_key: &str,
        wait: &Wait<'_>,
        mut find: impl FnMut(&HashMap<String, AttributeValue>) -> Option<Effect>,
    ) -> Option<Timed> {
        let table = self.deployment.output("DevicesTable").ok()?;
        loop {
            let get = self.clients.dynamodb.get_item().table_name(table).consistent_read(true);
            let get = get.key("id", AttributeValue::S(format!("thing#{thing}")));
            let found = get.key("part", AttributeValue::S(sort_key.to_owned())).send().await;
            if let Some(effect) = found.ok().and_then(|found| find(found.item()?)) {
                return Some(Timed { effect, at: now() });
            }
            if wait.is_over() {
                return None;
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Returns the thing and the shadow's name in a shadow topic; the classic shadow has no name.
pub(super) fn shadow_of(topic: &str) -> Option<(&str, Option<&str>)> {
    let (thing, rest) = topic.strip_prefix("$aws/things/")?.split_once("/shadow/")?;
    Some((thing, rest.strip_prefix("name/").and_then(|named| Some(named.split_once('/')?.0))))
}

/// Returns the shadow's version in the confirmation of an update or deletion.
pub(super) fn shadow_version(confirmation: &[u8]) -> u64 {
    let confirmation: Value = serde_json::from_slice(confirmation).unwrap_or_default();
    let version = confirmation.pointer("/current/version").or_else(|| confirmation.get("version"));
    version.and_then(Value::as_u64).unwrap_or_default()
}
