use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::*;

const MESSAGE_ID: &str = "6b57c3a4-0000-4000-8000-000000000001";
const SENT_AT: u64 = 1_764_421_445_000;

#[allow(clippy::needless_pass_by_value, reason = "bodies are text or JSON values made in place")]
fn letter(function: &'static str, is_of_rule: bool, body: impl ToString) -> RawLetter {
    let attributes = BTreeMap::new();
    RawLetter {
        function,
        is_of_rule,
        message_id: MESSAGE_ID.to_owned(),
        sent_at: SENT_AT,
        attributes,
        body: body.to_string(),
    }
}

fn recognize(letter: &RawLetter) -> DeadLetter {
    DeadLetter::recognize(letter, &Names::new("gatehouse"))
}

/// The example of AWS IoT's developer guide, with other names.
fn rule_record(rule: &str, topic: &str, payload: &[u8], failures: &[(&str, &str)]) -> Value {
    let failures: Vec<_> = failures
        .iter()
        .map(|(action, resource)| {
            json!({
                "failedAction": action,
                "failedResource": resource,
                "errorMessage": "Failed to send message to Sqs queue. The error received was Access denied."
            })
        })
        .collect();
    json!({
        "ruleName": rule,
        "topic": topic,
        "cloudwatchTraceId": "7e146a2c-95b5-6caf-98b9-50e3969734c7",
        "clientId": "iotconsole-1511213971966-0",
        "sourceIp": "192.0.2.1",
        "base64OriginalPayload": BASE64_STANDARD.encode(payload),
        "failures": failures
    })
}

fn event(letter: &DeadLetter) -> Value {
    assert_eq!(letter.problem, None);
    serde_json::from_str(letter.event.as_deref().expect("an event")).expect("JSON")
}

#[test]
fn rule_record_of_a_device_becomes_the_envelope_of_its_rule() {
    let payload = br#"{"lux": 22.50, "bad": "#;
    let queue = "https://sqs.eu-west-1.amazonaws.com/111122223333/gatehouse-telemetry";
    let record = rule_record("gatehouse_telemetry", "telemetry/lux-1", payload, &[("SqsAction", queue)]);
    let letter = recognize(&letter("telemetry", true, record));
    assert_eq!(letter.kind, Kind::Rule);
    assert_eq!(letter.targets, [Target::Queue("telemetry")]);
    assert_eq!(letter.thing.as_deref(), Some("lux-1"));
    assert!(letter.error.as_deref().is_some_and(|error| error.contains("Access denied")));
    let expected = json!({
        "payloadBase64": BASE64_STANDARD.encode(payload),
        "thing": "lux-1",
        "topic": "telemetry/lux-1",
        "clientId": "iotconsole-1511213971966-0",
        "traceId": "7e146a2c-95b5-6caf-98b9-50e3969734c7",
        "receivedAt": SENT_AT
    });
    assert_eq!(event(&letter), expected);
}

#[test]
fn only_the_actions_that_failed_get_the_event() {
    let arn = |queue| format!("arn:aws:sqs:eu-west-1:111122223333:gatehouse-{queue}");
    let targets = |failures: &[(&str, &str)]| {
        recognize(&letter("telemetry", true, rule_record("gatehouse_sigfox", "sigfox", b"{}", failures))).targets
    };
    assert_eq!(targets(&[("SqsAction", &arn("alarm"))]), [Target::Queue("alarm")]);
    let both = [("SqsAction", arn("telemetry")), ("SqsAction", arn("alarm"))];
    let both: Vec<_> = both.iter().map(|(action, arn)| (*action, arn.as_str())).collect();
    assert_eq!(targets(&both), [Target::Queue("telemetry"), Target::Queue("alarm")]);
    // It is unknown which of the two queues did not receive it.
    assert_eq!(targets(&[("SqsAction", "")]), []);
}

#[test]
fn rule_with_one_action_needs_no_resource() {
    let record = rule_record("gatehouse_button", "iotbutton/b-1", b"{}", &[("LambdaAction", "")]);
    assert_eq!(recognize(&letter("button", true, record)).targets, [Target::Function("button")]);
}

