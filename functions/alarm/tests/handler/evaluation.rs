//! Readings and documents: which decisions result, and which calls are made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use test_support::{FakeAws, sqs_batch};

use crate::setup::*;

#[track_caller]
fn assert_calls(aws: &FakeAws, expected: impl IntoIterator<Item = (&'static str, usize)>) {
    let expected: BTreeMap<_, _> = expected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    assert_eq!(aws.state().call_counts(), expected);
}

#[tokio::test(start_paused = true)]
async fn alarm_is_published_as_text_json_and_attributes() {
    let aws = account(json!([too_bright(60)])).await;
    let delivered = deliver(&aws, &[reading("e-1", 0, 150), reading("e-2", MINUTE, 180)], MINUTE).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    assert_eq!((delivered.count("Raised"), delivered.count("RateLimited")), (1, 0));
    let state = aws.state();
    let [published] = &state.published[..] else { panic!("{:?}", state.published) };
    let text = "too-bright: greenhouse-1 lux above 100 for 1 min (now 180)";
    assert_eq!((published.subject.as_str(), published.text().as_str()), ("ALARM too-bright: greenhouse-1", text));
    let id = format!("greenhouse-1#too-bright#{}#ALARM#1", START + MINUTE);
    assert_eq!(
        published.data(),
        json!({"transition": id, "threshold": "too-bright", "thing": "greenhouse-1", "from": "OK", "to": "ALARM",
               "field": "/lux", "value": 180, "at": START + MINUTE, "since": START, "words": text,
               "rule": "too-bright", "ruleVersion": 1, "kind": "transition", "severity": "major", "state": "ACTIVE",
               "previousState": "NORMAL"})
    );
    let attributes = [
        ("AWS.SNS.SMS.SMSType", "Transactional"),
        ("audience", "people"),
        ("eventId", id.as_str()),
        ("from", "OK"),
        ("kind", "transition"),
        ("severity", "major"),
        ("state", "ACTIVE"),
        ("thing", "greenhouse-1"),
        ("threshold", "too-bright"),
        ("to", "ALARM"),
    ];
    assert_eq!(published.attributes, attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert!(!has_pending(&state));
}

#[tokio::test(start_paused = true)]
async fn transition_id_fits_however_long_the_names_are() {
    let mut threshold = too_bright(0);
    threshold["name"] = "t".repeat(64).into();
    threshold["things"] = "*".into();
    let aws = account(json!([threshold])).await;
    deliver(&aws, &[event("e-1", &"g".repeat(128), 0, json!({"lux": 150}))], 0).await;
    let id = aws.state().published[0].attributes["eventId"].clone();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
}

#[tokio::test(start_paused = true)]
async fn batch_reads_and_writes_a_record_once() {
    let aws = account(json!([too_bright(600)])).await;
    aws.reset_calls();
    let readings: Vec<_> = (0..50).map(|n| reading(&format!("e-{n}"), n * 1000, 150)).collect();
    deliver(&aws, &readings, MINUTE).await;
    assert_calls(&aws, [("BatchGetItem alarms", 1), ("GetItem document", 1), ("PutItem thing", 1)]);
}

#[tokio::test(start_paused = true)]
async fn readings_are_applied_in_order_of_receipt() {
    let aws = account(json!([too_bright(60)])).await;
    let readings = [reading("e-3", 2 * MINUTE, 90), reading("e-2", MINUTE, 150), reading("e-1", 0, 150)];
    let delivered = deliver(&aws, &readings, 2 * MINUTE).await;
    assert_eq!(delivered.count("OutOfOrder"), 0);
    assert_eq!(transitions(&aws), [to("ALARM", MINUTE)]);
    assert_eq!(attribute(&aws.state(), "value").as_deref(), Some("90"));
}

#[tokio::test(start_paused = true)]
async fn earlier_reading_in_a_later_batch_is_only_counted() {
    let aws = account(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 150), reading("e-3", 50_000, 150)], MINUTE).await;
    let delivered = deliver(&aws, &[reading("e-2", 20_000, 90)], MINUTE).await;
    assert_eq!((delivered.count("OutOfOrder"), delivered.retried_messages()), (1, Some(vec![])));
    deliver(&aws, &[reading("e-4", 60_000, 150)], MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 60_000)]);
}

#[tokio::test(start_paused = true)]
async fn repeated_event_of_the_same_millisecond_is_ignored() {
    let aws = account(json!([too_bright(0)])).await;
    let (high, low) = (reading("high", 5, 150), reading("low", 5, 50));
    deliver(&aws, std::slice::from_ref(&high), MINUTE).await;
    deliver(&aws, &[high.clone(), low.clone()], MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 5), to("OK", 5)]);
    deliver(&aws, &[high, low.clone(), low], MINUTE).await;
    assert_eq!(aws.state().published.len(), 2);
    assert_eq!(attribute(&aws.state(), "state").as_deref(), Some("OK"));
}

