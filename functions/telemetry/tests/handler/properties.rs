//! Arbitrary payloads and failures.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::json;
use test_support::{Fault, sqs_batch};
use tokio::runtime::Builder;

use crate::setup::*;

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        4 => Just(None),
        3 => (0..30_usize).prop_map(|count| Some(Fault::Unprocessed(count))),
        1 => Just(Some(Fault::Throttled)),
        1 => Just(Some(Fault::Denied)),
        1 => Just(Some(Fault::Hangs)),
        1 => Just(Some(Fault::DiesAfter)),
    ]
}

/// The events of a run: the numbers of their readings, and whether there is another, invalid reading.
fn payloads() -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::bool::weighted(0.1)), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_reading_is_stored_once_whatever_fails(
        payloads in payloads(),
        faults in prop::collection::vec(fault(), 0..40),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let table = account();
        table.fail_next(WRITE, faults);
        // A number is a reading's identity: readings with the same number are the same, even in different events.
        let body = |(index, (numbers, is_invalid)): (usize, &(Vec<u8>, bool))| {
            let mut readings: Vec<_> = numbers.iter().map(|n| json!({"seq": n, "time": 1_763_715_599})).collect();
            if *is_invalid {
                readings.insert(readings.len() / 2, json!("bad"));
            }
            event(&format!("e-{index}"), &json!(readings).to_string())
        };
        let mut open: Vec<_> = payloads.iter().enumerate().map(body).collect();
        for _ in 0..100 {
            let delivered =
                runtime.block_on(deliver_with(&table, &[("IDENTITY_FIELD", "seq")], &sqs_batch(&open)));
            if delivered.response.is_some() {
                let back: BTreeSet<_> = retried(&delivered).into_iter().collect();
                open = open.into_iter().enumerate().filter(|(n, _)| back.contains(&format!("m-{n}"))).map(|(_, e)| e)
                    .collect();
            }
            if open.is_empty() {
                break;
            }
        }
        prop_assert!(open.is_empty(), "{} events are retried forever", open.len());
        let numbers: BTreeSet<_> = payloads.iter().flat_map(|(numbers, _)| numbers).collect();
        let expected: BTreeSet<_> = numbers.into_iter().map(|n| format!("1763715599000#{n}")).collect();
        prop_assert_eq!(keys(&table).into_iter().collect::<BTreeSet<_>>(), expected);
        let invalid: BTreeSet<_> = payloads.iter().enumerate().filter(|(_, (_, is_invalid))| *is_invalid)
            .map(|(index, _)| format!("e-{index}")).collect();
        let quarantined: BTreeSet<_> =
            table.state().quarantined().into_iter().map(|(id, ..)| id.to_owned()).collect();
        prop_assert_eq!(quarantined, invalid);
    }

    #[test]
    fn arbitrary_payload_does_not_panic_or_retry(payload: Vec<u8>) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let table = account();
        let payload = BASE64_STANDARD.encode(&payload);
        let event = json!({"thing": "t", "topic": "telemetry/t", "traceId": "e-1", "payloadBase64": payload});
        let delivered = runtime.block_on(deliver(&table, &event));
        prop_assert!(matches!(delivered.response, Some(Ok(_))), "{:?}", delivered.response);
    }
}
