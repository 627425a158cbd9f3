//! What neighbours get: messages in another account, who is there and who is not, and the state of devices.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_sqs::types::QueueAttributeName;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use local_cloud::deploy::{self, aws};
use local_cloud::device::{Device, Identity, Published, Subscribed};
use local_cloud::fault_proxy::{Fault, FaultProxy};
use local_cloud::isolation::{Account, REGION};
use local_cloud::observer::{Effect, Observer, Notification};
use local_cloud::destination::{Forwarded, Partner};
use local_cloud::tools;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::stage::{LIMIT, Stage, Suite};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial(
            "forward: of 1,000 messages none is lost and none is there twice while entries and calls fail",
            many,
        ),
        suite.trial("forward: another account gets a message whole, and without its grant nothing is lost", receivers),
        suite.trial(
            "forward: without the sender's own grant another account gets nothing, and nothing is lost",
            senders,
        ),
        suite.trial(
            "forward: another account's function is invoked in place of the queue where it alone is named",
            functions,
        ),
        suite.trial(
            "presence: a device that stays away is told once, its return too, and a short absence not",
            presence,
        ),
        suite.trial("shadow: the newest state of classic and named shadows is held, and their deletion", shadows),
    ]
}

/// How long everything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

const TOPIC: &str = "Weather/Corp/temperature";

/// Receivers' accounts.
static PARTNERS: AtomicU64 = AtomicU64::new(300_000_000_000);

async fn partner(suite: &Suite, is_fifo: bool) -> Result<Partner> {
    let account = Account::new(PARTNERS.fetch_add(1, Ordering::Relaxed).to_string())?;
    Ok(Partner::new(suite.cloud().await?.as_ref(), account, is_fifo))
}

/// The sender's side, told of the receiver's queue, and the receiver's side. Without `is_granted` the sender's role may
/// not send there.
async fn neighbours(suite: &Suite, is_fifo: bool, is_granted: bool) -> Result<(Stage, Partner)> {
    let partner = partner(suite, is_fifo).await?;
    let parameters = partner.parameters();
    let mut parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    parameters.retain(|(name, _)| is_granted || *name != "ForwardDestinationQueueArns");
    let stage = suite.stage_with(&parameters).await?;
    grant_as_shipped(&stage).await?;
    let role = stage.deployment.output("ForwardRoleName")?;
    partner.deploy(&stage.cloud, &stage.account, role).await?;
    Ok((stage, partner))
}

/// Lets the function send batches, which the local cloud takes for an action of its own, where its shipped policy lets it
/// send, and nowhere else.
async fn grant_as_shipped(stage: &Stage) -> Result<()> {
    let role = stage.deployment.output("ForwardRoleName")?;
    let get = ["iam", "get-role-policy", "--role-name", role, "--policy-name", "forward"];
    let shipped: Value = serde_json::from_str(&aws(&stage.cloud, &stage.account, get).await?)?;
    let statements = shipped.pointer("/PolicyDocument/Statement").and_then(Value::as_array).context("no policy")?;
    let is_send = |statement: &&Value| statement.get("Action") == Some(&json!("sqs:SendMessage"));
    let resources: Vec<_> =
        statements.iter().filter(is_send).filter_map(|statement| statement.get("Resource")).cloned().collect();
    match resources.as_slice() {
        [] => {
            let delete = ["iam", "delete-role-policy", "--role-name", role, "--policy-name", "local-cloud-only"];
            aws(&stage.cloud, &stage.account, delete).await.map(drop)
        }
        [resource] => grant(stage, resource).await,
        more => anyhow::bail!("the shipped policy lets it send in {} statements", more.len()),
    }
}

async fn grant(stage: &Stage, queues: &Value) -> Result<()> {
    let role = stage.deployment.output("ForwardRoleName")?;
    let statement =
        json!({"Effect": "Allow", "Action": ["sqs:SendMessage", "sqs:SendMessageBatch"], "Resource": queues});
    let document = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
    let put = ["iam", "put-role-policy", "--role-name", role, "--policy-name", "local-cloud-only"];
    let put = put.into_iter().chain(["--policy-document", &document]);
    aws(&stage.cloud, &stage.account, put).await.map(drop)
}

/// A device that may publish the weather.
async fn publisher(stage: &Stage, thing: &str) -> Result<Device> {
    let policy = stage.deployment.output("PublisherPolicy")?;
    Ok(Device::new(&stage.cloud, Identity::register(&stage.clients, thing, policy).await?))
}

