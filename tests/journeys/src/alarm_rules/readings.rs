//! A thing whose readings a rule evaluates.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iotdataplane::operation::get_thing_shadow::GetThingShadowError;
use local_cloud::observer::Notification;
use serde_json::{Value, json};

use crate::events::device_event;
use crate::operator;
use crate::stage::{Item, Stage};
use crate::suite::Suite;

/// A thing and a rule, in a deployment with these rules.
pub struct Readings {
    pub stage: Arc<Stage>,
    thing: String,
    rule: String,
    reported: Arc<AtomicUsize>,
}

impl Readings {
    /// Deploys a stack, and uploads the rules.
    pub async fn begin(suite: &Arc<Suite>, thing: &str, rule: &str, rules: &[Value]) -> Result<Self> {
        let stage = Arc::new(suite.stage().await?);
        let (thing, rule) = (thing.to_owned(), rule.to_owned());
        let readings = Self { stage, thing, rule, reported: Arc::default() };
        readings.put(rules).await?;
        Ok(readings)
    }

    /// Returns the same thing with another rule.
    pub fn of_rule(&self, rule: &str) -> Self {
        let (stage, reported) = (Arc::clone(&self.stage), Arc::clone(&self.reported));
        Self { stage, thing: self.thing.clone(), rule: rule.to_owned(), reported }
    }

    /// Uploads rules.
    pub async fn put(&self, rules: &[Value]) -> Result<()> {
        let response = self.stage.invoke("alarm", &json!({"version": 2, "rules": rules})).await?;
        ensure!(response == json!({"outcome": "done"}), "alarm returned {response}");
        Ok(())
    }

    /// Reports a reading, and returns once it has been evaluated.
    pub async fn report(&self, reading: &Value) -> Result<()> {
        self.report_text(&reading.to_string()).await
    }

    /// Reports a reading as JSON text, which preserves how numbers are written.
    pub async fn report_text(&self, reading: &str) -> Result<()> {
        let number = self.reported.fetch_add(1, Ordering::Relaxed);
        let event = device_event(&format!("reading-{number}"), &self.thing, "t", reading.as_bytes());
        let response = self.stage.invoke("alarm", &event).await?;
        ensure!(response == json!({"outcome": "done"}), "alarm returned {response}");
        Ok(())
    }

    /// Performs an action on the alarm. The function must accept it.
    pub async fn act(&self, action: &str, fields: &Value) -> Result<()> {
        let mut command = json!({"thing": self.thing, "rule": self.rule, "by": "anna"});
        if let (Some(command), Some(fields)) = (command.as_object_mut(), fields.as_object()) {
            command.extend(fields.clone());
        }
        let response = self.stage.invoke("alarm", &json!({action: command})).await?;
        ensure!(response == json!({"outcome": "done"}), "alarm returned {response}");
        Ok(())
    }

    /// Runs the operator tool, which must succeed. Returns its standard output.
    pub async fn gatehouse(&self, arguments: &[&str]) -> Result<String> {
        operator::output(&self.stage, arguments).await
    }

    /// Returns the alarm's record.
    pub async fn record(&self) -> Result<Option<Item>> {
        let get = self.stage.clients.dynamodb.get_item().table_name(self.stage.deployment.output("AlarmTable")?);
        let get = get.key("id", AttributeValue::S(format!("thing#{}", self.thing)));
        let get = get.key("part", AttributeValue::S(format!("threshold#{}", self.rule)));
        Ok(get.consistent_read(true).send().await?.item)
    }

    /// Waits until the alarm has this state.
    pub async fn has_state(&self, state: &str) -> Result<()> {
        let mut last = None;
        let found = self.stage.observer.poll(async || {
            last = self.record().await?;
            Ok(last.as_ref().is_some_and(|item| has(item, "alarmState", state)).then_some(()))
        });
        found.await?.with_context(|| format!("the alarm is not {state} but {last:?}"))
    }

    /// Runs the scheduled check until the alarm has this state.
    pub async fn check_until_state(&self, state: &str) -> Result<()> {
        self.check_until(|item| has(item, "alarmState", state)).await
    }

    /// Runs the scheduled check until the record satisfies a condition.
    pub async fn check_until(&self, condition: impl Fn(&Item) -> bool) -> Result<()> {
        let mut last = None;
        let found = self.stage.observer.poll(async || {
            self.stage.invoke("alarm", &json!({"check": "due"})).await?;
            last = self.record().await?;
            Ok(last.as_ref().is_some_and(&condition).then_some(()))
        });
        found.await?.with_context(|| format!("the record stays {last:?}"))
    }

    /// Runs the scheduled check until the thing has this many messages.
    pub async fn check_until_messages(&self, number: usize) -> Result<()> {
        let found = self.stage.observer.poll(async || {
            self.stage.invoke("alarm", &json!({"check": "due"})).await?;
            self.stage.observer.catch_up().await?;
            Ok((self.received().len() >= number).then_some(()))
        });
        found.await?.with_context(|| format!("there are only {} messages", self.received().len()))
    }

