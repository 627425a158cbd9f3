//! The queue and the rules that the observer adds to an account.

use anyhow::{Context, Result};
use aws_sdk_iot::types::{Action, SqsAction, TopicRulePayload};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;

use super::{PREFIX, QUEUE, Rule};
use crate::aws::Clients;

/// The mirrored topics: all messages of clients, and those of AWS IoT about new certificates, connections and shadows,
/// which `#` does not match.
const TOPICS: [(&str, &str); 7] = [
    ("messages", "#"),
    ("registered", "$aws/events/certificates/registered/+"),
    ("presence", "$aws/events/presence/+/+"),
    ("shadows", "$aws/things/+/shadow/update/documents"),
    ("named_shadows", "$aws/things/+/shadow/name/+/update/documents"),
    ("deleted_shadows", "$aws/things/+/shadow/delete/accepted"),
    ("deleted_named_shadows", "$aws/things/+/shadow/name/+/delete/accepted"),
];

/// Adds a queue that subscribes to every topic. Returns its URL.
pub(super) async fn subscribe(clients: &Clients) -> Result<String> {
    // Even on a slow machine, no message may be received twice.
    let create =
        clients.sqs.create_queue().queue_name(QUEUE).attributes(QueueAttributeName::VisibilityTimeout, "43200");
    let created = create.send().await?;
    let url = created.queue_url().context("the queue has no URL")?.to_owned();
    let get = clients.sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
    let arn = get.send().await?.attributes().and_then(|all| all.get(&QueueAttributeName::QueueArn)).cloned();
    let arn = arn.context("the queue has no ARN")?;
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

/// Adds rules that mirror to a queue the messages, and the events that the rules in `mirrored` build from them.
pub(super) async fn add_rules(
    clients: &Clients,
    rules: &[Rule],
    mirrored: impl Iterator<Item = &Rule>,
    queue_url: &str,
) -> Result<()> {
    // AWS IoT must be able to assume the role. The local cloud does not check what it allows.
    let role = rules.iter().find_map(|rule| rule.role.as_ref()).context("no rule has an error action with a role")?;
    let add = async |name: &str, sql: &str| {
        let action = Action::builder().sqs(SqsAction::builder().queue_url(queue_url).role_arn(role).build()?).build();
        let payload = TopicRulePayload::builder().sql(sql).aws_iot_sql_version("2016-03-23").actions(action).build()?;
        let create = clients.iot.create_topic_rule().rule_name(format!("{PREFIX}_{name}"));
        create.topic_rule_payload(payload).send().await?;
        Ok::<_, anyhow::Error>(())
    };
    for (name, filter) in TOPICS {
        let sql = format!(
            "SELECT encode(*, 'base64') AS payloadBase64, topic() AS topic, clientid() AS clientId, \
             traceid() AS traceId, timestamp() AS observedAt FROM '{filter}'"
        );
        add(name, &sql).await?;
    }
    for rule in mirrored.filter(|rule| rule.function.is_some()) {
        add(&rule.name, &rule.sql).await?;
    }
    Ok(())
}
