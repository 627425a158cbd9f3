//! Alarm messages to `actuator`, and their expected effects.

use serde_json::{Value, json};

use crate::{dynamodb::ACTUATOR_TABLE, event::Turn, expected::ExpectedCall, sqs};

/// Returns the actions document: a shade for each greenhouse.
pub fn actions() -> Value {
    let action = |to: &str, position: &str| {
        json!({
            "alarm": "too-bright",
            "to": to,
            "things": "greenhouse-*",
            "device": "{thing}-shade",
            "command": { "shadow": { "desired": { "position": position } } },
        })
    };
    json!({ "actions": [action("ALARM", "closed"), action("OK", "open")] })
}

/// Returns a batch of alarms, each of a different thing.
pub fn delivery(turn: &Turn) -> Value {
    let record = |index| {
        let thing = thing(turn, index);
        let alarm = json!({
            "transition": transition(turn, index),
            "threshold": "too-bright",
            "thing": thing,
            "from": "OK",
            "to": "ALARM",
            "field": "/lux",
            "value": 41_250,
            "at": turn.received_at,
            "since": turn.received_at - 900_000,
            "words": format!("too-bright: {thing} lux above 35000 for 15 min"),
        });
        let id = format!("{:08x}-b21e-4c1e-9a3e-{index:012x}", turn.n);
        sqs::record("actuator", &id, turn.received_at + 20, &alarm)
    };
    sqs::delivery(&(0..turn.size.messages).map(record).collect::<Vec<_>>())
}

/// Returns the calls: for each message, `actuator` reads the document and the device's record, and commands the device.
pub fn calls(turn: &Turn) -> Vec<ExpectedCall> {
    let calls = |index| {
        let shade = format!("{}-shade", thing(turn, index));
        let record = |operation, mentions: &[String]| {
            let key = format!("\"device#{shade}\"");
            ExpectedCall::new(operation, ACTUATOR_TABLE, [key].into_iter().chain(mentions.iter().cloned()))
        };
        let transition = transition(turn, index);
        [
            ExpectedCall::new("GetItem", ACTUATOR_TABLE, ["\"document#answers\"".to_owned()]),
            record("GetItem", &[]),
            record("PutItem", &[transition.clone(), "\"sending\"".to_owned()]),
            ExpectedCall::new("UpdateThingShadow", &shade, [r#"{"desired":{"position":"closed"}}"#.to_owned()]),
            record("PutItem", &[transition, "\"done\"".to_owned()]),
        ]
    };
    (0..turn.size.messages).flat_map(calls).collect()
}

fn thing(turn: &Turn, index: usize) -> String {
    format!("greenhouse-{}-{index}", turn.n)
}

fn transition(turn: &Turn, index: usize) -> String {
    format!("{}#too-bright#{}#ALARM", thing(turn, index), turn.received_at)
}