/// Waits for so many messages in the partner's queue, and a little for one too many.
async fn received(partner: &Partner, count: usize) -> Result<Vec<Forwarded>> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    loop {
        let some = partner.receive().await?;
        let is_empty = some.is_empty();
        all.extend(some);
        if (is_empty && all.len() >= count) || Instant::now() >= deadline {
            return Ok(all);
        }
    }
}

/// How many messages a queue has, those that are out among them.
async fn waiting(stage: &Stage, queue: &str) -> Result<u64> {
    let names =
        [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible];
    let asked = stage.clients.sqs.get_queue_attributes().queue_url(stage.deployment.output(queue)?);
    let answer = asked.set_attribute_names(Some(names.to_vec())).send().await?;
    let number = |name| -> Result<u64> {
        Ok(answer.attributes().and_then(|all| all.get(name)).context("a queue without a number")?.parse()?)
    };
    names.iter().map(number).sum()
}

/// What the function said when it handed this message back.
async fn handed_back(stage: &Stage, event_id: &str) -> Result<String> {
    let look = |observer: &Observer| {
        let effects = observer.effects(event_id).into_iter();
        effects.map(|timed| timed.effect).find_map(|effect| match effect {
            Effect::Retried { error } => Some(error),
            _ => None,
        })
    };
    stage.observer.until(Instant::now() + LIMIT, look).await.context("the message was not handed back")
}

/// Waits until the message that was refused is in the sender's dead-letter queue, and takes it out.
async fn dead_letter(stage: &Stage) -> Result<String> {
    let url = stage.output("forward", "DeadLetterQueueUrl")?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let received = stage.clients.sqs.receive_message().queue_url(url).wait_time_seconds(1).send().await?;
        if let [message] = received.messages() {
            let delete = stage.clients.sqs.delete_message().queue_url(url);
            delete.set_receipt_handle(message.receipt_handle.clone()).send().await?;
            return Ok(message.body().unwrap_or_default().to_owned());
        }
        ensure!(Instant::now() < deadline, "the message is not in the dead-letter queue");
    }
}

/// Publishes a message that is refused for want of a grant; the event's id, and the message as it ended.
async fn refused(stage: &Stage, partner: &Partner, device: &mut Device, payload: &[u8]) -> Result<(String, String)> {
    // The function's calls are over in milliseconds; as deployed, five tries take twenty minutes.
    stage.clients.redeliver_after(stage.output("forward", "QueueUrl")?, 2).await?;
    let event_id = stage.publish(device, TOPIC, payload).await?;
    let said = handed_back(stage, &event_id).await?;
    let (queue, account) = (partner.queue_name(), partner.account().id());
    for part in [&format!("queue {queue} of account {account}"), "likely missing"] {
        ensure!(said.contains(part), "the log does not say `{part}`: {said}");
    }
    let dead = dead_letter(stage).await?;
    let event: Value = serde_json::from_str(&dead)?;
    ensure!(event.get("traceId") == Some(&json!(event_id)), "another message is in the dead-letter queue: {dead}");
    let kept = event.get("payloadBase64").and_then(Value::as_str).context("no payload")?;
    ensure!(BASE64_STANDARD.decode(kept)? == payload, "it is not whole: {dead}");
    ensure!(partner.receive().await?.is_empty(), "the other account got something");
    Ok((event_id, dead))
}

/// Puts a dead letter back, once both sides allow it: the other account gets it.
async fn put_back(
    stage: &Stage,
    partner: &Partner,
    (event_id, letter): (String, String),
    payload: &[u8],
) -> Result<()> {
    let queue = stage.output("forward", "QueueUrl")?;
    // Longer than a busy machine takes: it must come once.
    stage.clients.redeliver_after(queue, 60).await?;
    stage.clients.sqs.send_message().queue_url(queue).message_body(letter).send().await?;
    let [message] = received(partner, 1).await?.try_into().map_err(|all: Vec<_>| anyhow::anyhow!("{}", all.len()))?;
    ensure!(message.body.as_bytes() == payload, "another body was forwarded: {}", message.body);
    ensure!(message.attributes.get("traceId") == Some(&event_id), "another message was forwarded");
    Ok(())
}

