//! The document of actions: which documents are accepted, and how errors are located.

use actuator::{Actions, DeviceCommand};
use gatehouse::parse_document;
use serde_json::{Value, json};
use test_support::workspace_file;

use crate::account::{Account, is_done};
use crate::{bright, minutes, shade};

/// An action with a code for a gateway.
fn heater() -> Value {
    json!({"alarm": "too-cold", "to": "ALARM", "device": "heater", "command": {"infrared": {
        "host": "192.0.2.10", "port": 4998, "send": ["sendir,1:1,1,38000,1,1,96,24"],
        "connectTimeout": "2 s", "readTimeout": "3 s"}}})
}

/// The reason code and sentence of the refusal if the action has this value at `pointer`; `None` if it is accepted.
fn refusal(action: &Value, pointer: &str, value: Value) -> Option<(&'static str, String)> {
    let mut document = json!({"actions": [heater(), action]});
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(&format!("/actions/1{parent}")).unwrap().as_object_mut().unwrap();
    if value == json!("(absent)") {
        parent.remove(field);
    } else {
        parent.insert(field.to_owned(), value);
    }
    let refused = parse_document::<Actions>(&document.to_string()).err()?;
    Some((refused.code, refused.why.into_owned()))
}

fn closing() -> Value {
    json!({"alarm": "too-bright", "to": "ALARM", "things": "greenhouse-*", "device": "{thing}-shade",
           "command": {"shadow": {"name": "shade", "desired": {"position": "closed"}}}})
}

/// A desired state with this many levels, alternately objects and arrays.
fn nested(levels: usize) -> Value {
    let inner =
        (1..levels).fold(json!(1), |inner, level| if level % 2 == 0 { json!({"a": inner}) } else { json!([inner]) });
    json!({"a": inner})
}

fn warming() -> Value {
    let mut warming = heater();
    warming["to"] = json!("STALE");
    warming
}

#[test]
fn optional_fields_have_defaults() {
    let document = json!({"actions": [{"alarm": "too-cold", "to": "OK", "command": {"infrared": {
        "host": "gateway.example", "send": ["sendir,1:1,1,38000,1,1,96,24"]}}}]});
    let parsed: Actions = parse_document(&document.to_string()).unwrap();
    let action = &parsed.actions[0];
    assert_eq!((&action.things, action.device.as_str()), (&None, "{thing}"));
    let DeviceCommand::Infrared(infrared) = &action.command else { panic!("{:?}", action.command) };
    let timeouts = (infrared.connect_timeout.to_string(), infrared.read_timeout.to_string());
    assert_eq!((infrared.port, timeouts), (4998, ("2 s".to_owned(), "3 s".to_owned())));
}

#[test]
fn every_value_at_its_limit_is_accepted() {
    let code = "sendir,1:1,1,38000,1,1,96,24";
    let state = json!({"x": "x".repeat(8192 - 8)});
    for (action, pointer, value) in [
        (closing(), "/alarm", json!("x".repeat(64))),
        (closing(), "/to", json!("STALE")),
        (closing(), "/device", json!("x".repeat(128))),
        (closing(), "/device", json!("{thing}-of-{thing}")),
        (closing(), "/command/shadow/name", json!("x".repeat(64))),
        (closing(), "/command/shadow/name", json!("$shade")),
        (closing(), "/command/shadow/desired", state),
        (closing(), "/command/shadow/desired", nested(8)),
        (closing(), "/to", json!("CLOSED")),
        (closing(), "/kind", json!("transition")),
        (closing(), "/severity", json!("info")),
        (closing(), "/state", json!("LATCHED")),
        (warming(), "/command/infrared/port", json!(4998.0)),
        (warming(), "/command/infrared/host", json!("2001:db8::1")),
        (warming(), "/command/infrared/port", json!(65535)),
        (warming(), "/command/infrared/connectTimeout", json!("10s")),
        (warming(), "/command/infrared/send", json!([code, code, code, code])),
    ] {
        assert_eq!(refusal(&action, pointer, value.clone()), None, "{pointer} {value}");
    }
}

