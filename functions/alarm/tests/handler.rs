//! The whole function but for the Lambda runtime: deliveries go in, calls to AWS come out, and between any two of them
//! the process may die.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod aws;

use std::collections::BTreeMap;
use std::path::Path;

use gatehouse::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::aws::{Aws, Delivered, Fault, Process, VISIBILITY};

const START: u64 = 1_763_715_600_000;
const MINUTE: u64 = 60_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

/// Too bright above 100 for so many seconds, over below 100 for as long; silent after an hour.
fn too_bright(seconds: u64) -> Value {
    json!({"name": "too-bright", "things": "greenhouse-*", "field": "/lux", "stale": "1 h",
           "raise": {"above": 100, "for": format!("{seconds} s")},
           "clear": {"below": 100, "for": format!("{seconds} s")}})
}

async fn put(aws: &Aws, thresholds: Value) -> Delivered {
    aws.process().deliver(&json!({"thresholds": thresholds}), at(0)).await
}

/// An account with this document in force.
async fn with(thresholds: Value) -> Aws {
    let aws = Aws::default();
    assert!(put(&aws, thresholds).await.is_done());
    aws
}

/// What a device published, as an event.
fn event(id: &str, thing: &str, millis: u64, payload: Value) -> Value {
    let mut event = json!({"traceId": id, "topic": format!("telemetry/{thing}"), "receivedAt": START + millis});
    event["thing"] = thing.into();
    event["payload"] = payload;
    event
}

fn reading(id: &str, millis: u64, lux: u64) -> Value {
    event(id, "greenhouse-1", millis, json!({"lux": lux}))
}

fn batch(bodies: &[Value]) -> Value {
    let record = |(index, body): (usize, &Value)| {
        json!({"messageId": format!("message-{index}"), "eventSource": "aws:sqs", "body": body.to_string(),
               "attributes": {"SentTimestamp": START.to_string()}})
    };
    json!({"Records": bodies.iter().enumerate().map(record).collect::<Vec<_>>()})
}

async fn deliver(aws: &Aws, bodies: &[Value], millis: u64) -> Delivered {
    aws.process().deliver(&batch(bodies), at(millis)).await
}

/// The schedule's tick, by itself.
async fn check(aws: &Aws, millis: u64) -> Delivered {
    aws.process().deliver(&json!({"check": "due"}), at(millis)).await
}

fn told(aws: &Aws) -> Vec<(u64, String)> {
    let told = aws.state().told("greenhouse-1", "too-bright");
    told.into_iter().map(|(at, to)| (at - START, to)).collect()
}

