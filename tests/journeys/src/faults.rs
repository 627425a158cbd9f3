//! Each call of a handler fails in turn, and every event still leads to a notification.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use local_cloud::fault_proxy::{Call, Fault, FaultProxy};
use local_cloud::observer::{Effect, Notification};
use serde_json::{Value, json};

use crate::events::{click, device_event, ring};
use crate::stage::Stage;
use crate::suite::Suite;

/// A function under test.
#[derive(Clone, Copy)]
struct Subject {
    function: &'static str,
    /// Returns an event by its id and thing.
    event: fn(&str, &str) -> Value,
    /// The subject of the test's name.
    what: &'static str,
    /// The number of calls to warm up and to handle an event.
    calls: usize,
    /// A command to send first.
    setup: Option<fn() -> Value>,
}

const SUBJECTS: [Subject; 3] = [
    Subject { function: "button", event: click, what: "click", calls: 2 + 3, setup: None },
    Subject { function: "doorbell", event: ring, what: "ring", calls: 2 + 4, setup: None },
    Subject { function: "alarm", event: bright, what: "alarm", calls: 2 + 9, setup: Some(threshold) },
];

const FAULTS: [(Fault, &str); 7] = [
    (Fault::ServerError, "any_call_fails"),
    (Fault::LostRequest, "any_request_is_lost"),
    (Fault::LostResponse, "any_response_is_lost"),
    (Fault::Throttled, "any_call_is_throttled"),
    (Fault::Hangs, "any_call_hangs"),
    (Fault::KilledBefore, "killed_before_any_call"),
    (Fault::KilledAfter, "killed_after_any_call"),
];

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trials = Vec::new();
    // Slowest first.
    for (fault, condition) in FAULTS.into_iter().rev() {
        for subject in SUBJECTS {
            let name = format!("{}_is_notified_when_{condition}", subject.what);
            trials.push(suite.trial(subject.function, name, move |suite| every_call(suite, subject, fault)));
        }
    }
    trials.push(suite.trial("button", "click_that_cannot_be_notified_ends_in_the_dead_letter_queue", missing_topic));
    trials
}

/// Fails the first call of one event, the second call of the next event, and so on, until no call is left to fail.
async fn every_call(suite: Arc<Suite>, subject: Subject, fault: Fault) -> Result<()> {
    let stage = suite.stage().await?;
    if let Some(command) = subject.setup {
        stage.invoke(subject.function, &command()).await?;
    }
    let proxy = FaultProxy::start(&stage.cloud).await?;
    stage.put_behind(&proxy, subject.function).await?;
    let (mut nth, mut round) = (1, 0);
    loop {
        round += 1;
        // A new process each time, so that its warm-up calls count.
        proxy.kill(&stage.cloud);
        proxy.fail_nth_call(nth, fault);
        let (event_id, thing) = (format!("event-{round}"), format!("thing-{round}"));
        let invoked = stage.invoke_until_done(subject.function, &(subject.event)(&event_id, &thing)).await;
        let calls = || proxy.calls().into_iter().map(|call| call.operation).collect::<Vec<_>>().join(", ");
        let attempts = invoked.with_context(|| format!("call {nth} of: {}", calls()))?;

        stage.observer.catch_up().await?;
        let calls_made = proxy.calls();
        let failed = calls_made.iter().position(|call| call.fault.is_some());
        let notified = notifications(&stage, &thing);
        let expected = 1..=1 + possible_repeats(&calls_made);
        ensure!(
            expected.contains(&notified),
            "notified {notified} times after {fault:?} at call {nth} of: {}",
            calls()
        );
        let effects = stage.observer.effects(&event_id, stage.name(subject.function)?);
        let is_refused = effects.iter().any(|timed| matches!(timed.effect, Effect::Quarantined { .. }));
        ensure!(!is_refused, "quarantined after {fault:?} at call {nth} of: {}", calls());
        if failed.is_none() && attempts > 1 {
            // On a busy machine the function may time out before that call.
            continue;
        }
        if failed.is_none() {
            // On a busy machine the SDK may have retried a call.
            ensure!(nth > subject.calls, "expected {} calls, got: {}", subject.calls, calls());
            break;
        }
        nth += 1;
    }
    Ok(())
}

/// Returns a reading above the threshold.
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

/// Returns the number of notifications about a thing.
fn notifications(stage: &Stage, thing: &str) -> usize {
    let is_of_thing = |it: &&Notification| it.attributes.get("thing").is_some_and(|name| name == thing);
    stage.observer.notifications().iter().filter(is_of_thing).count()
}

/// Returns how often SNS accepted a message that the function did not record as sent, because it did not receive the
/// response or was killed first. Only then may a message be published twice.
fn possible_repeats(calls: &[Call]) -> usize {
    let is_unknown = |at: usize, call: &Call| match call.fault {
        Some(Fault::LostResponse | Fault::KilledAfter) => true,
        Some(_) => false,
        None => {
            let next = calls.get(at + 1).and_then(|next| next.fault);
            !call.is_answered || next == Some(Fault::KilledBefore)
        }
    };
    let published = calls.iter().enumerate().filter(|(_, call)| call.operation == "Publish");
    published.filter(|(at, call)| is_unknown(*at, call)).count()
}

/// The topic is deleted, so no retry can succeed.
async fn missing_topic(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    let topic = stage.deployment.output("ButtonTopicArn")?;
    stage.clients.sns.delete_topic().topic_arn(topic).send().await?;
    let event = click("missing-topic", "thing-1");
    stage.invoke_async("button", &event).await?;
    let url = stage.deployment.output("ButtonDeadLetterQueueUrl")?;
    let receive = async || {
        let received = stage.clients.sqs.receive_message().queue_url(url).max_number_of_messages(10).send().await?;
        Ok(received.messages.filter(|messages| !messages.is_empty()))
    };
    let letters = stage.observer.poll(receive).await?.context("the event is not in the dead-letter queue")?;
    let [letter] = letters.as_slice() else { bail!("it is in the dead-letter queue {} times", letters.len()) };
    let letter: Value = serde_json::from_str(letter.body().unwrap_or_default())?;
    ensure!(letter.get("requestPayload") == Some(&event), "the event was modified: {letter}");
    Ok(())
}
