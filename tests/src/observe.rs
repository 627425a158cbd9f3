//! Watches what happens in an account of the local cloud: what devices published, what topics told, and what functions
//! logged.
//!
//! For that it adds to the account, beside what was deployed, rules that copy messages to queues, and a queue that is
//! subscribed to every topic. And it stands in for AWS where the local cloud falls short: an event that a rule's function
//! handed back is given to it again. Where a queue is between the two, the queue does that itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_sdk_cloudwatchlogs::operation::filter_log_events::FilterLogEventsError;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iot::types::{Action, SqsAction, TopicRulePayload};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{EventSourceMappingConfiguration, InvocationType};
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::aws::Clients;
use crate::partner::{Forwarded, Partner};
use crate::scenario::Held;

/// What this crate adds to an account begins so.
const OWN: &str = "observer";

/// How often functions' logs are read.
const PAUSE: Duration = Duration::from_millis(100);

/// How long an event that was handed back rests. In AWS it is a minute.
const REST: Duration = Duration::from_secs(1);

/// What is copied of what reaches AWS IoT: all that devices publish, and of what AWS IoT itself tells, which `#` does
/// not hear, certificates that are new to it, who connects and disconnects, and what becomes of device shadows.
const COPIED: [(&str, &str); 7] = [
    ("messages", "#"),
    ("registered", "$aws/events/certificates/registered/+"),
    ("presence", "$aws/events/presence/+/+"),
    ("shadows", "$aws/things/+/shadow/update/documents"),
    ("named_shadows", "$aws/things/+/shadow/name/+/update/documents"),
    ("deleted_shadows", "$aws/things/+/shadow/delete/accepted"),
    ("deleted_named_shadows", "$aws/things/+/shadow/name/+/delete/accepted"),
];

/// A rule of the account, and the function that it wakes.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The rule's name.
    pub name: String,
    /// The topics that it hears.
    pub filter: String,
    /// The name of the function that it invokes, itself or through a queue.
    pub function: Option<String>,
    /// The URL of the queue between the rule and the function, if there is one.
    pub queue: Option<String>,
    sql: String,
    /// The role of its error action.
    role: Option<String>,
}

/// A message that reached AWS IoT.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The id that AWS IoT gave it, which is the event's id.
    pub trace_id: String,
    /// Where it was published.
    pub topic: String,
    /// By whom.
    pub client_id: String,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// When, in milliseconds since the epoch.
    pub at: u64,
}

/// What came of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A topic told it.
    Told(Told),
    /// It is in quarantine.
    Quarantined {
        /// The reason's code.
        reason: String,
        /// The sentence beside it.
        why: String,
    },
    /// It was let go for another's sake.
    Quieted,
    /// It had been done before.
    Duplicate,
    /// A device that is new may connect.
    Admitted {
        /// The thing that it is.
        thing: String,
    },
    /// A device that is new may not connect.
    TurnedAway {
        /// The reason's code.
        reason: String,
        /// The sentence beside it.
        why: String,
    },
    /// A device connected, and nothing had to be done for that.
    LetIn,
    /// It is done, and no one was told.
    Done,
    /// Its readings are in the table.
    Kept {
        /// How many.
        readings: usize,
    },
    /// An order that the function refused.
    Refused {
        /// The reason's code.
        reason: String,
        /// The sentence beside it.
        why: String,
    },
    /// The desired state of a device shadow.
    Desired(Value),
    /// It is in the partner's queue.
    Forwarded(Forwarded),
    /// A device is recorded as connected.
    Connected,
    /// A device is recorded as disconnected.
    Disconnected,
    /// What is recorded of a device shadow.
    Held(Held),
    /// The function handed it back, to be retried.
    HandedBack {
        /// Why.
        error: String,
    },
}

