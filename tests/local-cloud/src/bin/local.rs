//! Runs a local cloud with everything deployed, and shows the effect of each message.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use local_cloud::admission::{Admission, Admissions, certificate_of};
use local_cloud::aws::Clients;
use local_cloud::cloud::Cloud;
use local_cloud::console::{App, Console, KEPT_EVENTS};
use local_cloud::device::Identity;
use local_cloud::emulator::{self, quote};
use local_cloud::isolation::{self, Account};
use local_cloud::observer::{EventPath, Journal, Observer, PublishedMessage, Rule, Timed, Wait};
use local_cloud::player::StepResult;
use local_cloud::progress::Progress;
use local_cloud::report::{self, Style};
use local_cloud::scenario::Expectation;
use local_cloud::{cli, deploy, supervisor, tools};
use tokio::time::{Instant, sleep};

/// Runs a local cloud with everything deployed, and shows the effect of each message, until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "local")]
struct Options {
    /// Also runs the functions with `cargo lambda watch`, in their deployed environment, for `cargo lambda invoke`.
    #[arg(long)]
    watch: bool,

    /// The port of `cargo lambda watch`.
    #[arg(long, default_value_t = INVOKE_PORT, requires = "watch")]
    invoke_port: u16,

    /// Prints the address of the console and nothing else.
    #[arg(long, conflicts_with = "watch")]
    console_only: bool,

    /// The port of the console; any free one by default.
    #[arg(long, default_value_t = 0)]
    console_port: u16,
}

/// The default port of `cargo lambda invoke`, and so of `make invoke`.
const INVOKE_PORT: u16 = 9000;

/// Lambda's pause before it retries an asynchronous invocation, in seconds; it doubles. In AWS it is a minute.
const RETRY_DELAY: &str = "6";

/// How often to check whether everything still runs.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for the effect of a message after the last observation.
const EFFECT_PATIENCE: Duration = Duration::from_secs(15);

