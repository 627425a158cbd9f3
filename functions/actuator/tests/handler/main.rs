//! The whole function but for the Lambda runtime: transitions go in, calls to AWS come out, and the messages that the
//! function sends itself come back to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::result_large_err,
    reason = "a test says what it expects by failing there"
)]

mod cloud;
mod documents;
mod faults;
mod infrared;
mod samples;

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_iotdataplane::operation::update_thing_shadow::UpdateThingShadowError;
use aws_sdk_iotdataplane::types::error::{ConflictException, InvalidRequestException, ThrottlingException};
use gatehouse::Timestamp;
use serde_json::{Value, json};

use crate::cloud::{BEGIN, Cloud};

/// A shade that closes when it gets too bright, and opens again.
pub fn shade() -> Value {
    let answer = |to: &str, position: &str| {
        json!({"alarm": "too-bright", "to": to, "things": "greenhouse-*", "device": "{thing}-shade",
               "command": {"shadow": {"desired": {"position": position}}}})
    };
    json!({"answers": [answer("ALARM", "closed"), answer("OK", "open")]})
}

/// So many minutes.
pub const fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// The transition of a thing's alarm at this minute.
pub fn transition(thing: &str, alarm: &str, to: &str, minute: u64) -> String {
    let at = BEGIN.plus(minutes(minute)).millis();
    let id = format!("{thing}#{alarm}#{at}#{to}");
    json!({"transition": id, "threshold": alarm, "thing": thing, "from": "OK", "to": to, "field": "/lux",
           "value": 41250, "at": at, "since": at - 900_000, "words": "too-bright: greenhouse-1 lux above 35000"})
    .to_string()
}

/// The transition of the first greenhouse at this minute.
pub fn bright(to: &str, minute: u64) -> String {
    transition("greenhouse-1", "too-bright", to, minute)
}

#[tokio::test(start_paused = true)]
async fn an_alarm_is_answered_with_a_desired_state() {
    let cloud = Cloud::with(&shade()).await;
    let delivered = cloud.deliver(&bright("ALARM", 0)).await;
    assert!(delivered.is_done);
    assert_eq!(delivered.count("Commanded"), 1);
    assert_eq!(cloud.desired(), [("greenhouse-1-shade".to_owned(), json!({"position": "closed"}))]);
    // One read of the document and one of the record, then a write before the command and one after it.
    let calls = cloud.change(|state| state.calls.clone());
    assert_eq!(calls, ["GetItem", "GetItem", "PutItem", "UpdateThingShadow", "PutItem"]);
}

#[tokio::test(start_paused = true)]
async fn a_named_shadow_is_named() {
    let answers = json!({"answers": [{"alarm": "too-bright", "to": "ALARM",
        "command": {"shadow": {"name": "shade", "desired": {"position": "closed", "speed": 2.5}}}}]});
    let cloud = Cloud::with(&answers).await;
    cloud.deliver(&bright("ALARM", 0)).await;
    let desired = json!({"position": "closed", "speed": 2.5});
    assert_eq!(cloud.desired(), [("greenhouse-1/shade".to_owned(), desired)]);
}

