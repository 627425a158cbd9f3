//! `actuator` retries a gateway that fails, notifies the operators once, and delays commands that follow too soon.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::observer::now;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::stage::Stage;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("actuator", "gateway_that_fails_is_reported_once_and_reached_later", failing_gateway),
        suite.trial("actuator", "command_that_comes_too_fast_is_delayed_not_lost", delayed),
    ]
}

fn transition(to: &str, at: u64) -> Value {
    json!({
        "transition": format!("greenhouse-1#frost#{at}#{to}"), "threshold": "frost", "thing": "greenhouse-1",
        "from": "OK", "to": to, "field": "/celsius", "value": 1, "at": at, "since": at, "words": "frost"
    })
}

async fn set(stage: &Stage, variable: &str, seconds: u32) -> Result<()> {
    stage.configure("actuator", |variables| drop(variables.insert(variable.to_owned(), seconds.to_string()))).await
}

async fn failing_gateway(suite: Arc<Suite>) -> Result<()> {
    const CODE: &str = "sendir,1:1,1,38000,1,1,96,24";
    let stage = suite.stage().await?;
    set(&stage, "NOTIFY_AFTER_SECONDS", 0).await?;
    // A free port, on which nothing listens yet.
    let address = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?;
    let infrared = json!({"host": "127.0.0.1", "port": address.port(), "send": [CODE]});
    let action = json!({"alarm": "frost", "to": "ALARM", "device": "heater", "command": {"infrared": infrared}});
    stage.invoke("actuator", &json!({"actions": [action]})).await?;

    let event = transition("ALARM", now());
    // The first failure is only recorded; by the second one, the gateway has been failing for long enough.
    for _ in 0..3 {
        ensure!(stage.invoke("actuator", &event).await.is_err(), "a command was sent to a gateway that is down");
    }
    stage.observer.catch_up().await?;
    let notified = || stage.observer.notifications().into_iter().filter(|it| it.message.contains("heater")).count();
    ensure!(notified() == 1, "the operators were notified {} times", notified());

    let listener = TcpListener::bind(address).await?;
    let gateway = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut code = Vec::new();
        BufReader::new(&mut stream).read_until(b'\r', &mut code).await?;
        stream.write_all(b"completeir,1:1,1\r").await?;
        anyhow::Ok(String::from_utf8(code)?)
    });
    let response = stage.invoke("actuator", &event).await?;
    ensure!(response.get("outcome") == Some(&json!("done")), "the response was {response}");
    let sent = gateway.await??;
    ensure!(sent.trim_end() == CODE, "the gateway received {sent}");
    Ok(())
}

async fn delayed(suite: Arc<Suite>) -> Result<()> {
    let stage = suite.stage().await?;
    set(&stage, "MIN_INTERVAL_SECONDS", 2).await?;
    let action = |to: &str, position: &str| {
        json!({
            "alarm": "frost", "to": to, "device": "shade", "command": {"shadow": {"desired": {"position": position}}}
        })
    };
    stage.device("shade").await?;
    stage.invoke("actuator", &json!({"actions": [action("ALARM", "closed"), action("OK", "open")]})).await?;
    let at = now();
    for (to, at) in [("ALARM", at), ("OK", at + 1)] {
        stage.invoke("actuator", &transition(to, at)).await?;
    }
    let opened = stage.observer.poll(async || {
        let shadow = stage.clients.iot_data.get_thing_shadow().thing_name("shade").send().await?;
        let shadow: Value = serde_json::from_slice(shadow.payload().context("the shadow is empty")?.as_ref())?;
        Ok((shadow.pointer("/state/desired/position") == Some(&json!("open"))).then_some(()))
    });
    opened.await?.context("the second command was lost")?;
    Ok(())
}