/// Sample devices: thing, topic and payload.
const DEVICES: [(&str, &str, &str); 2] = [
    (
        "G030JF055364XVRB",
        "iotbutton/G030JF055364XVRB",
        r#"{"serialNumber":"G030JF055364XVRB","batteryVoltage":"2000mV","clickType":"SINGLE"}"#,
    ),
    ("front-door", "doorbell/front-door", r#"{"msg":"Somebody is at the door!"}"#),
];

fn main() -> ExitCode {
    if let Some(code) = supervisor::main() {
        return code;
    }
    let options = Options::parse();
    cli::run(|| local(options))
}

async fn local(options: Options) -> Result<ExitCode> {
    tools::require_zips()?;
    let progress = Progress::new();
    let directory = cli::RunDirectory::new("local")?;
    let log = directory.path().join("cloud.log");
    let account = Account::primary();
    // At DEBUG, functions log each event of a batch.
    // Retries are soon, but leave a person time to remove a fault first.
    let settings = [("AWS_LAMBDA_LOG_LEVEL", "DEBUG"), ("LAMBDA_ASYNC_RETRY_BASE_SECONDS", RETRY_DELAY)];
    let cloud = Arc::new(progress.step("Starting the local cloud", Cloud::start(&log, &settings)).await?);
    let deployment = deploy::deploy_gatehouse(&cloud, &account, "gatehouse", &[], progress).await?;
    let clients = Clients::new(cloud.endpoint, &account);
    let policy = deployment.output("DevicePolicy")?;
    let registering = async {
        std::fs::write(directory.path().join("ca.pem"), &cloud.ca)?;
        let mut identities = Vec::new();
        for (thing, _, _) in DEVICES {
            let identity = Identity::register(&clients, thing, policy).await?;
            write_identity(&identity, directory.path())?;
            identities.push(identity);
        }
        let observer = Observer::start_with_journal(&clients, KEPT_EVENTS).await?;
        Ok::<_, anyhow::Error>((Arc::new(observer), identities))
    };
    let (observer, identities) = progress.step("Registering devices", registering).await?;
    let gatehouse = std::env::current_exe()?.with_file_name("gatehouse");
    let app = App::new(Arc::clone(&cloud), account.clone(), deployment.clone(), Arc::clone(&observer), gatehouse);
    for identity in identities {
        app.add_device(identity).await;
    }
    let console = Console::start(app, options.console_port).await?;
    if options.console_only {
        println!("{}", console.url());
        loop {
            sleep(CHECK_INTERVAL).await;
            cloud.check()?;
        }
    }
    let mut emulator = None;
    if options.watch {
        let functions = functions(&deployment)?;
        let port = options.invoke_port;
        let start = emulator::start(&cloud, &account, &clients, &functions, port, directory.path());
        emulator = Some(progress.step("Starting cargo lambda watch", start).await?);
    }

    print!("{}", introduction(&cloud, &account, directory.path(), &console));
    if options.watch {
        print!("{}", watching(options.invoke_port));
    }
    println!(
        "\nConsole        {}\n\nThe effect of each message is shown here. Ctrl-C stops everything.\n",
        console.url()
    );
    let admissions = deployment.outputs.get("DevicesTable").map(|table| Admissions::new(&clients, table));
    let mut shown = 0;
    loop {
        let deadline = Instant::now() + CHECK_INTERVAL;
        let find = |seen: &Observer| Some(seen.messages(shown)).filter(|new| !new.is_empty());
        let new = observer.until_deadline(|_| deadline, find);
        for message in new.await.unwrap_or_default() {
            let (observer, admissions) = (Arc::clone(&observer), admissions.clone());
            tokio::spawn(async move { print!("{}", event(&observer, admissions.as_ref(), message).await) });
            shown += 1;
        }
        cloud.check()?;
        if emulator.as_mut().is_some_and(|emulator| emulator.ended().is_some()) {
            bail!("cargo lambda watch has ended");
        }
    }
}

/// Waits for the effects of a message, one per function that receives it, and reports them.
async fn event(observer: &Observer, admissions: Option<&Admissions>, message: PublishedMessage) -> String {
    let Some(rule) = observer.rule(&message.topic) else { return describe(&message, None, None, None) };
    // The table has more details than the log.
    if let (Some(certificate), Some(admissions)) = (certificate_of(&message), admissions) {
        let outcome = admissions.outcome(&certificate, observer).await.ok().flatten().and_then(Admission::effect);
        return describe(&message, Some(rule), rule.function.as_deref(), outcome);
    }
    let deadline = Wait::start(observer, EFFECT_PATIENCE);
    let path = |observer: &Observer| {
        let path = |journal: &Journal| journal.event(&message.trace_id).cloned();
        observer.read_journal(path).flatten()
    };
    let is_finished = |observer: &Observer| path(observer).filter(EventPath::is_finished);
    let found = observer.until_deadline(|_| deadline.deadline(), is_finished).await.or_else(|| path(observer));
    let functions = found.map(|event| event.functions).unwrap_or_default();
    let reports = functions.iter().map(|path| {
        let at = path.finished_at.unwrap_or(message.at);
        let outcome = path.outcome.clone().map(|effect| Timed { effect, at });
        describe(&message, Some(rule), Some(&path.function), outcome)
    });
    reports.collect()
}

/// Reports the outcome of a message in one function.
fn describe(message: &PublishedMessage, rule: Option<&Rule>, function: Option<&str>, outcome: Option<Timed>) -> String {
    let payload = String::from_utf8_lossy(message.payload.get(..200).unwrap_or(&message.payload)).into_owned();
    let result = StepResult {
        scenario: String::new(),
        step: 0,
        what: format!("{} {}", message.topic, payload.replace(char::is_control, " ")),
        thing: message.client_id.clone(),
        topic: Some(message.topic.clone()),
        event_id: Some(message.trace_id.clone()),
        rule: rule.map(|rule| rule.name.clone()),
        function: function.map(str::to_owned),
        millis: outcome.as_ref().map(|outcome| outcome.at.saturating_sub(message.at)),
        effect: outcome.map(|outcome| outcome.effect),
        denied: false,
        expected: Expectation::Nothing,
        problem: None,
    };
    report::event(&result, Style::stdout())
}

fn introduction(cloud: &Cloud, account: &Account, directory: &Path, console: &Console) -> String {
    let file = |name: &str| quote(&directory.join(name).to_string_lossy());
    let mut out = format!(
        "\nLocal cloud    {}\nMQTT broker    {}\nCA file        {}\n",
        cloud.endpoint.url(),
        cloud.mqtt,
        file("ca.pem"),
    );
    for (thing, topic, payload) in DEVICES {
        let _ = write!(
            out,
            "\nPublish as thing {thing}:\n\n  mosquitto_pub -h {} -p {} --cafile {} --cert {} --key {} -i {thing} -q 1 -t {} -m {}\n",
            cloud.mqtt.ip(),
            cloud.mqtt.port(),
            file("ca.pem"),
            file(&format!("{thing}.crt")),
            file(&format!("{thing}.key")),
            quote(topic),
            quote(payload),
        );
    }
    let _ = writeln!(out, "\nUse the AWS CLI and the operator tool:\n");
    for (name, value) in isolation::variables(cloud.endpoint, account) {
        let _ = writeln!(out, "  export {name}={}", quote(&value));
    }
    let _ = writeln!(out, "  export MQTT_HOST={} MQTT_PORT={}", cloud.mqtt.ip(), cloud.mqtt.port());
    let _ = writeln!(out, "  export MQTT_CA={}", file("ca.pem"));
    let _ = writeln!(out, "  export CONSOLE={} CONSOLE_TOKEN={}", console.origin(), console.token());
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
    format!("\nInvoke a function, rebuilt from its current code:\n\n  {invoke}\n")
}

/// Returns the crate name and the deployed name of each function.
fn functions(deployment: &deploy::Deployment) -> Result<Vec<(String, String)>> {
    let with_deployed_name = |function: String| {
        let deployed = deployment.function(&function)?.to_owned();
        Ok((function, deployed))
    };
    tools::functions()?.into_iter().map(with_deployed_name).collect()
}

/// Writes a device's certificate and key.
fn write_identity(identity: &Identity, directory: &Path) -> Result<()> {
    let thing = &identity.thing;
    std::fs::write(directory.join(format!("{thing}.crt")), &identity.certificate)?;
    let path = directory.join(format!("{thing}.key"));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(identity.key.as_bytes()).with_context(|| format!("failed to write {}", path.display()))
}
