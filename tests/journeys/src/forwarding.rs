//! `forward` sends messages to another account.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::Trial;
use local_cloud::deploy::{self, aws};
use local_cloud::destination::DestinationQueue;
use local_cloud::device::{Device, Published};
use local_cloud::fault_proxy::{Fault, FaultProxy};
use local_cloud::isolation::{Account, REGION};
use local_cloud::observer::{self, Effect, Observer, QueueMessage};
use local_cloud::tools;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("forward", "delivers_1000_messages_once_despite_faults", messages_despite_faults),
        suite.trial("forward", "keeps_messages_without_the_receivers_grant", receivers_grant),
        suite.trial("forward", "keeps_messages_without_the_senders_grant", senders_grant),
        suite.trial("forward", "can_invoke_a_function_of_another_account", function_destination),
    ]
}

const TOPIC: &str = "Weather/Corp/temperature";

/// The next account id of a receiver.
static RECEIVERS: AtomicU64 = AtomicU64::new(300_000_000_000);

async fn destination(suite: &Suite, is_fifo: bool) -> Result<DestinationQueue> {
    let account = Account::new(RECEIVERS.fetch_add(1, Ordering::Relaxed).to_string())?;
    Ok(DestinationQueue::new(suite.cloud().await?.as_ref(), account, "weather", is_fifo))
}

/// Deploys the sender and the receiver. Unless `is_granted`, the sender's role may only send to another queue.
async fn sender_and_receiver(suite: &Suite, is_fifo: bool, is_granted: bool) -> Result<(Stage, DestinationQueue)> {
    let queue = destination(suite, is_fifo).await?;
    let parameters = queue.parameters();
    let other_arns = parameters.iter().find(|(name, _)| *name == "ForwardDestinationQueueArns");
    let other_arns = other_arns.map(|(_, arn)| format!("{arn}-other")).context("the queue has no ARN parameter")?;
    let mut parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    if !is_granted {
        parameters.retain(|(name, _)| *name != "ForwardDestinationQueueArns");
        parameters.push(("ForwardDestinationQueueArns", &other_arns));
    }
    let stage = suite.stage_with(&parameters).await?;
    grant_as_shipped(&stage).await?;
    let role = stage.deployment.output("ForwardRoleName")?;
    queue.deploy(&stage.cloud, &stage.account, role).await?;
    Ok((stage, queue))
}

/// Grants the function `sqs:SendMessageBatch`, an action that only the local cloud has, on the queues of its statement
/// `Forward`, and on no others.
async fn grant_as_shipped(stage: &Stage) -> Result<()> {
    let role = stage.deployment.output("ForwardRoleName")?;
    let get = ["iam", "get-role-policy", "--role-name", role, "--policy-name", "forward"];
    let shipped: Value = serde_json::from_str(&aws(&stage.cloud, &stage.account, get).await?)?;
    let statements =
        shipped.pointer("/PolicyDocument/Statement").and_then(Value::as_array).context("there is no policy")?;
    let forward = statements.iter().find(|statement| statement.get("Sid") == Some(&json!("Forward")));
    match forward.and_then(|statement| statement.get("Resource")) {
        None => {
            let delete = ["iam", "delete-role-policy", "--role-name", role, "--policy-name", "local-cloud-only"];
            aws(&stage.cloud, &stage.account, delete).await.map(drop)
        }
        Some(resource) => grant(stage, resource).await,
    }
}

async fn grant(stage: &Stage, queues: &Value) -> Result<()> {
    let role = stage.deployment.output("ForwardRoleName")?;
    let statement =
        json!({"Effect": "Allow", "Action": ["sqs:SendMessage", "sqs:SendMessageBatch"], "Resource": queues});
    let document = json!({"Version": "2012-10-17", "Statement": [statement]});
    deploy::put_local_policy(&stage.cloud, &stage.account, role, &document).await
}

