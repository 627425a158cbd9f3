use std::collections::BTreeMap;

use serde_json::json;

use super::rule::{filter_matches, from_clause, is_same_queue};
use super::state::Observed;
use super::*;

#[test]
fn filter_matches_topics_as_mqtt_specifies() {
    for (filter, topic, is_match) in [
        ("iotbutton/+", "iotbutton/a", true),
        ("iotbutton/+", "iotbutton", false),
        ("iotbutton/+", "iotbutton/a/b", false),
        ("iotbutton/+", "doorbell/a", false),
        ("a/#", "a/b/c", true),
        ("#", "a", true),
        ("a/+/c", "a/b/c", true),
        ("#", "$aws/things/a", false),
        ("+/things/a", "$aws/things/a", false),
        ("$aws/#", "$aws/things/a", true),
    ] {
        assert_eq!(filter_matches(filter, topic), is_match, "{filter} and {topic}");
    }
}

#[test]
fn presence_notification_belongs_to_the_session_that_it_names() {
    let event = |session: &str, timestamp: u64| PublishedMessage {
        trace_id: "t".to_owned(),
        topic: "$aws/events/presence/disconnected/buoy".to_owned(),
        client_id: String::new(),
        payload: json!({"clientId": "buoy", "sessionIdentifier": session, "timestamp": timestamp}).to_string().into(),
        at: 0,
    };
    let notice = json!({"notice": "n", "thing": "buoy", "sessionIdentifier": "s", "since": 5});
    let notified = Effect::Notified(Notification {
        topic: "presence".to_owned(),
        message: "buoy is away".to_owned(),
        data: Some(notice),
        subject: None,
        attributes: BTreeMap::new(),
    });
    assert!(notified.is_state_change_by(&event("s", 5)));
    assert!(!notified.is_state_change_by(&event("s", 6)));
    assert!(!notified.is_state_change_by(&event("another", 5)));
    assert!(!Effect::Done.is_state_change_by(&event("s", 5)));
}

fn observed(function: Option<&str>, effect: Effect) -> Observed {
    let function = function.map(str::to_owned);
    Observed { event_id: "e".to_owned(), function, timed: Timed { effect, at: 0 } }
}

#[test]
fn outcome_of_another_function_does_not_stand_in() {
    let mut state = State::new(None);
    state.effects.push(observed(Some("alarm"), Effect::Done));
    assert!(state.outcome("e", "telemetry").is_none(), "alarm's outcome is taken for telemetry's");
    let quarantined = Effect::Quarantined { reason: "not-json".to_owned(), why: "It is not JSON.".to_owned() };
    state.effects.push(observed(Some("telemetry"), Effect::Retried { error: "throttled".to_owned() }));
    state.effects.push(observed(Some("telemetry"), quarantined.clone()));
    assert_eq!(state.outcome("e", "telemetry").map(|timed| timed.effect), Some(quarantined));
    assert_eq!(state.outcome("e", "alarm").map(|timed| timed.effect), Some(Effect::Done));
}

#[test]
fn what_topics_and_queues_deliver_belongs_to_the_event() {
    let mut state = State::new(None);
    let message = QueueMessage {
        account: "111122223333".to_owned(),
        queue: "partner".to_owned(),
        body: "{}".to_owned(),
        attributes: BTreeMap::new(),
    };
    state.effects.push(observed(None, Effect::Forwarded(message.clone())));
    let effects = |event: &str| state.effects(event, "forward").into_iter().map(|timed| timed.effect);
    assert!(effects("e").eq([Effect::Forwarded(message)]));
    assert_eq!(effects("another").count(), 0);
}

#[test]
fn queue_is_identified_by_url_or_arn() {
    let arn = "arn:aws:sqs:us-east-1:111122223333:gatehouse-jitr";
    for (url, is_same) in [
        ("http://127.0.0.1:4566/111122223333/gatehouse-jitr", true),
        ("https://sqs.us-east-1.amazonaws.com/111122223333/gatehouse-jitr", true),
        ("http://127.0.0.1:4566/111122223333/gatehouse-jitr-dlq", false),
        ("http://127.0.0.1:4566/444455556666/gatehouse-jitr", false),
        ("", false),
    ] {
        assert_eq!(is_same_queue(arn, url), is_same, "{url}");
    }
    assert!(!is_same_queue("arn:aws:kinesis:us-east-1:1:stream/a", "http://127.0.0.1:4566/1/stream/a"));
}

#[test]
fn filter_is_read_from_the_sql() {
    assert_eq!(from_clause("SELECT encode(*, 'base64') AS x FROM 'iotbutton/+'"), Some("iotbutton/+"));
    assert_eq!(from_clause("SELECT * FROM 'a/b' WHERE c = 'd'"), Some("a/b"));
    assert_eq!(from_clause("SELECT 1"), None);
}
