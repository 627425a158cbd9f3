//! Devices behind an infrared gateway, which is a TCP server here.

use serde_json::{Value, json};
use test_support::Fault;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::account::{Account, is_done};
use crate::{minutes, transition};

const ON: &str = "sendir,1:1,1,38000,1,1,96,24";
const OFF: &str = "sendir,1:1,2,38000,1,1,24,96";

fn action(to: &str, port: u16, code: &str) -> Value {
    json!({"alarm": "too-cold", "to": to, "device": "heater", "command": {"infrared": {
        "host": "127.0.0.1", "port": port, "send": [code], "connectTimeout": "1 s", "readTimeout": "1 s"}}})
}

fn cold(to: &str, minute: u64) -> String {
    transition("greenhouse-1", "too-cold", to, minute)
}

/// A gateway that accepts this number of codes, and returns them.
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

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn codes_are_sent_once_and_opposite_ones_keep_the_interval() {
    let (port, served) = gateway(2).await;
    let account = Account::with(&json!({"actions": [action("ALARM", port, ON), action("OK", port, OFF)]})).await;
    assert_eq!(account.deliver(&cold("ALARM", 0)).await.count("Commanded"), 1);
    assert_eq!(account.deliver(&cold("ALARM", 0)).await.count("Duplicate"), 1);
    account.skip(minutes(5));
    assert_eq!(account.deliver(&cold("OK", 5)).await.count("Delayed"), 1);
    account.skip(minutes(10));
    assert_eq!(account.deliver(&cold("OK", 5)).await.count("Commanded"), 1);
    assert_eq!(served.await.unwrap(), [ON, OFF]);
}

#[tokio::test]
async fn operators_are_notified_once_of_a_failing_gateway() {
    let port = closed_port().await;
    let account = Account::with(&json!({"actions": [action("ALARM", port, ON)]})).await;
    for (pause, notifications) in [(0, 0), (1, 0), (1, 1), (6, 1), (6, 1)] {
        account.skip(minutes(pause));
        let delivered = account.deliver(&cold("ALARM", 0)).await;
        assert_eq!((is_done(&delivered), delivered.count("GatewayFailed")), (false, 1), "after {pause} min");
        assert_eq!(account.notifications().len(), notifications, "after {pause} min more");
    }
    let message = account.notifications().remove(0);
    let start = format!(
        "The infrared gateway 127.0.0.1:{port} has been failing for 2 min: failed to connect to the gateway. heater has \
         not received the command for too-cold ALARM of greenhouse-1."
    );
    assert!(message.starts_with(&start), "{message}");
    let attributes = account.aws.state().published[0].attributes.clone();
    assert_eq!((&*attributes["device"], &*attributes["error"]), ("heater", "not-connected"));
}

#[tokio::test]
async fn gateway_that_recovers_sends_the_command_and_may_fail_again() {
    let (port, served) = gateway(1).await;
    let down = closed_port().await;
    let broken = json!({"actions": [action("ALARM", down, ON), action("OK", down, OFF)]});
    let account = Account::with(&broken).await;
    assert!(!is_done(&account.deliver(&cold("ALARM", 0)).await));
    account.deliver(&json!({"actions": [action("ALARM", port, ON)]}).to_string()).await;
    account.skip(minutes(20));
    assert_eq!(account.deliver(&cold("ALARM", 0)).await.count("Commanded"), 1);
    assert_eq!(served.await.unwrap(), [ON]);
    assert!(!account.record("heater").contains_key("failingSince"));

    account.skip(minutes(20));
    account.deliver(&broken.to_string()).await;
    assert!(!is_done(&account.deliver(&cold("OK", 40)).await));
    assert!(account.notifications().is_empty(), "it has only started to fail");
}

#[tokio::test]
async fn failed_notification_is_sent_by_the_next_attempt() {
    let account = Account::with(&json!({"actions": [action("ALARM", closed_port().await, ON)]})).await;
    account.deliver(&cold("ALARM", 0)).await;
    account.skip(minutes(6));
    account.aws.fail_next("Publish", [Fault::Denied]);
    assert!(!is_done(&account.deliver(&cold("ALARM", 0)).await));
    assert_eq!(account.operations().iter().filter(|operation| *operation == "Publish").count(), 1);
    assert!(account.notifications().is_empty());
    account.skip(minutes(6));
    assert!(!is_done(&account.deliver(&cold("ALARM", 0)).await));
    assert_eq!(account.notifications().len(), 1);
}

#[tokio::test]
async fn failing_gateway_does_not_stop_other_devices() {
    let lamp = json!({"alarm": "too-cold", "to": "ALARM", "device": "lamp", "command": {"shadow": {
        "desired": {"position": "on"}}}});
    let account = Account::with(&json!({"actions": [action("ALARM", closed_port().await, ON), lamp]})).await;
    for _ in 0..3 {
        assert!(!is_done(&account.deliver(&cold("ALARM", 0)).await));
        account.skip(minutes(6));
    }
    assert_eq!(account.positions(), ["on"]);
}
