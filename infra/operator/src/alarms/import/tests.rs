//! The fixtures were written for this project, from the API reference of IoT Events.

use serde_json::{Value, json};

use super::*;

fn fixture(name: &str) -> (String, String) {
    let path = format!("{}/tests/iot-events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    (name.to_owned(), std::fs::read_to_string(path).expect("a fixture"))
}

fn options() -> ImportOptions {
    ImportOptions { things: ThingPattern::new("*").expect("a pattern"), severities: Vec::new() }
}

/// The rules of these models, and the notes as lines.
fn imported(models: &[(String, String)]) -> (Vec<Value>, Vec<String>) {
    let (document, notes) = import(models, &options());
    let document = serde_json::to_value(&document).expect("JSON");
    assert_eq!(document["version"], 2);
    let rules = document["rules"].as_array().expect("rules").clone();
    (rules, notes.all().iter().map(notes::Note::line).collect())
}

/// The rule of a fixture, and the notes as lines.
fn rule_of(name: &str) -> (Value, Vec<String>) {
    let (mut rules, notes) = imported(&[fixture(name)]);
    assert_eq!(rules.len(), 1, "{notes:?}");
    (rules.remove(0), notes)
}

fn assert_noted(notes: &[String], parts: &[&str]) {
    for part in parts {
        assert!(notes.iter().any(|note| note.contains(part)), "{part} is not in {notes:#?}");
    }
}

#[test]
fn alarm_model_with_acknowledgment_is_latched() {
    let (rule, notes) = rule_of("boiler-too-hot");
    let when = json!({"field": "/water/temperature", "op": ">", "value": 90});
    let raise = json!({"when": when, "for": "0 s"});
    let expected = json!({"name": "boiler-too-hot", "things": "*", "latch": true,
                          "severities": [{"severity": "critical", "raise": raise}]});
    assert_eq!(rule, expected);
    assert_noted(
        &notes,
        &[
            "not carried over: alarmEventActions.sns arn:aws:sns:eu-west-1:123456789012:boilers: ",
            "not carried over: alarmNotification.action.lambdaAction: ",
            "not carried over: alarmNotification.emailConfigurations: ",
            "`notify.text`",
            "note: key: there is one alarm per thing, not per `boilerId`",
            "note: severity: 1 is critical; ",
        ],
    );
}

#[test]
fn number_keeps_its_digits_and_name_is_adapted() {
    let (document, notes) = import(&[fixture("cold-room")], &options());
    let text = serde_json::to_string(&document).expect("JSON");
    assert!(text.contains(r#""name":"cold-room""#) && text.contains(r#""op":"<=","value":-18.50}"#), "{text}");
    assert!(!text.contains("latch"), "{text}");
    let notes: Vec<_> = notes.all().iter().map(notes::Note::line).collect();
    let parts =
        ["Cold_Room: note: name: the rule is named cold-room", ".lambda arn:", "a payload of its own", ".sqs https:"];
    assert_noted(&notes, &parts);
}

#[test]
fn threshold_may_be_another_field_of_the_message() {
    let (rule, notes) = rule_of("pump-pressure");
    let when = json!({"field": "/pressure", "op": ">=", "otherField": "/limits/maximum"});
    assert_eq!(rule["severities"][0]["raise"]["when"], when);
    assert_noted(&notes, &["iotTopicPublish pumps/stop: ", "iotEvents PumpAlarms: rules cannot feed other rules"]);
}

#[test]
fn string_threshold_and_disabled_start_are_carried_over() {
    let (rule, notes) = rule_of("hatch-open");
    let level = &rule["severities"][0];
    assert_eq!(level["raise"]["when"], json!({"field": "/position", "op": "!=", "value": "closed"}));
    assert_eq!((&level["severity"], &rule["startDisabled"], rule.get("latch")), (&json!("major"), &json!(true), None));
    assert_noted(&notes, &["dynamoDBv2 hatches", "firehose hatches", "iotSiteWise /hatches/open"]);
    assert!(!notes.iter().any(|note| note.contains("severity") || note.contains("initialization")), "{notes:?}");
}

#[test]
fn what_a_model_does_not_say_is_named() {
    let (rule, notes) = rule_of("smoke");
    let level = &rule["severities"][0];
    assert_eq!(level["raise"]["when"], json!({"field": "/detected", "op": "==", "value": true}));
    assert_eq!((&level["severity"], rule.get("startDisabled")), (&json!("info"), None));
    assert_noted(&notes, &["alarmCapabilities.initializationConfiguration", "severity: 7 is info"]);
}

#[test]
fn every_comparison_operator_is_known() {
    let (_, text) = fixture("boiler-too-hot");
    for (operator, op) in [
        ("GREATER", ">"),
        ("GREATER_OR_EQUAL", ">="),
        ("LESS", "<"),
        ("LESS_OR_EQUAL", "<="),
        ("EQUAL", "=="),
        ("NOT_EQUAL", "!="),
    ] {
        let text = text.replace(r#""GREATER""#, &format!("\"{operator}\""));
        let (rules, _) = imported(&[("model".to_owned(), text)]);
        assert_eq!(rules[0]["severities"][0]["raise"]["when"]["op"], op);
    }
}

#[test]
fn model_without_a_counterpart_is_no_rule() {
    let (_, boiler) = fixture("boiler-too-hot");
    let changed = |from: &str, to: &str| ("model".to_owned(), boiler.replace(from, to));
    for (model, why) in [
        (
            fixture("asset-speed"),
            "asset-speed: not carried over: alarmRule.simpleRule: `inputProperty`: rules have no counterpart of `$sitewise`",
        ),
        (changed("simpleRule", "otherRule"), "it has no `simpleRule`"),
        (changed("\"GREATER\"", "\"BETWEEN\""), "the comparison operator BETWEEN is unknown"),
        (changed("\"90\"", "\"$input.Other.limit\""), "it compares messages of two inputs, BoilerReading and Other"),
        (changed("\"90\"", "\"'hot'\""), "rules compare only numbers with >"),
        (changed("\"90\"", "\"$input.BoilerReading.limit * 2\""), "no counterpart of `*`"),
        (("list".to_owned(), "[]".to_owned()), "list: not carried over: file: it has neither"),
        (("text".to_owned(), "hot".to_owned()), "text: not carried over: file: it is not JSON"),
    ] {
        let (rules, notes) = imported(&[model]);
        assert_eq!(rules, [Value::Null; 0], "{why}");
        assert_noted(&notes, &[why]);
    }
}

#[test]
fn severities_are_as_the_options_say() {
    let severities = vec![("1", "info"), ("1", "warning"), ("2", "minor")];
    let severities = severities.into_iter().map(|(number, name)| severity(&format!("{number}={name}")));
    let options = ImportOptions { severities: severities.collect::<Result<_, _>>().expect("options"), ..options() };
    let mut notes = Notes::default();
    assert_eq!(options.severity(Some(1), &mut notes), Severity::Warning);
    assert_eq!(notes.all(), []);
    assert_eq!(options.severity(Some(0), &mut notes), Severity::Critical);
    assert_eq!(options.severity(None, &mut notes), Severity::Major);
    assert!(severity("critical=1").is_err() && severity("1=fatal").is_err() && severity("-1=info").is_err());
}

#[test]
fn two_models_with_one_name_are_one_rule() {
    let (rules, notes) = imported(&[fixture("smoke"), fixture("smoke")]);
    assert_eq!(rules.len(), 1);
    assert_noted(&notes, &["another model's rule is named smoke"]);
}

#[test]
fn counter_becomes_a_count_of_readings() {
    let (rule, notes) = rule_of("compressor-vibration");
    let level = &rule["severities"][0];
    let above = json!({"field": "/vibration", "op": ">", "value": 7.1});
    let below = json!({"field": "/vibration", "op": "<=", "value": 7.1});
    assert_eq!(level["raise"], json!({"when": above, "for": "0 s"}));
    assert_eq!(level["clear"], json!({"when": below, "count": {"n": 3, "of": 3}}));
    assert_noted(&notes, &["detectorModelDefinition.sns arn:aws:sns:eu-west-1:123456789012:compressors"]);
    // The transition sees a variable's new value one reading later.
    let (_, text) = fixture("compressor-vibration");
    let (rules, notes) = imported(&[("model".to_owned(), text.replace("SERIAL", "BATCH"))]);
    assert_eq!(rules[0]["severities"][0]["clear"]["count"], json!({"n": 4, "of": 4}));
    assert_noted(&notes, &["note: clear: the evaluation method BATCH"]);
}

#[test]
fn delaying_state_becomes_a_duration() {
    let (rule, notes) = rule_of("tank-level");
    let level = &rule["severities"][0];
    assert_eq!(level["raise"], json!({"when": {"field": "/level", "op": "<", "value": 20}, "for": "5 min"}));
    assert_eq!(level["clear"], json!({"when": {"field": "/level", "op": ">=", "value": 60}, "for": "0 s"}));
    assert_eq!(rule["name"], "tank-level");
    assert_noted(&notes, &["TankLevel: note: raise: a timer elapses by itself", "lambda arn:aws:lambda:"]);
}

/// A model with a timer within its normal state, which the conditions `start` and `stop` start and clear.
fn with_timer(start: &str, stop: &str) -> (String, String) {
    let set = |value: &str| json!({"setVariable": {"variableName": "waits", "value": value}});
    let timer = json!({"setTimer": {"timerName": "wait", "seconds": 120}});
    let events = json!([
        {"eventName": "start", "condition": start, "actions": [timer, set("true")]},
        {"eventName": "stop", "condition": stop, "actions": [{"clearTimer": {"timerName": "wait"}}, set("false")]},
    ]);
    let elapsed = json!([{"eventName": "elapsed", "condition": "timeout('wait')", "nextState": "hot"}]);
    let cooled = json!([{"eventName": "cooled", "condition": "$input.Oven.t <= 50", "nextState": "cool"}]);
    let states = json!([
        {"stateName": "cool", "onInput": {"events": events, "transitionEvents": elapsed}},
        {"stateName": "hot", "onInput": {"transitionEvents": cooled}},
    ]);
    let model = json!({"detectorModel": {
        "detectorModelDefinition": {"states": states, "initialStateName": "cool"},
        "detectorModelConfiguration": {"detectorModelName": "oven", "evaluationMethod": "SERIAL"}}});
    ("oven".to_owned(), model.to_string())
}

#[test]
fn timer_within_a_state_becomes_a_duration() {
    let start = "$input.Oven.t > 50 && $variable.waits == false";
    let (rules, _) = imported(&[with_timer(start, "$input.Oven.t <= 50")]);
    assert_eq!(rules[0]["severities"][0]["raise"]["for"], "2 min");
    for (start, stop, why) in [
        ("$input.Oven.t > 50", "$input.Oven.t <= 50", "starts the timer wait again with each reading"),
        (start, "$input.Oven.t <= 40", "started, used and cleared by different conditions"),
        ("$variable.waits == false", "$input.Oven.t <= 50", "it does not depend on the reading"),
    ] {
        let (rules, notes) = imported(&[with_timer(start, stop)]);
        assert_eq!(rules, [Value::Null; 0], "{start}");
        assert_noted(&notes, &[why]);
    }
}

#[test]
fn detector_of_another_shape_is_named_and_not_guessed() {
    let (_, counter) = fixture("compressor-vibration");
    let (_, delay) = fixture("tank-level");
    let changed = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        ("model".to_owned(), text.replace(from, to))
    };
    for (model, why) in [
        (
            fixture("oven-cycle"),
            "oven-cycle: not carried over: detectorModelDefinition: state heating has 2 transitions",
        ),
        (changed(&counter, "$variable.calm - 1", "$variable.calm - 2"), "does not count readings from or to 0"),
        (changed(&counter, "$variable.calm + 3", "$variable.calm + 5"), "does not have the value 3 whenever"),
        (changed(&counter, "$variable.calm - 1", "$variable.calm * 2"), "which is not a count of readings"),
        (
            changed(&counter, "\"evaluationMethod\": \"SERIAL\"", "\"evaluationMethod\": null"),
            "without `evaluationMethod`",
        ),
        (changed(&delay, "\"300\"", "\"$input.Tank.delay\""), "the duration of the timer settle is not a constant"),
        (changed(&delay, "timeout('settle')", "timeout('other')"), "does not belong to a delay"),
        (changed(&delay, "\"nextState\": \"empty\"", "\"nextState\": \"filled\""), "state"),
        (
            changed(&delay, "\"initialStateName\": \"filled\"", "\"initialStateName\": \"none\""),
            "state none does not exist",
        ),
    ] {
        let (rules, notes) = imported(&[model]);
        assert_eq!(rules, [Value::Null; 0], "{why}: {notes:?}");
        assert_noted(&notes, &[why]);
    }
}