#[tokio::test(start_paused = true)]
async fn the_same_transition_twice_commands_once() {
    let cloud = Cloud::with(&shade()).await;
    for (minute, repeated) in [(0, 0), (0, 1), (60, 1)] {
        cloud.skip(minutes(minute));
        let delivered = cloud.deliver(&bright("ALARM", 0)).await;
        assert!(delivered.is_done);
        assert_eq!(delivered.count("Repeated"), repeated);
    }
    assert_eq!(cloud.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_transition_twice_in_one_batch_commands_once() {
    let cloud = Cloud::with(&shade()).await;
    let (done, counted) = cloud.deliver_all(&[&bright("ALARM", 0), &bright("ALARM", 0)]).await;
    assert_eq!(done, [true, true]);
    assert_eq!((counted["Commanded"], counted["Repeated"]), (1, 1));
    assert_eq!(cloud.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn an_opposite_command_that_comes_too_soon_is_put_off_by_what_is_left() {
    let cloud = Cloud::with(&shade()).await;
    cloud.deliver(&bright("ALARM", 0)).await;
    cloud.skip(minutes(4));
    let delivered = cloud.deliver(&bright("OK", 4)).await;
    assert!(delivered.is_done, "no receive count is eaten");
    assert_eq!(delivered.count("Delayed"), 1);
    assert_eq!(cloud.positions(), ["closed"]);
    let sent = cloud.change(|state| std::mem::take(&mut state.sent));
    assert_eq!(sent, [(bright("OK", 4), minutes(11))]);

    cloud.skip(minutes(11));
    assert_eq!(cloud.deliver(&sent[0].0).await.count("Commanded"), 1);
    assert_eq!(cloud.positions(), ["closed", "open"]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_put_off_comes_no_moment_too_soon() {
    let cloud = Cloud::with(&shade()).await;
    cloud.deliver(&bright("ALARM", 0)).await;
    cloud.skip(Duration::from_millis(100));
    cloud.deliver(&bright("OK", 1)).await;
    // 14 minutes and 59.9 seconds, in whole seconds.
    assert_eq!(cloud.change(|state| state.sent[0].1), minutes(15));
}

#[tokio::test(start_paused = true)]
async fn an_interval_longer_than_a_message_may_be_held_back_takes_several() {
    let cloud = Cloud::with(&shade()).await.variable("MIN_INTERVAL_SECONDS", "2400");
    assert!(cloud.play(&[(minutes(0), bright("ALARM", 0)), (minutes(1), bright("OK", 1))]).await.is_empty());
    let sent = cloud.change(|state| state.calls.iter().filter(|invocation| **invocation == "SendMessage").count());
    assert_eq!(sent, 3);
    let gap = cloud.change(|state| state.desired[1].0.since(state.desired[0].0));
    assert_eq!((cloud.positions(), gap), (vec!["closed".to_owned(), "open".to_owned()], minutes(40)));
}

#[tokio::test(start_paused = true)]
async fn what_was_put_off_no_longer_matters_once_a_newer_transition_is_there() {
    let cloud = Cloud::with(&shade()).await;
    let story = [(0, "ALARM"), (4, "OK"), (8, "ALARM")].map(|(at, to)| (minutes(at), bright(to, at)));
    assert!(cloud.play(&story).await.is_empty());
    // The shade was never opened in between; that it is to be closed is said again.
    assert_eq!(cloud.positions(), ["closed", "closed"]);
}

#[tokio::test(start_paused = true)]
async fn of_several_that_are_put_off_the_newest_has_the_last_word() {
    let cloud = Cloud::with(&shade()).await;
    let story = [(0, 0, "ALARM"), (2, 2, "OK"), (3, 3, "ALARM"), (9, 9, "OK"), (10, 8, "ALARM")];
    let story = story.map(|(arrives, at, to)| (minutes(arrives), bright(to, at)));
    assert!(cloud.play(&story).await.is_empty());
    assert_eq!(cloud.positions(), ["closed", "closed", "open"]);
}

#[tokio::test(start_paused = true)]
async fn an_older_transition_that_comes_late_commands_nothing() {
    let cloud = Cloud::with(&shade()).await;
    cloud.skip(minutes(40));
    cloud.deliver(&bright("OK", 30)).await;
    let delivered = cloud.deliver(&bright("ALARM", 10)).await;
    assert!(delivered.is_done);
    assert_eq!(delivered.count("Superseded"), 1);
    assert_eq!(cloud.positions(), ["open"]);
}

#[tokio::test(start_paused = true)]
async fn devices_do_not_wait_for_each_other() {
    let cloud = Cloud::with(&shade()).await;
    cloud.deliver(&transition("greenhouse-1", "too-bright", "ALARM", 0)).await;
    cloud.deliver(&transition("greenhouse-2", "too-bright", "OK", 0)).await;
    assert_eq!(cloud.positions(), ["closed", "open"]);
}

#[tokio::test(start_paused = true)]
async fn commands_that_answer_different_alarms_are_kept_apart_on_one_device() {
    let answer = |alarm: &str, position: &str| {
        json!({"alarm": alarm, "to": "ALARM", "device": "shade",
               "command": {"shadow": {"desired": {"position": position}}}})
    };
    let cloud = Cloud::with(&json!({"answers": [answer("too-bright", "closed"), answer("too-cold", "open")]})).await;
    let cold = transition("greenhouse-2", "too-cold", "ALARM", 1);
    assert!(cloud.play(&[(minutes(0), bright("ALARM", 0)), (minutes(1), cold)]).await.is_empty());
    let gap = cloud.change(|state| state.desired[1].0.since(state.desired[0].0));
    assert_eq!((cloud.positions(), gap), (vec!["closed".to_owned(), "open".to_owned()], minutes(15)));
}

#[tokio::test(start_paused = true)]
async fn a_transition_that_nothing_answers_is_done() {
    let cloud = Cloud::with(&shade()).await;
    for unanswered in [
        bright("STALE", 0),
        transition("greenhouse-1", "too-cold", "ALARM", 0),
        transition("cellar", "too-bright", "ALARM", 0),
    ] {
        let delivered = cloud.deliver(&unanswered).await;
        assert!(delivered.is_done);
        assert_eq!(delivered.count("Unanswered"), 1, "{unanswered}");
    }
    assert!(cloud.desired().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_document_nothing_is_answered() {
    let cloud = Cloud::new();
    let delivered = cloud.deliver(&bright("ALARM", 0)).await;
    assert!(delivered.is_done);
    assert_eq!((delivered.count("Unanswered"), cloud.desired().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_shadow_is_tried_again_and_the_command_comes_once() {
    let cloud = Cloud::with(&shade()).await;
    let throttled = || UpdateThingShadowError::ThrottlingException(ThrottlingException::builder().build());
    cloud.change(|state| state.refused.extend([throttled as fn() -> _, throttled]));
    assert!(!cloud.deliver(&bright("ALARM", 0)).await.is_done);
    assert!(cloud.play(&[(minutes(6), bright("ALARM", 0))]).await.is_empty());
    assert_eq!(cloud.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_shadow_that_somebody_else_is_changing_is_tried_again_at_once() {
    let cloud = Cloud::with(&shade()).await;
    let conflict = || UpdateThingShadowError::ConflictException(ConflictException::builder().build());
    cloud.change(|state| state.refused.extend([conflict as fn() -> _, conflict]));
    assert!(cloud.deliver(&bright("ALARM", 0)).await.is_done);
    cloud.skip(minutes(20));
    cloud.change(|state| state.refused.extend([conflict as fn() -> _; 3]));
    assert!(!cloud.deliver(&bright("OK", 20)).await.is_done);
    assert_eq!(cloud.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_aws_iot_will_never_take_is_refused() {
    let cloud = Cloud::with(&shade()).await;
    let invalid = || UpdateThingShadowError::InvalidRequestException(InvalidRequestException::builder().build());
    cloud.change(|state| state.refused.extend([invalid as fn() -> _]));
    assert!(cloud.deliver(&bright("ALARM", 0)).await.is_done);
    assert_eq!(cloud.quarantined()[0].0, "bad-desired-state");
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_name_would_be_too_long_is_refused() {
    let cloud = Cloud::with(&shade()).await;
    let long = format!("\"greenhouse-{}\"", "1".repeat(115));
    assert!(cloud.deliver(&bright("ALARM", 0).replace("\"greenhouse-1\"", &long)).await.is_done);
    assert_eq!(cloud.quarantined()[0].0, "bad-device");
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_the_one_that_comes_too_late_decides_anew() {
    let cloud = Cloud::with(&shade()).await;
    let newer = BEGIN.plus(minutes(5)).millis();
    // Between its read and its write, another process has answered a newer transition.
    cloud.change(|state| {
        let other = move |state: &mut cloud::State| {
            let record = [("transition", text("t2")), ("transitionAt", number(newer)), ("stage", text("done"))];
            state.write("greenhouse-1-shade", &record);
        };
        state.change = Some((2, Box::new(other)));
    });
    let delivered = cloud.deliver(&bright("ALARM", 0)).await;
    assert_eq!((delivered.is_done, delivered.count("Superseded")), (true, 1));
    assert!(cloud.desired().is_empty());
}

/// Another process is sending the command of this transition, until then at the latest.
fn other_sends(cloud: &Cloud, id: &str, until: Timestamp) {
    let record = [
        ("transition", text(id)),
        ("transitionAt", number(BEGIN.millis())),
        ("stage", text("sending")),
        ("sendingUntil", number(until.millis())),
    ];
    cloud.change(|state| state.write("greenhouse-1-shade", &record));
}

#[tokio::test(start_paused = true)]
async fn while_another_process_is_sending_a_command_this_one_waits() {
    let cloud = Cloud::with(&shade()).await;
    other_sends(&cloud, "other", BEGIN.plus(Duration::from_secs(5)));
    let delivered = cloud.deliver(&bright("ALARM", 1)).await;
    assert_eq!((delivered.is_done, delivered.count("Commanded")), (true, 1));
    assert!(cloud.now() >= BEGIN.plus(Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn one_that_would_have_to_wait_too_long_is_handed_back() {
    let cloud = Cloud::with(&shade()).await;
    other_sends(&cloud, "other", BEGIN.plus(minutes(5)));
    assert!(!cloud.deliver(&bright("ALARM", 1)).await.is_done);
    assert!(cloud.desired().is_empty());
    cloud.skip(minutes(6));
    assert!(cloud.deliver(&bright("ALARM", 1)).await.is_done);
    assert_eq!(cloud.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_order_is_refused_with_its_reason() {
    let cloud = Cloud::new();
    let with = |field: &str, value: Value| {
        let mut transition: Value = serde_json::from_str(&bright("OK", 0)).unwrap();
        transition[field] = value;
        transition.to_string()
    };
    for (order, reason) in [
        ("too-bright".to_owned(), "not-json"),
        ("[]".to_owned(), "not-an-object"),
        ("{}".to_owned(), "bad-order"),
        (json!({"open": "shade"}).to_string(), "bad-order"),
        (json!({"answers": [], "transition": "t1"}).to_string(), "bad-order"),
        (json!({"transition": "t1"}).to_string(), "missing-field"),
        (with("to", json!("ok")), "unknown-value"),
        (with("thing", json!("greenhouse/1")), "bad-thing-name"),
        (with("transition", json!("x".repeat(129))), "invalid-value"),
        (with("at", json!("noon")), "wrong-type"),
        (with("at", json!(-1)), "invalid-value"),
    ] {
        cloud.change(|state| state.table("quarantine").clear());
        assert!(cloud.deliver(&order).await.is_done, "{order}");
        let refused: Vec<_> = cloud.quarantined().into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(refused, [reason], "{order}");
    }
}

#[test]
fn an_interval_of_more_than_a_day_is_refused_at_the_start() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let error = Cloud::new().variable("MIN_INTERVAL_SECONDS", "86401").actuator().unwrap_err();
        let why = "environment variable MIN_INTERVAL_SECONDS is \"86401\": it must be from 0 to 86400";
        assert_eq!(error.to_string(), why);
    });
}