#[tokio::test(start_paused = true)]
async fn readings_of_an_array_are_applied_in_their_order() {
    let aws = account(json!([too_bright(0)])).await;
    let payload = json!([{"lux": 150}, {"lux": 50}, {"lux": 150}]);
    deliver(&aws, &[event("e-1", "greenhouse-1", 5, payload)], MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", 5), to("OK", 5), to("ALARM", 5)]);
}

#[tokio::test(start_paused = true)]
async fn reading_without_a_number_is_only_counted() {
    let aws = account(json!([too_bright(60)])).await;
    deliver(&aws, &[reading("e-1", 0, 150)], MINUTE).await;
    let before = record(&aws);
    let without = [json!({}), json!({"lux": null}), json!({"lux": "150"}), json!({"air": {"lux": 150}})];
    let events: Vec<_> = without
        .into_iter()
        .enumerate()
        .map(|(n, payload)| event(&format!("w-{n}"), "greenhouse-1", 30_000, payload))
        .collect();
    let delivered = deliver(&aws, &events, MINUTE).await;
    assert_eq!((delivered.count("MissingValue"), delivered.retried_messages()), (4, Some(vec![])));
    assert_eq!(record(&aws), before);
}

#[tokio::test(start_paused = true)]
async fn invalid_event_is_quarantined_and_affects_no_other() {
    let aws = account(json!([too_bright(0)])).await;
    let mut not_json = reading("invalid", 1, 0);
    not_json.as_object_mut().unwrap().remove("payload");
    not_json["payloadBase64"] = "bHV4".into();
    let mut huge = reading("huge", 3, 0);
    huge.as_object_mut().unwrap().remove("payload");
    // {"lux":1e400}
    huge["payloadBase64"] = "eyJsdXgiOjFlNDAwfQ==".into();
    let events = [
        reading("e-1", 0, 50),
        not_json,
        event("partly", "greenhouse-1", 2, json!([7, {"lux": 150}, "x"])),
        json!({"check": "everything"}),
        json!({"check": "due", "thresholds": []}),
        json!({"thing": "+", "topic": "t", "payload": {}}),
        json!({"check": 1}),
        json!([[], "due"]),
        huge,
    ];
    let delivered = deliver(&aws, &events, MINUTE).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    let quarantined: BTreeMap<_, _> =
        aws.state().quarantined().into_iter().map(|(id, code, _)| (id.to_owned(), code.to_owned())).collect();
    assert_eq!(
        quarantined,
        [
            ("invalid", "not-json"),
            ("huge", "number-out-of-range"),
            ("m-3", "unknown-value"),
            ("m-4", "bad-order"),
            ("m-5", "bad-thing-name"),
            ("m-6", "wrong-type"),
            ("m-7", "not-an-object"),
            ("partly", "not-an-object"),
        ]
        .map(|(id, code)| (id.to_owned(), code.to_owned()))
        .into()
    );
    assert_eq!(transitions(&aws), [to("ALARM", 2)], "the valid reading beside the invalid ones counts");
}

#[tokio::test(start_paused = true)]
async fn readings_are_done_if_there_is_no_document() {
    let aws = empty_account();
    assert_eq!(deliver(&aws, &[reading("e-1", 0, 150)], 0).await.retried_messages(), Some(vec![]));
    assert!(check(&aws, 0).await.is_done());
    assert!(aws.state().tables.is_empty());
}

#[tokio::test(start_paused = true)]
async fn thing_without_a_threshold_needs_no_record() {
    let aws = account(json!([too_bright(0)])).await;
    aws.reset_calls();
    deliver(&aws, &[event("e-1", "tank-1", 0, json!({"lux": 150}))], 0).await;
    assert_calls(&aws, [("GetItem document", 1)]);
}

#[tokio::test(start_paused = true)]
async fn invalid_document_leaves_the_last_valid_one_in_force() {
    let aws = account(json!([too_bright(0)])).await;
    let mut invalid = too_bright(0);
    invalid["raise"]["below"] = 5.into();
    let refused = put_thresholds(&aws, json!([invalid])).await;
    let why = "`thresholds[0].raise` of `too-bright`: It must have exactly one of `above` and `below`.";
    assert_eq!(refused.refusal(), Some(("bad-document", why)));
    deliver(&aws, &[reading("e-1", 0, 150)], 0).await;
    assert_eq!(transitions(&aws), [to("ALARM", 0)]);
}

#[tokio::test(start_paused = true)]
async fn new_duration_applies_at_once_and_keeps_states() {
    let aws = account(json!([too_bright(60)])).await;
    deliver(&aws, &raising(), MINUTE).await;
    let mut slower = too_bright(60);
    slower["clear"] = json!({"below": 100.0, "for": "90 s"});
    slower["things"] = "*".into();
    slower["stale"] = "2 h".into();
    let low = [json!({"thresholds": [slower]}), reading("e-3", 2 * MINUTE, 50), reading("e-4", 3 * MINUTE, 50)];
    deliver(&aws, &low, 3 * MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", MINUTE)]);
    deliver(&aws, &[reading("e-5", 4 * MINUTE, 50)], 4 * MINUTE).await;
    assert_eq!(transitions(&aws), [to("ALARM", MINUTE), to("OK", 4 * MINUTE)]);
}

#[tokio::test(start_paused = true)]
async fn numbers_leave_as_they_were_written() {
    for number in ["94.24502837770503", "150.50", "18446744073709551617", "1.5E+2", "100.00000000000000000001"] {
        let mut threshold = too_bright(0);
        threshold["raise"]["above"] = json!(100);
        let aws = account(json!([threshold])).await;
        if number.starts_with("94") {
            let below = json!({"thresholds": [{
                "name": "too-bright", "things": "*", "field": "/lux",
                "raise": {"above": 94, "for": "0 s"}, "clear": {"below": 94, "for": "0 s"},
            }]});
            assert!(deliver_to(&aws.process(), &below, at(0)).await.is_done());
        }
        let text = format!(
            r#"{{"thing":"greenhouse-1","topic":"telemetry/greenhouse-1","traceId":"e-1","payload":{{"lux":{number}}}}}"#
        );
        deliver_to(&aws.process(), &sqs_batch([text]), at(0)).await;
        let state = aws.state();
        let [published] = &state.published[..] else { panic!("{number}: {:?}", state.published) };
        assert!(published.text().ends_with(&format!("(now {number})")), "{}", published.text());
        let data = published.by_protocol("sqs");
        assert!(data.contains(&format!(r#""value":{number},"#)), "{data}");
        assert_eq!(attribute(&state, "value").as_deref(), Some(number));
    }
}

#[tokio::test(start_paused = true)]
async fn number_too_long_for_a_notification_is_refused() {
    let aws = account(json!([too_bright(0)])).await;
    let text = format!(
        r#"{{"thing":"greenhouse-1","topic":"telemetry/greenhouse-1","traceId":"e-1","payload":{{"lux":{}}}}}"#,
        "9".repeat(65)
    );
    deliver_to(&aws.process(), &sqs_batch([text]), at(0)).await;
    let why = "Field `/lux`: it must be a number of at most 64 characters.".to_owned();
    let quarantined: Vec<_> =
        aws.state().quarantined().into_iter().map(|(_, code, why)| (code.to_owned(), why.to_owned())).collect();
    assert_eq!(quarantined, [("too-many-digits".to_owned(), why)]);
}

#[tokio::test(start_paused = true)]
async fn large_batch_reads_together_and_writes_each_record_once() {
    let threshold = |n: usize| {
        json!({"name": format!("t-{n}"), "things": "greenhouse-*", "field": format!("/f{}", n % 5), "stale": "1 h",
               "raise": {"above": 100, "for": "5 min"}, "clear": {"below": 100, "for": "5 min"}})
    };
    let aws = account((0..50).map(threshold).collect()).await;
    aws.reset_calls();
    let events: Vec<_> = (0..1000_u64)
        .map(|n| {
            let payload = json!({"f0": n, "f1": n, "f2": n, "f3": n, "f4": n});
            event(&format!("e-{n}"), &format!("greenhouse-{}", n % 100), n, payload)
        })
        .collect();
    let delivered = deliver(&aws, &events, 0).await;
    assert_eq!(delivered.retried_messages(), Some(vec![]));
    assert_calls(&aws, [("BatchGetItem alarms", 50), ("GetItem document", 1), ("PutItem thing", 5_000)]);
    // Delivered again, it changes and writes nothing.
    aws.reset_calls();
    let delivered = deliver(&aws, &events, 0).await;
    assert_eq!((delivered.retried_messages(), delivered.count("OutOfOrder")), (Some(vec![]), 45_000));
    assert_calls(&aws, [("BatchGetItem alarms", 50), ("GetItem document", 1)]);
}

#[tokio::test(start_paused = true)]
async fn sample_events_have_the_expected_outcomes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/alarm");
    let expected = BTreeMap::from([
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
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let aws = account(json!([too_bright(0)])).await;
        let sample: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let delivered = deliver_to(&aws.process(), &sample, at(0)).await;
        if name == "sqs-batch.json" {
            assert_eq!(delivered.retried_messages(), Some(vec![]));
            continue;
        }
        let code = expected.get(name.as_str()).unwrap_or_else(|| panic!("{name} is unknown"));
        assert_eq!(delivered.refusal().map(|(code, _)| code), *code, "{name}: {delivered:?}");
        assert!(code.is_some() || delivered.is_done(), "{name}: {delivered:?}");
        names.push(name);
    }
    names.sort();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected.keys().copied().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn invalid_window_length_is_named() {
    for seconds in ["0", "86401", "soon"] {
        let process = empty_account().process().env("NOTIFICATION_WINDOW_SECONDS", seconds);
        let error = handler(&process).map(drop).unwrap_err();
        assert!(error.to_string().starts_with("environment variable NOTIFICATION_WINDOW_SECONDS is "), "{error}");
    }
}
