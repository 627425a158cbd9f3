//! The stack is deployed, updated and deleted with `infra/stack`, as `make deploy` and `make destroy` do.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::aws::Clients;
use local_cloud::cloud::Cloud;
use local_cloud::deploy::{self, Deployment};
use local_cloud::device::Published;
use local_cloud::isolation::{self, Account, Inherit};
use local_cloud::observer::Observer;
use local_cloud::tools;
use serde_json::json;

use crate::events::click;
use crate::stage::Stage;
use crate::suite::Suite;
use crate::telemetry::{ensure_each_once, settled};

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![
        suite.trial("stack", "is_deployed_and_deleted_by_the_tool", life_cycle),
        suite.trial("stack", "upgrade_and_roll_back_lose_no_message", upgrade),
        suite.trial("stack", "invalid_settings_are_refused_before_a_build", invalid_settings),
    ]
}

/// Runs `infra/stack` for one stack in its own account.
struct Operator {
    cloud: Arc<Cloud>,
    account: Account,
    stack: &'static str,
}

impl Operator {
    async fn new(suite: &Suite, account: &str, stack: &'static str) -> Result<Self> {
        Ok(Self { cloud: Arc::clone(suite.cloud().await?), account: Account::new(account)?, stack })
    }

    /// Runs `infra/stack` with these parameters and environment variables.
    async fn run(&self, command: &str, parameters: &str, variables: &[(&str, &str)]) -> Result<Output> {
        let bin = tools::aws()?.parent().context("the AWS CLI has no directory")?.to_owned();
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([bin.clone()].into_iter().chain(std::env::split_paths(&paths)))?;
        let (cloud, account) = (&self.cloud, &self.account);
        let mut tool =
            isolation::command(bin.join("python"), Inherit::Minimal, cloud.endpoint, account, &cloud.scratch);
        tool.env("PATH", path).env("POLL_SECONDS", "0.2").env("PARAMETERS", parameters).envs(variables.iter().copied());
        tool.arg(tools::root().join("infra/stack")).args([command, "--stack", self.stack]);
        if command == "deploy" {
            tool.arg("--no-build");
        }
        tokio::process::Command::from(tool).kill_on_drop(true).output().await.context("failed to run infra/stack")
    }

    /// Deploys with these parameters, which must succeed. Returns the tool's standard error.
    async fn deploy(&self, parameters: &str) -> Result<String> {
        let output = self.run("deploy", parameters, &[("CONFIRM", "yes")]).await?;
        let text = String::from_utf8(output.stderr)?;
        ensure!(output.status.success(), "deploy failed: {text}");
        Ok(text)
    }

    async fn describe(&self) -> Result<Deployment> {
        Ok(deploy::describe(&self.cloud, &self.account, self.stack).await?.1)
    }
}

/// Ensures that the tool ended with this code, and that its messages contain this text.
fn ensure_ended(output: &Output, code: i32, text: &str) -> Result<()> {
    let messages = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "it ended with {}: {messages}", output.status);
    ensure!(messages.contains(text), "`{text}` is not in: {messages}");
    Ok(())
}