impl Effect {
    /// Whether it tells of a change of state that this message decided. A change has an id of its own, and tells the thing
    /// and when the reading that decided it was received; two rules may differ by some milliseconds over that. Of a
    /// device that is away or back, it tells by which of its sessions' begin or end.
    fn is_change_by(&self, reading: &Arrived) -> bool {
        let Self::Told(Told { data: Some(data), .. }) = self else { return false };
        if data.get("notice").is_some() {
            let Ok(event) = serde_json::from_slice::<Value>(&reading.payload) else { return false };
            let pairs = [("sessionIdentifier", "sessionIdentifier"), ("since", "timestamp"), ("thing", "clientId")];
            return pairs.iter().all(|(told, of_event)| data.get(told) == event.get(of_event));
        }
        let thing = data.get("transition").and_then(|_| data.get("thing")?.as_str());
        let at = data.get("at").and_then(Value::as_u64);
        thing == Some(&*reading.client_id) && at.is_some_and(|at| at.abs_diff(reading.at) <= 100)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(told) => write!(f, "told “{}”", told.words()),
            Self::Quarantined { reason, why } => write!(f, "quarantined, {reason}: {why}"),
            Self::Quieted => f.write_str("let go, another was told"),
            Self::Duplicate => f.write_str("done before"),
            Self::Admitted { thing } => write!(f, "admitted as {thing}"),
            Self::TurnedAway { reason, why } => write!(f, "turned away: {reason}. {why}"),
            Self::LetIn => f.write_str("let in"),
            Self::Done => f.write_str("done"),
            Self::Kept { readings: 1 } => f.write_str("kept"),
            Self::Kept { readings } => write!(f, "{readings} readings kept"),
            Self::Refused { reason, why } => write!(f, "refused, {reason}: {why}"),
            Self::Desired(state) => write!(f, "desired state {state}"),
            Self::Forwarded(Forwarded { account, queue, .. }) => write!(f, "in queue {queue} of account {account}"),
            Self::Connected => f.write_str("known to be connected"),
            Self::Disconnected => f.write_str("known to be disconnected"),
            Self::Held(held) => write!(f, "held: {held}"),
            Self::HandedBack { error } => write!(f, "handed back: {error}"),
        }
    }
}

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The topic's name.
    pub topic: String,
    /// The words.
    pub message: String,
    /// What machines get, where that differs.
    pub data: Option<Value>,
    /// The subject.
    pub subject: Option<String>,
    /// The message's attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Told {
    /// What a person reads of it. A queue gets what machines get; where there are no words in that, the subject has to do.
    pub fn words(&self) -> &str {
        let has_words = self.data.as_ref().is_none_or(|data| data.get("words").is_some());
        self.subject.as_deref().filter(|_| !has_words).unwrap_or(&self.message)
    }
}

/// An effect, and when it was there, in milliseconds since the epoch.
#[derive(Debug, Clone)]
pub struct Timed {
    /// The effect.
    pub effect: Effect,
    /// When.
    pub at: u64,
}

/// What a function reported of an invocation.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Events that are done.
    pub done: u64,
    /// Events that were refused.
    pub refused: u64,
    /// Events that were handed back.
    pub retried: u64,
}