#[test]
fn error_is_refused_with_its_path() {
    let code = "sendir,1:1,1,38000,1,1,96,24";
    for (action, pointer, value, reason, path) in [
        (closing(), "/alarm", json!(""), "bad-document", "actions[1].alarm"),
        (closing(), "/alarm", json!("x".repeat(65)), "bad-document", "actions[1].alarm"),
        (closing(), "/alarm", json!("Too bright"), "bad-document", "actions[1].alarm"),
        (closing(), "/alarm", json!("(absent)"), "missing-field", "actions[1].alarm"),
        (closing(), "/to", json!("alarm"), "unknown-value", "actions[1].to"),
        (closing(), "/to", json!("(absent)"), "bad-document", "actions[1].to"),
        (closing(), "/kind", json!("severity"), "bad-document", "actions[1].severity"),
        (closing(), "/kind", json!("state"), "bad-document", "actions[1].state"),
        (closing(), "/kind", json!("repeat"), "bad-document", "actions[1].kind"),
        (closing(), "/kind", json!("condition"), "unknown-value", "actions[1].kind"),
        (closing(), "/kind", Value::Null, "wrong-type", "actions[1].kind"),
        (closing(), "/severity", json!("fatal"), "unknown-value", "actions[1].severity"),
        (closing(), "/severity", Value::Null, "wrong-type", "actions[1].severity"),
        (closing(), "/state", json!("active"), "unknown-value", "actions[1].state"),
        (closing(), "/state", json!("DISABLED"), "bad-document", "actions[1].state"),
        (closing(), "/state", json!("SNOOZE_DISABLED"), "bad-document", "actions[1].state"),
        (closing(), "/things", json!("green house"), "invalid-value", "actions[1].things"),
        (closing(), "/things", Value::Null, "wrong-type", "actions[1].things"),
        (closing(), "/device", json!("{shade}"), "bad-document", "actions[1].device"),
        (closing(), "/device", json!("x".repeat(129)), "bad-document", "actions[1].device"),
        (closing(), "/device", json!(""), "bad-document", "actions[1].device"),
        (closing(), "/command", json!({}), "invalid-value", "actions[1].command"),
        (closing(), "/command", json!("(absent)"), "missing-field", "actions[1].command"),
        (
            closing(),
            "/command/infrared",
            heater()["command"]["infrared"].clone(),
            "invalid-value",
            "actions[1].command",
        ),
        (closing(), "/command/infrared", Value::Null, "wrong-type", "actions[1].command.infrared"),
        (closing(), "/command/shadow/name", json!(""), "bad-document", "actions[1].command.shadow.name"),
        (closing(), "/command/shadow/name", json!("a/b"), "bad-document", "actions[1].command.shadow.name"),
        (closing(), "/command/shadow/desired", json!([]), "wrong-type", "actions[1].command.shadow.desired"),
        (closing(), "/command/shadow/desired", json!({}), "bad-document", "actions[1].command.shadow.desired"),
        (
            closing(),
            "/command/shadow/desired",
            json!({"x": "x".repeat(8192 - 7)}),
            "bad-document",
            "actions[1].command.shadow.desired",
        ),
        (warming(), "/command/infrared/host", json!(""), "bad-document", "actions[1].command.infrared.host"),
        (warming(), "/command/infrared/host", json!("a b"), "bad-document", "actions[1].command.infrared.host"),
        (warming(), "/command/infrared/port", json!(0), "bad-document", "actions[1].command.infrared.port"),
        (warming(), "/command/infrared/port", json!(65536), "number-out-of-range", "actions[1].command.infrared.port"),
        (warming(), "/command/infrared/port", json!(80.5), "wrong-type", "actions[1].command.infrared.port"),
        (warming(), "/command/infrared", json!(["192.0.2.10", 1]), "wrong-type", "actions[1].command.infrared"),
        (closing(), "/command", json!([null, null]), "wrong-type", "actions[1].command"),
        (closing(), "/to", json!({"ALARM": null}), "wrong-type", "actions[1].to"),
        (closing(), "/to", Value::Null, "wrong-type", "actions[1].to"),
        (closing(), "/command/shadow/desired", nested(9), "bad-document", "actions[1].command.shadow.desired"),
        (closing(), "/command/shadow/desired", nested(50), "bad-document", "actions[1].command.shadow.desired"),
        (warming(), "/command/infrared/send", json!([]), "bad-document", "actions[1].command.infrared.send"),
        (
            warming(),
            "/command/infrared/send",
            json!(vec![code; 17]),
            "bad-document",
            "actions[1].command.infrared.send",
        ),
        (
            warming(),
            "/command/infrared/send",
            json!([code, "sendir,1:1,1,38000,1,1,96,24\r"]),
            "bad-document",
            "actions[1].command.infrared.send[1]",
        ),
        (
            warming(),
            "/command/infrared/connectTimeout",
            json!("0 s"),
            "bad-document",
            "actions[1].command.infrared.connectTimeout",
        ),
        (
            warming(),
            "/command/infrared/readTimeout",
            json!("11 s"),
            "bad-document",
            "actions[1].command.infrared.readTimeout",
        ),
        (warming(), "/command/infrared/readTimeout", json!(3), "wrong-type", "actions[1].command.infrared.readTimeout"),
        // 2 s to connect, and 3 s for each of five codes.
        (warming(), "/command/infrared/send", json!(vec![code; 5]), "bad-document", "actions[1].command.infrared"),
    ] {
        let (found, why) = refusal(&action, pointer, value.clone()).unwrap_or_else(|| panic!("{pointer} {value}"));
        assert_eq!(found, reason, "{pointer} {value}: {why}");
        assert!(why.contains(&format!("`{path}`")), "{pointer} {value}: {why}");
        assert!(why.ends_with('.') && why.len() < 200, "{why}");
    }
}

