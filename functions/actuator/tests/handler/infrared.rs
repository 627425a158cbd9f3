//! Devices behind an infrared gateway, which is a real one on TCP.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::cloud::Cloud;
use crate::{minutes, transition};

const ON: &str = "sendir,1:1,1,38000,1,1,96,24";
const OFF: &str = "sendir,1:1,2,38000,1,1,24,96";

fn answer(to: &str, port: u16, code: &str) -> Value {
    json!({"alarm": "too-cold", "to": to, "device": "heater", "command": {"infrared": {
        "host": "127.0.0.1", "port": port, "send": [code], "connectTimeout": "1 s", "readTimeout": "1 s"}}})
}

fn cold(to: &str, minute: u64) -> String {
    transition("greenhouse-1", "too-cold", to, minute)
}

/// A gateway that sends so many codes, and what they were.
async fn gateway(codes: usize) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let mut read = Vec::new();
        while read.len() < codes {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut connection = BufReader::new(&mut connection);
            let mut line = Vec::new();
            connection.read_until(b'\r', &mut line).await.unwrap();
            let code = String::from_utf8(line).unwrap().trim_end().to_owned();
            let id = code.split(',').nth(2).unwrap();
            connection.write_all(format!("completeir,1:1,{id}\r").as_bytes()).await.unwrap();
            read.push(code);
        }
        read
    });
    (port, served)
}

/// A port on which nobody listens.
async fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn codes_are_sent_once_and_opposite_ones_kept_apart() {
    let (port, served) = gateway(2).await;
    let cloud = Cloud::with(&json!({"answers": [answer("ALARM", port, ON), answer("OK", port, OFF)]})).await;
    assert_eq!(cloud.deliver(&cold("ALARM", 0)).await.count("Commanded"), 1);
    assert_eq!(cloud.deliver(&cold("ALARM", 0)).await.count("Repeated"), 1);
    cloud.skip(minutes(5));
    assert_eq!(cloud.deliver(&cold("OK", 5)).await.count("Delayed"), 1);
    cloud.skip(minutes(10));
    assert_eq!(cloud.deliver(&cold("OK", 5)).await.count("Commanded"), 1);
    assert_eq!(served.await.unwrap(), [ON, OFF]);
}

#[tokio::test]
async fn a_gateway_that_goes_on_failing_is_told_to_the_operators_once() {
    let port = nobody().await;
    let cloud = Cloud::with(&json!({"answers": [answer("ALARM", port, ON)]})).await;
    for (pause, told) in [(0, 0), (1, 0), (1, 1), (6, 1), (6, 1)] {
        cloud.skip(minutes(pause));
        let delivered = cloud.deliver(&cold("ALARM", 0)).await;
        assert_eq!((delivered.is_done, delivered.count("GatewayFailed")), (false, 1), "after {pause} min");
        assert_eq!(cloud.told().len(), told, "after {pause} min more");
    }
    let message = cloud.told().remove(0);
    let begins = format!(
        "The infrared gateway 127.0.0.1:{port} has failed for 2 min: the gateway cannot be connected to. heater has \
         not got the command that answers too-cold ALARM of greenhouse-1."
    );
    assert!(message.starts_with(&begins), "{message}");
    cloud.change(|state| {
        let attributes = state.published[0].message_attributes().unwrap();
        assert_eq!(attributes["device"].string_value(), Some("heater"));
        assert_eq!(attributes["error"].string_value(), Some("not-connected"));
    });
}

#[tokio::test]
async fn a_gateway_that_comes_back_sends_the_command_and_fails_anew_later() {
    let (port, served) = gateway(1).await;
    let down = nobody().await;
    let broken = json!({"answers": [answer("ALARM", down, ON), answer("OK", down, OFF)]});
    let cloud = Cloud::with(&broken).await;
    assert!(!cloud.deliver(&cold("ALARM", 0)).await.is_done);
    cloud.deliver(&json!({"answers": [answer("ALARM", port, ON)]}).to_string()).await;
    cloud.skip(minutes(20));
    assert_eq!(cloud.deliver(&cold("ALARM", 0)).await.count("Commanded"), 1);
    assert_eq!(served.await.unwrap(), [ON]);
    assert!(!cloud.record("heater").contains_key("failingSince"));

    cloud.skip(minutes(20));
    cloud.deliver(&broken.to_string()).await;
    assert!(!cloud.deliver(&cold("OK", 40)).await.is_done);
    assert!(cloud.told().is_empty(), "it has only begun to fail");
}

#[tokio::test]
async fn where_the_operators_cannot_be_told_the_next_try_tells_them() {
    let cloud = Cloud::with(&json!({"answers": [answer("ALARM", nobody().await, ON)]})).await;
    cloud.deliver(&cold("ALARM", 0)).await;
    cloud.skip(minutes(6));
    let publish = cloud.change(|state| state.calls.len()) + 5;
    cloud.change(|state| state.fault = Some((publish, crate::cloud::Fault::Error)));
    assert!(!cloud.deliver(&cold("ALARM", 0)).await.is_done);
    assert_eq!((cloud.change(|state| state.calls[publish]), cloud.told().len()), ("Publish", 0));
    cloud.skip(minutes(6));
    assert!(!cloud.deliver(&cold("ALARM", 0)).await.is_done);
    assert_eq!(cloud.told().len(), 1);
}

#[tokio::test]
async fn a_gateway_that_fails_keeps_no_other_device_from_its_command() {
    let lamp = json!({"alarm": "too-cold", "to": "ALARM", "device": "lamp", "command": {"shadow": {
        "desired": {"position": "on"}}}});
    let cloud = Cloud::with(&json!({"answers": [answer("ALARM", nobody().await, ON), lamp]})).await;
    for _ in 0..3 {
        assert!(!cloud.deliver(&cold("ALARM", 0)).await.is_done);
        cloud.skip(minutes(6));
    }
    assert_eq!(cloud.positions(), ["on"]);
}
