//! Parses a document of rules as `alarm` does, and evaluates readings by them. The first byte is how many seconds pass
//! between two readings. The rest is the value of all their fields, a line feed, and the document.
#![no_main]

use alarm::rules::{AlarmRules, RulesDocument, Value};
use alarm::state_machine::{self, AlarmStatus};
use fuzz::{NOW, measure};
use gatehouse::{ThingName, parse_document};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::seeds::write_rules(), |input: &[u8]| {
    let Some((gap, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Some((value, text)) = text.split_once('\n') else { return };
    let (parsed, peak) = measure(|| parse_document::<RulesDocument>(text));
    // A condition of ten bytes, `{"not":{}}`, takes a few hundred bytes.
    assert!(peak <= 512 * text.len() + 256 * 1024, "{peak} bytes for {}", text.len());
    let is_valid = parse_document::<AlarmRules>(text).is_ok();
    let Ok(document) = parsed else {
        assert!(!is_valid, "both parsers must agree on version 2");
        return;
    };
    let Ok(thing) = ThingName::new("greenhouse-1") else { return };
    let value = Value::from_json(value).unwrap_or_default();
    let rules = document.rules().for_thing(&thing);
    let values = vec![value; rules.fields.len()];
    for rule in &rules.rules {
        let mut status: Option<AlarmStatus> = None;
        for n in 0..8 {
            let at = NOW.plus(std::time::Duration::from_secs(u64::from(*gap) * n));
            let _ = state_machine::apply(rule, &mut status, at, &values);
            if let Some(status) = &mut status {
                let _ = state_machine::check_stale(rule, status, at);
                assert_eq!(status.levels.len(), rule.levels.len());
            }
        }
    }
});
