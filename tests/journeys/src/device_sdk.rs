//! The AWS IoT Device SDK for Python, as AWS ships it, on the local cloud.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_iotdataplane::primitives::Blob;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use local_cloud::pki::Certificate;
use local_cloud::isolation::{self, Inherit};
use local_cloud::{supervisor, tools};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

use crate::admission::Gate;
use crate::stage::{LIMIT, Suite};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let mut trial =
        suite.trial("a device on AWS's own SDK is admitted, does what its shadow asks, and shadow shows it", works);
    if tools::device_sdk().is_err() {
        eprintln!("the AWS IoT Device SDK is not installed (make test installs it); no device on it is tried");
        trial = trial.with_kind("needs the AWS IoT Device SDK").with_ignored_flag(true);
    }
    vec![trial]
}

/// As long as the device itself may take for all of its steps.
const PATIENCE: Duration = Duration::from_mins(3);

async fn works(suite: Arc<Suite>) -> Result<()> {
    let gate = Gate::new(&suite).await?;
    let issued = gate.authority.issue(&Certificate::named("lamp"))?;
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
    python.arg(tools::root().join("tests/tests/end_to_end/device_sdk.py"));
    python.args([cloud.mqtt.ip().to_string(), cloud.mqtt.port().to_string()]);
    python.args([put("ca.pem", &cloud.ca)?, put("crt.pem", &identity.certificate)?, put("key.pem", &identity.key)?]);
    python.arg("lamp");

    let mut device = tokio::process::Command::from(supervisor::command(&python)?);
    let mut device = device.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // The device ends when this is closed.
    let _pipe = device.stdin.take();
    let mut lines = BufReader::new(device.stdout.take().context("no standard output")?).lines();
    let mut said = Vec::new();
    let follow = async {
        while let Some(line) = lines.next_line().await? {
            if line == "reported off" {
                let desired = json!({"state": {"desired": {"power": "on"}}});
                let update = gate.stage.clients.iot_data.update_thing_shadow().thing_name("lamp");
                update.payload(Blob::new(desired.to_string())).send().await?;
            }
            said.push(line);
        }
        Ok::<_, anyhow::Error>(device.wait().await?)
    };
    let status = timeout(PATIENCE, follow).await;
    let status = status.with_context(|| format!("the device does not come to an end; it said {said:?}"))??;
    let mut errors = String::new();
    device.stderr.take().context("no standard error")?.read_to_string(&mut errors).await?;
    ensure!(status.success(), "the device failed; it said {said:?}, {errors}");
    // How often it is turned away while jitr works, nobody knows.
    ensure!(
        said.first().is_some_and(|line| line == "turned away"),
        "the first connection was not turned away: {said:?}"
    );
    said.retain(|line| line != "turned away");
    let expected = ["connected", "reported off", r#"asked for {"power": "on"}"#, "left to do: null"];
    ensure!(said == expected, "the device said {said:?}");
    ensure!(gate.outcome(&issued).await?.state == "admitted", "jitr did not admit it");

    let deadline = Instant::now() + LIMIT;
    loop {
        let item = gate.admissions.item("thing#lamp", "shadow#").await?.unwrap_or_default();
        let state = |name: &str| serde_json::from_str::<Value>(item.get(name)?.as_s().ok()?).ok();
        let (desired, reported) = (state("desired"), state("reported"));
        let on = Some(json!({"power": "on"}));
        if desired == on && reported == on {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the devices table says {desired:?} and {reported:?}");
        sleep(Duration::from_millis(100)).await;
    }
}
