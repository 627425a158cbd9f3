//! Something goes wrong at every call of a handler, one after the other, and the event is told all the same.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use local_cloud::fault_proxy::{Call, Fault, FaultProxy};
use local_cloud::observer::{Effect, Observer, Notification};
use tokio::time::{Instant, sleep};

use crate::stage::{LIMIT, Stage, Suite, click, device_event, ring};

/// A function under test, what it is handed, and how many calls it makes: to warm up, and for an event.
#[derive(Clone, Copy)]
struct Subject {
    function: &'static str,
    event: fn(&str, &str) -> Value,
    what: &'static str,
    calls: usize,
    /// What the function is told before.
    prepare: Option<fn() -> Value>,
}

const SUBJECTS: [Subject; 3] = [
    Subject { function: "button", event: click, what: "a click", calls: 2 + 3, prepare: None },
    Subject { function: "doorbell", event: ring, what: "a ring", calls: 2 + 4, prepare: None },
    Subject { function: "alarm", event: bright, what: "an alarm", calls: 2 + 9, prepare: Some(threshold) },
];

const FAULTS: [(Fault, &str); 7] = [
    (Fault::ServerError, "whichever call fails"),
    (Fault::LostRequest, "whichever request is lost"),
    (Fault::LostResponse, "whichever answer is lost"),
    (Fault::Throttled, "whichever call is throttled"),
    (Fault::Hangs, "whichever call hangs"),
    (Fault::KilledBefore, "when its function is killed before any call is served"),
    (Fault::KilledAfter, "when its function is killed after any call is served"),
];

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trials = Vec::new();
    // The slowest first.
    for (fault, when) in FAULTS.into_iter().rev() {
        for subject in SUBJECTS {
            let name = format!("{} is told {when}", subject.what);
            trials.push(suite.trial(name, move |suite| every_call(suite, subject, fault)));
        }
    }
    trials.push(suite.trial("a click that cannot be told is kept in the dead-letter queue", never_told));
    trials
}

/// Lets the first call of an event go wrong, then the second, until a run is untouched.
async fn every_call(suite: Arc<Suite>, subject: Subject, fault: Fault) -> Result<()> {
    let stage = suite.stage().await?;
    if let Some(order) = subject.prepare {
        stage.invoke(subject.function, &order()).await?;
    }
    // The schedule's ticks would be among the calls.
    stage.unplug(subject.function).await?;
    let proxy = FaultProxy::start(&stage.cloud).await?;
    stage.put_behind(&proxy, subject.function).await?;
    let mut nth = 1;
    loop {
        // Each time a process that is new, so that what it does to warm up is among the calls.
        proxy.kill(&stage.cloud);
        proxy.fail_nth_call(nth, fault);
        let (event_id, thing) = (format!("event-{nth}"), format!("thing-{nth}"));
        stage.invoke_later(subject.function, &(subject.event)(&event_id, &thing)).await?;
        let calls = || proxy.calls().into_iter().map(|call| call.operation).collect::<Vec<_>>().join(", ");
        stage.done(&event_id, 1).await.with_context(|| format!("call {nth} of: {}", calls()))?;

        let made = proxy.calls();
        let struck = made.iter().position(|call| call.fault.is_some());
        let is_told = |_: &Observer| (told(&stage, &thing) > 0).then_some(());
        let _ = stage.observer.until(Instant::now() + LIMIT, is_told).await;
        let told = told(&stage, &thing);
        let allowed = if may_repeat(&made, struck, fault) { 1..=2 } else { 1..=1 };
        ensure!(allowed.contains(&told), "told {told} times after {fault:?} at call {nth} of: {}", calls());
        let effects = stage.observer.effects(&event_id);
        let is_refused = effects.iter().any(|timed| matches!(timed.effect, Effect::Quarantined { .. }));
        ensure!(!is_refused, "quarantined after {fault:?} at call {nth} of: {}", calls());
        if struck.is_none() {
            // On a busy machine the SDK may have given a call up and made it once more.
            ensure!(nth > subject.calls, "{} calls were expected, and there were: {}", subject.calls, calls());
            break;
        }
        nth += 1;
    }
    ensure!(dead_letters(&stage, subject.function).await?.is_empty(), "something is in the dead-letter queue");
    Ok(())
}

/// A reading above the threshold.
fn bright(event_id: &str, thing: &str) -> Value {
    device_event(event_id, thing, &format!("telemetry/{thing}"), br#"{"lux": 36000}"#)
}

fn threshold() -> Value {
    json!({"thresholds": [{
        "name": "too-bright",
        "things": "*",
        "field": "/lux",
        "raise": {"above": 35000, "for": "0 s"},
        "clear": {"below": 35000, "for": "0 s"},
    }]})
}

/// How many times something was told of a thing.
fn told(stage: &Stage, thing: &str) -> usize {
    let is_of_thing = |told: &Notification| told.attributes.get("thing").is_some_and(|of| of == thing);
    stage.observer.notifications().iter().filter(|told| is_of_thing(told)).count()
}

/// Whether SNS had taken the message and the function could not know: the one case in which it is told again.
fn may_repeat(made: &[Call], struck: Option<usize>, fault: Fault) -> bool {
    let operation = |at: usize| made.get(at).map(|call| &*call.operation);
    struck.is_some_and(|at| match fault {
        Fault::LostResponse | Fault::KilledAfter => operation(at) == Some("Publish"),
        Fault::KilledBefore => at > 0 && operation(at - 1) == Some("Publish"),
        Fault::LostRequest
        | Fault::Throttled
        | Fault::Hangs
        | Fault::ServerError
        | Fault::UnprocessedItems
        | Fault::PartialFailure => false,
    })
}

/// A topic that is gone: nothing that a retry could mend.
async fn never_told(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let topic = stage.deployment.output("ButtonTopicArn")?;
    stage.clients.sns.delete_topic().topic_arn(topic).send().await?;
    let event = click("never-told", "thing-1");
    stage.invoke_later("button", &event).await?;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        let letters = dead_letters(&stage, "button").await?;
        if let Some(letter) = letters.first() {
            ensure!(letters.len() == 1, "the event is there {} times", letters.len());
            ensure!(letter.get("requestPayload") == Some(&event), "the event is not whole: {letter}");
            return Ok(());
        }
    }
    anyhow::bail!("the event is not in the dead-letter queue")
}

/// What is in a function's dead-letter queue.
async fn dead_letters(stage: &Stage, function: &str) -> Result<Vec<Value>> {
    let output = if function == "button" { "ButtonDeadLetterQueueUrl" } else { "DoorbellDeadLetterQueueUrl" };
    let url = stage.deployment.output(output)?;
    let received = stage.clients.sqs.receive_message().queue_url(url).max_number_of_messages(10).send().await?;
    let bodies = received.messages().iter().filter_map(|message| message.body());
    bodies.map(|body| Ok(serde_json::from_str(body)?)).collect()
}