async fn receivers(suite: Arc<Suite>) -> Result<()> {
    let (stage, partner) = neighbours(&suite, false, true).await?;
    let mut device = publisher(&stage, "station-1").await?;

    let payload = br#"{"celsius": 22.50}"#;
    let event_id = stage.publish(&mut device, TOPIC, payload).await?;
    let message = received(&partner, 1).await?;
    let [message] = message.as_slice() else { anyhow::bail!("{} messages were forwarded", message.len()) };
    ensure!(message.body.as_bytes() == payload, "another body was forwarded: {}", message.body);
    let mut attributes = message.attributes.clone();
    let received_at: u64 = attributes.remove("receivedAt").context("no time")?.parse()?;
    ensure!(local_cloud::observer::now().abs_diff(received_at) < 60_000, "it was received at {received_at}");
    let expected =
        [("contentType", "application/json"), ("thing", "station-1"), ("topic", TOPIC), ("traceId", event_id.as_str())];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ensure!(attributes == BTreeMap::from(expected), "its attributes are {attributes:?}");

    // A device of another kind may not publish the weather.
    let mut other = stage.device("station-2").await?;
    let (_, published) = other.publish(TOPIC, &[payload]).await?;
    ensure!(published == Published::Denied, "a device without the publishers' policy published the weather");
    // Nor may a station publish where no rule listens.
    let (_, published) = device.publish("Weather/Corp/roof/temperature", &[payload]).await?;
    ensure!(published == Published::Denied, "a message was accepted that no rule takes");

    let role = stage.deployment.output("ForwardRoleName")?;
    let replace = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        move |policy: &mut Value| {
            let changed = policy.to_string().replace(&from, &to);
            *policy = serde_json::from_str(&changed).unwrap_or_default();
        }
    };
    partner.change_policy(replace(role, "another-role")).await?;
    let payload = br#"{"celsius": 23.75}"#;
    let letter = refused(&stage, &partner, &mut device, payload).await?;
    partner.change_policy(replace("another-role", role)).await?;
    put_back(&stage, &partner, letter, payload).await
}

async fn senders(suite: Arc<Suite>) -> Result<()> {
    let (stage, partner) = neighbours(&suite, false, false).await?;
    let mut device = publisher(&stage, "station-1").await?;
    let payload = br#"{"celsius": -4}"#;
    let letter = refused(&stage, &partner, &mut device, payload).await?;
    grant(&stage, &json!(partner.queue_arn())).await?;
    put_back(&stage, &partner, letter, payload).await
}

/// The local cloud invokes no function of another account: the rule and the permission are looked at.
async fn functions(suite: Arc<Suite>) -> Result<()> {
    let partner = partner(&suite, false).await?;
    let arn = partner.make_function(suite.cloud().await?, "forecast").await?;
    let stage = suite.stage_with(&[("ForwardDestinationFunctionArn", &arn)]).await?;
    let rule = stage.deployment.output("ForwardLambdaRule")?;
    let template = tools::root().join("infra/forward-lambda-destination.yaml");
    let parameters = [("FunctionName", "forecast"), ("SenderAccountId", stage.account.id()), ("SenderRuleName", rule)];
    deploy::deploy_stack(&stage.cloud, partner.account(), &template, "forecast-corp", &parameters).await?;

    let look = async |output: &str| {
        let found = stage.clients.iot.get_topic_rule().rule_name(stage.deployment.output(output)?).send().await?;
        found.rule.context("no rule")
    };
    ensure!(look("ForwardRule").await?.rule_disabled == Some(true), "the function gets what it can only refuse");
    let found = look("ForwardLambdaRule").await?;
    let invoked: Vec<_> = found.actions().iter().map(|action| Some(action.lambda()?.function_arn())).collect();
    ensure!(found.rule_disabled == Some(false) && invoked == [Some(arn.as_str())], "the rule is {found:?}");
    ensure!(found.error_action.is_some_and(|action| action.sqs.is_some()), "what the function does not get is lost");

    let policy = partner.clients.lambda.get_policy().function_name("forecast").send().await?;
    let mut policy: Value = serde_json::from_str(policy.policy().context("no policy")?)?;
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
    let statement = statements.next().and_then(Value::as_object_mut).context("no statement")?;
    statement.remove("Sid");
    ensure!(json!(statement) == expected && statements.next().is_none(), "the function's policy is {policy}");
    Ok(())
}