async fn life_cycle(suite: Arc<Suite>) -> Result<()> {
    let operator = Operator::new(&suite, "400000000000", "gatehouse-tool").await?;
    let clients = Clients::new(operator.cloud.endpoint, &operator.account);
    // There is no terminal to confirm on.
    let output = operator.run("deploy", "RequireTls=false LocalCloud=true", &[]).await?;
    ensure_ended(&output, 2, "set CONFIRM=yes")?;

    let pattern = r"^[a-z]+(-\d $x|'q')*$";
    let parameters =
        format!("RequireTls=false LocalCloud=true\n\tButtonSerialNumberPattern={pattern}\nMemorySize=128 ");
    operator.deploy(&parameters).await?;
    let deployment = operator.describe().await?;
    let button = deployment.function("button")?;
    let configuration = clients.lambda.get_function_configuration().function_name(button).send().await?;
    let variables = configuration.environment().and_then(|all| all.variables()).context("it has no environment")?;
    let deployed = variables.get("SERIAL_NUMBER_PATTERN").map(String::as_str);
    ensure!(deployed == Some(pattern), "the pattern arrived as {deployed:?}");

    // A parameter keeps its value if it is not set again.
    operator.deploy("ButtonSerialNumberPattern=.*").await?;
    let configuration = clients.lambda.get_function_configuration().function_name(button).send().await?;
    ensure!(configuration.memory_size() == Some(128), "the memory size is {:?}", configuration.memory_size());
    let event = click("deployed-with-the-tool", "thing-1").to_string();
    let invoked = clients.lambda.invoke().function_name(button).payload(event.into_bytes().into()).send().await?;
    let response = invoked.payload().map(|blob| serde_json::from_slice(blob.as_ref())).transpose()?;
    ensure!(response == Some(json!({"outcome": "done"})), "button returned {response:?}");

    // A device that still has the policy prevents the deletion of the stack.
    let identity = local_cloud::device::Identity::register(&clients, "front-gate", deployment.output("DevicePolicy")?);
    identity.await?;
    let output = operator.run("destroy", "", &[("CONFIRM", "yes")]).await?;
    ensure_ended(&output, 1, "is attached to arn:aws:iot:")?;
    let output = operator.run("destroy", "", &[("CONFIRM", "yes"), ("DETACH", "yes")]).await?;
    ensure_ended(&output, 0, "gatehouse-tool is deleted")?;
    let functions = clients.lambda.list_functions().send().await?;
    ensure!(functions.functions().is_empty(), "these functions are left: {:?}", functions.functions());
    let output = operator.run("destroy", "", &[("CONFIRM", "yes")]).await?;
    ensure_ended(&output, 0, "there is no stack gatehouse-tool")
}

async fn upgrade(suite: Arc<Suite>) -> Result<()> {
    let operator = Operator::new(&suite, "400000000001", "gatehouse-upgrade").await?;
    operator.deploy("RequireTls=false LocalCloud=true MemorySize=128").await?;
    let clients = Clients::new(operator.cloud.endpoint, &operator.account);
    let stage = Stage {
        cloud: Arc::clone(&operator.cloud),
        account: operator.account.clone(),
        observer: Observer::start(&clients).await?,
        deployment: operator.describe().await?,
        clients,
    };
    let mut device = stage.device("sensor-0").await?;
    let is_over = AtomicBool::new(false);
    let publishing = async {
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) {
            let reading = json!({"seq": count}).to_string();
            let (_, published) = device.publish("telemetry/sensor-0", &[reading.as_bytes()]).await?;
            ensure!(published == Published::Accepted, "AWS IoT denied a reading");
            count += 1;
        }
        Ok(count)
    };
    // To the next version and back: every function is replaced twice.
    let upgrading = async {
        let result = async {
            operator.deploy("MemorySize=256").await?;
            operator.deploy("MemorySize=128").await
        };
        let result = result.await;
        is_over.store(true, Ordering::Relaxed);
        result
    };
    let (count, upgraded) = tokio::join!(publishing, upgrading);
    let (count, _) = (count?, upgraded?);
    ensure!(count > 10, "only {count} readings were published meanwhile");
    ensure_each_once(&settled(&stage, count).await?, 1, count)
}

async fn invalid_settings(suite: Arc<Suite>) -> Result<()> {
    let operator = Operator::new(&suite, "400000000002", "gatehouse-invalid").await?;
    for (parameters, message) in [
        ("Memory=128", "'Memory=128' is not the name of a parameter"),
        ("MemorySize=128 Retention=5", "there is no parameter Retention"),
        ("MemorySize=12", "parameter MemorySize must be at least 128 and at most 10240"),
        ("OperatorEmail=me", "parameter OperatorEmail must be an email address"),
        ("BasicIngest=maybe", "parameter BasicIngest must be one of true, false"),
    ] {
        ensure_ended(&operator.run("deploy", parameters, &[("CONFIRM", "yes")]).await?, 2, message)?;
    }
    let stacks = deploy::describe(&operator.cloud, &operator.account, operator.stack).await;
    ensure!(stacks.is_err(), "there is a stack: {stacks:?}");
    Ok(())
}
