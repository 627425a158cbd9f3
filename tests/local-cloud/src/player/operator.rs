//! Operators' steps: commands to functions, actions on alarms, and reads and updates of device shadows.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aws_sdk_iotdataplane::operation::get_thing_shadow::GetThingShadowError;
use aws_sdk_lambda::primitives::Blob;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::compare::mismatch;
use super::{Player, StepResult};
use crate::observer::{Effect, now};
use crate::scenario::{Command, Expectation, OperatorAction, Shadow};

impl Player {
    /// Invokes a function with a command.
    pub(super) async fn send_command(&self, command: &Command, result: StepResult) -> Result<StepResult> {
        self.invoke(&command.function, command.input.get(), result).await
    }

    /// Acts on the alarm of a thing, and waits until the alarm has the expected state. Otherwise returns its last
    /// state.
    pub(super) async fn act_on_alarm(
        &self,
        action: &OperatorAction,
        thing: &str,
        result: StepResult,
    ) -> Result<StepResult> {
        let wait = self.wait();
        let result = self.invoke("alarm", &action.command(thing).to_string(), result).await?;
        if result.effect != Some(Effect::Done) {
            return Ok(result);
        }
        loop {
            let alarm = self.recorded_alarm(thing, &action.rule).await?;
            let result = StepResult { effect: alarm.map(Effect::Alarm), ..result.clone() };
            if mismatch(&result.expected, &result).is_none() || wait.is_over() {
                return Ok(result);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn invoke(&self, function: &str, input: &str, result: StepResult) -> Result<StepResult> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", tag = "outcome")]
        enum Response {
            Done,
            Refused { reason: String, why: String },
        }
        let function = self.deployment.function(function)?;
        let started_at = now();
        let invoke = self.clients.lambda.invoke().function_name(function);
        let invoked = invoke.payload(Blob::new(input)).send().await?;
        let response = invoked.payload().map(|blob| String::from_utf8_lossy(blob.as_ref()).into_owned());
        let response = response.unwrap_or_default();
        ensure!(invoked.function_error().is_none(), "{function} failed: {response}");
        let parsed = serde_json::from_str(&response).with_context(|| format!("{function} returned {response}"))?;
        let effect = match parsed {
            Response::Done => Effect::Done,
            Response::Refused { reason, why } => Effect::Refused { reason, why },
        };
        let millis = Some(now().saturating_sub(started_at));
        Ok(StepResult { function: Some(function.to_owned()), effect: Some(effect), millis, ..result })
    }

    /// Waits until a device shadow has the expected state. Otherwise returns its last state.
    pub(super) async fn read_shadow(&self, shadow: &Shadow, result: StepResult) -> Result<StepResult> {
        let (started_at, wait) = (now(), self.wait());
        if matches!(result.expected, Expectation::Recorded(_)) {
            let name = shadow.name.as_deref();
            let recorded = self.recorded_shadow(&shadow.thing, name, 0, &result.expected, &wait).await;
            let millis = Some(now().saturating_sub(started_at));
            return Ok(StepResult { effect: recorded.map(|timed| timed.effect), millis, ..result });
        }
        loop {
            let get = self.clients.iot_data.get_thing_shadow().thing_name(&shadow.thing);
            let found = match get.set_shadow_name(shadow.name.clone()).send().await {
                Ok(found) => found.payload,
                Err(error)
                    if error.as_service_error().is_some_and(GetThingShadowError::is_resource_not_found_exception) =>
                {
                    None
                }
                Err(error) => return Err(error.into()),
            };
            let document: Option<Value> = found.map(|found| serde_json::from_slice(found.as_ref())).transpose()?;
            let desired = document.and_then(|document| document.pointer("/state/desired").cloned());
            let millis = Some(now().saturating_sub(started_at));
            let result = StepResult { effect: desired.map(Effect::Desired), millis, ..result.clone() };
            if mismatch(&result.expected, &result).is_none() || wait.is_over() {
                return Ok(result);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Sets the desired state of a device shadow over HTTPS.
    pub(super) async fn update_shadow(
        &self,
        shadow: &Shadow,
        desired: &Value,
        result: StepResult,
    ) -> Result<StepResult> {
        let (skip, started_at, topic) = (self.observer.system_message_count(), now(), shadow.documents_topic());
        let update = self.clients.iot_data.update_thing_shadow().thing_name(&shadow.thing);
        let payload = Blob::new(json!({"state": {"desired": desired}}).to_string());
        update.set_shadow_name(shadow.name.clone()).payload(payload).send().await?;
        let messages = self.await_system_messages(&topic, skip, 1).await?;
        let [message] = messages.try_into().map_err(|_| anyhow!("expected one shadow update"))?;
        let (topic, expected) = (Some(topic), result.expected.clone());
        Ok(self.await_effect(message, StepResult { topic, ..result }, &[expected], started_at).await)
    }
}
