//! Deploys the shipped templates and zips to an account of the local cloud with the AWS CLI, exactly as to AWS.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cloud::Cloud;
use crate::isolation::{self, Account, Inherit, REGION};
use crate::progress::Progress;
use crate::supervisor;
use crate::tools;

const TIMEOUT: Duration = Duration::from_mins(2);

/// A deployed stack.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The stack's name.
    pub stack: String,
    /// The stack's outputs.
    pub outputs: BTreeMap<String, String>,
}

impl Deployment {
    /// Returns an output. A missing one is an error.
    pub fn output(&self, name: &str) -> Result<&str> {
        let found = self.outputs.get(name).map(String::as_str);
        found.ok_or_else(|| anyhow!("stack {} has no output {name}", self.stack))
    }

    /// Returns a function's deployed name by the name of its crate.
    pub fn function(&self, name: &str) -> Result<&str> {
        let is_it =
            |output: &str| output.strip_suffix("Function").is_some_and(|named| named.eq_ignore_ascii_case(name));
        let found = self.outputs.iter().find(|(output, _)| is_it(output)).map(|(_, deployed)| deployed.as_str());
        found.ok_or_else(|| anyhow!("stack {} has no output with the name of function {name}", self.stack))
    }
}

/// Deploys `infra/gatehouse.yaml` to an account. All names start with `prefix`.
///
/// `parameters` are added to those that the local cloud needs.
pub async fn deploy_gatehouse(
    cloud: &Cloud,
    account: &Account,
    prefix: &str,
    parameters: &[(&str, &str)],
    progress: Progress,
) -> Result<Deployment> {
    let template = progress.step("Packaging templates and functions", package(cloud, account)).await?;
    let mut all_parameters = vec![
        ("Prefix", prefix),
        // The local cloud uses plain HTTP.
        ("RequireTls", "false"),
        // Scenarios compress hours into seconds.
        ("ActuatorMinIntervalSeconds", "10"),
        ("PresenceGraceSeconds", "5"),
    ];
    all_parameters.extend(parameters);
    let deploying = async {
        let deployment = deploy_stack(cloud, account, &template, prefix, &all_parameters).await?;
        add_local_policies(cloud, account, &deployment).await?;
        Ok::<_, anyhow::Error>(deployment)
    };
    progress.step("Deploying", deploying).await
}

/// Actions that the local cloud checks against the resource `*` only, by the stack output that names the function.
const UNSCOPED_ACTIONS: [(&str, &[&str]); 3] = [
    // AWS has no such action: there, a batch needs `sqs:SendMessage`.
    ("ForwardFunction", &["sqs:SendMessageBatch"]),
    ("JitrFunction", &["iot:AttachPolicy", "iot:DescribeCACertificate"]),
    ("RevokeFunction", &["iot:DescribeCACertificate", "iot:UpdateCACertificate"]),
];

/// Adds a policy to the functions' roles that allows [`UNSCOPED_ACTIONS`].
///
/// The shipped policies name specific resources, which the local cloud cannot resolve for a few actions. The shipped
/// policies stay as they are, and this one exists in the local cloud only.
async fn add_local_policies(cloud: &Cloud, account: &Account, deployment: &Deployment) -> Result<()> {
    for (output, actions) in UNSCOPED_ACTIONS {
        let role = format!("{}-{REGION}", deployment.output(output)?);
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        });
        let (policy, name) = (policy.to_string(), "local-cloud-only");
        let put = ["iam", "put-role-policy", "--role-name", &role, "--policy-name", name, "--policy-document", &policy];
        aws(cloud, account, put).await?;
    }
    Ok(())
}

/// Uploads the templates, at every level of nesting, and the zips to a bucket of the account. Returns the packaged
/// root template.
async fn package(cloud: &Cloud, account: &Account) -> Result<PathBuf> {
    tools::require_zips()?;
    let packaged = cloud.scratch.join(format!("packaged-{}.yaml", account.id()));
    // Bucket names are shared by all accounts of a cloud.
    let bucket = format!("gatehouse-code-{}", account.id());
    aws(cloud, account, ["s3", "mb", &format!("s3://{bucket}")]).await?;
    let template = tools::root().join("infra/gatehouse.yaml");
    let arguments: [&OsStr; 8] = [
        "cloudformation".as_ref(),
        "package".as_ref(),
        "--template-file".as_ref(),
        template.as_ref(),
        "--s3-bucket".as_ref(),
        bucket.as_ref(),
        "--output-template-file".as_ref(),
        packaged.as_ref(),
    ];
    aws(cloud, account, arguments).await?;
    Ok(packaged)
}