/// What has been seen so far.
#[derive(Debug, Default)]
struct Seen {
    arrived: Vec<Arrived>,
    /// What AWS IoT told of connections and shadows.
    heard: Vec<Arrived>,
    /// The events that rules made of messages, as their functions got them; until they are handed back.
    events: HashMap<String, String>,
    effects: Vec<(String, Timed)>,
    /// What functions reported of each invocation: the function, the event's id if it had only one, and the counts.
    records: Vec<(String, Option<String>, Record)>,
    /// Log lines that are not the local cloud's own, by function.
    lines: Vec<(String, String)>,
    trouble: Option<String>,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Observer {
    /// The account's rules.
    pub rules: Vec<Rule>,
    seen: Arc<Mutex<Seen>>,
    changed: watch::Receiver<()>,
    watch: Watch,
    tasks: JoinSet<()>,
}

/// What a watching task needs.
#[derive(Debug, Clone)]
struct Watch {
    clients: Clients,
    seen: Arc<Mutex<Seen>>,
    change: watch::Sender<()>,
}

impl Observer {
    /// Begins to watch everything that is deployed in the account now.
    pub async fn start(clients: &Clients) -> Result<Self> {
        let fed = fed(clients).await.context("cannot list which queues feed functions")?;
        let rules = rules(clients, &fed).await.context("cannot list the rules of AWS IoT")?;
        let told = subscribe(clients).await.context("cannot subscribe to the topics")?;
        let copied = copy(clients, &rules).await.context("cannot add rules that copy messages")?;
        let mut logs = Vec::new();
        for function in functions(clients).await.context("cannot list the functions")? {
            let mut log = FunctionLog::of(clients, &function).await?;
            // The queue between a rule and a function delivers again what the function hands back; Lambda, for a
            // rule, does not do so here.
            let is_woken = |rule: &Rule| rule.function.as_ref() == Some(&function) && rule.queue.is_none();
            log.needs_retries = rules.iter().any(is_woken);
            logs.push((function, log));
        }

        let (change, changed) = watch::channel(());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watch = Watch { clients: clients.clone(), seen: Arc::clone(&seen), change };
        let mut tasks = JoinSet::new();
        tasks.spawn(watch.clone().queue(copied.messages, Watch::arrived));
        tasks.spawn(watch.clone().queue(copied.events, Watch::event));
        tasks.spawn(watch.clone().queue(told, Watch::told));
        for (function, log) in logs {
            tasks.spawn(watch.clone().log(function, log));
        }
        Ok(Self { rules, seen, changed, watch, tasks })
    }

    /// Takes in what comes to the partner's queue, too.
    pub fn watch_partner(&mut self, partner: Partner) {
        self.tasks.spawn(self.watch.clone().partner(partner));
    }

    /// The rule that hears a topic.
    pub fn rule(&self, topic: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| hears(&rule.filter, topic))
    }

    /// Messages that arrived after the first `skip`.
    pub fn arrived(&self, skip: usize) -> Vec<Arrived> {
        lock(&self.seen).arrived.iter().skip(skip).cloned().collect()
    }

    /// What AWS IoT told of connections and shadows, after the first `skip` of it.
    pub fn heard(&self, skip: usize) -> Vec<Arrived> {
        lock(&self.seen).heard.iter().skip(skip).cloned().collect()
    }

    /// What has come of an event so far.
    pub fn effects(&self, event_id: &str) -> Vec<Timed> {
        let seen = lock(&self.seen);
        let arrived = seen.arrived.iter().chain(&seen.heard).find(|arrived| arrived.trace_id == event_id);
        let is_of_it = |effect: &Effect| arrived.is_some_and(|arrived| effect.is_change_by(arrived));
        let of_event = seen.effects.iter().filter(|(id, timed)| id == event_id || is_of_it(&timed.effect));
        of_event.map(|(_, timed)| timed.clone()).collect()
    }

    /// What functions reported of an event so far, one an invocation that had no other event.
    pub fn records(&self, event_id: &str) -> Vec<Record> {
        let seen = lock(&self.seen);
        let of_event = seen.records.iter().filter(|(_, id, _)| id.as_deref() == Some(event_id));
        of_event.map(|(_, _, record)| *record).collect()
    }

    /// What a function reported so far of all its events, by name or not: an invocation with several tells only how many
    /// of them are done. What came of each is then to be seen in tables and topics alone.
    pub fn total(&self, function: &str) -> Record {
        let seen = lock(&self.seen);
        let of_function = seen.records.iter().filter(|(name, _, _)| name == function);
        of_function.fold(Record::default(), |total, (_, _, record)| Record {
            done: total.done + record.done,
            refused: total.refused + record.refused,
            retried: total.retried + record.retried,
        })
    }

    /// Waits for what comes of an event.
    pub async fn outcome(&self, event_id: &str, deadline: Instant) -> Option<Timed> {
        self.effect(event_id, deadline, |effect| !matches!(effect, Effect::HandedBack { .. })).await
    }

