//! The whole function but for the Lambda runtime, against a small DynamoDB: readings go in, and however the table
//! behaves, each is there once in the end, or its event is handed back or in quarantine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects by failing there"
)]

mod dynamodb;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dynamodb::{Act, DynamoDb, NOW};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Builder;

/// An event as the rule makes it of what a device sent.
fn event_at(id: &str, payload: &str, received: u64) -> String {
    event_on("telemetry/greenhouse-1", id, payload, received)
}

fn event_on(topic: &str, id: &str, payload: &str, received: u64) -> String {
    let payload = BASE64_STANDARD.encode(payload);
    json!({"thing": "greenhouse-1", "topic": topic, "traceId": id, "payloadBase64": payload, "receivedAt": received})
        .to_string()
}

fn event(id: &str, payload: &str) -> String {
    event_at(id, payload, NOW.millis())
}

/// A batch of messages `m-0`, `m-1` and so on.
fn batch(bodies: &[String]) -> String {
    let record = |(index, body): (usize, &String)| {
        let id = format!("m-{index}");
        json!({"messageId": id, "eventSource": "aws:sqs", "body": body})
    };
    json!({"Records": bodies.iter().enumerate().map(record).collect::<Vec<_>>()}).to_string()
}

/// Numbered readings, one an event.
fn numbered(count: usize) -> String {
    batch(&(0..count).map(|n| event(&format!("e-{n}"), &format!(r#"{{"n":{n}}}"#))).collect::<Vec<_>>())
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("m-{n}")).collect()
}

/// The sort keys in the table.
fn keys(table: &DynamoDb) -> Vec<String> {
    table.state().items.keys().map(|(_, at)| at.clone()).collect()
}

/// The items' attribute of this name.
fn attribute(table: &DynamoDb, name: &str) -> Vec<Value> {
    table.state().items.values().map(|item| item[name].clone()).collect()
}

/// The reason and the sentence for which the only event is in quarantine.
fn refused(table: &DynamoDb) -> (String, String) {
    let quarantined = &table.state().quarantined;
    assert_eq!(quarantined.len(), 1);
    quarantined.values().next().unwrap().clone()
}

// ---- What is written ----

#[tokio::test(start_paused = true)]
async fn a_reading_is_one_item_with_all_its_fields_typed() {
    let table = DynamoDb::default();
    let payload = r#"{"lux": 41250.0, "time": 1763715599, "on": true, "note": "h\u00e4\n", "gone": null,
                      "air": {"t": [22.50, -3e-2]}}"#;
    let delivered = table.deliver(&event("e-1", payload)).await;
    assert_eq!(delivered.answer, Some(Ok(json!({"outcome": "done"}))));
    assert_eq!(delivered.counted["Stored"], 1);
    let expected = json!({
        "thing": {"S": "greenhouse-1"},
        "at": {"S": "1763715600000#e-1"},
        "eventId": {"S": "e-1"},
        "topic": {"S": "telemetry/greenhouse-1"},
        "receivedAt": {"N": "1763715600000"},
        "expiration": {"N": (1_763_715_600 + 90 * 86_400).to_string()},
        "deviceTime": {"N": "1763715599"},
        "reading": {"M": {
            "lux": {"N": "41250.0"},
            "time": {"N": "1763715599"},
            "on": {"BOOL": true},
            "note": {"S": "hä\n"},
            "gone": {"NULL": true},
            "air": {"M": {"t": {"L": [{"N": "22.50"}, {"N": "-3E-2"}]}}},
        }},
    });
    assert_eq!(table.state().items.values().collect::<Vec<_>>(), [&expected]);
}

#[tokio::test(start_paused = true)]
async fn an_array_is_one_item_a_reading_in_the_order_of_the_array() {
    let table = DynamoDb::default();
    let readings: Vec<_> = (0..12).map(|n| json!({"n": n})).collect();
    table.deliver(&event("e-1", &json!(readings).to_string())).await;
    assert_eq!(keys(&table), (0..12).map(|n| format!("1763715600000#e-1#{n:06}")).collect::<Vec<_>>());
    let expected: Vec<_> = (0..12).map(|n| json!({"M": {"n": {"N": n.to_string()}}})).collect();
    assert_eq!(attribute(&table, "reading"), expected);
}

#[tokio::test(start_paused = true)]
async fn a_reading_with_an_identity_is_keyed_by_its_own_time_and_that() {
    let table = DynamoDb::default();
    for (id, payload) in [
        ("e-1", r#"{"meta":{"seq":17},"time":1763715599}"#),
        ("e-2", r#"{"meta":{"seq":"b-18"},"time":"1763715599.25"}"#),
        ("e-3", r#"{"meta":{"seq":19},"time":1763715599750}"#),
        ("e-4", r#"[{"meta":{"seq":20},"time":1763715598},{"meta":{"seq":21},"time":1763715597}]"#),
    ] {
        table.deliver_with(&[("IDENTITY_FIELD", "/meta/seq")], &event(id, payload)).await;
    }
    let expected =
        ["1763715597000#21", "1763715598000#20", "1763715599000#17", "1763715599250#b-18", "1763715599750#19"];
    assert_eq!(keys(&table), expected);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wildly_off_is_kept_as_reported_and_is_no_key() {
    let table = DynamoDb::default();
    for (id, time) in [("e-1", "0"), ("e-2", "\"1.8e9\""), ("e-3", "-1"), ("e-4", "\"noon\""), ("e-5", "true")] {
        let payload = format!(r#"{{"seq":1,"time":{time}}}"#);
        table.deliver_with(&[("IDENTITY_FIELD", "seq")], &event(id, &payload)).await;
    }
    let expected: Vec<_> = (1..=5).map(|n| format!("1763715600000#e-{n}")).collect();
    assert_eq!(keys(&table), expected);
    let reported =
        [json!({"N": "0"}), json!({"S": "1.8e9"}), json!({"N": "-1"}), json!({"S": "noon"}), json!({"BOOL": true})];
    assert_eq!(attribute(&table, "deviceTime"), reported);
}

#[tokio::test(start_paused = true)]
async fn the_tolerance_for_clocks_is_as_wide_as_the_operator_says() {
    let variables = [("IDENTITY_FIELD", "seq"), ("TIME_FIELD", "t"), ("CLOCK_TOLERANCE_SECONDS", "60")];
    for (time, key) in [
        (NOW.seconds() + 60, "1763715660000#1"),
        (NOW.seconds() - 60, "1763715540000#1"),
        (NOW.seconds() + 61, "1763715600000#e-1"),
        (NOW.seconds() - 61, "1763715600000#e-1"),
    ] {
        let table = DynamoDb::default();
        table.deliver_with(&variables, &event("e-1", &format!(r#"{{"seq":1,"t":{time}}}"#))).await;
        assert_eq!(keys(&table), [key]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_identity_leaves_the_key_to_the_event() {
    let long = format!("\"{}\"", "x".repeat(257));
    for identity in ["null", "\"\"", "[1]", "{\"a\":1}", "true", &long] {
        let table = DynamoDb::default();
        let payload = format!(r#"{{"seq":{identity},"time":1763715599}}"#);
        table.deliver_with(&[("IDENTITY_FIELD", "seq")], &event("e-1", &payload)).await;
        assert_eq!(keys(&table), ["1763715600000#e-1"], "{identity}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sigfox_callback_is_known_by_its_time_and_number_although_both_are_texts() {
    let table = DynamoDb::default();
    let payload = r#"{"device":"1D1A2B","data":"0a0b","time":"1763715590","seqNumber":"117","rssi":"-121.00"}"#;
    for id in ["e-1", "e-2"] {
        table.deliver(&event_on("sigfox", id, payload, NOW.millis())).await;
    }
    assert_eq!(keys(&table), ["1763715590000#117"]);
    assert_eq!(attribute(&table, "deviceTime"), [json!({"S": "1763715590"})]);
}

#[tokio::test(start_paused = true)]
async fn retention_is_counted_from_the_time_of_receipt() {
    let table = DynamoDb::default();
    table.deliver_with(&[("RETENTION_DAYS", "1")], &event("e-1", "{}")).await;
    assert_eq!(attribute(&table, "expiration"), [json!({"N": (NOW.seconds() + 86_400).to_string()})]);
}

#[tokio::test(start_paused = true)]
async fn an_array_without_readings_is_done() {
    let table = DynamoDb::default();
    let delivered = table.deliver(&event("e-1", " [ ] ")).await;
    assert_eq!(delivered.answer, Some(Ok(json!({"outcome": "done"}))));
    assert!(table.state().calls.is_empty());
}

// ---- Duplicates ----

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_again_writes_the_same_items() {
    let table = DynamoDb::default();
    let delivery = batch(&[event("e-1", r#"[{"n":1},{"n":2}]"#), event("e-2", r#"{"n":3}"#)]);
    table.deliver(&delivery).await;
    let first = table.state().items.clone();
    table.deliver(&delivery).await;
    assert_eq!(table.state().items, first);
    assert!(table.state().written.values().all(|times| *times == 2));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_stands_twice_in_a_delivery_is_written_once_and_both_are_done() {
    let table = DynamoDb::default();
    let delivered = table.deliver(&batch(&[event("e-1", r#"{"n":1}"#), event("e-1", r#"{"n":1}"#)])).await;
    assert!(delivered.handed_back().is_empty());
    assert_eq!(delivered.counted, [("Duplicates", 1), ("Stored", 1)].into());
    assert_eq!(table.state().calls.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_readings_of_one_identity_the_newest_wins_wherever_they_stand() {
    let (old, new) = (r#"{"seq":1,"time":1763715599,"v":"old"}"#, r#"{"seq":1,"time":1763715599,"v":"new"}"#);
    let (before, later) = (NOW.millis(), NOW.millis() + 1);
    let array = event("e-1", &format!("[{old},{new}]"));
    for bodies in [
        vec![event_at("e-1", old, before), event_at("e-2", new, later)],
        vec![event_at("e-2", new, later), event_at("e-1", old, before)],
        vec![event_at("e-1", old, before), event_at("e-2", new, before)],
        vec![array],
    ] {
        let table = DynamoDb::default();
        let delivered = table.deliver_with(&[("IDENTITY_FIELD", "seq")], &batch(&bodies)).await;
        assert!(delivered.handed_back().is_empty());
        assert_eq!(keys(&table), ["1763715599000#1"]);
        assert_eq!(attribute(&table, "reading")[0]["M"]["v"], json!({"S": "new"}));
        assert_eq!(delivered.counted["Duplicates"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_merged_shares_the_fate_of_the_write_that_stands_for_it() {
    let table = DynamoDb::default().always(Act::Fail);
    let same = r#"{"seq":1,"time":1763715599}"#;
    let bodies = [event("e-1", same), event("e-2", same), event("e-3", "[]")];
    let delivered = table.deliver_with(&[("IDENTITY_FIELD", "seq")], &batch(&bodies)).await;
    assert_eq!(delivered.handed_back(), ids([0, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_bad_reading_does_not_stand_for_a_good_one_of_the_same_identity() {
    let digits = "9".repeat(39);
    let good = event("e-1", r#"{"n":1}"#);
    let bad = event("e-1", &format!(r#"{{"n":{digits}}}"#));
    for bodies in [[&good, &good, &bad], [&good, &bad, &good], [&bad, &good, &good]] {
        let table = DynamoDb::default();
        let delivered = table.deliver(&batch(&bodies.map(Clone::clone))).await;
        assert!(delivered.handed_back().is_empty());
        assert_eq!(attribute(&table, "reading"), [json!({"M": {"n": {"N": "1"}}})]);
        assert_eq!(refused(&table).0, "too-many-digits");
        assert_eq!(delivered.counted["Duplicates"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_of_bad_readings_alone_calls_nobody_but_the_quarantine() {
    let table = DynamoDb::default();
    let bodies: Vec<_> = (0..30).map(|n| event(&format!("e-{n}"), r#"{"n":1e999}"#)).collect();
    assert!(table.deliver(&batch(&bodies)).await.handed_back().is_empty());
    let state = table.state();
    assert!(state.calls.is_empty());
    assert_eq!(state.quarantined.len(), 30);
}

// ---- DynamoDB has its own ideas ----

#[tokio::test(start_paused = true)]
async fn many_readings_are_written_25_a_call_several_calls_at_once() {
    let table = DynamoDb::default();
    let delivered = table.deliver(&numbered(1003)).await;
    assert!(delivered.handed_back().is_empty());
    let state = table.state();
    assert_eq!(state.items.len(), 1003);
    assert_eq!(state.calls.len(), 41);
    assert!(state.calls.iter().all(|invocation| invocation.len() <= 25));
    assert_eq!(state.most_in_flight, 8);
}

#[tokio::test(start_paused = true)]
async fn readings_that_are_large_are_fewer_a_call() {
    let table = DynamoDb::default();
    let large = format!(r#"{{"zeros":[{}0]}}"#, "0,".repeat(50_000));
    let bodies: Vec<_> = (0..30).map(|n| event(&format!("e-{n}"), &large)).collect();
    assert!(table.deliver(&batch(&bodies)).await.handed_back().is_empty());
    let state = table.state();
    assert_eq!(state.items.len(), 30);
    assert!(state.largest_call <= 2 * 1024 * 1024 + 30_000, "a call has {} bytes", state.largest_call);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_unprocessed_is_sent_again_and_nothing_else() {
    let table = DynamoDb::default().next([Act::Leave(10), Act::Leave(4), Act::Serve]);
    let delivered = table.deliver(&numbered(25)).await;
    assert!(delivered.handed_back().is_empty());
    assert_eq!(delivered.counted, [("Stored", 25), ("Unprocessed", 14)].into());
    let state = table.state();
    assert_eq!(state.calls.iter().map(Vec::len).collect::<Vec<_>>(), [25, 10, 4]);
    assert!(state.written.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_still_unprocessed_when_time_runs_out_is_handed_back_by_id() {
    let table = DynamoDb::default().next([Act::Leave(3)]).next([Act::Leave(1)].repeat(1000));
    let delivered = table.deliver(&numbered(25)).await;
    // Two of the three were taken in the second and third call; the last one never was.
    assert_eq!(delivered.handed_back().len(), 25 - table.state().items.len());
    assert_eq!(delivered.handed_back(), ids([24]));
}

#[tokio::test(start_paused = true)]
async fn where_it_cannot_be_told_what_was_left_everything_is_sent_again() {
    let table = DynamoDb::default().next([Act::Muddle]);
    let delivered = table.deliver(&numbered(25)).await;
    assert!(delivered.handed_back().is_empty());
    assert_eq!(table.state().calls.iter().map(Vec::len).collect::<Vec<_>>(), [25, 25]);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_so_that_a_table_that_takes_nothing_is_not_stormed() {
    let table = DynamoDb::default().always(Act::Leave(25));
    let delivered = table.deliver(&numbered(25)).await;
    assert_eq!(delivered.handed_back(), ids(0..25));
    let calls = table.state().calls.len();
    assert!((8..60).contains(&calls), "{calls} calls in 19 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_hands_back_its_own_events_alone() {
    let table = DynamoDb::default().next([Act::Serve, Act::Fail]);
    let delivered = table.deliver(&numbered(75)).await;
    assert_eq!(delivered.handed_back(), ids(25..50));
    assert_eq!(table.state().items.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_throttled_is_made_again() {
    let table = DynamoDb::default().next([Act::Throttle, Act::Throttle]);
    let delivered = table.deliver(&numbered(25)).await;
    assert!(delivered.handed_back().is_empty());
    assert_eq!(table.state().calls.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_throttled_for_good_gets_everything_handed_back() {
    let table = DynamoDb::default().always(Act::Throttle);
    let delivered = table.deliver(&numbered(60)).await;
    assert_eq!(delivered.handed_back(), ids(0..60));
    assert!(table.state().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_loses_nothing_of_what_the_others_wrote() {
    let table = DynamoDb::default().next([Act::Serve, Act::Hang, Act::Serve]);
    let delivered = table.deliver(&numbered(75)).await;
    assert_eq!(delivered.handed_back(), ids(25..50));
    assert_eq!(table.state().items.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_done_only_when_all_its_readings_are_written() {
    let readings: Vec<_> = (0..30).map(|n| json!({"n": n})).collect();
    let array = json!(readings).to_string();
    // The array's last five readings are in the call that fails, with a neighbour.
    let table = DynamoDb::default().next([Act::Serve, Act::Fail]);
    let delivered = table.deliver(&batch(&[event("e-1", &array), event("e-2", r#"{"n":1}"#)])).await;
    assert_eq!(delivered.handed_back(), ids([0, 1]));
    assert_eq!(table.state().items.len(), 25);
    // They come again.
    table.deliver(&batch(&[event("e-1", &array), event("e-2", r#"{"n":1}"#)])).await;
    assert_eq!(table.state().items.len(), 31);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_between_two_calls_leaves_what_the_next_one_completes() {
    let (whole, table) = (DynamoDb::default(), DynamoDb::default().next([Act::Serve, Act::Serve, Act::Die]));
    let delivery = numbered(300);
    whole.deliver(&delivery).await;
    assert!(table.deliver(&delivery).await.answer.is_none(), "it lives");
    assert!((1..300).contains(&table.state().items.len()));
    assert!(table.deliver(&delivery).await.handed_back().is_empty());
    assert_eq!(table.state().items, whole.state().items);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_only_dynamodb_knows_to_be_bad_is_refused_alone() {
    for poisoned in [vec![0], vec![24], vec![7, 8], (0..25).collect()] {
        let table = DynamoDb::default();
        let payload = |n| if poisoned.contains(&n) { r#"{"poison":1}"#.to_owned() } else { format!(r#"{{"n":{n}}}"#) };
        let bodies: Vec<_> = (0..50).map(|n| event(&format!("e-{n}"), &payload(n))).collect();
        let delivered = table.deliver(&batch(&bodies)).await;
        assert!(delivered.handed_back().is_empty());
        let state = table.state();
        assert_eq!(state.items.len(), 50 - poisoned.len());
        let refused: BTreeSet<_> = poisoned.iter().map(|n| format!("e-{n}")).collect();
        assert_eq!(state.quarantined.keys().cloned().collect::<BTreeSet<_>>(), refused);
        assert!(state.quarantined.values().all(|(reason, _)| reason == "not-storable"));
    }
}

// ---- What is refused ----

#[tokio::test(start_paused = true)]
async fn one_bad_reading_fails_none_of_its_neighbours() {
    let table = DynamoDb::default();
    let digits = "1".repeat(39);
    let array = format!(r#"[{{"lux":1}},{{"lux":{digits}}},{{"lux":3}},{{"lux":4}}]"#);
    let delivered = table.deliver(&batch(&[event("e-1", &array), event("e-2", r#"{"lux":6}"#)])).await;
    assert!(delivered.handed_back().is_empty());
    assert_eq!(
        keys(&table),
        ["1763715600000#e-1#000000", "1763715600000#e-1#000002", "1763715600000#e-1#000003", "1763715600000#e-2",]
    );
    let why = "In item 1, value 0 is a number of 39 significant digits; DynamoDB holds 38.";
    assert_eq!(refused(&table), ("too-many-digits".to_owned(), why.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_event_with_a_bad_reading_comes_again_while_its_good_ones_are_not_written() {
    let table = DynamoDb::default().next([Act::Fail]);
    let delivery = batch(&[event("e-1", r#"[{"lux":1},2]"#)]);
    assert_eq!(table.deliver(&delivery).await.handed_back(), ids([0]));
    assert!(table.state().quarantined.is_empty());
    assert!(table.deliver(&delivery).await.handed_back().is_empty());
    assert_eq!(refused(&table), ("not-an-object".to_owned(), "Item 1 is not a JSON object.".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_bad_payload_is_refused_for_its_reason() {
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(32), "]".repeat(32));
    let wide = json!([{}].repeat(1001)).to_string();
    for (payload, reason, why) in [
        ("", "empty-payload", "The payload is empty."),
        ("{", "not-json", "The payload is not JSON: line 1 column 1 does not parse."),
        ("7", "not-an-object", "The payload is a number, not an object or an array of objects."),
        (
            r#"{"a":1,"b":[0,{"c":1e126}]}"#,
            "number-out-of-range",
            "Value 1.1.0 is a number beyond what DynamoDB holds, 1E-130 to 9.9E+125.",
        ),
        (r#"{"a":{"":1}}"#, "empty-name", "The name of value 0.0 is empty."),
        (r#"{"a":1,"b":2,"\u0061":3}"#, "duplicate-field", "The name of value 2 stands there twice."),
        (r#"{"a":"\ud83d"}"#, "not-json", "Value 0 is not JSON that can be read."),
        (
            &deep,
            "too-deep",
            &format!("Value 0{} stands 32 levels deep and holds more; DynamoDB does not.", ".0".repeat(31)),
        ),
        (&wide, "too-many-readings", "The payload has 1001 readings; at most 1000 are taken."),
        (&"x".repeat(128 * 1024 + 1), "payload-too-large", "The payload has 131073 bytes; at most 131072 are taken."),
    ] {
        let table = DynamoDb::default();
        table.deliver(&event("e-1", payload)).await;
        assert_eq!(refused(&table), (reason.to_owned(), why.to_owned()));
        assert!(table.state().items.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn every_sample_event_has_the_outcome_that_its_name_tells() {
    let outcomes = BTreeMap::from([
        ("array-with-a-bad-reading.json", "too-many-digits"),
        ("array-with-own-times.json", "done"),
        ("array.json", "done"),
        ("bad-thing-name.json", "bad-thing-name"),
        ("duplicate-field.json", "duplicate-field"),
        ("empty-array.json", "done"),
        ("empty-name.json", "empty-name"),
        ("empty.json", "empty-payload"),
        ("exact-number.json", "done"),
        ("half-a-character.json", "not-json"),
        ("invalid-utf8.json", "invalid-utf8"),
        ("item-that-is-no-object.json", "not-an-object"),
        ("nested.json", "done"),
        ("not-json.json", "not-json"),
        ("number-out-of-range.json", "number-out-of-range"),
        ("number.json", "not-an-object"),
        ("reading.json", "done"),
        ("sigfox.json", "done"),
        ("sqs-batch.json", "batch"),
        ("too-deep.json", "too-deep"),
        ("too-many-digits.json", "too-many-digits"),
        ("too-many-readings.json", "too-many-readings"),
        ("truncated.json", "not-json"),
        ("wild-clock.json", "done"),
        ("with-identity.json", "done"),
    ]);
    let mut met = BTreeMap::new();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../events/telemetry")).unwrap() {
        let path = file.unwrap().path();
        let delivered = DynamoDb::default().deliver(&fs::read_to_string(&path).unwrap()).await;
        let answer = delivered.answer.unwrap().unwrap();
        let outcome = answer["reason"].as_str().or(answer["outcome"].as_str()).unwrap_or("batch");
        met.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), outcome.to_owned());
    }
    assert_eq!(met, outcomes.into_iter().map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect());
}

// ---- Whatever happens ----

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Serve),
        3 => (0..30_usize).prop_map(Act::Leave),
        1 => Just(Act::Throttle),
        1 => Just(Act::Fail),
        1 => Just(Act::Hang),
        1 => Just(Act::Die),
    ]
}

/// What each event of a run holds: the numbers of its readings, and whether one of them is bad.
fn payloads() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::bool::weighted(0.1)), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_table_does_the_queue_gets_every_reading_into_it_and_none_twice(
        payloads in payloads(),
        acts in prop::collection::vec(act(), 0..40),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let table = DynamoDb::default().next(acts);
        // A number is a reading's identity: readings of the same number are the same, in whatever event they come.
        let body = |(index, (numbers, is_bad)): (usize, &(Vec<u8>, bool))| {
            let mut readings: Vec<_> = numbers.iter().map(|n| json!({"seq": n, "time": 1_763_715_599})).collect();
            if *is_bad {
                readings.insert(readings.len() / 2, json!("bad"));
            }
            event(&format!("e-{index}"), &json!(readings).to_string())
        };
        let mut open: Vec<_> = payloads.iter().enumerate().map(body).collect();
        for _ in 0..100 {
            let delivered =
                runtime.block_on(table.deliver_with(&[("IDENTITY_FIELD", "seq")], &batch(&open)));
            if delivered.answer.is_some() {
                let back: BTreeSet<_> = delivered.handed_back().into_iter().collect();
                open = open.into_iter().enumerate().filter(|(n, _)| back.contains(&format!("m-{n}"))).map(|(_, e)| e)
                    .collect();
            }
            if open.is_empty() {
                break;
            }
        }
        prop_assert!(open.is_empty(), "{} events come again for ever", open.len());
        let numbers: BTreeSet<_> = payloads.iter().flat_map(|(numbers, _)| numbers).collect();
        let expected: BTreeSet<_> = numbers.into_iter().map(|n| format!("1763715599000#{n}")).collect();
        prop_assert_eq!(keys(&table).into_iter().collect::<BTreeSet<_>>(), expected);
        let bad: BTreeSet<_> = payloads.iter().enumerate().filter(|(_, (_, is_bad))| *is_bad)
            .map(|(index, _)| format!("e-{index}")).collect();
        prop_assert_eq!(table.state().quarantined.keys().cloned().collect::<BTreeSet<_>>(), bad);
    }

    #[test]
    fn no_payload_makes_it_panic_or_come_again(payload: Vec<u8>) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let table = DynamoDb::default();
        let payload = BASE64_STANDARD.encode(&payload);
        let event = json!({"thing": "t", "topic": "telemetry/t", "traceId": "e-1", "payloadBase64": payload});
        let delivered = runtime.block_on(table.deliver(&event.to_string()));
        prop_assert!(matches!(delivered.answer, Some(Ok(_))), "{:?}", delivered.answer);
    }
}
