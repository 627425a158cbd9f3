//! The document of answers: what is taken, and where what is not is at fault.

use std::path::Path;

use gatehouse::parse_document;
use serde_json::{Value, json};

use actuator::answers::{Command, Outcomes};

use crate::cloud::Cloud;
use crate::{bright, minutes, shade};

/// An answer with a code for a gateway.
fn heater() -> Value {
    json!({"alarm": "too-cold", "to": "ALARM", "device": "heater", "command": {"infrared": {
        "host": "192.0.2.10", "port": 4998, "send": ["sendir,1:1,1,38000,1,1,96,24"],
        "connectTimeout": "2 s", "readTimeout": "3 s"}}})
}

/// The reason and the sentence for which a document with this in place of `pointer` is refused; none where it is taken.
fn refusal(answer: &Value, pointer: &str, value: Value) -> Option<(&'static str, String)> {
    let mut answers = json!({"answers": [heater(), answer]});
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = answers.pointer_mut(&format!("/answers/1{parent}")).unwrap().as_object_mut().unwrap();
    if value == json!("(absent)") {
        parent.remove(field);
    } else {
        parent.insert(field.to_owned(), value);
    }
    let refused = parse_document::<Outcomes>(&answers.to_string()).err()?;
    Some((refused.code, refused.why.into_owned()))
}

fn closing() -> Value {
    json!({"alarm": "too-bright", "to": "ALARM", "things": "greenhouse-*", "device": "{thing}-shade",
           "command": {"shadow": {"name": "shade", "desired": {"position": "closed"}}}})
}

fn warming() -> Value {
    let mut warming = heater();
    warming["to"] = json!("STALE");
    warming
}

#[test]
fn what_need_not_be_there_need_not_be_there() {
    let answers = json!({"answers": [{"alarm": "too-cold", "to": "OK", "command": {"infrared": {
        "host": "gateway.example", "send": ["sendir,1:1,1,38000,1,1,96,24"]}}}]});
    let read: Outcomes = parse_document(&answers.to_string()).unwrap();
    let answer = &read.answers[0];
    assert_eq!((&answer.things, answer.device.as_str()), (&None, "{thing}"));
    let Command::Infrared(infrared) = &answer.command else { panic!("{:?}", answer.command) };
    let timeouts = (infrared.connect_timeout.to_string(), infrared.read_timeout.to_string());
    assert_eq!((infrared.port, timeouts), (4998, ("2 s".to_owned(), "3 s".to_owned())));
}

