//! The whole function but for the Lambda runtime, against a small AWS: messages go in, and whatever fails on the way,
//! each is in its queues in the end, or in quarantine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod aws;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use aws::{Aws, CallFault, Delivered, EntryFault, NOW, template};
use serde_json::{Value, json};
use tokio::time::Instant;

const QUEUE: &str = "https://sqs.eu-west-1.amazonaws.com/222222222222/weather";
const FIFO: &str = "https://sqs.eu-west-1.amazonaws.com/222222222222/weather.fifo";
const OTHER: &str = "https://sqs.us-east-1.amazonaws.com/333333333333/weather";

/// What the template gives the function for this queue.
fn to(queue: &str) -> [(&str, &str); 1] {
    [("DESTINATION_QUEUE_URL", queue)]
}

fn event(id: &str, thing: &str, received_at: u64, payload: &Value) -> Value {
    json!({
        "payload": payload, "thing": thing, "topic": "Weather/Corp/temperature", "traceId": id,
        "receivedAt": NOW.millis() + received_at,
    })
}

fn reading(id: &str) -> Value {
    event(id, "station-1", 0, &json!(id))
}

/// What no queue takes, nor anything in one call with it.
fn poison() -> Value {
    reading("poison")
}

/// As SQS hands it to the function; each message's id is its event's.
fn batch<'a>(events: impl IntoIterator<Item = &'a Value>) -> Value {
    let record = |event: &Value| {
        let id = event.get("traceId").cloned().unwrap_or_else(|| "order".into());
        json!({"eventSource": "aws:sqs", "messageId": id, "body": event.to_string()})
    };
    json!({"Records": events.into_iter().map(record).collect::<Vec<_>>()})
}

fn document(destinations: &[(&str, &str, &str, &str)]) -> Value {
    let mut all = Vec::new();
    for (name, topics, queue, binary) in destinations {
        all.push(json!({"name": name, "topics": topics, "queueUrl": queue, "binary": binary}));
    }
    json!({"destinations": all})
}

#[track_caller]
fn assert_done(delivered: &Delivered) {
    assert_eq!(delivered.answer, Ok(json!({"outcome": "done"})));
}

async fn put(aws: &Aws, document: &Value) {
    assert_done(&aws.deliver(&[], document, NOW).await);
}

#[tokio::test(start_paused = true)]
async fn a_message_arrives_with_what_is_known_of_it() {
    let aws = Aws::default().with_queue(QUEUE);
    let delivered = aws.deliver(&to(QUEUE), &event("e-1", "station-1", 5, &json!({"celsius": 22.5})), NOW).await;
    assert_done(&delivered);
    assert_eq!(delivered.counted["Forwarded"], 1);
    let text = |value: &str| json!({"DataType": "String", "StringValue": value});
    let expected = json!({
        "Id": "0",
        "MessageBody": r#"{"celsius":22.5}"#,
        "MessageAttributes": {
            "topic": text("Weather/Corp/temperature"),
            "thing": text("station-1"),
            "traceId": text("e-1"),
            "receivedAt": {"DataType": "Number", "StringValue": "1700000000005"},
            "contentType": text("application/json"),
        },
    });
    assert_eq!(aws.state().queues[QUEUE].messages, [expected]);
}

#[tokio::test(start_paused = true)]
async fn on_fifo_it_is_grouped_by_thing_and_known_by_its_trace_id() {
    let aws = Aws::default().with_queue(FIFO);
    for _ in 0..2 {
        assert_done(&aws.deliver(&to(FIFO), &reading("e-1"), NOW).await);
    }
    let state = aws.state();
    let [message] = state.queues[FIFO].messages.as_slice() else { panic!("not one message") };
    assert_eq!((&message["MessageGroupId"], &message["MessageDeduplicationId"]), (&json!("station-1"), &json!("e-1")));
}