/// Waits until the function has handled its whole queue, and returns the messages in the destination queue.
async fn received(stage: &Stage, queue: &DestinationQueue) -> Result<Vec<QueueMessage>> {
    stage.queue_shrinks_to("ForwardQueueUrl", 0).await?;
    let mut all = Vec::new();
    loop {
        let some = queue.receive().await?;
        if some.is_empty() {
            return Ok(all);
        }
        all.extend(some);
    }
}

/// Waits until the function wants to retry this message. Returns the error.
async fn retry_error(stage: &Stage, event_id: &str) -> Result<String> {
    let function = stage.name("forward")?;
    let find = |observer: &Observer| {
        let effects = observer.effects(event_id, function).into_iter();
        effects.map(|timed| timed.effect).find_map(|effect| match effect {
            Effect::Retried { error } => Some(error),
            _ => None,
        })
    };
    stage.observer.until(find).await.context("the message was not retried")
}

/// Waits until a message is in the sender's dead-letter queue, and receives it.
async fn receive_dead_letter(stage: &Stage) -> Result<String> {
    let url = stage.output("forward", "DeadLetterQueueUrl")?;
    let receive = async || {
        let received = stage.clients.sqs.receive_message().queue_url(url).send().await?;
        Ok(received.messages.and_then(|messages| messages.into_iter().next()))
    };
    let message = stage.observer.poll(receive).await?.context("the message is not in the dead-letter queue")?;
    let delete = stage.clients.sqs.delete_message().queue_url(url);
    delete.set_receipt_handle(message.receipt_handle).send().await?;
    Ok(message.body.unwrap_or_default())
}

/// Publishes a message that fails without a grant. Returns the event id and the dead letter.
async fn publish_without_grant(
    stage: &Stage,
    queue: &DestinationQueue,
    device: &mut Device,
    payload: &[u8],
) -> Result<(String, String)> {
    // With the deployed timeout, five attempts take twenty minutes.
    stage.redeliver_after("forward", 2).await?;
    let event_id = stage.publish(device, TOPIC, payload).await?;
    let error = retry_error(stage, &event_id).await?;
    let (name, account) = (queue.queue_name(), queue.account().id());
    for part in [&format!("queue {name} of account {account}"), "likely missing"] {
        ensure!(error.contains(part), "`{part}` is not in the error: {error}");
    }
    let dead_letter = receive_dead_letter(stage).await?;
    let event: Value = serde_json::from_str(&dead_letter)?;
    ensure!(
        event.get("traceId") == Some(&json!(event_id)),
        "another message is in the dead-letter queue: {dead_letter}"
    );
    let stored = event.get("payloadBase64").and_then(Value::as_str).context("no payload")?;
    ensure!(BASE64_STANDARD.decode(stored)? == payload, "the payload was modified: {dead_letter}");
    ensure!(queue.receive().await?.is_empty(), "the other account received a message");
    Ok((event_id, dead_letter))
}

/// Redrives a dead letter once both sides grant access: the other account must receive it.
async fn redrive(
    stage: &Stage,
    queue: &DestinationQueue,
    (event_id, dead_letter): (String, String),
    payload: &[u8],
) -> Result<()> {
    // Longer than the function's timeout, because the message must arrive only once.
    stage.redeliver_after("forward", 60).await?;
    let url = stage.output("forward", "QueueUrl")?;
    stage.clients.sqs.send_message().queue_url(url).message_body(dead_letter).send().await?;
    let [message] = received(stage, queue)
        .await?
        .try_into()
        .map_err(|all: Vec<_>| anyhow::anyhow!("received {} messages", all.len()))?;
    ensure!(message.body.as_bytes() == payload, "the forwarded body differs: {}", message.body);
    ensure!(message.attributes.get("traceId") == Some(&event_id), "another message was forwarded");
    Ok(())
}

