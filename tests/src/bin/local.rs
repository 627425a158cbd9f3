//! Leaves a local cloud running with everything deployed, and tells what comes of each message.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tests::admission::{Admission, Admissions, certificate_of};
use tests::aws::Clients;
use tests::cloud::Cloud;
use tests::device::Identity;
use tests::isolation::{self, Account};
use tests::observe::{Arrived, Observer};
use tests::play::Played;
use tests::progress::Progress;
use tests::report::{self, Style};
use tests::scenario::Expect;
use tests::watch::{self, quote};
use tests::{command, deploy, keeper, tools};
use tokio::time::Instant;

/// Leaves a local cloud running with everything deployed, and tells what comes of each message. Ctrl-C ends it.
#[derive(Debug, Parser)]
#[command(name = "local")]
struct Options {
    /// Runs the functions with `cargo lambda watch` too, in their deployed environment, for `cargo lambda invoke`.
    #[arg(long)]
    watch: bool,

    /// Where `cargo lambda watch` listens for `cargo lambda invoke`.
    #[arg(long, default_value_t = INVOKE_PORT, requires = "watch")]
    invoke_port: u16,
}

/// Where `make invoke` looks for the emulator, as `cargo lambda invoke` does where it is told of no other port.
const INVOKE_PORT: u16 = 9000;