    fn received(&self) -> Vec<Notification> {
        let mut all = self.stage.observer.notifications();
        all.retain(|message| message.attributes.get("thing") == Some(&self.thing));
        all
    }

    /// Returns all messages about the thing, once there are at least this many and no more are pending.
    pub async fn messages(&self, number: usize) -> Result<Vec<Notification>> {
        let found = self.stage.observer.until(|_| (self.received().len() >= number).then_some(()));
        found.await.with_context(|| format!("there are only {} messages", self.received().len()))?;
        self.stage.observer.catch_up().await?;
        Ok(self.received())
    }

    /// Ensures that the messages have these fields, in this order, and that there are no others.
    pub fn assert_messages(&self, messages: &[Notification], expected: &[Value]) -> Result<()> {
        let data: Vec<_> = messages.iter().map(|message| message.data.clone().unwrap_or_default()).collect();
        ensure!(data.len() == expected.len(), "there are {} messages: {data:#?}", data.len());
        for (message, expected) in data.iter().zip(expected) {
            for (name, value) in expected.as_object().into_iter().flatten() {
                ensure!(message.get(name) == Some(value), "{name} is not {value} in {message}");
            }
            ensure!(message.get("rule") == Some(&json!(self.rule)), "the rule is not named in {message}");
        }
        Ok(())
    }

    /// Returns the position that a shade was commanded to.
    pub async fn shade(&self, thing: &str) -> Result<Option<String>> {
        let shadow = match self.stage.clients.iot_data.get_thing_shadow().thing_name(thing).send().await {
            Ok(shadow) => shadow,
            Err(error)
                if error.as_service_error().is_some_and(GetThingShadowError::is_resource_not_found_exception) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let shadow: Value = serde_json::from_slice(shadow.payload().context("the shadow is empty")?.as_ref())?;
        Ok(shadow.pointer("/state/desired/position").and_then(Value::as_str).map(str::to_owned))
    }

    /// Records a device as admitted at this time, as `jitr` does.
    pub async fn admit(&self, thing: &str, at: u64) -> Result<()> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let item = HashMap::from([
            ("id".to_owned(), text(&format!("thing#{thing}"))),
            ("part".to_owned(), text("name")),
            ("certificateId".to_owned(), text("0000")),
            ("claimedAt".to_owned(), AttributeValue::N(at.to_string())),
        ]);
        let put = self.stage.clients.dynamodb.put_item().table_name(self.stage.deployment.output("DevicesTable")?);
        put.set_item(Some(item)).send().await?;
        Ok(())
    }

    /// Makes the scheduled check of the alarm due now.
    pub async fn make_check_due(&self) -> Result<()> {
        let update = self.stage.clients.dynamodb.update_item().table_name(self.stage.deployment.output("AlarmTable")?);
        let update = update.key("id", AttributeValue::S(format!("thing#{}", self.thing)));
        let update = update.key("part", AttributeValue::S(format!("threshold#{}", self.rule)));
        let update = update.condition_expression("attribute_exists(dueAt)").update_expression("SET dueAt = :past");
        update.expression_attribute_values(":past", AttributeValue::N("0".to_owned())).send().await?;
        Ok(())
    }

    /// Ends the quiet hours that delay a message to people, and makes the check due now.
    pub async fn end_quiet_hours(&self) -> Result<()> {
        let record = self.record().await?.context("there is no record")?;
        let held = record.get("held").and_then(|held| held.as_s().ok()).context("nothing is kept from people")?;
        let mut held: Value = serde_json::from_str(held)?;
        *held.get_mut("until").context("they have no end")? = json!(0);
        let update = self.stage.clients.dynamodb.update_item().table_name(self.stage.deployment.output("AlarmTable")?);
        let update = update.key("id", AttributeValue::S(format!("thing#{}", self.thing)));
        let update = update.key("part", AttributeValue::S(format!("threshold#{}", self.rule)));
        let update = update.condition_expression("attribute_exists(held)").update_expression("SET held = :held");
        update.expression_attribute_values(":held", AttributeValue::S(held.to_string())).send().await?;
        self.make_check_due().await
    }

    /// Changes the time at which the rules were uploaded.
    pub async fn put_before(&self, at: u64) -> Result<()> {
        let update = self.stage.clients.dynamodb.update_item().table_name(self.stage.deployment.output("AlarmTable")?);
        let update = update.key("id", AttributeValue::S("document#thresholds".to_owned()));
        let update = update.key("part", AttributeValue::S("current".to_owned()));
        let update = update.condition_expression("attribute_exists(givenAt)").update_expression("SET givenAt = :at");
        update.expression_attribute_values(":at", AttributeValue::N(at.to_string())).send().await?;
        Ok(())
    }
}

fn has(item: &Item, name: &str, value: &str) -> bool {
    item.get(name).is_some_and(|found| found.as_s().is_ok_and(|found| found == value))
}

/// Returns the audiences of the messages.
pub fn audiences(messages: &[Notification]) -> Vec<&str> {
    messages.iter().filter_map(|message| message.attributes.get("audience").map(String::as_str)).collect()
}