async fn receivers_grant(suite: Arc<Suite>) -> Result<()> {
    let (stage, queue) = sender_and_receiver(&suite, false, true).await?;
    let mut device = stage.device_with_policy("station-1", "PublisherPolicy").await?;

    let payload = br#"{"celsius": 22.50}"#;
    let event_id = stage.publish(&mut device, TOPIC, payload).await?;
    let message = received(&stage, &queue).await?;
    let [message] = message.as_slice() else { bail!("{} messages were forwarded", message.len()) };
    ensure!(message.body.as_bytes() == payload, "the forwarded body differs: {}", message.body);
    let mut attributes = message.attributes.clone();
    let received_at: u64 = attributes.remove("receivedAt").context("there is no receivedAt")?.parse()?;
    ensure!(observer::now().abs_diff(received_at) < 60_000, "receivedAt is {received_at}");
    let expected =
        [("contentType", "application/json"), ("thing", "station-1"), ("topic", TOPIC), ("traceId", event_id.as_str())];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ensure!(attributes == BTreeMap::from(expected), "the attributes are {attributes:?}");

    // A device without the publisher policy must not publish.
    let mut other = stage.device("station-2").await?;
    let (_, published) = other.publish(TOPIC, &[payload]).await?;
    ensure!(published == Published::Denied, "a device without the publisher policy published");
    // A publisher must not publish on a topic that no rule matches.
    let (_, published) = device.publish("Weather/Corp/roof/temperature", &[payload]).await?;
    ensure!(published == Published::Denied, "a message was accepted that no rule matches");

    let role = stage.deployment.output("ForwardRoleName")?;
    let replace = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        move |policy: &mut Value| {
            let changed = policy.to_string().replace(&from, &to);
            *policy = serde_json::from_str(&changed).unwrap_or_default();
        }
    };
    queue.change_policy(replace(role, "another-role")).await?;
    let payload = br#"{"celsius": 23.75}"#;
    let dead_letter = publish_without_grant(&stage, &queue, &mut device, payload).await?;
    queue.change_policy(replace("another-role", role)).await?;
    redrive(&stage, &queue, dead_letter, payload).await
}

async fn senders_grant(suite: Arc<Suite>) -> Result<()> {
    let (stage, queue) = sender_and_receiver(&suite, false, false).await?;
    let mut device = stage.device_with_policy("station-1", "PublisherPolicy").await?;
    let payload = br#"{"celsius": -4}"#;
    let dead_letter = publish_without_grant(&stage, &queue, &mut device, payload).await?;
    grant(&stage, &json!(queue.queue_arn())).await?;
    redrive(&stage, &queue, dead_letter, payload).await
}

/// The local cloud does not invoke functions of other accounts, so this checks the rule and the permission.
async fn function_destination(suite: Arc<Suite>) -> Result<()> {
    let queue = destination(&suite, false).await?;
    let arn = queue.create_function(suite.cloud().await?, "forecast").await?;
    let stage = suite.stage_with(&[("ForwardDestinationFunctionArn", &arn)]).await?;
    let rule = stage.deployment.output("ForwardLambdaRule")?;
    let template = deploy::read(&tools::root().join("infra/forward-lambda-destination.yaml"))?;
    let parameters = [("FunctionName", "forecast"), ("SenderAccountId", stage.account.id()), ("SenderRuleName", rule)];
    deploy::deploy_stack(&stage.cloud, queue.account(), &template, "forecast-corp", &parameters).await?;

    let rule_of = async |output: &str| {
        let found = stage.clients.iot.get_topic_rule().rule_name(stage.deployment.output(output)?).send().await?;
        found.rule.context("there is no rule")
    };
    ensure!(rule_of("ForwardRule").await?.rule_disabled == Some(true), "the queue rule is enabled");
    let found = rule_of("ForwardLambdaRule").await?;
    let invoked: Vec<_> = found.actions().iter().map(|action| Some(action.lambda()?.function_arn())).collect();
    ensure!(found.rule_disabled == Some(false) && invoked == [Some(arn.as_str())], "the rule is {found:?}");
    ensure!(found.error_action.is_some_and(|action| action.sqs.is_some()), "the rule has no error action");

    let policy = queue.clients.lambda.get_policy().function_name("forecast").send().await?;
    let mut policy: Value = serde_json::from_str(policy.policy().context("there is no policy")?)?;
    let sender = stage.account.id();
    let expected = json!({
        "Effect": "Allow",
        "Principal": {"Service": "iot.amazonaws.com"},
        "Action": "lambda:InvokeFunction",
        "Resource": arn,
        "Condition": {
            "StringEquals": {"AWS:SourceAccount": sender},
            "ArnLike": {"AWS:SourceArn": format!("arn:aws:iot:{REGION}:{sender}:rule/{rule}")},
        },
    });
    let mut statements = policy.get_mut("Statement").and_then(Value::as_array_mut).into_iter().flatten();
    let statement = statements.next().and_then(Value::as_object_mut).context("the policy has no statement")?;
    statement.remove("Sid");
    ensure!(json!(statement) == expected && statements.next().is_none(), "the function's policy is {policy}");
    Ok(())
}