/// Deploys a packaged template as a new stack and waits until it is complete.
pub async fn deploy_stack(
    cloud: &Cloud,
    account: &Account,
    template: &Path,
    stack: &str,
    parameters: &[(&str, &str)],
) -> Result<Deployment> {
    let template = template.to_str().context("the template path is not UTF-8")?;
    let overrides: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut arguments = vec!["cloudformation", "deploy", "--template-file", template, "--stack-name", stack];
    arguments.extend(["--capabilities", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]);
    // The CLI would poll the stack at intervals of 30 seconds. Here, a deployment takes one second.
    arguments.push("--no-execute-changeset");
    if !overrides.is_empty() {
        arguments.push("--parameter-overrides");
        arguments.extend(overrides.iter().map(String::as_str));
    }
    let output = aws(cloud, account, arguments).await?;
    let change_set = output
        .split_whitespace()
        .find(|word| word.starts_with("arn:") && word.contains(":changeSet/"))
        .ok_or_else(|| anyhow!("`aws cloudformation deploy` returned no change set:\n{output}"))?;
    aws(cloud, account, ["cloudformation", "execute-change-set", "--change-set-name", change_set]).await?;

    let deadline = Instant::now() + TIMEOUT;
    loop {
        let stack = describe(cloud, account, stack).await?;
        match stack.status.as_str() {
            "CREATE_COMPLETE" | "UPDATE_COMPLETE" => return Ok(stack.into()),
            status if status.ends_with("_IN_PROGRESS") && Instant::now() < deadline => {
                sleep(Duration::from_millis(200)).await;
            }
            status => {
                let reasons = reasons(cloud, account, &stack.name).await?;
                bail!("stack {} failed with {status}:\n{reasons}", stack.name);
            }
        }
    }
}

#[derive(Deserialize)]
struct Stack {
    #[serde(rename = "StackName")]
    name: String,
    #[serde(rename = "StackStatus")]
    status: String,
    #[serde(default, rename = "Outputs")]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    output_key: String,
    output_value: String,
}

impl From<Stack> for Deployment {
    fn from(stack: Stack) -> Self {
        let outputs = stack.outputs.into_iter().map(|output| (output.output_key, output.output_value)).collect();
        Self { stack: stack.name, outputs }
    }
}

async fn describe(cloud: &Cloud, account: &Account, stack: &str) -> Result<Stack> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Stacks {
        stacks: Vec<Stack>,
    }
    let output = aws(cloud, account, ["cloudformation", "describe-stacks", "--stack-name", stack]).await?;
    let found: Stacks =
        serde_json::from_str(&output).context("failed to parse the output of `aws cloudformation describe-stacks`")?;
    found.stacks.into_iter().next().ok_or_else(|| anyhow!("there is no stack {stack}"))
}

/// Lists the resources that failed, one per line, including those of stacks nested at any level.
async fn reasons(cloud: &Cloud, account: &Account, stack: &str) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Events {
        stack_events: Vec<Event>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Event {
        stack_name: String,
        logical_resource_id: String,
        #[serde(default)]
        physical_resource_id: String,
        resource_type: String,
        resource_status: String,
        #[serde(default)]
        resource_status_reason: String,
    }
    let mut lines = Vec::new();
    let mut stacks = vec![stack.to_owned()];
    while let Some(stack) = stacks.pop() {
        let arguments = ["cloudformation", "describe-stack-events", "--stack-name", &stack];
        let Ok(output) = aws(cloud, account, arguments).await else { continue };
        let events: Events = serde_json::from_str(&output).context("failed to parse the stack's events")?;
        for event in events.stack_events {
            let nested =
                event.resource_type == "AWS::CloudFormation::Stack" && event.physical_resource_id.starts_with("arn:");
            if nested && event.stack_name != event.logical_resource_id && !stacks.contains(&event.physical_resource_id)
            {
                stacks.push(event.physical_resource_id);
            }
            if event.resource_status.ends_with("_FAILED") {
                lines.push(format!("  {}: {}", event.logical_resource_id, event.resource_status_reason));
            }
        }
        // A stack lists itself in its events.
        stacks.retain(|next| *next != stack);
        if lines.len() > 50 {
            break;
        }
    }
    lines.dedup();
    Ok(if lines.is_empty() {
        "  no reason is known; see the log of the local cloud".to_owned()
    } else {
        lines.join("\n")
    })
}

/// Runs the AWS CLI against the local cloud and returns its standard output.
pub async fn aws<A: AsRef<OsStr>>(
    cloud: &Cloud,
    account: &Account,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let mut command = isolation::command(tools::aws()?, Inherit::Minimal, cloud.endpoint, account, &cloud.scratch);
    command.args(&arguments).args(["--output", "json"]);
    let mut cli = tokio::process::Command::from(supervisor::command(&command)?);
    let mut cli = cli.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("failed to run the AWS CLI")?;
    // The CLI is killed when this is closed.
    let pipe = cli.stdin.take();
    let output = cli.wait_with_output().await.context("failed to run the AWS CLI")?;
    drop(pipe);
    let shown = || arguments.iter().take(2).map(|part| part.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    ensure!(output.status.success(), "`aws {}` failed: {}", shown(), String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).with_context(|| format!("the output of `aws {}` is not UTF-8", shown()))
}