/// A device to try with, and what it says.
const DEVICES: [(&str, &str, &str); 2] = [
    (
        "G030JF055364XVRB",
        "iotbutton/G030JF055364XVRB",
        r#"{"serialNumber":"G030JF055364XVRB","batteryVoltage":"2000mV","clickType":"SINGLE"}"#,
    ),
    ("front-door", "doorbell/front-door", r#"{"msg":"Somebody is at the door!"}"#),
];

fn main() -> ExitCode {
    if let Some(code) = keeper::main() {
        return code;
    }
    let options = Options::parse();
    command::run(|| local(options))
}

async fn local(options: Options) -> Result<ExitCode> {
    tools::require_zips()?;
    let progress = Progress::new();
    let directory = command::Directory::new("local")?;
    let log = directory.path().join("cloud.log");
    let account = Account::first();
    let cloud = progress.step("Starting the local cloud", Cloud::start(&log, &[])).await?;
    let deployment = deploy::everything(&cloud, &account, "gatehouse", &[], progress).await?;
    let clients = Clients::new(cloud.endpoint, &account);
    let policy = deployment.output("DevicePolicy")?;
    let registering = async {
        std::fs::write(directory.path().join("ca.pem"), &cloud.ca)?;
        for (thing, _, _) in DEVICES {
            keep(&Identity::register(&clients, thing, policy).await?, directory.path())?;
        }
        Observer::start(&clients).await
    };
    let observer = progress.step("Registering devices", registering).await?;
    let mut emulator = None;
    if options.watch {
        let functions = functions(&deployment)?;
        let port = options.invoke_port;
        let start = watch::start(&cloud, &account, &clients, &functions, port, directory.path());
        emulator = Some(progress.step("Starting cargo lambda watch", start).await?);
    }

    print!("{}", introduction(&cloud, &account, directory.path()));
    if options.watch {
        print!("{}", watching(options.invoke_port));
    }
    println!("\nWhat comes of each message is shown here. Ctrl-C ends it all.\n");
    let observer = Arc::new(observer);
    let admissions = deployment.outputs.get("DevicesTable").map(|table| Admissions::new(&clients, table));
    let mut shown = 0;
    loop {
        let new = observer.until(Instant::now() + Duration::from_secs(1), |seen| {
            Some(seen.arrived(shown)).filter(|new| !new.is_empty())
        });
        for arrived in new.await.unwrap_or_default() {
            shown += 1;
            let (observer, admissions) = (Arc::clone(&observer), admissions.clone());
            tokio::spawn(async move { print!("{}", event(&observer, admissions.as_ref(), arrived).await) });
        }
        cloud.check()?;
        if emulator.as_mut().is_some_and(|emulator| emulator.ended().is_some()) {
            bail!("cargo lambda watch has ended");
        }
    }
}

/// Waits for what comes of a message, and tells it.
async fn event(observer: &Observer, admissions: Option<&Admissions>, arrived: Arrived) -> String {
    let rule = observer.rule(&arrived.topic);
    let limit = Duration::from_secs(if rule.is_some() { 15 } else { 0 });
    let deadline = Instant::now() + limit;
    let outcome = match (certificate_of(&arrived), admissions) {
        // The table says more than the function's log does.
        (Some(certificate), Some(admissions)) if rule.is_some() => {
            admissions.outcome(&certificate, deadline).await.ok().flatten().and_then(Admission::effect)
        }
        _ => observer.outcome(&arrived.trace_id, deadline).await,
    };
    let payload = String::from_utf8_lossy(arrived.payload.get(..200).unwrap_or(&arrived.payload)).into_owned();
    let played = Played {
        scenario: String::new(),
        step: 0,
        what: format!("{} {}", arrived.topic, payload.replace(char::is_control, " ")),
        thing: arrived.client_id,
        topic: Some(arrived.topic.clone()),
        event_id: Some(arrived.trace_id),
        rule: rule.map(|rule| rule.name.clone()),
        function: rule.and_then(|rule| rule.function.clone()),
        millis: outcome.as_ref().map(|outcome| outcome.at.saturating_sub(arrived.at)),
        effect: outcome.map(|outcome| outcome.effect),
        denied: false,
        expected: Expect::Nothing,
        wrong: None,
    };
    report::event(&played, Style::stdout())
}

fn introduction(cloud: &Cloud, account: &Account, directory: &Path) -> String {
    let file = |name: &str| quote(&directory.join(name).to_string_lossy());
    let mut out = format!(
        "\nThe local cloud is at   {}\nIts MQTT broker is at   {}\nThe CA file is          {}\n",
        cloud.endpoint.url(),
        cloud.mqtt,
        file("ca.pem"),
    );
    for (thing, topic, payload) in DEVICES {
        let _ = write!(
            out,
            "\nAs the thing {thing}:\n\n  mosquitto_pub -h {} -p {} --cafile {} --cert {} --key {} -i {thing} -q 1 -t {} -m {}\n",
            cloud.mqtt.ip(),
            cloud.mqtt.port(),
            file("ca.pem"),
            file(&format!("{thing}.crt")),
            file(&format!("{thing}.key")),
            quote(topic),
            quote(payload),
        );
    }
    let _ = writeln!(out, "\nFor the AWS CLI and the scripts in infra/ca:\n");
    for (name, value) in isolation::variables(cloud.endpoint, account) {
        let _ = writeln!(out, "  export {name}={}", quote(&value));
    }
    let _ = writeln!(out, "  export MQTT_HOST={} MQTT_PORT={}", cloud.mqtt.ip(), cloud.mqtt.port());
    let _ = writeln!(out, "  export MQTT_CA={}", file("ca.pem"));
    out
}

fn watching(port: u16) -> String {
    let invoke = match port {
        INVOKE_PORT => "make invoke FN=button EVENT=events/button/single.json".to_owned(),
        port => format!(
            "cargo lambda invoke --invoke-address 127.0.0.1 --invoke-port {port} button \
             --data-file events/button/single.json"
        ),
    };
    format!("\nTo invoke a function as its code is now:\n\n  {invoke}\n")
}

/// The functions' crates, and their names where they are deployed, from the stack's outputs.
fn functions(deployment: &deploy::Deployment) -> Result<Vec<(String, String)>> {
    let named = |function: String| {
        let deployed = deployment.function(&function)?.to_owned();
        Ok((function, deployed))
    };
    tools::functions()?.into_iter().map(named).collect()
}

/// Writes a device's certificate and key.
fn keep(identity: &Identity, directory: &Path) -> Result<()> {
    let thing = &identity.thing;
    std::fs::write(directory.join(format!("{thing}.crt")), &identity.certificate)?;
    let path = directory.join(format!("{thing}.key"));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(identity.key.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
