//! The examples in the guide are valid.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use alarm::command::{AlarmCommand, CommandFields};
use alarm::notification::Transition;
use alarm::rules::{AlarmRules, RulesDocument};
use gatehouse::{Timestamp, parse_document};
use serde_json::Value;
use test_support::workspace_file;

fn examples() -> Vec<String> {
    let guide = workspace_file("docs/telemetry-and-alarms.md");
    let blocks = guide.split("```json\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0.to_owned()).collect()
}

#[test]
fn every_example_is_valid() {
    let mut kinds = Vec::new();
    for text in examples() {
        let example: Value = serde_json::from_str(&text).unwrap();
        let fields = example.as_object().unwrap();
        let kind = if fields.contains_key("rules") {
            parse_document::<AlarmRules>(&text).unwrap_or_else(|refusal| panic!("{refusal}: {text}"));
            "rules"
        } else if fields.contains_key("thresholds") {
            "thresholds"
        } else if fields.contains_key("transition") {
            let transition: Transition = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_value(&transition).unwrap(), example);
            continue;
        } else if fields.contains_key("actions") {
            // A document of `actuator`.
            continue;
        } else {
            let command: CommandFields = serde_json::from_str(&text).unwrap();
            assert!(matches!(command.command("c-1", Timestamp::from_millis(0)), Ok(AlarmCommand::Act(_))), "{text}");
            kinds.push("command");
            continue;
        };
        parse_document::<RulesDocument>(&text).unwrap_or_else(|refusal| panic!("{refusal}: {text}"));
        kinds.push(kind);
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["command", "rules", "rules", "rules", "rules", "thresholds"]);
}
