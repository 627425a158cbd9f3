//! Notes what can replace a model's actions: rules have none.

use crate::alarms::import::model::Action;
use crate::alarms::import::notes::Notes;

/// Notes an action that is not carried over, and what to do instead. `place` is the field of the model.
pub fn note(action: &Action, place: &str, notes: &mut Notes) {
    for (kind, settings) in action {
        let setting = |name: &str| settings.get(name).and_then(|value| value.as_str()).unwrap_or("?");
        let (target, instead) = match kind.as_str() {
            "sns" => {
                (setting("targetArn"), "Gatehouse publishes on its own topic of alarms; move the subscriptions there")
            }
            "lambda" => (setting("functionArn"), "subscribe the function to the topic of alarms"),
            "sqs" => (setting("queueUrl"), "subscribe the queue to the topic of alarms, with raw message delivery"),
            "firehose" => (setting("deliveryStreamName"), "subscribe the delivery stream to the topic of alarms"),
            "iotTopicPublish" => (
                setting("mqttTopic"),
                "nothing is published over MQTT; to command a device, write an action for `actuator`",
            ),
            "dynamoDB" | "dynamoDBv2" => {
                (setting("tableName"), "the alarms table keeps each alarm's state and history")
            }
            "iotEvents" => (setting("inputName"), "rules cannot feed other rules"),
            "iotSiteWise" => (
                settings.get("propertyAlias").and_then(|alias| alias.as_str()).unwrap_or("an asset property"),
                "subscribe a function that writes to AWS IoT SiteWise to the topic of alarms",
            ),
            _ => ("?", "the action is unknown"),
        };
        let payload = if settings.get("payload").is_some() {
            "; a payload of its own is not carried over: messages have fixed fields"
        } else {
            ""
        };
        notes.lost(&format!("{place}.{kind} {target}"), &format!("{instead}{payload}"));
    }
}
