//! Messages of devices: publishes them, finds them among those that reached AWS IoT, and waits for their effects.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use tokio::time::Instant;

use super::compare::{is_unmodified, matches_kind, mismatch};
use super::records::{shadow_of, shadow_version};
use super::{HANDLED_PATIENCE, Player, QUIET_PERIOD, StepOutcome, StepResult};
use crate::device::{Device, Published};
use crate::observer::{Effect, Observer, PublishedMessage, Rule, Timed, Wait, millis};
use crate::scenario::{Expectation, Step, confirmation_topic};

impl Player {
    /// Publishes all copies of a step's message.
    pub(super) async fn publish(
        self: &Arc<Self>,
        device: &mut Device,
        step: &Step,
        topic: &str,
        payload: &[u8],
        result: StepResult,
    ) -> Result<StepOutcome> {
        let mut expected = step.expected();
        let rounds = if step.together { vec![step.times.get()] } else { vec![1; step.times.get()] };
        let mut results = Vec::new();
        for copies in rounds {
            let skip = self.observer.system_message_count();
            let (started_at, published) = device.publish(topic, &vec![payload; copies]).await?;
            if published == Published::Denied {
                for expected in expected.drain(..copies) {
                    let problem = (expected != Expectation::Denied).then(|| "AWS IoT denied it".to_owned());
                    results.push(StepResult { denied: true, expected, problem, ..result.clone() });
                }
                self.played.fetch_add(copies, Ordering::Relaxed);
                continue;
            }
            // No rule matches a shadow update or deletion itself, only its confirmation.
            let messages = match confirmation_topic(topic) {
                Some(confirmation) => self.await_system_messages(&confirmation, skip, copies).await?,
                None => self.await_messages(topic, &step.thing, payload, copies).await?,
            };
            if !step.wait_for_outcome {
                let player = Arc::clone(self);
                let outcome = async move { player.await_outcomes(messages, &result, &mut expected, started_at).await };
                return Ok(StepOutcome::Pending(Box::pin(outcome)));
            }
            results.extend(self.await_outcomes(messages, &result, &mut expected, started_at).await);
        }
        let copies = results.len();
        if copies > 1 {
            for (index, result) in results.iter_mut().enumerate() {
                result.what = format!("{} ({} of {copies})", result.what, index + 1);
            }
        }
        Ok(StepOutcome::Complete(results))
    }

    /// Waits for the effects of messages and compares them with the expected ones.
    async fn await_outcomes(
        &self,
        messages: Vec<PublishedMessage>,
        result: &StepResult,
        expected: &mut Vec<Expectation>,
        started_at: SystemTime,
    ) -> Vec<StepResult> {
        let effects = messages
            .into_iter()
            .map(|message| self.await_effect(message, result.clone(), expected, millis(started_at)));
        let mut results = futures_util::future::join_all(effects).await;
        for result in &mut results {
            // Copies that were published together may meet the expectations in any order.
            let is_met = |expected: &Expectation| mismatch(expected, result).is_none();
            let at = expected.iter().position(is_met).unwrap_or_default();
            result.expected = expected.remove(at);
            let problem = result.problem.take().or_else(|| mismatch(&result.expected, result));
            result.problem = problem.map(|problem| self.explain(problem, result));
        }
        self.played.fetch_add(results.len(), Ordering::Relaxed);
        results
    }

    /// Waits for the effect of a connection or disconnection, which AWS IoT itself reports.
    pub(super) async fn await_presence(
        &self,
        event_type: &str,
        skip: usize,
        started_at: u64,
        result: StepResult,
    ) -> Result<StepResult> {
        let topic = format!("$aws/events/presence/{event_type}/{}", result.thing);
        let messages = self.await_system_messages(&topic, skip, 1).await?;
        let [message] = messages.try_into().map_err(|_| anyhow!("expected one presence event"))?;
        let (topic, expected) = (Some(topic), result.expected.clone());
        Ok(self.await_effect(message, StepResult { topic, ..result }, &[expected], started_at).await)
    }

