//! Turns an alarm model into a rule.

use crate::alarms::import::actions;
use crate::alarms::import::expression::{Comparison, Expression};
use crate::alarms::import::model::{AlarmModel, NotificationAction, SimpleRule};
use crate::alarms::import::notes::Notes;
use crate::alarms::import::rule::{Condition, Level, Rule, Sustained};
use crate::alarms::import::{ImportOptions, key_note};

/// Returns the rule; `None` if the model cannot be carried over.
pub fn rule(model: &AlarmModel, options: &ImportOptions, notes: &mut Notes) -> Option<Rule> {
    let Some(simple) = &model.alarm_rule.simple_rule else {
        notes.lost("alarmRule", "it has no `simpleRule`, the only kind of rule that is known");
        return None;
    };
    let when = match condition(simple) {
        Ok(when) => when,
        Err(why) => {
            notes.lost("alarmRule.simpleRule", &why);
            return None;
        }
    };
    if let Some(status) = model.status.as_ref().filter(|status| *status != "ACTIVE") {
        notes.changed("status", &format!("the model was {status}; the rule is in force once it is uploaded"));
    }
    if let Some(key) = &model.key {
        notes.changed("key", &key_note(key));
    }
    notify(&model.alarm_notification.notification_actions, notes);
    for action in &model.alarm_event_actions.alarm_actions {
        actions::note(action, "alarmEventActions", notes);
    }
    let capabilities = &model.alarm_capabilities;
    let initialization = capabilities.initialization_configuration.as_ref();
    if initialization.is_none() {
        let why = "the model does not say whether alarms start disabled; they start enabled";
        notes.changed("alarmCapabilities.initializationConfiguration", why);
    }
    Some(Rule {
        name: super::rule_name(&model.alarm_model_name, notes),
        things: options.things.clone(),
        severities: [Level {
            severity: options.severity(model.severity, notes),
            raise: Sustained::at_once(when),
            clear: None,
        }],
        latch: capabilities.acknowledge_flow.as_ref().is_some_and(|flow| flow.enabled),
        start_disabled: initialization.is_some_and(|initialization| initialization.disabled_on_initialization),
    })
}

fn condition(rule: &SimpleRule) -> Result<Condition, String> {
    let SimpleRule { input_property, comparison_operator, threshold } = rule;
    let op = match comparison_operator.as_str() {
        "GREATER" => Comparison::Greater,
        "GREATER_OR_EQUAL" => Comparison::GreaterOrEqual,
        "LESS" => Comparison::Less,
        "LESS_OR_EQUAL" => Comparison::LessOrEqual,
        "EQUAL" => Comparison::Equal,
        "NOT_EQUAL" => Comparison::NotEqual,
        other => return Err(format!("the comparison operator {other} is unknown")),
    };
    let parse = |field: &str, text: &str| Expression::parse(text).map_err(|error| format!("`{field}`: {error}"));
    let property = parse("inputProperty", input_property)?;
    if !matches!(property, Expression::Field(_)) {
        return Err("`inputProperty` is not a field of an input's messages".to_owned());
    }
    Condition::comparison(&property, op, &parse("threshold", threshold)?, &mut None)
}

fn notify(notifications: &[NotificationAction], notes: &mut Notes) {
    for NotificationAction { action, sms_configurations, email_configurations } in notifications {
        let mut lost = |what: &str, why: &str| notes.lost(&format!("alarmNotification.{what}"), why);
        if action.contains_key("lambdaAction") {
            lost(
                "action.lambdaAction",
                "subscribe the function to the topic of alarms, or let Gatehouse send the text",
            );
        }
        if !email_configurations.is_empty() {
            let why = "recipients from IAM Identity Center and the sender are not carried over; deploy with `AlarmEmail`, \
                       or subscribe addresses to the topic of alarms";
            lost("emailConfigurations", why);
        }
        if !sms_configurations.is_empty() {
            let why = "recipients from IAM Identity Center and the sender are not carried over; deploy with `AlarmPhone`, \
                       or subscribe numbers to the topic of alarms";
            lost("smsConfigurations", why);
        }
        let has_message = email_configurations.iter().chain(sms_configurations).any(|configuration| {
            configuration.get("additionalMessage").is_some()
                || configuration.pointer("/content/additionalMessage").is_some()
        });
        if has_message {
            lost("…additionalMessage", "write the text into the rule's `notify.text`");
        }
    }
}