#[tokio::test(start_paused = true)]
async fn fifo_remembers_a_message_at_the_second_try_and_not_at_the_third() {
    let aws = Aws::default().with_queue(FIFO);
    aws.state().entry_fault = Some(Box::new(|_| Some(EntryFault::TakenAndFailed)));
    let mut now = NOW;
    for there in [1, 1, 2] {
        assert_eq!(aws.deliver(&to(FIFO), &batch([&reading("e-1")]), now).await.back(), ["e-1"]);
        assert_eq!(aws.state().bodies(FIFO).len(), there);
        // The last call of one invocation and the first of another are further apart than that.
        now = now.plus(template("VisibilityTimeout") + template("Timeout"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_destination_takes_is_refused() {
    let aws = Aws::default().with_queue(QUEUE);
    let elsewhere = [("DESTINATION_QUEUE_URL", QUEUE), ("DESTINATION_TOPICS", "Weather/+/humidity")];
    for variables in [&[][..], &elsewhere] {
        let answer = aws.deliver(variables, &reading("e-1"), NOW).await.answer.unwrap();
        assert_eq!(answer["reason"], "no-destination");
    }
    assert_eq!(aws.state().quarantined(), BTreeMap::from([("e-1", "no-destination")]));
    assert_eq!(aws.state().hosts, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_is_not_json_goes_in_base64_or_is_refused() {
    let aws = Aws::default().with_queue(QUEUE);
    let mut event = reading("e-1");
    event.as_object_mut().unwrap().remove("payload");
    event["payloadBase64"] = "/wA=".into();
    assert_eq!(aws.deliver(&to(QUEUE), &event, NOW).await.answer.unwrap()["reason"], "not-json");
    let base64 = [("DESTINATION_QUEUE_URL", QUEUE), ("DESTINATION_BINARY", "base64")];
    assert_done(&aws.deliver(&base64, &event, NOW).await);
    assert_eq!(aws.state().bodies(QUEUE), ["/wA="]);
}

#[tokio::test(start_paused = true)]
async fn a_document_takes_the_place_of_the_templates_destination() {
    let aws = Aws::default().with_queue(QUEUE).with_queue(OTHER);
    put(&aws, &document(&[("partner", "Weather/#", OTHER, "refuse")])).await;
    assert_done(&aws.deliver(&to(QUEUE), &reading("e-1"), NOW).await);
    assert_eq!(aws.state().bodies(QUEUE), [""; 0]);
    assert_eq!(aws.state().bodies(OTHER), ["\"e-1\""]);
    put(&aws, &json!({"destinations": []})).await;
    let answer = aws.deliver(&to(QUEUE), &reading("e-2"), NOW).await.answer.unwrap();
    assert_eq!(answer["reason"], "no-destination");
}

#[tokio::test(start_paused = true)]
async fn a_bad_document_is_refused_and_the_last_good_one_stays_in_force() {
    let aws = Aws::default().with_queue(QUEUE);
    put(&aws, &document(&[("partner", "Weather/#", QUEUE, "refuse")])).await;
    for (bad, reason) in [
        (json!({"destination": []}), "unknown-field"),
        (json!({"destinations": {}}), "wrong-type"),
        (json!({"destinations": [{"name": "a", "topics": "#"}]}), "missing-field"),
        (json!({"destinations": [{"name": "a", "topics": 1, "queueUrl": QUEUE}]}), "wrong-type"),
        (json!({"destinations": [{"name": "a", "topics": [], "queueUrl": QUEUE}]}), "invalid-value"),
        (json!({"destinations": [{"name": "a", "topics": ["#", "a+"], "queueUrl": QUEUE}]}), "invalid-value"),
        (document(&[("a", "Weather/#/more", QUEUE, "refuse")]), "invalid-value"),
        (document(&[("a", "#", "weather", "refuse")]), "invalid-value"),
        (document(&[("a", "#", QUEUE, "drop")]), "unknown-value"),
        (document(&[("a", "#", QUEUE, "refuse"), ("a", "+", OTHER, "refuse")]), "bad-document"),
        (document(&[("a", "+", QUEUE, "refuse"), ("b", "#", QUEUE, "refuse")]), "bad-document"),
        (document(&[("", "#", QUEUE, "refuse")]), "bad-document"),
        (document(&[("a b", "#", QUEUE, "refuse")]), "bad-document"),
    ] {
        let answer = aws.deliver(&[], &bad, NOW).await.answer.unwrap();
        assert_eq!(answer["reason"], reason, "{bad}: {answer}");
    }
    assert_done(&aws.deliver(&[], &reading("e-1"), NOW).await);
    assert_eq!(aws.state().bodies(QUEUE), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_comes_late_does_not_undo_a_later_one() {
    let aws = Aws::default().with_queue(QUEUE);
    put(&aws, &document(&[("partner", "Weather/#", QUEUE, "refuse")])).await;
    let earlier = NOW.minus(Duration::from_secs(1));
    assert_done(&aws.deliver(&[], &json!({"destinations": []}), earlier).await);
    assert_done(&aws.deliver(&[], &reading("e-1"), NOW).await);
}

#[tokio::test(start_paused = true)]
async fn an_order_among_messages_holds_for_them_already() {
    let aws = Aws::default().with_queue(QUEUE);
    let order = document(&[("partner", "Weather/#", QUEUE, "refuse")]);
    let delivered = aws.deliver(&[], &batch([&reading("e-1"), &order, &reading("e-2")]), NOW).await;
    assert_eq!(delivered.back(), [""; 0]);
    assert_eq!(aws.state().bodies(QUEUE), ["\"e-1\"", "\"e-2\""]);
}

#[tokio::test(start_paused = true)]
async fn the_region_comes_from_the_queues_url_and_an_endpoint_that_is_set_wins() {
    let aws = Aws::default().with_queue(QUEUE).with_queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse")])).await;
    assert_done(&aws.deliver(&[], &reading("e-1"), NOW).await);
    let local = [("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")];
    assert_done(&aws.deliver(&local, &reading("e-2"), NOW).await);
    let (ours, theirs) = ("sqs.eu-west-1.amazonaws.com", "sqs.us-east-1.amazonaws.com");
    assert_eq!(aws.state().hosts, [ours, theirs, "127.0.0.1:4566", "127.0.0.1:4566"]);
}

#[tokio::test(start_paused = true)]
async fn what_one_of_several_has_not_taken_is_tried_again_there_alone() {
    let aws = Aws::default().with_queue(QUEUE).with_queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "Weather/Corp/+", OTHER, "refuse")])).await;
    aws.state().queues.get_mut(OTHER).unwrap().closed = Some(("AccessDenied", "no"));
    for _ in 0..3 {
        let delivered = aws.deliver(&[], &batch([&reading("e-1"), &reading("e-2")]), NOW).await;
        assert_eq!(delivered.back(), ["e-1", "e-2"]);
    }
    aws.state().queues.get_mut(OTHER).unwrap().closed = None;
    assert_eq!(aws.deliver(&[], &batch([&reading("e-1"), &reading("e-2")]), NOW).await.back(), [""; 0]);
    for queue in [QUEUE, OTHER] {
        assert_eq!(aws.state().bodies(queue), ["\"e-1\"", "\"e-2\""]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_destination_has_taken_it_does_not_get_again_when_the_other_is_removed() {
    let aws = Aws::default().with_queue(QUEUE);
    let (here, gone) = (("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse"));
    for (destinations, back) in [(&[here, gone][..], &["e-1"][..]), (&[here], &[])] {
        put(&aws, &document(destinations)).await;
        assert_eq!(aws.deliver(&[], &batch([&reading("e-1")]), NOW).await.back(), back);
    }
    assert_eq!(aws.state().bodies(QUEUE), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn what_a_destination_has_taken_it_does_not_get_again_when_it_is_removed_and_comes_back() {
    let aws = Aws::default().with_queue(QUEUE).with_queue(FIFO);
    let [a, b, gone] = [("a", QUEUE), ("b", FIFO), ("c", OTHER)].map(|(name, queue)| (name, "#", queue, "refuse"));
    for destinations in [[a, gone], [b, gone], [a, gone]] {
        put(&aws, &document(&destinations)).await;
        assert_eq!(aws.deliver(&[], &batch([&reading("e-1")]), NOW).await.back(), ["e-1"]);
    }
    let state = aws.state();
    assert_eq!((state.bodies(QUEUE), state.bodies(FIFO)), (vec!["\"e-1\""], vec!["\"e-1\""]));
}

#[tokio::test(start_paused = true)]
async fn a_destination_gets_a_message_once_however_many_of_its_topics_match() {
    let aws = Aws::default().with_queue(QUEUE);
    let topics = ["Weather/Corp/humidity", "Weather/Corp/+", "Weather/#"];
    put(&aws, &json!({"destinations": [{"name": "a", "topics": topics, "queueUrl": QUEUE}]})).await;
    assert_done(&aws.deliver(&[], &reading("e-1"), NOW).await);
    assert_eq!(aws.state().bodies(QUEUE), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn what_one_of_several_refuses_the_others_get_and_do_not_get_again() {
    let aws = Aws::default().with_queue(QUEUE).with_queue(OTHER);
    let mut event = reading("e-1");
    event["payloadBase64"] = "/wA=".into();
    event.as_object_mut().unwrap().remove("payload");
    put(&aws, &document(&[("a", "#", QUEUE, "base64"), ("b", "#", OTHER, "refuse")])).await;
    let answer = aws.deliver(&[], &event, NOW).await.answer.unwrap();
    assert_eq!((&answer["reason"], aws.state().bodies(QUEUE)), (&json!("not-json"), vec!["/wA="]));
    // The operator has another look, and sends it again from quarantine.
    put(&aws, &document(&[("a", "#", QUEUE, "base64"), ("b", "#", OTHER, "base64")])).await;
    assert_done(&aws.deliver(&[], &event, NOW).await);
    for queue in [QUEUE, OTHER] {
        assert_eq!(aws.state().bodies(queue), ["/wA="]);
    }
}

#[tokio::test(start_paused = true)]
async fn where_what_was_taken_cannot_be_read_nothing_is_sent() {
    let aws = Aws::default().with_queue(QUEUE).with_queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse")])).await;
    for operation in ["BatchGetItem", "GetItem"] {
        aws.state().dynamodb_faults = BTreeSet::from([operation]);
        assert_eq!(aws.deliver(&[], &batch([&reading("e-1")]), NOW).await.back(), ["e-1"]);
    }
    assert_eq!(aws.state().hosts, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_handed_back() {
    let aws = Aws::default().with_queue(QUEUE);
    aws.state().entry_fault = Some(Box::new(|entry| match entry["MessageBody"].as_str()? {
        "\"e-3\"" => Some(EntryFault::Failed("InternalError", false)),
        // Throttling counts as the sender's fault, and passes all the same.
        "\"e-5\"" => Some(EntryFault::Failed("RequestThrottled", true)),
        "\"e-7\"" => Some(EntryFault::Forgotten),
        "\"e-9\"" => Some(EntryFault::Failed("InvalidMessageContents", true)),
        _ => None,
    }));
    let events: Vec<_> = (0..25).map(|n| reading(&format!("e-{n}"))).collect();
    let delivered = aws.deliver(&to(QUEUE), &batch(&events), NOW).await;
    assert_eq!(delivered.back(), ["e-3", "e-5", "e-7"]);
    assert_eq!(aws.state().hosts.len(), 3, "25 messages are three batches");
    assert_eq!(aws.state().queues[QUEUE].messages.len(), 21);
    assert_eq!(aws.state().quarantined(), BTreeMap::from([("e-9", "not-taken")]));
}

#[tokio::test(start_paused = true)]
async fn a_message_for_which_the_whole_call_is_turned_away_does_not_hold_its_neighbours_back() {
    let aws = Aws::default().with_queue(QUEUE);
    let events = [reading("e-1"), poison(), reading("e-3")];
    assert_eq!(aws.deliver(&to(QUEUE), &batch(&events), NOW).await.back(), [""; 0]);
    assert_eq!(aws.state().bodies(QUEUE), ["\"e-1\"", "\"e-3\""]);
    assert_eq!(aws.state().quarantined(), BTreeMap::from([("poison", "not-taken")]));
}

#[tokio::test(start_paused = true)]
async fn where_each_message_goes_alone_a_queue_that_closes_is_not_asked_for_the_rest() {
    let aws = Aws::default().with_queue(QUEUE);
    aws.state().call_faults = [CallFault::None, CallFault::Error(403, "AccessDenied")].into();
    let events: Vec<_> = (0..9).map(|n| reading(&format!("e-{n}"))).chain([poison()]).collect();
    let delivered = aws.deliver(&to(QUEUE), &batch(&events), NOW).await;
    assert_eq!(delivered.back().len(), 10);
    assert_eq!(aws.state().hosts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn on_fifo_a_thing_stops_at_its_first_failure_and_the_others_go_on() {
    let aws = Aws::default().with_queue(FIFO);
    let mut has_failed = false;
    aws.state().entry_fault = Some(Box::new(move |entry| {
        let fails = entry["MessageBody"] == "\"a-1\"" && !std::mem::replace(&mut has_failed, true);
        fails.then_some(EntryFault::Failed("InternalError", false))
    }));
    // As SQS has them, which promises no order.
    let events: Vec<_> = [("a", 2), ("b", 1), ("a", 0), ("a", 1), ("b", 0), ("c", 0), ("a", 3)]
        .into_iter()
        .map(|(thing, at)| event(&format!("{thing}-{at}"), thing, at, &json!(format!("{thing}-{at}"))))
        .collect();
    let delivered = aws.deliver(&to(FIFO), &batch(&events), NOW).await;
    assert_eq!(delivered.back(), ["a-2", "a-1", "a-3"]);
    let of = |thing: &str| -> Vec<Value> {
        let state = aws.state();
        let messages = state.queues[FIFO].messages.iter().filter(|message| message["MessageGroupId"] == thing);
        messages.map(|message| message["MessageDeduplicationId"].clone()).collect()
    };
    assert_eq!((of("a"), of("b"), of("c")), (vec!["a-0".into()], vec!["b-0".into(), "b-1".into()], vec!["c-0".into()]));
    assert_eq!(aws.deliver(&to(FIFO), &batch(&events), NOW).await.back(), [""; 0]);
    assert_eq!(of("a"), ["a-0", "a-1", "a-2", "a-3"]);
}

#[tokio::test(start_paused = true)]
async fn on_fifo_a_refused_message_stops_nobody() {
    let aws = Aws::default().with_queue(FIFO);
    let events: Vec<_> = [json!("one"), json!("poison"), json!("three")]
        .iter()
        .enumerate()
        .map(|(at, payload)| event(&format!("e-{at}"), "station-1", at as u64, payload))
        .collect();
    assert_eq!(aws.deliver(&to(FIFO), &batch(&events), NOW).await.back(), [""; 0]);
    assert_eq!(aws.state().bodies(FIFO), ["\"one\"", "\"three\""]);
    assert_eq!(aws.state().quarantined(), BTreeMap::from([("e-1", "not-taken")]));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_closed_is_asked_once_and_named_with_the_likely_missing_grant() {
    for (closed, words) in [
        (("AccessDenied", "no resource-based policy allows the sqs:sendmessage action"), "the queue's policy"),
        (
            ("AccessDeniedException", "no identity-based policy allows the sqs:sendmessage action"),
            "DestinationQueueArns",
        ),
        (("KMS.AccessDeniedException", "no"), "SqsManagedSseEnabled"),
        (("AWS.SimpleQueueService.NonExistentQueue", "gone"), "there is no queue"),
        (("QueueDoesNotExist", "gone"), "perhaps neither account lets"),
    ] {
        let aws = Aws::default().with_queue(QUEUE);
        aws.state().queues.get_mut(QUEUE).unwrap().closed = Some(closed);
        let error = aws.deliver(&to(QUEUE), &reading("e-1"), NOW).await.answer.unwrap_err();
        for word in ["weather of account 222222222222 in eu-west-1", words] {
            assert!(error.contains(word), "{closed:?}: {error}");
        }
        aws.state().hosts.clear();
        let events: Vec<_> = (0..25).map(|n| reading(&format!("e-{n}"))).collect();
        let delivered = aws.deliver(&to(QUEUE), &batch(&events), NOW).await;
        assert_eq!(delivered.back().len(), 25);
        assert_eq!(aws.state().hosts.len(), 1, "{closed:?}");
        assert_eq!(delivered.counted["DestinationClosed"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_is_made_again_and_in_the_end_handed_back() {
    let aws = Aws::default().with_queue(QUEUE);
    aws.state().call_faults = [CallFault::Error(400, "RequestThrottled")].into();
    assert_eq!(aws.deliver(&to(QUEUE), &batch([&reading("e-1")]), NOW).await.back(), [""; 0]);
    aws.state().call_faults = (0..3).map(|_| CallFault::Error(400, "RequestThrottled")).collect();
    // The second batch of ten finds a queue that takes again.
    let events: Vec<_> = (0..20).map(|n| reading(&format!("f-{n}"))).collect();
    let delivered = aws.deliver(&to(QUEUE), &batch(&events), NOW).await;
    assert_eq!(delivered.back(), (0..10).map(|n| format!("f-{n}")).collect::<Vec<_>>());
    assert_eq!(delivered.counted.get("DestinationClosed"), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_makes_no_second_message_on_fifo() {
    let aws = Aws::default().with_queue(FIFO);
    aws.state().call_faults = [CallFault::Lost, CallFault::Lost].into();
    assert_eq!(aws.deliver(&to(FIFO), &batch([&reading("e-1")]), NOW).await.back(), [""; 0]);
    assert_eq!(aws.state().bodies(FIFO), ["\"e-1\""]);
}

#[tokio::test(start_paused = true)]
async fn no_call_is_begun_that_time_might_cut_off() {
    // Seven calls begin in two thirds of the time. With the poison, the first is for nothing, and the others have one
    // message each.
    for (before, last, taken) in [(99, reading("e-99"), 70), (9, poison(), 6)] {
        let aws = Aws::default().with_queue(QUEUE);
        aws.state().delay = Duration::from_secs(4);
        let events: Vec<_> = (0..before).map(|n| reading(&format!("e-{n}"))).chain([last]).collect();
        let delivered = aws.deliver(&to(QUEUE), &batch(&events), NOW).await;
        assert_eq!(delivered.back().len(), events.len() - taken);
        let state = aws.state();
        assert_eq!((state.hosts.len(), state.bodies(QUEUE).len()), (7, taken));
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_never_answers_is_given_up_in_time_and_everything_is_handed_back() {
    let aws = Aws::default().with_queue(QUEUE).with_queue(OTHER);
    put(&aws, &document(&[("a", "#", QUEUE, "refuse"), ("b", "#", OTHER, "refuse")])).await;
    aws.state().delay = Duration::from_hours(1);
    let events: Vec<_> = (0..100).map(|n| reading(&format!("e-{n}"))).collect();
    let begun = Instant::now();
    assert_eq!(aws.deliver(&[], &batch(&events), NOW).await.back().len(), 100);
    let taken = begun.elapsed();
    assert!(taken + Duration::from_secs(5) < template("Timeout"), "{taken:?}");
}

/// As good as random, and the same every time.
struct Chance(u64);

impl Chance {
    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// A thousand messages of seven things, tried until the queue has no more of them. In the first rounds, so many, much
/// fails.
async fn a_thousand(queue: &str, rounds_that_fail: u32) -> Aws {
    let aws = Aws::default().with_queue(queue);
    let mut chance = Chance(1);
    aws.state().entry_fault = Some(Box::new(move |_| match chance.next() % 20 {
        0 => Some(EntryFault::Failed("InternalError", false)),
        1 => Some(EntryFault::Failed("RequestThrottled", true)),
        2 => Some(EntryFault::TakenAndFailed),
        3 => Some(EntryFault::Forgotten),
        _ => None,
    }));
    let mut chance = Chance(2);
    let mut waiting: Vec<Value> =
        (0..1000).map(|n| event(&format!("e-{n:03}"), &format!("station-{}", n % 7), n, &json!(n))).collect();
    for round in 0..60 {
        let now = NOW.plus(round * template("VisibilityTimeout"));
        if round == rounds_that_fail {
            aws.state().entry_fault = None;
        }
        let mut again = HashSet::new();
        for events in waiting.chunks(50) {
            let is_struck = round < rounds_that_fail && chance.one_in(3);
            aws.state().call_faults = if is_struck { [CallFault::None, CallFault::Lost].into() } else { [].into() };
            let back = aws.deliver(&to(queue), &batch(events), now).await;
            again.extend(back.back().into_iter().map(str::to_owned));
        }
        waiting.retain(|event| again.contains(event["traceId"].as_str().unwrap()));
        // The queue gives them back in any order.
        for index in 1..waiting.len() {
            waiting.swap(index, usize::try_from(chance.next()).unwrap() % (index + 1));
        }
    }
    assert!(waiting.is_empty(), "{} are still there", waiting.len());
    aws
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_messages_none_is_lost_and_on_fifo_none_is_there_twice_where_the_second_try_is_the_last() {
    let all: BTreeSet<String> = (0..1000).map(|n| n.to_string()).collect();
    for (queue, rounds_that_fail, is_once) in [(FIFO, 1, true), (FIFO, 60, false), (QUEUE, 1, false)] {
        let aws = a_thousand(queue, rounds_that_fail).await;
        let state = aws.state();
        let bodies = state.bodies(queue);
        assert_eq!(bodies.iter().map(|body| (*body).to_owned()).collect::<BTreeSet<_>>(), all);
        assert_eq!(bodies.len() == 1000, is_once, "{queue} has {}", bodies.len());
        assert_eq!(state.quarantined(), BTreeMap::new());
    }
}

#[tokio::test(start_paused = true)]
async fn every_sample_event_has_the_outcome_that_its_name_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/forward");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let sample: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let aws = Aws::default().with_queue(QUEUE);
        let answer = aws.deliver(&to(QUEUE), &sample, NOW).await.answer.unwrap();
        let outcome = match answer["reason"].as_str().or(answer["outcome"].as_str()) {
            Some(outcome) => outcome.to_owned(),
            None => answer.to_string(),
        };
        found.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), outcome);
    }
    let expected = [
        ("bad-document", "bad-document"),
        ("bad-queue-url", "invalid-value"),
        ("bad-thing-name", "bad-thing-name"),
        ("destinations", "done"),
        ("empty", "empty-payload"),
        ("no-destination", "no-destination"),
        ("not-json", "not-json"),
        ("sqs-batch", r#"{"batchItemFailures":[]}"#),
        ("temperature", "done"),
        ("unknown-field", "unknown-field"),
        ("without-trace-id", "done"),
        ("wrong-type", "wrong-type"),
    ];
    assert_eq!(found, expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).into());
}

#[tokio::test(start_paused = true)]
async fn the_document_that_comes_with_the_templates_is_a_good_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/destinations.json");
    put(&Aws::default(), &serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).await;
}