    /// Waits for the effect of one message.
    pub(super) async fn await_effect(
        &self,
        message: PublishedMessage,
        result: StepResult,
        expected: &[Expectation],
        started_at: u64,
    ) -> StepResult {
        let rule = self.observer.rule(&message.topic);
        let function = rule.and_then(|rule: &Rule| rule.function.clone());
        let is_nothing = function.is_none() || expected.iter().all(|expected| *expected == Expectation::Nothing);
        let (wait, quiet_at) = (self.wait(), Instant::now() + QUIET_PERIOD);
        let mut result = StepResult { rule: rule.map(|rule| rule.name.clone()), function, ..result };
        result.event_id = Some(message.trace_id.clone());

        let is_in_table = |expected: &&Expectation| {
            matches!(
                expected,
                Expectation::Stored(_) | Expectation::Connected | Expectation::Disconnected | Expectation::Recorded(_)
            )
        };
        let found = match expected.iter().find(is_in_table) {
            Some(Expectation::Stored(_)) => {
                let function = result.function.as_deref().unwrap_or_default();
                self.stored_readings(&message, function, expected, &wait).await
            }
            Some(expected @ Expectation::Recorded(_)) => {
                let (thing, name) = shadow_of(&message.topic).unwrap_or((&result.thing, None));
                self.recorded_shadow(thing, name, shadow_version(&message.payload), expected, &wait).await
            }
            Some(_) => self.recorded_presence(&message, &result.thing, &wait).await,
            None => {
                // Two functions may receive the same event.
                let is_wanted = |timed: &Timed| expected.iter().any(|expected| matches_kind(expected, &timed.effect));
                let (event_id, function) = (&message.trace_id, result.function.as_deref().unwrap_or_default());
                let find = |observer: &Observer| observer.effects(event_id, function).into_iter().find(is_wanted);
                let handled = Wait::start(&self.observer, HANDLED_PATIENCE);
                let deadline = |observer: &Observer| match observer.invocation_counts(event_id, function).as_slice() {
                    _ if is_nothing => quiet_at,
                    [] => wait.deadline(),
                    _ => handled.deadline(),
                };
                let found = self.observer.until_deadline(deadline, find).await;
                // Any other effect, if there was one.
                found.or_else(|| self.observer.effects(event_id, function).into_iter().next())
            }
        };
        if let Some(Timed { effect, at }) = found {
            if let Effect::Forwarded(forwarded) = &effect
                && !is_unmodified(forwarded, &message.payload)
            {
                result.problem = Some("the forwarded body differs from the payload".to_owned());
            }
            result.millis = Some(at.saturating_sub(started_at));
            result.effect = Some(effect);
        }
        result
    }

    /// Waits for messages of a device, identified by their content.
    async fn await_messages(
        &self,
        topic: &str,
        thing: &str,
        payload: &[u8],
        copies: usize,
    ) -> Result<Vec<PublishedMessage>> {
        let is_it = |message: &PublishedMessage| {
            message.topic == topic && message.client_id == thing && message.payload == payload
        };
        let found = self.claim(copies, |observer| observer.messages(0), is_it).await;
        found.ok_or_else(|| self.timeout_error("AWS IoT acknowledged the message, but no rule matched it"))
    }

    /// Waits for messages that AWS IoT itself publishes on a topic, without the first `skip` on all topics.
    pub(super) async fn await_system_messages(
        &self,
        topic: &str,
        skip: usize,
        copies: usize,
    ) -> Result<Vec<PublishedMessage>> {
        let found = self.claim(copies, |observer| observer.system_messages(skip), |it| it.topic == topic).await;
        found.ok_or_else(|| self.timeout_error(&format!("AWS IoT published nothing on {topic}")))
    }

    /// Waits for this many messages that no other step has claimed.
    async fn claim(
        &self,
        copies: usize,
        messages: impl Fn(&Observer) -> Vec<PublishedMessage>,
        is_it: impl Fn(&PublishedMessage) -> bool,
    ) -> Option<Vec<PublishedMessage>> {
        let find = |observer: &Observer| {
            let mut claimed = self.claimed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut found = messages(observer);
            found.retain(|message| is_it(message) && !claimed.contains(&message.trace_id));
            found.truncate(copies);
            (found.len() == copies).then(|| {
                claimed.extend(found.iter().map(|message| message.trace_id.clone()));
                found
            })
        };
        let wait = self.wait();
        self.observer.until_deadline(|_| wait.deadline(), find).await
    }
}
