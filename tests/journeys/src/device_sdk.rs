//! A device that uses the AWS IoT Device SDK for Python.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_iotdataplane::primitives::Blob;
use libtest_mimic::Trial;
use local_cloud::isolation::{self, Inherit};
use local_cloud::pki::CertificateSpec;
use local_cloud::{supervisor, tools};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::timeout;

use crate::admission::Gate;
use crate::stage::{Item, text};
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trial =
        suite.trial("jitr+shadow", "device_on_the_aws_sdk_is_admitted_and_follows_its_shadow", follows_its_shadow);
    if tools::device_sdk().is_err() {
        eprintln!("the AWS IoT Device SDK is not installed (make test installs it); skipping its test");
        trial = trial.with_kind("needs the AWS IoT Device SDK").with_ignored_flag(true);
    }
    vec![trial]
}

/// How long all steps of the device may take, even on a slow machine.
const DEVICE_TIMEOUT: Duration = Duration::from_mins(15);

async fn follows_its_shadow(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let issued = gate.ca.issue(&CertificateSpec::named("lamp"))?;
    let identity = issued.identity("lamp");
    let directory = tempfile::tempdir()?;
    let put = |name: &str, text: &str| -> Result<_> {
        let path = directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let (cloud, account) = (&gate.stage.cloud, &gate.stage.account);
    let mut python =
        isolation::command(tools::device_sdk()?, Inherit::Minimal, cloud.endpoint, account, directory.path());
    python.arg(tools::root().join("tests/journeys/src/device_sdk.py"));
    python.args([cloud.mqtt.ip().to_string(), cloud.mqtt.port().to_string()]);
    python.args([put("ca.pem", &cloud.ca)?, put("crt.pem", &identity.certificate)?, put("key.pem", &identity.key)?]);
    python.arg("lamp");

    let mut device = tokio::process::Command::from(supervisor::command(&python)?);
    let mut device = device.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Closing this kills the device.
    let _pipe = device.stdin.take();
    let mut lines = BufReader::new(device.stdout.take().context("standard output is not piped")?).lines();
    let mut output = Vec::new();
    let follow = async {
        while let Some(line) = lines.next_line().await? {
            if line == "reported off" {
                let desired = json!({"state": {"desired": {"power": "on"}}});
                let update = gate.stage.clients.iot_data.update_thing_shadow().thing_name("lamp");
                update.payload(Blob::new(desired.to_string())).send().await?;
            }
            output.push(line);
        }
        Ok::<_, anyhow::Error>(device.wait().await?)
    };
    let status = timeout(DEVICE_TIMEOUT, follow).await;
    let status = status.with_context(|| format!("the device timed out after {output:?}"))??;
    let mut errors = String::new();
    device.stderr.take().context("standard error is not piped")?.read_to_string(&mut errors).await?;
    ensure!(status.success(), "the device failed: {output:?}, {errors}");
    // The number of denied connections depends on how long jitr takes.
    let is_denied = |line: &String| line == "denied";
    ensure!(output.first().is_some_and(is_denied), "the first connection was not denied: {output:?}");
    output.retain(|line| !is_denied(line));
    let expected = ["connected", "reported off", r#"delta {"power": "on"}"#, "remaining delta: null"];
    ensure!(output == expected, "the device printed {output:?}");
    ensure!(gate.outcome(&issued).await?.state == "admitted", "jitr did not admit it");

    let on = |item: &Item, name: &str| {
        let state = text(item, name).and_then(|state| serde_json::from_str::<Value>(state).ok());
        state == Some(json!({"power": "on"}))
    };
    gate.stage.record("lamp", "shadow#", |item| on(item, "desired") && on(item, "reported")).await?;
    Ok(())
}
