//! The items that are written, and duplicates.

use serde_json::json;
use test_support::{Fault, NOW, sqs_batch};

use crate::setup::*;

#[tokio::test(start_paused = true)]
async fn reading_is_one_item_with_typed_fields() {
    let table = account();
    let payload = r#"{"lux": 41250.0, "time": 1763715599, "on": true, "note": "h\u00e4\n", "gone": null,
                      "air": {"t": [22.50, -3e-2]}}"#;
    let delivered = deliver(&table, &event("e-1", payload)).await;
    assert_eq!(delivered.response, Some(Ok(json!({"outcome": "done"}))));
    assert_eq!(delivered.counts["Stored"], 1);
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
    assert_eq!(items(&table), [expected]);
}

#[tokio::test(start_paused = true)]
async fn array_is_one_item_per_reading_in_its_order() {
    let table = account();
    let readings: Vec<_> = (0..12).map(|n| json!({"n": n})).collect();
    deliver(&table, &event("e-1", &json!(readings).to_string())).await;
    assert_eq!(keys(&table), (0..12).map(|n| format!("1763715600000#e-1#{n:06}")).collect::<Vec<_>>());
    let expected: Vec<_> = (0..12).map(|n| json!({"M": {"n": {"N": n.to_string()}}})).collect();
    assert_eq!(attribute(&table, "reading"), expected);
}