fn is(at: u64, to: &str) -> (u64, String) {
    (at, to.to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_alarm_is_told_in_plain_words_as_json_and_with_attributes_to_filter_on() {
    let aws = with(json!([too_bright(60)])).await;
    let delivered = deliver(&aws, &[reading("e-1", 0, 150), reading("e-2", MINUTE, 180)], MINUTE).await;
    assert_eq!(delivered.handed_back(), Some(vec![]));
    assert_eq!((delivered.count("Raised"), delivered.count("Capped")), (1, 0));
    let state = aws.state();
    let [told] = &state.published[..] else { panic!("{:?}", state.published) };
    let words = "too-bright: greenhouse-1 lux above 100 for 1 min (now 180)";
    assert_eq!((told.subject.as_str(), told.words.as_str()), ("ALARM too-bright: greenhouse-1", words));
    let id = format!("greenhouse-1#too-bright#{}#ALARM#1", START + MINUTE);
    assert_eq!(
        told.data,
        json!({"transition": id, "threshold": "too-bright", "thing": "greenhouse-1", "from": "OK", "to": "ALARM",
               "field": "/lux", "value": 180, "at": START + MINUTE, "since": START, "words": words})
    );
    let attributes = [
        ("AWS.SNS.SMS.SMSType", "Transactional"),
        ("audience", "people"),
        ("eventId", id.as_str()),
        ("from", "OK"),
        ("thing", "greenhouse-1"),
        ("threshold", "too-bright"),
        ("to", "ALARM"),
    ];
    assert_eq!(told.attributes, attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert!(!state.owes());
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_change_fits_however_long_the_names_are() {
    let mut threshold = too_bright(0);
    threshold["name"] = "t".repeat(64).into();
    threshold["things"] = "*".into();
    let aws = with(json!([threshold])).await;
    deliver(&aws, &[event("e-1", &"g".repeat(128), 0, json!({"lux": 150}))], 0).await;
    let id = aws.state().published[0].attributes["eventId"].clone();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_reads_and_writes_a_device_and_threshold_once_however_many_readings() {
    let aws = with(json!([too_bright(600)])).await;
    aws.state().calls.clear();
    let readings: Vec<_> = (0..50).map(|n| reading(&format!("e-{n}"), n * 1000, 150)).collect();
    deliver(&aws, &readings, MINUTE).await;
    let made = [("BatchGetItem alarms", 1), ("GetItem document", 1), ("PutItem thing", 1)];
    assert_eq!(aws.state().made(), BTreeMap::from(made));
}

#[tokio::test(start_paused = true)]
async fn readings_are_taken_in_the_order_of_receipt_whatever_order_a_batch_has() {
    let aws = with(json!([too_bright(60)])).await;
    let readings = [reading("e-3", 2 * MINUTE, 90), reading("e-2", MINUTE, 150), reading("e-1", 0, 150)];
    let delivered = deliver(&aws, &readings, 2 * MINUTE).await;
    assert_eq!(delivered.count("OutOfOrder"), 0);
    assert_eq!(told(&aws), [is(MINUTE, "ALARM")]);
    assert_eq!(aws.state().noted("greenhouse-1", "too-bright", "value"), Some("90.0"));
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_comes_in_a_later_batch_but_was_received_earlier_is_counted_and_not_decided_by() {
    let aws = with(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 150), reading("e-3", 50_000, 150)], MINUTE).await;
    let delivered = deliver(&aws, &[reading("e-2", 20_000, 90)], MINUTE).await;
    assert_eq!((delivered.count("OutOfOrder"), delivered.handed_back()), (1, Some(vec![])));
    deliver(&aws, &[reading("e-4", 60_000, 150)], MINUTE).await;
    assert_eq!(told(&aws), [is(60_000, "ALARM")]);
}

#[tokio::test(start_paused = true)]
async fn another_event_of_the_same_millisecond_counts_and_the_same_event_again_does_not() {
    let aws = with(json!([too_bright(0)])).await;
    let (high, low) = (reading("high", 5, 150), reading("low", 5, 50));
    deliver(&aws, std::slice::from_ref(&high), MINUTE).await;
    deliver(&aws, &[high.clone(), low.clone()], MINUTE).await;
    assert_eq!(told(&aws), [is(5, "ALARM"), is(5, "OK")]);
    deliver(&aws, &[high, low.clone(), low], MINUTE).await;
    assert_eq!(aws.state().published.len(), 2);
    assert_eq!(aws.state().noted("greenhouse-1", "too-bright", "state"), Some("OK"));
}

#[tokio::test(start_paused = true)]
async fn the_readings_of_an_array_are_taken_in_their_order_at_the_same_moment() {
    let aws = with(json!([too_bright(0)])).await;
    let payload = json!([{"lux": 150}, {"lux": 50}, {"lux": 150}]);
    deliver(&aws, &[event("e-1", "greenhouse-1", 5, payload)], MINUTE).await;
    assert_eq!(told(&aws), [is(5, "ALARM"), is(5, "OK"), is(5, "ALARM")]);
}

#[tokio::test(start_paused = true)]
async fn a_reading_without_a_number_in_the_field_leaves_the_state_alone_and_is_counted() {
    let aws = with(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 150)], MINUTE).await;
    let before = aws.state().record("greenhouse-1", "too-bright").cloned();
    let without = [json!({}), json!({"lux": null}), json!({"lux": "150"}), json!({"air": {"lux": 150}})];
    let events: Vec<_> = without
        .into_iter()
        .enumerate()
        .map(|(n, payload)| event(&format!("w-{n}"), "greenhouse-1", 30_000, payload))
        .collect();
    let delivered = deliver(&aws, &events, MINUTE).await;
    assert_eq!((delivered.count("WithoutValue"), delivered.handed_back()), (4, Some(vec![])));
    assert_eq!(aws.state().record("greenhouse-1", "too-bright").cloned(), before);
}

#[tokio::test(start_paused = true)]
async fn a_broken_event_goes_to_quarantine_and_harms_no_other() {
    let aws = with(json!([too_bright(0)])).await;
    let mut not_json = reading("broken", 1, 0);
    not_json.as_object_mut().unwrap().remove("payload");
    not_json["payloadBase64"] = "bHV4".into();
    let events = [
        reading("e-1", 0, 50),
        not_json,
        event("half", "greenhouse-1", 2, json!([7, {"lux": 150}, "x"])),
        json!({"check": "everything"}),
        json!({"check": "due", "thresholds": []}),
        json!({"thing": "+", "topic": "t", "payload": {}}),
    ];
    let delivered = deliver(&aws, &events, MINUTE).await;
    assert_eq!(delivered.handed_back(), Some(vec![]));
    assert_eq!(
        aws.state().quarantined(),
        [
            ("broken", "not-json"),
            ("half", "not-an-object"),
            ("message-3", "unknown-value"),
            ("message-4", "bad-order"),
            ("message-5", "bad-thing-name"),
        ]
    );
    assert_eq!(told(&aws), [is(2, "ALARM")], "the good reading beside the bad ones counts");
}

#[tokio::test(start_paused = true)]
async fn without_a_document_there_is_nothing_to_hold_readings_against() {
    let aws = Aws::default();
    assert_eq!(deliver(&aws, &[reading("e-1", 0, 150)], 0).await.handed_back(), Some(vec![]));
    assert!(check(&aws, 0).await.is_done());
    assert!(aws.state().tables.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_things_concern_is_neither_read_nor_written() {
    let aws = with(json!([too_bright(0)])).await;
    aws.state().calls.clear();
    deliver(&aws, &[event("e-1", "tank-1", 0, json!({"lux": 150}))], 0).await;
    assert_eq!(aws.state().made(), BTreeMap::from([("GetItem document", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_bad_document_is_refused_with_the_path_of_the_fault_and_the_last_good_one_stays_in_force() {
    let aws = with(json!([too_bright(0)])).await;
    let mut faulty = too_bright(0);
    faulty["raise"]["below"] = 5.into();
    let refused = put(&aws, json!([faulty])).await;
    let why = "`thresholds[0].raise`: There must be exactly one of `above` and `below`.";
    assert_eq!(refused.refused(), Some(("bad-document", why)));
    deliver(&aws, &[reading("e-1", 0, 150)], 0).await;
    assert_eq!(told(&aws), [is(0, "ALARM")]);
}

#[tokio::test(start_paused = true)]
async fn a_new_document_is_in_force_from_the_next_batch_on_and_states_stay() {
    let aws = with(json!([too_bright(0)])).await;
    deliver(&aws, &[reading("e-1", 0, 150)], 0).await;
    let mut higher = too_bright(0);
    higher["raise"]["above"] = 1000.into();
    higher["clear"]["below"] = 200.into();
    deliver(&aws, &[json!({"thresholds": [higher]}), reading("e-2", 1, 250)], 1).await;
    assert_eq!(told(&aws), [is(0, "ALARM")]);
    deliver(&aws, &[reading("e-3", 2, 199)], 2).await;
    assert_eq!(told(&aws), [is(0, "ALARM"), is(2, "OK")]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_falls_silent_is_found_by_the_schedule_told_once_and_told_to_be_back() {
    let aws = with(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 50)], 0).await;
    let hour = 60 * MINUTE;
    check(&aws, hour).await;
    assert_eq!(told(&aws), []);
    let delivered = check(&aws, hour + MINUTE).await;
    assert_eq!((delivered.is_done(), delivered.count("Stale")), (true, 1));
    check(&aws, hour + 2 * MINUTE).await;
    assert_eq!(aws.state().due(), [], "nobody needs to look again before something comes");
    let delivered = deliver(&aws, &[reading("e-2", 3 * hour, 50)], 3 * hour).await;
    assert_eq!(delivered.count("Recovered"), 1);
    assert_eq!(told(&aws), [is(hour, "STALE"), is(3 * hour, "OK")]);
    let words: Vec<_> = aws.state().published.iter().map(|told| told.words.clone()).collect();
    let back = "too-bright: greenhouse-1 is back after 3 h (now 50)";
    assert_eq!(words, ["too-bright: nothing from greenhouse-1 for 1 h", back]);
    assert_eq!(aws.state().due(), [("thing#greenhouse-1", START + 4 * hour)]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_reports_moves_its_mark_in_the_index_seldom_and_is_never_taken_for_silent() {
    let aws = with(json!([too_bright(60)])).await;
    let mut marks = Vec::new();
    for minute in 0..300 {
        deliver(&aws, &[reading(&format!("e-{minute}"), minute * MINUTE, 50)], minute * MINUTE).await;
        check(&aws, minute * MINUTE + 1).await;
        marks.extend(aws.state().due().iter().map(|(_, mark)| *mark));
    }
    assert_eq!(told(&aws), []);
    marks.dedup();
    assert!((5..=12).contains(&marks.len()), "it moved {} times in five hours", marks.len());
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_waited_in_the_queue_takes_readings_that_wait_with_it_not_for_silence() {
    let aws = with(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 50)], 0).await;
    // By now two hours have passed; the tick was sent after ten minutes.
    let mut tick = batch(&[json!({"check": "due"})]);
    tick["Records"][0]["attributes"]["SentTimestamp"] = (START + 10 * MINUTE).to_string().into();
    aws.process().deliver(&tick, at(120 * MINUTE)).await;
    assert_eq!(told(&aws), []);
}

#[tokio::test(start_paused = true)]
async fn the_mark_of_a_threshold_that_is_gone_goes_and_what_it_owes_is_told_still() {
    let aws = with(json!([too_bright(0)])).await;
    aws.process().fail_each("Publish", Fault::Denied).deliver(&reading("e-1", 0, 150), at(0)).await;
    assert!(aws.state().owes());
    put(&aws, json!([])).await;
    check(&aws, 120 * MINUTE).await;
    assert_eq!(told(&aws), [is(0, "ALARM")]);
    let state = aws.state();
    assert_eq!((state.due(), state.owes()), (vec![], false));
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_sns_does_not_take_hands_its_event_back_and_comes_with_it() {
    let aws = with(json!([too_bright(0)])).await;
    let events = [reading("e-1", 0, 150), event("e-2", "greenhouse-2", 0, json!({"lux": 50}))];
    let process = aws.process().fail_each("Publish", Fault::Throttled);
    let delivered = process.deliver(&batch(&events), at(0)).await;
    assert_eq!(delivered.handed_back(), Some(vec!["message-0"]));
    assert_eq!(told(&aws), []);
    assert_eq!(deliver(&aws, &events[..1], 360_000).await.handed_back(), Some(vec![]));
    assert_eq!(told(&aws), [is(0, "ALARM")]);
    assert_eq!(aws.state().published.len(), 1);
    assert!(!aws.state().owes());
}

#[tokio::test(start_paused = true)]
async fn a_table_that_cannot_be_written_hands_back_all_that_the_thing_sent_and_nothing_else() {
    let aws = with(json!([too_bright(0)])).await;
    let events = [
        event("e-0", "tank-1", 0, json!({"lux": 50})),
        reading("e-1", 0, 150),
        event("e-2", "greenhouse-1", 1, json!(7)),
    ];
    let process = aws.process().fail_each("PutItem thing", Fault::Denied);
    let delivered = process.deliver(&batch(&events), at(0)).await;
    assert_eq!(delivered.handed_back(), Some(vec!["message-1", "message-2"]));
    assert_eq!(aws.state().published, []);
    assert_eq!(deliver(&aws, &events[1..], 360_000).await.handed_back(), Some(vec![]));
    assert_eq!(told(&aws), [is(0, "ALARM")]);
}

/// Readings that raise an alarm, by one call after the other.
fn raising() -> Vec<Value> {
    vec![reading("e-1", 0, 150), reading("e-2", MINUTE, 150)]
}

#[tokio::test(start_paused = true)]
async fn whatever_call_fails_and_however_the_change_is_told_in_the_end_and_twice_only_around_its_own_sending() {
    let calls = {
        let aws = with(json!([too_bright(60)])).await;
        let process = aws.process();
        process.deliver(&batch(&raising()), at(MINUTE)).await;
        process.calls()
    };
    assert_eq!(calls, 9);
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied, Fault::Throttled, Fault::Lost] {
        for invocation in 1..=calls {
            let aws = with(json!([too_bright(60)])).await;
            let first = aws.process().fail(invocation, fault).deliver(&batch(&raising()), at(MINUTE)).await;
            let (mut delivered, mut now) = (first, at(MINUTE));
            while delivered.handed_back().is_none_or(|left| !left.is_empty()) {
                now = now.plus(VISIBILITY);
                assert!(now < at(60 * MINUTE), "call {call} {fault:?} came back again and again");
                delivered = aws.process().deliver(&batch(&raising()), now).await;
            }
            for minute in 1..3 {
                let tick = json!({"check": "due"});
                let now = now.plus(std::time::Duration::from_mins(minute));
                assert!(aws.process().deliver(&tick, now).await.is_done());
            }
            let state = aws.state();
            let name = format!("call {call} {fault:?}: {:?}", state.calls);
            assert_eq!(state.told("greenhouse-1", "too-bright"), [(START + MINUTE, "ALARM".to_owned())], "{name}");
            assert!(!state.owes(), "{name}");
            assert_eq!(state.noted("greenhouse-1", "too-bright", "state"), Some("ALARM"), "{name}");
            let is_twice = state.published.len() == 2;
            // Only where the process dies, or the answer is lost, between SNS's acceptance and the mark.
            let may_be_twice = (invocation, fault) == (7, Fault::DiesAfter)
                || (invocation, fault) == (7, Fault::Lost)
                || (invocation, fault) == (8, Fault::DiesBefore);
            assert_eq!(is_twice, may_be_twice, "{name}");
            assert!(state.published.len() <= 2, "{name}");
            assert!(state.published.iter().all(aws::Published::is_for_people), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_the_write_is_made_good_by_the_schedule_where_the_batch_does_not_come_again() {
    let aws = with(json!([too_bright(60)])).await;
    // The claim of the notice is the sixth call: the state is written by then.
    aws.process().fail(6, Fault::DiesBefore).deliver(&batch(&raising()), at(MINUTE)).await;
    assert_eq!((told(&aws), aws.state().owes()), (vec![], true));
    check(&aws, 2 * MINUTE).await;
    assert_eq!(told(&aws), [], "whoever decided it may still be at it");
    check(&aws, 3 * MINUTE).await;
    assert_eq!((told(&aws), aws.state().owes()), (vec![is(MINUTE, "ALARM")], false));
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_another_invocation_is_sending_is_left_to_it() {
    let aws = with(json!([too_bright(60)])).await;
    // It dies holding the claim, which lasts as long as the invocation would have.
    aws.process().fail(7, Fault::DiesBefore).deliver(&batch(&raising()), at(MINUTE)).await;
    let delivered = deliver(&aws, &[reading("e-3", MINUTE + 1, 150)], MINUTE + 1).await;
    assert_eq!(delivered.handed_back(), Some(vec![]));
    assert_eq!(told(&aws), []);
    check(&aws, 4 * MINUTE).await;
    assert_eq!((told(&aws), aws.state().owes()), (vec![is(MINUTE, "ALARM")], false));
}

/// The processes, each with what it delivers, in this order of their calls.
async fn race(aws: &Aws, deliveries: Vec<(Process, Value)>, order: Vec<usize>) -> Vec<Delivered> {
    let numbers: Vec<_> = deliveries.iter().map(|(process, _)| process.number).collect();
    aws.serve_in_order(order.into_iter().map(|turn| numbers[turn % numbers.len()]));
    let all = deliveries.iter().map(|(process, delivery)| process.deliver(delivery, at(2 * MINUTE)));
    futures_util::future::join_all(all).await
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_decided_anew_in_the_process_with_the_same_readings() {
    let aws = with(json!([too_bright(60)])).await;
    let first = (aws.process(), batch(&[reading("e-1", 0, 150)]));
    let second = (aws.process(), batch(&[reading("e-2", MINUTE, 150)]));
    // Both read; then the first writes, then the second.
    let delivered = race(&aws, vec![first, second], vec![0, 1, 0, 1, 0, 1]).await;
    assert!(delivered.iter().all(|delivered| delivered.handed_back() == Some(vec![])));
    assert_eq!((delivered[0].count("Conflicts"), delivered[1].count("Conflicts")), (0, 1));
    assert_eq!(told(&aws), [is(MINUTE, "ALARM")]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn two_processes_with_the_same_batch_raise_once_in_whatever_order_they_are_served(
        order in prop::collection::vec(0_usize..2, 0..30),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            let aws = with(json!([too_bright(60)])).await;
            let deliveries = vec![(aws.process(), batch(&raising())), (aws.process(), batch(&raising()))];
            let delivered = race(&aws, deliveries, order).await;
            assert!(delivered.iter().all(|delivered| delivered.handed_back() == Some(vec![])));
            check(&aws, 4 * MINUTE).await;
            let state = aws.state();
            assert_eq!(state.published.len(), 1, "{:?}", state.calls);
            assert!(!state.owes(), "{:?}", state.calls);
            assert_eq!(state.noted("greenhouse-1", "too-bright", "changes"), Some("1"));
        });
    }
}

fn storm(things: usize, millis: u64, lux: u64) -> Vec<Value> {
    (0..things)
        .map(|n| event(&format!("e-{n}-{millis}"), &format!("greenhouse-{n}"), millis, json!({"lux": lux})))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_three_hundred_things_makes_twenty_texts_and_one_summary_and_machines_get_all() {
    let aws = with(json!([too_bright(0)])).await;
    let delivered = deliver(&aws, &storm(300, 0, 150), 0).await;
    assert_eq!((delivered.count("Raised"), delivered.count("Capped")), (300, 280));
    let people = |aws: &Aws| aws.state().published.iter().filter(|told| told.is_for_people()).count();
    assert_eq!((people(&aws), aws.state().published.len()), (20, 300));
    // Some are over before the window is, and are counted with the others.
    deliver(&aws, &storm(7, MINUTE, 50), MINUTE).await;
    check(&aws, 4 * MINUTE).await;
    assert_eq!(people(&aws), 20);
    for minute in 6..9 {
        assert!(check(&aws, minute * MINUTE).await.is_done());
    }
    assert_eq!((people(&aws), aws.state().published.len()), (21, 308));
    let summary = aws.state().published.last().cloned().unwrap();
    let names: Vec<_> = summary.data["things"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names.len(), 10);
    let words = format!("too-bright: 287 more changes in 5 min: 280 ALARM, 7 OK; {}, …", names.join(", "));
    assert_eq!((summary.words, summary.subject), (words, "too-bright: 287 more".to_owned()));
    assert!(!summary.attributes.contains_key("to"), "no actuator takes it for a change");
    assert_eq!(summary.data["changes"], json!({"ALARM": 280, "OK": 7}));
    // The next window is a new one.
    deliver(&aws, &storm(1, 10 * MINUTE, 150), 10 * MINUTE).await;
    assert_eq!(people(&aws), 22);
    assert!(!aws.state().owes());
}

#[tokio::test(start_paused = true)]
async fn a_window_that_has_ended_is_summed_up_by_the_next_change_where_no_schedule_came() {
    let aws = with(json!([too_bright(0)])).await;
    let process = || aws.process().with("STORM_NOTICES", "1").with("STORM_WINDOW_SECONDS", "60");
    process().deliver(&batch(&storm(3, 0, 150)), at(0)).await;
    process().deliver(&batch(&storm(3, 2 * MINUTE, 50)), at(2 * MINUTE)).await;
    process().deliver(&json!({"check": "due"}), at(5 * MINUTE)).await;
    let summaries: Vec<_> =
        aws.state().published.iter().filter(|told| told.data["summary"].is_string()).cloned().collect();
    let words: Vec<_> = summaries.iter().map(|told| told.words.as_str()).collect();
    assert_eq!(
        words,
        [
            "too-bright: 2 more changes in 1 min: 2 ALARM; greenhouse-1, greenhouse-2",
            "too-bright: 2 more changes in 1 min: 2 OK; greenhouse-1, greenhouse-2",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn whatever_call_of_the_schedule_fails_a_storms_summary_is_told_in_the_end() {
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Denied, Fault::Lost] {
        // Sixteen queries, some of them before what is found is handled.
        for invocation in 1..=24 {
            let aws = with(json!([too_bright(0)])).await;
            let process = || aws.process().with("STORM_NOTICES", "1");
            process().deliver(&batch(&storm(3, 0, 150)), at(0)).await;
            process().fail(invocation, fault).deliver(&json!({"check": "due"}), at(6 * MINUTE)).await;
            for minute in 8..12 {
                process().deliver(&json!({"check": "due"}), at(minute * MINUTE)).await;
            }
            let state = aws.state();
            let name = format!("call {call} {fault:?}: {:?}", state.calls);
            let summaries = state.published.iter().filter(|told| told.data["summary"].is_string());
            let ids: std::collections::BTreeSet<_> = summaries.map(|told| told.words.as_str()).collect();
            let words = "too-bright: 2 more changes in 5 min: 2 ALARM; greenhouse-1, greenhouse-2";
            assert_eq!(ids.into_iter().collect::<Vec<_>>(), [words], "{name}");
            assert!(state.published.len() <= 5, "{name}");
            assert!(!state.owes(), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_devices_that_fall_silent_together_are_capped_as_well() {
    let aws = with(json!([too_bright(60)])).await;
    deliver(&aws, &storm(100, 0, 50), 0).await;
    check(&aws, 62 * MINUTE).await;
    let people = aws.state().published.iter().filter(|told| told.is_for_people()).count();
    assert_eq!((people, aws.state().published.len()), (20, 100));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readings_of_a_hundred_things_by_fifty_thresholds_are_read_together_and_written_once_each() {
    let threshold = |n: usize| {
        json!({"name": format!("t-{n}"), "things": "greenhouse-*", "field": format!("/f{}", n % 5), "stale": "1 h",
               "raise": {"above": 100, "for": "5 min"}, "clear": {"below": 100, "for": "5 min"}})
    };
    let aws = with((0..50).map(threshold).collect()).await;
    aws.state().calls.clear();
    let events: Vec<_> = (0..1000_u64)
        .map(|n| {
            let payload = json!({"f0": n, "f1": n, "f2": n, "f3": n, "f4": n});
            event(&format!("e-{n}"), &format!("greenhouse-{}", n % 100), n, payload)
        })
        .collect();
    let delivered = deliver(&aws, &events, 0).await;
    assert_eq!(delivered.handed_back(), Some(vec![]));
    let made = [("BatchGetItem alarms", 50), ("GetItem document", 1), ("PutItem thing", 5_000)];
    assert_eq!(aws.state().made(), BTreeMap::from(made));
    // All of it again changes nothing, and writes nothing.
    aws.state().calls.clear();
    let delivered = deliver(&aws, &events, 0).await;
    assert_eq!((delivered.handed_back(), delivered.count("OutOfOrder")), (Some(vec![]), 45_000));
    assert_eq!(aws.state().made(), BTreeMap::from([("BatchGetItem alarms", 50), ("GetItem document", 1)]));
}

#[tokio::test(start_paused = true)]
async fn every_sample_event_meets_its_fate() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/alarm");
    let fates = BTreeMap::from([
        ("array.json", None),
        ("array-with-a-number.json", Some("not-an-object")),
        ("bad-thing-name.json", Some("bad-thing-name")),
        ("both-orders.json", Some("bad-order")),
        ("check-due.json", None),
        ("empty.json", Some("empty-payload")),
        ("no-number.json", None),
        ("not-json.json", Some("not-json")),
        ("reading.json", None),
        ("thresholds-with-a-fault.json", Some("bad-document")),
        ("thresholds.json", None),
        ("unknown-order.json", Some("unknown-field")),
    ]);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let aws = with(json!([too_bright(0)])).await;
        let sample: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let delivered = aws.process().deliver(&sample, at(0)).await;
        if name == "sqs-batch.json" {
            assert_eq!(delivered.handed_back(), Some(vec![]));
            continue;
        }
        let fate = fates.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not known here"));
        assert_eq!(delivered.refused().map(|(code, _)| code), *fate, "{name}: {delivered:?}");
        assert!(fate.is_some() || delivered.is_done(), "{name}: {delivered:?}");
        names.push(name);
    }
    names.sort();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), fates.keys().copied().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_window_of_a_length_that_makes_no_sense_is_named() {
    for seconds in ["0", "86401", "soon"] {
        let error = Aws::default().process().with("STORM_WINDOW_SECONDS", seconds).alarm().map(drop).unwrap_err();
        assert!(error.to_string().starts_with("environment variable STORM_WINDOW_SECONDS is "), "{error}");
    }
}

/// One thing's history: gaps in seconds and values; one event an item.
type History = Vec<(u64, u64)>;

/// The rules once more, in the plainest form: too bright above 100 for a minute, over below 100 for a minute.
fn reference(history: &History) -> Vec<(u64, String)> {
    let (mut now, mut is_alarmed, mut run, mut told) = (0, false, Vec::<u64>::new(), Vec::new());
    for (gap, lux) in history {
        now += gap * 1000;
        let passes = if is_alarmed { *lux < 100 } else { *lux > 100 };
        if !passes || run.last().is_some_and(|last| now - last > MINUTE) {
            run.clear();
        }
        if passes {
            run.push(now);
        }
        if run.first().is_some_and(|first| now - first >= MINUTE) {
            is_alarmed = !is_alarmed;
            run.clear();
            told.push((now, if is_alarmed { "ALARM" } else { "OK" }.to_owned()));
        }
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_interleaving_of_things_any_splitting_into_batches_and_any_repetition_give_the_same_changes(
        histories in prop::collection::vec(
            prop::collection::vec((0_u64..40, prop::sample::select(vec![50_u64, 100, 150, 150])), 0..25), 1..4),
        sizes in prop::collection::vec(1_usize..12, 1..60),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 80),
        repeats in prop::collection::vec((0_u8..3, any::<prop::sample::Index>()), 60),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
            let aws = with(json!([too_bright(60)])).await;
            let mut queues: Vec<_> = histories
                .iter()
                .enumerate()
                .map(|(thing, history)| {
                    let mut now = 0;
                    let one = |(n, (gap, lux)): (usize, &(u64, u64))| {
                        now += gap * 1000;
                        let thing = format!("greenhouse-{thing}");
                        event(&format!("{thing}-{n}"), &thing, now, json!({"lux": lux}))
                    };
                    history.iter().enumerate().map(one).collect::<std::collections::VecDeque<_>>()
                })
                .collect();
            let mut all = Vec::new();
            let mut picks = picks.iter().cycle();
            while queues.iter().any(|queue| !queue.is_empty()) {
                let left: Vec<_> = (0..queues.len()).filter(|thing| !queues[*thing].is_empty()).collect();
                all.extend(queues[left[picks.next().unwrap().index(left.len())]].pop_front());
            }
            let mut batches: Vec<Vec<Value>> = Vec::new();
            for ((size, (repeat, which)), _) in sizes.iter().zip(&repeats).cycle().zip(0..200) {
                if all.is_empty() {
                    break;
                }
                let rest = all.split_off((*size).min(all.len()));
                batches.push(std::mem::replace(&mut all, rest));
                // One of those before comes again, whole, or with what is new.
                let again = batches[which.index(batches.len())].clone();
                match repeat {
                    0 => batches.push(again),
                    1 => batches.last_mut().unwrap().extend(again),
                    _ => {}
                }
            }
            for (n, bodies) in (0_u64..).zip(&batches) {
                let delivered = deliver(&aws, bodies, n).await;
                assert_eq!(delivered.handed_back(), Some(vec![]));
            }
            let state = aws.state();
            for (thing, history) in histories.iter().enumerate() {
                let told = state.told(&format!("greenhouse-{thing}"), "too-bright");
                let told: Vec<_> = told.into_iter().map(|(at, to)| (at - START, to)).collect();
                assert_eq!(told, reference(history), "greenhouse-{thing}");
            }
            let expected: usize = histories.iter().map(|history| reference(history).len()).sum();
            assert_eq!(state.published.len(), expected, "something was told twice");
        });
    }
}
