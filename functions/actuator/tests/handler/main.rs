//! The whole function except for the Lambda runtime: transitions go in, calls to AWS come out, and messages that the
//! function sends to its own queue come back to it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failing test panics")]

mod account;
mod actions;
mod faults;
mod infrared;
mod samples;
mod triggers;

use std::time::Duration;

use gatehouse::Timestamp;
use serde_json::{Value, json};
use test_support::{Fault, NOW, SentMessage, sqs_batch};

use crate::account::{Account, is_done};

/// A shade that closes when it gets too bright, and opens again.
pub fn shade() -> Value {
    let action = |to: &str, position: &str| {
        json!({"alarm": "too-bright", "to": to, "things": "greenhouse-*", "device": "{thing}-shade",
               "command": {"shadow": {"desired": {"position": position}}}})
    };
    json!({"actions": [action("ALARM", "closed"), action("OK", "open")]})
}

/// A number of minutes.
pub const fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// The transition of a thing's alarm at this minute.
pub fn transition(thing: &str, alarm: &str, to: &str, minute: u64) -> String {
    let at = NOW.plus(minutes(minute)).millis();
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
async fn alarm_sets_a_desired_state() {
    let account = Account::with(&shade()).await;
    let delivered = account.deliver(&bright("ALARM", 0)).await;
    assert!(is_done(&delivered));
    assert_eq!(delivered.count("Commanded"), 1);
    assert_eq!(account.desired(), [("greenhouse-1-shade".to_owned(), json!({"position": "closed"}))]);
    // One read of the document and one of the record, then a write before the command and one after it.
    assert_eq!(account.operations(), ["GetItem", "GetItem", "PutItem", "UpdateThingShadow", "PutItem"]);
}

#[tokio::test(start_paused = true)]
async fn named_shadow_is_updated_by_name() {
    let document = json!({"actions": [{"alarm": "too-bright", "to": "ALARM",
        "command": {"shadow": {"name": "shade", "desired": {"position": "closed", "speed": 2.5}}}}]});
    let account = Account::with(&document).await;
    account.deliver(&bright("ALARM", 0)).await;
    let desired = json!({"position": "closed", "speed": 2.5});
    assert_eq!(account.desired(), [("greenhouse-1/shade".to_owned(), desired)]);
}

#[tokio::test(start_paused = true)]
async fn repeated_transition_commands_once() {
    let account = Account::with(&shade()).await;
    for (minute, duplicates) in [(0, 0), (0, 1), (60, 1)] {
        account.skip(minutes(minute));
        let delivered = account.deliver(&bright("ALARM", 0)).await;
        assert!(is_done(&delivered));
        assert_eq!(delivered.count("Duplicate"), duplicates);
    }
    assert_eq!(account.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn repeated_transition_in_one_batch_commands_once() {
    let account = Account::with(&shade()).await;
    let delivered = account.invoke(&sqs_batch([bright("ALARM", 0), bright("ALARM", 0)])).await;
    assert!(is_done(&delivered));
    assert_eq!((delivered.count("Commanded"), delivered.count("Duplicate")), (1, 1));
    assert_eq!(account.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn opposite_command_is_delayed_by_the_rest_of_the_interval() {
    let account = Account::with(&shade()).await;
    account.deliver(&bright("ALARM", 0)).await;
    account.skip(minutes(4));
    let delivered = account.deliver(&bright("OK", 4)).await;
    assert!(is_done(&delivered), "a delay does not use up a receive");
    assert_eq!(delivered.count("Delayed"), 1);
    assert_eq!(account.positions(), ["closed"]);
    let sent = account.take_sent();
    assert_eq!(sent, [SentMessage { body: bright("OK", 4), delay: minutes(11) }]);

    account.skip(minutes(11));
    assert_eq!(account.deliver(&sent[0].body).await.count("Commanded"), 1);
    assert_eq!(account.positions(), ["closed", "open"]);
}

#[tokio::test(start_paused = true)]
async fn delayed_command_is_never_too_early() {
    let account = Account::with(&shade()).await;
    account.deliver(&bright("ALARM", 0)).await;
    account.skip(Duration::from_millis(100));
    account.deliver(&bright("OK", 1)).await;
    // 14 minutes and 59.9 seconds, in whole seconds.
    assert_eq!(account.take_sent()[0].delay, minutes(15));
}

#[tokio::test(start_paused = true)]
async fn interval_beyond_the_maximum_delay_takes_several_messages() {
    let account = Account::with(&shade()).await.env("MIN_INTERVAL_SECONDS", "2400");
    assert!(account.play(&[(minutes(0), bright("ALARM", 0)), (minutes(1), bright("OK", 1))]).await.is_empty());
    assert_eq!(account.aws.state().calls_to("SendMessage").len(), 3);
    assert_eq!((account.positions(), account.gap()), (vec!["closed".to_owned(), "open".to_owned()], minutes(40)));
}

#[tokio::test(start_paused = true)]
async fn delayed_command_is_superseded_by_a_newer_transition() {
    let account = Account::with(&shade()).await;
    let story = [(0, "ALARM"), (4, "OK"), (8, "ALARM")].map(|(at, to)| (minutes(at), bright(to, at)));
    assert!(account.play(&story).await.is_empty());
    // The shade never opened in between; it is commanded to close once more.
    assert_eq!(account.positions(), ["closed", "closed"]);
}

#[tokio::test(start_paused = true)]
async fn newest_of_several_delayed_commands_is_sent_last() {
    let account = Account::with(&shade()).await;
    let story = [(0, 0, "ALARM"), (2, 2, "OK"), (3, 3, "ALARM"), (9, 9, "OK"), (10, 8, "ALARM")];
    let story = story.map(|(arrives, at, to)| (minutes(arrives), bright(to, at)));
    assert!(account.play(&story).await.is_empty());
    assert_eq!(account.positions(), ["closed", "closed", "open"]);
}

#[tokio::test(start_paused = true)]
async fn older_transition_that_arrives_late_commands_nothing() {
    let account = Account::with(&shade()).await;
    account.skip(minutes(40));
    account.deliver(&bright("OK", 30)).await;
    let delivered = account.deliver(&bright("ALARM", 10)).await;
    assert!(is_done(&delivered));
    assert_eq!(delivered.count("Superseded"), 1);
    assert_eq!(account.positions(), ["open"]);
}

#[tokio::test(start_paused = true)]
async fn devices_do_not_wait_for_each_other() {
    let account = Account::with(&shade()).await;
    account.deliver(&transition("greenhouse-1", "too-bright", "ALARM", 0)).await;
    account.deliver(&transition("greenhouse-2", "too-bright", "OK", 0)).await;
    assert_eq!(account.positions(), ["closed", "open"]);
}

#[tokio::test(start_paused = true)]
async fn different_alarms_keep_the_interval_on_one_device() {
    let action = |alarm: &str, position: &str| {
        json!({"alarm": alarm, "to": "ALARM", "device": "shade",
               "command": {"shadow": {"desired": {"position": position}}}})
    };
    let document = json!({"actions": [action("too-bright", "closed"), action("too-cold", "open")]});
    let account = Account::with(&document).await;
    let cold = transition("greenhouse-2", "too-cold", "ALARM", 1);
    assert!(account.play(&[(minutes(0), bright("ALARM", 0)), (minutes(1), cold)]).await.is_empty());
    assert_eq!((account.positions(), account.gap()), (vec!["closed".to_owned(), "open".to_owned()], minutes(15)));
}

#[tokio::test(start_paused = true)]
async fn transition_without_an_action_is_done() {
    let account = Account::with(&shade()).await;
    for unmatched in [
        bright("STALE", 0),
        transition("greenhouse-1", "too-cold", "ALARM", 0),
        transition("cellar", "too-bright", "ALARM", 0),
    ] {
        let delivered = account.deliver(&unmatched).await;
        assert!(is_done(&delivered));
        assert_eq!(delivered.count("Unmatched"), 1, "{unmatched}");
    }
    assert!(account.desired().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_document_no_transition_has_an_action() {
    let account = Account::new();
    let delivered = account.deliver(&bright("ALARM", 0)).await;
    assert!(is_done(&delivered));
    assert_eq!((delivered.count("Unmatched"), account.desired().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn throttled_shadow_update_is_retried_and_made_once() {
    let account = Account::with(&shade()).await;
    // The SDK makes three attempts.
    account.aws.fail_next("UpdateThingShadow", [Fault::Throttled; 4]);
    assert!(!is_done(&account.deliver(&bright("ALARM", 0)).await));
    assert!(account.play(&[(minutes(6), bright("ALARM", 0))]).await.is_empty());
    assert_eq!(account.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn conflicting_shadow_update_is_repeated_a_few_times() {
    let account = Account::with(&shade()).await;
    let conflict = Fault::Error(409, "ConflictException");
    account.aws.fail_next("UpdateThingShadow", [conflict; 2]);
    assert!(is_done(&account.deliver(&bright("ALARM", 0)).await));
    account.skip(minutes(20));
    account.aws.fail_next("UpdateThingShadow", [conflict; 3]);
    assert!(!is_done(&account.deliver(&bright("OK", 20)).await));
    assert_eq!(account.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn state_that_aws_iot_rejects_is_refused() {
    let account = Account::with(&shade()).await;
    account.aws.fail_next("UpdateThingShadow", [Fault::Error(400, "InvalidRequestException")]);
    assert!(is_done(&account.deliver(&bright("ALARM", 0)).await));
    assert_eq!(account.quarantined()[0].0, "bad-desired-state");
}

#[tokio::test(start_paused = true)]
async fn device_name_that_becomes_too_long_is_refused() {
    let account = Account::with(&shade()).await;
    let long = format!("\"greenhouse-{}\"", "1".repeat(115));
    assert!(is_done(&account.deliver(&bright("ALARM", 0).replace("\"greenhouse-1\"", &long)).await));
    assert_eq!(account.quarantined()[0].0, "bad-device");
}

const SHADE: [&str; 2] = ["device#greenhouse-1-shade", "command"];

#[tokio::test(start_paused = true)]
async fn conflicting_write_lets_the_record_decide_again() {
    let account = Account::with(&shade()).await;
    let newer = NOW.plus(minutes(5)).millis().to_string();
    // Between the read and the write of the record, another process handles a newer transition.
    account.aws.change(3, move |state| {
        let record = json!({"version": {"N": "1"}, "transition": {"S": "t2"}, "transitionAt": {"N": newer},
                            "stage": {"S": "done"}});
        state.set_attributes("actuator", &SHADE, &record);
    });
    let delivered = account.deliver(&bright("ALARM", 0)).await;
    assert_eq!((is_done(&delivered), delivered.count("Superseded")), (true, 1));
    assert_eq!(delivered.count("Conflicts"), 1);
    assert!(account.desired().is_empty());
}

/// Lets another process send this transition's command, until then at the latest.
fn other_process_sends(account: &Account, id: &str, until: Timestamp) {
    let record = json!({"version": {"N": "1"}, "transition": {"S": id},
                        "transitionAt": {"N": NOW.millis().to_string()}, "stage": {"S": "sending"},
                        "sendingUntil": {"N": until.millis().to_string()}});
    account.aws.state().set_attributes("actuator", &SHADE, &record);
}

#[tokio::test(start_paused = true)]
async fn invocation_waits_while_another_sends_a_command() {
    let account = Account::with(&shade()).await;
    other_process_sends(&account, "other", NOW.plus(Duration::from_secs(5)));
    let delivered = account.deliver(&bright("ALARM", 1)).await;
    assert_eq!((is_done(&delivered), delivered.count("Commanded")), (true, 1));
    assert!(account.now() >= NOW.plus(Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn transition_that_would_wait_too_long_is_retried() {
    let account = Account::with(&shade()).await;
    other_process_sends(&account, "other", NOW.plus(minutes(5)));
    assert!(!is_done(&account.deliver(&bright("ALARM", 1)).await));
    assert!(account.desired().is_empty());
    account.skip(minutes(6));
    assert!(is_done(&account.deliver(&bright("ALARM", 1)).await));
    assert_eq!(account.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn invalid_input_is_refused_with_its_reason() {
    let account = Account::new();
    let with = |field: &str, value: Value| {
        let mut transition: Value = serde_json::from_str(&bright("OK", 0)).unwrap();
        transition[field] = value;
        transition.to_string()
    };
    for (input, reason) in [
        ("too-bright".to_owned(), "not-json"),
        ("[]".to_owned(), "not-an-object"),
        ("{}".to_owned(), "bad-order"),
        (json!({"open": "shade"}).to_string(), "bad-order"),
        (json!({"actions": [], "transition": "t1"}).to_string(), "bad-order"),
        (json!({"answers": [], "transition": "t1"}).to_string(), "bad-order"),
        (json!({"actions": [], "answers": []}).to_string(), "duplicate-field"),
        (json!({"transition": "t1"}).to_string(), "missing-field"),
        (with("to", json!("ok")), "unknown-value"),
        (with("thing", json!("greenhouse/1")), "bad-thing-name"),
        (with("transition", json!("x".repeat(129))), "invalid-value"),
        (with("at", json!("noon")), "wrong-type"),
        (with("at", json!(-1)), "number-out-of-range"),
    ] {
        account.aws.state().tables.retain(|(table, _), _| table != "quarantine");
        assert!(is_done(&account.deliver(&input).await), "{input}");
        let refused: Vec<_> = account.quarantined().into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(refused, [reason], "{input}");
    }
}

#[test]
fn interval_of_more_than_a_day_prevents_the_start() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let process = Account::new().env("MIN_INTERVAL_SECONDS", "86401").aws.process();
        let error = Account::handler(&process).unwrap_err();
        let why = "environment variable MIN_INTERVAL_SECONDS is \"86401\": it must be from 0 to 86400";
        assert_eq!(error.to_string(), why);
    });
}