#[test]
fn unknown_field_is_refused_wherever_it_appears() {
    for pointer in ["/color", "/command/light", "/command/shadow/reported"] {
        assert_eq!(refusal(&closing(), pointer, json!(1)).unwrap().0, "unknown-field", "{pointer}");
    }
    assert_eq!(refusal(&warming(), "/command/infrared/timeout", json!("1 s")).unwrap().0, "unknown-field");
    let refused = parse_document::<Actions>(r#"{"actions": [], "version": 1}"#).unwrap_err();
    assert_eq!(refused.code, "unknown-field");
}

#[test]
fn two_actions_with_the_same_trigger_and_device_are_refused() {
    let mut other = closing();
    other["command"]["shadow"]["desired"]["position"] = json!("half");
    let twice = |other: &Value| parse_document::<Actions>(&json!({"actions": [closing(), other]}).to_string());
    let why = "`actions[1]` of `too-bright`: An earlier action has the same alarm, states, severity, kind, things and device.";
    assert_eq!(twice(&other).unwrap_err().why, why);
    for (field, value) in [
        ("alarm", "too-cold"),
        ("to", "OK"),
        ("severity", "critical"),
        ("state", "ACTIVE"),
        ("things", "*"),
        ("device", "lamp"),
    ] {
        let mut different = other.clone();
        different[field] = json!(value);
        assert!(twice(&different).is_ok(), "{field}");
    }
}

#[tokio::test(start_paused = true)]
async fn first_of_several_actions_for_one_device_applies() {
    let action = |things: &str, position: &str| {
        json!({"alarm": "too-bright", "to": "ALARM", "things": things, "device": "shade",
               "command": {"shadow": {"desired": {"position": position}}}})
    };
    let document = json!({"actions": [action("*-1", "half"), action("*", "closed")]});
    let account = Account::with(&document).await;
    account.deliver(&bright("ALARM", 0)).await;
    assert_eq!(account.positions(), ["half"]);
}

#[tokio::test(start_paused = true)]
async fn invalid_document_is_refused_and_the_last_one_stays() {
    let account = Account::with(&shade()).await;
    let mut bad = shade();
    bad["actions"][1]["command"] = json!({"shadow": {"desired": {}}});
    assert!(is_done(&account.deliver(&bad.to_string()).await));
    let (reason, why) = account.quarantined().remove(0);
    assert_eq!(reason, "bad-document");
    assert!(why.starts_with("`actions[1].command.shadow.desired` of `too-bright`: "), "{why}");
    account.deliver(&bright("ALARM", 0)).await;
    assert_eq!(account.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn new_document_applies_to_delayed_commands_too() {
    let account = Account::with(&shade()).await;
    let mut later = shade();
    later["actions"][1]["command"]["shadow"]["desired"]["position"] = json!("half");
    let story = [(0, bright("ALARM", 0)), (1, bright("OK", 1)), (2, later.to_string())];
    assert!(account.play(&story.map(|(at, body)| (minutes(at), body))).await.is_empty());
    assert_eq!(account.positions(), ["closed", "half"]);
}

#[test]
fn document_in_infra_is_valid() {
    let parsed: Actions = parse_document(&workspace_file("infra/actions.json")).unwrap();
    assert!(!parsed.actions.is_empty());
}

#[test]
fn former_name_of_the_key_is_accepted() {
    let parsed: Actions = parse_document(&json!({"answers": [closing()]}).to_string()).unwrap();
    assert_eq!(parsed, parse_document(&json!({"actions": [closing()]}).to_string()).unwrap());
}

#[tokio::test(start_paused = true)]
async fn closed_alarm_commands_nothing_unless_an_action_says_so() {
    let account = Account::with(&shade()).await;
    account.deliver(&bright("ALARM", 0)).await;
    let delivered = account.deliver(&bright("CLOSED", 1)).await;
    assert!(is_done(&delivered));
    assert_eq!(delivered.count("Unmatched"), 1);
    assert_eq!(account.positions(), ["closed"]);

    let mut document = shade();
    document["actions"][1]["to"] = json!("CLOSED");
    let account = Account::with(&document).await;
    account.deliver(&bright("CLOSED", 0)).await;
    assert_eq!(account.positions(), ["open"]);
}

#[tokio::test(start_paused = true)]
async fn desired_numbers_are_sent_as_they_were_written() {
    let account = Account::with(&json!({"actions": []})).await;
    let document = r#"{"actions": [{"alarm": "too-bright", "to": "ALARM", "command": {"shadow": {"desired":
        {"speed": 94.24502837770503, "id": 18446744073709551617, "position": 1.50}}}}]}"#;
    account.deliver(document).await;
    account.deliver(&bright("ALARM", 0)).await;
    let state = account.aws.state();
    let updates = state.calls_to("UpdateThingShadow");
    let expected = r#"{"state":{"desired":{"id":18446744073709551617,"position":1.50,"speed":94.24502837770503}}}"#;
    assert_eq!(updates.iter().map(|call| call.text.as_str()).collect::<Vec<_>>(), [expected]);
}
