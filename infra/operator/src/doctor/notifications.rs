//! Whether people are notified: alarms, subscriptions and text messages.

use anyhow::{Context as _, Result};
use aws_sdk_cloudwatch::types::{AlarmType, StateValue};
use aws_sdk_sns::types::Subscription;

use crate::context::Context;
use crate::doctor::Findings;

/// Default monthly spending limit for text messages, in USD. SNS sends none beyond it.
const DEFAULT_SPEND_LIMIT: f64 = 1.0;

/// Checks that no alarm of the deployment is in ALARM.
pub async fn alarms(context: &Context, findings: &mut Findings) -> Result<()> {
    let describe = context.cloudwatch().describe_alarms().alarm_name_prefix(context.names.of(""));
    let describe = describe.alarm_types(AlarmType::MetricAlarm).alarm_types(AlarmType::CompositeAlarm);
    let mut pages = describe.into_paginator().send();
    let mut number = 0;
    while let Some(page) = pages.next().await {
        let page = page.context("failed to list the alarms")?;
        let metric = page
            .metric_alarms()
            .iter()
            .map(|alarm| (alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), alarm.actions_enabled()));
        let composite = page
            .composite_alarms()
            .iter()
            .map(|alarm| (alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), alarm.actions_enabled()));
        for (name, state, reason, has_actions) in metric.chain(composite) {
            number += 1;
            let name = name.unwrap_or_default();
            if state == Some(&StateValue::Alarm) {
                findings.problem(
                    format!("{name} is in ALARM: {}", reason.unwrap_or("CloudWatch names no reason")),
                    "Follow the description of the alarm, which names its runbook entry.",
                );
            }
            if has_actions == Some(false) {
                findings.warning(
                    format!("the actions of {name} are disabled"),
                    "Enable them: aws cloudwatch enable-alarm-actions --alarm-names …",
                );
            }
        }
    }
    if number == 0 {
        findings.problem("there are no alarms", "Deploy the stack, or check --prefix and --region.");
    }
    findings.or_ok(format!("none of {number} alarms is in ALARM"));
    Ok(())
}

/// Checks that subscriptions are confirmed, and that somebody is notified of alarms.
pub async fn subscriptions(context: &Context, findings: &mut Findings) -> Result<()> {
    report_subscriptions(&all_subscriptions(context).await?, &context.names.of("operators"), findings);
    Ok(())
}

fn report_subscriptions(subscriptions: &[(String, Subscription)], operators: &str, findings: &mut Findings) {
    let is_pending = |subscription: &Subscription| subscription.subscription_arn() == Some("PendingConfirmation");
    let mut confirmed = 0;
    for (topic, subscription) in subscriptions {
        if is_pending(subscription) {
            // Without the address, because the report may be shared.
            findings.warning(
                format!("a subscription by {} to {topic} is not confirmed", subscription.protocol().unwrap_or("-")),
                "Confirm it with the link that AWS sent to the address. The link expires; subscribe again to get a new one.",
            );
        } else {
            confirmed += 1;
        }
    }
    if !subscriptions.iter().any(|(topic, subscription)| topic == operators && !is_pending(subscription)) {
        findings.problem(
            format!("nobody is notified of alarms: {operators} has no confirmed subscription"),
            "Deploy with OperatorEmail, or subscribe to the topic.",
        );
    }
    findings.or_ok(format!("{confirmed} subscriptions are confirmed"));
}

/// Checks that SNS may send text messages, if there are subscriptions by phone.
pub async fn text_messages(context: &Context, findings: &mut Findings) -> Result<()> {
    let phones = all_subscriptions(context).await?;
    let phones = phones.iter().filter(|(_, subscription)| subscription.protocol() == Some("sms")).count();
    if phones == 0 {
        findings.ok("there is no subscription by phone");
        return Ok(());
    }
    let sns = context.sns();
    let sandbox = sns.get_sms_sandbox_account_status().send().await.context("failed to read the SMS sandbox's status");
    if findings.take(sandbox).is_some_and(|status| status.is_in_sandbox) {
        findings.warning(
            format!(
                "the account is in the SMS sandbox: {phones} phones receive nothing unless their numbers are verified"
            ),
            "Verify the numbers in SNS, or request to leave the sandbox.",
        );
    }
    let attributes = sns.get_sms_attributes().send().await.context("failed to read the SMS attributes");
    if let Some(attributes) = findings.take(attributes) {
        let limit = attributes.attributes().and_then(|found| found.get("MonthlySpendLimit")?.parse::<f64>().ok());
        let limit = limit.unwrap_or(DEFAULT_SPEND_LIMIT);
        if limit <= DEFAULT_SPEND_LIMIT {
            findings.warning(
                format!("SNS stops sending text messages at {limit} USD per month"),
                "Request a higher spending limit for text messages: 1 USD is enough for 10 to 100 of them.",
            );
        }
    }
    findings.or_ok(format!("{phones} subscriptions by phone"));
    Ok(())
}

/// Returns the subscriptions to the deployment's topics, each with the topic's name.
async fn all_subscriptions(context: &Context) -> Result<Vec<(String, Subscription)>> {
    let sns = context.sns();
    let topics = sns.list_topics().into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let mut all = Vec::new();
    for topic in topics.context("failed to list the topics")? {
        let arn = topic.topic_arn.unwrap_or_default();
        let Some(name) = arn.rsplit(':').next().filter(|name| context.names.suffix(name).is_some()) else { continue };
        let list = sns.list_subscriptions_by_topic().topic_arn(&arn).into_paginator().items().send();
        let list = list.collect::<Result<Vec<_>, _>>().await;
        let list = list.with_context(|| format!("failed to list the subscriptions of {name}"))?;
        all.extend(list.into_iter().map(|subscription| (name.to_owned(), subscription)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn subscription(arn: &str) -> Subscription {
        Subscription::builder().protocol("email").endpoint("a@example.com").subscription_arn(arn).build()
    }

    #[test]
    fn unconfirmed_subscription_is_reported_without_its_address() {
        let mut findings = Findings::new("subscriptions");
        let all = [
            ("my-button".to_owned(), subscription("PendingConfirmation")),
            ("my-operators".to_owned(), subscription("arn:aws:sns:us-east-1:111111111111:my-operators:1")),
        ];
        report_subscriptions(&all, "my-operators", &mut findings);
        assert_eq!(findings.findings.len(), 1);
        let finding = findings.findings.first().expect("a finding");
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.text.contains("my-button") && !finding.text.contains("example.com"), "{finding:?}");
    }

    #[test]
    fn operators_without_confirmed_subscription_are_a_problem() {
        for all in [vec![], vec![("my-operators".to_owned(), subscription("PendingConfirmation"))]] {
            let mut findings = Findings::new("subscriptions");
            report_subscriptions(&all, "my-operators", &mut findings);
            assert!(findings.findings.iter().any(|finding| finding.level == Level::Problem), "{all:?}");
        }
    }
}
