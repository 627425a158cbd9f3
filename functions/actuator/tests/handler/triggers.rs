//! What triggers an action: by default a transition, or else a change of severity or an operator's action.

use serde_json::{Value, json};

use crate::account::{Account, is_done};
use crate::{bright, minutes, shade};

/// An action of the alarm with these further fields, which sets the position.
fn action(trigger: &Value, position: &str) -> Value {
    let mut action = json!({"alarm": "too-bright", "device": "{thing}-shade",
                            "command": {"shadow": {"desired": {"position": position}}}});
    action.as_object_mut().unwrap().extend(trigger.as_object().unwrap().clone());
    action
}

/// A message of the alarm with these further fields, except those that are null.
fn message(fields: &Value, minute: u64) -> String {
    let mut message: Value = serde_json::from_str(&bright("ALARM", minute)).unwrap();
    message["transition"] = json!(format!("{fields}#{minute}").chars().filter(|c| *c != ' ').collect::<String>());
    for (name, value) in fields.as_object().unwrap() {
        message[name] = value.clone();
    }
    message.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    message.to_string()
}

/// The positions that these messages, an hour apart, command.
async fn commanded(actions: &[Value], messages: &[Value]) -> Vec<String> {
    let account = Account::with(&json!({"actions": actions})).await;
    for (hour, fields) in (0..).zip(messages) {
        let delivered = account.deliver(&message(fields, hour * 60)).await;
        assert!(is_done(&delivered) && account.quarantined().is_empty(), "{:?}", account.quarantined());
        account.skip(minutes(60));
    }
    account.positions()
}

#[tokio::test(start_paused = true)]
async fn only_transitions_command_by_default() {
    let account = Account::with(&shade()).await;
    for kind in ["severity", "state", "repeat"] {
        let fields = json!({"kind": kind, "severity": "critical", "state": "ACTIVE"});
        let delivered = account.deliver(&message(&fields, 0)).await;
        assert_eq!((is_done(&delivered), delivered.count("Unmatched")), (true, 1), "{kind}");
    }
    assert!(account.desired().is_empty());
    let fields = json!({"kind": "transition", "severity": "major", "state": "ACTIVE", "previousState": "NORMAL"});
    account.deliver(&message(&fields, 0)).await;
    assert_eq!(account.positions(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn message_of_another_kind_needs_no_state_of_the_condition() {
    let actions = [action(&json!({"kind": "severity", "severity": "critical"}), "closed")];
    let message = json!({"kind": "severity", "severity": "critical", "from": null, "to": null});
    assert_eq!(commanded(&actions, &[message]).await, ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn severity_selects_among_the_transitions_to_one_state() {
    let actions = [
        action(&json!({"to": "ALARM", "severity": "critical"}), "closed"),
        action(&json!({"to": "ALARM", "severity": "warning"}), "half"),
    ];
    let severity = |severity: &str| json!({"kind": "transition", "severity": severity});
    // A message without a severity does not trigger an action that requires one.
    let messages = [severity("warning"), severity("critical"), severity("info"), json!({}), json!({"severity": null})];
    assert_eq!(commanded(&actions, &messages).await, ["half", "closed"]);
}

#[tokio::test(start_paused = true)]
async fn escalation_commands_only_where_it_is_asked_for() {
    let actions = [
        action(&json!({"to": "ALARM"}), "half"),
        action(&json!({"kind": "severity", "severity": "critical"}), "closed"),
    ];
    let messages = [
        json!({"kind": "transition", "severity": "warning"}),
        json!({"kind": "severity", "severity": "critical", "previousSeverity": "warning"}),
        json!({"kind": "severity", "severity": "warning", "previousSeverity": "critical"}),
    ];
    assert_eq!(commanded(&actions, &messages).await, ["half", "closed"]);
}

#[tokio::test(start_paused = true)]
async fn operators_action_commands_only_where_it_is_asked_for() {
    let actions =
        [action(&json!({"to": "ALARM"}), "closed"), action(&json!({"kind": "state", "state": "NORMAL"}), "open")];
    let state = |state: &str| json!({"kind": "state", "state": state, "to": null});
    let messages = [
        json!({"kind": "transition", "state": "ACTIVE"}),
        state("ACKNOWLEDGED"),
        json!({"kind": "repeat", "state": "ACTIVE", "to": null}),
        state("NORMAL"),
    ];
    assert_eq!(commanded(&actions, &messages).await, ["closed", "open"]);
}

#[tokio::test(start_paused = true)]
async fn silenced_alarm_commands_nothing() {
    let actions = [
        action(&json!({"to": "ALARM"}), "closed"),
        action(&json!({"kind": "severity", "severity": "critical"}), "half"),
    ];
    for state in ["SNOOZE_DISABLED", "DISABLED"] {
        let of = |kind: &str| json!({"kind": kind, "severity": "critical", "state": state});
        assert_eq!(commanded(&actions, &[of("transition"), of("severity"), of("state")]).await, [""; 0], "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn older_escalation_that_arrives_late_commands_nothing() {
    let actions =
        [action(&json!({"to": "OK"}), "open"), action(&json!({"kind": "severity", "severity": "critical"}), "closed")];
    let account = Account::with(&json!({"actions": actions})).await;
    account.skip(minutes(90));
    account.deliver(&bright("OK", 60)).await;
    let late = account.deliver(&message(&json!({"kind": "severity", "severity": "critical", "to": null}), 30)).await;
    assert_eq!((is_done(&late), late.count("Superseded")), (true, 1));
    assert_eq!(account.positions(), ["open"]);
}

#[tokio::test(start_paused = true)]
async fn unknown_kind_severity_or_state_is_refused() {
    for field in ["kind", "severity", "state"] {
        let account = Account::with(&shade()).await;
        assert!(is_done(&account.deliver(&message(&json!({field: "strange"}), 0)).await));
        let refused: Vec<_> = account.quarantined().into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(refused, ["unknown-value"], "{field}");
    }
}