#[test]
fn every_value_at_its_limit_is_taken() {
    let code = "sendir,1:1,1,38000,1,1,96,24";
    let state = json!({"x": "x".repeat(8192 - 8)});
    for (answer, pointer, value) in [
        (closing(), "/alarm", json!("x".repeat(64))),
        (closing(), "/to", json!("STALE")),
        (closing(), "/device", json!("x".repeat(128))),
        (closing(), "/device", json!("{thing}-of-{thing}")),
        (closing(), "/command/shadow/name", json!("x".repeat(64))),
        (closing(), "/command/shadow/desired", state),
        (warming(), "/command/infrared/host", json!("2001:db8::1")),
        (warming(), "/command/infrared/port", json!(65535)),
        (warming(), "/command/infrared/connectTimeout", json!("10s")),
        (warming(), "/command/infrared/send", json!([code, code, code, code])),
    ] {
        assert_eq!(refusal(&answer, pointer, value.clone()), None, "{pointer} {value}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_path() {
    let code = "sendir,1:1,1,38000,1,1,96,24";
    for (answer, pointer, value, reason, path) in [
        (closing(), "/alarm", json!(""), "bad-document", "answers[1].alarm"),
        (closing(), "/alarm", json!("x".repeat(65)), "bad-document", "answers[1].alarm"),
        (closing(), "/alarm", json!("Too bright"), "bad-document", "answers[1].alarm"),
        (closing(), "/alarm", json!("(absent)"), "missing-field", "answers[1].alarm"),
        (closing(), "/to", json!("alarm"), "unknown-value", "answers[1].to"),
        (closing(), "/to", json!("(absent)"), "missing-field", "answers[1].to"),
        (closing(), "/things", json!("green house"), "invalid-value", "answers[1].things"),
        (closing(), "/things", Value::Null, "wrong-type", "answers[1].things"),
        (closing(), "/device", json!("{shade}"), "bad-document", "answers[1].device"),
        (closing(), "/device", json!("x".repeat(129)), "bad-document", "answers[1].device"),
        (closing(), "/device", json!(""), "bad-document", "answers[1].device"),
        (closing(), "/command", json!({}), "invalid-value", "answers[1].command"),
        (closing(), "/command", json!("(absent)"), "missing-field", "answers[1].command"),
        (
            closing(),
            "/command/infrared",
            heater()["command"]["infrared"].clone(),
            "invalid-value",
            "answers[1].command",
        ),
        (closing(), "/command/infrared", Value::Null, "wrong-type", "answers[1].command.infrared"),
        (closing(), "/command/shadow/name", json!(""), "bad-document", "answers[1].command.shadow.name"),
        (closing(), "/command/shadow/name", json!("a/b"), "bad-document", "answers[1].command.shadow.name"),
        (closing(), "/command/shadow/desired", json!([]), "wrong-type", "answers[1].command.shadow.desired"),
        (closing(), "/command/shadow/desired", json!({}), "bad-document", "answers[1].command.shadow.desired"),
        (
            closing(),
            "/command/shadow/desired",
            json!({"x": "x".repeat(8192 - 7)}),
            "bad-document",
            "answers[1].command.shadow.desired",
        ),
        (warming(), "/command/infrared/host", json!(""), "bad-document", "answers[1].command.infrared.host"),
        (warming(), "/command/infrared/host", json!("a b"), "bad-document", "answers[1].command.infrared.host"),
        (warming(), "/command/infrared/port", json!(0), "bad-document", "answers[1].command.infrared.port"),
        (warming(), "/command/infrared/port", json!(65536), "invalid-value", "answers[1].command.infrared.port"),
        (warming(), "/command/infrared/send", json!([]), "bad-document", "answers[1].command.infrared.send"),
        (
            warming(),
            "/command/infrared/send",
            json!(vec![code; 17]),
            "bad-document",
            "answers[1].command.infrared.send",
        ),
        (
            warming(),
            "/command/infrared/send",
            json!([code, "sendir,1:1,1,38000,1,1,96,24\r"]),
            "bad-document",
            "answers[1].command.infrared.send[1]",
        ),
        (
            warming(),
            "/command/infrared/connectTimeout",
            json!("0 s"),
            "bad-document",
            "answers[1].command.infrared.connectTimeout",
        ),
        (
            warming(),
            "/command/infrared/readTimeout",
            json!("11 s"),
            "bad-document",
            "answers[1].command.infrared.readTimeout",
        ),
        (warming(), "/command/infrared/readTimeout", json!(3), "wrong-type", "answers[1].command.infrared.readTimeout"),
        // 2 s to connect, and 3 s for each of five codes.
        (warming(), "/command/infrared/send", json!(vec![code; 5]), "bad-document", "answers[1].command.infrared"),
    ] {
        let (found, why) = refusal(&answer, pointer, value.clone()).unwrap_or_else(|| panic!("{pointer} {value}"));
        assert_eq!(found, reason, "{pointer} {value}: {why}");
        assert!(why.contains(&format!("`{path}`")), "{pointer} {value}: {why}");
        assert!(why.ends_with('.') && why.len() < 200, "{why}");
    }
}

#[test]
fn a_field_that_is_not_known_is_refused_wherever_it_stands() {
    for pointer in ["/colour", "/command/light", "/command/shadow/reported"] {
        assert_eq!(refusal(&closing(), pointer, json!(1)).unwrap().0, "unknown-field", "{pointer}");
    }
    assert_eq!(refusal(&warming(), "/command/infrared/timeout", json!("1 s")).unwrap().0, "unknown-field");
    let refused = parse_document::<Outcomes>(r#"{"answers": [], "version": 1}"#).unwrap_err();
    assert_eq!(refused.code, "unknown-field");
}

#[test]
fn two_answers_that_command_one_device_for_the_same_transitions_are_refused() {
    let mut other = closing();
    other["command"]["shadow"]["desired"]["position"] = json!("half");
    let twice = |other: &Value| parse_document::<Outcomes>(&json!({"answers": [closing(), other]}).to_string());
    let why = "`answers[1]`: An answer before it has another command for the same alarm, state, things and device.";
    assert_eq!(twice(&other).unwrap_err().why, why);
    for (field, value) in [("alarm", "too-cold"), ("to", "OK"), ("things", "*"), ("device", "lamp")] {
        let mut different = other.clone();
        different[field] = json!(value);
        assert!(twice(&different).is_ok(), "{field}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_several_answers_command_one_device_the_first_counts() {
    let answer = |things: &str, position: &str| {
        json!({"alarm": "too-bright", "to": "ALARM", "things": things, "device": "shade",
               "command": {"shadow": {"desired": {"position": position}}}})
    };
    let cloud = Cloud::with(&json!({"answers": [answer("*-1", "half"), answer("*", "closed")]})).await;
    cloud.deliver(&bright("ALARM", 0)).await;
    assert_eq!(cloud.positions(), ["half"]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_document_is_refused_and_the_last_good_one_stays_in_force() {
    let cloud = Cloud::with(&shade()).await;
    let mut bad = shade();
    bad["answers"][1]["command"] = json!({"shadow": {"desired": {}}});
    assert!(cloud.deliver(&bad.to_string()).await.is_done);
    let (reason, why) = cloud.quarantined().remove(0);
    assert_eq!(reason, "bad-document");
    assert!(why.starts_with("`answers[1].command.shadow.desired`: "), "{why}");
    cloud.deliver(&bright("ALARM", 0)).await;
    assert_eq!(cloud.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_document_counts_for_what_was_put_off_too() {
    let cloud = Cloud::with(&shade()).await;
    let mut later = shade();
    later["answers"][1]["command"]["shadow"]["desired"]["position"] = json!("half");
    let story = [(0, bright("ALARM", 0)), (1, bright("OK", 1)), (2, later.to_string())];
    assert!(cloud.play(&story.map(|(at, body)| (minutes(at), body))).await.is_empty());
    assert_eq!(cloud.positions(), ["closed", "half"]);
}

#[test]
fn the_document_that_ships_is_a_good_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/answers.json");
    let read: Outcomes = parse_document(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!read.answers.is_empty());
}