#[tokio::test(start_paused = true)]
async fn identity_and_own_time_make_the_key() {
    let table = account();
    for (id, payload) in [
        ("e-1", r#"{"meta":{"seq":17},"time":1763715599}"#),
        ("e-2", r#"{"meta":{"seq":"b-18"},"time":"1763715599.25"}"#),
        ("e-3", r#"{"meta":{"seq":19},"time":1763715599750}"#),
        ("e-4", r#"[{"meta":{"seq":20},"time":1763715598},{"meta":{"seq":21},"time":1763715597}]"#),
    ] {
        deliver_with(&table, &[("IDENTITY_FIELD", "/meta/seq")], &event(id, payload)).await;
    }
    let expected =
        ["1763715597000#21", "1763715598000#20", "1763715599000#17", "1763715599250#b-18", "1763715599750#19"];
    assert_eq!(keys(&table), expected);
}

#[tokio::test(start_paused = true)]
async fn time_beyond_the_tolerance_is_stored_but_not_in_the_key() {
    let table = account();
    for (id, time) in [("e-1", "0"), ("e-2", "\"1.8e9\""), ("e-3", "-1"), ("e-4", "\"noon\""), ("e-5", "true")] {
        let payload = format!(r#"{{"seq":1,"time":{time}}}"#);
        deliver_with(&table, &[("IDENTITY_FIELD", "seq")], &event(id, &payload)).await;
    }
    let expected: Vec<_> = (1..=5).map(|n| format!("1763715600000#e-{n}")).collect();
    assert_eq!(keys(&table), expected);
    let reported =
        [json!({"N": "0"}), json!({"S": "1.8e9"}), json!({"N": "-1"}), json!({"S": "noon"}), json!({"BOOL": true})];
    assert_eq!(attribute(&table, "deviceTime"), reported);
}

#[tokio::test(start_paused = true)]
async fn clock_tolerance_is_configurable() {
    let variables = [("IDENTITY_FIELD", "seq"), ("TIME_FIELD", "t"), ("CLOCK_TOLERANCE_SECONDS", "60")];
    for (time, key) in [
        (NOW.seconds() + 60, "1763715660000#1"),
        (NOW.seconds() - 60, "1763715540000#1"),
        (NOW.seconds() + 61, "1763715600000#e-1"),
        (NOW.seconds() - 61, "1763715600000#e-1"),
    ] {
        let table = account();
        deliver_with(&table, &variables, &event("e-1", &format!(r#"{{"seq":1,"t":{time}}}"#))).await;
        assert_eq!(keys(&table), [key]);
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_identity_leaves_the_key_to_the_event() {
    let long = format!("\"{}\"", "x".repeat(257));
    for identity in ["null", "\"\"", "[1]", "{\"a\":1}", "true", &long] {
        let table = account();
        let payload = format!(r#"{{"seq":{identity},"time":1763715599}}"#);
        deliver_with(&table, &[("IDENTITY_FIELD", "seq")], &event("e-1", &payload)).await;
        assert_eq!(keys(&table), ["1763715600000#e-1"], "{identity}");
    }
}

#[tokio::test(start_paused = true)]
async fn sigfox_callback_is_keyed_by_its_time_and_number() {
    let table = account();
    let payload = r#"{"device":"1D1A2B","data":"0a0b","time":"1763715590","seqNumber":"117","rssi":"-121.00"}"#;
    for id in ["e-1", "e-2"] {
        deliver(&table, &event_on("sigfox", id, payload, NOW.millis())).await;
    }
    assert_eq!(keys(&table), ["1763715590000#117"]);
    assert_eq!(attribute(&table, "deviceTime"), [json!({"S": "1763715590"})]);
}

#[tokio::test(start_paused = true)]
async fn retention_starts_at_the_time_of_receipt() {
    let table = account();
    deliver_with(&table, &[("RETENTION_DAYS", "1")], &event("e-1", "{}")).await;
    assert_eq!(attribute(&table, "expiration"), [json!({"N": (NOW.seconds() + 86_400).to_string()})]);
}

#[tokio::test(start_paused = true)]
async fn empty_array_is_done() {
    let table = account();
    let delivered = deliver(&table, &event("e-1", " [ ] ")).await;
    assert_eq!(delivered.response, Some(Ok(json!({"outcome": "done"}))));
    assert_eq!(call_sizes(&table), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn event_delivered_again_writes_the_same_items() {
    let table = account();
    let delivery = sqs_batch(&[event("e-1", r#"[{"n":1},{"n":2}]"#), event("e-2", r#"{"n":3}"#)]);
    deliver(&table, &delivery).await;
    let first = items(&table);
    deliver(&table, &delivery).await;
    assert_eq!(items(&table), first);
    assert!(table.state().writes.values().all(|times| *times == 2));
}

#[tokio::test(start_paused = true)]
async fn event_that_appears_twice_in_a_batch_is_written_once() {
    let table = account();
    let delivered = deliver(&table, &sqs_batch(&[event("e-1", r#"{"n":1}"#), event("e-1", r#"{"n":1}"#)])).await;
    assert!(retried(&delivered).is_empty());
    assert_eq!(delivered.counts, [("Duplicate", 1), ("Stored", 1)].into());
    assert_eq!(call_sizes(&table), [1]);
}

#[tokio::test(start_paused = true)]
async fn newest_reading_of_an_identity_is_stored() {
    let (old, new) = (r#"{"seq":1,"time":1763715599,"v":"old"}"#, r#"{"seq":1,"time":1763715599,"v":"new"}"#);
    let (before, later) = (NOW.millis(), NOW.millis() + 1);
    let array = event("e-1", &format!("[{old},{new}]"));
    for bodies in [
        vec![event_at("e-1", old, before), event_at("e-2", new, later)],
        vec![event_at("e-2", new, later), event_at("e-1", old, before)],
        vec![event_at("e-1", old, before), event_at("e-2", new, before)],
        vec![array],
    ] {
        let table = account();
        let delivered = deliver_with(&table, &[("IDENTITY_FIELD", "seq")], &sqs_batch(&bodies)).await;
        assert!(retried(&delivered).is_empty());
        assert_eq!(keys(&table), ["1763715599000#1"]);
        assert_eq!(attribute(&table, "reading")[0]["M"]["v"], json!({"S": "new"}));
        assert_eq!(delivered.counts["Duplicate"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn duplicates_share_the_outcome_of_their_write() {
    let table = account();
    table.fail_each(WRITE, Fault::Denied);
    let same = r#"{"seq":1,"time":1763715599}"#;
    let bodies = [event("e-1", same), event("e-2", same), event("e-3", "[]")];
    let delivered = deliver_with(&table, &[("IDENTITY_FIELD", "seq")], &sqs_batch(&bodies)).await;
    assert_eq!(retried(&delivered), ids([0, 1]));
}

#[tokio::test(start_paused = true)]
async fn invalid_reading_never_replaces_a_valid_one() {
    let digits = "9".repeat(39);
    let good = event("e-1", r#"{"n":1}"#);
    let bad = event("e-1", &format!(r#"{{"n":{digits}}}"#));
    for bodies in [[&good, &good, &bad], [&good, &bad, &good], [&bad, &good, &good]] {
        let table = account();
        let delivered = deliver(&table, &sqs_batch(bodies)).await;
        assert!(retried(&delivered).is_empty());
        assert_eq!(attribute(&table, "reading"), [json!({"M": {"n": {"N": "1"}}})]);
        assert_eq!(refused(&table).0, "too-many-digits");
        assert_eq!(delivered.counts["Duplicate"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn batch_of_invalid_readings_only_calls_the_quarantine() {
    let table = account();
    let bodies: Vec<_> = (0..30).map(|n| event(&format!("e-{n}"), r#"{"n":1e999}"#)).collect();
    assert!(retried(&deliver(&table, &sqs_batch(&bodies)).await).is_empty());
    assert_eq!(call_sizes(&table), [0; 0]);
    assert_eq!(table.state().quarantined().len(), 30);
}

#[tokio::test(start_paused = true)]
async fn event_id_never_reads_like_another_one_with_a_position() {
    let table = account();
    deliver(&table, &event("e-1", r#"[{"n":0},{"n":1}]"#)).await;
    deliver(&table, &event("e-1#000001", r#"{"n":2}"#)).await;
    deliver(&table, &event("e-1%23000001", r#"{"n":3}"#)).await;
    let mut expected =
        ["e-1#000000", "e-1#000001", "e-1%23000001", "e-1%2523000001"].map(|id| format!("1763715600000#{id}"));
    expected.sort();
    assert_eq!(keys(&table), expected);
    deliver_with(&table, &[("IDENTITY_FIELD", "n")], &event("e-5", r#"{"n":"e-1#000001","time":1763715600}"#)).await;
    assert_eq!(keys(&table).len(), 4, "the identity reads like that event id, and both are escaped");
}
