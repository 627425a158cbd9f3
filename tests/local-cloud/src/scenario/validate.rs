//! Parses scenarios and rejects those that cannot be played. Every error names the field.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use super::{Connect, Expectation, Scenario, Step, StepAction};
use crate::isolation::Account;

/// Maximum number of copies of a message.
const MAX_TIMES: usize = 100;
/// Maximum delay before a step.
const MAX_DELAY: Duration = Duration::from_mins(15);

impl Scenario {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let scenario: Self =
            serde_path_to_error::deserialize(&mut json).map_err(|error| match error.path().to_string() {
                path if path == "." => anyhow!("{}", error.inner()),
                path => anyhow!("{path}: {}", error.inner()),
            })?;
        json.end()?;
        scenario.validate()?;
        Ok(scenario)
    }

    fn validate(&self) -> Result<()> {
        ensure!(!self.steps.is_empty(), "steps: must not be empty");
        if let Some(chart) = &self.chart {
            let is_reading = |step: &Step| step.thing == chart.thing && step.number(&chart.field).is_some();
            ensure!(self.steps.iter().any(is_reading), "chart: no step of this thing has a number in this field");
        }
        let mut order = StepOrder::default();
        for (index, step) in self.steps.iter().enumerate() {
            let valid = step.validate().and_then(|()| order.validate(step));
            valid.map_err(|error| anyhow!("steps[{index}] ({}): {error:#}", step.what))?;
        }
        let new_things = self.new_things();
        for thing in self.policies.keys() {
            let is_registered = self.steps.iter().any(|step| step.thing == *thing) && !new_things.contains(&**thing);
            ensure!(is_registered, "policies: {thing} is the thing of no step, or is new to AWS IoT");
        }
        if let Some(destination) = &self.destination {
            Account::new(&*destination.account).map_err(|error| anyhow!("destination.account: {error}"))?;
        }
        let mut expected = self.steps.iter().flat_map(|step| std::iter::once(&step.expect).chain(&step.expect_others));
        let is_forwarded = expected.any(|expect| matches!(expect, Expectation::Forwarded(_)));
        ensure!(
            self.destination.is_some() || !is_forwarded,
            "destination: is required by a step that expects forwarded"
        );
        Ok(())
    }
}

/// Which things have connected and disconnected in the steps so far.
#[derive(Default)]
struct StepOrder<'a> {
    connected: HashSet<&'a str>,
    disconnected: HashSet<&'a str>,
}

impl<'a> StepOrder<'a> {
    fn validate(&mut self, step: &'a Step) -> Result<()> {
        match step.connect {
            None if step.topic.is_some() && self.disconnected.contains(&*step.thing) => {
                bail!("topic: this thing has disconnected and must connect first");
            }
            Some(Connect::Again) if step.expect.is_reconnection() => {
                let was_disconnected = self.disconnected.remove(&*step.thing);
                ensure!(was_disconnected, "connect: this thing has not disconnected in an earlier step");
            }
            Some(Connect::Again) if !self.connected.contains(&*step.thing) => {
                bail!("connect: this thing has no certificate from an earlier step");
            }
            _ => {}
        }
        if step.is_connection() {
            self.connected.insert(&step.thing);
        }
        if step.disconnect {
            self.disconnected.insert(&step.thing);
        }
        Ok(())
    }
}

impl Step {
    fn validate(&self) -> Result<()> {
        ensure!(is_name(&self.thing), "thing: must be 1 to 128 of the characters a-z A-Z 0-9 : _ -");
        for (name, seconds) in [("delaySeconds", self.delay_seconds), ("minIntervalSeconds", self.min_interval_seconds)]
        {
            let delay = Duration::try_from_secs_f64(seconds);
            ensure!(delay.is_ok_and(|delay| delay <= MAX_DELAY), "{name}: must be from 0 to 900");
        }
        ensure!(self.times.get() <= MAX_TIMES, "times: must be at most {MAX_TIMES}");
        ensure!(!self.together || self.times.get() > 1, "together: requires `times` of 2 or more");
        ensure!(self.expect_others.is_none() || self.times.get() > 1, "expectOthers: requires `times` of 2 or more");
        let action = self.action()?;
        let is_message = matches!(action, StepAction::Publish { .. });
        ensure!(is_message || self.times.get() == 1, "times: must be 1 for {}", action.description());
        let is_one_message = is_message && self.times.get() == 1;
        ensure!(self.wait_for_outcome || is_one_message, "waitForOutcome: may be false for a single message only");
        match &action {
            StepAction::Publish { topic, .. } => {
                let is_topic = !topic.is_empty() && topic.len() <= 256 && !topic.contains(['+', '#', '\0']);
                ensure!(is_topic, "topic: must be 1 to 256 bytes without + and #");
            }
            StepAction::Connect(Connect::Certificate(options)) => options.validate()?,
            StepAction::ReadShadow(shadow) | StepAction::UpdateShadow(shadow, _) => {
                ensure!(is_name(&shadow.thing), "shadow.thing: must be 1 to 128 of the characters a-z A-Z 0-9 : _ -");
                let is_shadow = shadow.name.as_ref().is_none_or(|name| is_name(name) && name.len() <= 64);
                ensure!(is_shadow, "shadow.name: must be 1 to 64 of the characters a-z A-Z 0-9 : _ -");
            }
            StepAction::Connect(Connect::Again)
            | StepAction::Disconnect
            | StepAction::Command(_)
            | StepAction::Operator(_) => {}
        }
        let others = self.expect_others.as_ref();
        for (name, expect) in [("expect", Some(&self.expect)), ("expectOthers", others)] {
            let is_possible = expect.is_none_or(|expect| expect.is_possible_for(&action));
            ensure!(is_possible, "{name}: is not a possible outcome of {}", action.description());
        }
        Ok(())
    }
}

/// Returns whether a text is a valid thing name.
fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(is_allowed)
}