async fn many(suite: Arc<Suite>) -> Result<()> {
    use Fault::{Failed, Hangs, KilledAfter, KilledBefore, LostResponse, LostRequest, PartialFailure, Throttled};
    const DEVICES: usize = 10;
    const EACH: usize = 100;
    let (stage, partner) = neighbours(&suite, true, true).await?;
    let proxy = FaultProxy::start(&stage.cloud).await?;
    stage.put_behind(&proxy, "forward").await?;
    // Longer than the function's time-out, and short enough to see the end of it.
    stage.clients.redeliver_after(stage.output("forward", "QueueUrl")?, 8).await?;
    let series = [
        [PartialFailure, LostResponse, PartialFailure, Throttled, PartialFailure, Failed, PartialFailure].as_slice(),
        &[KilledAfter, PartialFailure, LostRequest, PartialFailure, LostResponse, PartialFailure, KilledBefore],
        &[PartialFailure, Hangs, PartialFailure, PartialFailure],
    ];
    let series = series.concat();
    proxy.fail_alternate_calls("SendMessageBatch", series.iter().copied());

    let mut publishing = JoinSet::new();
    for number in 0..DEVICES {
        let mut device = publisher(&stage, &format!("station-{number}")).await?;
        publishing.spawn(async move {
            let payloads: Vec<_> = (0..EACH).map(|seq| json!({"seq": seq}).to_string().into_bytes()).collect();
            for some in payloads.chunks(50) {
                let some: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
                let (_, published) = device.publish(TOPIC, &some).await?;
                ensure!(published == Published::Accepted, "AWS IoT turned the weather away");
            }
            Ok(())
        });
    }
    while let Some(done) = publishing.join_next().await {
        done??;
    }
    let mut all = received(&partner, DEVICES * EACH).await?;
    // What the function was killed over comes to it again, and must not come to the partner again.
    let deadline = Instant::now() + PATIENCE;
    while waiting(&stage, "ForwardQueueUrl").await? > 0 {
        ensure!(Instant::now() < deadline, "messages are still in the queue");
        sleep(Duration::from_millis(500)).await;
    }
    all.extend(received(&partner, 0).await?);
    let mut counts: HashMap<(String, u64), usize> = HashMap::new();
    for Forwarded { body, attributes, .. } in &all {
        let body: Value = serde_json::from_str(body)?;
        let seq = body.get("seq").and_then(Value::as_u64).context("another body")?;
        let thing = attributes.get("thing").context("no thing")?;
        *counts.entry((thing.clone(), seq)).or_default() += 1;
    }
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(twice.is_empty(), "these are there more than once: {twice:?}");
    ensure!(counts.len() == DEVICES * EACH, "{} of {} are there", counts.len(), DEVICES * EACH);
    let dead = waiting(&stage, "ForwardDeadLetterQueueUrl").await?;
    ensure!(dead == 0, "{dead} messages are in the dead-letter queue");
    ensure!(proxy.is_exhausted(), "the faults did not come to an end");
    let struck = proxy.calls().iter().filter(|call| call.fault.is_some()).count();
    ensure!(struck == series.len(), "{struck} calls went wrong");
    // Those of invocations that were killed are not among the function's own counts.
    let total = stage.observer.total(stage.name("forward")?);
    eprintln!(
        "forward run: {} messages published, {} received, {struck} of {} calls struck, {} messages handed back",
        DEVICES * EACH,
        all.len(),
        proxy.calls().len(),
        total.retried,
    );
    ensure!(total.refused == 0, "{} messages were refused", total.refused);
    Ok(())
}

type Item = HashMap<String, AttributeValue>;

