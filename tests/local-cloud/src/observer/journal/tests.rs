use std::collections::BTreeMap;

use super::super::RuleTarget;
use super::super::event_path::LogLine;
use super::*;

fn rule(name: &str, filter: &str, functions: &[&str]) -> Rule {
    let targets =
        functions.iter().map(|function| RuleTarget { function: (*function).to_owned(), queue: None }).collect();
    Rule {
        name: name.to_owned(),
        filter: filter.to_owned(),
        function: functions.first().map(|function| (*function).to_owned()),
        queue: None,
        targets,
        sql: String::new(),
        role: None,
    }
}

fn journal(limit: usize) -> Journal {
    let rules = vec![
        rule("telemetry", "telemetry/+", &["gatehouse-telemetry", "gatehouse-alarm"]),
        rule("button", "iotbutton/+", &["gatehouse-button"]),
    ];
    Journal::new(limit, Arc::new(rules))
}

fn publish(journal: &mut Journal, id: &str, topic: &str) {
    let message = PublishedMessage {
        trace_id: id.to_owned(),
        topic: topic.to_owned(),
        client_id: "thing".to_owned(),
        payload: b"{}".to_vec(),
        at: 1_000,
    };
    journal.add_message(&message, false);
}

fn counts(journal: &Journal, function: &str) -> Vec<(&'static str, u64)> {
    journal.totals().outcomes.get(function).into_iter().flatten().map(|(kind, count)| (*kind, *count)).collect()
}

#[test]
fn each_function_has_its_own_outcome() {
    let mut journal = journal(10);
    publish(&mut journal, "a", "telemetry/house");
    journal.add_effect("a", Some("gatehouse-telemetry"), &Effect::Done, 1_010);
    let refused = Effect::Quarantined { reason: "r".to_owned(), why: "w".to_owned() };
    journal.add_effect("a", Some("gatehouse-alarm"), &refused, 1_020);
    let event = journal.event("a").expect("the event");
    let kinds: Vec<_> = event.functions.iter().map(|path| (path.function.as_str(), path.kind())).collect();
    assert_eq!(kinds, [("gatehouse-telemetry", "done"), ("gatehouse-alarm", "quarantine")]);
    assert_eq!((event.kind(), event.finished_at()), ("quarantine", Some(1_020)));
}

#[test]
fn late_retry_does_not_undo_an_outcome() {
    let mut journal = journal(10);
    publish(&mut journal, "a", "iotbutton/b");
    let retried = Effect::Retried { error: "throttled".to_owned() };
    journal.add_effect("a", Some("gatehouse-button"), &retried, 1_010);
    assert_eq!(journal.event("a").map(EventPath::is_finished), Some(false));
    journal.add_effect("a", Some("gatehouse-button"), &Effect::Done, 1_020);
    journal.add_effect("a", Some("gatehouse-button"), &retried, 1_030);
    journal.add_effect("a", Some("gatehouse-button"), &Effect::Duplicate, 1_040);
    assert_eq!(counts(&journal, "gatehouse-button"), [("done", 1)]);
}

#[test]
fn notification_belongs_to_the_function_that_its_topic_names() {
    let mut journal = journal(10);
    publish(&mut journal, "a", "telemetry/house");
    let notification = Notification {
        topic: "gatehouse-alarms".to_owned(),
        message: "too bright".to_owned(),
        data: Some(serde_json::json!({"transition": "t", "thing": "thing", "at": 1_000})),
        subject: None,
        attributes: BTreeMap::new(),
    };
    // It has an id of its own.
    journal.add_effect("another-id", None, &Effect::Notified(notification), 1_050);
    journal.add_effect("a", Some("gatehouse-alarm"), &Effect::Done, 1_060);
    journal.add_effect("a", Some("gatehouse-telemetry"), &Effect::Done, 1_060);
    assert_eq!(counts(&journal, "gatehouse-alarm"), [("notification", 1)]);
    assert_eq!(counts(&journal, "gatehouse-telemetry"), [("done", 1)]);
    assert_eq!(journal.event("a").map(|event| event.notifications.len()), Some(1));
}

#[test]
fn fault_is_marked_by_id_or_by_the_time_of_the_invocation() {
    let strike = |at: u64, ids: &[&str]| FaultStrike {
        function: "gatehouse-button".to_owned(),
        service: "SNS".to_owned(),
        operation: "Publish".to_owned(),
        fault: "throttled".to_owned(),
        at,
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    };
    let attempt = |started_at, ended_at| Attempt {
        request_id: "r".to_owned(),
        started_at,
        ended_at,
        lines: vec![LogLine { event_id: Some("other".to_owned()), text: "l".to_owned() }],
    };
    let mut journal = journal(10);
    publish(&mut journal, "a", "iotbutton/b");
    publish(&mut journal, "b", "iotbutton/b");
    journal.add_strike(&strike(1_005, &["a"]));
    journal.add_strike(&strike(1_105, &[]));
    journal.add_attempt("gatehouse-button", &["a".to_owned()], &attempt(1_000, 1_010));
    journal.add_attempt("gatehouse-button", &["b".to_owned()], &attempt(1_100, 1_110));
    let strikes = |id: &str| journal.event(id).map(|event| event.strikes.iter().map(|strike| strike.at).collect());
    assert_eq!((strikes("a"), strikes("b")), (Some(vec![1_005]), Some(vec![1_105])));
    let attempts = journal.event("a").map(|event| event.functions.iter().map(|path| path.attempts.clone()).collect());
    let attempts: Vec<Vec<Attempt>> = attempts.expect("the event");
    assert!(attempts.iter().flatten().all(|attempt| attempt.lines.is_empty()), "another event's line is shown");
}

#[test]
fn ten_thousand_events_are_counted_and_the_newest_are_kept() {
    let mut journal = journal(500);
    for number in 0..10_000 {
        publish(&mut journal, &format!("event-{number}"), "telemetry/house");
    }
    // Most are no longer kept when their functions finish, one function long after the other.
    for function in ["gatehouse-telemetry", "gatehouse-alarm"] {
        for number in 0..10_000 {
            journal.add_effect(&format!("event-{number}"), Some(function), &Effect::Done, 2_000);
        }
    }
    assert_eq!(journal.totals().messages, 10_000);
    assert_eq!(journal.totals().rules.get("telemetry"), Some(&10_000));
    assert_eq!(counts(&journal, "gatehouse-telemetry"), [("done", 10_000)]);
    assert_eq!(counts(&journal, "gatehouse-alarm"), [("done", 10_000)]);
    assert_eq!(journal.events().count(), 500);
    assert_eq!((journal.numbers.len(), journal.unfinished.len()), (500, 0));
    assert!(journal.event("event-9999").is_some() && journal.event("event-9499").is_none());
}

#[test]
fn large_payloads_do_not_fill_the_memory() {
    let mut journal = journal(10_000);
    for number in 0..1_000 {
        let message = PublishedMessage {
            trace_id: format!("event-{number}"),
            topic: "telemetry/house".to_owned(),
            client_id: "thing".to_owned(),
            payload: vec![b' '; 128 * 1024],
            at: 0,
        };
        journal.add_message(&message, false);
    }
    assert!(journal.bytes <= MAX_BYTES, "{} bytes", journal.bytes);
    assert_eq!(journal.events().map(|event| event.message.payload.len()).sum::<usize>(), journal.bytes);
    assert_eq!(journal.totals().messages, 1_000);
}