    /// Waits for an effect that is wanted; another one where that does not come.
    pub async fn effect(
        &self,
        event_id: &str,
        deadline: Instant,
        is_wanted: impl Fn(&Effect) -> bool,
    ) -> Option<Timed> {
        let look = |observer: &Self| {
            let mut effects = observer.effects(event_id).into_iter();
            effects.find(|timed| is_wanted(&timed.effect))
        };
        let found = self.until(deadline, look).await;
        // Only where nothing else came: what is handed back comes again.
        found.or_else(|| self.effects(event_id).into_iter().next())
    }

    /// All that topics have told, of whatever event.
    pub fn all_told(&self) -> Vec<Told> {
        let told = |(_, timed): &(String, Timed)| match &timed.effect {
            Effect::Told(told) => Some(told.clone()),
            _ => None,
        };
        lock(&self.seen).effects.iter().filter_map(told).collect()
    }

    /// How many invocations a function has reported.
    pub fn invocations(&self, function: &str) -> usize {
        let is_record = |line: &str| line.contains("\"_aws\"");
        lock(&self.seen).lines.iter().filter(|(name, line)| name == function && is_record(line)).count()
    }

    /// The last lines that a function logged.
    pub fn last_lines(&self, function: &str) -> Vec<String> {
        let seen = lock(&self.seen);
        let mut lines: Vec<_> = seen
            .lines
            .iter()
            .rev()
            .filter(|(name, _)| name == function)
            .take(5)
            .map(|(_, line)| line.clone())
            .collect();
        lines.reverse();
        lines
    }

    /// Why watching failed, if it did.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.seen).trouble.clone()
    }

    /// Looks at each change until `look` finds something, or until the deadline.
    pub async fn until<T>(&self, deadline: Instant, mut look: impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(found) = look(self) {
                return Some(found);
            }
            if !matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))) {
                return look(self);
            }
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an MQTT topic filter matches a topic.
fn hears(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    let mut wanted = filter.split('/');
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(want), Some(level)) if want == level => {}
            _ => return false,
        }
    }
}

/// Which queue feeds which function: the queue's ARN and the function's name.
async fn fed(clients: &Clients) -> Result<Vec<(String, String)>> {
    let mappings = clients.lambda.list_event_source_mappings().into_paginator().items().send();
    let mappings: Vec<_> = mappings.collect::<Result<_, _>>().await?;
    let pair = |mapping: &EventSourceMappingConfiguration| {
        let function = mapping.function_arn()?.split(':').nth(6)?;
        Some((mapping.event_source_arn()?.to_owned(), function.to_owned()))
    };
    Ok(mappings.iter().filter_map(pair).collect())
}

/// Whether a queue's URL and its ARN name the same one of this account.
fn is_queue(arn: &str, url: &str) -> bool {
    let mut of_arn = arn.rsplit(':');
    let mut of_url = url.rsplit('/');
    arn.contains(":sqs:") && (of_arn.next(), of_arn.next()) == (of_url.next(), of_url.next())
}

/// The names of all functions.
async fn functions(clients: &Clients) -> Result<Vec<String>> {
    let functions = clients.lambda.list_functions().into_paginator().items().send();
    let functions: Vec<_> = functions.collect::<Result<_, _>>().await?;
    Ok(functions.into_iter().filter_map(|function| function.function_name).collect())
}

async fn rules(clients: &Clients, fed: &[(String, String)]) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for listed in clients.iot.list_topic_rules().send().await?.rules() {
        let Some(name) = listed.rule_name().filter(|name| !name.starts_with(OWN)) else { continue };
        let found = clients.iot.get_topic_rule().rule_name(name).send().await?;
        let Some(rule) = found.rule() else { continue };
        let invoked = rule.actions().iter().find_map(|action| action.lambda()?.function_arn().split(':').nth(6));
        let queued = rule.actions().iter().find_map(|action| {
            let url = action.sqs()?.queue_url();
            let (_, function) = fed.iter().find(|(arn, _)| is_queue(arn, url))?;
            Some((function.clone(), url.to_owned()))
        });
        let (function, queue) = match (invoked, queued) {
            (Some(invoked), _) => (Some(invoked.to_owned()), None),
            (None, queued) => queued.unzip(),
        };
        let sql = rule.sql().unwrap_or_default();
        rules.push(Rule {
            role: rule.error_action().and_then(|action| Some(action.sqs()?.role_arn().to_owned())),
            name: name.to_owned(),
            filter: from(sql).unwrap_or_default().to_owned(),
            sql: sql.to_owned(),
            function,
            queue,
        });
    }
    Ok(rules)
}