/// Waits until a thing's record in the devices table is as it must be.
async fn record(stage: &Stage, thing: &str, part: &str, is_it: impl Fn(&Item) -> bool) -> Result<Item> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let get = stage.clients.dynamodb.get_item().table_name(stage.deployment.output("DevicesTable")?);
        let get = get.key("id", AttributeValue::S(format!("thing#{thing}")));
        let found = get.key("part", AttributeValue::S(part.to_owned())).consistent_read(true).send().await?.item;
        match found {
            Some(item) if is_it(&item) => return Ok(item),
            other => ensure!(Instant::now() < deadline, "the record {part} of {thing} is {other:?}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn is_true(item: &Item, name: &str) -> bool {
    item.get(name) == Some(&AttributeValue::Bool(true))
}

/// What was told of a device's absences and returns.
fn told_of(observer: &Observer, thing: &str) -> Vec<Notification> {
    let is_it = |told: &Notification| {
        told.attributes.contains_key("presence") && told.attributes.get("thing").is_some_and(|of| of == thing)
    };
    observer.notifications().into_iter().filter(is_it).collect()
}

async fn presence(suite: Arc<Suite>) -> Result<()> {
    const GRACE: Duration = Duration::from_secs(5);
    let stage = suite.stage().await?;
    let words = || {
        let told = told_of(&stage.observer, "buoy");
        told.into_iter().map(|told| told.attributes.get("presence").cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let until_told = async |count: usize| {
        let look = |observer: &Observer| (told_of(observer, "buoy").len() >= count).then_some(());
        stage.observer.until(Instant::now() + LIMIT, look).await.context("nobody was told")
    };
    let mut buoy = stage.device("buoy").await?;
    buoy.connect().await?;
    let first = record(&stage, "buoy", "presence", |item| is_true(item, "connected")).await?;
    ensure!(text(&first, "sessionIdentifier").is_some() && first.contains_key("since"), "the record is {first:?}");

    // A short absence.
    buoy.disconnect();
    let gone = record(&stage, "buoy", "presence", |item| !is_true(item, "connected")).await?;
    ensure!(text(&gone, "disconnectReason") == Some("CONNECTION_LOST"), "the record is {gone:?}");
    buoy.connect().await?;
    let second = record(&stage, "buoy", "presence", |item| is_true(item, "connected")).await?;
    ensure!(text(&second, "sessionIdentifier") != text(&first, "sessionIdentifier"), "the session is the same");
    sleep(GRACE + Duration::from_secs(3)).await;
    ensure!(words().is_empty(), "of a short absence was told {:?}", words());

    // A long one.
    let skip = stage.observer.system_messages(0).len();
    buoy.disconnect();
    until_told(1).await?;
    ensure!(words() == ["away"], "of an absence was told {:?}", words());
    let away = record(&stage, "buoy", "presence", |item| item.contains_key("awaySince")).await?;
    ensure!(!is_true(&away, "connected"), "the record is {away:?}");

    // AWS IoT tells the same again, and late of what was before.
    let told = stage.observer.system_messages(0);
    let is_presence = |topic: &str| topic.starts_with("$aws/events/presence/") && topic.ends_with("/buoy");
    ensure!(told.iter().skip(skip).any(|event| is_presence(&event.topic)), "AWS IoT told nothing of it");
    for event in told.iter().filter(|event| is_presence(&event.topic)) {
        let payload: Value = serde_json::from_slice(&event.payload)?;
        let again = json!({
            "payload": payload,
            "thing": "buoy",
            "topic": event.topic,
            "traceId": format!("{}-again", event.trace_id),
            "receivedAt": local_cloud::observer::now(),
        });
        let send = stage.clients.sqs.send_message().queue_url(stage.output("presence", "QueueUrl")?);
        send.message_body(again.to_string()).send().await?;
    }
    sleep(GRACE + Duration::from_secs(3)).await;
    ensure!(words() == ["away"], "of what was told again was told {:?}", words());
    let still = record(&stage, "buoy", "presence", |item| !is_true(item, "connected")).await?;
    ensure!(text(&still, "sessionIdentifier") == text(&away, "sessionIdentifier"), "the record is {still:?}");

    buoy.connect().await?;
    until_told(2).await?;
    record(&stage, "buoy", "presence", |item| is_true(item, "connected") && !item.contains_key("awaySince")).await?;
    sleep(Duration::from_secs(2)).await;
    ensure!(words() == ["away", "back"], "was told {:?}", words());
    ensure!(waiting(&stage, "PresenceDeadLetterQueueUrl").await? == 0, "an event is in the dead-letter queue");
    Ok(())
}

async fn shadows(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let mut lamp = stage.device("lamp").await?;
    let subscribed = lamp.subscribe("$aws/things/lamp/shadow/update/delta").await?;
    ensure!(subscribed == Subscribed::Granted, "it may not hear what it is to change");
    let all = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]});
    stage.clients.iot.create_policy().policy_name("all").policy_document(all.to_string()).send().await?;
    let mut ear = Device::new(&stage.cloud, Identity::register(&stage.clients, "ear", "all").await?);
    let subscribed = ear.subscribe("shadow/${topic(3)}/delta").await?;
    ensure!(subscribed == Subscribed::Granted, "it may not hear the short form");
    let is = |item: &Item, name: &str, state: &Value| {
        text(item, name).and_then(|text| serde_json::from_str::<Value>(text).ok()).as_ref() == Some(state)
    };
    let publish = async |lamp: &mut Device, topic: &str, state: Value| {
        let payload = state.to_string();
        let (_, published) = lamp.publish(&format!("$aws/things/lamp/shadow/{topic}"), &[payload.as_bytes()]).await?;
        ensure!(published == Published::Accepted, "AWS IoT turned an update away");
        Ok(())
    };
    let off = json!({"lamp": "off"});
    let on = json!({"lamp": "on"});

    publish(&mut lamp, "update", json!({"state": {"reported": off}})).await?;
    let held = record(&stage, "lamp", "shadow#", |item| is(item, "reported", &off)).await?;
    ensure!(!held.contains_key("desired"), "the record is {held:?}");

    // An operator wants it on; it hears of that, and does it.
    let desired = Blob::new(json!({"state": {"desired": on}}).to_string());
    stage.clients.iot_data.update_thing_shadow().thing_name("lamp").payload(desired).send().await?;
    let delta = lamp.receive(Instant::now() + LIMIT).await?.context("it did not hear what it is to change")?;
    let delta: Value = serde_json::from_slice(&delta.payload)?;
    ensure!(delta.get("state") == Some(&on), "it is to change {delta}");
    // And in short; the local cloud puts no name into the topic.
    let short = ear.receive(Instant::now() + LIMIT).await?.context("nobody heard the short form")?;
    let short: Value = serde_json::from_slice(&short.payload)?;
    ensure!(short == json!({"state": on, "version": 2}), "the short form is {short}");
    let subscribed = lamp.subscribe("shadow/lamp/delta").await?;
    ensure!(subscribed == Subscribed::Granted, "it may not hear the short form");
    record(&stage, "lamp", "shadow#", |item| is(item, "desired", &on) && is(item, "reported", &off)).await?;
    publish(&mut lamp, "update", json!({"state": {"reported": on}})).await?;
    let held = record(&stage, "lamp", "shadow#", |item| is(item, "desired", &on) && is(item, "reported", &on)).await?;
    let version = |item: &Item| item.get("shadowVersion").and_then(|version| version.as_n().ok()?.parse::<u64>().ok());
    ensure!(version(&held) == Some(3), "the record is {held:?}");

    // A named one is kept beside it.
    let firmware = json!({"version": "1.4.2"});
    publish(&mut lamp, "name/firmware/update", json!({"state": {"reported": firmware}})).await?;
    let named = record(&stage, "lamp", "shadow#firmware", |item| is(item, "reported", &firmware)).await?;
    ensure!(version(&named) == Some(1), "the record is {named:?}");

    // What comes late changes nothing.
    let told =
        stage.observer.system_messages(0).into_iter().filter(|told| told.topic == "$aws/things/lamp/shadow/update/documents");
    let first = told.min_by_key(|told| told.at).context("AWS IoT told nothing of the shadow")?;
    let late = json!({
        "payload": serde_json::from_slice::<Value>(&first.payload)?,
        "thing": "lamp",
        "topic": first.topic,
        "traceId": "late",
        "receivedAt": local_cloud::observer::now(),
    });
    let send = stage.clients.sqs.send_message().queue_url(stage.output("shadow", "QueueUrl")?);
    send.message_body(late.to_string()).send().await?;
    stage.done("late", 1).await?;
    let held = record(&stage, "lamp", "shadow#", |_| true).await?;
    ensure!(is(&held, "reported", &on) && version(&held) == Some(3), "the record is {held:?}");

    // Deletions, and a shadow that is made anew.
    let (_, published) = lamp.publish("$aws/things/lamp/shadow/delete", &[b""]).await?;
    ensure!(published == Published::Accepted, "AWS IoT turned a deletion away");
    let gone = record(&stage, "lamp", "shadow#", |item| is_true(item, "deleted")).await?;
    ensure!(!gone.contains_key("desired") && !gone.contains_key("reported"), "the record is {gone:?}");
    let (_, published) = lamp.publish("$aws/things/lamp/shadow/name/firmware/delete", &[b""]).await?;
    ensure!(published == Published::Accepted, "AWS IoT turned a deletion away");
    record(&stage, "lamp", "shadow#firmware", |item| is_true(item, "deleted")).await?;
    publish(&mut lamp, "update", json!({"state": {"reported": off}})).await?;
    let anew = record(&stage, "lamp", "shadow#", |item| !is_true(item, "deleted")).await?;
    ensure!(is(&anew, "reported", &off) && version(&anew) > version(&held), "the record is {anew:?}");
    ensure!(waiting(&stage, "ShadowDeadLetterQueueUrl").await? == 0, "an event is in the dead-letter queue");
    Ok(())
}
