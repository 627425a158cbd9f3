//! Connections of devices: reconnections, and connections with certificates that AWS IoT may not know yet.

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

use super::compare::mismatch;
use super::{Actor, Enrollment, Player, QUIET_PERIOD, StepResult};
use crate::admission::certificate_of;
use crate::device::{ConnectResult, Device};
use crate::observer::{Effect, Observer, Timed, now};
use crate::pki::IssuedCertificate;
use crate::scenario::{Connect, Expectation};

impl Player {
    pub(super) async fn connect(
        &self,
        actor: &mut Actor,
        connect: &Connect,
        mut result: StepResult,
    ) -> Result<StepResult> {
        if matches!(connect, Connect::Again) && result.expected.is_reconnection() {
            return self.reconnect(actor, result).await;
        }
        let enrollment = self.enrollment.as_ref().context("there is no certificate authority")?;
        let issued = match connect {
            Connect::Certificate(options) => enrollment.issue(options, &result.thing).await?,
            Connect::Again => actor.last_certificate.clone().context("the device has not connected before")?,
        };
        actor.last_certificate = Some(issued.clone());
        let problem = self.enroll(enrollment, actor, &issued, &mut result).await?;
        let problem = problem.or_else(|| mismatch(&result.expected, &result));
        result.problem = problem.map(|problem| self.explain(problem, &result));
        Ok(result)
    }

    /// Connects a device that has disconnected.
    async fn reconnect(&self, actor: &mut Actor, result: StepResult) -> Result<StepResult> {
        let Some(device) = &mut actor.device else {
            return Ok(StepResult { problem: Some("the device never connected".to_owned()), ..result });
        };
        let (skip, started_at) = (self.observer.system_message_count(), now());
        device.connect().await?;
        let mut result = self.await_presence("connected", skip, started_at, result).await?;
        result.problem = mismatch(&result.expected, &result).map(|problem| self.explain(problem, &result));
        Ok(result)
    }

    /// Connects with a certificate and waits for its admission. Returns the first inconsistency, if any.
    async fn enroll(
        &self,
        enrollment: &Enrollment,
        actor: &mut Actor,
        issued: &IssuedCertificate,
        result: &mut StepResult,
    ) -> Result<Option<String>> {
        let admissions = &enrollment.admissions;
        let before = admissions.get(&issued.id).await?;
        let is_denial_expected = result.expected == Expectation::Denied;
        let (skip, started_at) = (self.observer.message_count(), now());
        let mut device = Device::at(self.broker.clone(), issued.identity(&result.thing));
        match device.try_connect().await? {
            ConnectResult::Accepted => {
                result.effect = Some(Effect::Accepted);
                result.millis = Some(now().saturating_sub(started_at));
                actor.device = Some(device);
                sleep(QUIET_PERIOD).await;
                let is_unchanged = admissions.get(&issued.id).await? == before;
                return Ok((!is_unchanged).then(|| "it connected, but its admission record changed".to_owned()));
            }
            ConnectResult::TlsRejected(error) => {
                result.denied = true;
                return Ok((!is_denial_expected).then(|| format!("AWS IoT denied its certificate: {error}")));
            }
            ConnectResult::Closed => {}
        }
        let find = |observer: &Observer| {
            let mut new = observer.messages(skip).into_iter();
            new.find(|message| certificate_of(message).as_ref() == Some(&issued.id))
        };
        let (wait, quiet_at) = (self.wait(), Instant::now() + QUIET_PERIOD);
        let deadline = |_: &Observer| if is_denial_expected { quiet_at } else { wait.deadline() };
        let Some(event) = self.observer.until_deadline(deadline, find).await else {
            result.denied = true;
            let problem = "AWS IoT denied the connection and published no event about a new certificate";
            return Ok((!is_denial_expected).then(|| problem.to_owned()));
        };
        let rule = self.observer.rule(&event.topic);
        result.rule = rule.map(|rule| rule.name.clone());
        result.function = rule.and_then(|rule| rule.function.clone());
        (result.topic, result.event_id) = (Some(event.topic), Some(event.trace_id));

        let record = admissions.outcome(&issued.id, &self.observer).await?;
        let Some(record) = record else { return Ok(None) };
        let (state, status) = (record.state.clone(), admissions.status(&issued.id).await?.unwrap_or_default());
        let Some(Timed { effect, at }) = record.effect() else {
            return Ok(Some(format!("its admission record has state {state:?}")));
        };
        (result.millis, result.effect) = (Some(at.saturating_sub(started_at)), Some(effect));
        if state == "admitted" {
            if device.connect_with_retry(&self.observer).await? != ConnectResult::Accepted {
                return Ok(Some(format!("it was admitted but cannot connect; its certificate is {status}")));
            }
            actor.device = Some(device);
        } else if !matches!(status.as_str(), "REVOKED" | "INACTIVE") {
            return Ok(Some(format!("it was rejected, but its certificate is {status}")));
        }
        Ok(None)
    }
}