#[test]
fn rule_record_of_aws_iot_keeps_the_json_as_it_was() {
    let payload = br#"{"clientId": "lux-1", "timestamp": 1.50, "eventType": "connected"}"#;
    let queue = "https://sqs.eu-west-1.amazonaws.com/111122223333/gatehouse-presence";
    let topic = "$aws/events/presence/connected/lux-1";
    let letter = recognize(&letter(
        "presence",
        true,
        rule_record("gatehouse_presence", topic, payload, &[("SqsAction", queue)]),
    ));
    assert_eq!(letter.thing.as_deref(), Some("lux-1"));
    let text = letter.event.expect("an event");
    assert!(text.starts_with(r#"{"payload":{"clientId": "lux-1", "timestamp": 1.50"#), "{text}");
}

#[test]
fn every_kind_of_rule_finds_its_thing() {
    let certificate = "a".repeat(64);
    let registered = json!({"certificateId": certificate}).to_string();
    for (rule, topic, payload, function, thing) in [
        ("jitr", "$aws/events/certificates/registered/ca", registered.as_str(), "jitr", certificate.as_str()),
        ("shadow_named", "$aws/things/lux-1/shadow/name/a/update/documents", "{}", "shadow", "lux-1"),
        ("shadow_deleted", "$aws/things/lux-1/shadow/delete/accepted", "{}", "shadow", "lux-1"),
        ("sigfox", "sigfox", r#"{"device": "2C30EB"}"#, "telemetry", "2C30EB"),
        ("forward", "Weather/Corp/rain", "{}", "forward", "iotconsole-1511213971966-0"),
    ] {
        let queue = format!("https://sqs.eu-west-1.amazonaws.com/111122223333/gatehouse-{function}");
        let record = rule_record(&format!("gatehouse_{rule}"), topic, payload.as_bytes(), &[("SqsAction", &queue)]);
        let letter = recognize(&letter(function, true, record));
        assert_eq!((letter.problem, letter.thing.as_deref()), (None, Some(thing)), "{rule}");
        assert_eq!(letter.targets, [Target::Queue(function)], "{rule}");
    }
}

#[test]
fn message_over_http_has_no_client_and_gets_a_stable_id() {
    let queue = "https://sqs.eu-west-1.amazonaws.com/111122223333/gatehouse-forward";
    let mut record = rule_record("gatehouse_forward", "Weather/Corp/rain", b"{}", &[("SqsAction", queue)]);
    record["clientId"] = json!("N/A");
    record.as_object_mut().expect("an object").remove("cloudwatchTraceId");
    let raw = letter("forward", true, record);
    let (first, again) = (recognize(&raw), recognize(&raw));
    assert_eq!(first, again);
    let event = event(&first);
    assert_eq!(
        (&event["thing"], &event["clientId"], &event["traceId"]),
        (&json!("n-a"), &json!("n/a"), &json!(MESSAGE_ID))
    );
}

#[test]
fn function_in_another_account_is_invoked_by_its_arn() {
    let arn = "arn:aws:lambda:eu-west-1:222222222222:function:weather";
    let record = rule_record("gatehouse_forward_lambda", "Weather/Corp/rain", b"{}", &[("LambdaAction", arn)]);
    assert_eq!(recognize(&letter("forward", true, record)).targets, [Target::ForeignFunction(arn.to_owned())]);
}

#[test]
fn rule_record_that_cannot_be_resent_says_why() {
    let queue = "https://sqs.eu-west-1.amazonaws.com/111122223333/gatehouse-shadow";
    let problem = |rule: &str, payload: &[u8], failures: &[(&str, &str)]| {
        let letter = recognize(&letter("shadow", true, rule_record(rule, "$aws/things/a/shadow/x", payload, failures)));
        assert_eq!((letter.kind, letter.targets), (Kind::Rule, vec![]), "{rule}");
        letter.problem.expect("a problem")
    };
    assert!(problem("another_shadow", b"{}", &[("SqsAction", queue)]).contains("not one of the deployment"));
    assert!(problem("gatehouse_lamp", b"{}", &[("SqsAction", queue)]).contains("unknown"));
    assert!(problem("gatehouse_shadow_delta", b"{}", &[("RepublishAction", "t")]).contains("superseded"));
    assert!(problem("gatehouse_shadow", b"not JSON", &[("SqsAction", queue)]).contains("not JSON"));
    assert!(problem("gatehouse_shadow", b"{}", &[]).contains("no failed action"));
    assert!(problem("gatehouse_shadow", b"{}", &[("S3Action", "bucket")]).contains("no action S3Action"));
}

/// The example of Lambda's developer guide, with other names.
fn invocation_record(function: &str, payload: &str) -> String {
    format!(
        r#"{{
            "version": "1.0",
            "timestamp": "2019-11-14T18:16:05.568Z",
            "requestContext": {{
                "requestId": "e4b46cbf-b738-4c5a-8880-a18cdf61200e",
                "functionArn": "arn:aws:lambda:us-east-2:123456789012:function:{function}:$LATEST",
                "condition": "RetriesExhausted",
                "approximateInvokeCount": 3
            }},
            "requestPayload": {payload},
            "responseContext": {{"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}},
            "responsePayload": {{"errorMessage": "the event could not be handled", "errorType": "Retry"}}
        }}"#
    )
}

#[test]
fn invocation_record_becomes_the_input_as_it_was() {
    let payload = r#"{"payloadBase64":"e30=","thing":"b-1","topic":"iotbutton/b-1","traceId":"t-1","n":22.50}"#;
    let letter = recognize(&letter("button", false, invocation_record("gatehouse-button", payload)));
    assert_eq!(letter.kind, Kind::Invocation);
    assert_eq!(letter.targets, [Target::Function("button")]);
    assert_eq!((letter.event.as_deref(), letter.event_id.as_deref()), (Some(payload), Some("t-1")));
    let error = letter.error.expect("an error");
    assert_eq!(error, "RetriesExhausted: the event could not be handled");
}

#[test]
fn invocation_record_without_a_request_id_is_recognized() {
    let payload = r#"{"payloadBase64":"e30=","thing":"b-1","topic":"iotbutton/b-1","traceId":"t-1"}"#;
    let record = invocation_record("gatehouse-button", payload)
        .replace(r#""requestId": "e4b46cbf-b738-4c5a-8880-a18cdf61200e","#, "");
    let letter = recognize(&letter("button", false, record));
    assert_eq!((letter.kind, letter.targets), (Kind::Invocation, vec![Target::Function("button")]));
    assert_eq!((letter.event.as_deref(), letter.event_id.as_deref()), (Some(payload), Some("t-1")));
}

#[test]
fn input_without_trace_id_gets_the_id_of_its_request() {
    let letter =
        recognize(&letter("button", false, invocation_record("gatehouse-button", r#"{"payload":{},"thing":"b"}"#)));
    assert_eq!(letter.event_id.as_deref(), Some("e4b46cbf-b738-4c5a-8880-a18cdf61200e"));
    assert_eq!(event(&letter)["traceId"], "e4b46cbf-b738-4c5a-8880-a18cdf61200e");
}

#[test]
fn invocation_record_of_another_function_is_left_alone() {
    let letter = recognize(&letter("button", false, invocation_record("another-button", "{}")));
    assert_eq!((letter.event, letter.targets), (None, vec![]));
    assert!(letter.problem.is_some_and(|problem| problem.contains("not the function of this queue")));
}

#[test]
fn message_of_a_work_queue_returns_to_it() {
    let body = r#"{"payloadBase64":"e30=","thing":"lux-1","topic":"telemetry/lux-1","traceId":"t-1"}"#;
    let letter = recognize(&letter("alarm", false, body));
    assert_eq!((letter.kind, letter.targets), (Kind::Event, vec![Target::Queue("alarm")]));
    assert_eq!((letter.event.as_deref(), letter.event_id.as_deref()), (Some(body), Some("t-1")));
}

#[test]
fn message_without_trace_id_keeps_its_id() {
    let letter = recognize(&letter("telemetry", false, r#"{"payloadBase64":"e30=","thing":"lux-1"}"#));
    assert_eq!(event(&letter)["traceId"], MESSAGE_ID);
}

#[test]
fn leftovers_of_topics_and_schedules_return_to_the_queue() {
    let mut transition = letter("actuator", false, r#"{"transition":"t","thing":"lux-1"}"#);
    transition.attributes = BTreeMap::from([
        ("ErrorCode".to_owned(), "AccessDenied".to_owned()),
        ("ErrorMessage".to_owned(), "denied".to_owned()),
    ]);
    let recognized = recognize(&transition);
    assert_eq!((recognized.kind, recognized.targets), (Kind::Topic, vec![Target::Queue("actuator")]));
    assert_eq!(recognized.error.as_deref(), Some("denied"));

    let wrapped = json!({"Type": "Notification", "Message": transition.body}).to_string();
    let recognized = recognize(&letter("actuator", false, wrapped));
    assert_eq!((recognized.kind, recognized.event), (Kind::Topic, Some(transition.body)));

    let mut check = letter("alarm", false, r#"{"check": "due"}"#);
    check.attributes = BTreeMap::from([
        ("SCHEDULE_ARN".to_owned(), "arn:aws:scheduler:eu-west-1:111122223333:schedule/a/b".to_owned()),
        ("ERROR_MESSAGE".to_owned(), "gone".to_owned()),
    ]);
    let recognized = recognize(&check);
    assert_eq!((recognized.kind, recognized.targets), (Kind::Schedule, vec![Target::Queue("alarm")]));
    let recognized = recognize(&letter("jitr", true, r#"{"check": "runs-out"}"#));
    assert_eq!((recognized.kind, recognized.targets), (Kind::Schedule, vec![Target::Queue("jitr")]));
    assert_eq!(recognized.event.as_deref(), Some(r#"{"check": "runs-out"}"#));
}

#[test]
fn anything_else_is_unrecognized_and_says_why() {
    for (is_of_rule, body) in [(false, "not JSON"), (false, "[1]"), (true, "not JSON"), (true, r#"{"payload": {}}"#)] {
        let letter = recognize(&letter("telemetry", is_of_rule, body));
        assert_eq!((letter.kind, letter.event), (Kind::Unrecognized, None), "{body}");
        assert!(letter.problem.is_some(), "{body}");
    }
}

#[test]
fn uploads_of_documents_are_recognized() {
    use crate::documents::Kind::{Actions, Destinations, Thresholds};
    assert_eq!(uploaded_document(r#"{"thresholds": []}"#), Some(Thresholds));
    assert_eq!(uploaded_document(r#"{"version": 2, "rules": []}"#), Some(Thresholds));
    assert_eq!(uploaded_document(r#"{"actions": []}"#), Some(Actions));
    assert_eq!(uploaded_document(r#"{"destinations": []}"#), Some(Destinations));
    assert_eq!(uploaded_document(r#"{"payload": {}}"#), None);
}
