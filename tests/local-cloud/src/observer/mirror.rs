//! The queues and rules that the observer adds to an account.

use anyhow::{Context, Result};
use aws_sdk_iot::types::{Action, SqsAction, TopicRulePayload};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;

use super::{PREFIX, Rule};
use crate::aws::Clients;

/// The mirrored topics: everything that clients publish, and what AWS IoT publishes about new certificates,
/// connections and shadows, which `#` does not match.
const TOPICS: [(&str, &str); 7] = [
    ("messages", "#"),
    ("registered", "$aws/events/certificates/registered/+"),
    ("presence", "$aws/events/presence/+/+"),
    ("shadows", "$aws/things/+/shadow/update/documents"),
    ("named_shadows", "$aws/things/+/shadow/name/+/update/documents"),
    ("deleted_shadows", "$aws/things/+/shadow/delete/accepted"),
    ("deleted_named_shadows", "$aws/things/+/shadow/name/+/delete/accepted"),
];

/// The URLs of the queues that hold mirrored messages.
pub(super) struct Mirror {
    /// Every message.
    pub(super) messages: String,
    /// The function inputs that rules built for functions that they invoke directly.
    pub(super) events: String,
}

/// Adds a queue that subscribes to every topic. Returns its URL.
pub(super) async fn subscribe(clients: &Clients) -> Result<String> {
    let (url, arn) = create_queue(clients, &format!("{PREFIX}-notifications")).await?;
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
        }],
    });
    let set =
        clients.sqs.set_queue_attributes().queue_url(&url).attributes(QueueAttributeName::Policy, policy.to_string());
    set.send().await?;
    for topic in clients.sns.list_topics().send().await?.topics() {
        clients.sns.subscribe().set_topic_arn(topic.topic_arn.clone()).protocol("sqs").endpoint(&arn).send().await?;
    }
    Ok(url)
}

/// Adds rules that mirror messages, and the events that `rules` build of them.
pub(super) async fn add_rules(clients: &Clients, rules: &[Rule]) -> Result<Mirror> {
    // AWS IoT must be able to assume the role. The local cloud does not check what it allows.
    let role = rules.iter().find_map(|rule| rule.role.as_ref()).context("no rule has an error action with a role")?;
    let add = async |name: String, sql: &str, url: &str| {
        let action = Action::builder().sqs(SqsAction::builder().queue_url(url).role_arn(role).build()?).build();
        let payload = TopicRulePayload::builder().sql(sql).aws_iot_sql_version("2016-03-23").actions(action).build()?;
        clients.iot.create_topic_rule().rule_name(name).topic_rule_payload(payload).send().await?;
        Ok::<_, anyhow::Error>(())
    };
    let (messages, _) = create_queue(clients, &format!("{PREFIX}-messages")).await?;
    for (name, filter) in TOPICS {
        let sql = format!(
            "SELECT encode(*, 'base64') AS payloadBase64, topic() AS topic, clientid() AS clientId, \
             traceid() AS traceId, timestamp() AS receivedAt FROM '{filter}'"
        );
        add(format!("{PREFIX}_{name}"), &sql, &messages).await?;
    }
    let (events, _) = create_queue(clients, &format!("{PREFIX}-events")).await?;
    for rule in rules.iter().filter(|rule| rule.invokes_directly()) {
        add(format!("{PREFIX}_{}", rule.name), &rule.sql, &events).await?;
    }
    Ok(Mirror { messages, events })
}

/// Creates a queue. Returns its URL and ARN.
async fn create_queue(clients: &Clients, name: &str) -> Result<(String, String)> {
    let created = clients.sqs.create_queue().queue_name(name).send().await?;
    let url = created.queue_url().context("the queue has no URL")?.to_owned();
    let get = clients.sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
    let arn = get.send().await?.attributes().and_then(|all| all.get(&QueueAttributeName::QueueArn)).cloned();
    Ok((url, arn.context("the queue has no ARN")?))
}