async fn messages_despite_faults(suite: Arc<Suite>) -> Result<()> {
    use Fault::{Hangs, KilledAfter, KilledBefore, LostRequest, LostResponse, PartialFailure, ServerError, Throttled};
    const DEVICES: usize = 10;
    const EACH: usize = 100;
    let (stage, queue) = sender_and_receiver(&suite, true, true).await?;
    let proxy = FaultProxy::start(&stage.cloud).await?;
    stage.put_behind(&proxy, "forward").await?;
    // Longer than the function's timeout.
    stage.redeliver_after("forward", 8).await?;
    let series = [
        [PartialFailure, LostResponse, PartialFailure, Throttled, PartialFailure, ServerError, PartialFailure]
            .as_slice(),
        &[KilledAfter, PartialFailure, LostRequest, PartialFailure, LostResponse, PartialFailure, KilledBefore],
        &[PartialFailure, Hangs, PartialFailure, PartialFailure],
    ];
    let series = series.concat();
    proxy.fail_alternate_calls("SendMessageBatch", series.iter().copied());

    let mut publishing = JoinSet::new();
    for number in 0..DEVICES {
        let mut device = stage.device_with_policy(&format!("station-{number}"), "PublisherPolicy").await?;
        publishing.spawn(async move {
            let payloads: Vec<_> = (0..EACH).map(|seq| json!({"seq": seq}).to_string().into_bytes()).collect();
            for chunk in payloads.chunks(50) {
                let chunk: Vec<&[u8]> = chunk.iter().map(Vec::as_slice).collect();
                let (_, published) = device.publish(TOPIC, &chunk).await?;
                ensure!(published == Published::Accepted, "AWS IoT denied a message");
            }
            Ok(())
        });
    }
    while let Some(done) = publishing.join_next().await {
        done??;
    }
    // Messages of a killed function are redelivered to it, and must not reach the destination twice.
    let all = received(&stage, &queue).await?;
    let mut counts: HashMap<(String, u64), usize> = HashMap::new();
    for QueueMessage { body, attributes, .. } in &all {
        let body: Value = serde_json::from_str(body)?;
        let seq = body.get("seq").and_then(Value::as_u64).context("the body has no number")?;
        let thing = attributes.get("thing").context("there is no thing attribute")?;
        *counts.entry((thing.clone(), seq)).or_default() += 1;
    }
    let duplicates: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(duplicates.is_empty(), "duplicates: {duplicates:?}");
    ensure!(counts.len() == DEVICES * EACH, "{} of {} messages were received", counts.len(), DEVICES * EACH);
    let dead = stage.queue_length("ForwardDeadLetterQueueUrl").await?;
    ensure!(dead == 0, "{dead} messages are in the dead-letter queue");
    ensure!(proxy.is_exhausted(), "not all faults were injected");
    let failed = proxy.calls().iter().filter(|call| call.fault.is_some()).count();
    ensure!(failed == series.len(), "{failed} calls failed");
    // Invocations that were killed report no counts.
    let total = stage.observer.total(stage.name("forward")?);
    eprintln!(
        "forward: {} messages published, {} received, {failed} of {} calls failed, {} messages retried",
        DEVICES * EACH,
        all.len(),
        proxy.calls().len(),
        total.retried,
    );
    ensure!(total.refused == 0, "{} messages were refused", total.refused);
    Ok(())
}