/// The topic filter in a rule's SQL.
fn from(sql: &str) -> Option<&str> {
    let at = sql.to_ascii_uppercase().rfind("FROM '")?;
    sql.get(at + "FROM '".len()..)?.split('\'').next()
}

/// Makes a queue; its URL and ARN.
async fn queue(clients: &Clients, name: &str) -> Result<(String, String)> {
    let made = clients.sqs.create_queue().queue_name(name).send().await?;
    let url = made.queue_url().context("a queue without a URL")?.to_owned();
    let asked = clients.sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
    let arn = asked.send().await?.attributes().and_then(|all| all.get(&QueueAttributeName::QueueArn)).cloned();
    Ok((url, arn.context("a queue without an ARN")?))
}

async fn subscribe(clients: &Clients) -> Result<String> {
    let (url, arn) = queue(clients, &format!("{OWN}-notifications")).await?;
    let policy = serde_json::json!({
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

/// The queues that hold copies.
struct Copied {
    /// Of every message.
    messages: String,
    /// Of each event that a rule made of a message for a function that it invokes itself.
    events: String,
}

async fn copy(clients: &Clients, rules: &[Rule]) -> Result<Copied> {
    // It must be one that AWS IoT may assume; what it allows is not looked at.
    let role = rules.iter().find_map(|rule| rule.role.as_ref()).context("no rule has an error action with a role")?;
    let add = async |name: String, sql: &str, url: &str| {
        let action = Action::builder().sqs(SqsAction::builder().queue_url(url).role_arn(role).build()?).build();
        let copying = TopicRulePayload::builder().sql(sql).aws_iot_sql_version("2016-03-23").actions(action).build()?;
        clients.iot.create_topic_rule().rule_name(name).topic_rule_payload(copying).send().await?;
        Ok::<_, anyhow::Error>(())
    };
    let (messages, _) = queue(clients, &format!("{OWN}-messages")).await?;
    for (name, filter) in COPIED {
        let sql = format!(
            "SELECT encode(*, 'base64') AS payloadBase64, topic() AS topic, clientid() AS clientId, \
             traceid() AS traceId, timestamp() AS receivedAt FROM '{filter}'"
        );
        add(format!("{OWN}_{name}"), &sql, &messages).await?;
    }
    let (events, _) = queue(clients, &format!("{OWN}-events")).await?;
    for rule in rules.iter().filter(|rule| rule.function.is_some() && rule.queue.is_none()) {
        add(format!("{OWN}_{}", rule.name), &rule.sql, &events).await?;
    }
    Ok(Copied { messages, events })
}

/// Where a function logs, and where it puts what it refuses.
struct FunctionLog {
    group: String,
    quarantine: Option<String>,
    /// Whether no one else gives the function again what it hands back.
    needs_retries: bool,
}

/// What has been read of a log.
#[derive(Default)]
struct Taken {
    lines: HashSet<String>,
    newest: i64,
}

impl FunctionLog {
    async fn of(clients: &Clients, function: &str) -> Result<Self> {
        let found = clients.lambda.get_function_configuration().function_name(function).send().await?;
        let group = found.logging_config().and_then(|logging| logging.log_group()).map(str::to_owned);
        let variables = found.environment().and_then(|environment| environment.variables());
        Ok(Self {
            group: group.unwrap_or_else(|| format!("/aws/lambda/{function}")),
            quarantine: variables.and_then(|variables| variables.get("QUARANTINE_TABLE")).cloned(),
            needs_retries: false,
        })
    }
}

impl Watch {
    fn add<T>(&self, add: impl FnOnce(&mut Seen) -> T) {
        add(&mut lock(&self.seen));
        self.change.send_replace(());
    }

    fn trouble(&self, what: &str, error: &anyhow::Error) {
        self.add(|seen| seen.trouble = Some(format!("cannot read {what}: {error:#}")));
    }

    /// Takes in what comes to a queue.
    async fn queue(self, url: String, take: fn(&Self, &str, u64) -> Result<()>) {
        loop {
            if let Err(error) = self.receive(&url, take).await {
                self.trouble(url.rsplit('/').next().unwrap_or_default(), &error);
                sleep(PAUSE).await;
            }
        }
    }

    async fn receive(&self, url: &str, take: fn(&Self, &str, u64) -> Result<()>) -> Result<()> {
        let receive = self.clients.sqs.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(5);
        let received = receive.message_system_attribute_names(MessageSystemAttributeName::SentTimestamp).send().await?;
        for message in received.messages() {
            let sent = message.attributes().and_then(|all| all.get(&MessageSystemAttributeName::SentTimestamp));
            let at = sent.and_then(|millis| millis.parse().ok()).unwrap_or_else(now);
            take(self, message.body().unwrap_or_default(), at)?;
            self.clients
                .sqs
                .delete_message()
                .queue_url(url)
                .set_receipt_handle(message.receipt_handle.clone())
                .send()
                .await?;
        }
        Ok(())
    }

    fn arrived(&self, body: &str, _: u64) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Copy {
            #[serde(default)]
            payload_base64: String,
            topic: String,
            #[serde(default)]
            client_id: String,
            trace_id: String,
            received_at: u64,
        }
        let copy: Copy = serde_json::from_str(body)?;
        let payload = BASE64_STANDARD.decode(copy.payload_base64)?;
        let Copy { topic, client_id, trace_id, received_at: at, .. } = copy;
        let is_heard = ["$aws/events/presence/", "$aws/things/"].iter().any(|begin| topic.starts_with(begin));
        let arrived = Arrived { trace_id, topic, client_id, payload, at };
        self.add(|seen| if is_heard { &mut seen.heard } else { &mut seen.arrived }.push(arrived));
        Ok(())
    }

    fn event(&self, body: &str, _: u64) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event {
            trace_id: String,
        }
        let Event { trace_id } = serde_json::from_str(body)?;
        self.add(|seen| seen.events.insert(trace_id, body.to_owned()));
        Ok(())
    }

    /// Does what AWS does, and the local cloud's rules engine does not, with an event that was handed back.
    fn again(&self, function: &str, event_id: &str) {
        let Some(event) = lock(&self.seen).events.remove(event_id) else { return };
        let invoke = self.clients.lambda.invoke().function_name(function).invocation_type(InvocationType::Event);
        let (watch, invoke) = (self.clone(), invoke.payload(Blob::new(event)));
        tokio::spawn(async move {
            sleep(REST).await;
            if let Err(error) = invoke.send().await {
                watch.trouble("an event that was handed back", &error.into());
            }
        });
    }

    fn told(&self, body: &str, at: u64) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Envelope {
            topic_arn: String,
            message: String,
            subject: Option<String>,
            #[serde(default)]
            message_attributes: BTreeMap<String, Attribute>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Attribute {
            value: String,
        }
        let Envelope { topic_arn, message, subject, message_attributes } = serde_json::from_str(body)?;
        let topic = topic_arn.rsplit(':').next().unwrap_or_default().to_owned();
        let attributes: BTreeMap<_, _> =
            message_attributes.into_iter().map(|(name, attribute)| (name, attribute.value)).collect();
        // Without one (an alarm's, say) it belongs to no event.
        let event_id = attributes.get("eventId").cloned().unwrap_or_default();
        // What is told in words and in data comes to a queue as data, with the words in it.
        let data = serde_json::from_str(&message).ok().filter(Value::is_object);
        let words = data.as_ref().and_then(|data| data.get("words")?.as_str().map(str::to_owned));
        let effect = Effect::Told(Told { topic, message: words.unwrap_or(message), data, subject, attributes });
        self.add(|seen| seen.effects.push((event_id, Timed { effect, at })));
        Ok(())
    }

    /// Takes in what comes to the partner's queue. The message's trace id is the event's id.
    async fn partner(self, partner: Partner) {
        loop {
            let received = match partner.receive().await {
                Ok(received) => received,
                Err(error) => {
                    self.trouble("the partner's queue", &error);
                    sleep(PAUSE).await;
                    continue;
                }
            };
            for forwarded in received {
                let event_id = forwarded.attributes.get("traceId").cloned().unwrap_or_default();
                let timed = Timed { effect: Effect::Forwarded(forwarded), at: now() };
                self.add(|seen| seen.effects.push((event_id, timed)));
            }
        }
    }

    /// Takes in what a function logs.
    async fn log(self, function: String, log: FunctionLog) {
        let mut taken = Taken::default();
        loop {
            match self.read_log(&function, &log, &mut taken).await {
                Ok(()) => {}
                Err(error) => self.trouble(&log.group, &error),
            }
            sleep(PAUSE).await;
        }
    }

    async fn read_log(&self, function: &str, log: &FunctionLog, taken: &mut Taken) -> Result<()> {
        let mut next = None;
        loop {
            // Lines are written in bulk when an invocation ends, so that an older one may come after a newer.
            let since = taken.newest.saturating_sub(5_000);
            let read = self.clients.logs.filter_log_events().log_group_name(&log.group).start_time(since);
            let page = match read.set_next_token(next).send().await {
                Ok(page) => page,
                // The group comes with the first line where the stack has none.
                Err(error)
                    if error.as_service_error().is_some_and(FilterLogEventsError::is_resource_not_found_exception) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            for event in page.events() {
                let at = event.timestamp().unwrap_or_default();
                let message = event.message().unwrap_or_default();
                let stream = event.log_stream_name().unwrap_or_default();
                if taken.lines.insert(format!("{at} {stream} {message}")) {
                    taken.newest = taken.newest.max(at);
                    self.line(function, log, message, u64::try_from(at).unwrap_or_default()).await?;
                }
            }
            next = page.next_token;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    async fn line(&self, function: &str, log: &FunctionLog, line: &str, at: u64) -> Result<()> {
        let platform = ["START RequestId", "END RequestId", "REPORT RequestId"];
        if platform.iter().any(|own| line.starts_with(own)) {
            return Ok(());
        }
        self.add(|seen| seen.lines.push((function.to_owned(), line.to_owned())));
        let Ok(json) = serde_json::from_str::<Value>(line) else { return Ok(()) };
        let count = |name: &str| json.get(name).and_then(Value::as_u64).unwrap_or_default();
        let event_id = text(&json, "eventId");
        if json.get("_aws").is_some() {
            let record = Record { done: count("Done"), refused: count("Refused"), retried: count("Retried") };
            self.add(|seen| seen.records.push((function.to_owned(), event_id.map(str::to_owned), record)));
        }
        // Without one it tells of several events together.
        let Some(event_id) = event_id else { return Ok(()) };
        let effect = if json.get("_aws").is_some() {
            let counted = |name: &str| count(name) > 0;
            // The record of an invocation. What it told comes by the topic, and what it refused has a line of its own.
            if counted("Quieted") {
                Effect::Quieted
            } else if counted("Duplicate") {
                Effect::Duplicate
            } else if counted("Done") && !counted("Told") {
                Effect::Done
            } else {
                return Ok(());
            }
        } else {
            match text(&json, "message") {
                Some("refused") => return self.quarantined(function, log, event_id).await,
                Some("retry") => {
                    if log.needs_retries {
                        self.again(function, event_id);
                    }
                    Effect::HandedBack { error: text(&json, "error").unwrap_or_default().to_owned() }
                }
                _ => return Ok(()),
            }
        };
        self.add(|seen| seen.effects.push((event_id.to_owned(), Timed { effect, at })));
        Ok(())
    }

    /// Believes the table, not the log.
    async fn quarantined(&self, function: &str, log: &FunctionLog, event_id: &str) -> Result<()> {
        let key = |value: &str| AttributeValue::S(value.to_owned());
        let get = self.clients.dynamodb.get_item().set_table_name(log.quarantine.clone()).consistent_read(true);
        let found = get.key("function", key(function)).key("eventId", key(event_id)).send().await?;
        let Some(item) = found.item() else { return Ok(()) };
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
        let at = item.get("refusedAt").and_then(|value| value.as_n().ok()?.parse().ok()).unwrap_or_else(now);
        let effect = Effect::Quarantined { reason: text("reason"), why: text("why") };
        self.add(|seen| seen.effects.push((event_id.to_owned(), Timed { effect, at })));
        Ok(())
    }
}

/// A field of a log line: of the record itself, or of the event's fields in it.
fn text<'a>(line: &'a Value, name: &str) -> Option<&'a str> {
    line.get(name).or_else(|| line.get("fields")?.get(name))?.as_str()
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    millis(SystemTime::now())
}

/// Milliseconds since the epoch.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_filter_hears_topics_as_mqtt_says() {
        for (filter, topic, heard) in [
            ("iotbutton/+", "iotbutton/a", true),
            ("iotbutton/+", "iotbutton", false),
            ("iotbutton/+", "iotbutton/a/b", false),
            ("iotbutton/+", "doorbell/a", false),
            ("a/#", "a/b/c", true),
            ("#", "a", true),
            ("a/+/c", "a/b/c", true),
        ] {
            assert_eq!(hears(filter, topic), heard, "{filter} and {topic}");
        }
    }

    #[test]
    fn a_notice_is_of_the_session_whose_begin_or_end_it_tells() {
        let event = |session: &str, timestamp: u64| Arrived {
            trace_id: "t".to_owned(),
            topic: "$aws/events/presence/disconnected/buoy".to_owned(),
            client_id: String::new(),
            payload: json!({"clientId": "buoy", "sessionIdentifier": session, "timestamp": timestamp})
                .to_string()
                .into(),
            at: 0,
        };
        let notice = json!({"notice": "n", "thing": "buoy", "sessionIdentifier": "s", "since": 5});
        let told = Effect::Told(Told {
            topic: "presence".to_owned(),
            message: "buoy is away".to_owned(),
            data: Some(notice),
            subject: None,
            attributes: BTreeMap::new(),
        });
        assert!(told.is_change_by(&event("s", 5)));
        assert!(!told.is_change_by(&event("s", 6)));
        assert!(!told.is_change_by(&event("another", 5)));
        assert!(!Effect::Done.is_change_by(&event("s", 5)));
    }

    #[test]
    fn a_queue_is_told_by_its_url_or_its_arn() {
        let arn = "arn:aws:sqs:us-east-1:111122223333:gatehouse-jitr";
        for (url, is_it) in [
            ("http://127.0.0.1:4566/111122223333/gatehouse-jitr", true),
            ("https://sqs.us-east-1.amazonaws.com/111122223333/gatehouse-jitr", true),
            ("http://127.0.0.1:4566/111122223333/gatehouse-jitr-dlq", false),
            ("http://127.0.0.1:4566/444455556666/gatehouse-jitr", false),
            ("", false),
        ] {
            assert_eq!(is_queue(arn, url), is_it, "{url}");
        }
        assert!(!is_queue("arn:aws:kinesis:us-east-1:1:stream/a", "http://127.0.0.1:4566/1/stream/a"));
    }

    #[test]
    fn the_filter_is_what_the_sql_reads_from() {
        assert_eq!(from("SELECT encode(*, 'base64') AS x FROM 'iotbutton/+'"), Some("iotbutton/+"));
        assert_eq!(from("SELECT * FROM 'a/b' WHERE c = 'd'"), Some("a/b"));
        assert_eq!(from("SELECT 1"), None);
    }
}
