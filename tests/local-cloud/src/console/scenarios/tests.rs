use super::*;
use crate::console::commands::Command;

fn step_of(thing: &str) -> Value {
    json!({"what": "w", "thing": thing, "topic": "t", "payload": 1, "expect": "nothing"})
}

#[test]
fn steps_keep_their_order_and_their_delays() {
    let steps = [(5_000, "a"), (1_000, "a"), (2_000, "b")].map(|(at, thing)| (at, thing.to_owned(), step_of(thing)));
    let scenario = scenario("", steps.to_vec());
    let delays: Vec<_> =
        scenario["steps"].as_array().expect("steps").iter().map(|step| &step["minIntervalSeconds"]).collect();
    assert_eq!(delays, [&Value::Null, &Value::Null, &json!(4.0)]);
    assert!(Scenario::parse(&scenario.to_string()).is_ok());
}

#[test]
fn payload_is_recorded_byte_for_byte() {
    for (bytes, name) in
        [(&br#"{"a": 22.50}"#[..], "payloadText"), (b"hello", "payloadText"), (&[0xff, 0], "payloadBase64")]
    {
        let (field, value) = payload(bytes);
        assert_eq!(field, name);
        let step = json!({"what": "w", "thing": "a", "topic": "t", field: value, "expect": "nothing"});
        let scenario = Scenario::parse(&json!({"about": "a", "steps": [step]}).to_string()).expect("a scenario");
        let crate::scenario::StepAction::Publish { payload, .. } = scenario.steps[0].action().expect("an action")
        else {
            panic!("a message");
        };
        assert_eq!(payload, bytes);
    }
}

#[test]
fn command_is_recorded_with_its_outcome() {
    let sent = |response: Value| SentCommand {
        command: Command { function: "alarm".to_owned(), input: json!({"thresholds": []}) },
        at: 0,
        response,
    };
    let done = command(&sent(json!({"outcome": "done"})), "house").expect("a step");
    assert_eq!((&done["expect"], &done["thing"]), (&json!("done"), &json!("house")));
    let refused = command(&sent(json!({"outcome": "refused", "reason": "bad-document"})), "house").expect("a step");
    assert_eq!(refused["expect"], json!({"refused": {"reason": "bad-document"}}));
    assert!(Scenario::parse(&json!({"about": "a", "steps": [done, refused]}).to_string()).is_ok());
}

#[test]
fn command_comes_before_the_message_that_followed_it() {
    let published = [(3_000, "late".to_owned()), (1_000, "early".to_owned()), (2_000, "next".to_owned())];
    assert_eq!(following_thing(1_500, &published), "next");
    assert_eq!(following_thing(9_000, &published), "next");
    assert_eq!(following_thing(0, &[]), "operator");
}
