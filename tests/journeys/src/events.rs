//! Function inputs as rules build them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use local_cloud::observer;
use serde_json::{Value, json};

/// Returns a click.
pub fn click(event_id: &str, thing: &str) -> Value {
    let payload = json!({"serialNumber": thing, "batteryVoltage": "2000mV", "clickType": "SINGLE"}).to_string();
    device_event(event_id, thing, &format!("iotbutton/{thing}"), payload.as_bytes())
}

/// Returns a ring.
pub fn ring(event_id: &str, thing: &str) -> Value {
    let payload = json!({"msg": "Somebody is at the door!"}).to_string();
    device_event(event_id, thing, &format!("doorbell/{thing}"), payload.as_bytes())
}

/// Returns the event of any message.
pub fn device_event(event_id: &str, thing: &str, topic: &str, payload: &[u8]) -> Value {
    json!({
        "payloadBase64": BASE64_STANDARD.encode(payload),
        "thing": thing,
        "topic": topic,
        "clientId": thing,
        "principal": "0000000000000000000000000000000000000000000000000000000000000000",
        "traceId": event_id,
        "receivedAt": observer::now(),
    })
}
