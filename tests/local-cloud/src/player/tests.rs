use super::compare::is_unmodified;
use super::records::{shadow_of, shadow_version};
use crate::observer::QueueMessage;

#[test]
fn confirmation_names_the_shadow_and_its_version() {
    assert_eq!(shadow_of("$aws/things/lamp/shadow/update/documents"), Some(("lamp", None)));
    assert_eq!(shadow_of("$aws/things/lamp/shadow/name/dial/delete/accepted"), Some(("lamp", Some("dial"))));
    assert_eq!(shadow_of("telemetry/lamp"), None);
    assert_eq!(shadow_version(br#"{"previous": {"version": 6}, "current": {"version": 7}, "timestamp": 1}"#), 7);
    assert_eq!(shadow_version(br#"{"version": 8, "timestamp": 1}"#), 8);
}

#[test]
fn forwarded_body_is_the_payload_or_its_base64() {
    let message = |body: &str, encoding: Option<&str>| QueueMessage {
        account: "222222222222".to_owned(),
        queue: "weather".to_owned(),
        body: body.to_owned(),
        attributes: encoding.map(|it| ("contentTransferEncoding".to_owned(), it.to_owned())).into_iter().collect(),
    };
    assert!(is_unmodified(&message("{\"celsius\": 22.50}", None), br#"{"celsius": 22.50}"#));
    assert!(!is_unmodified(&message("{\"celsius\":22.5}", None), br#"{"celsius": 22.50}"#));
    assert!(is_unmodified(&message("/w==", Some("base64")), b"\xff"));
    assert!(!is_unmodified(&message("/w==", None), b"\xff"));
    assert!(!is_unmodified(&message("?", Some("base64")), b"\xff"));
}
