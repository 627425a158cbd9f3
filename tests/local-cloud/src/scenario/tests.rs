use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::*;
use crate::pki::{ExtendedKeyUsagePurpose, KeyType};

fn steps(step: &str) -> String {
    format!(r#"{{"about": "A test.", "steps": [{{"what": "w", "thing": "t", "topic": "a/t", {step}}}]}}"#)
}

fn payload(step: &str) -> Vec<u8> {
    let scenario = Scenario::parse(&steps(&format!(r#"{step}, "expect": "nothing""#))).expect("valid");
    scenario.steps.first().expect("one").payload().expect("valid")
}

fn connection(step: &str) -> String {
    format!(r#"{{"about": "A test.", "steps": [{{"what": "w", "thing": "t", {step}}}]}}"#)
}

fn error(text: &str) -> String {
    format!("{:#}", Scenario::parse(text).expect_err("invalid"))
}

#[test]
fn payload_is_published_as_written() {
    assert_eq!(payload(r#""payload": {"b":  22.50, "a": 1e2}"#), br#"{"b":  22.50, "a": 1e2}"#);
    assert_eq!(payload(r#""payloadText": "{broken""#), b"{broken");
    assert_eq!(payload(r#""payloadBase64": "/w==""#), [0xff]);
    assert_eq!(payload(r#""payloadRepeat": {"text": "ab", "bytes": 5}"#), b"ababa");
}

#[test]
fn error_names_the_field_of_a_message() {
    let nothing = r#""expect": "nothing""#;
    for (text, part) in [
        (steps(&format!(r#""payload": 1, "retries": 2, {nothing}"#)), "steps[0].retries: unknown field"),
        (steps(&format!(r#""payload": 1, "times": 0, {nothing}"#)), "steps[0].times: invalid value"),
        (steps(&format!(r#""payload": 1, "times": 101, {nothing}"#)), "steps[0] (w): times: must be"),
        (steps(&format!(r#""payload": 1, "payloadText": "", {nothing}"#)), "steps[0] (w): must have exactly one"),
        (steps(&format!(r#""payloadBase64": "?", {nothing}"#)), "steps[0] (w): payloadBase64: "),
        (steps(&format!(r#""payloadRepeat": {{"text": "x", "bytes": 131073}}, {nothing}"#)), "payloadRepeat.bytes: "),
        (steps(&format!(r#""payload": 1, "delaySeconds": -1, {nothing}"#)), "steps[0] (w): delaySeconds: "),
        (steps(&format!(r#""payload": 1, "together": true, {nothing}"#)), "steps[0] (w): together: "),
        (steps(r#""payload": 1, "expect": "noise""#), "steps[0].expect: unknown variant `noise`"),
        (steps(r#""payload": 1, "expect": {"quarantine": {"code": "x"}}"#), "expect.quarantine.code: unknown field"),
        (steps(r#""payload": 1"#), "steps[0]: missing field `expect`"),
        (r#"{"about": "x", "steps": []}"#.to_owned(), "steps: must not be empty"),
        ("[".to_owned(), "EOF while parsing"),
    ] {
        let error = error(&text);
        assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
    }
}

#[test]
fn certificate_has_the_given_options() {
    let text = connection(
        r#""expect": "admitted", "connect": {"certificate": {"commonName": "a/b", "notBeforeDays": -3,
           "notAfterDays": -0.5, "ca": true, "key": "p-384", "keyUsage": [], "extendedKeyUsage": ["serverAuth"],
           "unknownCriticalExtension": true, "signedByUnknownCa": true, "revoked": true}}"#,
    );
    let scenario = Scenario::parse(&text).expect("valid");
    let step = scenario.steps.first().expect("one");
    let Ok(StepAction::Connect(Connect::Certificate(options))) = step.action() else { panic!("{step:?}") };
    assert!(options.signed_by_unknown_ca && options.revoked);
    let certificate = options.spec("t");
    assert_eq!(certificate.common_name.as_deref(), Some("a/b"));
    let age = certificate.not_before.elapsed().expect("in the past");
    assert_eq!(age.as_secs() / 86_400, 3);
    assert!(certificate.not_after < SystemTime::now());
    assert!(certificate.is_ca && certificate.has_unknown_critical_extension);
    assert_eq!(certificate.key, KeyType::P384);
    assert_eq!(certificate.key_usage, []);
    assert_eq!(certificate.extended_key_usage, [ExtendedKeyUsagePurpose::ServerAuth]);

    let plain = connection(r#""expect": "admitted", "connect": {"certificate": {}}"#);
    let plain = Scenario::parse(&plain).expect("valid");
    let Some(Connect::Certificate(options)) = &plain.steps.first().expect("one").connect else { panic!("{plain:?}") };
    assert_eq!(options.spec("t").common_name.as_deref(), Some("t"));
    assert!(plain.new_things().contains("t") && plain.needs_certificate_authority());
}

#[test]
fn error_names_the_field_of_a_connection() {
    let admitted = r#""expect": "admitted""#;
    let certificate = |field: &str| connection(&format!(r#""connect": {{"certificate": {{{field}}}}}, {admitted}"#));
    for (text, part) in [
        (certificate(r#""cn": "x""#), "steps[0].connect.certificate.cn: unknown field"),
        (certificate(r#""key": "dsa""#), "steps[0].connect.certificate.key: unknown variant `dsa`"),
        (certificate(r#""key": "rsa-1024""#), "steps[0].connect.certificate.key: unknown variant"),
        (certificate(r#""keyUsage": ["x"]"#), "steps[0].connect.certificate.keyUsage[0]: unknown variant"),
        (certificate(r#""notAfterDays": -1"#), "steps[0] (w): connect.certificate.notAfterDays: "),
        (certificate(r#""notBeforeDays": 1e9"#), "steps[0] (w): connect.certificate.notBeforeDays: "),
        (connection(&format!(r#""connect": "anew", {admitted}"#)), "steps[0].connect: unknown variant `anew`"),
        (connection(&format!(r#""connect": "again", {admitted}"#)), "steps[0] (w): connect: this thing has no"),
        (connection(&format!(r#""connect": {{"certificate": {{}}, "x": 1}}, {admitted}"#)), "steps[0].connect: "),
        (
            connection(&format!(r#""connect": {{"certificate": {{}}}}, "topic": "a/t", {admitted}"#)),
            "steps[0] (w): must have exactly one of topic, connect, disconnect, command, operator and shadow",
        ),
        (
            connection(&format!(r#""connect": {{"certificate": {{}}}}, "payloadText": "", {admitted}"#)),
            "steps[0] (w): a payload requires a topic",
        ),
        (
            connection(&format!(r#""connect": {{"certificate": {{}}}}, "times": 2, {admitted}"#)),
            "steps[0] (w): times: ",
        ),
        (
            connection(r#""connect": {"certificate": {}}, "expect": "suppressed""#),
            "steps[0] (w): expect: is not a possible outcome of a connection",
        ),
        (
            connection(r#""connect": {"certificate": {}}, "expect": {"rejected": {"why": "x"}}"#),
            "steps[0].expect.rejected.why: unknown field",
        ),
        (connection(admitted), "steps[0] (w): must have exactly one of topic, connect, "),
        (
            steps(&format!(r#""payload": 1, {admitted}"#)),
            "steps[0] (w): expect: is not a possible outcome of a message",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
    }
}

#[test]
fn error_names_the_field_of_a_command_or_shadow_read() {
    let command = |field: &str| connection(&format!(r#""command": {{"function": "alarm", "input": {{}}}}, {field}"#));
    let read = |field: &str| connection(&format!(r#""shadow": {{"thing": "a-shade"}}, {field}"#));
    let reading = r#""payload": {"lux": 1}, "expect": {"stored": {"readings": 1}}"#;
    let action = |field: &str| {
        connection(&format!(r#""operator": {{"action": "acknowledge", "rule": "r", "by": "anna"}}, {field}"#))
    };
    for (text, part) in [
        (action(r#""expect": "done""#), "expect: is not a possible outcome of an operator's action"),
        (
            action(r#""times": 2, "expect": {"alarm": {"state": "NORMAL"}}"#),
            "times: must be 1 for an operator's action",
        ),
        (action(r#""expect": {"alarm": {}}"#), "steps[0].expect.alarm: missing field `state`"),
        (
            action(r#""expect": {"alarm": {"state": "NORMAL"}}"#).replace("acknowledge", "ignore"),
            "steps[0].operator.action: unknown variant `ignore`",
        ),
        (command(r#""expect": {"stored": {"readings": 1}}"#), "expect: is not a possible outcome of a command"),
        (command(r#""times": 2, "expect": "done""#), "times: must be 1 for a command"),
        (
            command(r#""waitForOutcome": false, "expect": "done""#),
            "waitForOutcome: may be false for a single message only",
        ),
        (read(r#""expect": "done""#), "expect: is not a possible outcome of a shadow read"),
        (read(r#""expect": {"desired": {}}"#).replace("a-shade", "a/b"), "shadow.thing: must be"),
        (
            steps(&format!(r#""times": 2, "waitForOutcome": false, {reading}"#)),
            "waitForOutcome: may be false for a single message only",
        ),
        (steps(&format!(r#""minIntervalSeconds": 901, {reading}"#)), "minIntervalSeconds: must be from 0 to 900"),
    ] {
        let error = error(&text);
        assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
    }
    let acted = action(r#""expect": {"alarm": {"state": "ACKNOWLEDGED", "severity": "major"}}"#);
    for valid in [acted, command(r#""expect": "done""#), read(r#""expect": {"desired": {"a": 1}}"#), steps(reading)] {
        Scenario::parse(&valid).expect("valid");
    }
}

#[test]
fn error_names_the_field_of_a_disconnection_or_reconnection() {
    let disconnection = |field: &str| connection(&format!(r#""disconnect": true, {field}"#));
    let reconnection = |expect: &str| {
        let steps = [
            r#"{"what": "w", "thing": "t", "disconnect": true, "expect": "disconnected"}"#.to_owned(),
            format!(r#"{{"what": "w", "thing": "t", "connect": "again", "expect": {expect}}}"#),
        ];
        format!(r#"{{"about": "A test.", "steps": [{}]}}"#, steps.join(", "))
    };
    let unprompted = connection(r#""connect": "again", "expect": "connected""#);
    for (text, part) in [
        (disconnection(r#""expect": "connected""#), "expect: is not a possible outcome of a disconnection"),
        (disconnection(r#""expect": "admitted""#), "expect: is not a possible outcome of a disconnection"),
        (disconnection(r#""times": 2, "expect": "disconnected""#), "times: must be 1 for a disconnection"),
        (disconnection(r#""connect": "again", "expect": "disconnected""#), "must have exactly one of topic, connect, "),
        (
            disconnection(r#""expect": "disconnected""#).replace("true", "false"),
            "must have exactly one of topic, connect, ",
        ),
        (
            reconnection(r#""nothing""#).replace(r#""connect": "again""#, r#""topic": "a/t", "payload": 1"#),
            "steps[1] (w): topic: this thing has disconnected and must connect first",
        ),
        (unprompted, "connect: this thing has not disconnected in an earlier step"),
        (reconnection(r#""nothing""#), "steps[1] (w): connect: this thing has no certificate"),
        (reconnection(r#""disconnected""#), "steps[1] (w): expect: is not a possible outcome of a connection"),
        (
            connection(r#""connect": {"certificate": {}}, "expect": "connected""#),
            "expect: is not a possible outcome of a connection",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
    }
    for valid in [
        disconnection(r#""expect": {"notification": {}}"#),
        reconnection(r#""connected""#),
        reconnection(r#"{"notification": {}}"#),
    ] {
        let scenario = Scenario::parse(&valid).expect("valid");
        assert!(scenario.new_things().is_empty() && !scenario.needs_certificate_authority(), "{valid}");
    }
}

#[test]
fn error_names_the_field_of_a_forward_or_shadow_update() {
    let forwarded = r#""payload": 1, "expect": {"forwarded": {"attributes": {"thing": "t"}}}"#;
    let recorded = r#""payload": 1, "expect": {"recorded": {"reported": {"a": 1}}}"#;
    let update = |topic: &str| steps(recorded).replace("a/t", topic);
    let set_desired =
        |field: &str| connection(&format!(r#""shadow": {{"thing": "t", "desired": {{"a": 1}}}}, {field}"#));
    let destination = r#""destination": {"account": "444455556666", "queue": "q"}"#;
    let with = |fields: &str| steps(forwarded).replacen('{', &format!("{{{fields}, "), 1);
    for (text, part) in [
        (with(destination).replace("attributes", "body"), "expect.forwarded.body: unknown field"),
        (with(r#""policies": {"u": "PublisherPolicy"}"#), "policies: u is the thing of no step"),
        (with(destination).replace("666", "66"), "destination.account: "),
        (steps(forwarded), "destination: is required"),
        (steps(recorded), "expect: is not a possible outcome of a message"),
        (update("$aws/things/t/shadow/get"), "expect: is not a possible outcome of a message"),
        (update("$aws/things/t/shadow/name/update"), "expect: is not a possible outcome of a message"),
        (set_desired(r#""expect": {"desired": {"a": 1}}"#), "expect: is not a possible outcome of a shadow update"),
        (set_desired(r#""times": 2, "expect": {"recorded": {}}"#), "times: must be 1 for a shadow update"),
        (set_desired(r#""expect": {"recorded": {"state": {}}}"#), "expect.recorded.state: unknown field"),
        (
            set_desired(r#""expect": {"recorded": {}}"#)
                .replace(r#"{"thing": "t","#, r#"{"thing": "t", "name": "a/b","#),
            "shadow.name: must be",
        ),
    ] {
        let error = error(&text);
        assert!(error.contains(part), "{text}\n  gave: {error}\n  not:  {part}");
    }
    let forwarding = [with(destination), with(&format!(r#"{destination}, "policies": {{"t": "PublisherPolicy"}}"#))];
    for text in forwarding {
        let scenarios = [Scenario::parse(&text).expect("valid")];
        assert_eq!(super::destination(&scenarios).expect("one").expect("one").queue, "q");
    }
    for valid in [
        update("$aws/things/t/shadow/update"),
        update("$aws/things/t/shadow/name/n/update"),
        update("$aws/things/t/shadow/name/n/delete"),
        set_desired(r#""expect": {"recorded": {"desired": {"a": 1}}}"#),
        connection(r#""shadow": {"thing": "t", "name": "n"}, "expect": {"recorded": {"deleted": true}}"#),
    ] {
        assert_eq!(Scenario::parse(&valid).expect("valid").destination, None);
    }
}

#[test]
fn shadow_updates_and_deletions_have_a_confirmation_topic() {
    let name = Some("n".to_owned());
    let named = Shadow { thing: "t".to_owned(), name, desired: None };
    let classic = Shadow { name: None, ..named.clone() };
    for (topic, confirmation) in [
        ("$aws/things/t/shadow/update", Some(classic.documents_topic())),
        ("$aws/things/t/shadow/name/n/update", Some(named.documents_topic())),
        ("$aws/things/t/shadow/delete", Some("$aws/things/t/shadow/delete/accepted".to_owned())),
        ("$aws/things/t/shadow/name/n/delete", Some("$aws/things/t/shadow/name/n/delete/accepted".to_owned())),
        ("$aws/things/t/shadow/get", None),
        ("$aws/things/t/shadow/update/documents", None),
        ("telemetry/t", None),
    ] {
        assert_eq!(confirmation_topic(topic), confirmation, "{topic}");
    }
}

#[test]
fn chart_needs_a_field_that_its_thing_reports() {
    let chart = |field: &str| {
        steps(r#""payload": {"lux": 1}, "expect": {"stored": {"readings": 1}}"#).replacen(
            '{',
            &format!(r#"{{"chart": {{"thing": "t", "field": "{field}", "threshold": "b", "limit": 5}}, "#),
            1,
        )
    };
    assert!(Scenario::parse(&chart("/lux")).expect("valid").chart.is_some());
    assert!(error(&chart("/heat")).contains("chart: no step of this thing"));
}

#[test]
fn longer_of_two_delays_applies() {
    let scenario =
        Scenario::parse(&steps(r#""delaySeconds": 1, "minIntervalSeconds": 3, "payload": 1, "expect": "nothing""#));
    let scenario = scenario.expect("valid");
    let step = scenario.steps.first().expect("one");
    for (ago, delay) in [(0, 3), (1, 2), (2, 1), (5, 1)] {
        assert_eq!(step.delay(Duration::from_secs(ago)), Duration::from_secs(delay));
    }
}

#[test]
fn thing_is_new_if_its_first_step_is_a_connection() {
    let text = r#"{"about": "A test.", "steps": [
        {"what": "w", "thing": "new", "connect": {"certificate": {}}, "expect": "admitted"},
        {"what": "w", "thing": "new", "topic": "a/new", "payload": 1, "expect": "nothing"},
        {"what": "w", "thing": "old", "topic": "a/old", "payload": 1, "expect": "nothing"},
        {"what": "w", "thing": "old", "connect": {"certificate": {}}, "expect": {"rejected": {"reason": "r"}}},
        {"what": "w", "thing": "old", "connect": "again", "expect": "denied"}
    ]}"#;
    assert_eq!(Scenario::parse(text).expect("valid").new_things(), HashSet::from(["new"]));
}

#[test]
fn shipped_scenarios_and_readme_examples_are_valid() {
    assert!(read_all(&[]).expect("valid").len() >= 2);
    let readme = std::fs::read_to_string(tools::root().join("events/README.md")).expect("a text");
    let blocks = readme.split("```json\n").skip(1).filter_map(|block| block.split("```").next());
    let scenarios: Vec<_> = blocks.filter(|block| block.contains("\"steps\"")).map(Scenario::parse).collect();
    assert_eq!(scenarios.len(), 4);
    for scenario in scenarios {
        scenario.expect("valid");
    }
}

#[test]
fn thing_name_and_topic_follow_aws_iot_rules() {
    let step = r#""payload": 1, "expect": "nothing""#;
    assert!(error(&steps(step).replace(r#""t""#, r#""t/1""#)).contains("thing: must be"));
    assert!(error(&steps(step).replace("a/t", "a/+")).contains("topic: must be"));
}
